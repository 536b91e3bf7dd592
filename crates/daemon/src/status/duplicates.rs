//! Nodes whose name two living processes have: most likely an identity folder was copied.
//!
//! A restart ends the connections of the process before within seconds, and one that hands over goes away; so
//! two processes that both keep connections are two nodes that answer to one name. New streams go to the one
//! that came last, and this is said of the cluster whose name it is: nobody else is hurt by it.

use std::collections::BTreeMap;

use adit_core::code::Code;

use super::{ConnectionReport, Link, PeerNode};

/// The code of problems of this kind.
pub(super) const CODE: &str = "node-doubled";
/// A process that lives beside another for so long is not about to go away.
const BESIDE_SECONDS: u64 = 10;
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
    // One whose connections are older than the newest process is not called leaving for that.
    let older = Code::PeerRestarted.to_string();
    let lives =
        |c: &&ConnectionReport| c.closing.as_ref().is_none_or(|reason| reason.code == older);
    let mut boots: BTreeMap<&str, &ConnectionReport> = BTreeMap::new();
    for connection in node.connections.iter().filter(lives) {
        let oldest = boots.entry(&connection.boot_id).or_insert(connection);
        if connection.age_seconds > oldest.age_seconds {
            *oldest = connection;
        }
    }
    boots.retain(|_, connection| connection.age_seconds >= BESIDE_SECONDS);
    if boots.len() < 2 {
        return describe_alternating(node);
    }
    let mut all: Vec<&ConnectionReport> = boots.into_values().collect();
    all.sort_by_key(|connection| connection.closing.is_some());
    let each = all.iter().map(|c| format!("boot {:.8} at {}", c.boot_id, c.remote));
    let each: Vec<_> = each.take(MAX_NAMED).collect();
    let more = match all.len() - each.len() {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    Some(format!("{} ({}{more})", node.node, each.join(", before it ")))
}

/// The processes of a node, where two take turns and are never seen side by side.
fn describe_alternating(node: &PeerNode) -> Option<String> {
    let [one, other] = &node.alternating[..] else { return None };
    let at = |boot: &str| {
        let on = node.connections.iter().find(|c| c.boot_id == boot);
        on.map(|c| format!(" at {}", c.remote)).unwrap_or_default()
    };
    Some(format!(
        "{} (boot {one:.8}{} and boot {other:.8}{}, which connect by turns)",
        node.node,
        at(one),
        at(other)
    ))
}

#[cfg(test)]
mod tests {
    use super::super::Reason;
    use super::*;

    fn connection(boot: u8, closing: Option<Code>, age_seconds: u64) -> ConnectionReport {
        ConnectionReport {
            boot_id: format!("{boot:032x}").chars().rev().collect(),
            remote: format!("192.0.2.{boot}:7843"),
            closing: closing.map(Reason::from),
            age_seconds,
            ..ConnectionReport::default()
        }
    }

    fn node(name: &str, connections: &[ConnectionReport]) -> PeerNode {
        PeerNode { node: name.into(), connections: connections.to_vec(), ..PeerNode::default() }
    }

    #[test]
    fn two_processes_that_both_stay_are_named_with_the_newer_first() {
        let older = Some(Code::PeerRestarted);
        let twice = node("b1", &[connection(1, older, 90), connection(2, None, 31)]);
        let said = duplicates_problem("bank", std::slice::from_ref(&twice)).unwrap();
        assert!(
            said.contains("b1 (boot 20000000 at 192.0.2.2:7843, before it boot 1000"),
            "{said}"
        );
        let many: Vec<_> = (0..1000).map(|_| twice.clone()).collect();
        let said = duplicates_problem("bank", &many).unwrap();
        assert!(said.len() < 1000 && said.contains("and 997 more"), "{said}");
        assert_eq!(count(&Link { nodes: many, ..Link::default() }), 1000);
    }

    #[test]
    fn two_processes_that_take_turns_are_named_without_being_seen_together() {
        let mut node = node("b1", &[connection(2, None, 3)]);
        node.alternating = [2, 1].map(|boot| connection(boot, None, 0).boot_id).to_vec();
        let said = duplicates_problem("bank", &[node]).unwrap();
        let expected =
            "b1 (boot 20000000 at 192.0.2.2:7843 and boot 10000000, which connect by turns)";
        assert!(said.contains(expected), "{said}");
    }

    #[test]
    fn a_restart_and_a_handover_are_neither() {
        let older = Some(Code::PeerRestarted);
        for others in [
            // A process that was restarted, whose last connection is not lost yet.
            vec![connection(1, older, 900), connection(2, None, 6)],
            // One that has handed over, and finishes what it carries.
            vec![connection(1, Some(Code::Draining), 900), connection(2, None, 600)],
            // One that has fallen silent.
            vec![connection(1, Some(Code::ConnectionLost), 900), connection(2, None, 600)],
            vec![connection(2, None, 900), connection(2, None, 600)],
        ] {
            assert_eq!(duplicates_problem("bank", &[node("b1", &others)]), None, "{others:?}");
        }
    }

    #[test]
    fn a_node_of_as_many_processes_as_it_likes_is_told_in_one_line() {
        let all: Vec<_> = (1..=64).map(|boot| connection(boot, None, 60)).collect();
        let told = duplicates_problem("bank", &[node("b1", &all)]).unwrap();
        assert!(told.contains(" and 61 more)") && told.len() < 400, "{told}");
    }
}
