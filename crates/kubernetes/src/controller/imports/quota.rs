//! The room that one linked cluster gets here unasked: what it exports takes addresses, listeners and writes.
//!
//! Whoever may have Services made by the names that it exports could otherwise use up the range of addresses
//! within an hour, since an address rests for a day, and keep the API server busy. What the configuration names
//! is the operator's own word and is never counted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use adit_config::cluster::{ClusterConfig, NetworkMode};
use adit_core::name::{ClusterName, ServiceName};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use tokio::time::Instant;

use super::super::addresses::FIRST_NODE_PORT;
use super::super::cluster_state::{ClusterState, is_ours, service_ref};
use super::super::slices;
use super::withdrawn::{MAX_KEPT, MAX_KEPT_PORTS};

/// The most imports of one cluster that nobody named.
pub(in super::super) const MAX_IMPORTS: usize = 2500;
/// The most ports that these have together: each is a listener for every worker of every node.
const MAX_PORTS: usize = 2 * MAX_IMPORTS;
/// The most Services that one cluster may have made at once: as many as it may have imports.
const MAX_MADE: u32 = 2500;
/// One more may be made each time so long has passed, 500 in an hour. With [`MAX_MADE`] that is 14,500 addresses
/// in a day, which is less than its share of the default range.
const CREATE_INTERVAL: Duration = Duration::from_millis(7_200);

/// What an import would cost.
#[derive(Debug, Clone, Copy)]
pub(super) struct ImportCost {
    /// Its ports.
    pub(super) ports: usize,
    /// True if it stands already.
    pub(super) stands: bool,
}

/// The imports that one cluster does not get, by the limit that is in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in super::super) struct OmittedImports {
    imports: usize,
    addresses: usize,
    made: usize,
    kept: usize,
    share: usize,
}

impl OmittedImports {
    /// The one word for it, and a sentence that names cluster, limit and what to do.
    pub(in super::super) fn verdict(&self, cluster: &ClusterName) -> (&'static str, String) {
        let Self { imports, addresses, made, kept, share } = *self;
        let mut said = Vec::new();
        if imports > 0 {
            said.push((
                "TooManyImports",
                format!(
                    "{cluster} exports {imports} Services more than the {MAX_IMPORTS} (with {MAX_PORTS} ports) that are \
                     imported from one cluster by themselves"
                ),
            ));
        }
        if addresses > 0 {
            said.push((
                "ShareOfRangeUsed",
                format!(
                    "{addresses} exports of {cluster} get no address: its imports, those that ended within a day among \
                     them, hold the {share} that one cluster gets of network.range by itself"
                ),
            ));
        }
        if made > 0 {
            said.push((
                "TooManyServicesMade",
                format!(
                    "{made} exports of {cluster} wait for their Services: one cluster has {MAX_MADE} made at once and \
                     then {} an hour (import.createServices)",
                    3_600_000 / CREATE_INTERVAL.as_millis()
                ),
            ));
        }
        if kept > 0 {
            said.push((
                "TooManyWithdrawn",
                format!(
                    "{cluster} has withdrawn {kept} exports more than the {MAX_KEPT} that stay listed once they were \
                     served here; delete Imports that are wanted no longer"
                ),
            ));
        }
        let reason = said.first().map_or("TooManyImports", |(reason, _)| reason);
        let said: Vec<String> = said.into_iter().map(|(_, text)| text).collect();
        let what_to_do =
            "name those that are wanted in imports, or fewer namespaces in import.namespaces";
        (reason, format!("{}: {what_to_do}", said.join("; ")))
    }
}

/// The Services that one cluster has had made of late.
#[derive(Debug)]
struct ServiceCreations {
    /// How many more may be made now.
    left: u32,
    /// Since when that is so.
    since: Instant,
    /// Those that may be made and are not on record yet.
    admitted: BTreeSet<ServiceName>,
}

