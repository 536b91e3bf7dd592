//! Holds the code to the words and sizes that `CONTRIBUTING.md` asks for, product, tests and benches alike.
//!
//! * A doc block names its subject: it does not open with one of [`PRONOUNS`](scan::PRONOUNS).
//! * A type's name is defined once in the workspace, but for [`SHARED`].
//! * A constant that is a `Duration` says of which kind it is, with one of [`KINDS`].
//! * A function has at most [`LONGEST_FUNCTION`] lines.
//!
//! Each failure names file and line, and what to do. Sizes of files and edges between crates are `architecture.rs`'.

mod scan;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use adit_tests::sources::rust_files;

use self::scan::{
    Found, KINDS, LONGEST_FUNCTION, kindless_durations, long_functions, pronoun_docs, types,
};

/// Names that may be defined more than once: the names, where, and why.
const SHARED: [(&[&str], &[&str], &str); 2] = [
    (
        &["Import", "Export", "Link", "ImportPort", "ExportPort", "Grant", "Backend"],
        &["crates/core/src/", "crates/kubernetes/src/api", "crates/daemon/src/status"],
        "three interfaces speak of the same things: what a node believes, the objects in Kubernetes, and status",
    ),
    (
        &["Args"],
        &["crates/cli/src/"],
        "clap's arguments of one command each, private to its module",
    ),
];

/// A place that breaks a rule, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Violation {
    path: PathBuf,
    line: usize,
    advice: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, advice } = self;
        write!(f, "{}:{line}: {advice}", path.display())
    }
}

/// Definitions of names that are defined elsewhere too and are not among [`SHARED`].
fn repeated_types(sources: &[(PathBuf, String)]) -> Vec<Violation> {
    let mut all: BTreeMap<&str, Vec<(&Path, usize)>> = BTreeMap::new();
    for (path, text) in sources {
        for (line, name) in types(text) {
            let is_shared = SHARED.iter().any(|(names, places, _)| {
                names.contains(&name) && places.iter().any(|place| path.starts_with_text(place))
            });
            if !is_shared {
                all.entry(name).or_default().push((path, line));
            }
        }
    }
    let repeated = all.into_iter().filter(|(_, places)| places.len() > 1);
    repeated
        .flat_map(|(name, places)| {
            let advice = format!("{name} is defined more than once: give it a name of two words");
            places.into_iter().map(move |(path, line)| Violation {
                path: path.to_owned(),
                line,
                advice: advice.clone(),
            })
        })
        .collect()
}

trait StartsWithText {
    /// Compares text, not components: `api` is the beginning of `api.rs` and of `api/spec.rs`.
    fn starts_with_text(&self, beginning: &str) -> bool;
}

impl StartsWithText for PathBuf {
    fn starts_with_text(&self, beginning: &str) -> bool {
        self.to_string_lossy().starts_with(beginning)
    }
}

/// All that `find` finds in the workspace, with advice.
fn violations<'a, T>(
    sources: &'a [(PathBuf, String)],
    find: impl Fn(&'a str) -> Found<T>,
    advice: impl Fn(T) -> String,
) -> Vec<Violation> {
    let mut all = Vec::new();
    for (path, text) in sources {
        let found = find(text).into_iter();
        all.extend(found.map(|(line, it)| Violation {
            path: path.clone(),
            line,
            advice: advice(it),
        }));
    }
    all
}

#[track_caller]
fn none(violations: &[Violation]) {
    let lines: Vec<_> = violations.iter().map(Violation::to_string).collect();
    assert!(violations.is_empty(), "{} places:\n{}", lines.len(), lines.join("\n"));
}

#[test]
fn doc_blocks_name_their_subject() {
    let sources = rust_files();
    none(&violations(&sources, pronoun_docs, |word| {
        format!(
            "the doc block opens with {word:?}: begin with the thing itself, or with what a function does"
        )
    }));
}

#[test]
fn type_names_are_unique() {
    none(&repeated_types(&rust_files()));
}

#[test]
fn durations_say_of_which_kind_they_are() {
    let sources = rust_files();
    none(&violations(&sources, kindless_durations, |name| {
        format!("{name} is a Duration: let its name end in {}", KINDS.join(", "))
    }));
}

#[test]
fn functions_fit_a_screen() {
    let sources = rust_files();
    none(&violations(&sources, long_functions, |(name, length)| {
        format!("{name} has {length} lines: take steps out, to {LONGEST_FUNCTION} at most")
    }));
}

#[test]
fn shared_names_are_still_shared() {
    let sources = rust_files();
    for (names, places, why) in SHARED {
        for name in names {
            let defining: BTreeSet<_> = sources
                .iter()
                .filter(|(path, _)| places.iter().any(|place| path.starts_with_text(place)))
                .filter(|(_, text)| types(text).iter().any(|(_, found)| found == name))
                .map(|(path, _)| path)
                .collect();
            assert!(defining.len() > 1, "{name} need not be excepted any more ({why})");
        }
    }
}

#[test]
fn a_name_that_two_files_define_is_named_in_both() {
    let file = |path: &str, text: &str| (PathBuf::from(path), text.to_owned());
    let sources = [
        file("crates/a/src/a.rs", "struct Node;\n"),
        file("crates/b/src/b.rs", "\nenum Node {}\nstruct Args;"),
        file("crates/cli/src/c.rs", "struct Args;"),
        file("crates/cli/src/d.rs", "struct Args;"),
        file("crates/core/src/e.rs", "struct Link;"),
        file("crates/daemon/src/status/links.rs", "struct Link;"),
    ];
    let found = repeated_types(&sources);
    let places: Vec<_> = found.iter().map(|v| (v.path.to_str().unwrap(), v.line)).collect();
    assert_eq!(places, [("crates/a/src/a.rs", 1), ("crates/b/src/b.rs", 2)]);
    let elsewhere = [file("crates/a/src/a.rs", "struct Link;\nstruct Link;"), sources[4].clone()];
    assert_eq!(repeated_types(&elsewhere).len(), 2, "the exception is of some places only");
    assert!(found[0].to_string().starts_with("crates/a/src/a.rs:1: Node is defined more"));
}
