//! Plans Import objects, the Services made for them, and their EndpointSlices.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use adit_config::cluster::{NetworkConfig, NetworkMode};
use adit_core::name::ServiceName;
use adit_core::policy::WorkloadPattern;
use adit_core::snapshot::PeerExport;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointPort;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use super::{
    ObjectChange, PlanHistory, PlanInput, PlannedWrite, WritePlan, node_reports, owned_metadata,
    service_reference,
};
use crate::api::{Condition, Import, ImportPort, ImportSpec, Status, Workloads};
use crate::controller::addresses::{self, AddressPool, Allocation};
use crate::controller::cluster_state::{ClusterState, is_ours, service_ref};
use crate::controller::debounce::Debounced;
use crate::controller::exports::ConditionVerdict;
use crate::controller::imports::{ImportDecisions, SERVED, WantedImport, was_ready};
use crate::controller::ports::{self, ImportPorts};
use crate::controller::slices::{self, EndpointSource};
use crate::controller::{ObservedPeers, conditions};

/// Time for which the addresses of a released import stay reserved, from its release.
const ADDRESS_REST_LIFETIME: SignedDuration = SignedDuration::from_hours(24);

pub(super) fn plan_imports(
    world: &ClusterState,
    now: &PlanInput<'_>,
    imports: &ImportDecisions,
    memory: &mut PlanHistory,
    plan: &mut WritePlan,
) {
    let wanted = &imports.all;
    memory
        .imports
        .retain(|(service, from), _| wanted.get(service).is_some_and(|w| w.from == *from));
    let (given, mut ports) = allocate(world, now, wanted);
    let mut slices = BTreeSet::new();
    let mut stubs: BTreeSet<&ServiceName> = imports.stubs.iter().collect();
    for (service, want) in wanted {
        let name = service_ref(service).object_name();
        let one = ImportPlan {
            world,
            now,
            service,
            want,
            stored: world.imports.get(&name),
            allocation: given.get(&name).cloned().unwrap_or_default(),
            ports: ports.remove(&name).unwrap_or_default(),
            name,
        };
        if want.create_service {
            stubs.insert(service);
        }
        one.plan(memory, plan, &mut slices);
    }
    for (service, object) in &world.services {
        if is_ours(object) && !stubs.contains(service) {
            plan.writes.push(PlannedWrite::Service(ObjectChange::Delete(object.clone())));
        }
    }
    for (key, slice) in &world.slices {
        if !slices.contains(key) {
            plan.writes.push(PlannedWrite::Slice(ObjectChange::Delete(slice.clone())));
        }
    }
    let kept: BTreeSet<String> = wanted.keys().map(|s| service_ref(s).object_name()).collect();
    let why = imports.only_by_name.iter();
    let why: BTreeMap<String, &ConditionVerdict> =
        why.map(|(service, verdict)| (service_ref(service).object_name(), verdict)).collect();
    for (name, stored) in &world.imports {
        if !kept.contains(name) {
            plan.writes.extend(
                plan_release(stored, why.get(name).copied(), now).map(PlannedWrite::Import),
            );
        }
    }
}

/// Plans what becomes of an import that nobody wants any more.
fn plan_release(
    stored: &Arc<Import>,
    why: Option<&ConditionVerdict>,
    now: &PlanInput<'_>,
) -> Option<ObjectChange<Import>> {
    let since = stored.spec.released_at.as_ref().and_then(|t| t.parse::<Timestamp>().ok());
    match since {
        Some(since) if now.clock.duration_since(since) >= ADDRESS_REST_LIFETIME => {
            Some(ObjectChange::Delete(stored.clone()))
        }
        Some(_) => released_status(stored, why, now),
        None => {
            let mut object = (**stored).clone();
            object.spec.released_at = Some(now.timestamp());
            Some(ObjectChange::Replace(Box::new(object)))
        }
    }
}

/// Plans the status of a released import.
fn released_status(
    stored: &Import,
    why: Option<&ConditionVerdict>,
    now: &PlanInput<'_>,
) -> Option<ObjectChange<Import>> {
    let before = Status::conditions(stored.status.as_ref());
    let message =
        format!("{} does not export it to us, or nothing here asks for it", stored.spec.from);
    let verdict = why.cloned().unwrap_or_else(|| ConditionVerdict::bad("Released", message));
    let fresh = conditions::clear(&conditions::clear(before, "Conflict"), SERVED);
    let fresh =
        conditions::set(&fresh, "Ready", &verdict, stored.metadata.generation, &now.timestamp());
    (fresh != before).then(|| {
        let status = Some(Status { conditions: fresh });
        ObjectChange::Status(Box::new(Import { status, ..stored.clone() }))
    })
}