impl ServiceCreations {
    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since).as_millis();
        let fresh = u32::try_from(passed / CREATE_INTERVAL.as_millis()).unwrap_or(MAX_MADE);
        self.left = self.left.saturating_add(fresh).min(MAX_MADE);
        self.since += CREATE_INTERVAL.saturating_mul(fresh);
        if self.left == MAX_MADE {
            self.since = now;
        }
    }
}

/// What every linked cluster has had made, across rounds. Begins with what the Import objects tell.
#[derive(Debug, Default)]
pub(super) struct LinkQuotas(BTreeMap<ClusterName, ServiceCreations>);

/// The room of one cluster in one round.
#[derive(Debug)]
pub(super) struct LinkBudget<'a> {
    world: &'a ClusterState,
    made: &'a mut ServiceCreations,
    /// Addresses, or in mode `nodeAddress` ports, that it holds, and how many it may.
    held: usize,
    share: usize,
    by_ports: bool,
    imports: usize,
    ports: usize,
    /// Withdrawn imports that stay listed, and their ports.
    kept: (usize, usize),
    admitted: BTreeSet<ServiceName>,
    left_out: OmittedImports,
}

impl LinkQuotas {
    /// The room of each configured link.
    pub(super) fn budgets<'a>(
        &'a mut self,
        config: &ClusterConfig,
        world: &'a ClusterState,
        (at, clock): (Instant, Timestamp),
    ) -> BTreeMap<ClusterName, LinkBudget<'a>> {
        let linked: BTreeSet<&ClusterName> = config.links.iter().map(|l| &l.cluster).collect();
        self.0.retain(|cluster, _| linked.contains(cluster));
        let named: BTreeSet<String> =
            config.imports.iter().map(|r| service_ref(&r.service).object_name()).collect();
        for cluster in &linked {
            let begin = || ServiceCreations {
                left: remaining_by_record(world, cluster, &named, clock),
                since: at,
                admitted: BTreeSet::new(),
            };
            self.0.entry((*cluster).clone()).or_insert_with(begin).refill(at);
        }
        let by_ports = config.network.mode == NetworkMode::NodeAddress;
        let share = address_share(config, world);
        let mut held: BTreeMap<&str, usize> = BTreeMap::new();
        for import in unnamed_imports(world, &named) {
            let units = if by_ports { import.spec.ports.len() } else { 1 };
            *held.entry(&import.spec.from).or_default() += units;
        }
        let room = |(cluster, made): (&ClusterName, &'a mut ServiceCreations)| {
            let held = held.get(cluster.as_str()).copied().unwrap_or_default();
            let left_out = OmittedImports { share, ..OmittedImports::default() };
            let (imports, ports, kept, admitted) = (0, 0, (0, 0), BTreeSet::new());
            let room = LinkBudget {
                world,
                made,
                held,
                share,
                by_ports,
                imports,
                ports,
                kept,
                admitted,
                left_out,
            };
            (cluster.clone(), room)
        };
        self.0.iter_mut().map(room).collect()
    }
}

impl LinkBudget<'_> {
    /// Takes the room of one import, where there is some.
    pub(super) fn admit(&mut self, service: &ServiceName, cost: ImportCost) -> bool {
        if self.imports >= MAX_IMPORTS || self.ports + cost.ports > MAX_PORTS {
            self.left_out.imports += 1;
            return false;
        }
        let on_record = self.world.imports.contains_key(&service_ref(service).object_name());
        let units = match (cost.stands || on_record, self.by_ports) {
            (true, _) => 0,
            (false, true) => cost.ports,
            (false, false) => 1,
        };
        if units > 0 && self.held + units > self.share {
            self.left_out.addresses += 1;
            return false;
        }
        let makes = !cost.stands && !self.world.services.contains_key(service);
        if makes && !self.may_create(service) {
            self.left_out.made += 1;
            return false;
        }
        self.held += units;
        self.imports += 1;
        self.ports += cost.ports;
        true
    }

    /// Takes the room of one that is withdrawn and stays listed. Room of its own: what the cluster begins to export
    /// must not push out what is missed.
    pub(super) fn admit_withdrawn(&mut self, cost: ImportCost) -> bool {
        let (imports, ports) = self.kept;
        if imports >= MAX_KEPT || ports + cost.ports > MAX_KEPT_PORTS {
            self.left_out.kept += 1;
            return false;
        }
        self.kept = (imports + 1, ports + cost.ports);
        true
    }

    /// Each is counted once, however many rounds its record takes.
    fn may_create(&mut self, service: &ServiceName) -> bool {
        if !self.made.admitted.contains(service) {
            let Some(left) = self.made.left.checked_sub(1) else { return false };
            self.made.left = left;
        }
        self.admitted.insert(service.clone());
        true
    }

    /// Closes the round. Gives what was left out, if anything, and when to look again though nothing changes.
    pub(super) fn finish(self, now: Instant) -> (Option<OmittedImports>, Option<Instant>) {
        let Self { made, admitted, left_out, .. } = self;
        made.admitted = admitted;
        let any = left_out.imports + left_out.addresses + left_out.made + left_out.kept > 0;
        let wake = (left_out.made > 0).then(|| (made.since + CREATE_INTERVAL).max(now));
        (any.then_some(left_out), wake)
    }
}

