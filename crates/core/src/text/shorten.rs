//! Text that is too long for its place, cut where a reader would stop.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

/// Mark at the end of a text that goes on.
const ELLIPSIS: &str = "...";

/// Returns a text of at most `max` bytes: a longer one is cut at the end of a sentence or else of a word,
/// and ends with three dots.
#[must_use]
pub fn shorten(text: &str, max: usize) -> Cow<'_, str> {
    if text.len() <= max {
        return Cow::Borrowed(text);
    }
    let mut end = max.saturating_sub(ELLIPSIS.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let fits = &text[..end];
    // A sentence may lose a fourth for its end, a word half: else one long word leaves nothing.
    let sentence = ["; ", ". "].iter().filter_map(|mark| fits.rfind(mark)).max();
    let sentence = sentence.filter(|at| *at >= end / 4 * 3);
    let is_whole = text[end..].starts_with(char::is_whitespace);
    let word = if is_whole { Some(end) } else { fits.rfind(char::is_whitespace) };
    let at = sentence.or_else(|| word.filter(|at| *at >= end / 2)).unwrap_or(end);
    let kept = fits[..at].trim_end_matches([' ', ',', ';', ':', '.', '(']);
    let mut cut = format!("{kept}{ELLIPSIS}");
    cut.truncate(max);
    Cow::Owned(cut)
}

/// The first few of some words, and how many more there are: `a, b and 3 more`. Whoever chooses the words does not choose how
/// long it becomes, if each is short.
#[must_use]
pub fn first_of<T: fmt::Display>(
    words: impl IntoIterator<Item = T>,
    most: usize,
    separator: &str,
) -> String {
    let mut words = words.into_iter();
    let mut text = String::new();
    for (n, word) in words.by_ref().take(most).enumerate() {
        let before = if n == 0 { "" } else { separator };
        // Writing to a String does not fail.
        write!(text, "{before}{word}").ok();
    }
    match words.count() {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_at_the_end_of_a_sentence_or_of_a_word() {
        assert_eq!(shorten("for the trust domain", 20), "for the trust domain");
        assert_eq!(shorten("for the trust domain", 15), "for the...");
        assert_eq!(shorten("for the trust domain", 16), "for the trust...");
        assert_eq!(
            shorten("it does not answer; it has acknowledged nothing", 28),
            "it does not answer..."
        );
        assert_eq!(shorten("certificate: unknown issuer", 20), "certificate...");
    }

    #[test]
    fn a_long_word_is_cut_within_and_no_character_is_broken() {
        assert_eq!(shorten(&"é".repeat(9), 10), "ééé...");
        assert_eq!(shorten(&format!("a {}", "b".repeat(30)), 13), "a bbbbbbbb...");
        for max in 0..20 {
            assert!(shorten("ein Größtmaß, so; dass", max).len() <= max);
        }
    }

    #[test]
    fn the_first_of_many_are_named_and_the_rest_is_counted() {
        assert_eq!(first_of(["a", "b"], 2, ", "), "a, b");
        assert_eq!(first_of(0..100_000, 3, "; "), "0; 1; 2 and 99997 more");
        assert_eq!(first_of([""; 0], 3, ", "), "");
    }
}
