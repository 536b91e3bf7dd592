//! Limits on connections: in all, with each linked cluster, and with each of its nodes.
//!
//! Clusters need not trust each other, so none can take what another needs. Half of all places are guaranteed
//! to the linked clusters in equal parts; the other half is for whoever comes first, up to a quarter of all
//! for one cluster. Within a cluster's part its announced nodes come before names that it has not announced,
//! and no node takes the places of the others once they become few.

use super::rate_limit::RateLimit;

/// The most connections that there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// With the nodes of all linked clusters.
    pub total: usize,
    /// With one node.
    pub per_node: usize,
}

/// The connections that there are with a node that asks for one more, and with its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionCounts {
    /// Connections with the node.
    pub with_node: usize,
    /// Connections with its cluster.
    pub with_cluster: usize,
    /// Connections with nodes of its cluster that are not announced.
    pub with_unannounced: usize,
    /// True if the node is announced by its cluster.
    pub is_announced: bool,
    /// Number of nodes that its cluster announces; 0 while that is not known.
    pub members: usize,
}

/// The limit that is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LimitReached {
    /// There are enough connections with the node.
    Node,
    /// There are enough with nodes that its cluster has not announced.
    Unannounced,
    /// There are enough with its cluster.
    Cluster,
    /// There are enough in all, and its cluster has what is promised to it.
    Total,
}

impl ConnectionLimits {
    /// The most that one cluster may have.
    #[must_use]
    pub fn per_cluster(&self) -> usize {
        (self.total / 4).max(1)
    }

    /// The most that one cluster may have with nodes that it has not announced: views may be late.
    #[must_use]
    pub fn per_cluster_unannounced(&self) -> usize {
        (self.per_cluster() / 16).max(1)
    }

    /// The connections that each of so many clusters is guaranteed.
    #[must_use]
    pub fn guaranteed(&self, clusters: usize) -> usize {
        (self.total / 2 / clusters.max(1)).min(self.per_cluster())
    }

    /// Checks whether there is a place in the part of the cluster. `lent` is by how much all of the
    /// `clusters` together exceed what is guaranteed to them.
    ///
    /// # Errors
    /// [`LimitReached`], the narrowest bound first.
    pub fn admit(
        &self,
        asking: &ConnectionCounts,
        clusters: usize,
        lent: usize,
    ) -> Result<(), LimitReached> {
        self.admit_own_cluster(asking)?;
        let promised = self.guaranteed(clusters);
        let to_lend = self.total.saturating_sub(promised.saturating_mul(clusters));
        if asking.with_cluster >= promised && lent >= to_lend {
            return Err(LimitReached::Total);
        }
        Ok(())
    }

    /// Checks the same for our own cluster, which shares its places with no other.
    ///
    /// # Errors
    /// [`LimitReached`], the narrowest bound first.
    pub fn admit_own_cluster(&self, asking: &ConnectionCounts) -> Result<(), LimitReached> {
        let cluster = self.per_cluster();
        let half = cluster.div_ceil(2);
        // Beyond its half a cluster's nodes get equal parts of the other, and one at least.
        let fair =
            if asking.with_cluster < half { self.per_node } else { half / asking.members.max(1) };
        match () {
            () if asking.with_node >= self.per_node.min(fair.max(1)) => Err(LimitReached::Node),
            () if !asking.is_announced
                && asking.with_unannounced >= self.per_cluster_unannounced() =>
            {
                Err(LimitReached::Unannounced)
            }
            () if asking.with_cluster >= cluster => Err(LimitReached::Cluster),
            () => Ok(()),
        }
    }
}

/// The number of nodes that a cluster is assumed to have while there is no view of it.
const ASSUMED_MEMBERS: usize = 512;

