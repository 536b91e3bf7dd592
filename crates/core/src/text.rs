//! Sentences for people: numbers with their nouns.

use std::fmt::Display;

/// The number and its noun: `1 stream`, `2 streams`. For nouns whose plural ends in `s` and nothing else.
#[must_use]
pub fn count_noun(n: impl Into<u128> + Display + Copy, noun: &str) -> String {
    let s = if n.into() == 1 { "" } else { "s" };
    format!("{n} {noun}{s}")
}

/// The number, its noun and the verb: `1 stream is`, `2 streams are`.
#[must_use]
pub fn count_noun_is(n: impl Into<u128> + Display + Copy, noun: &str) -> String {
    let verb = if n.into() == 1 { "is" } else { "are" };
    format!("{} {verb}", count_noun(n, noun))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_one() {
        let said = |n: u64| (count_noun(n, "stream"), count_noun_is(n, "stream"));
        assert_eq!(said(0), ("0 streams".into(), "0 streams are".into()));
        assert_eq!(said(1), ("1 stream".into(), "1 stream is".into()));
        assert_eq!(said(21), ("21 streams".into(), "21 streams are".into()));
    }
}
