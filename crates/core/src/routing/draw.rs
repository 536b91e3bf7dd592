//! Weighted draws without replacement: a few winners out of many.
//!
//! Peers say how many items there are and what each weighs, and a draw is made for every stream. So it takes
//! two passes over the weights, whatever they are, and neither allocates nor looks at anything else for those
//! that do not win.

use super::hubs::mix_bits;

/// Tickets that are drawn at once. Two for each winner that a route wants: equal weights rarely need more.
const TICKETS_PER_ROUND: usize = 32;
/// Rounds of a draw. One weight that dwarfs all others takes all tickets of a round, so there are several.
const MAX_ROUNDS: usize = 4;

/// Draws up to `wanted` different items by weight, in the order in which they won. An item for which
/// `is_valid` is false never wins; it is asked only for items that were drawn, and for all of them only
/// where hardly any weight is valid.
pub(super) fn draw<T: Copy>(
    items: impl Iterator<Item = (T, u32)> + Clone,
    wanted: usize,
    random: u64,
    is_valid: impl Fn(T) -> bool,
) -> Vec<T> {
    let winners = draw_rounds(items.clone(), wanted, random, &is_valid);
    if !winners.is_empty() {
        return winners;
    }
    let valid: Vec<(T, u32)> = items.filter(|(item, n)| *n > 0 && is_valid(*item)).collect();
    draw_rounds(valid.into_iter(), wanted, random, &|_| true)
}

fn draw_rounds<T: Copy>(
    items: impl Iterator<Item = (T, u32)> + Clone,
    wanted: usize,
    mut random: u64,
    is_valid: &impl Fn(T) -> bool,
) -> Vec<T> {
    let mut winners = Vec::new();
    // Positions of the items that were drawn, valid or not, in order: they weigh nothing any more.
    let mut drawn: Vec<usize> = Vec::new();
    for _ in 0..MAX_ROUNDS {
        if winners.len() >= wanted {
            break;
        }
        let total: u64 = remaining(items.clone(), &drawn).map(|(_, _, weight)| weight).sum();
        if total == 0 {
            break;
        }
        let mut tickets: [(u64, usize); TICKETS_PER_ROUND] = std::array::from_fn(|n| {
            random = mix_bits(random.wrapping_add(0x9e37_79b9_7f4a_7c15));
            (random % total, n)
        });
        tickets.sort_unstable();
        let mut hits = [None; TICKETS_PER_ROUND];
        let mut next = tickets.iter().peekable();
        let mut sum = 0;
        for (position, item, weight) in remaining(items.clone(), &drawn) {
            sum += weight;
            while let Some((_, n)) = next.next_if(|(ticket, _)| *ticket < sum) {
                hits[*n] = Some((position, item));
            }
            if next.peek().is_none() {
                break;
            }
        }
        // A second ticket for the same item is void, which is what drawing without replacement means.
        for (position, item) in hits.into_iter().flatten() {
            if winners.len() < wanted
                && let Err(at) = drawn.binary_search(&position)
            {
                drawn.insert(at, position);
                winners.extend(Some(item).filter(|item| is_valid(*item)));
            }
        }
    }
    winners
}

