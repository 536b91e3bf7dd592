//! The operator's configuration across passes: as it is written, and as it was last good.

use std::collections::BTreeMap;
use std::sync::Arc;

use adit_config::ClusterReport;
use adit_config::cluster::ClusterConfig;
use adit_core::name::ClusterName;

use crate::config_map;

/// The last good configuration, and the one that is written.
#[derive(Debug, Default)]
pub(super) struct ConfigState {
    data: Option<BTreeMap<String, String>>,
    pub(super) good: Option<Arc<ClusterConfig>>,
    /// True if it names no cluster yet.
    pub(super) unnamed: bool,
    /// The first problem of the configuration as it is written.
    pub(super) trouble: Option<String>,
    /// Links of the last good one whose trust bundle is not valid, and the reason.
    pub(super) bad_bundles: BTreeMap<ClusterName, String>,
}

impl ConfigState {
    /// Reads the configuration again if it has changed.
    pub(super) fn read(&mut self, data: BTreeMap<String, String>) {
        if self.data.as_ref() == Some(&data) {
            return;
        }
        (self.unnamed, self.trouble) = match config_map::read_config(&data) {
            Ok((config, report)) => {
                for line in report.to_string().lines() {
                    tracing::warn!("{line}");
                }
                let bad = config_map::bad_bundles(&config);
                self.bad_bundles =
                    bad.map(|(link, error)| (link.cluster.clone(), error.to_string())).collect();
                self.good = Some(Arc::new(config));
                (false, None)
            }
            Err(report) => (report.unnamed, Some(first_error(&report))),
        };
        self.data = Some(data);
    }
}

fn first_error(report: &ClusterReport) -> String {
    let mut errors = report.errors();
    match errors.next() {
        Some((fragment, problem)) => {
            let more = match errors.count() {
                0 => String::new(),
                more => format!(" (and {more} more)"),
            };
            format!("{}: {problem}{more}", fragment.location(problem))
        }
        None => ClusterReport::UNNAMED.into(),
    }
}
