//! Hears from our own nodes what linked clusters say of themselves.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use adit_config::config::Limits;
use adit_core::code::Code;
use adit_core::denied::{is_cluster_denied, nodes_of};
use adit_core::name::{ClusterName, NodeName};
use adit_core::shared_map::SharedMap;
use adit_core::snapshot::{Imports, Link, Snapshot, This};
use adit_kubernetes::controller::{Heard, Observer, Peers};
use adit_kubernetes::summary::NodesSummary;
use adit_pki::tls::system_clock;
use adit_pki::{Current, DenyList, Identity, PeerVerifier, Trust, TrustBundles, UnixTime};
use adit_transport::links::{LinkView, Serve, Served};
use adit_transport::peer::BootId;
use adit_transport::{Endpoints, Links, NodeSecret, OsNet, Stream, Tls, Worker};
use tokio::sync::watch;
use tokio::time::sleep;

use super::node_reports::{self, LastingSummary};
use crate::compose::publish;
use crate::process::node;
use crate::process::tuning::tuning;

/// How often the passing of time is looked at: what is heard grows old.
const TICK: Duration = Duration::from_secs(1);
/// A cluster that no hub of ours told of for so long is not known: they do every ten seconds.
const SILENCE: Duration = Duration::from_secs(30);
/// What is waited before ears that could not be had are tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// What saying goodbye may take.
const PARTING: Duration = Duration::from_millis(300);

/// Listens while there is an observer, and tells what is heard.
pub(super) async fn listen(
    mut observers: watch::Receiver<Option<Arc<Observer>>>,
    peers: watch::Sender<Arc<Peers>>,
    summary: watch::Sender<Arc<NodesSummary>>,
) {
    loop {
        let Some(observer) = observers.borrow_and_update().clone() else {
            peers.send_replace(Arc::default());
            summary.send_replace(Arc::default());
            if observers.changed().await.is_err() {
                return std::future::pending().await;
            }
            continue;
        };
        match Ears::new(&observer) {
            Ok(ears) => ears.hear(&mut observers, &peers, &summary).await,
            Err(error) => {
                tracing::error!(error, "cannot listen to our own nodes");
                sleep(AGAIN).await;
            }
        }
    }
}

/// What one identity of a cluster listens with.
struct Ears {
    /// The address that was wanted; what is bound may be of the other family.
    wanted: IpAddr,
    links: Links,
    identity: Arc<Current<Identity>>,
    verifier: Arc<PeerVerifier>,
    snapshot: watch::Sender<Arc<Snapshot>>,
}

impl Ears {
    fn new(observer: &Observer) -> Result<Self, String> {
        let identity = Arc::new(Current::new((*observer.identity).clone()));
        let verifier = Arc::new(PeerVerifier::new(trust(observer)?));
        let tls = Tls::new(&identity, &verifier, &system_clock()).map_err(|e| e.to_string())?;
        let secret = NodeSecret::random().map_err(|e| e.to_string())?;
        let mut boot = [0; 16];
        getrandom::fill(&mut boot).map_err(|e| e.to_string())?;
        let wanted = wildcard(observer);
        let bind = |any| {
            let (net, workers) = (Arc::new(OsNet), vec![Worker::current()]);
            let listen = [SocketAddr::new(any, 0)];
            Endpoints::bind(net, workers, &listen, &secret, tls.clone(), tuning(&Limits::default()))
        };
        let endpoints = bound(wanted, bind).map_err(|e| e.to_string())?;
        let (snapshot, snapshots) = watch::channel(Arc::new(believed(observer)));
        let mut local = node::local(BootId(boot));
        local.settings.idle = node_reports::IDLE_TIMEOUT;
        let links = Links::start(local, endpoints, snapshots, Arc::new(Deaf));
        Ok(Self { wanted, links, identity, verifier, snapshot })
    }

    /// Hears until the observer is another, or none.
    async fn hear(
        self,
        observers: &mut watch::Receiver<Option<Arc<Observer>>>,
        peers: &watch::Sender<Arc<Peers>>,
        summary: &watch::Sender<Arc<NodesSummary>>,
    ) {
        let mut asking = std::pin::pin!(node_reports::ask(
            self.links.clone(),
            self.snapshot.subscribe(),
            summary
        ));
        let mut summaries = summary.subscribe();
        let mut lasting = LastingSummary::default();
        let mut views = self.links.views();
        loop {
            let nodes = lasting.of(&summaries.borrow_and_update().clone());
            self.tell(peers, nodes);
            tokio::select! {
                () = &mut asking => break,
                changed = summaries.changed() => if changed.is_err() { break },
                changed = observers.changed() => {
                    let now = observers.borrow_and_update().clone().filter(|_| changed.is_ok());
                    let Some(now) = now.filter(|now| self.take(now)) else { break };
                    drop(now);
                }
                changed = views.changed() => if changed.is_err() { break },
                () = sleep(TICK) => {}
            }
        }
        self.links.drain(PARTING).await;
        observers.mark_changed();
    }

    /// Takes what has changed about the same cluster; false where it is another one, or one that these ears
    /// cannot hear.
    fn take(&self, observer: &Observer) -> bool {
        let now = believed(observer);
        let fits = observer.siblings.is_empty() || wildcard(observer) == self.wanted;
        let same = fits && self.snapshot.borrow().this == now.this;
        let Ok(trust) = trust(observer) else { return false };
        if same {
            self.identity.set((*observer.identity).clone());
            if trust.denied != self.verifier.trust().denied {
                self.verifier.set_trust(trust);
                self.links.recheck(Some(&self.verifier), UnixTime::now());
            } else {
                self.verifier.set_trust(trust);
            }
            publish(&self.snapshot, now);
        }
        same
    }

