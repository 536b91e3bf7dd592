//! The findings in a configuration file: one value per finding, all of them in one [`ConfigReport`].
//!
//! A finding says where it is, what was found, what was expected and, where we can guess it, what was
//! meant. Whoever shows one decides on colours; the plain form of a line is
//! `FILE:LINE:COL: links[1].addresses[0]: MESSAGE`. Findings come from [`crate::tree`] (syntax),
//! [`crate::reader`] (keys and types), [`crate::value`] (single values), [`crate::sections`] (rules).

use std::cmp::Reverse;
use std::fmt;
use std::path::{Path, PathBuf};

use adit_core::text::escape;

/// A place in the file. Lines and columns count from 1; columns count characters, not bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct Position {
    /// The line.
    pub line: u64,
    /// The character in the line.
    pub column: u64,
}

/// The weight of a finding: an error keeps the file from being used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProblemSeverity {
    /// The file is used, and probably does not do what was meant.
    Warning,
    /// The file is not used.
    Error,
}

/// The sort of finding; for machines, which should not read messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemKind {
    /// The file, or one that it refers to, is missing or cannot be read.
    Unreadable,
    /// The file is not one document of YAML in UTF-8 within our bounds of size and depth.
    Syntax,
    /// A key that does not exist at this place.
    UnknownKey,
    /// A key that is written twice in one map.
    DuplicateKey,
    /// A key that must be there and is not, or has no value.
    MissingKey,
    /// A list where text was expected, and the like.
    WrongType,
    /// Text that does not follow its grammar: a name, an address, a duration.
    Invalid,
    /// A number, size or duration outside its bounds.
    OutOfRange,
    /// Two entries that name one thing: cluster, trust domain, service, port, address.
    Duplicate,
    /// A reference to a link or node that the file does not have.
    UnknownName,
    /// Values that are fine alone and wrong together.
    Conflict,
    /// Legal, and probably not what was meant.
    Doubtful,
}

/// A finding.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigProblem {
    /// The weight; an error keeps the file from being used.
    pub severity: ProblemSeverity,
    /// The sort of finding.
    pub kind: ProblemKind,
    /// The place in the file; `None` if the file could not be read at all.
    #[serde(rename = "place")]
    pub position: Option<Position>,
    /// Which value, as in `links[1].addresses[0]`; empty for the whole file.
    pub path: String,
    /// The value that was found and the one that was expected, on one line.
    pub message: String,
    /// Advice on how to mend it, or the value that was probably meant.
    pub hint: Option<String>,
}

/// All findings in one file, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ConfigReport {
    /// The file.
    pub file: PathBuf,
    /// The findings; at most [`ConfigReport::MAX`].
    pub problems: Vec<ConfigProblem>,
    /// The number of findings beyond those.
    pub omitted: usize,
}

impl ConfigReport {
    /// The most findings that are kept; what comes after them is only counted.
    pub const MAX: usize = 1000;

    pub(crate) fn new(file: &Path, problems: Vec<ConfigProblem>) -> Self {
        let nothing = Self { file: file.to_owned(), problems: Vec::new(), omitted: 0 };
        nothing.with(problems)
    }

    /// This report with more findings.
    pub(crate) fn with(mut self, problems: impl IntoIterator<Item = ConfigProblem>) -> Self {
        self.problems.extend(problems);
        self.problems.sort_by_key(|p| (p.position, Reverse(p.severity)));
        self.omitted += self.problems.len().saturating_sub(Self::MAX);
        self.problems.truncate(Self::MAX);
        self
    }

    /// The findings that keep the file from being used.
    pub fn errors(&self) -> impl Iterator<Item = &ConfigProblem> {
        self.problems.iter().filter(|p| p.severity == ProblemSeverity::Error)
    }

    /// The findings that do not.
    pub fn warnings(&self) -> impl Iterator<Item = &ConfigProblem> {
        self.problems.iter().filter(|p| p.severity == ProblemSeverity::Warning)
    }