/// The Import objects that the configuration does not name, with those that rest.
fn unnamed_imports<'a>(
    world: &'a ClusterState,
    named: &BTreeSet<String>,
) -> impl Iterator<Item = &'a crate::api::Import> {
    let other = world.imports.iter().filter(move |(name, _)| !named.contains(*name));
    other.map(|(_, import)| &**import)
}

/// How many Services a cluster may have made now, by the Import objects that there are. Each lasts for a day
/// after it has ended, and so tells of all that was made in this time.
fn remaining_by_record(
    world: &ClusterState,
    cluster: &ClusterName,
    named: &BTreeSet<String>,
    clock: Timestamp,
) -> u32 {
    let filled_a_stub = |import: &crate::api::Import| {
        let service = import.spec.service.parse().ok();
        service.and_then(|s| world.services.get(&s)).is_some_and(|s| !is_ours(s))
    };
    let ours = unnamed_imports(world, named)
        .filter(|import| import.spec.from == cluster.as_str() && !filled_a_stub(import));
    let mut made: Vec<i64> =
        ours.filter_map(|import| Some(import.creation_timestamp()?.0.as_millisecond())).collect();
    made.sort_unstable();
    let interval = i64::try_from(CREATE_INTERVAL.as_millis()).unwrap_or(i64::MAX);
    // In milliseconds of waiting that were used up.
    let all = interval.saturating_mul(i64::from(MAX_MADE));
    let (mut used, mut last) = (0_i64, made.first().copied().unwrap_or_default());
    for at in made.into_iter().map(Some).chain([None]) {
        let now = at.unwrap_or_else(|| clock.as_millisecond());
        used = used.saturating_sub(now.saturating_sub(last).max(0)).max(0);
        last = now;
        used = used.saturating_add(if at.is_some() { interval } else { 0 }).min(all);
    }
    u32::try_from((all - used) / interval).unwrap_or_default()
}

/// The most addresses (in mode `nodeAddress` ports) of one cluster: a quarter of all while others are linked, and
/// three quarters where none is, so that what is named finds room.
fn address_share(config: &ClusterConfig, world: &ClusterState) -> usize {
    let network = &config.network;
    let of_range =
        |bits: u8| 1_usize.checked_shl(u32::from(bits)).unwrap_or(usize::MAX).saturating_sub(2);
    let all = match network.mode {
        NetworkMode::NodeAddress => usize::from(FIRST_NODE_PORT - network.listener_port),
        NetworkMode::LocalRange => {
            let v4 = of_range(32 - network.range.1.min(32));
            let has_v6 = world.services.values().any(|service| slices::families(service).v6);
            if has_v6 { v4.min(of_range(128 - network.range6.1.min(128))) } else { v4 }
        }
    };
    if config.links.len() > 1 { (all / 4).max(1) } else { all - all / 4 }
}

#[cfg(test)]
mod tests;
