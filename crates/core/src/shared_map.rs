//! An ordered map whose copies share what they have in common.
//!
//! A view of another cluster arrives one record at a time and is read as a whole, by several readers that
//! each keep theirs for as long as they like. So a copy must cost nothing, a change of one entry must cost
//! that entry and a few beside it, and the differences between two copies must be found without looking at
//! what they share. The entries lie in order in chunks of at most [`MAX_CHUNK_LEN`]; copies share chunks, and
//! a chunk is copied when it is changed while another map has it.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Index;
use std::sync::Arc;

mod iter;

use self::iter::{Chunk, MapCursor};
pub use self::iter::{MapChanges, MapEntries, OwnedMapEntries};

/// The most entries of one chunk: what a change copies at most, besides one pointer for each chunk.
const MAX_CHUNK_LEN: usize = 64;

/// An ordered map of which copies are cheap; see the module. No chunk is empty, and of two neighbours
/// not both are small.
pub struct SharedMap<K, V> {
    chunks: Arc<Vec<Chunk<K, V>>>,
    len: usize,
}

impl<K, V> SharedMap<K, V> {
    /// A map without entries.
    #[must_use]
    pub fn new() -> Self {
        Self { chunks: Arc::default(), len: 0 }
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The entries, in order of key.
    #[must_use]
    pub fn iter(&self) -> MapEntries<'_, K, V> {
        MapEntries(MapCursor { chunks: &self.chunks, index: 0 })
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> + Clone {
        self.iter().map(|(key, _)| key)
    }

    /// The values, in order of key.
    pub fn values(&self) -> impl Iterator<Item = &V> + Clone {
        self.iter().map(|(_, value)| value)
    }

    /// The entry of the least key.
    #[must_use]
    pub fn first_key_value(&self) -> Option<(&K, &V)> {
        self.iter().next()
    }

    /// Removes all entries.
    pub fn clear(&mut self) {
        *self = Self::new();
    }

    /// True if both maps are the same, unchanged since one was copied from the other. Costs nothing, and may
    /// be false for two equal maps.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.chunks, &other.chunks)
    }
}

impl<K: Ord, V> SharedMap<K, V> {
    /// The position of a key, or the position at which it belongs: the chunk, and the index in it.
    fn find<Q: Ord + ?Sized>(&self, key: &Q) -> (usize, Result<usize, usize>)
    where
        K: Borrow<Q>,
    {
        let starts_before = |c: &Chunk<K, V>| c.first().is_some_and(|(k, _)| k.borrow() <= key);
        let chunk = self.chunks.partition_point(starts_before).saturating_sub(1);
        let place = match self.chunks.get(chunk) {
            Some(entries) => entries.binary_search_by(|(k, _)| k.borrow().cmp(key)),
            None => Err(0),
        };
        (chunk, place)
    }

    /// The entry of a key.
    #[must_use]
    pub fn get_key_value<Q: Ord + ?Sized>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        let (chunk, Ok(at)) = self.find(key) else { return None };
        self.chunks.get(chunk)?.get(at).map(|(k, v)| (k, v))
    }

    /// The value of a key.
    #[must_use]
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.get_key_value(key).map(|(_, value)| value)
    }

    /// True if there is an entry of that key.
    #[must_use]
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// The changes that turn this map into `newer`: each key with its value there, or `None` if it is gone.
    /// Chunks that both maps share are not looked at.
    pub fn changes<'a>(&'a self, newer: &'a Self) -> MapChanges<'a, K, V> {
        let place = |map: &'a Self| MapCursor { chunks: &map.chunks, index: 0 };
        MapChanges { old: place(self), new: place(newer) }
    }
}

impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    /// Sets the value of a key, and returns the one that it had.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let (nth, place) = self.find(&key);
        let chunks = Arc::make_mut(&mut self.chunks);
        let Some(chunk) = chunks.get_mut(nth) else {
            chunks.push(Arc::new(vec![(key, value)]));
            self.len += 1;
            return None;
        };
        let entries = Arc::make_mut(chunk);
        match place {
            Ok(at) => Some(std::mem::replace(&mut entries[at].1, value)),
            Err(at) => {
                entries.insert(at, (key, value));
                if entries.len() > MAX_CHUNK_LEN {
                    let rest = entries.split_off(MAX_CHUNK_LEN / 2);
                    chunks.insert(nth + 1, Arc::new(rest));
                }
                self.len += 1;
                None
            }
        }
    }

    /// Removes a key, and returns the value that it had.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let (nth, Ok(at)) = self.find(key) else { return None };
        let chunks = Arc::make_mut(&mut self.chunks);
        let entries = Arc::make_mut(chunks.get_mut(nth)?);
        let (_, value) = entries.remove(at);
        self.len -= 1;
        // Small neighbours become one, so that there are never many more chunks than entries need.
        let small = |a: usize, b: usize| {
            let len = |n: usize| chunks.get(n).map(|c| c.len());
            len(a).zip(len(b)).is_some_and(|(a, b)| a + b <= MAX_CHUNK_LEN / 2)
        };
        if small(nth, nth + 1) {
            let next = chunks.remove(nth + 1);
            Arc::make_mut(&mut chunks[nth]).extend(next.iter().cloned());
        } else if nth > 0 && small(nth - 1, nth) {
            let this = chunks.remove(nth);
            Arc::make_mut(&mut chunks[nth - 1]).extend(this.iter().cloned());
        } else if chunks[nth].is_empty() {
            chunks.remove(nth);
        }
        Some(value)
    }

    /// Removes the entry of the least key.
    pub fn pop_first(&mut self) -> Option<(K, V)> {
        let key = self.first_key_value()?.0.clone();
        let value = self.remove(&key)?;
        Some((key, value))
    }

    /// The value of a key, to be changed.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let (chunk, Ok(at)) = self.find(key) else { return None };
        let entries = Arc::make_mut(Arc::make_mut(&mut self.chunks).get_mut(chunk)?);
        entries.get_mut(at).map(|(_, value)| value)
    }

    /// All values, to be changed. Copies all that is shared.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        let chunks = Arc::make_mut(&mut self.chunks).iter_mut();
        chunks.flat_map(|chunk| Arc::make_mut(chunk).iter_mut().map(|(_, value)| value))
    }

    /// Keeps only what `keep` wants.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &V) -> bool) {
        let gone = self.iter().filter(|(k, v)| !keep(k, v)).map(|(k, _)| k.clone());
        for key in gone.collect::<Vec<_>>() {
            self.remove(&key);
        }
    }
}

impl<K: Clone, V: Clone> IntoIterator for SharedMap<K, V> {
    type Item = (K, V);
    type IntoIter = OwnedMapEntries<K, V>;

    fn into_iter(self) -> OwnedMapEntries<K, V> {
        OwnedMapEntries { chunks: self.chunks, chunk: 0, at: 0 }
    }
}

impl<K, V> Clone for SharedMap<K, V> {
    fn clone(&self) -> Self {
        Self { chunks: Arc::clone(&self.chunks), len: self.len }
    }
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Ord, V: PartialEq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.is_same(other) || (self.len == other.len && self.changes(other).next().is_none())
    }
}

impl<K: Ord, V: Eq> Eq for SharedMap<K, V> {}

impl<K: Ord + Borrow<Q>, Q: Ord + ?Sized, V> Index<&Q> for SharedMap<K, V> {
    type Output = V;

    /// The value of a key.
    ///
    /// # Panics
    /// If there is no such key, as with any map.
    fn index(&self, key: &Q) -> &V {
        self.get(key).expect("no entry of that key")
    }
}

impl<'a, K, V> IntoIterator for &'a SharedMap<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = MapEntries<'a, K, V>;

    fn into_iter(self) -> MapEntries<'a, K, V> {
        self.iter()
    }
}

impl<K: Ord, V> From<BTreeMap<K, V>> for SharedMap<K, V> {
    fn from(all: BTreeMap<K, V>) -> Self {
        let len = all.len();
        let mut all = all.into_iter().peekable();
        let mut chunks = Vec::new();
        while all.peek().is_some() {
            // Room for what comes between.
            chunks.push(Arc::new(all.by_ref().take(MAX_CHUNK_LEN * 3 / 4).collect()));
        }
        Self { chunks: Arc::new(chunks), len }
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for SharedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        entries.into_iter().collect::<BTreeMap<_, _>>().into()
    }
}

impl<K: Ord, V, const N: usize> From<[(K, V); N]> for SharedMap<K, V> {
    fn from(entries: [(K, V); N]) -> Self {
        entries.into_iter().collect()
    }
}

impl<K: Ord + Clone, V: Clone> Extend<(K, V)> for SharedMap<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
