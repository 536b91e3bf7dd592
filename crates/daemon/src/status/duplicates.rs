//! Nodes whose name two living processes have: most likely an identity folder was copied.
//!
//! The links know which those are, and that a restart or a hand-over is none. New streams go to the one that came
//! last, and this is said of the cluster whose name it is: nobody else is hurt by it.

use super::{Link, PeerNode};

/// The code of problems of this kind.
pub(super) const CODE: &str = "node-doubled";
/// Nodes that are named, and processes of each; a cluster may have as many of them as it likes.
const MAX_NAMED: usize = 3;

/// The number of a link's nodes that have two living processes.
#[must_use]
pub fn count(link: &Link) -> usize {
    link.nodes.iter().filter(|node| describe(node).is_some()).count()
}

/// The sentence about those nodes of `cluster` that have two living processes, if there are any.
pub(super) fn duplicates_problem(cluster: &str, nodes: &[PeerNode]) -> Option<String> {
    let mut all = nodes.iter().filter_map(describe);
    let named: Vec<String> = all.by_ref().take(MAX_NAMED).collect();
    if named.is_empty() {
        return None;
    }
    let more = match all.count() {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    Some(format!(
        "two living processes have the name of one node of {cluster}: {}{more}; was an identity folder copied? \
         What is new goes to the one that came last; stop the other, or give it an identity of its own",
        named.join("; ")
    ))
}

/// The processes of a node, if there are two that live.
fn describe(node: &PeerNode) -> Option<String> {
    if node.coexisting.len() < 2 {
        return describe_alternating(node);
    }
    let each = node.coexisting.iter().map(|boot| describe_process(node, boot));
    let each: Vec<_> = each.take(MAX_NAMED).collect();
    let more = match node.coexisting.len() - each.len() {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    Some(format!("{} ({}{more})", node.node, each.join(", before it ")))
}

/// A process, and where it is.
fn describe_process(node: &PeerNode, boot: &str) -> String {
    let on = node.connections.iter().find(|connection| connection.boot_id == boot);
    let at = on.map(|connection| format!(" at {}", connection.remote)).unwrap_or_default();
    format!("boot {boot:.8}{at}")
}

/// The processes of a node, where two take turns and are never seen side by side.
fn describe_alternating(node: &PeerNode) -> Option<String> {
    let [one, other] = &node.alternating[..] else { return None };
    Some(format!(
        "{} ({} and {}, which connect by turns)",
        node.node,
        describe_process(node, one),
        describe_process(node, other)
    ))
}

#[cfg(test)]
mod tests {
    use super::super::ConnectionReport;
    use super::*;

    fn connection(boot: u8) -> ConnectionReport {
        ConnectionReport {
            boot_id: format!("{boot:032x}").chars().rev().collect(),
            remote: format!("192.0.2.{boot}:7843"),
            ..ConnectionReport::default()
        }
    }

    fn node(name: &str, processes: impl IntoIterator<Item = u8>) -> PeerNode {
        let connections: Vec<_> = processes.into_iter().map(connection).collect();
        PeerNode { node: name.into(), connections, ..PeerNode::default() }
    }

    /// A node whose processes live beside each other, the last of them first.
    fn doubled(processes: impl IntoIterator<Item = u8>) -> PeerNode {
        let mut node = node("b1", processes);
        node.coexisting = node.connections.iter().rev().map(|c| c.boot_id.clone()).collect();
        node
    }

    #[test]
    fn two_processes_that_both_stay_are_named_with_the_newer_first() {
        let twice = doubled([1, 2]);
        let said = duplicates_problem("bank", std::slice::from_ref(&twice)).unwrap();
        assert!(
            said.contains("b1 (boot 20000000 at 192.0.2.2:7843, before it boot 1000"),
            "{said}"
        );
        let many: Vec<_> = (0..1000).map(|_| twice.clone()).collect();
        let said = duplicates_problem("bank", &many).unwrap();
        assert!(said.len() < 1000 && said.contains("and 997 more"), "{said}");
        assert_eq!(count(&Link { nodes: many, ..Link::default() }), 1000);
        assert_eq!(duplicates_problem("bank", &[node("b1", [1, 2])]), None, "a restart");
    }

    #[test]
    fn two_processes_that_take_turns_are_named_without_being_seen_together() {
        let mut node = node("b1", [2]);
        node.alternating = [2, 1].map(|boot| connection(boot).boot_id).to_vec();
        let said = duplicates_problem("bank", &[node]).unwrap();
        let expected =
            "b1 (boot 20000000 at 192.0.2.2:7843 and boot 10000000, which connect by turns)";
        assert!(said.contains(expected), "{said}");
    }

    #[test]
    fn a_node_of_as_many_processes_as_it_likes_is_told_in_one_line() {
        let told = duplicates_problem("bank", &[doubled(1..=64)]).unwrap();
        assert!(told.contains(" and 61 more)") && told.len() < 400, "{told}");
    }
}
