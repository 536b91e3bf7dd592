//! The source of a node's configuration: a file, or the ConfigMap of its cluster.

use std::path::PathBuf;
use std::sync::Arc;

use adit_pki::UnixTime;
use adit_pki::time::rfc3339;

use super::config_update::{LoadedConfig, sha256_hex};
use super::kubernetes::KubernetesSource;
use crate::status::ConfigurationStatus;

/// The source of a node's configuration.
#[derive(Debug, Clone)]
pub(super) enum ConfigSource {
    /// The file that `adit node --config` names.
    File(PathBuf),
    /// The cluster that the node runs in.
    Kubernetes(Arc<KubernetesSource>),
}

impl ConfigSource {
    /// Reads the configuration now.
    pub(super) fn load(&self) -> LoadedConfig {
        match self {
            Self::File(file) => adit_config::load(file)
                .map(|(config, report)| (Box::new(config), vec![report]))
                .map_err(|report| vec![report]),
            Self::Kubernetes(source) => source.load(),
        }
    }

    /// The status of a configuration that was just taken.
    pub(super) fn describe(&self) -> ConfigurationStatus {
        let needs_restart = match self {
            Self::File(_) => Vec::new(),
            Self::Kubernetes(source) => source.needs_restart(),
        };
        let (path, digest) = match self {
            // Between reading it for its values and for this it may have changed; that is reported, too.
            Self::File(file) => {
                let digest = std::fs::read(file).map(|bytes| sha256_hex(&bytes));
                (file.display().to_string(), digest.unwrap_or_default())
            }
            Self::Kubernetes(source) => (KubernetesSource::CONFIG_NAME.to_owned(), source.digest()),
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
