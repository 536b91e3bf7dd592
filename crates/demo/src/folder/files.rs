//! The configuration of each node, written so that a reader learns the format from it.
//!
//! Relative paths begin at the folder that the file is in; so nothing has to be quoted, and the folder
//! can be moved and its nodes run by hand.

use std::fmt::Write as _;

use super::{AgentService, NodeSetup, REPORT_BOT, SUPPORT_BOT, VISITOR, trust_domain};
use crate::agents::NAMESPACE;

/// The configuration of the node at `place`.
pub(super) fn config(place: &NodeSetup, all: &[NodeSetup], services: &[AgentService]) -> String {
    let NodeSetup { name, cluster, .. } = place;
    let mut file = format!(
        "# Node {name} of cluster {cluster}, written by `adit demo`.\n\
         # Its folder may be moved; to run it by hand: adit node --config {name}.yaml\n\
         cluster: {cluster}\n\
         trustDomain: {domain}\n\
         node:\n\
        \x20 name: {name}\n\
        \x20 listen: \"{udp}\"\n\
        \x20 identity: {name}   # node.pem, node.key.pem, ca.pem; the node adds node.secret\n",
        domain = trust_domain(cluster),
        udp = place.udp,
    );
    siblings(&mut file, place, all);
    link(&mut file, place, all);
    match *cluster {
        "bank" => exports(&mut file, services),
        _ => imports(&mut file, services),
    }
    let metrics = place.metrics;
    put(
        &mut file,
        format_args!(
            "admin: {{socket: {name}/admin.sock}}\n\
             metrics: {{listen: \"{metrics}\"}}\n\
             log: {{level: info, format: json}}\n"
        ),
    );
    file
}

fn siblings(file: &mut String, place: &NodeSetup, all: &[NodeSetup]) {
    let mut heading = "siblings:\n";
    for other in all.iter().filter(|o| o.cluster == place.cluster && o.name != place.name) {
        let udp = other.udp;
        put(file, format_args!("{heading}  - {{name: {}, addresses: [\"{udp}\"]}}\n", other.name));
        heading = "";
    }
}

/// Writes one address of the other cluster, which is enough to begin with: its nodes tell of each other.
fn link(file: &mut String, place: &NodeSetup, all: &[NodeSetup]) {
    let Some(peer) = all.iter().find(|other| other.cluster != place.cluster) else { return };
    let (other, domain) = (peer.cluster, trust_domain(peer.cluster));
    put(
        file,
        format_args!(
            "links:\n\
            \x20 - cluster: {other}\n\
            \x20   trustDomain: {domain}\n\
            \x20   trustBundle: bundles/{other}.pem\n\
            \x20   addresses: [\"{udp}\"]   # one node to begin with; it tells of the others\n",
            udp = peer.udp,
        ),
    );
}

/// Each agent's pod runs beside one node; a stream may enter at either.
fn exports(file: &mut String, services: &[AgentService]) {
    put(file, format_args!("exports:\n"));
    for AgentService { name, backend, node, .. } in services {
        put(
            file,
            format_args!(
                "  - service: {NAMESPACE}/{name}\n\
                \x20   ports:\n\
                \x20     - name: http\n\
                \x20       port: 80\n\
                \x20       appProtocol: kgateway.dev/a2a\n\
                \x20       backends: [{{address: \"{backend}\", node: {node}}}]\n\
                \x20   allow:   # nobody else; report-bot is left out on purpose\n\
                \x20     - {{cluster: edge, namespace: {NAMESPACE}, serviceAccount: support-bot}}\n\
                \x20     - {{cluster: edge, namespace: {NAMESPACE}, serviceAccount: visitor}}\n\
                \x20   hop: any\n"
            ),
        );
    }
}

fn imports(file: &mut String, services: &[AgentService]) {
    put(file, format_args!("imports:\n"));
    for AgentService { name, import, .. } in services {
        put(
            file,
            format_args!(
                "  - service: {NAMESPACE}/{name}\n\
                \x20   from: bank\n\
                \x20   ports: [{{name: http, port: 80, listen: \"{import}\"}}]\n"
            ),
        );
    }
    put(file, format_args!("workloads:   # who opens connections here, by source address\n"));
    for (address, account) in
        [(SUPPORT_BOT, "support-bot"), (REPORT_BOT, "report-bot"), (VISITOR, "visitor")]
    {
        put(
            file,
            format_args!(
                "  - {{address: {address}, namespace: {NAMESPACE}, serviceAccount: {account}}}\n"
            ),
        );
    }
}

fn put(file: &mut String, text: std::fmt::Arguments<'_>) {
    file.write_fmt(text).ok();
}