/// Allocates the addresses and ports of all imports.
fn allocate(
    world: &ClusterState,
    now: &PlanInput<'_>,
    wanted: &BTreeMap<ServiceName, WantedImport>,
) -> (BTreeMap<String, Allocation>, BTreeMap<String, ImportPorts>) {
    let network = &now.config.network;
    let local = network.mode == NetworkMode::LocalRange;
    let held = |import: &Import| -> Vec<IpAddr> {
        import.spec.addresses.iter().filter_map(|a| a.parse().ok()).collect()
    };
    let held: BTreeMap<String, Vec<IpAddr>> =
        world.imports.iter().map(|(name, import)| (name.clone(), held(import))).collect();
    let mut need = BTreeMap::new();
    let mut ports = BTreeMap::new();
    for (service, want) in wanted {
        let name = service_ref(service).object_name();
        let families = world.services.get(service).map(|s| slices::families(s));
        let families = families.filter(|_| local).unwrap_or_default();
        need.insert(name.clone(), families);
        ports.insert(name.clone(), import_ports(world, now, service, want));
    }
    let pools = (AddressPool::v4(network.range), AddressPool::v6(network.range6));
    let mut given = if local {
        addresses::allocate(pools, &held, &need)
    } else {
        need.keys().map(|name| (name.clone(), Allocation::default())).collect()
    };
    let held = world.imports.iter().map(|(name, import)| {
        let ports = import.spec.ports.iter().map(|p| (p.name.clone(), p.listen));
        (name.clone(), ports.collect::<BTreeMap<_, _>>())
    });
    let held: BTreeMap<_, _> = held.collect();
    let names = |ports: &ImportPorts| ports.all().into_iter().map(|p| p.name).collect();
    let wanted: BTreeMap<String, Vec<String>> =
        ports.iter().map(|(name, ports)| (name.clone(), names(ports))).collect();
    let first = network.listener_port;
    let listen = if local {
        // Each import has addresses of its own, and so all ports.
        let bounds = (first, first.saturating_add(NetworkConfig::LISTENER_PORTS));
        let only = |name: &String, names: &Vec<String>| {
            let mine = held.get(name).map(|ports| (name.clone(), ports.clone()));
            let need = BTreeMap::from([(name.clone(), names.clone())]);
            addresses::allocate_ports(bounds, &mine.into_iter().collect(), &need)
        };
        wanted.iter().flat_map(|(name, names)| only(name, names)).collect()
    } else {
        addresses::allocate_ports((first, addresses::FIRST_NODE_PORT), &held, &wanted)
    };
    for (name, ports) in &mut ports {
        let mine = listen.get(name);
        let count = ports.used.len();
        let listens = |port: &mut ImportPort| {
            let listen = mine.and_then(|mine| mine.get(&port.name));
            port.listen = listen.copied().unwrap_or_default();
            listen.is_some()
        };
        ports.used.retain_mut(listens);
        ports.retained.retain_mut(listens);
        if let Some(given) = given.get_mut(name).filter(|_| ports.used.len() < count) {
            given.exhausted = true;
        }
    }
    (given, ports)
}

/// Returns the used ports as the exporting side announces them, or announced them last.
fn import_ports(
    world: &ClusterState,
    now: &PlanInput<'_>,
    service: &ServiceName,
    want: &WantedImport,
) -> ImportPorts {
    let stored = world.imports.get(&service_ref(service).object_name());
    let stored = stored.filter(|import| import.spec.from == want.from.as_str());
    let uses = want.port_use(world, service);
    let mut ports = match (peer_export(now.peers, service, want), stored) {
        (Some(export), _) => uses.select_of_export(export),
        (None, Some(stored)) => uses.select(stored.spec.ports.clone()),
        (None, None) => ImportPorts::default(),
    };
    if let Some(stored) = stored {
        ports.retained = ports::retained_ports(world, service, stored, &ports.used);
    }
    ports
}

