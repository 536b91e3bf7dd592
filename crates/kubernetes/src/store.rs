//! The objects of one kind that the API server holds, as far as they are known: level-triggered.
//!
//! A [`Store`] keeps all objects that a [`Selector`] names (the server selects, so that other
//! objects cost nothing) and notifies a [`ChangeSignal`] when they change. A subscriber then reads
//! everything again; no event is ever passed on, so none can be missed. The last good content stays
//! through errors, `410 Gone`, stalls and new lists: it is replaced by a whole list or not at all.
//!
//! kube's own watcher is not used: it does not report its recovery, so that nobody could say how
//! old the content is, and it waits for a list that never ends.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Most objects in one answer to a list.
const PAGE_SIZE: u32 = 500;
/// Longest time for one page of a list, or for the start of a watch.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// Seconds after which the server ends a watch.
const WATCH_SECONDS: u32 = 290;
/// Longest silence of a watch before it is given up: the API server sends a bookmark each minute.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// Backoff after a first failure; doubled after each further one.
const INITIAL_BACKOFF: Duration = Duration::from_millis(400);
/// Least time from one list for a selector to the list for the next one.
const RELIST_INTERVAL: Duration = Duration::from_secs(1);
/// Time for which the server must deny to know a required kind until it is believed to be gone: API
/// servers that start, or lose their definitions, deny it too.
const UNKNOWN_KIND_TIMEOUT: Duration = Duration::from_secs(60);
/// Such a kind is retried as if there had been at most so many failures: every three seconds.
const MAX_KIND_FAILURES: u32 = 4;
/// Longest backoff.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// Most bytes of names in a selector: the length of a request's line is limited.
const MAX_SELECTOR_BYTES: usize = 40_000;

/// A signal that any of the stores that share it has changed, or has become or ceased to be up to
/// date.
#[derive(Debug, Clone, Default)]
pub struct ChangeSignal(watch::Sender<u64>);

impl ChangeSignal {
    /// Notifies all subscribers.
    pub fn notify(&self) {
        self.0.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Subscribes from now on: wait with [`watch::Receiver::changed`].
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}

/// An object that can be kept in a store.
pub trait StoredObject:
    Resource + Clone + DeserializeOwned + fmt::Debug + Send + Sync + 'static
{
}

impl<K: Resource + Clone + DeserializeOwned + fmt::Debug + Send + Sync + 'static> StoredObject
    for K
{
}

/// Selects objects of a kind; all of them by default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selector {
    /// A label selector, as `kubectl -l` takes it.
    pub labels: Option<String>,
    /// A field selector, as `kubectl --field-selector` takes it.
    pub fields: Option<String>,
    /// True if nothing is selected: the server is not asked.
    pub selects_nothing: bool,
    /// For EndpointSlices: the names of the Services that they belong to.
    pub services: Arc<BTreeSet<String>>,
}

impl Selector {
    /// Selects by labels.
    #[must_use]
    pub fn labels(selector: impl Into<String>) -> Self {
        Self { labels: Some(selector.into()), ..Self::default() }
    }

    /// Selects by fields.
    #[must_use]
    pub fn fields(selector: impl Into<String>) -> Self {
        Self { fields: Some(selector.into()), ..Self::default() }
    }

    /// Selects the object of that name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self::fields(format!("metadata.name={name}"))
    }

    /// Returns whether it is the same request to the server.
    fn is_same_request(&self, other: &Self) -> bool {
        (&self.labels, &self.fields, self.selects_nothing)
            == (&other.labels, &other.fields, other.selects_nothing)
    }

    /// Selects the EndpointSlices of Services with these names, in any namespace. Selects all
    /// slices if the names are too many for a request.
    #[must_use]
    pub fn slices_of_services<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let names: BTreeSet<&str> = names.into_iter().collect();
        let services = Arc::new(names.iter().map(|name| (*name).to_owned()).collect());
        let selection = Self { services, ..Self::default() };
        if names.is_empty() {
            return Self { selects_nothing: true, ..selection };
        }
        let names: Vec<&str> = names.into_iter().collect();
        // A comma takes three bytes in a request.
        let labels = if names.iter().map(|n| n.len() + 3).sum::<usize>() > MAX_SELECTOR_BYTES {
            crate::api::SLICE_SERVICE.to_owned()
        } else {
            format!("{} in ({})", crate::api::SLICE_SERVICE, names.join(","))
        };
        Self { labels: Some(labels), ..selection }
    }
}

