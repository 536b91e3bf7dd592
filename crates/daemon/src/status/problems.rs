//! Problems, worst first: the headline of `adit status` and its exit status.
//!
//! A pure function of the rest of the document. A cause stands before what follows from it: a link that is
//! down before the imports that need it.

use std::time::Duration;

use adit_core::code::Code;
use adit_core::text::{count_noun, count_noun_is};
use adit_pki::time::in_words;
use serde::{Deserialize, Serialize};

use super::refusals::with_port;
use super::{
    BackendState, ExportPort, ImportPort, Link, LinkHealth, MisuseReport, OmittedItems, Reason,
    RefusedFlows, StalledStreams, StatusDocument, duplicates, refusals,
};

/// Something that a person should look at.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusProblem {
    /// The severity.
    pub severity: StatusSeverity,
    /// The subject, e.g. `link bank`.
    pub about: String,
    /// The fault, with its code.
    #[serde(flatten)]
    pub reason: Reason,
}

/// The severity of a problem, worst first by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StatusSeverity {
    /// Something does not work.
    Error = 0,
    /// All is as it was told to be, which may not be as somebody thinks: it refuses them.
    Notice = 2,
    /// All works, and something will not, or not as it should.
    #[default]
    #[serde(other)]
    Warning = 1,
}

/// Below this part of its life a certificate should have been renewed long ago (it is at one half).
pub const CERTIFICATE_WARNS_AT: f64 = 0.33;

/// So many connections with a cluster that does not say which nodes it has are told. One that does has a bound for nodes that
/// it has not announced.
const MANY_UNTOLD_CONNECTIONS: usize = 256;

/// All problems of a document, worst first.
#[must_use]
pub fn find_problems(status: &StatusDocument) -> Vec<StatusProblem> {
    let mut all = Vec::new();
    let mut add = |severity, about: String, code: &str, sentence: String| {
        let reason = Reason { code: code.into(), sentence };
        all.push(StatusProblem { severity, about, reason });
    };
    node(status, &mut add);
    links(status, &mut add);
    services(status, &mut add);
    let is_said = |one: &RefusedFlows| is_broken(status, one);
    refusals::add_callers(&mut all, &status.refused, is_said);
    refusals::problems(&status.refused, is_said, |problem| all.push(problem));
    // Whoever goes away lets its links go, and says so once.
    let is_echo =
        |p: &StatusProblem| p.about.starts_with("link ") && p.reason.code == Code::Draining.name();
    all.retain(|p| !(status.node.draining && is_echo(p)));
    // Stable: within one severity, causes stay before what follows from them.
    all.sort_by_key(|p| p.severity);
    all
}

/// Links, doubled nodes, and this node on the deny list.
fn links(status: &StatusDocument, add: &mut impl FnMut(StatusSeverity, String, &str, String)) {
    for l in &status.links {
        link(l, waiting(status, l), add);
        if let Some(sentence) = duplicates::duplicates_problem(&l.cluster, &l.nodes) {
            add(StatusSeverity::Error, format!("link {}", l.cluster), duplicates::CODE, sentence);
        }
        if let Some(node) = &l.misplaced {
            let sentence = format!(
                "{} announces its node {node}, which is an address of this cluster: nobody is dialled there",
                l.cluster
            );
            add(StatusSeverity::Notice, format!("link {}", l.cluster), "node-misplaced", sentence);
        }
    }
    if let Some(sentence) = duplicates::duplicates_problem("this cluster", &status.siblings) {
        add(StatusSeverity::Error, "siblings".into(), duplicates::CODE, sentence);
    }
    for entry in status.denied.iter().filter(|entry| entry.this_node) {
        let sentence = format!("this node is on the deny list ({}): others refuse it", entry.entry);
        add(StatusSeverity::Error, "node".into(), "denied-identity", sentence);
    }
}

/// Imports, exports, and grants to clusters without a link.
fn services(status: &StatusDocument, add: &mut impl FnMut(StatusSeverity, String, &str, String)) {
    for import in &status.imports {
        for port in &import.ports {
            let about = format!("import {}", with_port(&import.service, &port.name));
            let reason = port.reason.clone().unwrap_or_default();
            let waits = is_down(status, &import.from) && reason.code == Code::LinkDown.name();
            if !port.ready && !waits {
                add(StatusSeverity::Error, about, &reason.code, reason.sentence);
            }
        }
    }
    for export in &status.exports {
        for port in &export.ports {
            export_port(&export.service, port, add);
        }
        for grant in &export.allow {
            let whole = format!("denied.clusters: {}", grant.cluster);
            let is_denied = status.denied.iter().any(|d| d.entry == whole);
            if !is_denied && !status.links.iter().any(|l| l.cluster == grant.cluster) {
                let sentence = format!(
                    "it is granted to cluster {}, with which there is no link",
                    grant.cluster
                );
                add(
                    StatusSeverity::Warning,
                    format!("export {}", export.service),
                    Code::Unlinked.name(),
                    sentence,
                );
            }
        }
    }
}

