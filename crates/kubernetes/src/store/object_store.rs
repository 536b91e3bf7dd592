//! The store: the objects of one kind, kept through failures of the API server.
//!
//! The last good content stays through errors, `410 Gone`, stalls and new lists: it is replaced by a whole list or
//! not at all.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use adit_runtime::{Mutex, publish_if_changed};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::Instant;

use super::selector::Selector;
use super::signal::ChangeSignal;

/// Time for which the server must deny to know a required kind until it is believed to be gone: API
/// servers that start, or lose their definitions, deny it too.
pub(super) const UNKNOWN_KIND_TIMEOUT: Duration = Duration::from_secs(60);

/// The most endpoints of EndpointSlices that a store of selected Services keeps for one namespace: whoever may make slices there
/// may make any number. Slices beyond it are looked at again when the watch has ended.
pub(super) const MAX_ENDPOINTS: usize = 20_000;

/// An object that can be kept in a store.
pub trait StoredObject:
    Resource + Clone + DeserializeOwned + fmt::Debug + Send + Sync + 'static
{
}

impl<K: Resource + Clone + DeserializeOwned + fmt::Debug + Send + Sync + 'static> StoredObject
    for K
{
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
    /// The selector whose objects are wanted.
    wanted: watch::Sender<Selector>,
    changed: ChangeSignal,
    /// True if the kind may be absent.
    is_optional: bool,
}

struct StoreContent<K> {
    objects: BTreeMap<ObjectKey, Arc<K>>,
    /// The endpoints that are kept, by namespace.
    endpoints: HashMap<String, usize>,
    /// True if some object was left out because its namespace has enough.
    is_cut: bool,
    /// The selector that `objects` is the answer to; `None` before the first list.
    selector: Option<Selector>,
    stale: Option<Staleness>,
    /// Since when the server says, whenever it answers, that it does not know the kind.
    unknown_since: Option<Instant>,
}

impl<K: StoredObject> Store<K> {
    /// Returns an empty store, and the selectors that it gets. `is_optional`: the kind may be absent.
    pub(super) fn empty(
        selector: Selector,
        changed: &ChangeSignal,
        is_optional: bool,
    ) -> (Self, watch::Receiver<Selector>) {
        let content = StoreContent {
            objects: BTreeMap::new(),
            endpoints: HashMap::new(),
            is_cut: false,
            selector: None,
            stale: None,
            unknown_since: None,
        };
        let (wanted, selected) = watch::channel(selector);
        let content = Mutex::new(content);
        let inner = StoreInner { content, wanted, changed: changed.clone(), is_optional };
        (Self(Arc::new(inner)), selected)
    }

    /// Returns whether the kind may be absent.
    pub(super) fn is_optional(&self) -> bool {
        self.0.is_optional
    }

    /// Selects other objects. The content stays until the new list has come.
    pub fn select(&self, selector: Selector) {
        publish_if_changed(&self.0.wanted, selector);
    }

    /// Returns whether the content is the answer to the present selector.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let content = self.content();
        content.selector.as_ref() == Some(&*self.0.wanted.borrow())
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

    /// Returns whether it was listed, and the server knows the kind.
    #[must_use]
    pub fn has_kind(&self) -> bool {
        let content = self.content();
        content.selector.is_some() && content.unknown_since.is_none()
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
        self.content().remove(&(namespace.map(Into::into), name.into()));
        self.0.changed.notify();
    }

