//! The findings in a ConfigMap's document: a report for each of its fragments.

use std::fmt;
use std::path::Path;

use crate::problem::{ConfigProblem, ConfigReport, ProblemKind, ProblemSeverity, ValueProblem};

/// All findings in one document. In a fragment's report the file is the fragment's key.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct ClusterReport {
    /// The reports of the fragments, in the order of their keys.
    pub fragments: Vec<ConfigReport>,
    /// True if the document does not say `cluster`. That is no error, but a cluster that nobody has named
    /// yet: nodes and controller wait.
    pub unnamed: bool,
}

impl ClusterReport {
    /// The message for people where [`unnamed`](Self::unnamed) says so.
    pub const UNNAMED: &str = "this cluster has no name yet: `adit link` gives it one, or write `cluster: NAME` into \
         key cluster.yaml of the ConfigMap";

    /// The findings that keep the document from being used.
    pub fn errors(&self) -> impl Iterator<Item = (&ConfigReport, &ConfigProblem)> {
        self.fragments.iter().flat_map(|report| report.errors().map(move |p| (report, p)))
    }

    /// The findings that do not.
    pub fn warnings(&self) -> impl Iterator<Item = (&ConfigReport, &ConfigProblem)> {
        self.fragments.iter().flat_map(|report| report.warnings().map(move |p| (report, p)))
    }

    /// Adds what somebody else found wrong with the document as a whole.
    pub fn add_error(&mut self, message: impl Into<String>) {
        self.add(ValueProblem::new(ProblemKind::Invalid, message), ProblemSeverity::Error);
    }

    /// Adds what somebody else found odd about the document as a whole.
    pub fn add_warning(&mut self, message: impl Into<String>) {
        self.add(ValueProblem::new(ProblemKind::Doubtful, message), ProblemSeverity::Warning);
    }

    /// Adds what somebody else found odd about the fragment of this key.
    pub fn add_warning_in(&mut self, key: &str, message: impl Into<String>) {
        let finding = ValueProblem::new(ProblemKind::Doubtful, message);
        self.add_in(key, finding, ProblemSeverity::Warning);
    }

    fn add(&mut self, finding: ValueProblem, severity: ProblemSeverity) {
        self.add_in("ConfigMap", finding, severity);
    }

    fn add_in(&mut self, name: &str, finding: ValueProblem, severity: ProblemSeverity) {
        let problem = finding.at(severity, "", None);
        self.fragments.push(ConfigReport::new(Path::new(name), vec![problem]));
    }

    /// True if there are no findings and the cluster has a name.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.unnamed && self.fragments.iter().all(|report| report.problems.is_empty())
    }
}

impl fmt::Display for ClusterReport {
    /// The fragments' reports one after the other, and last that there is no name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reports = self.fragments.iter().filter(|report| !report.problems.is_empty());
        let mut lines: Vec<_> = reports.map(ConfigReport::to_string).collect();
        if self.unnamed {
            lines.push(Self::UNNAMED.to_owned());
        }
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for ClusterReport {}
