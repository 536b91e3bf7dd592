//! Where a node's configuration comes from: a file, or the ConfigMap of its cluster.

use std::path::PathBuf;
use std::sync::Arc;

use adit_config::{Change, Config, Report};
use adit_pki::UnixTime;
use adit_pki::time::rfc3339;

use super::cluster::Cluster;
use crate::status::Configuration;

/// One of the two.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    /// The file that `adit node --config` names.
    File(PathBuf),
    /// The cluster that the node runs in.
    Cluster(Arc<Cluster>),
}

/// A configuration, and what is odd about it; or all that is wrong with it.
pub(super) type Loaded = Result<(Box<Config>, Vec<Report>), Vec<Report>>;

/// What has changed.
#[derive(Debug)]
pub(super) enum Input {
    /// The configuration.
    Config(Loaded),
    /// These of the files that the configuration refers to.
    Files(Vec<PathBuf>),
}

impl From<Change> for Input {
    fn from(change: Change) -> Self {
        match change {
            Change::Config(config, report) => Self::Config(Ok((config, vec![report]))),
            Change::Refused(report) => Self::Config(Err(vec![report])),
            Change::Files(files) => Self::Files(files),
        }
    }
}

impl Origin {
    /// Reads it now.
    pub(super) fn load(&self) -> Loaded {
        match self {
            Self::File(file) => adit_config::load(file)
                .map(|(config, report)| (Box::new(config), vec![report]))
                .map_err(|report| vec![report]),
            Self::Cluster(cluster) => cluster.load(),
        }
    }

    /// What the status says of a configuration that was just taken.
    pub(super) fn describe(&self) -> Configuration {
        let needs_restart = match self {
            Self::File(_) => Vec::new(),
            Self::Cluster(cluster) => cluster.needs_restart(),
        };
        let (path, digest) = match self {
            // Between reading it for its values and for this it may have changed; that is reported, too.
            Self::File(file) => {
                let digest = std::fs::read(file).map(|bytes| super::digest(&bytes));
                (file.display().to_string(), digest.unwrap_or_default())
            }
            Self::Cluster(cluster) => (Cluster::NAME.to_owned(), cluster.digest()),
        };
        Configuration {
            path,
            digest,
            needs_restart,
            loaded_at: rfc3339(UnixTime::now()),
            ..Configuration::default()
        }
    }
}
