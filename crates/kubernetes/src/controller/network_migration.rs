//! Migration of the nodes to another network, which must not send clients to addresses that a node
//! does not serve.
//!
//! A node keeps the network that it started with. When the configuration names another one, the
//! previous one stays in force until the first node restarts; from then on no slice exists until
//! the last node has restarted, because every node serves and guards the address of an import, or
//! nobody has it. The state stands in ConfigMap [`TRUST_CONFIG_MAP`] beside the bundle, so that a
//! controller that starts meanwhile goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use adit_config::cluster::NetworkConfig;
use tokio::time::Instant;

#[cfg(doc)]
use crate::api::TRUST_CONFIG_MAP;

/// Keys of the ConfigMap: the network in force; the next network; UIDs of the nodes' pods that
/// started before the change; and a mark that some nodes have the one network and some the other.
const IN_FORCE: &str = "network";
const NEXT: &str = "network.next";
const BEFORE: &str = "network.before";
const MIXED: &str = "network.mixed";

/// State of a migration, which says what may be done with imports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MigrationPhase {
    /// There is no migration: everything may be done.
    Stable,
    /// No node has the network of the configuration yet: everything goes on with the one in force.
    Pending,
    /// Some nodes have the one network, some the other: no slice may exist.
    Rolling,
}

impl MigrationPhase {
    /// Returns a warning for the operator.
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

/// Time for which fewer nodes than before may be there, all restarted, until the missing ones are
/// believed to be gone: the last pod may only just be replaced.
const MISSING_NODE_TIMEOUT: Duration = Duration::from_secs(60);

/// A node's pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NodePod {
    pub(super) uid: String,
    /// True if it keeps the network that it started with.
    pub(super) ready: bool,
}

/// Follows a migration from pass to pass.
#[derive(Debug, Default)]
pub(super) struct NetworkMigration {
    /// Since when all present pods have restarted.
    renewed_since: Option<Instant>,
    /// True if there was no migration at the last pass: a restart from then on is noticed.
    was_stable: bool,
}

impl NetworkMigration {
    /// Compares the record with the configuration and the nodes' pods; returns the phase, and the
    /// record as it should be.
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
        // Nobody watched while it was changed, so which nodes have restarted since is unknown.
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
            // Taken back before any node had it.
            (Some(now), Some(_)) if *now == wanted && !mixed => settle(fresh),
            (Some(_), Some(next)) if *next == wanted && is_over => settle(fresh),
            (Some(_), Some(next)) if *next == wanted => on(fresh),
            _ => {
                // After another change it is unknown which network the present nodes have.
                let there: Vec<&str> = pods.iter().map(|pod| &*pod.uid).collect();
                fresh.insert(NEXT.into(), wanted.clone());
                fresh.insert(BEFORE.into(), there.join(" "));
                on(fresh)
            }
        }
    }
}

/// Returns the network that the nodes have, if the record names another one than the configuration.
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

    /// The result for these pods; one that begins with a capital letter is not ready.
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
        // Later it is a change like any other: it is unknown which node has which.
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