    /// The file's name, safe to print.
    #[must_use]
    pub fn name(&self) -> String {
        escape(&self.file.to_string_lossy()).into_owned()
    }

    /// The place of `problem`, as `FILE:LINE:COL` or `FILE`, safe to print.
    #[must_use]
    pub fn location(&self, problem: &ConfigProblem) -> String {
        let file = self.name();
        match problem.position {
            Some(Position { line, column }) => format!("{file}:{line}:{column}"),
            None => file,
        }
    }
}

impl fmt::Display for ConfigReport {
    /// Writes one line for each finding, and one more, indented, for its hint.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.problems.iter().enumerate() {
            let end = if n == 0 { "" } else { "\n" };
            write!(f, "{end}{}: {problem}", self.location(problem))?;
        }
        match self.omitted {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

impl std::error::Error for ConfigReport {}

impl fmt::Display for ConfigProblem {
    /// The finding without its place.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.severity == ProblemSeverity::Warning {
            f.write_str("warning: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", escape(&self.path))?;
        }
        write!(f, "{}", escape(&self.message))?;
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {}", escape(hint)),
            None => Ok(()),
        }
    }
}

/// A finding about a value, before it is known where the value stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ValueProblem {
    pub(crate) kind: ProblemKind,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl ValueProblem {
    pub(crate) fn new(kind: ProblemKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    pub(crate) fn hint(self, hint: impl Into<Option<String>>) -> Self {
        Self { hint: hint.into(), ..self }
    }

    pub(crate) fn at(
        self,
        severity: ProblemSeverity,
        path: &str,
        position: impl Into<Option<Position>>,
    ) -> ConfigProblem {
        ConfigProblem {
            severity,
            kind: self.kind,
            position: position.into(),
            path: path.to_owned(),
            message: self.message,
            hint: self.hint,
        }
    }
}

/// A value from the file, quoted and cut to a length that leaves a message readable.
pub(crate) fn quoted(text: &str) -> String {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reads_in_the_order_of_the_file_and_hides_no_control_characters() {
        let at = |line, column| Position { line, column };
        let report =
            ConfigReport::new(
                Path::new("a\u{1b}.yaml"),
                vec![
                    ValueProblem::new(ProblemKind::Invalid, "late").at(
                        ProblemSeverity::Error,
                        "b",
                        at(2, 1),
                    ),
                    ValueProblem::new(ProblemKind::Doubtful, "odd").at(
                        ProblemSeverity::Warning,
                        "a",
                        at(1, 4),
                    ),
                    ValueProblem::new(ProblemKind::Invalid, "bad\u{202e}\n")
                        .hint("try".to_owned())
                        .at(ProblemSeverity::Error, "a", at(1, 4)),
                ],
            );
        assert_eq!(
            report.to_string(),
            "a\\u{1b}.yaml:1:4: a: bad\\u{202e}\\n\n  hint: try\n\
             a\\u{1b}.yaml:1:4: warning: a: odd\n\
             a\\u{1b}.yaml:2:1: b: late"
        );
        assert_eq!((report.errors().count(), report.warnings().count()), (2, 1));
    }

    #[test]
    fn what_is_left_out_is_counted_however_often_findings_come() {
        let many = |n| {
            vec![
                ValueProblem::new(ProblemKind::Invalid, "bad").at(ProblemSeverity::Error, "a", None);
                n
            ]
        };
        let report = ConfigReport::new(Path::new("f"), many(ConfigReport::MAX + 1)).with(many(2));
        assert_eq!((report.problems.len(), report.omitted), (ConfigReport::MAX, 3));
    }

    #[test]
    fn long_values_are_cut() {
        assert_eq!(quoted("a\"b"), r#""a\"b""#);
        assert_eq!(quoted(&"é".repeat(100)), format!("\"{}\"…", "é".repeat(80)));
    }
}
