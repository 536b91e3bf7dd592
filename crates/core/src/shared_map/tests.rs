use std::cell::Cell;

use proptest::prelude::*;

use super::*;

impl<K, V> SharedMap<K, V> {
    /// Number of entries in chunks that `other` does not share.
    pub(crate) fn own_entries(&self, other: &Self) -> usize {
        let shared = |c: &&Chunk<K, V>| other.chunks.iter().any(|o| Arc::ptr_eq(o, c));
        self.chunks.iter().filter(|c| !shared(c)).map(|c| c.len()).sum()
    }
}

fn numbers(n: u32) -> SharedMap<u32, u32> {
    (0..n).map(|n| (n, n)).collect()
}

#[test]
fn a_change_copies_one_chunk_and_a_copy_none() {
    let before = numbers(10_000);
    let mut now = before.clone();
    assert!(now.is_same(&before));
    now.insert(5_000, 1);
    now.remove(&7_000);
    assert!(now.own_entries(&before) <= 2 * MAX_CHUNK_LEN, "{}", now.own_entries(&before));
    assert_eq!((before[&5_000], now[&5_000]), (5_000, 1));
    assert_eq!((before.len(), now.len()), (10_000, 9_999));
}

#[test]
fn what_differs_is_found_without_a_look_at_what_does_not() {
    thread_local!(static COMPARED: Cell<usize> = const { Cell::new(0) });
    #[derive(Clone)]
    struct Counted(u32);
    impl PartialEq for Counted {
        fn eq(&self, other: &Self) -> bool {
            COMPARED.set(COMPARED.get() + 1);
            self.0 == other.0
        }
    }
    let before: SharedMap<u32, Counted> = (0..10_000).map(|n| (2 * n, Counted(n))).collect();
    let mut now = before.clone();
    now.insert(4_000, Counted(1));
    // So many that a chunk is split.
    for n in 0..50 {
        now.insert(8_001 + 2 * n, Counted(0));
    }
    now.remove(&12_000);
    let changes: Vec<u32> = before.changes(&now).map(|(key, _)| *key).collect();
    assert_eq!(changes.len(), 52);
    assert!(COMPARED.get() <= 5 * MAX_CHUNK_LEN, "{} compared", COMPARED.get());
}

#[test]
fn many_removals_leave_few_chunks() {
    let mut map = numbers(10_000);
    map.retain(|n, _| n % 50 == 0);
    assert_eq!(map.len(), 200);
    assert!(map.chunks.len() <= 1 + 2 * 200 / (MAX_CHUNK_LEN / 2), "{} chunks", map.chunks.len());
    assert!(map.chunks.iter().all(|c| !c.is_empty()));
}

proptest! {
    #[test]
    fn it_is_a_map(steps in proptest::collection::vec((0u8..200, any::<bool>(), 0u8..3), 0..600)) {
        let (mut map, mut model) = (SharedMap::new(), BTreeMap::new());
        let mut copies = vec![(map.clone(), model.clone())];
        for (n, (key, insert, value)) in steps.into_iter().enumerate() {
            if insert {
                prop_assert_eq!(map.insert(key, value), model.insert(key, value));
            } else {
                prop_assert_eq!(map.remove(&key), model.remove(&key));
            }
            if n % 100 == 0 {
                copies.push((map.clone(), model.clone()));
            }
        }
        prop_assert_eq!(map.len(), model.len());
        prop_assert!(map.iter().eq(model.iter()));
        prop_assert!((0..200).all(|key| map.get(&key) == model.get(&key)));
        for (copy, then) in copies {
            prop_assert!(copy.iter().eq(then.iter()), "a copy does not change");
            prop_assert_eq!(copy == map, then == model);
            let mut patched = copy.clone();
            for (key, value) in copy.changes(&map) {
                match value {
                    Some(value) => drop(patched.insert(*key, *value)),
                    None => drop(patched.remove(key)),
                }
            }
            prop_assert_eq!(&patched, &map);
        }
        let collected: SharedMap<_, _> = model.clone().into_iter().collect();
        prop_assert_eq!(collected, map);
    }
}