/// Since when a store could not be refreshed, and the reason.
#[derive(Debug, Clone)]
pub struct Staleness {
    /// When the first failure was.
    pub since: Instant,
    /// The last failure, for people.
    pub reason: String,
}

type ObjectKey = (Option<String>, String);

/// All objects of one kind that a selector names, as far as they are known. Cheap to clone.
pub struct Store<K>(Arc<StoreInner<K>>);

struct StoreInner<K> {
    content: Mutex<StoreContent<K>>,
    selection: watch::Sender<Selector>,
    changed: ChangeSignal,
    optional: bool,
}

struct StoreContent<K> {
    objects: BTreeMap<ObjectKey, Arc<K>>,
    /// The selector that `objects` is the answer to; `None` before the first list.
    selector: Option<Selector>,
    stale: Option<Staleness>,
    /// Since when the server says, whenever it answers, that it does not know the kind.
    unknown_since: Option<Instant>,
}

impl<K: StoredObject> Store<K> {
    /// Returns a store, and the task that keeps it up to date; if the task is dropped, the store
    /// stays as it is. For metadata alone, `K` is [`kube::core::PartialObjectMeta`] of the kind.
    ///
    /// A kind that the server does not know for a minute has no objects.
    pub fn new(
        api: Api<K>,
        selection: Selector,
        bell: &ChangeSignal,
    ) -> (Self, impl Future<Output = ()> + Send + use<K>) {
        Self::with_presence(api, selection, bell, false)
    }

    /// Returns a store of somebody else's kind, which may be absent: then it has no objects from
    /// the start.
    pub fn optional(
        api: Api<K>,
        selection: Selector,
        bell: &ChangeSignal,
    ) -> (Self, impl Future<Output = ()> + Send + use<K>) {
        Self::with_presence(api, selection, bell, true)
    }

    fn with_presence(
        api: Api<K>,
        selection: Selector,
        bell: &ChangeSignal,
        optional: bool,
    ) -> (Self, impl Future<Output = ()> + Send + use<K>) {
        let content = StoreContent {
            objects: BTreeMap::new(),
            selector: None,
            stale: None,
            unknown_since: None,
        };
        let (selection, selected) = watch::channel(selection);
        let inner =
            StoreInner { content: Mutex::new(content), selection, changed: bell.clone(), optional };
        let store = Self(Arc::new(inner));
        (store.clone(), maintain(api, store, selected))
    }

    /// Selects other objects. The content stays until the new list has come.
    pub fn select(&self, selection: Selector) {
        self.0.selection.send_if_modified(|now| {
            let differs = *now != selection;
            *now = selection;
            differs
        });
    }

