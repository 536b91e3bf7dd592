//! The operator's file: strict parsing with every error at once, and hot reload.
//!
//! * [`load`] reads a file into a [`Config`] or a [`ConfigReport`] of all that is wrong with it; [`check`]
//!   also looks at the files that it refers to.
//! * [`watch()`] follows a file that changes.
//! * [`config`] is the reference of the format, field by field; [`EXAMPLE`] shows all of it.
//! * [`cluster`] is the same for a whole cluster, whose file is a ConfigMap; [`parse_cluster`] reads it.
//!
//! Owns what the file may say. Opens no socket and knows no certificate: it tells that a file changed,
//! never what that means.

use std::num::NonZeroUsize;
use std::path::Path;

pub use self::cluster::{ClusterConfig, ClusterReport, parse as parse_cluster};
pub use self::config::Config;
pub use self::problem::{ConfigProblem, ConfigReport, Position, ProblemKind, ProblemSeverity};
pub use self::source::{MAX_BYTES, unreadable_hint};
pub use self::value::parse_duration;
pub use self::watch::{ConfigChange, ConfigWatch, watch};

use crate::config::LogFormat;
use crate::problem::ValueProblem;
use crate::reader::{ProblemSink, ValueReader};
use crate::sections::NodeEnv;
use crate::source::FileReference;

pub mod cluster;
pub mod config;
pub mod metrics_readers;
mod problem;
mod reader;
mod sections;
mod source;
mod suggest;
mod tree;
mod value;
mod watch;

/// A file with every key of the format, each commented.
pub const EXAMPLE: &str = include_str!("../example.yaml");

/// Reads the configuration in `file`: its values with all defaults filled in, and warnings.
///
/// # Errors
/// Everything that is wrong with it, and the warnings as well.
pub fn load(file: &Path) -> Result<(Config, ConfigReport), ConfigReport> {
    let text = source::read(file).map_err(|problem| ConfigReport::new(file, vec![*problem]))?;
    parse(&text, file)
}

/// Like [`load`], of text that has been read already; `file` is what it is called, and relative paths
/// begin at its folder.
///
/// # Errors
/// Everything that is wrong with it, and the warnings as well.
pub fn parse(text: &[u8], file: &Path) -> Result<(Config, ConfigReport), ConfigReport> {
    let (config, report, _) = read(text, file);
    config.map(|config| (config, report.clone())).ok_or(report)
}

/// Everything that is wrong with the configuration in `file` and with the files that it refers to:
/// trust bundles and identity have to be there and readable.
#[must_use]
pub fn check(file: &Path) -> ConfigReport {
    check_with(file, |_| Vec::new())
}

/// A finding of somebody else about a file that the configuration refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFinding {
    /// The value that refers to it, as in `links[1].trustBundle`.
    pub path: String,
    /// The value that was found and the one that was expected, on one line.
    pub message: String,
    /// Advice on how to mend it.
    pub hint: Option<String>,
    /// True if the file cannot be read, which [`check`] finds itself.
    pub is_unreadable: bool,
}

/// Like [`check`], with the findings of `more` in the files that a good configuration refers to.
#[must_use]
pub fn check_with(file: &Path, more: impl FnOnce(&Config) -> Vec<FileFinding>) -> ConfigReport {
    let text = match source::read(file) {
        Err(problem) => return ConfigReport::new(file, vec![*problem]),
        Ok(text) => text,
    };
    let (config, report, references) = read(&text, file);
    let missing: Vec<_> = references.iter().flat_map(source::check_reference).collect();
    let found = config.as_ref().map(more).unwrap_or_default();
    let is_told =
        |one: &FileFinding| one.is_unreadable && missing.iter().any(|p| p.path == one.path);
    let found: Vec<_> = found.into_iter().filter(|one| !is_told(one)).collect();
    let found = found.into_iter().map(|FileFinding { path, message, hint, .. }| {
        let position = references.iter().find(|r| r.path == path).map(|r| r.position);
        ValueProblem::new(ProblemKind::Unreadable, message).hint(hint).at(
            ProblemSeverity::Error,
            &path,
            position,
        )
    });
    let found: Vec<_> = found.collect();
    report.with(missing).with(found)
}

/// The format of the log that `file` wants, as far as it says so, whatever else is wrong with it.
#[must_use]
pub fn log_format(file: &Path) -> LogFormat {
    let format = || {
        let text = source::read(file).ok()?;
        let tree = tree::parse(source::decode(&text).ok()?).ok()?;
        sections::log_format(&ValueReader::root(&ProblemSink::default(), &tree))
    };
    format().unwrap_or_default()
}

/// A value as YAML, for programs that print what `kubectl` or another of ours is to read.
///
/// # Errors
/// Where the value has no form in YAML, such as a map whose keys are lists.
pub fn to_yaml<T: serde::Serialize>(
    value: &T,
) -> Result<String, impl std::error::Error + Send + Sync + use<T>> {
    tree::write(value)
}

/// Reads the YAML documents of a text that this program carries or wrote itself, such as a manifest.
///
/// # Errors
/// If the text is no YAML, or a document does not fit `T`.
pub fn from_yaml<T: serde::de::DeserializeOwned>(
    text: &str,
) -> Result<Vec<T>, impl std::error::Error + Send + Sync + use<T>> {
    tree::read_all(text)
}

fn read(text: &[u8], file: &Path) -> (Option<Config>, ConfigReport, Vec<FileReference>) {
    let fail = |problem| (None, ConfigReport::new(file, vec![problem]), Vec::new());
    let text = match source::decode(text) {
        Ok(text) => text,
        Err(problem) => return fail(*problem),
    };
    let tree = match tree::parse(text) {
        Ok(tree) => tree,
        Err((finding, position)) => return fail(finding.at(ProblemSeverity::Error, "", position)),
    };
    let sink = ProblemSink::default();
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let env = NodeEnv { base: Config::base(file), cores };
    let config = sections::config(&ValueReader::root(&sink, &tree), env);
    let (problems, references) = sink.finish();
    let report = ConfigReport::new(file, problems);
    let good = report.errors().next().is_none();
    (config.filter(|_| good), report, references)
}
