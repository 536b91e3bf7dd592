//! Tells a view to subscribers, incrementally.
//!
//! One publisher serves all subscribers of one view. It keeps each record's latest value and the number
//! of its last change; a subscriber that names what it has is sent what changed since, and one that comes
//! from another epoch, or from before the oldest tombstone, is sent the whole.

use std::collections::BTreeMap;

use super::message::Message;
use crate::name::{NodeName, ServiceName};
use crate::snapshot::View;

/// How many records that are gone are remembered. A subscriber that missed more starts anew.
const TOMBSTONES: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Node(NodeName),
    Export(ServiceName),
}

impl Key {
    fn gone(&self) -> Message {
        match self {
            Self::Node(name) => Message::NodeGone(name.clone()),
            Self::Export(service) => Message::ExportGone(service.clone()),
        }
    }
}

/// The records of one view, and when each last changed.
#[derive(Debug)]
pub struct Publisher {
    epoch: u64,
    sequence: u64,
    /// The number of the last change, and the record; none where it is gone.
    records: BTreeMap<Key, (u64, Option<Message>)>,
    /// Changes up to this one may have lost their tombstones.
    forgotten: u64,
}

impl Publisher {
    /// A publisher of nothing yet. `epoch` is random and below 2^62.
    #[must_use]
    pub fn new(epoch: u64) -> Self {
        Self { epoch, sequence: 0, records: BTreeMap::new(), forgotten: 0 }
    }

    /// The epoch and number of the newest change.
    #[must_use]
    pub fn position(&self) -> (u64, u64) {
        (self.epoch, self.sequence)
    }

    /// Takes the view as it is now; says whether anything changed.
    pub fn update(&mut self, view: &View) -> bool {
        let nodes = view.nodes.iter().map(|(n, a)| {
            let addresses = a.iter().take(View::MAX_ADDRESSES).copied().collect();
            (Key::Node(n.clone()), Message::Node(n.clone(), addresses))
        });
        let exports = view
            .exports
            .iter()
            .map(|(s, e)| (Key::Export(s.clone()), Message::Export(s.clone(), e.clone())));
        let now: BTreeMap<Key, Message> = nodes.chain(exports).collect();
        let next = self.sequence + 1;
        let mut changed = false;
        for (key, (at, record)) in &mut self.records {
            if record.is_some() && !now.contains_key(key) {
                (*at, *record) = (next, None);
                changed = true;
            }
        }
        for (key, message) in now {
            let record = self.records.entry(key).or_insert((0, None));
            if record.1.as_ref() != Some(&message) {
                *record = (next, Some(message));
                changed = true;
            }
        }
        if changed {
            self.sequence = next;
            self.forget();
        }
        changed
    }

    /// Drops the oldest tombstones beyond [`TOMBSTONES`].
    fn forget(&mut self) {
        let mut gone: Vec<u64> =
            self.records.values().filter(|(_, r)| r.is_none()).map(|(at, _)| *at).collect();
        if let Some(excess) = gone.len().checked_sub(TOMBSTONES + 1) {
            gone.sort_unstable();
            self.forgotten = gone[excess];
            let forgotten = self.forgotten;
            self.records.retain(|_, (at, record)| record.is_some() || *at > forgotten);
        }
    }

    /// What a subscriber that has `have` needs to be up to date, but for the closing
    /// [`Message::Mark`], whose age the caller knows. Empty where it is up to date already.
    #[must_use]
    pub fn since(&self, have: Option<(u64, u64)>) -> Vec<Message> {
        let known = have.filter(|(epoch, sequence)| {
            *epoch == self.epoch && (self.forgotten..=self.sequence).contains(sequence)
        });
        let replaces = known.is_none();
        let from = known.map_or(0, |(_, sequence)| sequence);
        if !replaces && from == self.sequence {
            return Vec::new();
        }
        let changed = self
            .records
            .iter()
            .filter(|(_, (at, record))| if replaces { record.is_some() } else { *at > from })
            .map(|(key, (_, record))| record.clone().unwrap_or_else(|| key.gone()));
        [Message::Begin { epoch: self.epoch, replaces }].into_iter().chain(changed).collect()
    }
}