    /// Returns whether the content is the answer to the present selector.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let content = self.content();
        content.selector.as_ref() == Some(&*self.0.selection.borrow())
    }

    /// Returns the selector that the content is the answer to.
    #[must_use]
    pub fn held_selector(&self) -> Option<Selector> {
        self.content().selector.clone()
    }

    /// Returns whether it was ever listed.
    #[must_use]
    pub fn was_listed(&self) -> bool {
        self.content().selector.is_some()
    }

    /// Returns all objects; `None` before the first list.
    #[must_use]
    pub fn listed(&self) -> Option<Vec<Arc<K>>> {
        self.was_listed().then(|| self.objects())
    }

    /// Returns all objects, in order of namespace and name.
    #[must_use]
    pub fn objects(&self) -> Vec<Arc<K>> {
        self.content().objects.values().cloned().collect()
    }

    /// Returns the object of that namespace (`None` for a cluster-scoped kind) and name.
    #[must_use]
    pub fn get(&self, namespace: Option<&str>, name: &str) -> Option<Arc<K>> {
        self.content().objects.get(&(namespace.map(Into::into), name.into())).cloned()
    }

    /// Returns since when it could not be refreshed; `None` while it is up to date.
    #[must_use]
    pub fn stale(&self) -> Option<Staleness> {
        self.content().stale.clone()
    }

    /// Takes the server's answer to a write of ours, so that it is not written again before the
    /// watch brings it.
    pub fn put(&self, object: K) {
        self.apply(object);
    }

    /// Removes an object that the server has deleted for us.
    pub fn remove(&self, namespace: Option<&str>, name: &str) {
        self.content().objects.remove(&(namespace.map(Into::into), name.into()));
        self.0.changed.notify();
    }

    fn content(&self) -> MutexGuard<'_, StoreContent<K>> {
        self.0.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, mut object: K) {
        // Nobody here reads them, and they are often the larger half of an object.
        object.meta_mut().managed_fields = None;
        let mut content = self.content();
        let key = key(&object);
        let newer = content.objects.get(&key).is_none_or(|old| !is_older(&object, old));
        if newer {
            content.objects.insert(key, Arc::new(object));
            drop(content);
            self.0.changed.notify();
        }
    }

    fn delete(&self, object: &K) {
        let mut content = self.content();
        let key = key(object);
        // An object that was created again since has another UID.
        let same = content.objects.get(&key).is_some_and(|o| o.uid() == object.uid());
        if same {
            content.objects.remove(&key);
            drop(content);
            self.0.changed.notify();
        }
    }

    /// Takes a list of `version`. Writes of ours that are newer stay: the watch that follows says
    /// what became of them.
    fn replace(&self, objects: Vec<K>, version: Option<&str>, of: Selector) {
        let mut fresh = BTreeMap::new();
        for mut object in objects {
            object.meta_mut().managed_fields = None;
            fresh.insert(key(&object), Arc::new(object));
        }
        let mut content = self.content();
        let version: Option<u64> = version.and_then(|v| v.parse().ok());
        let later = |o: &K| version.is_some_and(|version| version_number(o) > Some(version));
        let written = std::mem::take(&mut content.objects).into_iter().filter(|(_, o)| later(o));
        fresh.extend(written);
        content.objects = fresh;
        content.selector = Some(of);
        content.stale = None;
        drop(content);
        self.0.changed.notify();
    }

    /// Records whether the server knows the kind. Returns true if the kind is unknown for long
    /// enough that the store becomes empty.
    fn should_be_emptied(&self, known: bool) -> bool {
        let mut content = self.content();
        if known {
            content.unknown_since = None;
            return false;
        }
        let since = *content.unknown_since.get_or_insert_with(Instant::now);
        let expected = content.selector.is_some() || self.0.optional;
        (expected && content.objects.is_empty()) || since.elapsed() > UNKNOWN_KIND_TIMEOUT
    }

    fn mark_fresh(&self) {
        let mut content = self.content();
        content.unknown_since = None;
        let was_stale = content.stale.take().is_some();
        drop(content);
        if was_stale {
            self.0.changed.notify();
        }
    }

    fn mark_stale(&self, reason: String) {
        let mut content = self.content();
        let first = content.stale.is_none();
        let since = content.stale.take().map_or_else(Instant::now, |stale| stale.since);
        content.stale = Some(Staleness { since, reason });
        drop(content);
        if first {
            self.0.changed.notify();
        }
    }
}

impl<K> Clone for Store<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K> fmt::Debug for Store<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("selection", &*self.0.selection.borrow())
            .finish_non_exhaustive()
    }
}

