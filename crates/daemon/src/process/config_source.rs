//! Where a node's configuration comes from: a file, or the ConfigMap of its cluster.

use std::path::PathBuf;
use std::sync::Arc;

use adit_config::{Config, ConfigChange, ConfigReport};
use adit_pki::UnixTime;
use adit_pki::time::rfc3339;

use super::cluster::KubernetesSource;
use crate::status::ConfigurationStatus;

/// One of the two.
#[derive(Debug, Clone)]
pub(super) enum ConfigSource {
    /// The file that `adit node --config` names.
    File(PathBuf),
    /// The cluster that the node runs in.
    Kubernetes(Arc<KubernetesSource>),
}

/// A configuration, and what is odd about it; or all that is wrong with it.
pub(super) type LoadedConfig = Result<(Box<Config>, Vec<ConfigReport>), Vec<ConfigReport>>;

/// What has changed.
#[derive(Debug)]
pub(super) enum ConfigUpdate {
    /// The configuration.
    Config(LoadedConfig),
    /// These of the files that the configuration refers to.
    Files(Vec<PathBuf>),
}

impl From<ConfigChange> for ConfigUpdate {
    fn from(change: ConfigChange) -> Self {
        match change {
            ConfigChange::Config(config, report) => Self::Config(Ok((config, vec![report]))),
            ConfigChange::Refused(report) => Self::Config(Err(vec![report])),
            ConfigChange::Files(files) => Self::Files(files),
        }
    }
}

impl ConfigSource {
    /// Reads it now.
    pub(super) fn load(&self) -> LoadedConfig {
        match self {
            Self::File(file) => adit_config::load(file)
                .map(|(config, report)| (Box::new(config), vec![report]))
                .map_err(|report| vec![report]),
            Self::Kubernetes(cluster) => cluster.load(),
        }
    }

    /// What the status says of a configuration that was just taken.
    pub(super) fn describe(&self) -> ConfigurationStatus {
        let needs_restart = match self {
            Self::File(_) => Vec::new(),
            Self::Kubernetes(cluster) => cluster.needs_restart(),
        };
        let (path, digest) = match self {
            // Between reading it for its values and for this it may have changed; that is reported, too.
            Self::File(file) => {
                let digest = std::fs::read(file).map(|bytes| super::sha256_hex(&bytes));
                (file.display().to_string(), digest.unwrap_or_default())
            }
            Self::Kubernetes(cluster) => {
                (KubernetesSource::CONFIG_NAME.to_owned(), cluster.digest())
            }
        };
        ConfigurationStatus {
            path,
            digest,
            needs_restart,
            loaded_at: rfc3339(UnixTime::now()),
            ..ConfigurationStatus::default()
        }
    }
}
