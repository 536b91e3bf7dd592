//! A replica of a publisher's view, which is given out only while it is consistent.
//!
//! The publisher is a peer: authenticated, not trusted. Its messages are bounded; a record that breaks a
//! bound is left out, and a message out of place ends the stream. A record costs itself, whatever the view
//! holds: the view that a mark gives shares with the one before it what has not changed.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use super::super::tlv::WireError;
use super::message::{ReceivedMessage, StateMessage};
use super::omissions::{Omission, Omissions, RecordKey};
use super::{MAX_BYTES, MAX_EXPORTS, MAX_NODES, memory_size};
use crate::name::{Namespace, NodeName, ServiceName};
use crate::policy::Pattern;
use crate::shared_map::SharedMap;
use crate::snapshot::{ClusterView, PeerExport, ReadyCounts};

/// The most namespaces of which one copy serves all records.
const MAX_NAMESPACES: usize = 1024;

/// A view as one publisher has sent it so far.
#[derive(Debug, Default)]
pub struct ViewReplica {
    view: ClusterView,
    /// Size of the view's records, as [`memory_size`] counts.
    bytes: usize,
    omitted: Arc<Omissions>,
    /// The view as it was given out last, while it is still that.
    last_marked: Option<Arc<ClusterView>>,
    interner: Interner,
    epoch: Option<u64>,
    position: Option<(u64, u64)>,
}

/// Values that many records have in common, so that they are held once.
#[derive(Debug, Default)]
struct Interner {
    namespaces: BTreeSet<Namespace>,
    /// The counts of the port before.
    ready: ReadyCounts,
}

/// A consistent view, as of a publisher's mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkedView {
    /// The view.
    pub view: Arc<ClusterView>,
    /// The records that were sent and are not in the view.
    pub omitted: Arc<Omissions>,
    /// The publisher's epoch and sequence.
    pub position: (u64, u64),
    /// Time since the view was known to be true when it was sent, in milliseconds.
    pub age_ms: u64,
    /// True if the publisher had lost that cluster.
    pub lost: bool,
}

impl ViewReplica {
    /// The epoch and sequence of the last mark: the position from which to ask to continue. `None` also if
    /// something was left out that there may be room for by now: all of it has to be sent again.
    #[must_use]
    pub fn position(&self) -> Option<(u64, u64)> {
        self.position.filter(|_| !self.omitted.lacks_room())
    }

