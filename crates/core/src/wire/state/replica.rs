//! Holds what a publisher told, and hands it on only when it is consistent.
//!
//! The publisher is a peer: authenticated, not trusted. What it says is bounded, and a message out of
//! place ends the stream.

use std::sync::Arc;

use super::super::tlv::WireError;
use super::message::Message;
use super::{MAX_BYTES, MAX_EXPORTS, MAX_NODES};
use crate::snapshot::View;

/// A view as told by one publisher so far.
#[derive(Debug, Default)]
pub struct Replica {
    view: View,
    /// What the view's records take on the wire.
    bytes: usize,
    /// The view as it was handed on last, while it is still that.
    marked: Option<Arc<View>>,
    epoch: Option<u64>,
    position: Option<(u64, u64)>,
}

/// A consistent view, as of a publisher's mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marked {
    /// The view.
    pub view: Arc<View>,
    /// The publisher's epoch and sequence.
    pub position: (u64, u64),
    /// How long ago it was known to be true when it was sent, in milliseconds.
    pub age_ms: u64,
    /// Whether who told it had lost that cluster.
    pub lost: bool,
}

impl Replica {
    /// The epoch and sequence of the last mark: what to ask to continue from.
    #[must_use]
    pub fn position(&self) -> Option<(u64, u64)> {
        self.position
    }

    /// Takes the next message; a mark gives the view.
    ///
    /// # Errors
    /// [`WireError::Unexpected`] for a message out of place, [`WireError::Invalid`] where the view grows
    /// beyond its bounds. The replica is of no use after an error.
    pub fn apply(&mut self, message: Message) -> Result<Option<Marked>, WireError> {
        if self.epoch.is_none() && !matches!(message, Message::Begin { replaces: true, .. }) {
            return Err(WireError::Unexpected("nothing has begun"));
        }
        let length = message.length();
        match message {
            Message::Subscribe(_) => return Err(WireError::Unexpected("subscribe")),
            Message::Begin { epoch, replaces } => {
                if replaces {
                    (self.view, self.bytes, self.marked) = (View::default(), 0, None);
                } else if self.epoch != Some(epoch) {
                    return Err(WireError::Unexpected("begin of another epoch"));
                }
                self.epoch = Some(epoch);
                self.position = None;
            }
            Message::Node(name, addresses) => {
                let old = self.view.nodes.insert(name.clone(), addresses);
                self.weigh(length, old.map(|old| Message::Node(name, old)));
            }
            Message::NodeGone(name) => {
                let old = self.view.nodes.remove(&name);
                self.weigh(0, old.map(|old| Message::Node(name, old)));
            }
            Message::Export(service, export) => {
                let old = self.view.exports.insert(service.clone(), export);
                self.weigh(length, old.map(|old| Message::Export(service, old)));
            }
            Message::ExportGone(service) => {
                let old = self.view.exports.remove(&service);
                self.weigh(0, old.map(|old| Message::Export(service, old)));
            }
            Message::Mark { sequence, age_ms, lost } => {
                let position = (self.epoch.unwrap_or_default(), sequence);
                self.position = Some(position);
                let view = self.marked.get_or_insert_with(|| Arc::new(self.view.clone()));
                return Ok(Some(Marked { view: Arc::clone(view), position, age_ms, lost }));
            }
        }
        let View { nodes, exports } = &self.view;
        if nodes.len() > MAX_NODES || exports.len() > MAX_EXPORTS || self.bytes > MAX_BYTES {
            return Err(WireError::Invalid("size of the view"));
        }
        Ok(None)
    }

    /// A record of this length took another's place.
    fn weigh(&mut self, new: usize, old: Option<Message>) {
        self.bytes += new;
        self.bytes -= old.map_or(0, |record| record.length());
        self.marked = None;
    }
}

#[cfg(test)]
mod tests;