    fn content(&self) -> MutexGuard<'_, StoreContent<K>> {
        self.0.content.lock()
    }

    /// Takes an object, unless a newer version of it is there. One that is not wanted is not kept.
    pub(super) fn apply(&self, mut object: K) {
        // Nobody here reads them, and they are often the larger half of an object.
        object.meta_mut().managed_fields = None;
        let mut is_wanted = self.0.wanted.borrow().admits(&object);
        let mut content = self.content();
        // The next list may not come for what is wanted no longer, and then again.
        is_wanted |= content.selector.as_ref().is_some_and(|held| held.admits(&object));
        let key = key(&object);
        let changed = match is_wanted {
            true if content.objects.get(&key).is_some_and(|old| is_older(&object, old)) => false,
            true => content.insert(key, Arc::new(object)),
            false => content.remove(&key),
        };
        drop(content);
        if changed {
            self.0.changed.notify();
        }
    }

    /// Removes an object that the watch says is deleted.
    pub(super) fn delete(&self, object: &K) {
        let mut content = self.content();
        let key = key(object);
        // An object that was created again since has another UID.
        let same = content.objects.get(&key).is_some_and(|o| o.uid() == object.uid());
        if same {
            content.remove(&key);
            drop(content);
            self.0.changed.notify();
        }
    }

    /// Returns whether some object was left out because its namespace has enough.
    pub(super) fn is_cut(&self) -> bool {
        self.content().is_cut
    }

    /// Takes a list of `version`. Writes of ours that are newer stay: the watch that follows says
    /// what became of them.
    pub(super) fn replace(&self, objects: Vec<K>, version: Option<&str>, selector: Selector) {
        let mut content = self.content();
        let version: Option<u64> = version.and_then(|v| v.parse().ok());
        let later = |o: &K| version.is_some_and(|version| version_number(o) > Some(version));
        let before = std::mem::take(&mut content.objects);
        content.endpoints.clear();
        content.is_cut = false;
        for mut object in objects {
            object.meta_mut().managed_fields = None;
            content.insert(key(&object), Arc::new(object));
        }
        for (key, written) in before.into_iter().filter(|(_, object)| later(object)) {
            content.insert(key, written);
        }
        content.selector = Some(selector);
        if version.is_some() {
            content.unknown_since = None;
        }
        content.stale = None;
        drop(content);
        self.0.changed.notify();
    }

    /// Records whether the server knows the kind. Returns true if the kind is unknown for long
    /// enough that the store becomes empty.
    pub(super) fn should_be_emptied(&self, known: bool) -> bool {
        let mut content = self.content();
        if known {
            content.unknown_since = None;
            return false;
        }
        let since = *content.unknown_since.get_or_insert_with(Instant::now);
        let expected = content.selector.is_some() || self.0.is_optional;
        (expected && content.objects.is_empty()) || since.elapsed() > UNKNOWN_KIND_TIMEOUT
    }

    /// Records that a selector wants the objects that are held already.
    pub(super) fn rename_content(&self, selector: Selector) {
        let mut content = self.content();
        let unwanted = content.objects.iter().filter(|(_, object)| !selector.admits(&***object));
        let unwanted: Vec<ObjectKey> = unwanted.map(|(key, _)| key.clone()).collect();
        for key in &unwanted {
            content.remove(key);
        }
        content.selector = Some(selector);
        drop(content);
        self.0.changed.notify();
    }

    /// Records that the content is up to date again.
    pub(super) fn mark_fresh(&self) {
        let mut content = self.content();
        content.unknown_since = None;
        let was_stale = content.stale.take().is_some();
        drop(content);
        if was_stale {
            self.0.changed.notify();
        }
    }

    /// Records a failure to refresh the content.
    pub(super) fn mark_stale(&self, reason: String) {
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

impl<K: StoredObject> StoreContent<K> {
    /// Keeps an object, if its namespace has not enough of them. Returns whether anything changed.
    fn insert(&mut self, key: ObjectKey, object: Arc<K>) -> bool {
        let before = self.objects.get(&key).map_or(0, |old| endpoint_count(&**old));
        let count = endpoint_count(&*object);
        let namespace = key.0.as_deref().unwrap_or_default();
        let of_others = self.endpoints.get(namespace).map_or(0, |all| all - before);
        if of_others + count > MAX_ENDPOINTS {
            self.is_cut = true;
            return self.remove(&key);
        }
        if count + before > 0 {
            self.endpoints.insert(namespace.to_owned(), of_others + count);
        }
        self.objects.insert(key, object);
        true
    }

    /// Removes an object. Returns whether it was there.
    fn remove(&mut self, key: &ObjectKey) -> bool {
        let Some(object) = self.objects.remove(key) else { return false };
        if let Some(all) = self.endpoints.get_mut(key.0.as_deref().unwrap_or_default()) {
            *all -= endpoint_count(&*object);
            if *all == 0 {
                self.endpoints.remove(key.0.as_deref().unwrap_or_default());
            }
        }
        true
    }
}

/// Returns the number of endpoints of an EndpointSlice, and one for the slice; 0 for any other object.
fn endpoint_count<K: StoredObject>(object: &K) -> usize {
    let slice = (object as &dyn Any).downcast_ref::<EndpointSlice>();
    slice.map_or(0, |slice| 1 + slice.endpoints.len())
}

impl<K> Clone for Store<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K> fmt::Debug for Store<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("selector", &*self.0.wanted.borrow()).finish_non_exhaustive()
    }
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

pub(super) fn version_number<K: Resource>(object: &K) -> Option<u64> {
    object.resource_version()?.parse().ok()
}