    /// Takes the next message as a lenient reader does; a mark gives the view.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub fn receive(&mut self, message: ReceivedMessage) -> Result<Option<MarkedView>, WireError> {
        match message {
            ReceivedMessage::Message(message) => self.apply(message),
            ReceivedMessage::Invalid(..) if self.epoch.is_none() => {
                Err(WireError::Unexpected("nothing has begun"))
            }
            ReceivedMessage::Invalid(key, why) => {
                self.omit(key, why.into());
                Ok(None)
            }
        }
    }

    /// Takes the next message; a mark gives the view. A record for which there is no room is left out.
    ///
    /// # Errors
    /// [`WireError::Unexpected`] for a message out of place. The replica is of no use after an error.
    pub fn apply(&mut self, message: StateMessage) -> Result<Option<MarkedView>, WireError> {
        if self.epoch.is_none() && !matches!(message, StateMessage::Begin { replaces: true, .. }) {
            return Err(WireError::Unexpected("nothing has begun"));
        }
        match message {
            StateMessage::Subscribe(_) => return Err(WireError::Unexpected("subscribe")),
            StateMessage::Begin { epoch, replaces } => {
                if replaces {
                    *self = Self::default();
                } else if self.epoch != Some(epoch) {
                    return Err(WireError::Unexpected("begin of another epoch"));
                }
                self.epoch = Some(epoch);
                self.position = None;
            }
            StateMessage::Node(name, addresses) => self.insert_node(name, addresses),
            StateMessage::NodeGone(name) => self.remove(&RecordKey::Node(name)),
            StateMessage::Export(service, export) => self.insert_export(service, export),
            StateMessage::ExportGone(service) => self.remove(&RecordKey::Export(service)),
            StateMessage::Mark { sequence, age_ms, lost } => {
                let position = (self.epoch.unwrap_or_default(), sequence);
                self.position = Some(position);
                let view = self.last_marked.get_or_insert_with(|| Arc::new(self.view.clone()));
                let (view, omitted) = (Arc::clone(view), Arc::clone(&self.omitted));
                return Ok(Some(MarkedView { view, omitted, position, age_ms, lost }));
            }
        }
        Ok(None)
    }

    fn insert_node(&mut self, name: NodeName, addresses: Vec<SocketAddr>) {
        let old = self.view.nodes.get(&name);
        if old == Some(&addresses) {
            return;
        }
        let sizes =
            (memory_size::node(&name, &addresses), old.map(|old| memory_size::node(&name, old)));
        let key = RecordKey::Node(name.clone());
        match self.check_room(sizes, self.view.nodes.len() < MAX_NODES, Omission::Nodes) {
            Ok(()) => {
                self.account_size(&key, sizes);
                self.view.nodes.insert(name, addresses);
            }
            Err(full) => self.omit(Some(key), full),
        }
    }

    fn insert_export(&mut self, mut service: ServiceName, mut export: Arc<PeerExport>) {
        let old = self.view.exports.get(&service);
        if old == Some(&export) {
            return;
        }
        let old = old.map(|old| memory_size::export(&service, old));
        let sizes = (memory_size::export(&service, &export), old);
        let key = RecordKey::Export(service.clone());
        match self.check_room(sizes, self.view.exports.len() < MAX_EXPORTS, Omission::Exports) {
            Ok(()) => {
                self.account_size(&key, sizes);
                self.interner.intern_namespace(&mut service.namespace);
                if let Some(export) = Arc::get_mut(&mut export) {
                    self.interner.intern_export(export, &self.view.nodes);
                }
                self.view.exports.insert(service, export);
            }
            Err(full) => self.omit(Some(key), full),
        }
    }

    /// Checks whether a record may take the place of another, by their sizes, or have a place of its own.
    fn check_room(
        &self,
        (new, old): (usize, Option<usize>),
        one_more: bool,
        most: Omission,
    ) -> Result<(), Omission> {
        if old.is_none() && !one_more {
            return Err(most);
        }
        let after = self.bytes - old.unwrap_or_default() + new;
        if after > MAX_BYTES { Err(Omission::Bytes) } else { Ok(()) }
    }

    /// Accounts for a record of this size that takes another's place.
    fn account_size(&mut self, key: &RecordKey, (new, old): (usize, Option<usize>)) {
        self.bytes = self.bytes - old.unwrap_or_default() + new;
        self.last_marked = None;
        if !self.omitted.is_empty() {
            Arc::make_mut(&mut self.omitted).remove(key);
        }
    }

    fn remove(&mut self, key: &RecordKey) {
        let old = match key {
            RecordKey::Node(name) => {
                self.view.nodes.remove(name).map(|old| memory_size::node(name, &old))
            }
            RecordKey::Export(service) => {
                self.view.exports.remove(service).map(|old| memory_size::export(service, &old))
            }
        };
        if old.is_some() {
            self.account_size(key, (0, old));
        } else if !self.omitted.is_empty() {
            Arc::make_mut(&mut self.omitted).remove(key);
        }
    }

    /// Leaves a record out. Its earlier content is not true any more, and nothing is granted by mistake.
    fn omit(&mut self, key: Option<RecordKey>, why: Omission) {
        if let Some(key) = &key {
            self.remove(key);
        }
        Arc::make_mut(&mut self.omitted).add(key, why);
    }
}

impl Interner {
    /// Has an export use what others have already: its nodes' names, namespaces, and equal counts.
    fn intern_export(
        &mut self,
        export: &mut PeerExport,
        nodes: &SharedMap<NodeName, Vec<SocketAddr>>,
    ) {
        for port in &mut export.ports {
            if port.ready != self.ready {
                let known =
                    |name: &NodeName| nodes.get_key_value(name).map(|(known, _)| known.clone());
                let count = |(name, n): (&NodeName, &u32)| {
                    (known(name).unwrap_or_else(|| name.clone()), *n)
                };
                self.ready = port.ready.iter().map(count).collect();
            }
            port.ready = self.ready.clone();
        }
        for grant in &mut export.grants {
            if let Pattern::Exact(namespace) = &mut grant.namespace {
                self.intern_namespace(namespace);
            }
        }
    }

    fn intern_namespace(&mut self, name: &mut Namespace) {
        if let Some(known) = self.namespaces.get(name) {
            *name = known.clone();
        } else if self.namespaces.len() < MAX_NAMESPACES {
            self.namespaces.insert(name.clone());
        }
    }
}

#[cfg(test)]
mod tests;
