//! Fair order of what several owners offer.

use std::collections::BTreeSet;

/// Returns the first element of each list, then the second of each, and so on; each value once.
pub(crate) fn interleave<T: Copy + Ord>(lists: &[Vec<T>]) -> impl Iterator<Item = T> {
    let longest = lists.iter().map(Vec::len).max().unwrap_or_default();
    let in_turn = (0..longest).flat_map(move |n| lists.iter().filter_map(move |list| list.get(n)));
    let mut seen = BTreeSet::new();
    in_turn.copied().filter(move |value| seen.insert(*value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_list_gives_its_first_before_any_gives_its_second() {
        let all: Vec<u8> = interleave(&[vec![1, 2, 3], vec![], vec![4, 1], vec![5]]).collect();
        assert_eq!(all, [1, 4, 5, 2, 3]);
    }
}
