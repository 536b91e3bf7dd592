//! Collects the findings about a text, and the keys that were asked for.

use std::cell::RefCell;
use std::collections::BTreeSet;

use crate::problem::{ConfigProblem, Position, ProblemKind, ProblemSeverity, ValueProblem};
use crate::source::FileReference;
use crate::suggest::closest;

/// Collects findings, keys and references.
#[derive(Debug, Default)]
pub(crate) struct ProblemSink {
    /// The name of the text, where there are several.
    pub(super) name: String,
    pub(super) problems: RefCell<Vec<ConfigProblem>>,
    pub(super) unknown: RefCell<Vec<UnreadKey>>,
    /// Each key that was asked for, and the section that it belongs to.
    pub(super) asked: RefCell<BTreeSet<(&'static str, String)>>,
    pub(super) references: RefCell<Vec<FileReference>>,
}

#[derive(Debug)]
pub(super) struct UnreadKey {
    pub(super) key: String,
    pub(super) position: Position,
    pub(super) path: String,
    pub(super) known: Vec<&'static str>,
    /// Those of them that are not written, of which one may have been meant.
    pub(super) absent: Vec<&'static str>,
}

impl ProblemSink {
    /// A sink for one text of several.
    pub(crate) fn named(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// Lets each of them know which keys all others were asked for: a key may belong into another text.
    pub(crate) fn share_keys(sinks: &[Self]) {
        let all: BTreeSet<_> = sinks.iter().flat_map(|s| s.asked.borrow().clone()).collect();
        for sink in sinks {
            sink.asked.replace(all.clone());
        }
    }

    pub(super) fn add(&self, problem: ConfigProblem) {
        self.problems.borrow_mut().push(problem);
    }

    /// All findings, and the files that are referred to. Unknown keys come last, since only now every
    /// section's keys are known.
    pub(crate) fn finish(self) -> (Vec<ConfigProblem>, Vec<FileReference>) {
        let mut problems = self.problems.into_inner();
        let asked = self.asked.into_inner();
        for UnreadKey { key, position, path, known, absent } in self.unknown.into_inner() {
            let expected = known.join(", ");
            let hint = if key == "<<" {
                Some("merge keys are not supported; write the keys out".to_owned())
            } else if let Some(meant) = closest(&key, absent) {
                Some(format!("did you mean {meant}?"))
            } else {
                let elsewhere = asked.iter().find(|(k, _)| *k == key);
                elsewhere.map(|(_, section)| match section.as_str() {
                    "" => format!("{key} belongs at the top of the file"),
                    section => format!("{key} belongs under {section}"),
                })
            };
            let finding = ValueProblem::new(
                ProblemKind::UnknownKey,
                format!("unknown key: expected {expected}"),
            );
            problems.push(finding.hint(hint).at(ProblemSeverity::Error, &path, position));
        }
        (problems, self.references.into_inner())
    }

    /// Every key of the format, by its path without indices, as in `links[].addresses`.
    #[cfg(test)]
    pub(crate) fn asked(&self) -> BTreeSet<String> {
        self.asked.borrow().iter().map(|(key, section)| super::join(section, key)).collect()
    }
}
