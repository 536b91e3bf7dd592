//! Reads the data of a ConfigMap: each fragment's text into a tree, all trees as one document.

use std::collections::BTreeMap;
use std::path::Path;

use super::{ClusterConfig, ClusterLink, ClusterReport, ExportRule, ImportRule};
use crate::problem::{ConfigProblem, ConfigReport, ProblemKind, ProblemSeverity, ValueProblem};
use crate::reader::{ProblemSink, ValueReader};
use crate::sections::cluster::{self, ClusterParts};
use crate::tree;

/// Reads the data of a ConfigMap: keys that end in `.yaml` are fragments, others are not ours.
///
/// # Errors
/// Everything that is wrong with it, and the warnings as well; or that the cluster has no name yet
/// ([`ClusterReport::unnamed`]), which those who run it wait for.
pub fn parse(
    data: &BTreeMap<String, String>,
) -> Result<(ClusterConfig, ClusterReport), ClusterReport> {
    let (parts, report) = read(data);
    let good = report.errors().next().is_none() && !report.unnamed;
    match parts.config().filter(|_| good) {
        Some(config) => Ok((config, report)),
        None => Err(report),
    }
}

/// The links, exports and imports that a single fragment declares.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fragment {
    /// Its links.
    pub links: Vec<ClusterLink>,
    /// Its exports.
    pub exports: Vec<ExportRule>,
    /// Its imports.
    pub imports: Vec<ImportRule>,
}

/// Reads one fragment by itself, as one who edits it needs it: what it has to do with others is not
/// looked at.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse_fragment(key: &str, text: &str) -> Result<Fragment, ClusterReport> {
    let (parts, report) = read(&BTreeMap::from([(key.to_owned(), text.to_owned())]));
    let good = report.errors().next().is_none();
    let ClusterParts { links, exports, imports, .. } = parts;
    match (links, exports, imports) {
        (Some(links), Some(exports), Some(imports)) if good => {
            Ok(Fragment { links, exports, imports })
        }
        _ => Err(report),
    }
}

fn read(data: &BTreeMap<String, String>) -> (ClusterParts, ClusterReport) {
    let mut problems: Vec<(&str, Vec<ConfigProblem>)> = Vec::new();
    let (mut sinks, mut trees) = (Vec::new(), Vec::new());
    let mut whole = true;
    for (key, text) in data {
        if !key.ends_with(".yaml") {
            problems.push((key, misnamed_key(key).into_iter().collect()));
            continue;
        }
        match tree::parse(text) {
            Ok(tree) => {
                sinks.push(ProblemSink::named(key));
                trees.push((key.as_str(), tree));
            }
            Err((finding, position)) => {
                whole = false;
                problems.push((key, vec![finding.at(ProblemSeverity::Error, "", position)]));
            }
        }
    }
    let fragments: Vec<_> =
        sinks.iter().zip(&trees).map(|(sink, (_, tree))| ValueReader::root(sink, tree)).collect();
    let parts = cluster::read(&fragments, whole);
    ProblemSink::share_keys(&sinks);
    for (sink, (key, _)) in sinks.into_iter().zip(&trees) {
        problems.push((key, sink.finish().0));
    }
    problems.sort_by_key(|(key, _)| *key);
    let reports =
        problems.into_iter().map(|(key, problems)| ConfigReport::new(Path::new(key), problems));
    let report = ClusterReport { fragments: reports.collect(), unnamed: parts.unnamed };
    (parts, report)
}

/// A key that is no fragment and was probably meant to be one.
fn misnamed_key(key: &str) -> Option<ConfigProblem> {
    let lower = key.to_lowercase();
    let meant = [".yml", ".yaml", ".json"].iter().any(|end| lower.ends_with(end));
    let finding =
        ValueProblem::new(ProblemKind::Doubtful, "not read: expected a key that ends in .yaml");
    meant.then(|| finding.at(ProblemSeverity::Warning, "", None))
}