fn node(status: &StatusDocument, add: &mut impl FnMut(StatusSeverity, String, &str, String)) {
    let node = &status.node;
    let (certificate, configuration) = (&node.certificate, &node.configuration);
    if certificate.starts_in_seconds > 0 {
        let sentence = format!(
            "it is not valid before {}, in {}; no peer accepts this node: compare its clock with the others'",
            certificate.not_before,
            in_words(Duration::from_secs(certificate.starts_in_seconds))
        );
        add(StatusSeverity::Error, "certificate".into(), "certificate-not-yet-valid", sentence);
    } else if certificate.seconds_left < 0 {
        let sentence = format!("it ended at {}; no peer accepts this node", certificate.not_after);
        add(StatusSeverity::Error, "certificate".into(), "certificate-ended", sentence);
    } else if certificate.life_left < CERTIFICATE_WARNS_AT {
        let sentence = format!("it ends at {} and has not been renewed", certificate.not_after);
        add(StatusSeverity::Warning, "certificate".into(), "certificate-ending", sentence);
    }
    if let Some(error) = &certificate.error {
        let sentence = format!("the newest files were not taken: {error}");
        add(StatusSeverity::Error, "certificate".into(), "identity-rejected", sentence);
    }
    if let Some(error) = &configuration.error {
        let sentence =
            format!("the newest file was not taken, the last good one is in use: {error}");
        add(StatusSeverity::Error, "configuration".into(), "configuration-rejected", sentence);
    }
    if !configuration.needs_restart.is_empty() {
        let keys = configuration.needs_restart.join(", ");
        // A node of Kubernetes has no file; what it has is named.
        let how = if configuration.path.starts_with("ConfigMap ") {
            " (kubectl -n adit-system rollout restart daemonset/adit-node), which puts the new value in force, or for the change \
             to be taken back"
        } else {
            ""
        };
        let sentence = format!("{keys} changed, and waits for a restart of this node{how}");
        add(StatusSeverity::Warning, "configuration".into(), "needs-restart", sentence);
    }
    if let Some(error) = &node.folder_error {
        add(StatusSeverity::Error, "state folder".into(), Code::LocalError.name(), error.clone());
    }
    if let Some(double) = &node.double {
        let sentence = format!(
            "another living process has the name of this node ({double}); was its identity folder copied? What is \
             new goes to the one that came last; stop the other, or give it an identity of its own"
        );
        add(StatusSeverity::Error, "node".into(), duplicates::CODE, sentence);
    }
    if node.draining {
        let left = count_noun_is(status.streams.open, "stream");
        let sentence = format!("the node is going away; {left} left");
        add(StatusSeverity::Warning, "node".into(), Code::Draining.name(), sentence);
    } else if !node.ready {
        let sentence = format!("the node is not ready: {}", node.waiting_for.join(", "));
        add(StatusSeverity::Error, "node".into(), "not-ready", sentence);
    }
}

/// True if nothing can be sent to a cluster.
fn is_down(status: &StatusDocument, cluster: &str) -> bool {
    status.links.iter().any(|link| link.cluster == cluster && link.state == LinkHealth::Down)
}

/// The number of imports that wait for nothing but this link, which is down: the link's problem names them.
fn waiting(status: &StatusDocument, link: &Link) -> usize {
    let waits = |port: &ImportPort| {
        !port.ready && port.reason.as_ref().is_some_and(|r| r.code == Code::LinkDown.name())
    };
    let of_it = status.imports.iter().filter(|import| import.from == link.cluster);
    of_it.filter(|import| import.ports.iter().any(waits)).count()
}

/// True if the port that was asked for does not work, which says more than that it refuses.
fn is_broken(status: &StatusDocument, one: &RefusedFlows) -> bool {
    if one.direction == "inbound" {
        let exports = status.exports.iter().filter(|export| export.service == one.service);
        return exports.flat_map(|e| &e.ports).any(|port| port.name == one.port && !port.ready);
    }
    let imports = status.imports.iter().filter(|import| import.service == one.service);
    imports.flat_map(|i| &i.ports).any(|port| port.name == one.port && !port.ready)
}

