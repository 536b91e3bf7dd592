//! Counts by key, for limits of each.

use std::collections::HashMap;
use std::hash::Hash;

/// Takes one from a count. A count of zero is not kept, so that the map has no keys but those in use.
pub fn count_down<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}
