use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::api::Api;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::list_watch::IDLE_TIMEOUT;
use super::object_store::{MAX_ENDPOINTS, UNKNOWN_KIND_TIMEOUT, version_number};
use super::relist_pace::{FREE_RELISTS, RELIST_BACKOFF};
use super::*;
use crate::fake_api_server::{FakeApiServer, Fault, eventually};

const MAPS: &str = "/configmaps";

fn map(name: &str) -> serde_json::Value {
    json!({"metadata": {"name": name, "namespace": "a"}})
}

fn watched(server: &FakeApiServer) -> (Store<ConfigMap>, ChangeSignal, JoinSet<()>) {
    let changed = ChangeSignal::default();
    let (store, task) = Store::new(Api::all(server.client()), Selector::default(), &changed);
    let mut tasks = JoinSet::new();
    tasks.spawn(task);
    (store, changed, tasks)
}

fn names(store: &Store<ConfigMap>) -> Vec<String> {
    store.objects().iter().map(|o| o.name_any()).collect()
}

#[tokio::test(start_paused = true)]
async fn what_changes_is_seen_and_rings() {
    let server = FakeApiServer::default();
    server.put(MAPS, map("one"));
    let (store, changed, _tasks) = watched(&server);
    eventually("first list", || names(&store) == ["one"]).await;
    eventually("watch", || !server.requests(|r| r.contains("watch=")).is_empty()).await;
    let mut heard = changed.subscribe();
    server.put(MAPS, map("two"));
    heard.changed().await.unwrap();
    assert_eq!(names(&store), ["one", "two"]);
    server.delete(MAPS, "a", "one");
    eventually("deletion", || names(&store) == ["two"]).await;
}

