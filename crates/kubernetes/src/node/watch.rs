//! Keeps what a node has seen up to date.
//!
//! The server selects the objects, so that the cost of a node grows with exports, imports and the
//! node's own pods, never with the cluster. A part that could not be listed yet stays as it was
//! before, which at first is what was cached on disk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_core::admission::rate_limit::cooldown;
use adit_runtime::publish_if_changed;
use futures_util::future;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use tokio::time::sleep;

use super::location::NodeLocation;
use super::observed::{ObservedCluster, ObservedPod, ObservedSlice};
use crate::api::{
    CONFIG_MAP, Export, Import, Link, NAMESPACE, NODE, ServiceRef, TRUST_BUNDLE_KEY,
    TRUST_CONFIG_MAP,
};
use crate::store::{ChangeSignal, Selector, Store};

/// From a change to the publication that includes it: changes in between share it.
const BATCH_DELAY: Duration = Duration::from_millis(20);

/// The stores of a node.
struct NodeStores {
    config: Store<ConfigMap>,
    trust: Store<ConfigMap>,
    links: Store<Link>,
    imports: Store<Import>,
    exports: Store<Export>,
    slices: Store<EndpointSlice>,
    pods: Store<Pod>,
    /// A kind that older clusters do not have.
    ranges: Store<ServiceCIDR>,
}

/// Publishes what is seen from `place` at each change, while the future is polled. `out` holds the
/// last value.
pub async fn run(client: Client, place: NodeLocation, out: watch::Sender<Arc<ObservedCluster>>) {
    let changed = ChangeSignal::default();
    let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let (config, a) = Store::new(config_maps.clone(), Selector::named(CONFIG_MAP), &changed);
    let (trust, b) = Store::new(config_maps, Selector::named(TRUST_CONFIG_MAP), &changed);
    let (links, c) = Store::new(Api::all(client.clone()), Selector::default(), &changed);
    let (imports, d) = Store::new(Api::all(client.clone()), Selector::default(), &changed);
    let (exports, e) = Store::new(Api::all(client.clone()), Selector::default(), &changed);
    let (slices, f) = Store::new(Api::all(client.clone()), needed_slices(&out.borrow()), &changed);
    let here = Selector::fields(format!("spec.nodeName={}", place.node));
    let (pods, g) = Store::new(Api::all(client.clone()), here, &changed);
    let (ranges, h) = Store::optional(Api::all(client), Selector::default(), &changed);
    let stores = NodeStores { config, trust, links, imports, exports, slices, pods, ranges };
    let watching = future::join(future::join5(a, b, c, d, e), future::join3(f, g, h));
    tokio::select! {
        _ = watching => {}
        () = publish(&stores, &changed, &out) => {}
    }
}

async fn publish(
    stores: &NodeStores,
    changed: &ChangeSignal,
    out: &watch::Sender<Arc<ObservedCluster>>,
) {
    let mut changes = changed.subscribe();
    let mut stale = false;
    loop {
        changes.mark_unchanged();
        let began = Instant::now();
        let now = stores.observe(&out.borrow());
        stores.slices.select(needed_slices(&now));
        publish_if_changed(out, Arc::new(now));
        stores.log_staleness(&mut stale);
        if changes.changed().await.is_err() {
            return;
        }
        sleep(cooldown(began.elapsed(), BATCH_DELAY)).await;
    }
}

/// Selects the slices that matter: those of exported Services, of our own nodes, and of the API
/// server, which must never be a backend.
fn needed_slices(observed: &ObservedCluster) -> Selector {
    let exported = observed.exports.values().map(|export| {
        let ServiceRef { namespace, name } = export.backend();
        (&**namespace, &**name)
    });
    Selector::slices_of_services(exported.chain([(NAMESPACE, NODE), ("default", "kubernetes")]))
}

impl NodeStores {
    /// Returns what is seen now; `last` fills in what was not listed yet.
    fn observe(&self, last: &ObservedCluster) -> ObservedCluster {
        let mut now = last.clone();
        if let Some(data) = self.config.listed() {
            let data = data.into_iter().find(|c| c.name_any() == CONFIG_MAP);
            now.config = data.and_then(|c| c.data.clone()).unwrap_or_default();
        }
        if let Some(data) = self.trust.listed() {
            let data = data.into_iter().find(|c| c.name_any() == TRUST_CONFIG_MAP);
            let bundle = data.and_then(|c| c.data.as_ref()?.get(TRUST_BUNDLE_KEY).cloned());
            // A bundle that is being replaced does not remove the trusted one.
            now.bundle = bundle.or(now.bundle);
        }
        if let Some(links) = self.links.listed() {
            let addresses = |l: Arc<Link>| (l.name_any(), l.spec.addresses.clone());
            now.links = links.into_iter().map(addresses).collect();
        }
        if let Some(imports) = self.imports.listed() {
            now.imports = imports.into_iter().map(|i| (i.name_any(), i.spec.clone())).collect();
        }
        if let Some(exports) = self.exports.listed() {
            now.exports = exports.into_iter().map(|e| (e.name_any(), e.spec.clone())).collect();
        }
        if let Some(slices) = self.slices.listed() {
            now.slices = collect_by_name(slices, ObservedSlice::from_slice);
        }
        if let Some(pods) = self.pods.listed() {
            now.pods = collect_by_name(pods, ObservedPod::from_pod);
        }
        if let Some(ranges) = self.ranges.listed() {
            let prefixes = |r: Arc<ServiceCIDR>| r.spec.clone().and_then(|s| s.cidrs);
            now.service_ranges = ranges.into_iter().filter_map(prefixes).flatten().collect();
        }
        now.is_complete = self.config.was_listed()
            && self.trust.was_listed()
            && self.links.was_listed()
            && self.imports.was_listed()
            && self.exports.was_listed()
            && self.slices.is_complete()
            && self.pods.was_listed()
            // If they may not be listed, nothing waits for them.
            && (self.ranges.was_listed() || self.ranges.stale().is_some());
        now.is_complete |= last.is_complete;
        now
    }

    /// Logs once that the API server does not answer, and once that it does again.
    fn log_staleness(&self, was: &mut bool) {
        let all = [
            self.config.stale(),
            self.trust.stale(),
            self.links.stale(),
            self.imports.stale(),
            self.exports.stale(),
            self.slices.stale(),
            self.pods.stale(),
        ];
        let stale = all.into_iter().flatten().min_by_key(|s| s.since);
        match (&stale, *was) {
            (Some(stale), false) => {
                tracing::warn!(
                    reason = stale.reason,
                    "the API server does not answer; what was seen last stays in force"
                );
            }
            (None, true) => tracing::info!("the API server answers again"),
            _ => {}
        }
        *was = stale.is_some();
    }
}

/// Collects the relevant parts of namespaced objects, by their names.
fn collect_by_name<K: ResourceExt, T>(
    objects: Vec<Arc<K>>,
    of: impl Fn(&K) -> Option<T>,
) -> BTreeMap<String, T> {
    let one = |object: Arc<K>| {
        let name = format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any());
        Some((name, of(&object)?))
    };
    objects.into_iter().filter_map(one).collect()
}
