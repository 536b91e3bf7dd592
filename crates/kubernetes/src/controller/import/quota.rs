//! The budget of one linked cluster for automatic imports: they take addresses, listeners and
//! writes.
//!
//! A cluster that can have Services created by the names that it exports could otherwise use up the
//! address range within an hour, because an address stays reserved for a day, and keep the API
//! server busy. Imports that the configuration names are the operator's own decision and never
//! counted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use adit_config::cluster::{ClusterConfig, NetworkMode};
use adit_core::name::{ClusterName, ServiceName};
use adit_core::prefix::IpPrefix;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use tokio::time::Instant;

use super::addresses::FIRST_NODE_PORT;
use super::slices;
use super::withdrawn::{MAX_WITHDRAWN, MAX_WITHDRAWN_PORTS};
use crate::api::ServiceRef;
use crate::controller::cluster_state::{ClusterState, is_ours};

/// Most imports of one cluster that nobody named.
pub(crate) const MAX_IMPORTS: usize = 2500;
/// Most ports of these together: each is a listener for every worker of every node.
const MAX_PORTS: usize = 2 * MAX_IMPORTS;
/// Most Services created for one cluster at once: as many as it may have imports.
const MAX_CREATED: u32 = 2500;
/// From one further created Service to the next, 500 in an hour. With [`MAX_CREATED`] that makes
/// 14,500 addresses in a day, less than the cluster's share of the default range.
const CREATE_INTERVAL: Duration = Duration::from_millis(7_200);

/// Cost of an import.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ImportCost {
    /// Its ports.
    pub(crate) ports: usize,
    /// True if the import exists already.
    pub(crate) exists: bool,
}

/// Number of imports that one cluster does not get, by the limit that they exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct OmittedImports {
    imports: usize,
    addresses: usize,
    made: usize,
    withdrawn: usize,
    share: usize,
}

impl OmittedImports {
    /// Returns a condition's reason, and a sentence that names cluster, limit and what to do.
    pub(crate) fn verdict(&self, cluster: &ClusterName) -> (&'static str, String) {
        let Self { imports, addresses, made, withdrawn, share } = *self;
        let mut reasons = Vec::new();
        if imports > 0 {
            reasons.push((
                "TooManyImports",
                format!(
                    "{cluster} exports {imports} Services more than the {MAX_IMPORTS} (with {MAX_PORTS} ports) that are \
                     imported from one cluster by themselves"
                ),
            ));
        }
        if addresses > 0 {
            reasons.push((
                "ShareOfRangeUsed",
                format!(
                    "{addresses} exports of {cluster} get no address: its imports, those that ended within a day among \
                     them, hold the {share} that one cluster gets of network.range by itself"
                ),
            ));
        }
        if made > 0 {
            reasons.push((
                "TooManyServicesMade",
                format!(
                    "{made} exports of {cluster} wait for their Services: one cluster has {MAX_CREATED} made at once and \
                     then {} an hour (import.createServices)",
                    3_600_000 / CREATE_INTERVAL.as_millis()
                ),
            ));
        }
        if withdrawn > 0 {
            reasons.push((
                "TooManyWithdrawn",
                format!(
                    "{cluster} has withdrawn {withdrawn} exports more than the {MAX_WITHDRAWN} that stay listed once they were \
                     served here; delete Imports that are wanted no longer"
                ),
            ));
        }
        let reason = reasons.first().map_or("TooManyImports", |(reason, _)| reason);
        let reasons: Vec<String> = reasons.into_iter().map(|(_, text)| text).collect();
        let what_to_do =
            "name those that are wanted in imports, or fewer namespaces in import.namespaces";
        (reason, format!("{}: {what_to_do}", reasons.join("; ")))
    }
}

/// The Services created for one cluster recently.
#[derive(Debug)]
struct ServiceCreations {
    /// Services that may still be created, as of `since`.
    left: u32,
    /// When `left` was last brought up to date.
    since: Instant,
    /// Services that may be created and have no Import object yet.
    admitted: BTreeSet<ServiceName>,
}