#[tokio::test(start_paused = true)]
async fn gone_lists_again_and_never_empties() {
    let server = FakeApiServer::default();
    server.put(MAPS, map("one"));
    let (store, _changed, _tasks) = watched(&server);
    eventually("watch", || !server.requests(|r| r.contains("watch=")).is_empty()).await;
    // The list that follows is slow, then fails; what was known stays meanwhile.
    server.fail(|_, path| (!path.contains("watch=")).then_some(Fault::Status(500)));
    server.expire_watches();
    server.put(MAPS, map("two"));
    eventually("staleness", || store.stale().is_some()).await;
    assert_eq!(names(&store), ["one"]);
    server.heal();
    eventually("recovery", || names(&store) == ["one", "two"]).await;
    assert!(store.stale().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_list_that_never_ends_is_given_up_and_tried_again() {
    let server = FakeApiServer::default();
    server.put(MAPS, map("one"));
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    server.fail(move |_, _| (count.fetch_add(1, Ordering::Relaxed) == 0).then_some(Fault::Silence));
    let (store, _changed, _tasks) = watched(&server);
    eventually("second list", || store.is_complete()).await;
    assert_eq!(names(&store), ["one"]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_stalls_is_begun_again_where_it_was() {
    let server = FakeApiServer::default();
    server.put(MAPS, map("one"));
    let stalled = Arc::new(AtomicU32::new(0));
    let count = stalled.clone();
    server.fail(move |_, path| {
        (path.contains("watch=") && count.fetch_add(1, Ordering::Relaxed) == 0)
            .then_some(Fault::Stall)
    });
    let (store, _changed, _tasks) = watched(&server);
    eventually("stalled watch", || stalled.load(Ordering::Relaxed) == 1).await;
    sleep(IDLE_TIMEOUT + Duration::from_secs(1)).await;
    eventually("second watch", || stalled.load(Ordering::Relaxed) > 1).await;
    server.put(MAPS, map("two"));
    eventually("change", || names(&store) == ["one", "two"]).await;
    let lists = server.requests(|r| !r.contains("watch="));
    assert_eq!(lists.len(), 1, "a stall is no reason to list again: {lists:?}");
}

#[tokio::test(start_paused = true)]
async fn another_selection_replaces_the_content_at_once_or_not_at_all() {
    let server = FakeApiServer::default();
    server.put(MAPS, map("one"));
    server.put(MAPS, map("two"));
    let (store, _changed, _tasks) = watched(&server);
    eventually("all", || names(&store).len() == 2).await;
    server.fail(|_, path| (!path.contains("watch=")).then_some(Fault::Status(429)));
    store.select(Selector::named("two"));
    eventually("refusal", || store.stale().is_some()).await;
    assert_eq!(names(&store).len(), 2);
    assert!(!store.is_complete());
    server.heal();
    eventually("selection", || store.is_complete()).await;
    assert_eq!(names(&store), ["two"]);
}

#[tokio::test(start_paused = true)]
async fn a_selection_that_changes_all_the_time_is_listed_now_and_then() {
    let server = FakeApiServer::default();
    server.put(MAPS, map("one"));
    let (store, _changed, _tasks) = watched(&server);
    eventually("all", || store.is_complete()).await;
    for number in 0..600 {
        store.select(Selector::named(&format!("n{number}")));
        sleep(Duration::from_secs(1)).await;
    }
    let lists = server.requests(|r| !r.contains("watch=")).len();
    assert!((55..=85).contains(&lists), "{lists} lists in ten minutes");
    eventually("the last", || store.is_complete()).await;
    assert_eq!(store.held_selector(), Some(Selector::named("n599")));
    // Once that is over a change is listed at once, and some more soon.
    sleep(RELIST_BACKOFF.max * 12).await;
    let began = Instant::now();
    store.select(Selector::named("one"));
    eventually("one", || names(&store) == ["one"]).await;
    assert!(began.elapsed() < RELIST_BACKOFF.first / 2, "after {:?}", began.elapsed());
    for number in 1..FREE_RELISTS {
        store.select(Selector::named(&format!("n{number}")));
        eventually("another", || store.is_complete()).await;
    }
    assert!(began.elapsed() <= RELIST_BACKOFF.first * FREE_RELISTS, "after {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn services_that_go_away_cost_no_list() {
    let server = FakeApiServer::default();
    let all = ["a/one", "a/two", "b/two"];
    all.iter().for_each(|service| drop(server.put(SLICES, slice(service, 0, 1))));
    let of = |services: &[&'static str]| {
        Selector::slices_of_services(services.iter().map(|s| s.split_once('/').unwrap()))
    };
    let (store, _tasks) = slices_of(&server, of(&all));
    eventually("first list", || store.is_complete()).await;
    store.select(of(&["a/two", "b/two"]));
    eventually("fewer names", || store.is_complete()).await;
    assert_eq!(kept(&store), ["a/two-0", "b/two-0"]);
    // Whether the watch goes on or begins anew.
    server.put(SLICES, slice("a/two", 1, 1));
    eventually("a change", || kept(&store).contains(&"a/two-1".to_owned())).await;
    sleep(IDLE_TIMEOUT * 2).await;
    server.delete(SLICES, "a", "two-1");
    server.put(SLICES, slice("a/one", 1, 1));
    eventually("another", || kept(&store) == ["a/two-0", "b/two-0"]).await;
    assert_eq!(server.requests(|r| !r.contains("watch=")).len(), 1);
    // One that comes back is listed.
    store.select(of(&all));
    eventually("all again", || store.is_complete()).await;
    assert_eq!(kept(&store), ["a/one-0", "a/one-1", "a/two-0", "b/two-0"]);
    assert_eq!(server.requests(|r| !r.contains("watch=")).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_unknown_has_no_objects() {
    let server = FakeApiServer::default();
    server.fail(|_, _| Some(Fault::Status(404)));
    let changed = ChangeSignal::default();
    let (store, task) = Store::optional(Api::all(server.client()), Selector::default(), &changed);
    let mut tasks = JoinSet::new();
    tasks.spawn(task);
    eventually("empty", || store.is_complete()).await;
    server.heal();
    server.put(MAPS, map("one"));
    eventually("kind", || names(&store) == ["one"]).await;
    // One that was known and is not any more may be an API server that starts.
    server.fail(|_, _| Some(Fault::Status(404)));
    server.expire_watches();
    eventually("staleness", || store.stale().is_some()).await;
    assert_eq!(names(&store), ["one"]);
    sleep(UNKNOWN_KIND_TIMEOUT).await;
    eventually("end", || names(&store).is_empty()).await;
}

#[test]
fn a_selector_of_many_names_is_given_up() {
    assert!(Selector::slices_of_services([]).selects_nothing);
    let few = Selector::slices_of_services([("x", "b"), ("x", "a"), ("y", "b")]).labels;
    assert_eq!(few.as_deref(), Some("kubernetes.io/service-name in (a,b)"));
    let many: Vec<String> = (0..2000).map(|n| format!("a-rather-long-name-{n}")).collect();
    let many = Selector::slices_of_services(many.iter().map(|name| ("x", &**name))).labels;
    assert_eq!(many.as_deref(), Some("kubernetes.io/service-name"));
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_must_be_there_is_waited_for() {
    let server = FakeApiServer::default();
    server.fail(|_, _| Some(Fault::Status(404)));
    let (store, _changed, _tasks) = watched(&server);
    sleep(Duration::from_secs(30)).await;
    assert!(!store.was_listed(), "the API server has only just begun");
    sleep(UNKNOWN_KIND_TIMEOUT).await;
    eventually("end of patience", || store.was_listed()).await;
}

#[tokio::test(start_paused = true)]
async fn one_word_of_a_server_that_was_away_empties_nothing() {
    let server = FakeApiServer::default();
    server.put(MAPS, map("one"));
    let (store, _changed, _tasks) = watched(&server);
    eventually("first list", || names(&store) == ["one"]).await;
    let away = Arc::new(AtomicU32::new(500));
    let says = away.clone();
    server.fail(move |_, _| Some(Fault::Status(says.load(Ordering::Relaxed) as u16)));
    server.expire_watches();
    sleep(UNKNOWN_KIND_TIMEOUT * 5).await;
    away.store(404, Ordering::Relaxed);
    sleep(UNKNOWN_KIND_TIMEOUT - Duration::from_secs(1)).await;
    assert_eq!(names(&store), ["one"]);
    server.heal();
    server.put(MAPS, map("two"));
    let began = Instant::now();
    eventually("recovery", || names(&store) == ["one", "two"]).await;
    assert!(
        began.elapsed() < Duration::from_secs(6),
        "asked again only after {:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_older_than_what_we_wrote_does_not_undo_it() {
    let server = FakeApiServer::default();
    server.put(MAPS, map("one"));
    let (store, _changed, _tasks) = watched(&server);
    eventually("first list", || names(&store) == ["one"]).await;
    let [one] = &store.objects()[..] else { panic!("one object") };
    let version = version_number(&**one).unwrap() + 10;
    let mut ours = (**one).clone();
    ours.metadata.name = Some("ours".into());
    ours.metadata.resource_version = Some(version.to_string());
    store.put(ours);
    server.expire_watches();
    server.put(MAPS, map("two"));
    eventually("second list", || names(&store).contains(&"two".to_owned())).await;
    assert_eq!(names(&store), ["one", "ours", "two"]);
}

const SLICES: &str = "discovery.k8s.io/endpointslices";

/// An EndpointSlice of `NAMESPACE/SERVICE`.
fn slice(service: &str, nth: usize, endpoints: usize) -> serde_json::Value {
    let (namespace, service) = service.split_once('/').unwrap();
    json!({
        "metadata": {
            "name": format!("{service}-{nth}"), "namespace": namespace,
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "endpoints": vec![json!({"addresses": ["10.0.0.9"]}); endpoints],
    })
}

fn slices_of(server: &FakeApiServer, selector: Selector) -> (Store<EndpointSlice>, JoinSet<()>) {
    let (store, task) = Store::new(Api::all(server.client()), selector, &ChangeSignal::default());
    let mut tasks = JoinSet::new();
    tasks.spawn(task);
    (store, tasks)
}

fn kept(store: &Store<EndpointSlice>) -> Vec<String> {
    let name = |o: &Arc<EndpointSlice>| format!("{}/{}", o.namespace().unwrap(), o.name_any());
    store.objects().iter().map(name).collect()
}

#[tokio::test(start_paused = true)]
async fn slices_of_that_name_in_other_namespaces_are_not_kept() {
    let server = FakeApiServer::default();
    server.put(SLICES, slice("shop/bot", 0, 1));
    server.put(SLICES, slice("evil/bot", 0, 1000));
    let of = |services: &[&'static str]| {
        Selector::slices_of_services(services.iter().map(|s| s.split_once('/').unwrap()))
    };
    let (store, _tasks) = slices_of(&server, of(&["shop/bot"]));
    eventually("first list", || store.is_complete()).await;
    server.put(SLICES, slice("evil/bot", 1, 1000));
    server.put(SLICES, slice("shop/bot", 1, 1));
    eventually("a change", || kept(&store).len() > 1).await;
    assert_eq!(kept(&store), ["shop/bot-0", "shop/bot-1"]);
    // Once they are wanted they are listed; fewer cost no list.
    store.select(of(&["shop/bot", "evil/bot"]));
    eventually("more", || store.is_complete()).await;
    assert_eq!(kept(&store).len(), 4);
    store.select(of(&["evil/bot"]));
    eventually("fewer", || store.is_complete()).await;
    assert_eq!(kept(&store), ["evil/bot-0", "evil/bot-1"]);
    assert_eq!(server.requests(|r| !r.contains("watch=")).len(), 2);
    store.select(of(&["shop/bot", "evil/bot"]));
    eventually("both again", || store.is_complete()).await;
    assert_eq!(kept(&store).len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_namespace_has_so_many_endpoints_and_takes_nobody_elses() {
    let server = FakeApiServer::default();
    for nth in 0..30 {
        server.put(SLICES, slice("evil/bot", nth, 999));
    }
    let services = [("evil", "bot"), ("shop", "bot")];
    let (store, _tasks) = slices_of(&server, Selector::slices_of_services(services));
    eventually("first list", || store.is_complete()).await;
    assert_eq!(kept(&store).len(), MAX_ENDPOINTS / 1000);
    server.put(SLICES, slice("shop/bot", 0, 999));
    eventually("a neighbour", || kept(&store).contains(&"shop/bot-0".to_owned())).await;
    for nth in 0..25 {
        server.delete(SLICES, "evil", &format!("bot-{nth}"));
    }
    sleep(IDLE_TIMEOUT).await;
    eventually("what was left out", || kept(&store).len() == 6).await;
}

#[tokio::test(start_paused = true)]
async fn other_names_for_the_same_request_cost_no_list() {
    let server = FakeApiServer::default();
    let many: Vec<String> = (0..2000).map(|n| format!("a-rather-long-name-{n}")).collect();
    let first = |count| {
        Selector::slices_of_services(many[..count].iter().map(|name: &String| ("x", &**name)))
    };
    let (store, _tasks) = slices_of(&server, first(2000));
    eventually("first list", || store.is_complete()).await;
    for count in (1991..2000).rev() {
        store.select(first(count));
        eventually("other names", || store.is_complete()).await;
    }
    assert_eq!(server.requests(|r| !r.contains("watch=")).len(), 1);
    store.select(first(1));
    eventually("few names", || store.is_complete()).await;
    assert_eq!(server.requests(|r| !r.contains("watch=")).len(), 1);
    store.select(first(2));
    eventually("another request", || store.is_complete()).await;
    assert_eq!(server.requests(|r| !r.contains("watch=")).len(), 2);
}
