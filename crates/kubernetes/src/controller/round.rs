//! The rounds of an active controller: wait for a change, look at all, write what differs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_config::ClusterReport;
use adit_config::cluster::{ClusterConfig, Network};
use adit_core::name::{NodeName, ServiceName};
use adit_pki::UnixTime;
use futures_util::{StreamExt, stream};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::jiff::Timestamp;
use kube::{Client, ResourceExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::authority::{self, Ca, CaError};
use super::events::Reporter;
use super::lease::Candidate;
use super::network::{self, Move, Mover};
use super::plan::{Complaint, Key, Memory, Now, plan};
use super::signer::Unanswered;
use super::stores::Stores;
use super::write::{AT_ONCE, Failures, write};
use super::{ControllerState, Observer, Peers, Phase, Settings, signer};
use crate::api::{CA_SECRET, CONFIG_MAP, NAMESPACE, TRUST_BUNDLE_KEY};
use crate::tasks::Tasks;
use crate::watches::{Bell, Selection};

/// How long changes are gathered before a round begins.
const GATHER: Duration = Duration::from_millis(20);
/// A round begins after this time though nothing has changed: for what changes by time alone.
const IDLE: Duration = Duration::from_secs(30);
/// How long the CA is not asked for again after it could not be used.
const CA_PAUSE: Duration = Duration::from_secs(5);

/// The most requests for certificates that are answered in one round: what else there is must not wait.
const ANSWERS: usize = 50;
/// How long kagent's Agents are waited for when all else is known.
const AGENTS: Duration = Duration::from_secs(10);

/// All that rounds know from one to the next.
pub(super) struct Rounds<'a> {
    client: Client,
    bell: Bell,
    stores: Stores,
    observer: watch::Sender<Option<Arc<Observer>>>,
    peers: watch::Receiver<Arc<Peers>>,
    state: &'a watch::Sender<ControllerState>,
    config: Configuration,
    /// The CA in use; and the last that was, so that it can be put back.
    ca: Option<Arc<Ca>>,
    last_ca: Option<Arc<Ca>>,
    memory: Memory,
    mover: Mover,
    writes: Failures,
    answers: Failures,
    reporter: Reporter,
    /// Since when all is known that must be.
    known_since: Option<Instant>,
}

/// The configuration as it was last good, and as it is written.
#[derive(Debug, Default)]
struct Configuration {
    data: Option<BTreeMap<String, String>>,
    good: Option<Arc<ClusterConfig>>,
    unnamed: bool,
    trouble: Option<String>,
}

impl Configuration {
    /// Reads it again where it has changed.
    fn read(&mut self, data: BTreeMap<String, String>) {
        if self.data.as_ref() == Some(&data) {
            return;
        }
        (self.unnamed, self.trouble) = match crate::configuration::read(&data) {
            Ok((config, report)) => {
                for line in report.to_string().lines() {
                    tracing::warn!("{line}");
                }
                self.good = Some(Arc::new(config));
                (false, None)
            }
            Err(report) => (report.unnamed, Some(first_of(&report))),
        };
        self.data = Some(data);
    }
}

fn first_of(report: &ClusterReport) -> String {
    let mut errors = report.errors();
    match errors.next() {
        Some((fragment, problem)) => {
            let more = match errors.count() {
                0 => String::new(),
                more => format!(" (and {more} more)"),
            };
            format!("{}: {problem}{more}", fragment.location(problem))
        }
        None => ClusterReport::UNNAMED.into(),
    }
}

/// When the next round must begin at the latest, and whether it need not wait for more changes.
struct Next {
    at: Option<Instant>,
    at_once: bool,
}

impl<'a> Rounds<'a> {
    /// Rounds over what some of `tasks` watch.
    pub(super) fn new(
        client: Client,
        settings: &Settings,
        observer: watch::Sender<Option<Arc<Observer>>>,
        peers: watch::Receiver<Arc<Peers>>,
        state: &'a watch::Sender<ControllerState>,
        tasks: &mut Tasks,
    ) -> Self {
        let bell = Bell::default();
        let stores = Stores::watch(&client, &bell, tasks);
        let reporter = Reporter::new(client.clone(), settings.pod_name.clone(), tasks);
        Self {
            client,
            bell,
            stores,
            observer,
            peers,
            state,
            config: Configuration::default(),
            ca: None,
            last_ca: None,
            memory: Memory::default(),
            mover: Mover::default(),
            writes: Failures::default(),
            answers: Failures::default(),
            reporter,
            known_since: None,
        }
    }

