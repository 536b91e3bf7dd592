//! Records that are left out of a view because they do not fit, and why.
//!
//! Both ends keep to the same bounds. A publisher leaves out what a reader would refuse; a reader leaves out
//! what breaks a bound all the same, and goes on with the rest: one bad export is no reason to lose a
//! cluster. Either remembers it, for people.

use std::collections::BTreeMap;
use std::fmt;

use super::super::tlv::WireError;
use super::{MAX_BYTES, MAX_EXPORTS, MAX_NODES};
use crate::name::{NodeName, ServiceName};

/// The most records that are remembered by name. Further ones are counted.
const MAX_NAMED: usize = 64;
/// The most records that are named to people.
const MAX_SHOWN: usize = 3;

/// Which record of a view.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKey {
    /// A node's.
    Node(NodeName),
    /// An export's.
    Export(ServiceName),
}

impl fmt::Display for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "node {name}"),
            Self::Export(service) => write!(f, "export {service}"),
        }
    }
}

/// The reason why a record is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Omission {
    /// The record cannot be read, or one of its parts breaks a bound.
    #[error("{0}")]
    Invalid(#[from] WireError),
    /// The view has as many nodes as it may.
    #[error("a view has {MAX_NODES} nodes at most")]
    Nodes,
    /// The view has as many exports as it may.
    #[error("a view has {MAX_EXPORTS} exports at most")]
    Exports,
    /// The view is as large as it may be.
    #[error("a view takes {MAX_BYTES} bytes of memory at most")]
    Bytes,
}

/// The records that are left out of a view.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Omissions {
    named: BTreeMap<RecordKey, Omission>,
    /// Those that have no name or did not fit: of these it is not known whether they were mended since.
    unnamed: u64,
    /// The reason of the last of them.
    last: Option<Omission>,
}

impl Omissions {
    /// Records that a record is left out; `key` if it is known which.
    pub fn add(&mut self, key: Option<RecordKey>, why: Omission) {
        match key {
            Some(key) if self.named.len() < MAX_NAMED || self.named.contains_key(&key) => {
                self.named.insert(key, why);
            }
            _ => {
                self.unnamed = self.unnamed.saturating_add(1);
                self.last = Some(why);
            }
        }
    }

    /// Records that a record is not left out any more.
    pub fn remove(&mut self, key: &RecordKey) {
        self.named.remove(key);
    }

    /// Number of records that are left out, or were since the view was sent as a whole.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.unnamed.saturating_add(self.named.len() as u64)
    }

    /// True if no record is left out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// True if some were left out for want of room alone: they may fit now, and have to be sent again.
    #[must_use]
    pub fn lacks_room(&self) -> bool {
        let room = |why: &Omission| !matches!(why, Omission::Invalid(_));
        self.named.values().chain(&self.last).any(room)
    }

    /// Those that are remembered by name.
    pub fn iter(&self) -> impl Iterator<Item = (&RecordKey, Omission)> {
        self.named.iter().map(|(key, why)| (key, *why))
    }
}

/// For people: the first few, with the bound that each breaks, and how many more there are.
impl fmt::Display for Omissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nameless = self.last.filter(|_| self.named.is_empty());
        if let Some(why) = nameless {
            write!(f, "a record without a name ({why})")?;
        }
        for (nth, (key, why)) in self.named.iter().take(MAX_SHOWN).enumerate() {
            let comma = if nth == 0 { "" } else { ", " };
            write!(f, "{comma}{key} ({why})")?;
        }
        let shown = (self.named.len().min(MAX_SHOWN) + usize::from(nameless.is_some())) as u64;
        match self.count().saturating_sub(shown) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_are_named_and_the_rest_counted() {
        let mut all = Omissions::default();
        assert!(all.is_empty() && !all.lacks_room());
        let key = |n: usize| RecordKey::Export(format!("a/b{n:03}").parse().unwrap());
        let flaw = Omission::Invalid(WireError::Invalid("ports"));
        for _ in 0..3 {
            (0..200).for_each(|n| all.add(Some(key(n)), flaw));
        }
        assert_eq!(
            (all.iter().count(), all.count()),
            (MAX_NAMED, (MAX_NAMED + 3 * (200 - MAX_NAMED)) as u64)
        );
        let text = all.to_string();
        assert!(text.starts_with("export a/b000 (ports is not valid), export a/b001"), "{text}");
        assert!(text.ends_with("more") && text.len() < 200, "{text}");
        assert!(!all.lacks_room());
        all.remove(&key(0));
        all.add(Some(key(0)), Omission::Exports);
        assert!(all.lacks_room());

        let mut nameless = Omissions::default();
        nameless.add(None, flaw);
        assert_eq!(nameless.to_string(), "a record without a name (ports is not valid)");
    }
}
