//! Lists and watches the objects of a store, for ever and through failures.
//!
//! kube's own watcher is not used: it does not report its recovery, so that nobody could say how old the content is,
//! and it waits for a list that never ends.

use std::time::Duration;

use adit_core::backoff::Backoff;
use futures_util::StreamExt;
use kube::ResourceExt;
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::object_store::{Store, StoredObject};
use super::relist_pace::RelistPace;
use super::selector::Selector;
use super::signal::ChangeSignal;
use crate::client;

/// Most objects in one answer to a list.
const PAGE_SIZE: u32 = 500;
/// Longest time for one page of a list, or for the start of a watch.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// Seconds after which the server ends a watch.
const WATCH_SECONDS: u32 = 290;
/// Longest silence of a watch before it is given up: the API server sends a bookmark each minute.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// Backoff between two attempts.
const RETRY_BACKOFF: Backoff = Backoff::new(Duration::from_millis(400), Duration::from_secs(30));
/// From one look to the next at whether a list has come.
const LIST_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// A required kind that the server does not know is retried as if there had been at most so many failures: every three seconds.
const MAX_KIND_FAILURES: u32 = 4;

impl<K: StoredObject> Store<K> {
    /// Returns a store, and the task that keeps it up to date; if the task is dropped, the store stays as it is. For
    /// metadata alone, `K` is [`kube::core::PartialObjectMeta`] of the kind.
    ///
    /// A kind that the server does not know for a minute has no objects.
    pub fn new(
        api: Api<K>,
        selector: Selector,
        changed: &ChangeSignal,
    ) -> (Self, impl Future<Output = ()> + Send + use<K>) {
        let (store, selected) = Self::empty(selector, changed, false);
        (store.clone(), maintain(api, store, selected))
    }