impl ServiceCreations {
    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since).as_millis();
        let fresh = u32::try_from(passed / CREATE_INTERVAL.as_millis()).unwrap_or(MAX_CREATED);
        self.left = self.left.saturating_add(fresh).min(MAX_CREATED);
        self.since += CREATE_INTERVAL.saturating_mul(fresh);
        if self.left == MAX_CREATED {
            self.since = now;
        }
    }
}

/// The Services created for each linked cluster, across passes. Starts with what the Import objects
/// show.
#[derive(Debug, Default)]
pub(crate) struct LinkQuotas(BTreeMap<ClusterName, ServiceCreations>);

/// The budget of one cluster in one pass.
#[derive(Debug)]
pub(crate) struct LinkBudget<'a> {
    state: &'a ClusterState,
    made: &'a mut ServiceCreations,
    /// Number of addresses that it holds (in mode `nodeAddress`: ports), and below the most that it
    /// may hold.
    held: usize,
    share: usize,
    by_ports: bool,
    imports: usize,
    ports: usize,
    /// Withdrawn imports that stay listed, and their ports.
    withdrawn: (usize, usize),
    admitted: BTreeSet<ServiceName>,
    left_out: OmittedImports,
}

impl LinkQuotas {
    /// Returns the budget of each configured link.
    pub(crate) fn budgets<'a>(
        &'a mut self,
        config: &ClusterConfig,
        state: &'a ClusterState,
        (at, clock): (Instant, Timestamp),
    ) -> BTreeMap<ClusterName, LinkBudget<'a>> {
        let linked: BTreeSet<&ClusterName> = config.links.iter().map(|l| &l.cluster).collect();
        self.0.retain(|cluster, _| linked.contains(cluster));
        let named: BTreeSet<String> =
            config.imports.iter().map(|r| ServiceRef::from(&r.service).object_name()).collect();
        for cluster in &linked {
            let begin = || ServiceCreations {
                left: remaining_by_record(state, cluster, &named, clock),
                since: at,
                admitted: BTreeSet::new(),
            };
            self.0.entry((*cluster).clone()).or_insert_with(begin).refill(at);
        }
        let by_ports = config.network.mode == NetworkMode::NodeAddress;
        let share = address_share(config, state);
        let mut held: BTreeMap<&str, usize> = BTreeMap::new();
        for import in unnamed_imports(state, &named) {
            let units = if by_ports { import.spec.ports.len() } else { 1 };
            *held.entry(&import.spec.from).or_default() += units;
        }
        let budget_of = |(cluster, made): (&ClusterName, &'a mut ServiceCreations)| {
            let held = held.get(cluster.as_str()).copied().unwrap_or_default();
            let left_out = OmittedImports { share, ..OmittedImports::default() };
            let (imports, ports, withdrawn, admitted) = (0, 0, (0, 0), BTreeSet::new());
            let budget = LinkBudget {
                state,
                made,
                held,
                share,
                by_ports,
                imports,
                ports,
                withdrawn,
                admitted,
                left_out,
            };
            (cluster.clone(), budget)
        };
        self.0.iter_mut().map(budget_of).collect()
    }
}

