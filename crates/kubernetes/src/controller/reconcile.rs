//! The loop of an active controller: wait for a change, read everything, write the differences.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_config::cluster::{ClusterConfig, NetworkConfig};
use adit_core::name::NodeName;
use adit_pki::UnixTime;
use adit_runtime::Tasks;
use futures_util::{StreamExt, stream};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::jiff::Timestamp;
use kube::{Client, ResourceExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::ca::{self, CaError, ClusterCa};
use super::config_state::ConfigState;
use super::events::EventReporter;
use super::leader::LeaderElection;
use super::network_migration::{self, MigrationPhase, NetworkMigration};
use super::peers::{LinkedClusters, ObserverConfig};
use super::phase::{ControllerPhase, ControllerState};
use super::plan::{ObjectWarning, PlanInput, ResourceKey, WritePlan};
use super::planner::{PlanHistory, make_plan};
use super::signer::{self, CsrError};
use super::stores::ControllerStores;
use super::write::{MAX_CONCURRENT, WriteBackoffs, write_plan};
use crate::api::{CA_SECRET, CONFIG_MAP, NAMESPACE, TRUST_BUNDLE_KEY};
use crate::store::{ChangeSignal, Selector};

/// From a change to the pass that handles it: changes in between share the pass.
const BATCH_DELAY: Duration = Duration::from_millis(20);
/// From one pass to the next though nothing has changed: for what depends on time alone.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(30);
/// From a failure of the CA to the next attempt.
const CA_BACKOFF: Duration = Duration::from_secs(5);

/// Most certificate requests that are answered in one pass: everything else must not wait.
const MAX_ANSWERS: usize = 50;
/// Longest wait for kagent's Agents, from when everything else is known.
const AGENTS_TIMEOUT: Duration = Duration::from_secs(10);

/// State of the controller from one pass to the next.
pub(super) struct Reconciler<'a> {
    client: Client,
    changed: ChangeSignal,
    stores: ControllerStores,
    observer: watch::Sender<Option<Arc<ObserverConfig>>>,
    peers: watch::Receiver<Arc<LinkedClusters>>,
    state: &'a watch::Sender<ControllerState>,
    config: ConfigState,
    /// The CA in use, and the last one that was, so that it can be restored.
    ca: Option<Arc<ClusterCa>>,
    last_ca: Option<Arc<ClusterCa>>,
    history: PlanHistory,
    migration: NetworkMigration,
    write_failures: WriteBackoffs,
    answer_failures: WriteBackoffs,
    reporter: EventReporter,
    /// Since when everything required is known.
    known_since: Option<Instant>,
}

/// When the next pass must begin at the latest, and whether it may wait for more changes.
struct NextPass {
    at: Option<Instant>,
    at_once: bool,
}

impl<'a> Reconciler<'a> {
    /// Returns a reconciler over stores that some of `tasks` keep up to date; its Events are written in the name of
    /// `instance`.
    pub(super) fn new(
        client: Client,
        instance: String,
        observer: watch::Sender<Option<Arc<ObserverConfig>>>,
        peers: watch::Receiver<Arc<LinkedClusters>>,
        state: &'a watch::Sender<ControllerState>,
        tasks: &mut Tasks,
    ) -> Self {
        let changed = ChangeSignal::default();
        let stores = ControllerStores::watch(&client, &changed, tasks);
        let reporter = EventReporter::new(client.clone(), instance, tasks);
        Self {
            client,
            changed,
            stores,
            observer,
            peers,
            state,
            config: ConfigState::default(),
            ca: None,
            last_ca: None,
            history: PlanHistory::default(),
            migration: NetworkMigration::default(),
            write_failures: WriteBackoffs::default(),
            answer_failures: WriteBackoffs::default(),
            reporter,
            known_since: None,
        }
    }