/// The rate at which the `members` nodes of a cluster may connect; `members` is 0 if their number is not
/// known. All of them may come back at once, twice each; after that the rate is what a machine has handshakes
/// to spare.
#[must_use]
pub fn connect_rate(members: usize) -> RateLimit {
    let members = if members == 0 { ASSUMED_MEMBERS } else { members };
    let burst = u32::try_from(members.saturating_mul(2)).unwrap_or(u32::MAX).clamp(128, 1024);
    RateLimit { burst, per_second: burst / 32 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: ConnectionLimits = ConnectionLimits { total: 8192, per_node: 256 };

    fn node() -> ConnectionCounts {
        let (with_node, with_cluster, with_strangers) = (0, 0, 0);
        ConnectionCounts {
            with_node,
            with_cluster,
            with_unannounced: with_strangers,
            is_announced: true,
            members: 10,
        }
    }

    #[test]
    fn a_cluster_has_a_quarter_at_most_and_names_that_it_invents_a_little_of_that() {
        let full = ConnectionCounts { with_cluster: 2047, ..node() };
        assert_eq!(BOUNDS.admit(&full, 1, 0), Ok(()));
        assert_eq!(
            BOUNDS.admit(&ConnectionCounts { with_cluster: 2048, ..full }, 1, 0),
            Err(LimitReached::Cluster)
        );
        let invented = ConnectionCounts { is_announced: false, with_unannounced: 127, ..node() };
        assert_eq!(BOUNDS.admit(&invented, 1, 0), Ok(()));
        let more = ConnectionCounts { with_unannounced: 128, ..invented };
        assert_eq!(BOUNDS.admit(&more, 1, 0), Err(LimitReached::Unannounced));
        assert_eq!(BOUNDS.admit(&ConnectionCounts { is_announced: true, ..more }, 1, 0), Ok(()));
    }

    #[test]
    fn a_node_has_no_more_than_an_honest_one_needs_and_less_once_places_are_few() {
        let many = ConnectionCounts { with_node: 255, with_cluster: 255, ..node() };
        assert_eq!(BOUNDS.admit(&many, 1, 0), Ok(()));
        let enough = ConnectionCounts { with_node: 256, with_cluster: 256, ..many };
        assert_eq!(BOUNDS.admit(&enough, 1, 0), Err(LimitReached::Node));
        let few =
            |with_node| ConnectionCounts { with_node, with_cluster: 1024, members: 500, ..node() };
        assert_eq!(BOUNDS.admit(&few(1), 1, 0), Ok(()));
        assert_eq!(
            BOUNDS.admit(&few(2), 1, 0),
            Err(LimitReached::Node),
            "1024 places for 500 nodes"
        );
        let crowd = ConnectionCounts { members: 100_000, ..few(0) };
        assert_eq!(BOUNDS.admit(&crowd, 1, 0), Ok(()), "the first connection of a node");
    }

    #[test]
    fn five_hundred_nodes_come_back_at_once_and_a_thousand_invented_ones_do_not() {
        assert!(connect_rate(500).burst >= 1000 && connect_rate(0).burst >= 1000);
        assert!(connect_rate(3).burst < 200 && connect_rate(3).per_second <= 4);
        let most = connect_rate(1_000_000);
        assert!(most.burst <= 1024 && most.per_second <= 32, "{most:?}");
    }

    proptest! {
        /// Whatever clusters take, in whatever order: all bounds hold, and everybody gets what is promised.
        #[test]
        fn no_cluster_takes_what_was_guaranteed_to_another(
            clusters in 1usize..9,
            all in 16usize..200,
            asks in proptest::collection::vec((0usize..9, 0usize..40, any::<bool>()), 0..400),
        ) {
            let bounds = ConnectionLimits { total: all, per_node: 7 };
            let mut taken = vec![std::collections::BTreeMap::<(usize, bool), usize>::new(); clusters];
            let count = |of: &std::collections::BTreeMap<_, usize>| of.values().sum::<usize>();
            let promised = bounds.guaranteed(clusters);
            for (cluster, name, is_announced) in asks {
                let cluster = cluster % clusters;
                let lent = taken.iter().map(|of| count(of).saturating_sub(promised)).sum();
                let of = &mut taken[cluster];
                let strangers = of.iter().filter(|((_, announced), _)| !announced).map(|(_, n)| n);
                let asking = ConnectionCounts {
                    with_node: of.get(&(name, is_announced)).copied().unwrap_or_default(),
                    with_cluster: count(of),
                    with_unannounced: strangers.sum(),
                    is_announced,
                    members: 20,
                };
                match bounds.admit(&asking, clusters, lent) {
                    Ok(()) => *of.entry((name, is_announced)).or_default() += 1,
                    Err(LimitReached::Total) => prop_assert!(asking.with_cluster >= promised),
                    Err(LimitReached::Cluster) => prop_assert!(asking.with_cluster >= bounds.per_cluster()),
                    Err(LimitReached::Unannounced) => prop_assert!(!is_announced),
                    Err(LimitReached::Node) => prop_assert!(asking.with_node >= 1),
                }
                prop_assert!(taken.iter().map(count).sum::<usize>() <= all);
                prop_assert!(taken.iter().all(|of| count(of) <= bounds.per_cluster()));
            }
        }
    }
}