/// Nodes of the other cluster that ask for more than they may have, or hold much.
fn link_misuse(link: &Link, add: &mut impl FnMut(StatusSeverity, String, &str, String)) {
    let cluster = &link.cluster;
    if let Some(last) = &link.in_vain.last {
        let MisuseReport { streams, asked, closed, refused_connections, .. } = link.in_vain;
        // Whoever meets a limit of ours may well be honest, and the limit too low.
        let is_mild = last.code == Code::OverLimit.name() && asked == 0 && closed == 0;
        let (what, remedy) = match is_mild {
            true => (
                "has met a limit that this node has for it",
                "raise limits.streamsPerPeer here if its callers are to have more; `denied.nodes` keeps out a node that does harm",
            ),
            false => ("asks for more than it may have", "`denied.nodes` keeps it out"),
        };
        let sentence = format!(
            "node {} of {cluster} {what} ({}): {} in vain, asked {} to stay away, {} closed and {refused_connections} \
             refused; {remedy}",
            last.node,
            last.code,
            count_noun(streams, "stream"),
            count_noun(asked, "time"),
            count_noun(closed, "connection"),
        );
        add(StatusSeverity::Warning, format!("link {cluster}"), Code::OverLimit.name(), sentence);
    }
    let connections: usize = link.nodes.iter().map(|node| node.connections.len()).sum();
    if link.view.is_none() && connections >= MANY_UNTOLD_CONNECTIONS {
        let sentence = format!(
            "{connections} connections with {} of {cluster}, which says nothing of itself on any: `denied.clusters` keeps it out",
            count_noun(link.nodes.len() as u64, "node"),
        );
        add(StatusSeverity::Warning, format!("link {cluster}"), Code::OverLimit.name(), sentence);
    }
    if let Some(StalledStreams { streams, bytes, max_bytes }) = &link.stalled {
        let sentence = format!(
            "{} of {} stalled: the readers do not keep up. They may hold {} KiB of {} (limits.peerBuffer); when there is no \
             more, those that have waited for longest are reset",
            count_noun(*streams, "stream"),
            link.cluster,
            bytes >> 10,
            max_bytes >> 10,
        );
        add(StatusSeverity::Warning, format!("link {cluster}"), Code::OverBudget.name(), sentence);
    }
}

/// A link, what is left out of the views that pass over it, and how many imports wait for it.
fn link(link: &Link, waiting: usize, add: &mut impl FnMut(StatusSeverity, String, &str, String)) {
    link_misuse(link, add);
    let cluster = &link.cluster;
    let mut left_out = |what: &Option<OmittedItems>, code, which: String| {
        if let Some(OmittedItems { count, sentence }) = what {
            add(
                StatusSeverity::Warning,
                format!("link {cluster}"),
                code,
                format!("{which} ({count}): {sentence}"),
            );
        }
    };
    let of = format!("some of what {cluster} says of itself is left out");
    left_out(&link.unheard, "view-cut", of);
    let to = format!("some of what {cluster} has a right to know of this cluster is not told");
    left_out(&link.untold, "announcement-cut", to);
    let severity = match link.state {
        LinkHealth::Up | LinkHealth::Unknown => {
            // What is said of a link that is not up holds this already.
            if let Some(Reason { code, sentence }) = link.failed_handshake.clone() {
                add(StatusSeverity::Warning, format!("link {cluster}"), &code, sentence);
            }
            return;
        }
        LinkHealth::Degraded => StatusSeverity::Warning,
        LinkHealth::Down => StatusSeverity::Error,
    };
    let Reason { code, mut sentence } = link.reason.clone().unwrap_or_default();
    match waiting {
        0 => {}
        1 => sentence += "; 1 import waits for it",
        n => sentence += &format!("; {n} imports wait for it"),
    }
    add(severity, format!("link {}", link.cluster), &code, sentence);
}

fn export_port(
    service: &str,
    port: &ExportPort,
    add: &mut impl FnMut(StatusSeverity, String, &str, String),
) {
    let about = || format!("export {}", with_port(service, &port.name));
    if !port.ready {
        let reason = port.reason.clone().unwrap_or_default();
        add(StatusSeverity::Error, about(), &reason.code, reason.sentence);
        return;
    }
    for backend in &port.backends {
        let (code, sentence) = match backend.state {
            BackendState::Up | BackendState::Unknown => continue,
            BackendState::Down => {
                let last = backend.last_dial.clone().unwrap_or_default();
                (last.code, format!("backend {} is down: {}", backend.address, last.sentence))
            }
            BackendState::Forbidden => (
                "backend-forbidden".into(),
                format!("backend {} has an address that may not be dialled", backend.address),
            ),
        };
        add(StatusSeverity::Warning, about(), &code, sentence);
    }
}

#[cfg(test)]
mod tests;