/// The reason why listing and watching ended.
#[derive(Debug, thiserror::Error)]
enum WatchError {
    #[error("the API server does not know what we have seen last")]
    Gone,
    #[error("the API server does not know this kind")]
    NoSuchKind,
    #[error("the API server did not answer within {} s", RESPONSE_TIMEOUT.as_secs())]
    NoResponse,
    #[error("{0}")]
    Client(#[from] kube::Error),
    #[error("the watch ended: {0}")]
    Status(String),
    #[error("the list has no resource version")]
    NoVersion,
}

impl WatchError {
    /// Returns how long the server asks us to wait.
    fn retry_after(&self) -> Duration {
        let Self::Client(kube::Error::Api(status)) = self else { return Duration::ZERO };
        let asked = status.details.as_ref().map_or(0, |d| d.retry_after_seconds);
        Duration::from_secs(u64::from(asked)).min(MAX_BACKOFF)
    }
}

async fn maintain<K>(api: Api<K>, store: Store<K>, mut selected: watch::Receiver<Selector>)
where
    K: StoredObject,
{
    let mut version = None;
    let mut failures = 0;
    loop {
        let selection = selected.borrow_and_update().clone();
        if !store.held_selector().is_some_and(|of| of.is_same_request(&selection)) {
            version = None;
        }
        let began = Instant::now();
        let ended = tokio::select! {
            ended = list_and_watch(&api, &store, &selection, &mut version) => ended,
            () = selector_changed(&store, &selection, &mut selected, began) => continue,
        };
        let asked = match ended {
            Ok(()) => {
                // A server that ends every watch at once must not be asked without a pause.
                failures = if began.elapsed() > INITIAL_BACKOFF { 0 } else { failures + 1 };
                Duration::ZERO
            }
            Err(failure) => {
                if began.elapsed() > MAX_BACKOFF {
                    failures = 0;
                }
                failures += 1;
                if matches!(failure, WatchError::Gone | WatchError::NoSuchKind) {
                    version = None;
                }
                let known = !matches!(failure, WatchError::NoSuchKind);
                if !known && !store.0.optional {
                    // The kind must exist, and may do so in a moment.
                    failures = failures.min(MAX_KIND_FAILURES);
                }
                if store.should_be_emptied(known) {
                    store.replace(Vec::new(), None, selection);
                } else if !matches!(failure, WatchError::Gone) {
                    let url = api.resource_url();
                    tracing::debug!(error = %failure, url, "the API server could not be watched");
                    store.mark_stale(failure.to_string());
                }
                failure.retry_after()
            }
        };
        if failures > 0 {
            tokio::select! {
                () = sleep(backoff(failures).max(asked)) => {}
                _ = selected.changed() => {}
            }
        }
    }
}

/// Waits until another selector is to be listed. One that changes all the time must neither keep
/// the server busy with lists, nor cancel each list before it is complete.
async fn selector_changed<K: StoredObject>(
    store: &Store<K>,
    selection: &Selector,
    selected: &mut watch::Receiver<Selector>,
    began: Instant,
) {
    let is_held = || store.held_selector().is_some_and(|of| of.is_same_request(selection));
    loop {
        // The sender is the store's own.
        drop(selected.changed().await);
        if selection.selects_nothing {
            return;
        }
        sleep_until(began + RELIST_INTERVAL).await;
        while !is_held() {
            sleep(RELIST_INTERVAL).await;
        }
        let now = selected.borrow_and_update().clone();
        if !now.is_same_request(selection) {
            return;
        }
        // The same objects under other names: the content is the answer already.
        store.content().selector = Some(now);
        store.0.changed.notify();
    }
}

/// Lists if nothing is known, then watches until the watch ends.
async fn list_and_watch<K>(
    api: &Api<K>,
    store: &Store<K>,
    selection: &Selector,
    version: &mut Option<String>,
) -> Result<(), WatchError>
where
    K: StoredObject,
{
    if selection.selects_nothing {
        store.replace(Vec::new(), None, selection.clone());
        return std::future::pending().await;
    }
    let mut from = match version.take() {
        Some(version) => version,
        None => {
            let (objects, version) = list(api, selection).await?;
            store.replace(objects, Some(&version), selection.clone());
            version
        }
    };
    let params = WatchParams {
        label_selector: selection.labels.clone(),
        field_selector: selection.fields.clone(),
        timeout: Some(WATCH_SECONDS),
        bookmarks: true,
        send_initial_events: false,
    };
    let events = timeout(RESPONSE_TIMEOUT, api.watch(&params, &from)).await;
    // However the watch ends, it can continue from the last version seen, except after `Gone`.
    *version = Some(from.clone());
    let mut events =
        std::pin::pin!(events.map_err(|_| WatchError::NoResponse)?.map_err(watch_error)?);
    store.mark_fresh();
    while let Ok(event) = timeout(IDLE_TIMEOUT, events.next()).await {
        match event {
            None => return Ok(()),
            Some(Err(error)) => return Err(watch_error(error)),
            Some(Ok(WatchEvent::Added(object) | WatchEvent::Modified(object))) => {
                from = object.resource_version().unwrap_or(from);
                store.apply(object);
            }
            Some(Ok(WatchEvent::Deleted(object))) => {
                from = object.resource_version().unwrap_or(from);
                store.delete(&object);
            }
            Some(Ok(WatchEvent::Bookmark(bookmark))) => from = bookmark.metadata.resource_version,
            Some(Ok(WatchEvent::Error(status))) if status.code == 410 => {
                return Err(WatchError::Gone);
            }
            Some(Ok(WatchEvent::Error(status))) => {
                return Err(WatchError::Status(status.to_string()));
            }
        }
        *version = Some(from.clone());
    }
    Ok(())
}

async fn list<K>(api: &Api<K>, selection: &Selector) -> Result<(Vec<K>, String), WatchError>
where
    K: Clone + DeserializeOwned + fmt::Debug,
{
    let mut objects = Vec::new();
    let mut params = ListParams {
        label_selector: selection.labels.clone(),
        field_selector: selection.fields.clone(),
        limit: Some(PAGE_SIZE),
        ..ListParams::default()
    };
    loop {
        let page = timeout(RESPONSE_TIMEOUT, api.list(&params))
            .await
            .map_err(|_| WatchError::NoResponse)?;
        let page = page.map_err(watch_error)?;
        objects.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => {
                let version = page.metadata.resource_version.filter(|v| !v.is_empty());
                return Ok((objects, version.ok_or(WatchError::NoVersion)?));
            }
        }
    }
}