/// Returns the export as its cluster announces it; `None` if the cluster cannot be heard now, or
/// does not export it.
fn peer_export<'a>(
    peers: &'a ObservedPeers,
    service: &ServiceName,
    want: &WantedImport,
) -> Option<&'a PeerExport> {
    peers.live_view(&want.from)?.exports.get(service).map(|export| &**export)
}

/// An import, and everything that belongs to it.
struct ImportPlan<'a> {
    world: &'a ClusterState,
    now: &'a PlanInput<'a>,
    service: &'a ServiceName,
    want: &'a WantedImport,
    stored: Option<&'a Arc<Import>>,
    allocation: Allocation,
    ports: ImportPorts,
    name: String,
}

impl ImportPlan<'_> {
    fn plan(
        self,
        memory: &mut PlanHistory,
        plan: &mut WritePlan,
        kept: &mut BTreeSet<(String, String)>,
    ) {
        let stub = self.world.services.get(self.service);
        self.plan_stub(stub, plan);
        let spec = ImportSpec {
            service: service_ref(self.service),
            from: self.want.from.to_string(),
            addresses: self.allocation.addresses.iter().map(ToString::to_string).collect(),
            ports: self.ports.all(),
            allow: self.want.allow.clone(),
            displaced_by: self.displaced_by(),
            released_at: None,
        };
        let verdict = self.verdict(memory, plan);
        if self.ports.left_out > 0 {
            let (service, count) = (self.service, self.ports.used.len());
            let message = format!(
                "{service} has {} ports more than the {count} of an import{}",
                self.ports.left_out,
                if self.want.named { "" } else { " that imports do not name" }
            );
            plan.warn(service_reference(self.world, service), "TooManyPorts", &message);
        }
        let filled =
            stub.map(|stub| slices::slice_ports(stub, &self.ports.used)).unwrap_or_default();
        let blocked = self.local_obstacle(stub, &filled);
        let Some(stored) = self.stored.filter(|stored| stored.spec == spec) else {
            // Its slices wait until its addresses are stored, and stay as they are until then;
            // except slices that are displaced by somebody else's endpoints: whoever changes the
            // object again and again must not keep them.
            if !self.world.has_endpoints(self.service) {
                self.keep_slices(kept);
            }
            let change = match self.stored {
                Some(stored) => {
                    ObjectChange::Replace(Box::new(Import { spec, ..(**stored).clone() }))
                }
                None => {
                    let metadata = owned_metadata(self.world, &self.name);
                    ObjectChange::Create(Box::new(Import { metadata, spec, status: None }))
                }
            };
            plan.writes.push(PlannedWrite::Import(change));
            return;
        };
        let mut unwritten = None;
        if !self.world.observed_services.contains(self.service.name()) {
            self.keep_slices(kept);
        } else if let (Some(stub), None) = (stub, &blocked) {
            let planned = plan.writes.len();
            self.plan_slices(stub, &filled, self.is_ready(memory), plan, kept);
            let writes = &plan.writes[planned..];
            unwritten = writes.iter().find_map(|write| self.now.failing.get(&write.key()));
            if !writes.is_empty() && unwritten.is_none() {
                // The objects are written before the status that describes them.
                return;
            }
        }
        let unwritten = unwritten.map(|why| {
            let message = format!("the EndpointSlice of {} cannot be written: {why}", self.service);
            ConditionVerdict::bad("SliceNotWritten", message)
        });
        let blocked = blocked.or(unwritten);
        if let Some(blocked) = &blocked {
            let about = service_reference(self.world, self.service);
            plan.warn(about, blocked.reason, &blocked.message);
        }
        self.plan_status(stored, blocked.or(verdict), memory, plan);
    }

    fn plan_stub(&self, stub: Option<&Arc<Service>>, plan: &mut WritePlan) {
        if !self.want.create_service || self.ports.used.is_empty() || self.why_unfit().is_some() {
            return;
        }
        let mode = self.now.config.network.mode;
        let change = match stub {
            None if self.world.namespaces.contains(self.service.namespace.as_str()) => {
                let owner = self.world.owner.as_ref();
                let stub = slices::stub_service(
                    self.service,
                    &self.want.from,
                    &self.ports.used,
                    mode,
                    owner,
                );
                Some(ObjectChange::Create(Box::new(stub)))
            }
            Some(stub) if is_ours(stub) => slices::corrected_stub(stub, &self.ports.used, mode)
                .map(|s| ObjectChange::Replace(Box::new(s))),
            None | Some(_) => None,
        };
        plan.writes.extend(change.map(PlannedWrite::Service));
    }

    /// Returns the reason why no Service can be created as the other side describes it: the API
    /// server would refuse it.
    fn why_unfit(&self) -> Option<&'static str> {
        let ports = &self.ports.used;
        let names: BTreeSet<&str> = ports.iter().map(|p| p.name.as_str()).collect();
        let numbers: BTreeSet<u16> = ports.iter().map(|p| p.number).collect();
        let count = ports.len();
        if self.service.name().starts_with(|c: char| !c.is_ascii_lowercase()) {
            Some("the name of a Service begins with a letter")
        } else if numbers.contains(&0) {
            Some("a port has the number 0")
        } else if count > 1 && names.contains("") {
            Some("of several ports each must have a name")
        } else {
            let twice = names.len().min(numbers.len()) < count;
            twice.then_some("two ports have one number, or one name")
        }
    }

    fn plan_slices(
        &self,
        stub: &Service,
        ports: &[EndpointPort],
        ready: bool,
        plan: &mut WritePlan,
        kept: &mut BTreeSet<(String, String)>,
    ) {
        let behind = match self.now.config.network.mode {
            NetworkMode::LocalRange => EndpointSource::Local(&self.allocation.addresses),
            NetworkMode::NodeAddress => EndpointSource::Nodes(&self.world.nodes),
        };
        let owner = self.world.owner.as_ref();
        for slice in slices::import_slices(self.service, stub, ports, behind, ready, owner) {
            let key = (slice.namespace().unwrap_or_default(), slice.name_any());
            match self.world.slices.get(&key) {
                None => {
                    plan.writes.push(PlannedWrite::Slice(ObjectChange::Create(Box::new(slice))))
                }
                Some(stored) if slices::is_current(stored, &slice) => {}
                // The address family of a slice cannot be changed.
                Some(stored) if stored.address_type != slice.address_type => continue,
                Some(stored) => {
                    let mut fixed = slice;
                    fixed.metadata.resource_version = stored.resource_version();
                    plan.writes.push(PlannedWrite::Slice(ObjectChange::Replace(Box::new(fixed))));
                }
            }
            kept.insert(key);
        }
    }

    fn keep_slices(&self, kept: &mut BTreeSet<(String, String)>) {
        let namespace = self.service.namespace.as_str();
        let names = slices::NAME_SUFFIXES.map(|suffix| format!("{}{suffix}", self.service.name()));
        kept.extend(names.map(|name| (namespace.to_owned(), name)));
    }

    fn plan_status(
        &self,
        stored: &Import,
        verdict: Option<ConditionVerdict>,
        memory: &mut PlanHistory,
        plan: &mut WritePlan,
    ) {
        let before = Status::conditions(stored.status.as_ref());
        let generation = stored.metadata.generation;
        let clock = self.now.timestamp();
        let mut fresh = before.to_vec();
        if let Some(verdict) = verdict {
            if verdict.good && conditions::find(before, SERVED).is_none() {
                let message =
                    format!("requests for {} were served by {}", self.service, self.want.from);
                let served = ConditionVerdict::good("WasReady", message);
                fresh = conditions::set(&fresh, SERVED, &served, generation, &clock);
            }
            fresh = conditions::set(&fresh, "Ready", &verdict, generation, &clock);
        }
        if self.want.others.is_empty() {
            fresh = conditions::clear(&fresh, "Conflict");
        } else {
            let others: Vec<&str> = self.want.others.iter().map(|c| c.as_str()).collect();
            let message = format!(
                "{} is imported from {}; {} would give it too (name one in imports)",
                self.service,
                self.want.from,
                others.join(", ")
            );
            plan.warn(service_reference(self.world, self.service), "SeveralClusters", &message);
            let conflict = ConditionVerdict::good("SeveralClusters", message);
            fresh = conditions::set(&fresh, "Conflict", &conflict, generation, &clock);
        }
        fresh = self.with_node_reports(&fresh, generation, memory, plan);
        if fresh != before {
            let status = Some(Status { conditions: fresh });
            let object = Import { status, ..stored.clone() };
            plan.writes.push(PlannedWrite::Import(ObjectChange::Status(Box::new(object))));
        }
    }

    /// Adds the conditions about nodes' reports: callers that are refused, and nodes that do not
    /// serve the import.
    fn with_node_reports(
        &self,
        before: &[Condition],
        generation: Option<i64>,
        memory: &mut PlanHistory,
        plan: &mut WritePlan,
    ) -> Vec<Condition> {
        let (now, name) = (self.now, self.service.to_string());
        let mut fresh = before.to_vec();
        for (kind, topic, verdict) in [
            ("Refusing", "CallersRefused", node_reports::refused_callers(now, "import", &name)),
            ("NotServed", "NotServed", node_reports::broken_locally(now, &name)),
        ] {
            if let Some(verdict) = &verdict {
                plan.warn(service_reference(self.world, self.service), topic, &verdict.message);
            }
            let object = format!("Import {name}");
            let told =
                node_reports::NodeCondition { object, generation, kind, is_vague: false, now };
            fresh = told.apply(&fresh, verdict.as_ref(), memory, plan);
        }
        fresh
    }

    fn is_ready(&self, memory: &PlanHistory) -> bool {
        memory
            .imports
            .get(&(self.service.clone(), self.want.from.clone()))
            .is_some_and(Debounced::value)
    }

    /// Returns what prevents the import here, whatever the other side does.
    fn local_obstacle(
        &self,
        stub: Option<&Arc<Service>>,
        filled: &[EndpointPort],
    ) -> Option<ConditionVerdict> {
        let (service, from) = (self.service, &self.want.from);
        if !self.now.config.links.iter().any(|l| l.cluster == *from) {
            return Some(ConditionVerdict::bad("NotLinked", format!("there is no link to {from}")));
        }
        let makes = self.want.create_service && stub.is_none_or(|stub| is_ours(stub));
        if let Some(why) = self.why_unfit().filter(|_| makes) {
            let message = format!("no Service can be made as {from} exports {service}: {why}");
            return Some(ConditionVerdict::bad("BadExport", message));
        }
        let Some(stub) = stub else {
            if !self.world.namespaces.contains(service.namespace.as_str()) {
                let message = format!("there is no namespace {}", service.namespace);
                return Some(ConditionVerdict::bad("NoNamespace", message));
            }
            // Without its ports no Service can be created; the verdict about the other side is the
            // reason then.
            let waits = self.want.create_service && self.ports.used.is_empty();
            let message = format!("there is no Service {service}");
            return (!waits).then(|| ConditionVerdict::bad("NoService", message));
        };
        if let Some(why) = slices::why_unfillable(stub) {
            let message = format!("{service} cannot stand for an import: {why}");
            return Some(ConditionVerdict::bad("UnsupportedService", message));
        }
        if let Some(by) = self.displaced_by() {
            return Some(self.displaced_verdict(&by));
        }
        if self.allocation.exhausted {
            return Some(match self.now.config.network.mode {
                NetworkMode::LocalRange => ConditionVerdict::bad(
                    "AddressesExhausted",
                    "no address of the node-local range is free (network.range, range6)",
                ),
                NetworkMode::NodeAddress => ConditionVerdict::bad(
                    "PortsExhausted",
                    "no port is free between network.listenerPort and the NodePorts",
                ),
            });
        }
        let offers =
            peer_export(self.now.peers, service, self.want).is_some_and(|e| !e.ports.is_empty());
        if filled.is_empty() && offers {
            let message = format!("{service} has no port that {from} exports, by name or number");
            return Some(ConditionVerdict::bad("NoMatchingPort", message));
        }
        None
    }

    /// Returns what serves in its place; what the object says until somebody has looked.
    fn displaced_by(&self) -> Option<String> {
        if self.world.observed_services.contains(self.service.name()) {
            return self.world.served_by.get(self.service).cloned();
        }
        self.stored?.spec.displaced_by.clone()
    }

    /// Returns the verdict for a Service with somebody else's endpoints. They may have come after
    /// ours, and nobody has said that they are meant, so the verdict stays until somebody does.
    fn displaced_verdict(&self, by: &str) -> ConditionVerdict {
        let (service, from) = (self.service, &self.want.from);
        let wish = if self.want.named {
            format!("`adit import {service} --remove`")
        } else {
            format!("`kubectl delete import.adit.dev {}`", self.name)
        };
        let message = format!(
            "{service} has endpoints of its own, ready or not: {by}; so {from} does not serve it. Delete them, or say that \
             this is meant: {wish}"
        );
        ConditionVerdict::bad("ServiceHasOwnEndpoints", message)
    }

    /// Returns the reason why no workload may use the import: those allowed here are none of those
    /// granted there. Includes the command that corrects it.
    fn why_grants_miss(&self, export: &PeerExport) -> Option<String> {
        let pattern = |allowed: &Workloads| {
            Some(WorkloadPattern {
                namespace: allowed.namespace.parse().ok()?,
                service_account: allowed.service_account.parse().ok()?,
            })
        };
        let ours: Vec<WorkloadPattern> = self.want.allow.iter().filter_map(pattern).collect();
        if ours.iter().any(|ours| export.grants.iter().any(|theirs| ours.overlaps(theirs))) {
            return None;
        }
        let list = |patterns: &[WorkloadPattern]| match patterns {
            [] => "nobody".to_owned(),
            some => some.iter().take(5).map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        let (service, from) = (self.service, &self.want.from);
        Some(format!(
            "nobody may use {service}: here it is for {}, and {from} grants it to {}; \
             `adit import {service} --from {from} --allow NAMESPACE/SERVICEACCOUNT` says whom it is for, and \
             `adit export {service} --allow` there whom it is granted to",
            list(&ours),
            list(&export.grants),
        ))
    }

    /// Returns the verdict about the other side; `None` if nobody reports and there is a verdict
    /// already.
    fn verdict(&self, memory: &mut PlanHistory, plan: &mut WritePlan) -> Option<ConditionVerdict> {
        let (service, from) = (self.service, &self.want.from);
        let conditions = Status::conditions(self.stored.and_then(|i| i.status.as_ref()));
        let before = conditions::find(conditions, "Ready");
        let before = before.filter(|_| {
            let same =
                |i: &&Arc<Import>| i.spec.released_at.is_none() && i.spec.from == from.as_str();
            self.stored.filter(same).is_some()
        });
        let peers = self.now.peers;
        let ready = peer_export(peers, service, self.want)
            .map(|export| peers.live_view(from).is_some_and(|view| view.has_ready_backend(export)));
        // If nobody reports anything of the cluster, that says nothing about it.
        let heard = peers.observed(from);
        let seen = heard.map(|_| ready == Some(true));
        let steady = memory
            .imports
            .entry((service.clone(), from.clone()))
            .or_insert_with(|| Debounced::new(before.is_some_and(|c| c.status == "True")));
        plan.wake_at(steady.observe(seen, self.now.at));
        if let Some(export) = peer_export(peers, service, self.want).filter(|_| steady.value())
            && let Some(message) = self.why_grants_miss(export)
        {
            plan.warn(service_reference(self.world, service), "NobodyAllowed", &message);
            return Some(ConditionVerdict::bad("NobodyAllowed", message));
        }
        if steady.value() {
            return Some(ConditionVerdict::good("Ready", format!("{from} serves {service}")));
        }
        if seen.is_none() {
            let verdict = if peers.reporting {
                ConditionVerdict::bad("LinkDown", format!("no node of ours has heard {from} yet"))
            } else {
                ConditionVerdict::bad("NotReporting", "no node of ours has told what it hears yet")
            };
            return before.is_none_or(|c| c.reason == "NotReporting").then_some(verdict);
        }
        let live = heard.is_some_and(|heard| heard.live);
        Some(match (live, ready) {
            (false, _) => {
                ConditionVerdict::bad("LinkDown", format!("no node of ours hears {from}"))
            }
            (true, None) if self.stored.is_some_and(|import| was_ready(import)) => {
                let message = format!(
                    "{from} has withdrawn its export of {service}, which was served here: `adit export` there offers it \
                     again, and `kubectl delete import {}` here says that it is wanted no longer",
                    self.name
                );
                plan.warn(service_reference(self.world, service), "Withdrawn", &message);
                ConditionVerdict::bad("Withdrawn", message)
            }
            (true, None) => ConditionVerdict::bad(
                "NotExported",
                format!("{from} does not export {service} to us"),
            ),
            (true, Some(_)) => {
                // Of several ports the first: none of them has a backend.
                let port =
                    peer_export(peers, service, self.want).and_then(|export| export.ports.first());
                let Some(port) = port else {
                    let message = format!("{from} has no ready backend of {service}");
                    return Some(ConditionVerdict::bad("NoBackend", message));
                };
                let reason = node_reports::code_reason(port.why_unready().name());
                ConditionVerdict::bad(reason, port.unready_sentence(service, from))
            }
        })
    }
}
