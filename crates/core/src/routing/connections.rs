//! Choices among the connections with one node: which take new streams, and which of them a stream takes.
//!
//! Several connections with one node are normal: classes, two directions, several workers, two
//! generations during an upgrade. Nothing here ever asks for one to be closed.

use std::collections::BTreeSet;

use crate::snapshot::Class;

/// A connection with one node, as far as choosing goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionCandidate {
    /// The peer's boot ID.
    pub boot: [u8; 16],
    /// The traffic class that it carries.
    pub class: Class,
    /// True if we dialled it.
    pub dialled: bool,
    /// Which of its dialler's parallel connections of one class it is.
    pub slot: u64,
    /// Our worker that drives it.
    pub worker: usize,
    /// True if one side said that it takes no new streams.
    pub draining: bool,
    /// True if another connection with the same boot of the node ended by silence, and nothing was received
    /// on this one since.
    pub silent: bool,
    /// Streams that it carries.
    pub streams: usize,
}

impl ConnectionCandidate {
    /// True if it neither drains nor is silent. Some of a node's connections take new streams if and only if
    /// one of them is alive.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.draining && !self.silent
    }
}

/// The reason why a connection takes no new streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unusable {
    /// Either side said that it is going away.
    Draining,
    /// The node has fallen silent: this one will end like another with it did, a little later.
    Silent,
    /// The node was started again since: another boot ID was seen first after this one's.
    OlderBoot,
    /// A later connection of the same boot ID, class, dialler and slot took its place.
    Replaced,
}

/// The reason why each of a node's connections takes no new streams; `None` for those that do. `all` is in
/// the order in which they were made, and holds only connections that have not ended.
#[must_use]
pub fn unusable_reasons(all: &[ConnectionCandidate]) -> Vec<Option<Unusable>> {
    let newest = newest_boot(all);
    let mut later = BTreeSet::new();
    let mut judge = |c: &ConnectionCandidate| {
        let is_last = !c.is_alive() || later.insert((c.class, c.dialled, c.slot, c.boot));
        match () {
            () if c.draining => Some(Unusable::Draining),
            () if c.silent => Some(Unusable::Silent),
            () if Some(c.boot) != newest => Some(Unusable::OlderBoot),
            () if !is_last => Some(Unusable::Replaced),
            () => None,
        }
    };
    let mut passed: Vec<Option<Unusable>> = all.iter().rev().map(&mut judge).collect();
    passed.reverse();
    passed
}

/// The boot that came last, of those that live: a process that connects again is not newer for it, so that
/// two at once (a hand-over, a copied identity) do not take each other's streams in turns.
fn newest_boot(all: &[ConnectionCandidate]) -> Option<[u8; 16]> {
    let living: BTreeSet<[u8; 16]> = all.iter().filter(|c| c.is_alive()).map(|c| c.boot).collect();
    if living.len() < 2 {
        return living.first().copied();
    }
    let mut met = BTreeSet::new();
    let firsts = all.iter().map(|c| c.boot).filter(|boot| met.insert(*boot));
    firsts.filter(|boot| living.contains(boot)).last()
}

/// The connections that a stream may take, best first, as indices into `all`: of its class before the other;
/// among those, the ones that we dialled before the ones that the peer dialled, since only a dialler learns
/// at once that the other side was started again; then its own worker's before another's, and the least busy
/// of those. A draw breaks ties.
#[must_use]
pub fn preference_order(
    all: &[ConnectionCandidate],
    class: Class,
    worker: usize,
    random: u64,
) -> Vec<usize> {
    let passed = unusable_reasons(all);
    let mut usable: Vec<usize> = (0..all.len()).filter(|n| passed[*n].is_none()).collect();
    if let Some(start) = random.checked_rem(usable.len() as u64) {
        usable.rotate_left(usize::try_from(start).unwrap_or_default());
    }
    usable.sort_by_key(|n| {
        let c = &all[*n];
        (c.class != class, !c.dialled, c.worker != worker, c.streams)
    });
    usable
}

/// The slot of a connection that `worker`, of `workers`, is about to dial: the lowest of the worker's own
/// that no usable connection has which we dialled in that class. `None` if the worker has `limit` connections
/// already.
#[must_use]
pub fn free_slot(
    all: &[ConnectionCandidate],
    class: Class,
    worker: usize,
    workers: usize,
    limit: usize,
) -> Option<u64> {
    let passed = unusable_reasons(all);
    let usable = all.iter().zip(&passed).filter(|(_, passed)| passed.is_none()).map(|(c, _)| c);
    let own_dials = usable.filter(|c| c.dialled && c.class == class);
    let taken: BTreeSet<u64> = own_dials.map(|c| c.slot).collect();
    (0..limit).map(|n| (n * workers + worker) as u64).find(|slot| !taken.contains(slot))
}

#[cfg(test)]
mod tests;
