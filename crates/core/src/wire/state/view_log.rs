//! Tells a view to subscribers, incrementally.
//!
//! One log serves all subscribers of one view. It keeps the view, and for each record the number of its last
//! change; a subscriber that names its position is sent what changed since, and one that comes from another
//! epoch, or from before the oldest tombstone, is sent the whole view. A change costs what changed: parts
//! that two views share are not looked at, and parts that did not change are not asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::message::StateMessage;
use super::omissions::RecordKey;
use crate::name::{NodeName, ServiceName};
use crate::shared_map::OwnedMapEntries;
use crate::snapshot::{ClusterView, PeerExport};

/// The most removed records that are remembered. A subscriber that missed more starts anew.
const MAX_TOMBSTONES: usize = 1024;

/// The most records that a subscriber may have missed and still be sent only those. The messages for a slow
/// subscriber wait for it, and must not be a copy of a view.
pub const MAX_MISSED: usize = MAX_TOMBSTONES;

/// Messages for one subscriber, made as it takes them. Besides at most [`MAX_MISSED`] of them it holds a view
/// as it was, which costs no more than what has changed since.
#[derive(Debug)]
pub struct ViewUpdates {
    begin: Option<StateMessage>,
    missed: std::vec::IntoIter<StateMessage>,
    nodes: OwnedMapEntries<NodeName, Vec<SocketAddr>>,
    exports: OwnedMapEntries<ServiceName, Arc<PeerExport>>,
}

impl ViewUpdates {
    fn whole(view: &ClusterView) -> Self {
        let ClusterView { nodes, exports } = view.clone();
        let (nodes, exports) = (nodes.into_iter(), exports.into_iter());
        Self { begin: None, missed: Vec::new().into_iter(), nodes, exports }
    }
}

impl Iterator for ViewUpdates {
    type Item = StateMessage;

    fn next(&mut self) -> Option<StateMessage> {
        let Self { begin, missed, nodes, exports } = self;
        let node = |(name, addresses)| StateMessage::Node(name, addresses);
        let export = |(service, export)| StateMessage::Export(service, export);
        let first = begin.take().or_else(|| missed.next());
        first.or_else(|| nodes.next().map(node)).or_else(|| exports.next().map(export))
    }
}

/// The records of one view, and when each last changed.
#[derive(Debug)]
pub struct ViewLog {
    epoch: u64,
    sequence: u64,
    view: ClusterView,
    /// The number of each record's last change, also of those that are gone.
    changed: BTreeMap<RecordKey, u64>,
    /// The same keys by sequence number.
    by_sequence: BTreeMap<u64, BTreeSet<RecordKey>>,
    /// Those that are gone, oldest first.
    tombstones: BTreeSet<(u64, RecordKey)>,
    /// Changes up to this one may have lost their tombstones.
    dropped_up_to: u64,
}

impl ViewLog {
    /// A publisher of nothing yet. `epoch` is random and below 2^62.
    #[must_use]
    pub fn new(epoch: u64) -> Self {
        Self {
            epoch,
            sequence: 0,
            view: ClusterView::default(),
            changed: BTreeMap::new(),
            by_sequence: BTreeMap::new(),
            tombstones: BTreeSet::new(),
            dropped_up_to: 0,
        }
    }

    /// The epoch and number of the newest change.
    #[must_use]
    pub fn position(&self) -> (u64, u64) {
        (self.epoch, self.sequence)
    }

    /// Takes the view as it is now; true if anything changed.
    pub fn update(&mut self, view: &ClusterView) -> bool {
        let old = std::mem::replace(&mut self.view, view.clone());
        let nodes = old.nodes.changes(&view.nodes);
        let nodes = nodes.map(|(n, now)| (RecordKey::Node(n.clone()), now.is_none()));
        let exports = old.exports.changes(&view.exports);
        let exports = exports.map(|(s, now)| (RecordKey::Export(s.clone()), now.is_none()));
        let next = self.sequence + 1;
        for (key, gone) in nodes.chain(exports) {
            self.sequence = next;
            self.record_change(key, gone);
        }
        self.drop_old_tombstones();
        self.sequence == next
    }

    /// A record changed just now, or went.
    fn record_change(&mut self, key: RecordKey, gone: bool) {
        let at = self.sequence;
        if let Some(before) = self.changed.insert(key.clone(), at) {
            self.remove_from_sequence(before, &key);
            self.tombstones.remove(&(before, key.clone()));
        }
        if gone {
            self.tombstones.insert((at, key.clone()));
        }
        self.by_sequence.entry(at).or_default().insert(key);
    }

    fn remove_from_sequence(&mut self, at: u64, key: &RecordKey) {
        if let Some(keys) = self.by_sequence.get_mut(&at) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_sequence.remove(&at);
            }
        }
    }

    /// Drops the oldest tombstones beyond [`MAX_TOMBSTONES`], and all of the same change.
    fn drop_old_tombstones(&mut self) {
        while let Some((at, key)) = self.tombstones.first().cloned()
            && (self.tombstones.len() > MAX_TOMBSTONES || at <= self.dropped_up_to)
        {
            self.dropped_up_to = at;
            self.changed.remove(&key);
            self.remove_from_sequence(at, &key);
            self.tombstones.pop_first();
        }
    }

    /// The messages that bring a subscriber at `have` up to date, but for the closing [`StateMessage::Mark`],
    /// whose age the caller knows. Empty if it is up to date already. A subscriber that missed more than
    /// [`MAX_MISSED`] records is sent the whole view.
    #[must_use]
    pub fn updates_since(&self, have: Option<(u64, u64)>) -> ViewUpdates {
        let (begin, missed) = match self.missed_keys(have) {
            Some(missed) if missed.is_empty() => (None, missed),
            Some(missed) => (Some(self.begin(false)), missed),
            None => {
                return ViewUpdates {
                    begin: Some(self.begin(true)),
                    ..ViewUpdates::whole(&self.view)
                };
            }
        };
        let messages: Vec<_> = missed.iter().map(|key| self.record_message(key)).collect();
        ViewUpdates {
            begin,
            missed: messages.into_iter(),
            ..ViewUpdates::whole(&ClusterView::default())
        }
    }

    fn begin(&self, replaces: bool) -> StateMessage {
        StateMessage::Begin { epoch: self.epoch, replaces }
    }

    /// The records that changed since, unless that is unknown or they are too many.
    fn missed_keys(&self, have: Option<(u64, u64)>) -> Option<Vec<&RecordKey>> {
        let (epoch, sequence) = have?;
        if epoch != self.epoch || !(self.dropped_up_to..=self.sequence).contains(&sequence) {
            return None;
        }
        let missed = self.by_sequence.range(sequence + 1..).flat_map(|(_, keys)| keys);
        let missed: Vec<_> = missed.take(MAX_MISSED + 1).collect();
        (missed.len() <= MAX_MISSED).then_some(missed)
    }

    /// A record as it is now.
    fn record_message(&self, key: &RecordKey) -> StateMessage {
        match key {
            RecordKey::Node(name) => match self.view.nodes.get(name) {
                Some(addresses) => StateMessage::Node(name.clone(), addresses.clone()),
                None => StateMessage::NodeGone(name.clone()),
            },
            RecordKey::Export(service) => match self.view.exports.get(service) {
                Some(export) => StateMessage::Export(service.clone(), Arc::clone(export)),
                None => StateMessage::ExportGone(service.clone()),
            },
        }
    }
}
