//! Observes linked clusters by way of our own nodes, which pass on what those clusters say of themselves.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use adit_config::config::LimitsConfig;
use adit_core::code::Code;
use adit_core::deny_list::{denied_nodes, is_cluster_denied};
use adit_core::name::{ClusterName, NodeName};
use adit_core::shared_map::SharedMap;
use adit_core::snapshot::{Imports, Link, LocalNode, Snapshot};
use adit_kubernetes::controller::{LinkedClusters, ObservedPeer, ObserverConfig};
use adit_kubernetes::summary::NodesSummary;
use adit_pki::tls::system_clock;
use adit_pki::{Current, DenyList, Identity, PeerVerifier, Trust, TrustBundles, UnixTime};
use adit_transport::links::{ReceivedView, ServeOutcome, ServeStream};
use adit_transport::peer::BootId;
use adit_transport::{Endpoints, Links, NodeSecret, OsUdpNetwork, PeerStream, Tls, Worker};
use tokio::sync::watch;
use tokio::time::sleep;

use super::node_reports::{self, DebouncedSummary};
use crate::process::link_context::link_context;
use crate::process::tuning::tuning;
use adit_runtime::publish_if_changed;

/// Silent clusters are looked for this often: views grow old without an event.
const AGE_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// A cluster whose view no hub of ours has confirmed for this long is not known: they do every ten seconds.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(30);
/// The pause before an observer that could not be started is tried again.
const RETRY_BACKOFF: Duration = Duration::from_secs(5);
/// Closing the connections may take this long, from when another identity or none is to be observed with.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(300);

/// Observes while there is a configuration to observe with, and publishes the views and the nodes' reports.
pub(super) async fn observe(
    mut observers: watch::Receiver<Option<Arc<ObserverConfig>>>,
    peers: watch::Sender<Arc<LinkedClusters>>,
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
        match SiblingObserver::new(&observer) {
            Ok(observer) => observer.run_until_replaced(&mut observers, &peers, &summary).await,
            Err(error) => {
                tracing::error!(error, "cannot listen to our own nodes");
                sleep(RETRY_BACKOFF).await;
            }
        }
    }
}

/// The connections of the controller, under one identity of its cluster.
struct SiblingObserver {
    /// The address that was wanted; what is bound may be of the other family.
    wanted: IpAddr,
    links: Links,
    identity: Arc<Current<Identity>>,
    verifier: Arc<PeerVerifier>,
    snapshot: watch::Sender<Arc<Snapshot>>,
}

impl SiblingObserver {
    fn new(observer: &ObserverConfig) -> Result<Self, String> {
        let identity = Arc::new(Current::new((*observer.identity).clone()));
        let verifier = Arc::new(PeerVerifier::new(trust(observer)?));
        let tls = Tls::new(&identity, &verifier, &system_clock()).map_err(|e| e.to_string())?;
        let secret = NodeSecret::random().map_err(|e| e.to_string())?;
        let mut boot = [0; 16];
        getrandom::fill(&mut boot).map_err(|e| e.to_string())?;
        let wanted = wildcard(observer);
        let bind = |any| {
            let (net, workers) = (Arc::new(OsUdpNetwork), vec![Worker::current()]);
            let listen = [SocketAddr::new(any, 0)];
            Endpoints::bind(
                net,
                workers,
                &listen,
                &secret,
                tls.clone(),
                tuning(&LimitsConfig::default()),
            )
        };
        let endpoints = bind_any(wanted, bind).map_err(|e| e.to_string())?;
        let (snapshot, snapshots) = watch::channel(Arc::new(observer_snapshot(observer)));
        let mut local = link_context(BootId(boot));
        local.settings.idle_timeout = node_reports::IDLE_TIMEOUT;
        let links = Links::start(local, endpoints, snapshots, Arc::new(RejectStreams));
        Ok(Self { wanted, links, identity, verifier, snapshot })
    }

    /// Publishes until the configuration is one for another observer, or none.
    async fn run_until_replaced(
        self,
        observers: &mut watch::Receiver<Option<Arc<ObserverConfig>>>,
        peers: &watch::Sender<Arc<LinkedClusters>>,
        summary: &watch::Sender<Arc<NodesSummary>>,
    ) {
        let mut asking = std::pin::pin!(node_reports::poll_nodes(
            self.links.clone(),
            self.snapshot.subscribe(),
            summary
        ));
        let mut summaries = summary.subscribe();
        let mut lasting = DebouncedSummary::default();
        let mut views = self.links.views();
        loop {
            let nodes = lasting.update(&summaries.borrow_and_update().clone());
            self.publish(peers, nodes);
            tokio::select! {
                () = &mut asking => break,
                changed = summaries.changed() => if changed.is_err() { break },
                changed = observers.changed() => {
                    let now = observers.borrow_and_update().clone().filter(|_| changed.is_ok());
                    let Some(now) = now.filter(|now| self.update(now)) else { break };
                    drop(now);
                }
                changed = views.changed() => if changed.is_err() { break },
                () = sleep(AGE_CHECK_INTERVAL) => {}
            }
        }
        self.links.drain(CLOSE_TIMEOUT).await;
        observers.mark_changed();
    }