fn watch_error(error: kube::Error) -> WatchError {
    let code = if let kube::Error::Api(status) = &error { status.code } else { 0 };
    match code {
        410 => WatchError::Gone,
        // Only a kind is asked for here, never an object.
        404 => WatchError::NoSuchKind,
        _ => WatchError::Client(error),
    }
}

/// Returns half to one and a half times the backoff after so many failures, so that many clients
/// that lost one server do not come back together.
fn backoff(failures: u32) -> Duration {
    let pause =
        INITIAL_BACKOFF.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(MAX_BACKOFF);
    let random = getrandom::u32().unwrap_or(u32::MAX / 2);
    pause.mul_f64(0.5 + f64::from(random) / f64::from(u32::MAX))
}

fn key<K: Resource>(object: &K) -> ObjectKey {
    (object.namespace(), object.name_any())
}

/// Returns whether `a` is an older version of `b`: after a write of ours the watch still brings the
/// previous version. Versions of the API server's own store are numbers that grow; others are never
/// older.
fn is_older<K: Resource>(a: &K, b: &K) -> bool {
    a.uid() == b.uid()
        && matches!((version_number(a), version_number(b)), (Some(a), Some(b)) if a < b)
}

fn version_number<K: Resource>(object: &K) -> Option<u64> {
    object.resource_version()?.parse().ok()
}

#[cfg(test)]
mod tests;
