//! Which processes that have one node's name live beside each other, as far as their connections show it.
//!
//! On one machine a process hands over to the next one, for some seconds beside it; a process that was killed keeps
//! its connections until their silence is noticed. So two processes at one address are two only if both keep their
//! connections for long. At different addresses nobody hands over, and who is heard lives: there the older one need
//! only be heard a little later than the newer one came.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_core::name::NodeKey;
use adit_core::routing::connections::Unusable;
use tokio::time::Instant;

use super::connections::PeerConnection;
use super::inner::LinksInner;
use crate::peer::BootId;

/// Time that two processes of one machine must live beside each other, from the later one's connection: neither is
/// about to go away then.
pub(super) const COEXISTENCE_TIMEOUT: Duration = Duration::from_secs(10);
/// From the connection of a process at another address to when one that was there before must be heard: longer than
/// its last packets are under way, and than a hand-over takes where a machine has several addresses.
const HEARD_DELAY: Duration = Duration::from_secs(2);

/// A process of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SeenProcess {
    boot: BootId,
    /// The time of the first of the connections that it has.
    connected_at: Instant,
    /// A time after which it was heard.
    heard_after: Option<Instant>,
    addresses: Vec<IpAddr>,
}

impl LinksInner {
    /// The nodes that have several living processes, with the boot IDs of these, the one that came last first.
    pub(super) fn coexisting_processes(&self) -> BTreeMap<NodeKey, Vec<BootId>> {
        let mut nodes: HashMap<NodeKey, Vec<SeenProcess>> = HashMap::new();
        for (conn, unusable) in self.connections.all() {
            if is_alive(&conn, unusable) {
                add_connection(nodes.entry(conn.key()).or_default(), &conn);
            }
        }
        let now = Instant::now();
        let found = nodes.into_iter().map(|(key, processes)| (key, coexisting(processes, now)));
        found.filter(|(_, boots)| !boots.is_empty()).collect()
    }
}

/// True unless it is leaving, or its peer was silent. One whose connections are older than the newest process is not
/// called leaving for that.
pub(super) fn is_alive(conn: &PeerConnection, unusable: Option<Unusable>) -> bool {
    matches!(unusable, None | Some(Unusable::OlderBoot)) && !conn.is_awaiting_successor()
}

fn add_connection(processes: &mut Vec<SeenProcess>, conn: &Arc<PeerConnection>) {
    let (boot, address) = (conn.peer.boot, conn.quic.remote().ip());
    let heard_after = conn.heard_after();
    match processes.iter_mut().find(|process| process.boot == boot) {
        Some(process) => {
            process.connected_at = process.connected_at.min(conn.connected_at);
            process.heard_after = process.heard_after.max(heard_after);
            if !process.addresses.contains(&address) {
                process.addresses.push(address);
            }
        }
        None => processes.push(SeenProcess {
            boot,
            connected_at: conn.connected_at,
            heard_after,
            addresses: vec![address],
        }),
    }
}

/// Those of a node's processes that live beside another one, the one that came last first.
fn coexisting(mut processes: Vec<SeenProcess>, now: Instant) -> Vec<BootId> {
    processes.sort_by_key(|process| process.connected_at);
    let live = |n: &usize| {
        let (before, after) = (&processes[..*n], &processes[*n + 1..]);
        before.iter().any(|older| live_beside(older, &processes[*n], now))
            || after.iter().any(|newer| live_beside(&processes[*n], newer, now))
    };
    (0..processes.len()).rev().filter(live).map(|n| processes[n].boot).collect()
}

fn live_beside(older: &SeenProcess, newer: &SeenProcess, now: Instant) -> bool {
    if !are_apart(older, newer) {
        return now.saturating_duration_since(newer.connected_at) >= COEXISTENCE_TIMEOUT;
    }
    older.heard_after.is_some_and(|at| at >= newer.connected_at + HEARD_DELAY)
}

/// True if the two cannot be on one machine, as far as their addresses say it. Those of two families do not.
fn are_apart(one: &SeenProcess, other: &SeenProcess) -> bool {
    let differ = |a: &IpAddr, b: &IpAddr| a.is_ipv4() == b.is_ipv4() && a != b;
    one.addresses.iter().all(|a| other.addresses.iter().all(|b| differ(a, b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that came at the second `since`, and was heard after the second `heard`.
    fn process(boot: u8, address: &str, since: u64, heard: u64) -> (SeenProcess, u64) {
        let addresses = vec![address.parse().unwrap()];
        let at = Instant::now() + Duration::from_secs(since);
        let heard_after = Some(Instant::now() + Duration::from_secs(heard));
        (SeenProcess { boot: BootId([boot; 16]), connected_at: at, heard_after, addresses }, since)
    }

    /// The first bytes of the boot IDs of those that are found to live beside each other, at the second `at`.
    fn found(all: &[(SeenProcess, u64)], at: u64) -> Vec<u8> {
        let all = all.iter().map(|(process, _)| process.clone()).collect();
        let boots = coexisting(all, Instant::now() + Duration::from_secs(at));
        boots.into_iter().map(|boot| boot.0[0]).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_heard_beside_a_newer_one_of_another_address_lives_and_so_does_the_newer_one() {
        let newer = process(2, "10.0.2.9", 100, 103);
        assert_eq!(found(&[process(1, "10.0.2.1", 0, 102), newer.clone()], 103), [2, 1]);
        // One that was killed a moment before is heard no more.
        assert_eq!(found(&[process(1, "10.0.2.1", 0, 100), newer.clone()], 108), Vec::<u8>::new());
        let three = [process(1, "10.0.2.1", 0, 90), newer, process(3, "10.0.2.3", 101, 104)];
        assert_eq!(found(&three, 104), [3, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_may_hand_over_lives_beside_another_one_only_after_long() {
        let (older, newer) = (process(1, "10.0.2.1", 0, 109), process(2, "10.0.2.1", 100, 109));
        assert_eq!(found(&[older.clone(), newer.clone()], 109), Vec::<u8>::new());
        assert_eq!(found(&[older.clone(), newer], 110), [2, 1]);
        // A machine with addresses of both families, or with two.
        let six = process(2, "fd00::1", 100, 109);
        assert_eq!(found(&[older.clone(), six], 109), Vec::<u8>::new());
        let mut both = process(2, "10.0.2.2", 100, 109);
        both.0.addresses.push("10.0.2.1".parse().unwrap());
        assert_eq!(found(&[older, both], 109), Vec::<u8>::new());
    }
}
