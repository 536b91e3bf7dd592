//! Plans Import objects, the Services made for them, and their EndpointSlices.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use adit_config::cluster::NetworkMode;
use adit_core::name::ServiceName;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointPort;
use kube::ResourceExt;

use super::agents::plan_agents;
use super::allocation::{ImportAllocations, allocate_imports};
use super::decision::ImportDecisions;
use super::release::plan_release;
use super::slices::{self, EndpointSource};
use super::subject::PlannedImport;
use super::verdict::ReadinessHistory;
use super::withdrawn::SERVED;
use crate::api::{Condition, Import, ImportSpec, ObjectStatus, ServiceRef};
use crate::controller::cluster_state::{ClusterState, is_ours};
use crate::controller::conditions::{self, ConditionVerdict};
use crate::controller::debounce::Debounced;
use crate::controller::node_reports::{self, WordedTimes};
use crate::controller::plan::{
    ObjectChange, PlanInput, PlannedWrite, WritePlan, service_reference,
};
use crate::ownership::owned_metadata;

pub(crate) fn plan_imports(
    state: &ClusterState,
    input: &PlanInput<'_>,
    imports: &ImportDecisions,
    (history, worded): (&mut ReadinessHistory, &mut WordedTimes),
    plan: &mut WritePlan,
) {
    let wanted = &imports.all;
    history.retain(|(service, from), _| wanted.get(service).is_some_and(|w| w.from == *from));
    let ImportAllocations { addresses, mut ports } = allocate_imports(state, input, wanted);
    let mut slices = BTreeSet::new();
    let mut stubs: BTreeSet<&ServiceName> =
        imports.stubs.iter().filter(|s| !state.agents.makes_service(s, false)).collect();
    plan_agents(state, wanted, plan);
    for (service, want) in wanted {
        let name = ServiceRef::from(service).object_name();
        let subject = PlannedImport {
            state,
            input,
            service,
            want,
            stored: state.imports.get(&name),
            allocation: addresses.get(&name).cloned().unwrap_or_default(),
            ports: ports.remove(&name).unwrap_or_default(),
            name,
        };
        if want.create_service && !subject.leaves_service_to_kagent() {
            stubs.insert(service);
        }
        subject.plan((history, worded), plan, &mut slices);
    }
    for (service, object) in &state.services {
        if is_ours(object) && !stubs.contains(service) {
            plan.writes.push(PlannedWrite::Service(ObjectChange::Delete(object.clone())));
        }
    }
    for (key, slice) in &state.slices {
        if !slices.contains(key) {
            plan.writes.push(PlannedWrite::Slice(ObjectChange::Delete(slice.clone())));
        }
    }
    let kept: BTreeSet<String> = wanted.keys().map(|s| ServiceRef::from(s).object_name()).collect();
    let why = imports.only_by_name.iter();
    let why: BTreeMap<String, &ConditionVerdict> =
        why.map(|(service, verdict)| (ServiceRef::from(service).object_name(), verdict)).collect();
    for (name, stored) in &state.imports {
        if !kept.contains(name) {
            plan.writes.extend(
                plan_release(stored, why.get(name).copied(), input).map(PlannedWrite::Import),
            );
        }
    }
}

