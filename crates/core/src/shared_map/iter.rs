//! Walks through shared maps: entries in order, and the differences between two maps.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// Entries in order, which several maps may share.
pub(super) type Chunk<K, V> = Arc<Vec<(K, V)>>;

/// A position between two entries.
pub(super) struct MapCursor<'a, K, V> {
    pub(super) chunks: &'a [Chunk<K, V>],
    pub(super) index: usize,
}

impl<'a, K, V> MapCursor<'a, K, V> {
    fn entry(&self) -> Option<&'a (K, V)> {
        self.chunks.first()?.get(self.index)
    }

    fn advance(&mut self) {
        self.index += 1;
        if self.chunks.first().is_some_and(|chunk| self.index >= chunk.len()) {
            self.next_chunk();
        }
    }

    /// On to the next chunk.
    fn next_chunk(&mut self) {
        self.chunks = self.chunks.get(1..).unwrap_or_default();
        self.index = 0;
    }
}

impl<K, V> Clone for MapCursor<'_, K, V> {
    fn clone(&self) -> Self {
        Self { chunks: self.chunks, index: self.index }
    }
}

/// The entries of a map, in order of key.
pub struct MapEntries<'a, K, V>(pub(super) MapCursor<'a, K, V>);

impl<'a, K, V> Iterator for MapEntries<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        let (key, value) = self.0.entry()?;
        self.0.advance();
        Some((key, value))
    }
}

impl<K, V> Clone for MapEntries<'_, K, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K, V> fmt::Debug for MapEntries<'_, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapEntries").finish_non_exhaustive()
    }
}

/// The entries of a map that is gone, or changed meanwhile: a copy that is walked through costs its chunks as
/// they were, and nothing for each entry.
#[derive(Debug)]
pub struct OwnedMapEntries<K, V> {
    pub(super) chunks: Arc<Vec<Chunk<K, V>>>,
    pub(super) chunk: usize,
    pub(super) at: usize,
}

impl<K: Clone, V: Clone> Iterator for OwnedMapEntries<K, V> {
    type Item = (K, V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let chunk = self.chunks.get(self.chunk)?;
            if let Some(entry) = chunk.get(self.at) {
                self.at += 1;
                return Some(entry.clone());
            }
            (self.chunk, self.at) = (self.chunk + 1, 0);
        }
    }
}

/// The differences between two maps, in order of key: the newer value, or `None` if the key is gone.
pub struct MapChanges<'a, K, V> {
    pub(super) old: MapCursor<'a, K, V>,
    pub(super) new: MapCursor<'a, K, V>,
}

impl<'a, K: Ord, V: PartialEq> Iterator for MapChanges<'a, K, V> {
    type Item = (&'a K, Option<&'a V>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Self { old, new } = self;
            if let (0, 0, Some(a), Some(b)) =
                (old.index, new.index, old.chunks.first(), new.chunks.first())
                && Arc::ptr_eq(a, b)
            {
                old.next_chunk();
                new.next_chunk();
                continue;
            }
            let order = match (old.entry(), new.entry()) {
                (None, None) => return None,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((a, _)), Some((b, _))) => a.cmp(b),
            };
            let (was, is) = (old.entry(), new.entry());
            match order {
                Ordering::Less => {
                    old.advance();
                    return was.map(|(key, _)| (key, None));
                }
                Ordering::Greater => {
                    new.advance();
                    return is.map(|(key, value)| (key, Some(value)));
                }
                Ordering::Equal => {
                    old.advance();
                    new.advance();
                    if was.map(|(_, v)| v) != is.map(|(_, v)| v) {
                        return is.map(|(key, value)| (key, Some(value)));
                    }
                }
            }
        }
    }
}

impl<K, V> fmt::Debug for MapChanges<'_, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapChanges").finish_non_exhaustive()
    }
}