    /// Applies a new configuration of the same cluster. False if this observer cannot: the cluster's name or trust
    /// domain is another, its trust bundle is not valid, or the nodes need another address family. The caller then
    /// starts a new observer.
    fn update(&self, observer: &ObserverConfig) -> bool {
        let snapshot = observer_snapshot(observer);
        let fits = observer.siblings.is_empty() || wildcard(observer) == self.wanted;
        let same = fits && self.snapshot.borrow().local == snapshot.local;
        let Ok(trust) = trust(observer) else { return false };
        if same {
            self.identity.set((*observer.identity).clone());
            if trust.denied != self.verifier.trust().denied {
                self.verifier.set_trust(trust);
                self.links.recheck_certificates(Some(&self.verifier), UnixTime::now());
            } else {
                self.verifier.set_trust(trust);
            }
            publish_if_changed(&self.snapshot, Arc::new(snapshot));
        }
        same
    }

    fn publish(&self, peers: &watch::Sender<Arc<LinkedClusters>>, nodes: Arc<NodesSummary>) {
        let reporting = !self.links.status().siblings.is_empty();
        let views = self.links.views().borrow().clone();
        let one = |view: &ReceivedView| ObservedPeer { view: view.view.clone(), live: !view.lost };
        // A view that nobody has confirmed of late says nothing, whatever it was.
        let fresh = views.iter().filter(|(_, view)| view.received.elapsed() < SILENCE_TIMEOUT);
        let clusters: BTreeMap<_, _> =
            fresh.map(|(cluster, view)| (cluster.clone(), one(view))).collect();
        publish_if_changed(peers, Arc::new(LinkedClusters { reporting, clusters, nodes }));
    }
}

/// From where all of our nodes can be reached: the IPv6 wildcard does for both families, if there are both.
fn wildcard(observer: &ObserverConfig) -> IpAddr {
    if observer.siblings.values().flatten().any(SocketAddr::is_ipv6) {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    }
}

/// Binds what is wanted; a pod without IPv6 hears at least the nodes that have IPv4.
fn bind_any<T, E: fmt::Display>(
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
fn trust(observer: &ObserverConfig) -> Result<Trust, String> {
    let bundles = TrustBundles::new([observer.bundle.clone()]).map_err(|e| e.to_string())?;
    let config = &observer.config;
    let domain_of = |c: &ClusterName| (*c == config.cluster).then(|| config.trust_domain.clone());
    Ok(Trust { denied: DenyList::new(&config.denied, domain_of), ..bundles.into() })
}

/// The snapshot of the observer: our own nodes, and their links. It has no seeds, because it dials
/// nobody else.
fn observer_snapshot(observer: &ObserverConfig) -> Snapshot {
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
    for node in denied_nodes(&config.denied, &config.cluster) {
        siblings.remove(node);
    }
    Snapshot {
        local: LocalNode {
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
        never_answered: BTreeSet::new(),
        forbidden: BTreeSet::new(),
    }
}

/// Serves no stream: nobody has anything to ask of a controller.
struct RejectStreams;

impl ServeStream for RejectStreams {
    fn serve(&self, stream: PeerStream) -> Pin<Box<dyn Future<Output = ServeOutcome> + Send>> {
        // What is dropped unfinished is reset.
        drop(stream);
        Box::pin(std::future::ready(ServeOutcome::InVain(Code::ExportUnknown)))
    }
}

#[cfg(test)]
mod tests {
    use adit_pki::files;

    use super::*;
    use crate::testing::{TestCa, now};

    fn observer(siblings: &[&str]) -> ObserverConfig {
        let folder = tempfile::tempdir().unwrap();
        TestCa::new("edge").issue("e1", folder.path());
        let text = "cluster: edge\ntrustDomain: edge.example\n".to_owned();
        let config = adit_config::parse_cluster(&[("c.yaml".to_owned(), text)].into()).unwrap().0;
        let (identity, bundle) =
            files::load_node(folder.path(), &config.trust_domain, &BTreeSet::new(), now()).unwrap();
        let addresses = siblings.iter().map(|a| a.parse().unwrap()).collect();
        let siblings = BTreeMap::from([("e1".parse().unwrap(), addresses)]);
        ObserverConfig { config: Arc::new(config), identity: Arc::new(identity), bundle, siblings }
    }

    #[tokio::test]
    async fn nodes_of_another_family_take_another_observer() {
        let mut unknown = observer(&[]);
        unknown.siblings.clear();
        let ears = SiblingObserver::new(&unknown).unwrap();
        assert!(ears.update(&observer(&["172.18.0.2:7843"])));
        assert!(!ears.update(&observer(&["172.18.0.2:7843", "[fc00::2]:7843"])));
        assert!(ears.update(&unknown), "nobody is no reason");
    }

    #[test]
    fn without_ipv6_the_rest_is_observed() {
        let without = |any: IpAddr| if any.is_ipv6() { Err("no such family") } else { Ok(any) };
        let v4 = IpAddr::from(Ipv4Addr::UNSPECIFIED);
        assert_eq!(bind_any(Ipv6Addr::UNSPECIFIED.into(), without), Ok(v4));
        assert_eq!(
            bind_any(Ipv6Addr::UNSPECIFIED.into(), Ok::<_, &str>),
            Ok(Ipv6Addr::UNSPECIFIED.into())
        );
        assert_eq!(bind_any(v4, |_| Err::<(), _>("taken")), Err("taken"));
    }
}
