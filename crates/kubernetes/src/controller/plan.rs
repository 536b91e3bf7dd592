//! The plan: what has to be written, so that the cluster is as the configuration and our nodes
//! demand.
//!
//! The `planner` makes it. If everything is as it should be, it writes nothing. An object that depends on another is planned only after that one is stored.
//! So a plan may be written in any order, or in part, and a controller that dies between two writes
//! leaves nothing contradictory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use adit_config::cluster::ClusterConfig;
use adit_core::name::{ClusterName, ServiceName};
use k8s_openapi::api::core::v1::{ObjectReference, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::{Resource, ResourceExt};
use tokio::time::Instant;

use super::cluster_state::ClusterState;
use super::kagent::KagentAgent;
use super::network_migration::MigrationPhase;
use super::peers::LinkedClusters;
use crate::api::{Export, Import, Link, ServiceRef, truncated};

/// Input of a plan, beside the cluster's state.
#[derive(Debug)]
pub(super) struct PlanInput<'a> {
    pub(super) config: &'a ClusterConfig,
    /// The problem of the configuration as it is written; `config` is the last good one.
    pub(super) trouble: Option<&'a str>,
    /// Links whose trust bundle is not valid, and the reason.
    pub(super) bad_bundles: &'a BTreeMap<ClusterName, String>,
    pub(super) peers: &'a LinkedClusters,
    /// State of the nodes' network.
    pub(super) migration: MigrationPhase,
    /// Objects that could not be written recently, and the reason.
    pub(super) failing: BTreeMap<ResourceKey, String>,
    pub(super) at: Instant,
    pub(super) clock: Timestamp,
}

impl PlanInput<'_> {
    /// Returns the time as conditions have it, in whole seconds.
    pub(super) fn time(&self) -> Time {
        Time(Timestamp::from_second(self.clock.as_second()).unwrap_or(self.clock))
    }

    /// Returns the time as text.
    pub(super) fn timestamp(&self) -> String {
        self.time().0.to_string()
    }
}

/// A write of an object.
#[derive(Debug, Clone)]
pub(super) enum ObjectChange<K> {
    Create(Box<K>),
    Replace(Box<K>),
    Status(Box<K>),
    Delete(Arc<K>),
}

impl<K: Resource<DynamicType = ()>> ObjectChange<K> {
    /// Returns the kind, namespace and name of the object.
    pub(super) fn key(&self) -> ResourceKey {
        let object: &K = match self {
            Self::Create(object) | Self::Replace(object) | Self::Status(object) => object,
            Self::Delete(object) => object,
        };
        let kind = K::kind(&()).into_owned();
        ResourceKey { kind, namespace: object.namespace(), name: object.name_any() }
    }
}

/// Kind, namespace and name of an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ResourceKey {
    pub(super) kind: String,
    pub(super) namespace: Option<String>,
    pub(super) name: String,
}

impl std::fmt::Display for ResourceKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ", self.kind)?;
        self.namespace.iter().try_for_each(|n| write!(f, "{n}/"))?;
        f.write_str(&self.name)
    }
}

/// A write of an object of any kind.
#[derive(Debug, Clone)]
pub(super) enum PlannedWrite {
    Service(ObjectChange<Service>),
    Slice(ObjectChange<EndpointSlice>),
    Import(ObjectChange<Import>),
    Export(ObjectChange<Export>),
    Link(ObjectChange<Link>),
    Agent(ObjectChange<KagentAgent>),
}

impl PlannedWrite {
    /// Returns the order of writing: first what clients wait for, then what that depends on, then
    /// statuses.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Self::Slice(_) => 0,
            Self::Service(_) | Self::Agent(_) => 1,
            Self::Export(_) | Self::Import(_) | Self::Link(_) => 2 + u8::from(self.is_status()),
        }
    }

    /// Returns whether it is only a status.
    pub(super) fn is_status(&self) -> bool {
        matches!(
            self,
            Self::Export(ObjectChange::Status(_))
                | Self::Import(ObjectChange::Status(_))
                | Self::Link(ObjectChange::Status(_))
        )
    }

    pub(super) fn key(&self) -> ResourceKey {
        match self {
            Self::Service(change) => change.key(),
            Self::Slice(change) => change.key(),
            Self::Import(change) => change.key(),
            Self::Export(change) => change.key(),
            Self::Link(change) => change.key(),
            Self::Agent(change) => change.key(),
        }
    }
}

/// A warning for operators about an object.
#[derive(Debug, Clone)]
pub(super) struct ObjectWarning {
    pub(super) about: ObjectReference,
    pub(super) reason: String,
    /// The cause, if other words about the same cause are no news; `None` if they are.
    pub(super) cause: Option<String>,
    pub(super) note: String,
}

/// Everything that a plan asks for.
#[derive(Debug, Default)]
pub(super) struct WritePlan {
    pub(super) writes: Vec<PlannedWrite>,
    pub(super) warnings: Vec<ObjectWarning>,
    /// A problem for the controller's status.
    pub(super) trouble: Option<String>,
    /// When to plan again though nothing changes.
    pub(super) wake: Option<Instant>,
    /// The Services of which it matters whether somebody here serves them.
    pub(super) watched: BTreeSet<ServiceName>,
}

impl WritePlan {
    /// Has the next pass begin at this time at the latest.
    pub(super) fn wake_at(&mut self, at: Option<Instant>) {
        self.wake = self.wake.into_iter().chain(at).min();
    }

    /// Adds a warning.
    pub(super) fn warn(&mut self, about: ObjectReference, reason: &str, note: &str) {
        let (reason, note) = (reason.into(), truncated(note).into_owned());
        self.warnings.push(ObjectWarning { about, reason, cause: None, note });
    }

    /// Adds a warning in the words of nodes, which change all the time: its first words stand while the cause lasts.
    pub(super) fn warn_of_cause(
        &mut self,
        about: ObjectReference,
        reason: &str,
        cause: &str,
        note: &str,
    ) {
        let (reason, note) = (reason.into(), truncated(note).into_owned());
        self.warnings.push(ObjectWarning { about, reason, cause: Some(cause.into()), note });
    }
}

/// Returns a Service as the object of an Event. If its namespace, which would hold the Event, does
/// not exist, the object is its Import.
pub(super) fn service_reference(state: &ClusterState, service: &ServiceName) -> ObjectReference {
    if !state.namespaces.contains(service.namespace.as_str()) {
        return ObjectReference {
            api_version: Some("adit.dev/v1alpha1".into()),
            kind: Some("Import".into()),
            name: Some(ServiceRef::from(service).object_name()),
            ..ObjectReference::default()
        };
    }
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Service".into()),
        namespace: Some(service.namespace.to_string()),
        name: Some(service.name().into()),
        uid: state.services.get(service).and_then(|s| s.uid()),
        ..ObjectReference::default()
    }
}
