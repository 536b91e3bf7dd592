//! Writes a plan: several objects at a time, each independent of the others.
//!
//! An object that cannot be written is retried with backoff, while all others go on. The API
//! server's answer to a write is put into the stores, so that the next plan knows it before the
//! watch brings it. A conflict is no failure: somebody else wrote, and the next plan is made from
//! that. A write that succeeds and is wanted again at once, several times, is a failure: something
//! stores another object than we write.
//!
//! Objects are replaced whole, not applied on the server's side (server-side apply): the plan is
//! made from the whole stored object, and a replace with its resource version fails if it has
//! changed since, where an apply would overwrite it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use adit_core::backoff::Backoff;
use futures_util::{StreamExt, stream};
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use tokio::time::Instant;

use super::leader::LeaderElection;
use super::plan::{ObjectChange, PlannedWrite, ResourceKey};
use super::request::with_timeout;
use super::stores::ControllerStores;
use crate::store::{Store, StoredObject};

/// Number of writes at a time.
pub(super) const MAX_CONCURRENT: usize = 8;
/// Time for which the urgent part of a plan is written, from its first write: changes since then
/// need a new plan.
const URGENT_TIMEOUT: Duration = Duration::from_millis(500);
/// Time for which the rest is written, for which no client waits; each pass writes something of it.
const DEFERRED_TIMEOUT: Duration = Duration::from_millis(100);
/// Backoff between two attempts to write an object.
const WRITE_BACKOFF: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(60));
/// Backoff after a conflict: the watch brings what the other wrote.
const CONFLICT_BACKOFF: Duration = Duration::from_millis(100);
/// Most writes of one object right after each other: it is created, gets what depends on others,
/// and its status.
const MAX_CONSECUTIVE: u32 = 4;

/// The recent writes of objects, and for those that failed how long to wait.
#[derive(Debug, Default)]
pub(super) struct WriteBackoffs(BTreeMap<ResourceKey, WriteFailure>);

#[derive(Debug)]
struct WriteFailure {
    times: u32,
    /// Writes since the last plan that did not need one.
    written: u32,
    until: Instant,
    why: String,
}

impl WriteBackoffs {
    /// Returns whether an object may be written now.
    pub(super) fn may_write(&self, key: &ResourceKey, now: Instant) -> bool {
        self.0.get(key).is_none_or(|failure| failure.until <= now)
    }

    /// Returns whether the last write of an object failed.
    fn failed(&self, key: &ResourceKey) -> bool {
        self.0.get(key).is_some_and(|failure| failure.times > 0)
    }

    /// Records the result of a write.
    pub(super) fn record(
        &mut self,
        key: ResourceKey,
        result: Result<(), kube::Error>,
        now: Instant,
    ) {
        let failure = self.0.entry(key.clone()).or_insert(WriteFailure {
            times: 0,
            written: 0,
            until: now,
            why: String::new(),
        });
        let Err(error) = result else {
            failure.written += 1;
            failure.times = failure.written.saturating_sub(MAX_CONSECUTIVE);
            failure.until = now;
            if failure.times > 0 {
                failure.until += WRITE_BACKOFF.delay(failure.times - 1);
                failure.why = "what is written is not what is stored then: apply the definitions of \
                               this version (daemonset/crds), since older ones drop what they do not \
                               know; else a webhook or a policy changes it"
                    .into();
            }
            return;
        };
        let (mut code, mut asked) = (0, Duration::ZERO);
        if let kube::Error::Api(status) = &error {
            code = status.code;
            let seconds = status.details.as_ref().map_or(0, |d| d.retry_after_seconds);
            asked = Duration::from_secs(seconds.into());
        }
        let pause = if code == 409 && failure.times == 0 {
            CONFLICT_BACKOFF
        } else {
            WRITE_BACKOFF.delay(failure.times).max(asked)
        };
        failure.times += 1;
        failure.until = now + pause.min(WRITE_BACKOFF.max);
        failure.why = error.to_string();
        if code == 409 {
            tracing::debug!(%key, %error, "somebody else wrote it");
        } else {
            tracing::warn!(%key, %error, "could not be written, tried again later");
        }
    }

    /// Returns when the first of them may be tried again.
    pub(super) fn next_attempt(&self, now: Instant) -> Option<Instant> {
        self.0.values().map(|failure| failure.until).filter(|until| *until > now).min()
    }

    /// Forgets objects that need no write any more.
    pub(super) fn retain(&mut self, wanted: impl Fn(&ResourceKey) -> bool) {
        self.0.retain(|key, _| wanted(key));
    }