    /// Returns a store of somebody else's kind, which may be absent: then it has no objects from the start.
    pub fn optional(
        api: Api<K>,
        selector: Selector,
        changed: &ChangeSignal,
    ) -> (Self, impl Future<Output = ()> + Send + use<K>) {
        let (store, selected) = Self::empty(selector, changed, true);
        (store.clone(), maintain(api, store, selected))
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
    #[error("{}", describe_error(.0))]
    Client(#[from] kube::Error),
    #[error("the watch ended: {0}")]
    Status(String),
    #[error("the list has no resource version")]
    NoVersion,
}

/// Describes what an API server or its client says, without the form in which it came.
fn describe_error(error: &kube::Error) -> String {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the library's list is open and long")]
    match error {
        kube::Error::Api(status) if status.code == 403 => format!(
            "{}: a role or its binding is missing (ClusterRoleBinding adit-controller for the controller): apply Adit's \
             manifests again",
            status.message
        ),
        other => client::describe_error(other),
    }
}

impl WatchError {
    /// Returns how long the server asks us to wait.
    fn retry_after(&self) -> Duration {
        let Self::Client(kube::Error::Api(status)) = self else { return Duration::ZERO };
        let requested = status.details.as_ref().map_or(0, |d| d.retry_after_seconds);
        Duration::from_secs(u64::from(requested)).min(RETRY_BACKOFF.max)
    }
}

async fn maintain<K>(api: Api<K>, store: Store<K>, mut selected: watch::Receiver<Selector>)
where
    K: StoredObject,
{
    let mut version = None;
    let mut failures = 0;
    let mut pace = RelistPace::new(Instant::now());
    loop {
        let selector = selected.borrow_and_update().clone();
        if !is_held(&store, &selector) {
            version = None;
        }
        let began = Instant::now();
        let ended = tokio::select! {
            ended = list_and_watch(&api, &store, &selector, &mut version) => ended,
            () = selector_changed(&store, &selector, &mut selected, &pace) => {
                pace.count(Instant::now());
                continue;
            }
        };
        let requested = match ended {
            Ok(()) => {
                // A server that ends every watch at once must not be asked without a pause.
                failures = if began.elapsed() > RETRY_BACKOFF.first { 0 } else { failures + 1 };
                if store.is_cut() {
                    version = None;
                }
                Duration::ZERO
            }
            Err(failure) => {
                if began.elapsed() > RETRY_BACKOFF.max {
                    failures = 0;
                }
                failures += 1;
                if matches!(failure, WatchError::Gone | WatchError::NoSuchKind) {
                    version = None;
                }
                if matches!(failure, WatchError::NoSuchKind) && !store.is_optional() {
                    // The kind must exist, and may do so in a moment.
                    failures = failures.min(MAX_KIND_FAILURES);
                }
                record_failure(&api, &store, selector, &failure);
                failure.retry_after()
            }
        };
        if failures > 0 {
            let changed = async {
                drop(selected.changed().await);
                sleep_until(pace.next(Instant::now(), random_unit())).await;
            };
            tokio::select! {
                () = sleep(backoff(failures).max(requested)) => {}
                () = changed => pace.count(Instant::now()),
            }
        }
    }
}

/// Returns whether the content has all objects of a selector: then a watch goes on where one for more objects has ended.
fn is_held<K: StoredObject>(store: &Store<K>, selector: &Selector) -> bool {
    let Some(held) = store.held_selector().filter(|held| selector.is_answered_by(held)) else {
        return false;
    };
    if held != *selector {
        store.rename_content(selector.clone());
    }
    true
}

/// Keeps the content through a failure, unless the server does not know the kind for long enough.
fn record_failure<K: StoredObject>(
    api: &Api<K>,
    store: &Store<K>,
    selector: Selector,
    failure: &WatchError,
) {
    if store.should_be_emptied(!matches!(failure, WatchError::NoSuchKind)) {
        store.replace(Vec::new(), None, selector);
    } else if !matches!(failure, WatchError::Gone) {
        let url = api.resource_url();
        tracing::debug!(error = %failure, url, "the API server could not be watched");
        store.mark_stale(failure.to_string());
    }
}

/// Waits until another selector is to be listed. One that changes all the time must neither keep
/// the server busy with lists, nor cancel each list before it is complete.
async fn selector_changed<K: StoredObject>(
    store: &Store<K>,
    selector: &Selector,
    selected: &mut watch::Receiver<Selector>,
    pace: &RelistPace,
) {
    let mut current = selector.clone();
    loop {
        // The sender is the store's own.
        drop(selected.changed().await);
        if current.selects_nothing {
            return;
        }
        while !store.held_selector().is_some_and(|held| current.is_answered_by(&held)) {
            sleep(LIST_CHECK_INTERVAL).await;
        }
        if !selected.borrow_and_update().is_answered_by(&current) {
            sleep_until(pace.next(Instant::now(), random_unit())).await;
        }
        let now = selected.borrow_and_update().clone();
        if !now.is_answered_by(&current) {
            return;
        }
        // Fewer objects: the content has them already, and the watch brings what becomes of them.
        store.rename_content(now.clone());
        current = now;
    }
}

/// Lists if nothing is known, then watches until the watch ends.
async fn list_and_watch<K>(
    api: &Api<K>,
    store: &Store<K>,
    selector: &Selector,
    version: &mut Option<String>,
) -> Result<(), WatchError>
where
    K: StoredObject,
{
    if selector.selects_nothing {
        store.replace(Vec::new(), None, selector.clone());
        return std::future::pending().await;
    }
    let mut from = match version.take() {
        Some(version) => version,
        None => {
            let (objects, version) = list(api, selector).await?;
            store.replace(objects, Some(&version), selector.clone());
            version
        }
    };
    let params = WatchParams {
        label_selector: selector.labels.clone(),
        field_selector: selector.fields.clone(),
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
                return Err(WatchError::Status(status.message.clone()));
            }
        }
        *version = Some(from.clone());
    }
    Ok(())
}

async fn list<K>(api: &Api<K>, selector: &Selector) -> Result<(Vec<K>, String), WatchError>
where
    K: StoredObject,
{
    let mut objects = Vec::new();
    let mut params = ListParams {
        label_selector: selector.labels.clone(),
        field_selector: selector.fields.clone(),
        // The server's cache would answer sooner, but all in one piece, and anybody may make that as large as he likes.
        limit: Some(PAGE_SIZE),
        ..ListParams::default()
    };
    loop {
        let page = timeout(RESPONSE_TIMEOUT, api.list(&params))
            .await
            .map_err(|_| WatchError::NoResponse)?;
        let page = page.map_err(watch_error)?;
        // What is not wanted may be much, and is never held all at once.
        objects.extend(page.items.into_iter().filter(|object| selector.admits(object)));
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
    RETRY_BACKOFF.with_half_jitter(failures.saturating_sub(1), random_unit())
}

/// Returns a draw from 0 to 1.
fn random_unit() -> f64 {
    f64::from(getrandom::u32().unwrap_or(u32::MAX / 2)) / f64::from(u32::MAX)
}
