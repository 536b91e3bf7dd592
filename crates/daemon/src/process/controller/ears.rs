//! Hears from our own nodes what linked clusters say of themselves.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use adit_config::config::Limits;
use adit_core::name::NodeName;
use adit_core::snapshot::{Imports, Link, Snapshot, This};
use adit_kubernetes::controller::{Heard, Observer, Peers};
use adit_pki::tls::system_clock;
use adit_pki::{Current, Identity, PeerVerifier, Trust, TrustBundles};
use adit_transport::links::{LinkView, Serve};
use adit_transport::peer::BootId;
use adit_transport::{Endpoints, Links, NodeSecret, OsNet, Stream, Tls, Worker};
use tokio::sync::watch;
use tokio::time::sleep;

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
) {
    loop {
        let Some(observer) = observers.borrow_and_update().clone() else {
            peers.send_replace(Arc::default());
            if observers.changed().await.is_err() {
                return std::future::pending().await;
            }
            continue;
        };
        match Ears::new(&observer) {
            Ok(ears) => ears.hear(&mut observers, &peers).await,
            Err(error) => {
                tracing::error!(error, "cannot listen to our own nodes");
                sleep(AGAIN).await;
            }
        }
    }
}

/// What one identity of a cluster listens with.
struct Ears {
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
        let addresses = observer.siblings.values().flatten();
        // The IPv6 wildcard reaches both families, where there are both.
        let any: IpAddr = if addresses.clone().any(SocketAddr::is_ipv6) {
            Ipv6Addr::UNSPECIFIED.into()
        } else {
            Ipv4Addr::UNSPECIFIED.into()
        };
        let endpoints = Endpoints::bind(
            Arc::new(OsNet),
            vec![Worker::current()],
            &[SocketAddr::new(any, 0)],
            &secret,
            tls,
            tuning(&Limits::default()),
        )
        .map_err(|e| e.to_string())?;
        let (snapshot, snapshots) = watch::channel(Arc::new(believed(observer)));
        let local = node::local(BootId(boot));
        let links = Links::start(local, endpoints, snapshots, Arc::new(Deaf));
        Ok(Self { links, identity, verifier, snapshot })
    }

    /// Hears until the observer is another, or none.
    async fn hear(
        self,
        observers: &mut watch::Receiver<Option<Arc<Observer>>>,
        peers: &watch::Sender<Arc<Peers>>,
    ) {
        let mut views = self.links.views();
        loop {
            self.tell(peers);
            tokio::select! {
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

    /// Takes what has changed about the same cluster; false where it is another one.
    fn take(&self, observer: &Observer) -> bool {
        let now = believed(observer);
        let same = self.snapshot.borrow().this == now.this;
        let Ok(trust) = trust(observer) else { return false };
        if same {
            self.identity.set((*observer.identity).clone());
            self.verifier.set_trust(trust);
            publish(&self.snapshot, now);
        }
        same
    }

    fn tell(&self, peers: &watch::Sender<Arc<Peers>>) {
        let reporting = !self.links.status().siblings.is_empty();
        let heard = self.links.views().borrow().clone();
        let one = |view: &LinkView| Heard { view: view.view.clone(), live: !view.lost };
        // What nobody has confirmed or denied of late is not known, whatever it was.
        let told = heard.iter().filter(|(_, view)| view.received.elapsed() < SILENCE);
        let clusters: BTreeMap<_, _> =
            told.map(|(cluster, view)| (cluster.clone(), one(view))).collect();
        publish(peers, Peers { reporting, clusters });
    }
}

/// Our own nodes alone are believed: what linked clusters say, they tell.
fn trust(observer: &Observer) -> Result<Trust, String> {
    let bundles = TrustBundles::new([observer.bundle.clone()]).map_err(|e| e.to_string())?;
    Ok(Trust::from(bundles))
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
    Snapshot {
        this: This {
            cluster: config.cluster.clone(),
            trust_domain: config.trust_domain.clone(),
            node: NodeName::controller(),
            advertise: Vec::new(),
        },
        siblings: observer.siblings.clone(),
        links: config.links.iter().map(|l| (l.cluster.clone(), Arc::new(link(l)))).collect(),
        imports: Imports::default(),
        exports: BTreeMap::new(),
        workloads: HashMap::new(),
        views: BTreeMap::new(),
        down: BTreeSet::new(),
        forbidden: BTreeSet::new(),
    }
}

/// Serves no stream: nobody has anything to ask of a controller.
struct Deaf;

impl Serve for Deaf {
    fn serve(&self, stream: Stream) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        // What is dropped unfinished is reset.
        drop(stream);
        Box::pin(std::future::ready(()))
    }
}
