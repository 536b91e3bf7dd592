//! Leader election by a Lease: one controller is active at a time.
//!
//! A holder believes that it holds the lease for [`RENEWAL_LIFETIME`] from the start of its last
//! successful renewal. That is shorter than the time that others wait ([`LEASE_LIFETIME`]) by more
//! than one write may take, so two controllers never write at once, however slow the API server is.
//! Clocks of others are not trusted: a lease has expired when we saw it unchanged for its whole
//! length.
//!
//! The Lease is written by hand, because kube has no leader election, and because each renewal also
//! carries what is wrong with the holder and what nodes report of themselves, for `adit status` to
//! read without a further write.

use std::sync::Arc;
use std::time::Duration;

use adit_runtime::Mutex;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::phase::{ControllerPhase, ControllerState};
use super::request::{REQUEST_TIMEOUT, with_timeout};
use crate::api::{CONTROLLER, NODES, RELEASE, TROUBLE, truncated};
use crate::summary::NodesSummary;

/// Time that others wait for a silent holder, from its last renewal that they saw.
pub(super) const LEASE_LIFETIME: Duration = Duration::from_secs(15);
/// Time for which a holder trusts its last renewal, from when it began that renewal.
const RENEWAL_LIFETIME: Duration = Duration::from_secs(10);
/// From one renewal to the next.
const RENEW_INTERVAL: Duration = Duration::from_secs(2);
/// From one look at somebody else's lease to the next.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// Said of a holder that has not read the cluster yet.
const NOT_READ: &str = "it has just become active, and has not read the cluster's objects yet";

/// A controller's part in the election.
#[derive(Debug)]
pub(super) struct LeaderElection {
    api: Api<Lease>,
    identity: String,
    state: watch::Sender<ControllerState>,
    nodes: watch::Receiver<Arc<NodesSummary>>,
    held_until: Mutex<Option<Instant>>,
}

impl LeaderElection {
    /// Returns a candidate that writes `state` and `nodes` on the lease while it holds it.
    pub(super) fn new(
        api: Api<Lease>,
        identity: String,
        state: watch::Sender<ControllerState>,
        nodes: watch::Receiver<Arc<NodesSummary>>,
    ) -> Self {
        Self { api, identity, state, nodes, held_until: Mutex::new(None) }
    }

    /// Returns whether we hold the lease now. Must be asked before each write.
    pub(super) fn is_held(&self) -> bool {
        self.deadline().is_some_and(|until| Instant::now() < until)
    }