    fn tell(&self, peers: &watch::Sender<Arc<Peers>>, nodes: Arc<NodesSummary>) {
        let reporting = !self.links.status().siblings.is_empty();
        let heard = self.links.views().borrow().clone();
        let one = |view: &LinkView| Heard { view: view.view.clone(), live: !view.lost };
        // What nobody has confirmed or denied of late is not known, whatever it was.
        let told = heard.iter().filter(|(_, view)| view.received.elapsed() < SILENCE);
        let clusters: BTreeMap<_, _> =
            told.map(|(cluster, view)| (cluster.clone(), one(view))).collect();
        publish(peers, Peers { reporting, clusters, nodes });
    }
}

/// From where all of our nodes can be reached: the IPv6 wildcard does for both families, where there are both.
fn wildcard(observer: &Observer) -> IpAddr {
    if observer.siblings.values().flatten().any(SocketAddr::is_ipv6) {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    }
}

/// Binds what is wanted; a pod without IPv6 hears at least the nodes that have IPv4.
fn bound<T, E: fmt::Display>(
    wanted: IpAddr,
    bind: impl Fn(IpAddr) -> Result<T, E>,
) -> Result<T, E> {
    match bind(wanted) {
        Err(error) if wanted.is_ipv6() => {
            tracing::warn!(%error, "nodes are heard over IPv4 only");
            bind(Ipv4Addr::UNSPECIFIED.into())
        }
        done => done,
    }
}

/// Our own nodes alone are believed, but for those who are denied: what linked clusters say, they tell.
fn trust(observer: &Observer) -> Result<Trust, String> {
    let bundles = TrustBundles::new([observer.bundle.clone()]).map_err(|e| e.to_string())?;
    let config = &observer.config;
    let ours = |c: &ClusterName| (*c == config.cluster).then(|| config.trust_domain.clone());
    Ok(Trust { denied: DenyList::new(&config.denied, ours), ..bundles.into() })
}

/// What the observer believes: our own nodes, and with whom they are linked. It has no seeds, since it dials
/// nobody else.
fn believed(observer: &Observer) -> Snapshot {
    let config = &observer.config;
    let link = |l: &adit_config::cluster::ClusterLink| Link {
        cluster: l.cluster.clone(),
        trust_domain: l.trust_domain.clone(),
        seeds: Vec::new(),
    };
    let denied =
        |l: &&adit_config::cluster::ClusterLink| is_cluster_denied(&config.denied, &l.cluster);
    let links = config.links.iter().filter(|l| !denied(l));
    let mut siblings = observer.siblings.clone();
    for node in nodes_of(&config.denied, &config.cluster) {
        siblings.remove(node);
    }
    Snapshot {
        this: This {
            cluster: config.cluster.clone(),
            trust_domain: config.trust_domain.clone(),
            node: NodeName::controller(),
            advertise: Vec::new(),
        },
        siblings: siblings.into(),
        links: links.map(|l| (l.cluster.clone(), Arc::new(link(l)))).collect(),
        imports: Imports::default(),
        exports: SharedMap::new(),
        workloads: HashMap::new(),
        views: BTreeMap::new(),
        down: BTreeMap::new(),
        unproved: BTreeSet::new(),
        forbidden: BTreeSet::new(),
    }
}

/// Serves no stream: nobody has anything to ask of a controller.
struct Deaf;

impl Serve for Deaf {
    fn serve(&self, stream: Stream) -> Pin<Box<dyn Future<Output = Served> + Send>> {
        // What is dropped unfinished is reset.
        drop(stream);
        Box::pin(std::future::ready(Served::InVain(Code::ExportUnknown)))
    }
}

#[cfg(test)]
mod tests {
    use adit_pki::files;

    use super::*;
    use crate::process::testing::{Ca, now};

    fn observer(siblings: &[&str]) -> Observer {
        let folder = tempfile::tempdir().unwrap();
        Ca::of("edge").issue("e1", folder.path());
        let text = "cluster: edge\ntrustDomain: edge.example\n".to_owned();
        let config = adit_config::parse_cluster(&[("c.yaml".to_owned(), text)].into()).unwrap().0;
        let (identity, bundle) =
            files::load_node(folder.path(), &config.trust_domain, &BTreeSet::new(), now()).unwrap();
        let addresses = siblings.iter().map(|a| a.parse().unwrap()).collect();
        let siblings = BTreeMap::from([("e1".parse().unwrap(), addresses)]);
        Observer { config: Arc::new(config), identity: Arc::new(identity), bundle, siblings }
    }

    #[tokio::test]
    async fn nodes_of_another_family_take_other_ears() {
        let mut unknown = observer(&[]);
        unknown.siblings.clear();
        let ears = Ears::new(&unknown).unwrap();
        assert!(ears.take(&observer(&["172.18.0.2:7843"])));
        assert!(!ears.take(&observer(&["172.18.0.2:7843", "[fc00::2]:7843"])));
        assert!(ears.take(&unknown), "nobody is no reason");
    }

    #[test]
    fn without_ipv6_the_rest_is_heard() {
        let without = |any: IpAddr| if any.is_ipv6() { Err("no such family") } else { Ok(any) };
        let v4 = IpAddr::from(Ipv4Addr::UNSPECIFIED);
        assert_eq!(bound(Ipv6Addr::UNSPECIFIED.into(), without), Ok(v4));
        assert_eq!(
            bound(Ipv6Addr::UNSPECIFIED.into(), Ok::<_, &str>),
            Ok(Ipv6Addr::UNSPECIFIED.into())
        );
        assert_eq!(bound(v4, |_| Err::<(), _>("taken")), Err("taken"));
    }
}
