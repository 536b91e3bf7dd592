//! The ways in which a process ends, or does not start.

use std::fmt;

use adit_config::{ConfigProblem, ConfigReport};

use crate::telemetry::FatalError;

/// The way in which a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessExit {
    /// As asked; this many streams were reset because they had not ended in time.
    Drained {
        /// Streams that were reset.
        reset: u64,
    },
    /// At once, by a second signal with this number.
    Immediate {
        /// The signal.
        signal: u8,
    },
}

/// Why a node did not start, or did not go on. Nothing of it is left running.
#[derive(Debug)]
pub enum StartError {
    /// The configuration is none: all that is wrong with it, file by file.
    Config(Vec<ConfigReport>),
    /// All that is wrong with the files that it refers to, or all that is in the way of listening.
    Environment(Vec<String>),
    /// The process ran until one of its tasks ended: the rest would have gone on as if nothing had changed.
    TaskEnded(String),
}

impl StartError {
    /// True if the process had started before the error.
    #[must_use]
    pub fn had_started(&self) -> bool {
        matches!(self, Self::TaskEnded(_))
    }

    /// Each error by itself.
    pub(crate) fn errors(&self) -> Vec<FatalError> {
        let plain = |text: &String| FatalError { message: text.clone(), ..FatalError::default() };
        match self {
            Self::Config(reports) => {
                let all = reports.iter().flat_map(|r| r.errors().map(move |p| (r, p)));
                let one = |(report, problem): (&ConfigReport, &ConfigProblem)| FatalError {
                    message: format!("{}: {}", report.location(problem), problem.message),
                    key: Some(problem.path.clone()).filter(|path| !path.is_empty()),
                    hint: problem.hint.clone(),
                };
                all.map(one).collect()
            }
            Self::Environment(all) => all.iter().map(plain).collect(),
            Self::TaskEnded(what) => vec![plain(what)],
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(reports) => f.write_str(&report_lines(reports)),
            Self::Environment(all) => f.write_str(&all.join("\n")),
            Self::TaskEnded(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for StartError {}

impl From<String> for StartError {
    fn from(error: String) -> Self {
        Self::Environment(vec![error])
    }
}

/// All findings of the reports, in lines.
pub(crate) fn report_lines(reports: &[ConfigReport]) -> String {
    let lines: Vec<String> = reports.iter().map(ConfigReport::to_string).collect();
    lines.join("\n")
}
