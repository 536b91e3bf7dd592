//! A change of the nodes' network, which must not send clients to addresses that a node does not keep.
//!
//! A node has the network that it began with. When the configuration names another one, all goes on with the one
//! before until the first node has begun anew; from then on no slice stands, until the last has: the address of
//! an import is kept, and guarded, by every node or given to nobody. What is in force stands in ConfigMap
//! [`TRUST_CONFIG_MAP`], beside the bundle, so that a controller that begins meanwhile goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use adit_config::cluster::NetworkConfig;
use tokio::time::Instant;

#[cfg(doc)]
use crate::api::TRUST_CONFIG_MAP;

/// The keys of the ConfigMap: what is in force; what it changes to; the nodes' pods, by UID, that began before;
/// and, once it was so, that some nodes have the one and some another.
const IN_FORCE: &str = "network";
const NEXT: &str = "network.next";
const BEFORE: &str = "network.before";
const MIXED: &str = "network.mixed";

/// What may be done with imports now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MigrationPhase {
    /// All that is to be done.
    Stable,
    /// All, with the network that is in force: no node has the one that the configuration says.
    Pending,
    /// No slice may stand: some nodes have the one, some the other.
    Rolling,
}

impl MigrationPhase {
    /// What an operator must know of it.
    pub(super) fn warning(self) -> Option<&'static str> {
        match self {
            Self::Stable => None,
            Self::Pending => Some(
                "network is not what the nodes have, and does not count until they are restarted (kubectl -n \
                 adit-system rollout restart daemonset/adit-node); imports pause from the first to the last of them",
            ),
            Self::Rolling => Some(
                "network changes: imports pause until the last node is restarted (kubectl -n adit-system rollout \
                 status daemonset/adit-node); where all are and this stays, a node was restarted before the change \
                 was seen here: restart them once more",
            ),
        }
    }
}

type TrustData = BTreeMap<String, String>;

/// How long no pod of before is left, on fewer nodes than there were, before that is believed: the last one may
/// only just be replaced.
const MISSING_NODE_TIMEOUT: Duration = Duration::from_secs(60);

/// A node's pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NodePod {
    pub(super) uid: String,
    /// Whether it keeps the network that it began with.
    pub(super) ready: bool,
}

/// Follows a change.
#[derive(Debug, Default)]
pub(super) struct NetworkMigration {
    /// Since when all pods that there are have begun anew.
    renewed_since: Option<Instant>,
    /// Whether all was in force when it was looked at last: who begins anew from then on is seen.
    was_stable: bool,
}

impl NetworkMigration {
    /// Looks at what is on record, at the configuration and at the nodes' pods that there are; gives the record
    /// as it should be.
    pub(super) fn advance(
        &mut self,
        record: &TrustData,
        wanted: &NetworkConfig,
        pods: &BTreeSet<NodePod>,
        now: Instant,
    ) -> (MigrationPhase, TrustData) {
        let (moves, fresh) = self.evaluate(record, wanted.line(), pods, now);
        self.was_stable = moves == MigrationPhase::Stable;
        (moves, fresh)
    }

    fn evaluate(
        &mut self,
        record: &TrustData,
        wanted: String,
        pods: &BTreeSet<NodePod>,
        now: Instant,
    ) -> (MigrationPhase, TrustData) {
        let mut fresh = record.clone();
        let settle = |mut record: TrustData| {
            record.insert(IN_FORCE.into(), wanted.clone());
            record.remove(NEXT);
            record.remove(BEFORE);
            record.remove(MIXED);
            (MigrationPhase::Stable, record)
        };
        let before: BTreeSet<&str> =
            record.get(BEFORE).map(|b| b.split_whitespace().collect()).unwrap_or_default();
        let is_new = |pod: &NodePod| !before.contains(&*pod.uid);
        let has_begun = pods.iter().any(is_new);
        let is_renewed = pods.iter().all(|pod| is_new(pod) && pod.ready);
        self.renewed_since = is_renewed.then(|| self.renewed_since.unwrap_or(now));
        let has_rested =
            self.renewed_since.is_some_and(|since| now >= since + MISSING_NODE_TIMEOUT);
        let is_over = is_renewed && (pods.len() >= before.len() || has_rested);
        // Nobody looked while it was changed: who has begun since, nobody knows.
        let unseen = record.get(NEXT).is_none() && !self.was_stable;
        let mixed =
            unseen || (record.contains_key(NEXT) && (has_begun || record.contains_key(MIXED)));
        let on = |mut record: TrustData| {
            if mixed {
                record.insert(MIXED.into(), "true".into());
            }
            (if mixed { MigrationPhase::Rolling } else { MigrationPhase::Pending }, record)
        };
        match (record.get(IN_FORCE), record.get(NEXT)) {
            (None, _) => settle(fresh),
            (Some(now), None) if *now == wanted => (MigrationPhase::Stable, fresh),
            // Taken back before any node had heard of it.
            (Some(now), Some(_)) if *now == wanted && !mixed => settle(fresh),
            (Some(_), Some(next)) if *next == wanted && is_over => settle(fresh),
            (Some(_), Some(next)) if *next == wanted => on(fresh),
            _ => {
                // Of those that are there now nobody knows which they have, once there was another change.
                let there: Vec<&str> = pods.iter().map(|pod| &*pod.uid).collect();
                fresh.insert(NEXT.into(), wanted.clone());
                fresh.insert(BEFORE.into(), there.join(" "));
                on(fresh)
            }
        }
    }
}