    /// Runs until dropped.
    pub(super) async fn run(mut self, lease: &Candidate) {
        let mut changed = self.bell.listen();
        loop {
            changed.borrow_and_update();
            let now = Instant::now();
            let next = self.round(lease).await;
            if next.at_once {
                continue;
            }
            let latest = next.at.map_or(now + IDLE, |at| at.min(now + IDLE));
            tokio::select! {
                _ = changed.changed() => sleep(GATHER).await,
                heard = self.peers.changed() => match heard {
                    Ok(()) => sleep(GATHER).await,
                    // The process has stopped listening; it is about to end.
                    Err(_) => sleep_until(latest).await,
                },
                () = sleep_until(latest) => {}
            }
        }
    }

    async fn round(&mut self, lease: &Candidate) -> Next {
        if !lease.is_held() {
            return Next { at: Some(Instant::now() + GATHER), at_once: false };
        }
        let mut complaints = Vec::new();
        if self.stores.config.was_listed() {
            let data = self.stores.config.get(Some(NAMESPACE), CONFIG_MAP);
            self.config.read(data.and_then(|map| map.data.clone()).unwrap_or_default());
        }
        // Certificates come first, and wait for nothing else: they end.
        let ca_trouble = self.authority().await.err().map(|error| {
            let trouble = error.to_string();
            complaints.push(about(CA_SECRET, "Secret", error.reason(), &trouble));
            trouble
        });
        let answered = self.sign(lease, &mut complaints).await;
        let at = Instant::now();
        let again = ca_trouble.as_ref().map(|_| at + CA_PAUSE);
        let again = self.answers.next(at).into_iter().chain(again).min();
        let wait = |at| Next { at: again.into_iter().chain(at).min(), at_once: answered > 0 };

        let unknown = self.stores.unknown();
        if !unknown.is_empty() {
            let stale = self.stores.stale().map(|why| format!(": {why}")).unwrap_or_default();
            let trouble = format!("waiting for the API server's {}{stale}", unknown.join(", "));
            self.reporter.tell(&complaints);
            self.tell(Phase::Reading, ca_trouble.or(Some(trouble)));
            return wait(None);
        }
        let agents_trouble = self.stores.agents_trouble();
        let end = *self.known_since.get_or_insert(at) + AGENTS;
        if let Some(trouble) = agents_trouble.clone().filter(|_| at < end) {
            self.reporter.tell(&complaints);
            self.tell(Phase::Reading, ca_trouble.or(Some(trouble)));
            return wait(Some(end));
        }
        if let Some(trouble) = self.config.trouble.as_ref().filter(|_| !self.config.unnamed) {
            complaints.push(about(CONFIG_MAP, "ConfigMap", "BadConfiguration", trouble));
        }
        let Some(config) = self.config.good.clone() else {
            self.reporter.tell(&complaints);
            self.tell(Phase::Waiting, ca_trouble.or_else(|| self.config.trouble.clone()));
            return wait(None);
        };
        let (moves, in_force) = self.network(&config.network).await;
        let config = match in_force {
            Some(network) => Arc::new(ClusterConfig { network, ..(*config).clone() }),
            None => config,
        };
        self.publish(&config);
        complaints
            .extend(moves.note().map(|n| about(CONFIG_MAP, "ConfigMap", "NetworkChanges", n)));

        let world = self.stores.world();
        let peers = self.peers.borrow_and_update().clone();
        let now = Now {
            config: &config,
            trouble: self.config.trouble.as_deref(),
            peers: &peers,
            moves,
            failing: self.writes.failing(),
            at: Instant::now(),
            clock: Timestamp::now(),
        };
        let plan = plan(&world, &now, &mut self.memory);
        tracing::debug!(writes = plan.writes.len(), took = ?at.elapsed(), "planned");
        let names = plan.watched.iter().map(ServiceName::name);
        self.stores.others.select(Selection::slices_of(names));
        let failures = &mut self.writes;
        let written = write(&self.client, &self.stores, lease, plan.writes, failures).await;
        tracing::debug!(written, took = ?at.elapsed(), "wrote");
        complaints.extend(plan.complaints);
        self.reporter.tell(&complaints);
        let trouble = ca_trouble.or_else(|| self.config.trouble.clone());
        let trouble = trouble.or_else(|| moves.note().map(str::to_owned));
        let trouble = trouble.or_else(|| self.writes.worst()).or_else(|| self.stores.stale());
        self.tell(Phase::Active, trouble.or(agents_trouble).or(plan.trouble));
        let again =
            again.into_iter().chain(plan.wake).chain(self.writes.next(Instant::now())).min();
        Next { at: again, at_once: written + answered > 0 }
    }

    /// Has the CA; says why not.
    async fn authority(&mut self) -> Result<(), CaError> {
        if !self.stores.can_sign() {
            return Ok(());
        }
        // Without a configuration, and without what was published before, nothing is made or published.
        let good = self.config.good.as_ref().filter(|_| self.stores.trust.was_listed());
        let (domain, now) = (good.map(|config| &config.trust_domain), UnixTime::now());
        self.ca = None;
        let before = self.last_ca.as_ref();
        let ca = Ca::current(before, &self.client, &self.stores, domain, now).await?;
        self.ca.clone_from(&ca);
        let Some(ca) = ca else { return Ok(()) };
        if domain.is_some() {
            let mut data = authority::record(&self.stores);
            data.insert(TRUST_BUNDLE_KEY.into(), ca.bundle.to_pem());
            authority::publish(&self.client, &self.stores, data).await?;
        }
        self.last_ca = Some(ca);
        Ok(())
    }

