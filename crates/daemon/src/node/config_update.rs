//! An update of a node's configuration, from whichever source.

use std::path::PathBuf;

use adit_config::{Config, ConfigChange, ConfigReport};

/// A configuration with the warnings about it, or all that is wrong with it.
pub(super) type LoadedConfig = Result<(Box<Config>, Vec<ConfigReport>), Vec<ConfigReport>>;

/// A change to act on.
#[derive(Debug)]
pub(super) enum ConfigUpdate {
    /// Another configuration, good or bad.
    Config(LoadedConfig),
    /// Other contents of these files, to which the configuration refers.
    Files(Vec<PathBuf>),
    /// The fault of the folder of the node's state; `None` if it can be written.
    StateFolder(Option<String>),
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

/// SHA-256 as `sha256sum` writes it, so that an operator can compare.
pub(super) fn sha256_hex(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}