/// The items that were not drawn yet, with their positions and weights.
fn remaining<T: Copy>(
    items: impl Iterator<Item = (T, u32)>,
    drawn: &[usize],
) -> impl Iterator<Item = (usize, T, u64)> {
    let mut skip = drawn.iter().copied().peekable();
    let all = items.enumerate();
    all.filter_map(move |(position, (item, weight))| {
        let is_drawn = skip.next_if_eq(&position).is_some();
        (!is_drawn).then_some((position, item, u64::from(weight)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;

    fn first(weights: &[u32], seed: u64) -> usize {
        let items = weights.iter().copied().enumerate();
        draw(items, 1, seed.wrapping_mul(0x2545_f491_4f6c_dd1d), |_| true)[0]
    }

    /// The sum of squared differences from what is expected, each over its expectation (Pearson, 1900).
    fn chi_square(counts: &[u32], weights: &[u32], draws: u32) -> f64 {
        let total: u32 = weights.iter().sum();
        let each = counts.iter().zip(weights).filter(|(_, w)| **w > 0);
        let terms = each.map(|(count, weight)| {
            let expected = f64::from(draws) * f64::from(*weight) / f64::from(total);
            (f64::from(*count) - expected).powi(2) / expected
        });
        terms.sum()
    }

    #[test]
    fn the_first_winner_is_drawn_by_weight() {
        const DRAWS: u32 = 20_000;
        for weights in [&[1, 1, 1, 1, 1][..], &[5, 3, 0, 1, 1], &[100, 1, 50, 49, 10]] {
            let mut counts = vec![0; weights.len()];
            (0..DRAWS).for_each(|seed| counts[first(weights, seed.into())] += 1);
            let distance = chi_square(&counts, weights, DRAWS);
            // Four degrees of freedom: 18.5 is exceeded by chance once in a thousand times.
            assert!(distance < 18.5, "{weights:?}: {counts:?}, {distance}");
            assert!(counts.iter().zip(weights).all(|(count, weight)| *weight > 0 || *count == 0));
        }
    }

    #[test]
    fn the_second_winner_is_drawn_by_the_weights_that_are_left() {
        const DRAWS: u32 = 20_000;
        let weights = [6_u32, 3, 2, 1];
        let mut counts = [0; 4];
        for seed in 0..u64::from(DRAWS) {
            let won = draw(weights.into_iter().enumerate(), 2, mix_bits(seed), |_| true);
            counts[won[1]] += u32::from(won[0] == 0);
        }
        let after_the_first: u32 = counts.iter().sum();
        assert_eq!(counts[0], 0);
        let distance = chi_square(&counts[1..], &weights[1..], after_the_first);
        assert!(distance < 13.8, "two degrees of freedom: {counts:?}, {distance}");
    }

    #[test]
    fn many_weights_are_passed_over_twice_and_only_winners_are_looked_at() {
        const NODES: usize = 4990;
        let (passed, looked) = (Cell::new(0), Cell::new(0));
        let items = (0..NODES).inspect(|_| passed.set(passed.get() + 1)).map(|n| (n, 1));
        let is_valid = |_| {
            looked.set(looked.get() + 1);
            true
        };
        assert_eq!(draw(items, 16, 7, is_valid).len(), 16);
        assert!(passed.get() <= 2 * NODES + 1, "{} weights were read", passed.get());
        assert_eq!(looked.get(), 16);
    }

    #[test]
    fn a_weight_that_dwarfs_the_others_does_not_keep_them_from_being_second() {
        let items = (0..100).map(|n| (n, if n == 40 { u32::MAX } else { 1 }));
        let won = draw(items, 16, 3, |_| true);
        assert_eq!((won.len(), won[0]), (16, 40));
    }

    #[test]
    fn the_few_that_are_valid_are_found_among_thousands_that_are_not() {
        let items = (0..5000).map(|n| (n, u32::from(n != 7) * 1000 + 1));
        assert_eq!(draw(items, 16, 1, |n| n == 7), [7]);
    }

    proptest! {
        #[test]
        fn winners_are_different_and_valid_and_as_many_as_there_are(
            weights in proptest::collection::vec((0u32..4, any::<bool>()), 0..60),
            huge in any::<bool>(),
            wanted in 1usize..17,
            random in any::<u64>(),
        ) {
            let weigh = |weight: u32| if huge { weight.saturating_mul(u32::MAX) } else { weight };
            let items = weights.iter().enumerate().map(|(n, (weight, _))| (n, weigh(*weight)));
            let won = draw(items, wanted, random, |n| weights[n].1);
            let mut unique = won.clone();
            unique.sort_unstable();
            unique.dedup();
            prop_assert_eq!(unique.len(), won.len());
            prop_assert!(won.iter().all(|n| weights[*n].0 > 0 && weights[*n].1));
            let there = weights.iter().filter(|(weight, valid)| *weight > 0 && *valid).count();
            prop_assert!(won.len() <= wanted.min(there));
            prop_assert_eq!(won.is_empty(), there == 0);
        }
    }
}
