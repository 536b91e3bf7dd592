//! Text that is no file, however it came to be: it is answered, and nothing panics.

use proptest::prelude::*;

use super::*;

/// The example, with some of its bytes changed, added or taken away.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let edit = (
        any::<prop::sample::Index>(),
        0..3_u8,
        prop::sample::select(&b"\0 \t\n:-[]{}#&*!|>'\"%@`,?<~019aZ\xff\xc3"[..]),
    );
    prop::collection::vec(edit, 1..12).prop_map(|edits| {
        let mut text = EXAMPLE.as_bytes().to_vec();
        for (at, how, byte) in edits {
            let at = at.index(text.len());
            match how {
                0 => text[at] = byte,
                1 => text.insert(at, byte),
                _ => drop(text.remove(at)),
            }
        }
        text
    })
}

/// The example without its comments, with whole lines dropped, doubled, moved in or out.
fn rearranged() -> impl Strategy<Value = Vec<u8>> {
    let bare = |line: &&str| !line.trim_start().starts_with('#') && !line.trim().is_empty();
    let lines: Vec<&str> = EXAMPLE.lines().filter(bare).collect();
    prop::collection::vec((0..lines.len(), 0..4_u8), 1..6).prop_map(move |edits| {
        let mut text: Vec<String> = lines.iter().map(|l| (*l).to_owned()).collect();
        for (at, how) in edits {
            let at = at % text.len();
            match how {
                0 if text.len() > 1 => drop(text.remove(at)),
                1 => text.insert(at, text[at].clone()),
                2 => text[at].insert_str(0, "  "),
                _ => text[at] = text[at].trim_start().to_owned(),
            }
        }
        text.join("\n").into_bytes()
    })
}

/// Any answer is fine, as long as it is one: a configuration without errors, or errors with places.
fn answered(text: &[u8]) -> Result<(), TestCaseError> {
    match parse(text, Path::new("f")) {
        Ok((_, report)) => prop_assert_eq!(report.errors().count(), 0),
        Err(report) => {
            prop_assert!(report.errors().count() > 0);
            let shown = report.to_string();
            prop_assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{}", shown);
            let lines = text.split(|c| *c == b'\n').count() as u64;
            for problem in &report.problems {
                let position = problem.position.ok_or_else(|| TestCaseError::fail("no place"))?;
                prop_assert!((1..=lines + 1).contains(&position.line), "{:?}", position);
                prop_assert!(position.column >= 1);
            }
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn random_bytes_never_panic(text in prop::collection::vec(any::<u8>(), 0..400)) {
        answered(&text)?;
    }

    #[test]
    fn random_text_never_panics(text in "[ -~\n]{0,200}|\\PC{0,100}") {
        answered(text.as_bytes())?;
    }

    #[test]
    fn a_mutated_example_never_panics(text in mutated()) {
        answered(&text)?;
    }

    #[test]
    fn a_rearranged_example_never_panics(text in rearranged()) {
        answered(&text)?;
    }

    #[test]
    fn cutting_the_example_anywhere_never_panics(at in 0..EXAMPLE.len()) {
        answered(&EXAMPLE.as_bytes()[..at])?;
    }
}
