//! Shares of the streams that a node may have open.
//!
//! Peers and local workloads do not trust each other, nor do the peers or the workloads among
//! themselves, so none can take what another needs. A quarter of all places is left to each direction. Of
//! the inbound ones a half is promised to the linked clusters in equal parts; the other half is for whoever
//! comes first, of which one cluster has no more than a half once others ask.

use adit_core::code::Code;
use adit_core::text::{count_noun, count_noun_is};

use crate::flow::failure::FlowFailure;

/// The streams that a node may have open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamCapacity {
    /// In all.
    pub all: usize,
}

/// The streams that are open, with the one that asks to be admitted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct OpenStreams {
    /// In all.
    pub(crate) all: usize,
    /// In the stream's direction.
    pub(crate) direction: usize,
    /// By the stream's own cluster, or workload.
    pub(crate) own: usize,
}

impl StreamCapacity {
    /// The most streams of one direction.
    #[must_use]
    pub fn direction(self) -> usize {
        (self.all - self.all / 4).max(1)
    }

    /// The streams that each of so many linked clusters is guaranteed.
    pub(crate) fn guaranteed(self, clusters: usize) -> usize {
        self.direction() / 2 / clusters.max(1)
    }

    /// Decides if a peer cluster may open a further stream. `borrowed` says by how much all `clusters` together
    /// exceed what is promised to them; it is asked only if room is scarce.
    ///
    /// # Errors
    /// [`Code::OverLimit`], with the limit.
    pub(crate) fn admit_peer(
        self,
        open: OpenStreams,
        clusters: usize,
        borrowed: impl FnOnce(usize) -> usize,
    ) -> Result<(), FlowFailure> {
        self.admit_in_all(open)?;
        let half = (self.direction() / 2).max(1);
        let promised = self.guaranteed(clusters);
        // Where there is one link alone, nobody else asks.
        if clusters <= 1 || open.direction <= half || open.own <= promised {
            return Ok(());
        }
        if open.own > half / 2 || borrowed(promised) > half {
            let (direction, own) = (counted_of(open.direction), open.own);
            return Err(over_limit(format!(
                "peers have {direction} open on this node, {own} of them its own cluster's, \
                 and the others' places are kept"
            )));
        }
        Ok(())
    }

    /// Decides if a local workload may open a further stream.
    ///
    /// # Errors
    /// [`Code::OverLimit`], with the limit.
    pub(crate) fn admit_workload(self, open: OpenStreams) -> Result<(), FlowFailure> {
        self.admit_in_all(open)?;
        let quarter = self.direction() / 4;
        let is_last = open.direction > self.direction() - quarter;
        if is_last && open.own > quarter.max(1) {
            let own = counted_of(open.own - 1);
            return Err(over_limit(format!(
                "the workload has {own} open on this node, and the last places are kept for others"
            )));
        }
        Ok(())
    }

    fn admit_in_all(self, open: OpenStreams) -> Result<(), FlowFailure> {
        let most = self.direction();
        match () {
            () if open.all > self.all => Err(over_limit(format!(
                "{} open on this node, which is what its descriptors (ulimit -n) are enough for",
                count_noun_is(self.all as u64, "stream")
            ))),
            () if open.direction > most => Err(over_limit(format!(
                "{} of this direction open on this node; the rest of the {} that its descriptors (ulimit -n) \
                 are enough for is kept for the other",
                count_noun_is(most as u64, "stream"),
                self.all
            ))),
            () => Ok(()),
        }
    }
}

fn counted_of(streams: usize) -> String {
    count_noun(streams as u64, "stream")
}

fn over_limit(reason: String) -> FlowFailure {
    FlowFailure::new(Code::OverLimit, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACES: StreamCapacity = StreamCapacity { all: 800 };

    /// Opens streams of each cluster in turn until none gets a place, and says how many each has.
    fn fill(mut have: Vec<usize>, asking: &[usize], clusters: usize) -> Vec<usize> {
        loop {
            let mut admitted = false;
            for &n in asking {
                let direction = have.iter().sum::<usize>() + 1;
                let open = OpenStreams { all: direction, direction, own: have[n] + 1 };
                let borrowed = |promised: usize| {
                    let of = |(i, n_open): (usize, &usize)| {
                        (n_open + usize::from(i == n)).saturating_sub(promised)
                    };
                    have.iter().enumerate().map(of).sum()
                };
                if PLACES.admit_peer(open, clusters, borrowed).is_ok() {
                    have[n] += 1;
                    admitted = true;
                }
            }
            if !admitted {
                return have;
            }
        }
    }

    #[test]
    fn one_cluster_alone_has_half_of_what_peers_may_have() {
        assert_eq!(fill(vec![0, 0], &[0], 2), [300, 0]);
    }

    #[test]
    fn what_is_promised_is_there_whatever_the_others_took() {
        let hostile = fill(vec![0; 5], &[0, 1, 2, 3], 5);
        let with_honest = fill(hostile.clone(), &[4], 5);
        assert!(hostile.iter().sum::<usize>() <= 600);
        assert!(with_honest[4] >= PLACES.guaranteed(5), "{with_honest:?}");
    }

    #[test]
    fn peers_leave_a_quarter_to_local_workloads_and_the_other_way() {
        let full = OpenStreams { all: 600, direction: 600, own: 1 };
        assert!(PLACES.admit_peer(full, 1, |_| 0).is_ok());
        let more = OpenStreams { all: 601, direction: 601, own: 1 };
        assert!(PLACES.admit_peer(more, 1, |_| 0).is_err());
        assert!(PLACES.admit_workload(more).is_err());
        assert!(PLACES.admit_workload(OpenStreams { all: 601, direction: 1, own: 1 }).is_ok());
        assert!(PLACES.admit_workload(OpenStreams { all: 801, direction: 1, own: 1 }).is_err());
    }

    #[test]
    fn one_workload_does_not_take_the_places_of_the_others() {
        let alone = |own| PLACES.admit_workload(OpenStreams { all: own, direction: own, own });
        assert!(alone(450).is_ok() && alone(451).is_err());
        let beside = |own| PLACES.admit_workload(OpenStreams { all: 600, direction: 600, own });
        assert!(beside(150).is_ok() && beside(151).is_err());
    }

    #[test]
    fn the_only_cluster_that_is_linked_has_all_that_peers_may_have() {
        assert_eq!(fill(vec![0], &[0], 1), [600]);
    }

    #[test]
    fn a_node_with_one_place_gives_it() {
        let one = OpenStreams { all: 1, direction: 1, own: 1 };
        assert!(StreamCapacity { all: 1 }.admit_workload(one).is_ok());
        assert!(StreamCapacity { all: 1 }.admit_peer(one, 1, |_| 0).is_ok());
    }
}
