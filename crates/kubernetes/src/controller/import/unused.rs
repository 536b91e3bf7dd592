//! Exports of linked clusters that nothing here imports: both sides look healthy, and no request
//! arrives.

use std::collections::BTreeMap;
use std::time::Duration;

use adit_core::name::{ClusterName, ServiceName};
use tokio::time::Instant;

use super::decision::{ImportDecisions, ImportFacts};

/// Number of a cluster's exports that are named.
const MAX_NAMED: usize = 3;
/// Least time between two messages about one cluster: it may change its exports all the time, and
/// each message is written into its Link.
const MESSAGE_INTERVAL: Duration = Duration::from_secs(30);

/// The last message about each cluster, and its time.
#[derive(Debug, Default)]
pub(crate) struct UnusedExports(BTreeMap<ClusterName, (Instant, Option<String>)>);

impl UnusedExports {
    /// Adds a message for each linked cluster of which something is not imported.
    pub(crate) fn report(&mut self, facts: ImportFacts<'_>, imports: &mut ImportDecisions) {
        let links: Vec<&ClusterName> = facts.config.links.iter().map(|l| &l.cluster).collect();
        self.0.retain(|cluster, _| links.contains(&cluster));
        for cluster in links {
            let now = sentence(facts, imports, cluster);
            let (at, message) =
                self.0.entry(cluster.clone()).or_insert_with(|| (facts.at, now.clone()));
            if *message != now && facts.at >= *at + MESSAGE_INTERVAL {
                (*at, *message) = (facts.at, now);
            } else if *message != now {
                imports.wake = imports.wake.into_iter().chain([*at + MESSAGE_INTERVAL]).min();
            }
            imports.unused.extend(message.clone().map(|message| (cluster.clone(), message)));
        }
    }
}

/// Returns the message about a cluster. Exports of opened namespaces are left out: they are
/// reported where it is decided that they are not imported.
fn sentence(
    facts: ImportFacts<'_>,
    imports: &ImportDecisions,
    cluster: &ClusterName,
) -> Option<String> {
    let view = facts.peers.live_view(cluster)?;
    let is_unused =
        |s: &&ServiceName| !imports.all.contains_key(*s) && !imports.only_by_name.contains_key(*s);
    let mut unused = view.exports.keys().filter(is_unused);
    let named: Vec<String> = unused.by_ref().take(MAX_NAMED).map(ToString::to_string).collect();
    let first = named.first()?;
    let more = unused.count();
    let others = if more > 0 { format!(" and {more} more") } else { String::new() };
    Some(format!(
        "{cluster} exports {}{others} to this cluster, and nothing here imports it: `adit import {first} --from {cluster}`, \
         or `adit link` with `--import NAMESPACE` and a Service of that name",
        named.join(", ")
    ))
}
