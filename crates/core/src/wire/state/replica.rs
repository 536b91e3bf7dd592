//! Holds what a publisher told, and hands it on only when it is consistent.
//!
//! The publisher is a peer: authenticated, not trusted. What it says is bounded, and a message out of
//! place ends the stream.

use std::sync::Arc;

use super::super::tlv::WireError;
use super::message::Message;
use super::{MAX_EXPORTS, MAX_NODES};
use crate::snapshot::View;

/// A view as told by one publisher so far.
#[derive(Debug, Default)]
pub struct Replica {
    view: View,
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
        match message {
            Message::Subscribe(_) => return Err(WireError::Unexpected("subscribe")),
            Message::Begin { epoch, replaces } => {
                if replaces {
                    self.view = View::default();
                } else if self.epoch != Some(epoch) {
                    return Err(WireError::Unexpected("begin of another epoch"));
                }
                self.epoch = Some(epoch);
                self.position = None;
            }
            Message::Node(name, addresses) => {
                self.view.nodes.insert(name, addresses);
            }
            Message::NodeGone(name) => {
                self.view.nodes.remove(&name);
            }
            Message::Export(service, export) => {
                self.view.exports.insert(service, export);
            }
            Message::ExportGone(service) => {
                self.view.exports.remove(&service);
            }
            Message::Mark { sequence, age_ms } => {
                let position = (self.epoch.unwrap_or_default(), sequence);
                self.position = Some(position);
                let view = Arc::new(self.view.clone());
                return Ok(Some(Marked { view, position, age_ms }));
            }
        }
        if self.view.nodes.len() > MAX_NODES || self.view.exports.len() > MAX_EXPORTS {
            return Err(WireError::Invalid("size of the view"));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
