//! Tells a view to subscribers, incrementally.
//!
//! One publisher serves all subscribers of one view. It keeps the view, and for each record the number of
//! its last change; a subscriber that names what it has is sent what changed since, and one that comes
//! from another epoch, or from before the oldest tombstone, is sent the whole. A change costs what
//! changed: what two views share is not looked at, and what did not change is not asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::message::Message;
use super::omissions::RecordKey;
use crate::name::{NodeName, ServiceName};
use crate::shared_map::OwnedEntries;
use crate::snapshot::{PeerExport, View};

/// How many records that are gone are remembered. A subscriber that missed more starts anew.
const TOMBSTONES: usize = 1024;

/// Records that a subscriber may have missed and still be told only those. What is told to a slow one waits
/// for it, and must not be a copy of a view.
pub const MAX_MISSED: usize = TOMBSTONES;

/// Messages for one subscriber, made as it takes them. Besides at most [`MAX_MISSED`] of them it holds a
/// view as it was, which costs no more than what has changed since.
#[derive(Debug)]
pub struct News {
    begin: Option<Message>,
    missed: std::vec::IntoIter<Message>,
    nodes: OwnedEntries<NodeName, Vec<SocketAddr>>,
    exports: OwnedEntries<ServiceName, Arc<PeerExport>>,
}

impl News {
    fn whole(view: &View) -> Self {
        let View { nodes, exports } = view.clone();
        let (nodes, exports) = (nodes.into_iter(), exports.into_iter());
        Self { begin: None, missed: Vec::new().into_iter(), nodes, exports }
    }
}

impl Iterator for News {
    type Item = Message;

    fn next(&mut self) -> Option<Message> {
        let Self { begin, missed, nodes, exports } = self;
        let node = |(name, addresses)| Message::Node(name, addresses);
        let export = |(service, export)| Message::Export(service, export);
        let first = begin.take().or_else(|| missed.next());
        first.or_else(|| nodes.next().map(node)).or_else(|| exports.next().map(export))
    }
}

/// The records of one view, and when each last changed.
#[derive(Debug)]
pub struct Publisher {
    epoch: u64,
    sequence: u64,
    view: View,
    /// The number of each record's last change, also of those that are gone.
    changed: BTreeMap<RecordKey, u64>,
    /// The same, by number.
    log: BTreeMap<u64, BTreeSet<RecordKey>>,
    /// Those that are gone, oldest first.
    gone: BTreeSet<(u64, RecordKey)>,
    /// Changes up to this one may have lost their tombstones.
    forgotten: u64,
}

impl Publisher {
    /// A publisher of nothing yet. `epoch` is random and below 2^62.
    #[must_use]
    pub fn new(epoch: u64) -> Self {
        Self {
            epoch,
            sequence: 0,
            view: View::default(),
            changed: BTreeMap::new(),
            log: BTreeMap::new(),
            gone: BTreeSet::new(),
            forgotten: 0,
        }
    }

    /// The epoch and number of the newest change.
    #[must_use]
    pub fn position(&self) -> (u64, u64) {
        (self.epoch, self.sequence)
    }

    /// Takes the view as it is now; says whether anything changed.
    pub fn update(&mut self, view: &View) -> bool {
        let old = std::mem::replace(&mut self.view, view.clone());
        let nodes = old.nodes.changes(&view.nodes);
        let nodes = nodes.map(|(n, now)| (RecordKey::Node(n.clone()), now.is_none()));
        let exports = old.exports.changes(&view.exports);
        let exports = exports.map(|(s, now)| (RecordKey::Export(s.clone()), now.is_none()));
        let next = self.sequence + 1;
        for (key, gone) in nodes.chain(exports) {
            self.sequence = next;
            self.note(key, gone);
        }
        self.forget();
        self.sequence == next
    }

    /// A record changed just now, or went.
    fn note(&mut self, key: RecordKey, gone: bool) {
        let at = self.sequence;
        if let Some(before) = self.changed.insert(key.clone(), at) {
            self.unlog(before, &key);
            self.gone.remove(&(before, key.clone()));
        }
        if gone {
            self.gone.insert((at, key.clone()));
        }
        self.log.entry(at).or_default().insert(key);
    }

    fn unlog(&mut self, at: u64, key: &RecordKey) {
        if let Some(keys) = self.log.get_mut(&at) {
            keys.remove(key);
            if keys.is_empty() {
                self.log.remove(&at);
            }
        }
    }

    /// Drops the oldest tombstones beyond [`TOMBSTONES`], and all of the same change.
    fn forget(&mut self) {
        while let Some((at, key)) = self.gone.first().cloned()
            && (self.gone.len() > TOMBSTONES || at <= self.forgotten)
        {
            self.forgotten = at;
            self.changed.remove(&key);
            self.unlog(at, &key);
            self.gone.pop_first();
        }
    }

    /// What a subscriber that has `have` needs to be up to date, but for the closing
    /// [`Message::Mark`], whose age the caller knows. Empty where it is up to date already. One that
    /// missed more than [`MAX_MISSED`] records is told the whole.
    #[must_use]
    pub fn since(&self, have: Option<(u64, u64)>) -> News {
        let (begin, missed) = match self.missed(have) {
            Some(missed) if missed.is_empty() => (None, missed),
            Some(missed) => (Some(self.begin(false)), missed),
            None => return News { begin: Some(self.begin(true)), ..News::whole(&self.view) },
        };
        let messages: Vec<_> = missed.iter().map(|key| self.record(key)).collect();
        News { begin, missed: messages.into_iter(), ..News::whole(&View::default()) }
    }

    fn begin(&self, replaces: bool) -> Message {
        Message::Begin { epoch: self.epoch, replaces }
    }

    /// The records that changed since, unless that is unknown or they are too many.
    fn missed(&self, have: Option<(u64, u64)>) -> Option<Vec<&RecordKey>> {
        let (epoch, sequence) = have?;
        if epoch != self.epoch || !(self.forgotten..=self.sequence).contains(&sequence) {
            return None;
        }
        let missed = self.log.range(sequence + 1..).flat_map(|(_, keys)| keys);
        let missed: Vec<_> = missed.take(MAX_MISSED + 1).collect();
        (missed.len() <= MAX_MISSED).then_some(missed)
    }

    /// A record as it is now.
    fn record(&self, key: &RecordKey) -> Message {
        match key {
            RecordKey::Node(name) => match self.view.nodes.get(name) {
                Some(addresses) => Message::Node(name.clone(), addresses.clone()),
                None => Message::NodeGone(name.clone()),
            },
            RecordKey::Export(service) => match self.view.exports.get(service) {
                Some(export) => Message::Export(service.clone(), Arc::clone(export)),
                None => Message::ExportGone(service.clone()),
            },
        }
    }
}