    /// Looks whether the nodes have the network that the configuration says, and keeps the record of it; gives the
    /// one that counts now, where it is another.
    async fn network(&mut self, wanted: &Network) -> (Move, Option<Network>) {
        let record = authority::record(&self.stores);
        let pods = self.stores.node_pods();
        let (moves, fresh) = self.mover.step(&record, wanted, &pods, Instant::now());
        let in_force = network::in_force(&fresh, wanted);
        // Without a bundle there is nothing to keep it beside, and no node that has begun.
        if fresh != record
            && record.contains_key(TRUST_BUNDLE_KEY)
            && let Err(error) = authority::publish(&self.client, &self.stores, fresh).await
        {
            tracing::warn!(%error, "what network the nodes have is not on record yet");
        }
        (moves, in_force)
    }

    /// Answers nodes' requests, some at a time; returns how many were answered.
    async fn sign(&mut self, lease: &Candidate, complaints: &mut Vec<Complaint>) -> usize {
        let Some(ca) = &self.ca else { return 0 };
        let key =
            |name: String| Key { kind: "CertificateSigningRequest".into(), namespace: None, name };
        let mut queue = signer::in_order(self.stores.requests.objects());
        let open: BTreeSet<String> = queue.iter().map(|(r, _)| r.name_any()).collect();
        self.answers.retain(|key| open.contains(&key.name));
        let mut answered = 0;
        queue.retain(|(r, _)| self.answers.allow(&key(r.name_any()), Instant::now()));
        let (client, stores, authority) = (&self.client, &self.stores, &ca.authority);
        let mut answers = stream::iter(queue.into_iter().take(ANSWERS))
            .map(|(request, superseded)| async move {
                let held = lease.is_held();
                let answer = signer::answer(client, stores, authority, &request, superseded);
                (request.name_any(), if held { Some(answer.await) } else { None })
            })
            .buffer_unordered(AT_ONCE);
        while let Some((name, answer)) = answers.next().await {
            let (key, Some(answer)) = (key(name), answer) else { continue };
            answered += usize::from(answer.is_ok());
            let result = match answer {
                Ok(Some(why)) => {
                    let mut complaint = about(&key.name, &key.kind, "Denied", &why);
                    complaint.about.api_version = Some("certificates.k8s.io/v1".into());
                    complaint.about.namespace = None;
                    complaints.push(complaint);
                    Ok(())
                }
                Ok(None) => Ok(()),
                Err(Unanswered::Api(error)) => Err(error),
                Err(Unanswered::Ca(error)) => {
                    let error = CaError::from(error);
                    let complaint = about(CA_SECRET, "Secret", error.reason(), &error.to_string());
                    complaints.push(complaint);
                    Err(kube::Error::Service(error.into()))
                }
            };
            self.answers.note(key, result, Instant::now());
        }
        answered
    }

    /// Tells the process whom to listen to, where that has changed.
    fn publish(&self, config: &Arc<ClusterConfig>) {
        let fresh = self.ca.as_ref().map(|ca| {
            let port = config.network.port;
            let siblings = self.stores.nodes().into_iter().map(|(node, addresses)| {
                (node, addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
            });
            Arc::new(Observer {
                config: config.clone(),
                identity: ca.identity.clone(),
                bundle: ca.bundle.clone(),
                siblings: siblings.collect::<BTreeMap<NodeName, Vec<SocketAddr>>>(),
            })
        });
        // What was published stays while the CA cannot be asked for.
        let Some(fresh) = fresh else { return };
        self.observer.send_if_modified(|now| {
            let same = now.as_ref().is_some_and(|now| {
                now.config == fresh.config
                    && Arc::ptr_eq(&now.identity, &fresh.identity)
                    && now.siblings == fresh.siblings
            });
            *now = Some(fresh);
            !same
        });
    }

    fn tell(&self, phase: Phase, trouble: Option<String>) {
        let fresh = ControllerState { phase, trouble };
        self.state.send_if_modified(|now| {
            let differs = *now != fresh;
            *now = fresh;
            differs
        });
    }
}

/// A complaint about an object in our own namespace.
fn about(name: &str, kind: &str, reason: &str, note: &str) -> Complaint {
    let about = ObjectReference {
        api_version: Some("v1".into()),
        kind: Some(kind.into()),
        namespace: Some(NAMESPACE.into()),
        name: Some(name.into()),
        ..ObjectReference::default()
    };
    Complaint { about, reason: reason.into(), note: note.into() }
}