impl PlannedImport<'_> {
    fn plan(
        self,
        (history, worded): (&mut ReadinessHistory, &mut WordedTimes),
        plan: &mut WritePlan,
        kept: &mut BTreeSet<(String, String)>,
    ) {
        let stub = self.state.services.get(self.service);
        self.plan_stub(stub, plan);
        let verdict = self.verdict(history, plan);
        self.warn_of_left_out(plan);
        let filled =
            stub.map(|stub| slices::slice_ports(stub, &self.ports.used)).unwrap_or_default();
        let blocked = self.local_obstacle(stub, &filled);
        let spec = self.spec();
        let Some(stored) = self.stored.filter(|stored| stored.spec == spec) else {
            self.plan_spec(spec, plan, kept);
            return;
        };
        let mut unwritten = None;
        if !self.state.observed_services.contains(&self.service.to_string()) {
            self.keep_slices(kept);
        } else if let (Some(stub), None) = (stub, &blocked) {
            let planned = plan.writes.len();
            let key = (self.service.clone(), self.want.from.clone());
            let is_ready = history.get(&key).is_some_and(Debounced::value);
            // Endpoints on their way out serve while no other is ready; ours, which would only refuse, would get a part
            // of the callers.
            if is_ready || !self.state.leaving.contains_key(self.service) {
                self.plan_slices((stub, &filled), is_ready, plan, kept);
            }
            let writes = &plan.writes[planned..];
            unwritten = writes.iter().find_map(|write| self.input.failing.get(&write.key()));
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
            let about = service_reference(self.state, self.service);
            plan.warn(about, blocked.reason, &blocked.message);
        }
        let verdict = blocked.or_else(|| verdict.map(|verdict| self.beside_leaving(verdict)));
        self.plan_status(stored, verdict, worded, plan);
    }

    fn spec(&self) -> ImportSpec {
        ImportSpec {
            service: ServiceRef::from(self.service),
            from: self.want.from.to_string(),
            addresses: self.allocation.addresses.iter().map(ToString::to_string).collect(),
            ports: self.ports.all(),
            allow: self.want.allow.clone(),
            displaced_by: self.displaced_by(),
            released_at: None,
        }
    }

    fn warn_of_left_out(&self, plan: &mut WritePlan) {
        if self.ports.left_out > 0 {
            let (service, count) = (self.service, self.ports.used.len());
            let message = format!(
                "{service} has {} ports more than the {count} of an import{}",
                self.ports.left_out,
                if self.want.named { "" } else { " that imports do not name" }
            );
            plan.warn(service_reference(self.state, service), "TooManyPorts", &message);
        }
    }

    /// Plans the Import object. Its slices wait until its addresses are stored, and stay as they are
    /// until then; except slices that are displaced by somebody else's endpoints: whoever changes
    /// the object again and again must not keep them.
    fn plan_spec(
        &self,
        spec: ImportSpec,
        plan: &mut WritePlan,
        kept: &mut BTreeSet<(String, String)>,
    ) {
        if !self.state.has_endpoints(self.service) {
            self.keep_slices(kept);
        }
        let change = match self.stored {
            Some(stored) => ObjectChange::Replace(Box::new(Import { spec, ..(**stored).clone() })),
            None => {
                let metadata = owned_metadata(self.name.clone(), None, self.state.owner.as_ref());
                ObjectChange::Create(Box::new(Import { metadata, spec, status: None }))
            }
        };
        plan.writes.push(PlannedWrite::Import(change));
    }

    fn plan_stub(&self, stub: Option<&Arc<Service>>, plan: &mut WritePlan) {
        let is_wanted = self.want.create_service && !self.leaves_service_to_kagent();
        if !is_wanted || self.ports.used.is_empty() || self.why_unfit().is_some() {
            return;
        }
        let mode = self.input.config.network.mode;
        let change = match stub {
            None if self.state.namespaces.contains(self.service.namespace.as_str()) => {
                let owner = self.state.owner.as_ref();
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

    fn plan_slices(
        &self,
        (stub, ports): (&Service, &[EndpointPort]),
        ready: bool,
        plan: &mut WritePlan,
        kept: &mut BTreeSet<(String, String)>,
    ) {
        let behind = match self.input.config.network.mode {
            NetworkMode::LocalRange => EndpointSource::Local(&self.allocation.addresses),
            NetworkMode::NodeAddress => EndpointSource::Nodes(&self.state.nodes),
        };
        let owner = self.state.owner.as_ref();
        for slice in slices::import_slices(self.service, stub, ports, behind, ready, owner) {
            let key = (slice.namespace().unwrap_or_default(), slice.name_any());
            match self.state.slices.get(&key) {
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
        worded: &mut WordedTimes,
        plan: &mut WritePlan,
    ) {
        let before = ObjectStatus::conditions(stored.status.as_ref());
        let generation = stored.metadata.generation;
        let clock = self.input.time();
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
            plan.warn(service_reference(self.state, self.service), "SeveralClusters", &message);
            let conflict = ConditionVerdict::good("SeveralClusters", message);
            fresh = conditions::set(&fresh, "Conflict", &conflict, generation, &clock);
        }
        fresh = self.with_node_reports(&fresh, generation, worded, plan);
        if fresh != before {
            let status = Some(ObjectStatus { conditions: fresh });
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
        worded: &mut WordedTimes,
        plan: &mut WritePlan,
    ) -> Vec<Condition> {
        let (input, name) = (self.input, self.service.to_string());
        let mut fresh = before.to_vec();
        let about = || service_reference(self.state, self.service);
        for (cause, note) in node_reports::refusal_warnings(input, "import", &name) {
            plan.warn_of_cause(about(), "CallersRefused", &cause, &note);
        }
        let broken = node_reports::broken_locally(input, &name);
        if let Some(broken) = &broken {
            plan.warn_of_cause(about(), "NotServed", "", &broken.message);
        }
        let refused = node_reports::refused_callers(input, "import", &name);
        for (kind, verdict) in [("Refusing", refused), ("NotServed", broken)] {
            let object = format!("Import {name}");
            let condition = node_reports::ReportedCondition {
                object,
                generation,
                kind,
                is_vague: false,
                input,
            };
            fresh = condition.apply(&fresh, verdict.as_ref(), worded, plan);
        }
        fresh
    }
}