    /// Waits until we hold the lease.
    pub(super) async fn acquire(&self) {
        let mut seen: Option<(LeaseSpec, Instant)> = None;
        loop {
            let attempt = self.try_acquire(&mut seen).await;
            self.record_answer(&attempt);
            match attempt {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, "the lease could not be asked for"),
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Renews the lease; returns when it is lost.
    pub(super) async fn hold(&self) {
        loop {
            sleep(RENEW_INTERVAL).await;
            let renewal = self.renew().await;
            self.record_answer(&renewal);
            if let Err(error) = renewal {
                tracing::debug!(%error, "the lease could not be renewed");
            }
            if !self.is_held() {
                return;
            }
        }
    }

    /// Releases the lease, so that another controller need not wait.
    pub(super) async fn release(&self) {
        let held = self.is_held();
        self.set_deadline(None);
        let released = async {
            let Some(mut lease) = self.api.get_opt(CONTROLLER).await? else { return Ok(()) };
            if lease.spec.as_ref().and_then(|s| s.holder_identity.as_deref())
                == Some(&self.identity)
            {
                let spec = lease.spec.get_or_insert_default();
                spec.holder_identity = Some(String::new());
                spec.lease_duration_seconds = Some(1);
                self.api.replace(CONTROLLER, &PostParams::default(), &lease).await?;
            }
            Ok::<_, kube::Error>(())
        };
        if held && !matches!(timeout(REQUEST_TIMEOUT, released).await, Ok(Ok(()))) {
            tracing::debug!("the lease could not be given back, others wait until it runs out");
        }
    }

    async fn try_acquire(
        &self,
        seen: &mut Option<(LeaseSpec, Instant)>,
    ) -> Result<bool, kube::Error> {
        let now = Instant::now();
        let lease = with_timeout(self.api.get_opt(CONTROLLER)).await?;
        let spec = lease.as_ref().and_then(|l| l.spec.clone()).unwrap_or_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        if !holder.is_empty() && holder != self.identity {
            let length = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok());
            let length = length.map_or(LEASE_LIFETIME, Duration::from_secs);
            match seen {
                Some((before, since)) if *before == spec => {
                    if now.duration_since(*since) <= length {
                        return Ok(false);
                    }
                }
                Some(_) | None => {
                    *seen = Some((spec, now));
                    return Ok(false);
                }
            }
        }
        self.write(lease, now).await
    }

    async fn renew(&self) -> Result<(), kube::Error> {
        let now = Instant::now();
        let lease = with_timeout(self.api.get_opt(CONTROLLER)).await?;
        let holder = lease.as_ref().and_then(|l| l.spec.as_ref()?.holder_identity.as_deref());
        if holder.is_some_and(|h| h != self.identity) {
            self.set_deadline(None);
            return Ok(());
        }
        self.write(lease, now).await.map(drop)
    }

    /// Writes our identity into the lease as it was read. False if it has changed since.
    async fn write(&self, lease: Option<Lease>, began: Instant) -> Result<bool, kube::Error> {
        let now = MicroTime(Timestamp::now());
        let exists = lease.is_some();
        let mut lease = lease.unwrap_or_else(|| Lease {
            metadata: ObjectMeta { name: Some(CONTROLLER.into()), ..ObjectMeta::default() },
            spec: None,
        });
        let annotations = lease.metadata.annotations.get_or_insert_default();
        let trouble = {
            let state = self.state.borrow();
            // Until its first lists are complete, what the objects say is its predecessor's word.
            let is_new = matches!(state.phase, ControllerPhase::Standby | ControllerPhase::Reading);
            state.trouble.clone().or_else(|| is_new.then(|| NOT_READ.to_owned()))
        };
        match &trouble {
            Some(trouble) => annotations.insert(TROUBLE.into(), truncated(trouble).into()),
            None => annotations.remove(TROUBLE),
        };
        annotations.insert(RELEASE.into(), env!("CARGO_PKG_VERSION").into());
        let nodes = Arc::clone(&self.nodes.borrow());
        match serde_json::to_string(&*nodes).ok().filter(|_| !nodes.at.is_empty()) {
            Some(nodes) => annotations.insert(NODES.into(), nodes),
            None => annotations.remove(NODES),
        };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_ref() != Some(&self.identity) {
            spec.holder_identity = Some(self.identity.clone());
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions =
                Some(spec.lease_transitions.map_or(0, |n| n.saturating_add(1)));
        }
        spec.lease_duration_seconds = i32::try_from(LEASE_LIFETIME.as_secs()).ok();
        spec.renew_time = Some(now);
        let params = PostParams::default();
        let written = if exists {
            with_timeout(self.api.replace(CONTROLLER, &params, &lease)).await
        } else {
            with_timeout(self.api.create(&params, &lease)).await
        };
        match written {
            Ok(_) => {
                self.set_deadline(Some(began + RENEWAL_LIFETIME));
                Ok(true)
            }
            // Another controller was first.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Records that the API server has answered, whatever its answer was.
    fn record_answer<T>(&self, result: &Result<T, kube::Error>) {
        if matches!(result, Ok(_) | Err(kube::Error::Api(_))) {
            self.state.send_modify(|state| state.answered_at = Some(Instant::now()));
        }
    }

    fn deadline(&self) -> Option<Instant> {
        *self.held_until.lock()
    }

    fn set_deadline(&self, until: Option<Instant>) {
        *self.held_until.lock() = until;
    }
}