    /// Returns the objects that fail repeatedly, with the reason; a first conflict does not count.
    pub(super) fn failing(&self) -> BTreeMap<ResourceKey, String> {
        let failing = self.0.iter().filter(|(_, failure)| failure.times > 1);
        failing.map(|(key, failure)| (key.clone(), failure.why.clone())).collect()
    }

    /// Describes the object that fails most often, for people.
    pub(super) fn worst(&self) -> Option<String> {
        let worst = self.0.iter().max_by_key(|(_, failure)| failure.times)?;
        (worst.1.times > 2).then(|| format!("{}: {}", worst.0, worst.1.why))
    }
}

/// Writes while the plan is fresh and the lease is held. Returns how many objects were written.
pub(super) async fn write_plan(
    client: &Client,
    stores: &ControllerStores,
    lease: &LeaderElection,
    writes: Vec<PlannedWrite>,
    failures: &mut WriteBackoffs,
) -> usize {
    let now = Instant::now();
    let wanted: BTreeSet<ResourceKey> = writes.iter().map(PlannedWrite::key).collect();
    failures.retain(|key| wanted.contains(key));
    let ready = writes.into_iter().map(|write| (write.key(), write));
    let mut ready: Vec<_> = ready.filter(|(key, _)| failures.may_write(key, now)).collect();
    // Objects that failed before keep nothing else waiting; of the rest, what clients wait for
    // comes first.
    ready.sort_by_key(|(key, write)| (failures.failed(key), write.rank()));
    let (urgent, rest): (Vec<_>, Vec<_>) =
        ready.into_iter().partition(|(key, write)| !failures.failed(key) && !write.is_status());
    let mut written = 0;
    for (part, longest) in [(urgent, URGENT_TIMEOUT), (rest, DEFERRED_TIMEOUT)] {
        let began = Instant::now();
        let mut results = stream::iter(part)
            .map(|(key, write)| async move {
                let goes_on = lease.is_held() && began.elapsed() < longest;
                let done =
                    if goes_on { Some(write_one(client, stores, write).await) } else { None };
                (key, done)
            })
            .buffer_unordered(MAX_CONCURRENT);
        while let Some((key, done)) = results.next().await {
            let Some(result) = done else { continue };
            written += usize::from(result.is_ok());
            failures.record(key, result, Instant::now());
        }
    }
    written
}

async fn write_one(
    client: &Client,
    stores: &ControllerStores,
    write: PlannedWrite,
) -> Result<(), kube::Error> {
    match write {
        PlannedWrite::Service(change) => namespaced(client, &stores.services, change).await,
        PlannedWrite::Agent(change) => namespaced(client, &stores.agents, change).await,
        PlannedWrite::Slice(change) => namespaced(client, &stores.slices, change).await,
        PlannedWrite::Import(change) => cluster(client, &stores.imports, change).await,
        PlannedWrite::Export(change) => cluster(client, &stores.exports, change).await,
        PlannedWrite::Link(change) => cluster(client, &stores.links, change).await,
    }
}

async fn namespaced<K>(
    client: &Client,
    store: &Store<K>,
    change: ObjectChange<K>,
) -> Result<(), kube::Error>
where
    K: StoredObject + Serialize + Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let namespace = change.key().namespace.unwrap_or_default();
    apply(Api::namespaced(client.clone(), &namespace), store, change).await
}

async fn cluster<K>(
    client: &Client,
    store: &Store<K>,
    change: ObjectChange<K>,
) -> Result<(), kube::Error>
where
    K: StoredObject + Serialize + Resource<DynamicType = (), Scope = ClusterResourceScope>,
{
    apply(Api::all(client.clone()), store, change).await
}

async fn apply<K>(api: Api<K>, store: &Store<K>, change: ObjectChange<K>) -> Result<(), kube::Error>
where
    K: StoredObject + Serialize,
{
    let params = PostParams::default();
    let written = match &change {
        ObjectChange::Create(object) => with_timeout(api.create(&params, object)).await?,
        ObjectChange::Replace(object) => {
            with_timeout(api.replace(&object.name_any(), &params, object)).await?
        }
        ObjectChange::Status(object) => {
            with_timeout(api.replace_status(&object.name_any(), &params, object)).await?
        }
        ObjectChange::Delete(object) => {
            let this =
                Preconditions { uid: object.uid(), resource_version: object.resource_version() };
            let params = DeleteParams { preconditions: Some(this), ..DeleteParams::default() };
            let deleted = with_timeout(api.delete(&object.name_any(), &params)).await;
            if !matches!(&deleted, Err(kube::Error::Api(status)) if status.code == 404) {
                deleted?;
            }
            store.remove(object.namespace().as_deref(), &object.name_any());
            return Ok(());
        }
    };
    store.put(written);
    Ok(())
}