    /// Runs until dropped.
    pub(super) async fn run(mut self, lease: &LeaderElection) {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            let now = Instant::now();
            let next = self.reconcile(lease).await;
            if next.at_once {
                continue;
            }
            let latest =
                next.at.map_or(now + RECONCILE_INTERVAL, |at| at.min(now + RECONCILE_INTERVAL));
            tokio::select! {
                _ = changed.changed() => sleep(BATCH_DELAY).await,
                changed = self.peers.changed() => match changed {
                    Ok(()) => sleep(BATCH_DELAY).await,
                    // The process has stopped observing; it is about to end.
                    Err(_) => sleep_until(latest).await,
                },
                () = sleep_until(latest) => {}
            }
        }
    }

    async fn reconcile(&mut self, lease: &LeaderElection) -> NextPass {
        if !lease.is_held() {
            return NextPass { at: Some(Instant::now() + BATCH_DELAY), at_once: false };
        }
        let mut warnings = Vec::new();
        if self.stores.config.was_listed() {
            let data = self.stores.config.get(Some(NAMESPACE), CONFIG_MAP);
            self.config.read(data.and_then(|map| map.data.clone()).unwrap_or_default());
        }
        // Certificates come first, and wait for nothing else: they expire.
        let ca_trouble = self.refresh_ca().await.err().map(|error| {
            let trouble = error.to_string();
            warnings.push(system_warning(CA_SECRET, "Secret", error.reason(), &trouble));
            trouble
        });
        let answered = self.sign_requests(lease, &mut warnings).await;
        let at = Instant::now();
        let retry_ca = ca_trouble.as_ref().map(|_| at + CA_BACKOFF);
        let retry_answers = self.answer_failures.next_attempt(at);
        let (written, wake) = self.reconcile_objects(lease, at, ca_trouble, warnings).await;
        let next = [retry_ca, retry_answers, wake].into_iter().flatten().min();
        NextPass { at: next, at_once: written + answered > 0 }
    }

    /// Plans and writes, as soon as everything required is known. Publishes the state and the warnings. Returns how
    /// many objects were written, and when the next pass must begin at the latest.
    async fn reconcile_objects(
        &mut self,
        lease: &LeaderElection,
        at: Instant,
        ca_trouble: Option<String>,
        mut warnings: Vec<ObjectWarning>,
    ) -> (usize, Option<Instant>) {
        let agents_trouble = self.stores.agents_trouble();
        if let Some((trouble, until)) = self.missing(at, agents_trouble.as_deref()) {
            self.reporter.report(&warnings);
            self.publish_state(ControllerPhase::Reading, ca_trouble.or(Some(trouble)));
            return (0, until);
        }
        if let Some(trouble) = self.config.trouble.as_ref().filter(|_| !self.config.unnamed) {
            warnings.push(system_warning(CONFIG_MAP, "ConfigMap", "BadConfiguration", trouble));
        }
        let Some(config) = self.config.good.clone() else {
            self.reporter.report(&warnings);
            let trouble = ca_trouble.or_else(|| self.config.trouble.clone());
            self.publish_state(ControllerPhase::Waiting, trouble);
            return (0, None);
        };
        let (migration, in_force) = self.advance_migration(&config.network).await;
        let config = match in_force {
            Some(network) => Arc::new(ClusterConfig { network, ..(*config).clone() }),
            None => config,
        };
        self.publish_observer(&config);
        let warning = migration.warning();
        warnings.extend(
            warning.map(|text| system_warning(CONFIG_MAP, "ConfigMap", "NetworkChanges", text)),
        );
        let plan = self.plan(&config, migration);
        tracing::debug!(writes = plan.writes.len(), took = ?at.elapsed(), "planned");
        let failures = &mut self.write_failures;
        let written = write_plan(&self.client, &self.stores, lease, plan.writes, failures).await;
        tracing::debug!(written, took = ?at.elapsed(), "wrote");
        warnings.extend(plan.warnings);
        self.reporter.report(&warnings);
        let trouble = ca_trouble
            .or_else(|| self.config.trouble.clone())
            .or_else(|| warning.map(str::to_owned))
            .or_else(|| self.write_failures.worst())
            .or_else(|| self.stores.stale())
            .or(agents_trouble)
            .or(plan.trouble);
        self.publish_state(ControllerPhase::Active, trouble);
        let retry_writes = self.write_failures.next_attempt(Instant::now());
        (written, plan.wake.into_iter().chain(retry_writes).min())
    }

    /// Returns what is not known yet, and when to go on without it.
    fn missing(
        &mut self,
        at: Instant,
        agents_trouble: Option<&str>,
    ) -> Option<(String, Option<Instant>)> {
        let unlisted = self.stores.unlisted();
        if !unlisted.is_empty() {
            let stale = self.stores.stale().map(|why| format!(": {why}")).unwrap_or_default();
            let trouble = format!("waiting for the API server's {}{stale}", unlisted.join(", "));
            return Some((trouble, None));
        }
        let until = *self.known_since.get_or_insert(at) + AGENTS_TIMEOUT;
        let trouble = agents_trouble.filter(|_| at < until)?;
        Some((trouble.to_owned(), Some(until)))
    }

    fn plan(&mut self, config: &ClusterConfig, migration: MigrationPhase) -> WritePlan {
        let state = self.stores.cluster_state();
        let peers = self.peers.borrow_and_update().clone();
        let input = PlanInput {
            config,
            trouble: self.config.trouble.as_deref(),
            bad_bundles: &self.config.bad_bundles,
            peers: &peers,
            migration,
            failing: self.write_failures.failing(),
            at: Instant::now(),
            clock: Timestamp::now(),
        };
        let plan = make_plan(&state, &input, &mut self.history);
        let watched =
            plan.watched.iter().map(|service| (service.namespace.as_str(), service.name()));
        self.stores.other_slices.select(Selector::slices_of_services(watched));
        plan
    }

    /// Loads or creates the CA. Returns the reason if there is none.
    async fn refresh_ca(&mut self) -> Result<(), CaError> {
        if !self.stores.can_sign() {
            return Ok(());
        }
        // Without a configuration, or before the published data is known, nothing is created or
        // published.
        let good = self.config.good.as_ref().filter(|_| self.stores.trust.was_listed());
        let (domain, now) = (good.map(|config| &config.trust_domain), UnixTime::now());
        self.ca = None;
        let before = self.last_ca.as_ref();
        let ca = ClusterCa::load_or_create(before, &self.client, &self.stores, domain, now).await?;
        self.ca.clone_from(&ca);
        let Some(ca) = ca else { return Ok(()) };
        if domain.is_some() {
            let mut data = ca::trust_record(&self.stores);
            data.insert(TRUST_BUNDLE_KEY.into(), ca.bundle.to_pem());
            ca::publish_trust(&self.client, &self.stores, data).await?;
        }
        self.last_ca = Some(ca);
        Ok(())
    }

    /// Compares the nodes' network with the configuration, and stores the result. Returns the
    /// network in force, if it is another one.
    async fn advance_migration(
        &mut self,
        wanted: &NetworkConfig,
    ) -> (MigrationPhase, Option<NetworkConfig>) {
        let record = ca::trust_record(&self.stores);
        let pods = self.stores.node_pods();
        let (moves, fresh) = self.migration.advance(&record, wanted, &pods, Instant::now());
        let in_force = network_migration::network_in_force(&fresh, wanted);
        // Without a bundle there is nothing to store it beside, and no node that has started.
        if fresh != record
            && record.contains_key(TRUST_BUNDLE_KEY)
            && let Err(error) = ca::publish_trust(&self.client, &self.stores, fresh).await
        {
            tracing::warn!(%error, "what network the nodes have is not on record yet");
        }
        (moves, in_force)
    }

    /// Answers nodes' certificate requests, several at a time. Returns how many were answered.
    async fn sign_requests(
        &mut self,
        lease: &LeaderElection,
        warnings: &mut Vec<ObjectWarning>,
    ) -> usize {
        let Some(ca) = &self.ca else { return 0 };
        let key = |name: String| ResourceKey {
            kind: "CertificateSigningRequest".into(),
            namespace: None,
            name,
        };
        let mut queue = signer::answer_order(self.stores.requests.objects());
        let open: BTreeSet<String> = queue.iter().map(|(r, _)| r.name_any()).collect();
        self.answer_failures.retain(|key| open.contains(&key.name));
        let mut answered = 0;
        queue.retain(|(r, _)| self.answer_failures.may_write(&key(r.name_any()), Instant::now()));
        let (client, stores, authority) = (&self.client, &self.stores, &ca.authority);
        let mut answers = stream::iter(queue.into_iter().take(MAX_ANSWERS))
            .map(|(request, superseded)| async move {
                let held = lease.is_held();
                let answer = signer::answer(client, stores, authority, &request, superseded);
                (request.name_any(), if held { Some(answer.await) } else { None })
            })
            .buffer_unordered(MAX_CONCURRENT);
        while let Some((name, answer)) = answers.next().await {
            let (key, Some(answer)) = (key(name), answer) else { continue };
            answered += usize::from(answer.is_ok());
            let result = match answer {
                Ok(Some(why)) => {
                    let mut warning = system_warning(&key.name, &key.kind, "Denied", &why);
                    warning.about.api_version = Some("certificates.k8s.io/v1".into());
                    warning.about.namespace = None;
                    warnings.push(warning);
                    Ok(())
                }
                Ok(None) => Ok(()),
                Err(CsrError::Api(error)) => Err(error),
                Err(CsrError::Ca(error)) => {
                    let error = CaError::from(error);
                    let warning =
                        system_warning(CA_SECRET, "Secret", error.reason(), &error.to_string());
                    warnings.push(warning);
                    Err(kube::Error::Service(error.into()))
                }
            };
            self.answer_failures.record(key, result, Instant::now());
        }
        answered
    }

    /// Tells the process which nodes to observe, if that has changed.
    fn publish_observer(&self, config: &Arc<ClusterConfig>) {
        let fresh = self.ca.as_ref().map(|ca| {
            let port = config.network.port;
            let siblings = self.stores.nodes().into_iter().map(|(node, addresses)| {
                (node, addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
            });
            Arc::new(ObserverConfig {
                config: config.clone(),
                identity: ca.identity.clone(),
                bundle: ca.bundle.clone(),
                siblings: siblings.collect::<BTreeMap<NodeName, Vec<SocketAddr>>>(),
            })
        });
        // The published value stays while the CA is unknown.
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

    fn publish_state(&self, phase: ControllerPhase, trouble: Option<String>) {
        let log = self.config.good.as_ref().map(|config| config.log);
        self.state.send_if_modified(|now| {
            let fresh = ControllerState { phase, trouble, log, answered_at: now.answered_at };
            let differs = *now != fresh;
            *now = fresh;
            differs
        });
    }
}

/// Returns a warning about an object in our own namespace.
fn system_warning(name: &str, kind: &str, reason: &str, note: &str) -> ObjectWarning {
    let about = ObjectReference {
        api_version: Some("v1".into()),
        kind: Some(kind.into()),
        namespace: Some(NAMESPACE.into()),
        name: Some(name.into()),
        ..ObjectReference::default()
    };
    ObjectWarning { about, reason: reason.into(), cause: None, note: note.into() }
}
