//! The sections of the file, from the top down: which keys there are, and which rules span sections.
//!
//! Each section is read by one function that asks for its keys ([`crate::reader`]), reads their values
//! ([`crate::value`]) and leaves in [`CrossRefs`] what later sections are checked against. All of them run
//! whatever earlier ones found. What the fields mean is documented at [`crate::config`].

pub(crate) mod cluster;
mod cross_refs;
mod denied;
pub(crate) mod nodes;
mod process;
mod services;
mod when_empty;

use std::num::NonZeroUsize;
use std::path::Path;

use self::cross_refs::CrossRefs;
use crate::config::{Config, LimitsConfig, LogFormat};
use crate::problem::{ProblemKind, ValueProblem};
use crate::reader::ValueReader;
use crate::value;

/// Facts about the machine that the file does not hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NodeEnv<'a> {
    /// The folder at which relative paths begin.
    pub(crate) base: &'a Path,
    /// The number of cores of this machine.
    pub(crate) cores: NonZeroUsize,
}

/// Reads the whole file of a node. The answer counts only where the sink holds no error.
pub(crate) fn config(root: &ValueReader<'_>, env: NodeEnv<'_>) -> Option<Config> {
    let refs = &mut CrossRefs::default();
    if root.is_empty() {
        let message = "the file is empty: expected at least cluster, trustDomain and node";
        root.error(ValueProblem::new(ProblemKind::MissingKey, message));
        return None;
    }
    let mut fields = root.fields()?;
    let cluster = fields.required("cluster", "this cluster's name");
    let trust_domain = fields.required("trustDomain", "the trust domain of this cluster's CA");
    let node = fields.required("node", "name, listen and identity of this node");
    let siblings = fields.optional("siblings");
    let links = fields.optional("links");
    let imports = fields.optional("imports");
    let exports = fields.optional("exports");
    let workloads = fields.optional("workloads");
    let denied = fields.optional("denied");
    let limits = fields.section("limits");
    let admin = fields.section("admin");
    let metrics = fields.optional("metrics");
    let log = fields.section("log");
    fields.finish();

    refs.own.cluster = cluster.and_then(|item| item.value(value::name));
    refs.own.trust_domain = trust_domain.and_then(|item| item.value(value::trust_domain));
    let node_read = node.as_ref().and_then(|item| nodes::node(item, env, refs));
    let siblings = nodes::siblings(siblings, refs);
    let links = nodes::links(links, env.base, refs);
    if let (Some(item), Some(read)) = (&node, &node_read) {
        let expected = siblings.iter().flatten().next().is_some() || !refs.clusters.is_empty();
        nodes::warn_if_unreachable(item, read, expected);
    }
    let imports = services::imports(imports, refs);
    let admin = admin.and_then(|fields| process::admin(fields, env.base, refs));
    let metrics = process::metrics(metrics, refs);
    // After everything that listens, since no backend may be one of our own listeners.
    let exports = services::exports(exports, refs);
    let workloads = services::workloads(workloads);
    let denied = denied::denied(denied.as_slice(), refs);
    let limits = limits.map(|fields| process::limits(fields, LimitsConfig::default()));
    let log = log.and_then(process::log);
    Some(Config {
        cluster: refs.own.cluster.clone()?,
        trust_domain: refs.own.trust_domain.clone()?,
        node: node_read?,
        siblings: siblings?,
        links: links?,
        imports: imports?,
        exports: exports?,
        workloads: workloads?,
        denied: denied?,
        limits: limits?,
        admin: admin?,
        metrics: metrics?,
        metrics_access: None,
        log: log?,
    })
}

/// The format of the log alone.
pub(crate) fn log_format(root: &ValueReader<'_>) -> Option<LogFormat> {
    root.fields()?.section("log").and_then(|mut fields| process::log_format(&mut fields))
}

/// Reads all of `items`, also after one that is wrong.
fn each<'a, T>(
    items: impl IntoIterator<Item = ValueReader<'a>>,
    read: impl FnMut(ValueReader<'a>) -> Option<T>,
) -> Option<Vec<T>> {
    let read: Vec<Option<T>> = items.into_iter().map(read).collect();
    read.into_iter().collect()
}

/// The entries of a list that may be left out.
fn entries<'a>(item: Option<&ValueReader<'a>>) -> Option<Vec<ValueReader<'a>>> {
    item.map_or_else(|| Some(Vec::new()), ValueReader::list)
}

#[cfg(test)]
mod tests;