/// The network that the nodes have, where the record says another one than is wanted.
pub(super) fn network_in_force(
    record: &TrustData,
    wanted: &NetworkConfig,
) -> Option<NetworkConfig> {
    wanted.from_line(record.get(IN_FORCE)?).filter(|network| network != wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(port: u16) -> NetworkConfig {
        NetworkConfig { port, ..NetworkConfig::default() }
    }

    /// What comes of these pods, of which one that begins with a capital is not ready.
    fn step(
        record: &TrustData,
        wanted: &NetworkConfig,
        pods: &[&str],
    ) -> (MigrationPhase, TrustData) {
        let mut mover = NetworkMigration { was_stable: true, ..NetworkMigration::default() };
        mover.advance(record, wanted, &all(pods), Instant::now())
    }

    fn all(pods: &[&str]) -> BTreeSet<NodePod> {
        let pod = |name: &&str| NodePod {
            uid: name.to_ascii_lowercase(),
            ready: name.starts_with(|c: char| c.is_ascii_lowercase()),
        };
        pods.iter().map(pod).collect()
    }

    #[test]
    fn slices_go_while_some_nodes_have_the_old_network_and_some_the_new() {
        let (first, record) = step(&TrustData::new(), &network(1), &["a", "b"]);
        assert_eq!(first, MigrationPhase::Stable);
        assert_eq!(
            step(&record, &network(1), &["a", "c"]),
            (MigrationPhase::Stable, record.clone())
        );
        let (waits, record) = step(&record, &network(2), &["a", "b"]);
        assert_eq!(waits, MigrationPhase::Pending);
        for (now, says) in [
            (["a", "b"], MigrationPhase::Pending),
            (["a", "C"], MigrationPhase::Rolling),
            (["d", "C"], MigrationPhase::Rolling),
            (["d", "c"], MigrationPhase::Stable),
            (["e", "f"], MigrationPhase::Stable),
        ] {
            assert_eq!(step(&record, &network(2), &now).0, says, "{now:?}");
        }
        let (_, settled) = step(&record, &network(2), &["d", "c"]);
        assert_eq!(
            step(&settled, &network(2), &["d", "c"]),
            (MigrationPhase::Stable, settled.clone())
        );
    }

    #[test]
    fn a_node_that_is_missing_is_waited_for_a_while() {
        let (_, record) = step(&TrustData::new(), &network(1), &["a", "b"]);
        let (_, record) = step(&record, &network(2), &["a", "b"]);
        let (mut mover, began) = (NetworkMigration::default(), Instant::now());
        let mut after = |seconds, pods: &[&str]| {
            let now = began + Duration::from_secs(seconds);
            mover.advance(&record, &network(2), &all(pods), now).0
        };
        assert_eq!(
            after(0, &["c"]),
            MigrationPhase::Rolling,
            "the other's successor is not there yet"
        );
        assert_eq!(after(50, &["c", "D"]), MigrationPhase::Rolling);
        assert_eq!(after(70, &["c"]), MigrationPhase::Rolling, "from then on");
        assert_eq!(after(129, &["c"]), MigrationPhase::Rolling);
        assert_eq!(after(130, &["c"]), MigrationPhase::Stable, "its machine is gone");
    }

    #[test]
    fn what_changed_while_nobody_looked_is_not_trusted() {
        let (_, record) = step(&TrustData::new(), &network(1), &["a", "b"]);
        let look = |record: &TrustData, pods: &[&str]| {
            NetworkMigration::default().advance(record, &network(2), &all(pods), Instant::now())
        };
        let (goes, record) = look(&record, &["c", "d"]);
        assert_eq!(goes, MigrationPhase::Rolling, "they may have either");
        assert_eq!(look(&record, &["c", "d"]).0, MigrationPhase::Rolling);
        assert_eq!(look(&record, &["e", "f"]).0, MigrationPhase::Stable);
    }

    #[test]
    fn what_is_taken_back_before_a_node_has_begun_anew_changes_nothing() {
        let (_, record) = step(&TrustData::new(), &network(1), &["a", "b"]);
        let (_, changed) = step(&record, &network(2), &["a", "b"]);
        assert_eq!(step(&changed, &network(1), &["a", "b"]), (MigrationPhase::Stable, record));
        // Later it is a change like any other: who has which, nobody knows.
        let (goes, back) = step(&changed, &network(1), &["a", "c"]);
        assert_eq!(goes, MigrationPhase::Rolling);
        let (goes, still) = step(&back, &network(1), &["a", "c"]);
        assert_eq!(
            (goes, &still),
            (MigrationPhase::Rolling, &back),
            "as long as nobody is restarted"
        );
        assert_eq!(step(&back, &network(1), &["a", "d"]).0, MigrationPhase::Rolling);
        assert_eq!(
            step(&back, &network(3), &["a", "c"]).0,
            MigrationPhase::Rolling,
            "nor by a third"
        );
        let (none, settled) = step(&back, &network(1), &["d", "e"]);
        assert_eq!((none, settled.contains_key(MIXED)), (MigrationPhase::Stable, false));
    }
}
