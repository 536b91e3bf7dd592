//! "Did you mean …?": the nearest of the words that would have been right.
//!
//! Case, `-` and `_` do not count (`trust_domain` is `trustDomain`); then the fewest insertions,
//! deletions, replacements and swaps of neighbours win, within a bound that grows with the word.

/// The candidate that `word` was probably meant to be.
pub(crate) fn closest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    /// The longest word that is compared: no word of ours is longer, and the cost grows with the square.
    const LONGEST: usize = 64;
    let plain = |s: &str| -> Vec<char> {
        s.chars().filter(|c| !matches!(c, '-' | '_' | ' ')).flat_map(char::to_lowercase).collect()
    };
    if word.chars().nth(LONGEST).is_some() {
        return None;
    }
    let word = plain(word);
    let allowed = match word.len() {
        0..3 => 0,
        3..5 => 1,
        5..9 => 2,
        _ => 3,
    };
    let cost = |candidate: &str| {
        let candidate = plain(candidate);
        let part = |long: &[char], short: &[char]| {
            short.len() >= 4 && (long.starts_with(short) || long.ends_with(short))
        };
        match distance(&word, &candidate) {
            d if d <= allowed => Some(d),
            // `bundle` for `trustBundle`, after every candidate that is merely misspelt.
            d if part(&candidate, &word) || part(&word, &candidate) => Some(LONGEST + d),
            _ => None,
        }
    };
    let ranked = candidates.into_iter().filter_map(|c| Some((cost(c)?, c)));
    ranked.min_by_key(|(cost, _)| *cost).map(|(_, candidate)| candidate)
}

/// Optimal string alignment distance.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_strangers_are_not() {
        const KEYS: [&str; 6] =
            ["cluster", "trustDomain", "trustBundle", "addresses", "name", "allow"];
        for (word, meant) in [
            ("clutser", Some("cluster")),
            ("trust_domain", Some("trustDomain")),
            ("TrustDomian", Some("trustDomain")),
            ("bundle", Some("trustBundle")),
            ("address", Some("addresses")),
            ("adresses", Some("addresses")),
            ("nam", Some("name")),
            ("alow", Some("allow")),
            ("na", None),
            ("", None),
            ("listen", None),
            ("zzzzzzzzzzzz", None),
        ] {
            assert_eq!(closest(word, KEYS), meant, "{word}");
        }
        assert_eq!(closest(&"cluster".repeat(1000), KEYS), None);
    }

    #[test]
    fn distance_counts_a_swap_once() {
        let d = |a: &str, b: &str| {
            distance(&a.chars().collect::<Vec<_>>(), &b.chars().collect::<Vec<_>>())
        };
        assert_eq!(d("bank", "bnak"), 1);
        assert_eq!(d("bank", "bank"), 0);
        assert_eq!(d("", "bank"), 4);
        assert_eq!(d("bank", ""), 4);
        assert_eq!(d("abcd", "badc"), 2);
    }
}
