//! Authorization: default deny, checked on both sides, checked again while a stream lives.
//!
//! An [`Export`] carries [`Grant`]s; a grant names a cluster, a namespace and a
//! ServiceAccount. The grants of one cluster travel to it with the export, so that the importing side
//! refuses early what the exporting side would refuse anyway. The answer to a check is a [`Permit`],
//! a value that the next step of the data path needs; a refusal is a [`Denial`] that says which rule
//! was missing, in the words of the configuration file.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::code::Code;
pub use crate::grant::{Grant, Pattern, Source, Target, WorkloadPattern};
use crate::name::{ClusterName, ServiceName};
use crate::snapshot::{ClusterView, Export, Import, Snapshot};
use crate::spiffe::Workload;

/// Proof that policy said yes to one source and one target. Only this module makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permit {
    source: Source,
    target: Target,
    side: PermitSide,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum PermitSide {
    Import { from: ClusterName },
    Export,
}

/// The facts that a permit rests on, besides its holder: while these are unchanged, so is the permit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PermitBasis {
    /// Our own export of a service.
    Export(ServiceName),
    /// Our import of a service, and that cluster's export of it.
    Import(ClusterName, ServiceName),
}

/// The bases of the permits that have to be checked again when `after` replaces `before`. Parts that both share
/// are not looked at.
#[must_use]
pub fn changed_bases(before: &Snapshot, after: &Snapshot) -> BTreeSet<PermitBasis> {
    let exports = before.exports.changes(&after.exports).map(|(s, _)| s.clone());
    let mut all: BTreeSet<_> = exports.map(PermitBasis::Export).collect();
    if !before.imports.is_same(&after.imports) {
        for (one, other) in [(before, after), (after, before)] {
            let same = |i: &&Arc<Import>| other.imports.get(&i.service).is_some_and(|o| o == *i);
            let differ = one.imports.iter().filter(|import| !same(import));
            all.extend(differ.map(|i| PermitBasis::Import(i.from.clone(), i.service.clone())));
        }
    }
    let nothing = Arc::<ClusterView>::default();
    for cluster in before.views.keys().chain(after.views.keys()) {
        let old = before.views.get(cluster).unwrap_or(&nothing);
        let new = after.views.get(cluster).unwrap_or(&nothing);
        let changes = old.exports.changes(&new.exports);
        all.extend(changes.map(|(s, _)| PermitBasis::Import(cluster.clone(), s.clone())));
    }
    all
}

impl Permit {
    /// The facts that the permit rests on.
    #[must_use]
    pub fn basis(&self) -> PermitBasis {
        let service = self.target.service.clone();
        match &self.side {
            PermitSide::Export => PermitBasis::Export(service),
            PermitSide::Import { from } => PermitBasis::Import(from.clone(), service),
        }
    }

    /// The source that was allowed.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The target that it was allowed to use.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Asks again, now.
    ///
    /// # Errors
    /// The denial that a new stream would get. A peer that is silent is no reason to end a stream: without
    /// its view only our own rules are checked.
    pub fn recheck(&self, snapshot: &Snapshot) -> Result<(), Denial> {
        match &self.side {
            PermitSide::Export => authorize_inbound(snapshot, &self.source, &self.target).map(drop),
            PermitSide::Import { from } => {
                let import = snapshot
                    .imports
                    .get(&self.target.service)
                    .filter(|i| i.from == *from)
                    .ok_or_else(|| Denial::import_withdrawn(&self.source, &self.target))?;
                match authorize_outbound(snapshot, import, &self.target, &self.source.workload) {
                    Err(denial) if denial.code == Code::LinkDown => Ok(()),
                    other => other.map(drop),
                }
            }
        }
    }
}

/// A refusal by policy, with the rule that was missing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Denial {
    /// The code on the wire and in metrics.
    pub code: Code,
    /// A sentence for the operator, which ends with the line that would allow the stream, if there is one.
    pub reason: String,
}

impl Denial {
    fn import_withdrawn(source: &Source, target: &Target) -> Self {
        Self {
            code: Code::ImportUnknown,
            reason: format!("{source} asks for {target}, which is no longer imported"),
        }
    }

    fn missing_grant(source: &Source, target: &Target, place: &str) -> Self {
        let Workload { namespace, service_account } = &source.workload;
        Self {
            code: Code::Denied,
            reason: format!(
                "no grant lets {source} use {target}; {place} needs allow: {{cluster: {}, namespace: {namespace}, serviceAccount: {service_account}}}",
                source.cluster
            ),
        }
    }
}

/// Checks on the importing side: the import's own rule, then the grants that travelled with the export.
///
/// # Errors
/// [`Code::Denied`] by either rule; [`Code::LinkDown`] while the exporting cluster's view is not known;
/// [`Code::ExportUnknown`] or [`Code::PortUnknown`] if it does not have the target.
pub fn authorize_outbound(
    snapshot: &Snapshot,
    import: &Import,
    target: &Target,
    workload: &Workload,
) -> Result<Permit, Denial> {
    let source = Source { cluster: snapshot.local.cluster.clone(), workload: workload.clone() };
    if !import.allow.iter().any(|p| p.matches(workload)) {
        let Workload { namespace, service_account } = workload;
        let reason = format!(
            "the import of {} in {} does not let {source} use it; it needs allow: {{namespace: {namespace}, serviceAccount: {service_account}}}",
            import.service, snapshot.local.cluster
        );
        return Err(Denial { code: Code::Denied, reason });
    }
    let from = &import.from;
    let view = snapshot.views.get(from).ok_or_else(|| Denial {
        code: Code::LinkDown,
        reason: format!("{source} asks for {target}, but nothing is known of cluster {from} yet"),
    })?;
    let export = view.exports.get(&target.service).ok_or_else(|| Denial {
        code: Code::ExportUnknown,
        reason: format!("{source} asks for {target}, which {from} does not export to us"),
    })?;
    if !export.ports.iter().any(|p| p.name == target.port) {
        return Err(unknown_port(&source, target));
    }
    if !export.grants.iter().any(|p| p.matches(workload)) {
        return Err(Denial::missing_grant(&source, target, &format!("the export in {from}")));
    }
    Ok(Permit { source, target: target.clone(), side: PermitSide::Import { from: from.clone() } })
}

/// Asks on the exporting side.
///
/// # Errors
/// [`Code::ExportUnknown`] if the service is not exported to the source's cluster at all (it is not told
/// whether it exists), [`Code::PortUnknown`], [`Code::Denied`].
pub fn authorize_inbound(
    snapshot: &Snapshot,
    source: &Source,
    target: &Target,
) -> Result<Permit, Denial> {
    let export: &Arc<Export> = snapshot
        .exports
        .get(&target.service)
        .filter(|e| e.allow.iter().any(|g| g.cluster == source.cluster))
        .ok_or_else(|| Denial {
            code: Code::ExportUnknown,
            reason: format!(
                "{source} asks for {target}, which is not exported to {}",
                source.cluster
            ),
        })?;
    if export.port(&target.port).is_none() {
        return Err(unknown_port(source, target));
    }
    let granted = |g: &Grant| g.cluster == source.cluster && g.workloads.matches(&source.workload);
    if !export.allow.iter().any(granted) {
        return Err(Denial::missing_grant(source, target, "its export"));
    }
    Ok(Permit { source: source.clone(), target: target.clone(), side: PermitSide::Export })
}

fn unknown_port(source: &Source, target: &Target) -> Denial {
    Denial {
        code: Code::PortUnknown,
        reason: format!("{source} asks for {target}, and the export has no such port"),
    }
}

#[cfg(test)]
mod tests;