impl LinkBudget<'_> {
    /// Charges one import. False if it exceeds the budget.
    pub(crate) fn admit(&mut self, service: &ServiceName, cost: ImportCost) -> bool {
        if self.imports >= MAX_IMPORTS || self.ports + cost.ports > MAX_PORTS {
            self.left_out.imports += 1;
            return false;
        }
        let on_record = self.state.imports.contains_key(&ServiceRef::from(service).object_name());
        let units = match (cost.exists || on_record, self.by_ports) {
            (true, _) => 0,
            (false, true) => cost.ports,
            (false, false) => 1,
        };
        if units > 0 && self.held + units > self.share {
            self.left_out.addresses += 1;
            return false;
        }
        let makes = !cost.exists && !self.state.services.contains_key(service);
        if makes && !self.may_create(service) {
            self.left_out.made += 1;
            return false;
        }
        self.held += units;
        self.imports += 1;
        self.ports += cost.ports;
        true
    }

    /// Charges one import that is withdrawn and stays listed. It has a budget of its own: new
    /// exports of the cluster must not displace what was served.
    pub(crate) fn admit_withdrawn(&mut self, cost: ImportCost) -> bool {
        let (imports, ports) = self.withdrawn;
        if imports >= MAX_WITHDRAWN || ports + cost.ports > MAX_WITHDRAWN_PORTS {
            self.left_out.withdrawn += 1;
            return false;
        }
        self.withdrawn = (imports + 1, ports + cost.ports);
        true
    }

    /// Each Service is counted once, however many passes pass until its Import object is stored.
    fn may_create(&mut self, service: &ServiceName) -> bool {
        if !self.made.admitted.contains(service) {
            let Some(left) = self.made.left.checked_sub(1) else { return false };
            self.made.left = left;
        }
        self.admitted.insert(service.clone());
        true
    }

    /// Ends the pass. Returns what was left out, if anything, and when to decide again though
    /// nothing changes.
    pub(crate) fn finish(self, now: Instant) -> (Option<OmittedImports>, Option<Instant>) {
        let Self { made, admitted, left_out, .. } = self;
        made.admitted = admitted;
        let any = left_out.imports + left_out.addresses + left_out.made + left_out.withdrawn > 0;
        let wake = (left_out.made > 0).then(|| (made.since + CREATE_INTERVAL).max(now));
        (any.then_some(left_out), wake)
    }
}

/// Returns the Import objects that the configuration does not name, released ones included.
fn unnamed_imports<'a>(
    state: &'a ClusterState,
    named: &BTreeSet<String>,
) -> impl Iterator<Item = &'a crate::api::Import> {
    let other = state.imports.iter().filter(move |(name, _)| !named.contains(*name));
    other.map(|(_, import)| &**import)
}

/// Returns how many Services may be created for a cluster now, judged by the Import objects. Each
/// lasts for a day after its end, so they show everything that was created in this time.
fn remaining_by_record(
    state: &ClusterState,
    cluster: &ClusterName,
    named: &BTreeSet<String>,
    clock: Timestamp,
) -> u32 {
    let filled_a_stub = |import: &crate::api::Import| {
        let service = import.spec.service.parse().ok();
        service.and_then(|s| state.services.get(&s)).is_some_and(|s| !is_ours(s))
    };
    let unnamed = unnamed_imports(state, named)
        .filter(|import| import.spec.from == cluster.as_str() && !filled_a_stub(import));
    let mut made: Vec<i64> = unnamed
        .filter_map(|import| Some(import.creation_timestamp()?.0.as_millisecond()))
        .collect();
    made.sort_unstable();
    let interval = i64::try_from(CREATE_INTERVAL.as_millis()).unwrap_or(i64::MAX);
    // In milliseconds of waiting that were used up.
    let all = interval.saturating_mul(i64::from(MAX_CREATED));
    let (mut used, mut last) = (0_i64, made.first().copied().unwrap_or_default());
    for at in made.into_iter().map(Some).chain([None]) {
        let now = at.unwrap_or_else(|| clock.as_millisecond());
        used = used.saturating_sub(now.saturating_sub(last).max(0)).max(0);
        last = now;
        used = used.saturating_add(if at.is_some() { interval } else { 0 }).min(all);
    }
    u32::try_from((all - used) / interval).unwrap_or_default()
}

/// Returns the most addresses (in mode `nodeAddress`: ports) of one cluster: a quarter of all if
/// others are linked, and three quarters if none is, so that named imports find room.
fn address_share(config: &ClusterConfig, state: &ClusterState) -> usize {
    let network = &config.network;
    let of_range =
        |range: IpPrefix| usize::try_from(range.size()).unwrap_or(usize::MAX).saturating_sub(2);
    let all = match network.mode {
        NetworkMode::NodeAddress => usize::from(FIRST_NODE_PORT - network.listener_port),
        NetworkMode::LocalRange => {
            let v4 = of_range(network.range);
            let has_v6 = state.services.values().any(|service| slices::families(service).v6);
            if has_v6 { v4.min(of_range(network.range6)) } else { v4 }
        }
    };
    if config.links.len() > 1 { (all / 4).max(1) } else { all - all / 4 }
}

#[cfg(test)]
mod tests;
