//! The files that a node on Kubernetes keeps for its next start: the cluster as it was observed last, bundles, and the
//! network of the pod.
//!
//! A node that starts while the API server is away serves what these files say.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use adit_config::Config;
use adit_config::cluster::{ClusterConfig, NetworkConfig};
use adit_core::name::NodeName;
use adit_kubernetes::node::installation_uid;
use adit_kubernetes::node::observed::ObservedCluster;
use adit_kubernetes::{Client, config_map};
use adit_pki::UnixTime;
use adit_pki::files::{self, IfExists};
use tokio::time::timeout;

use super::source::{BUNDLES_FOLDER, KubernetesNodeOptions};
use super::state_folder::PROBE_FILE;
use crate::node::handover;

/// The file with the cluster as it was observed last.
pub(super) const CACHE_FILE: &str = "seen.json";
/// The file with the network that this pod began with: a pod's containers come and go, and all have the same.
const NETWORK_FILE: &str = "network";
/// The API server may take this long to answer before the cluster as it was observed last counts.
pub(super) const API_SERVER_TIMEOUT: Duration = Duration::from_secs(2);

/// Closes the folder to everybody else, if an earlier version left it open: a key lies in it.
pub(super) fn restrict_permissions(folder: &Path) {
    let closed = std::fs::metadata(folder).and_then(|found| {
        let open = found.permissions().mode() & 0o077 != 0;
        if open { std::fs::set_permissions(folder, Permissions::from_mode(0o700)) } else { Ok(()) }
    });
    if let Err(error) = closed {
        tracing::warn!(%error, folder = %folder.display(), "cannot be closed to others: chmod 700");
    }
}

/// The cluster as it was observed last by this installation. Files that another installation left are removed, its
/// certificate with them.
pub(super) async fn load_cache(
    client: &Client,
    folder: &Path,
    node: &NodeName,
) -> Result<ObservedCluster, String> {
    let mut last = read_cache(&folder.join(CACHE_FILE));
    last.begin_boot(boot_id(), node);
    let Ok(Ok(now)) = timeout(API_SERVER_TIMEOUT, installation_uid(client)).await else {
        // It was this one, as far as is known.
        return Ok(last);
    };
    if last.installation != now {
        clear_state(folder)?;
        last = ObservedCluster {
            installation: now,
            boot_id: last.boot_id,
            ..ObservedCluster::default()
        };
    }
    Ok(last)
}

/// The kernel's name for this run of the machine.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// The cluster as it was observed last, or an empty one: a file that cannot be read is as good as none.
pub(super) fn read_cache(file: &Path) -> ObservedCluster {
    let text = match std::fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return ObservedCluster::default();
        }
        Err(error) => {
            tracing::warn!(%error, file = %file.display(), "what was seen last cannot be read");
            return ObservedCluster::default();
        }
    };
    serde_json::from_slice(&text).unwrap_or_else(|error| {
        tracing::warn!(%error, file = %file.display(), "what was seen last is of no use");
        ObservedCluster::default()
    })
}

/// Writes `observed` with the configuration `good`, the last one that could be used.
pub(super) fn write_cache(
    file: &Path,
    observed: &ObservedCluster,
    good: &BTreeMap<String, String>,
) {
    let observed = &ObservedCluster { config: good.clone(), ..observed.clone() };
    let written = serde_json::to_vec(observed)
        .map_err(|e| e.to_string())
        .and_then(|text| files::write(file, &text, IfExists::Replace).map_err(|e| e.to_string()));
    if let Err(error) = written {
        tracing::error!("what was seen cannot be kept for the next start: {error}");
    }
}

/// The network that the pod began with, kept for its next container.
pub(super) fn pin_network(
    options: &KubernetesNodeOptions,
    wanted: &NetworkConfig,
) -> Result<NetworkConfig, String> {
    let file = options.state_folder.join(NETWORK_FILE);
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    let of_this_pod = kept.split_once('\n').filter(|(pod, _)| *pod == options.pod_uid);
    if let Some(network) = of_this_pod.and_then(|(_, line)| wanted.from_line(line)) {
        return Ok(network);
    }
    write_if_changed(&file, &format!("{}\n{}", options.pod_uid, wanted.line()))?;
    Ok(wanted.clone())
}

/// Writes other clusters' bundles as files, and beside each the last good one. Files of clusters that are linked no
/// more are removed: a cluster that is linked anew begins anew.
pub(super) fn write_bundles(config: &Config, settings: &ClusterConfig) -> Result<(), String> {
    let mut own_files = BTreeSet::new();
    for (link, from) in config.links.iter().zip(&settings.links) {
        write_if_changed(&link.trust_bundle, &from.trust_bundle)?;
        let good = config_map::link_bundle(from).is_ok_and(|b| b.is_current(UnixTime::now()));
        if let Some(last) = link.last_bundle.as_ref().filter(|_| good) {
            write_if_changed(last, &from.trust_bundle)?;
        }
        own_files.extend(link.last_bundle.iter().chain([&link.trust_bundle]));
    }
    let files = std::fs::read_dir(config.node.identity.join(BUNDLES_FOLDER)).into_iter().flatten();
    for file in files.filter_map(Result::ok).map(|file| file.path()) {
        if file.extension().is_some_and(|e| e == "pem") && !own_files.contains(&file) {
            std::fs::remove_file(&file)
                .map_err(|e| format!("cannot remove {}: {e}", file.display()))?;
        }
    }
    Ok(())
}

/// Writes a public file, unless it says the same already.
pub(super) fn write_if_changed(file: &Path, text: &str) -> Result<(), String> {
    if std::fs::read(file).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(());
    }
    files::write(file, text.as_bytes(), IfExists::Replace).map_err(|e| e.to_string())
}

/// Removes all files, except the one that tells peers of a restart.
pub(super) fn clear_state(folder: &Path) -> Result<(), String> {
    let gone = |path: PathBuf, result: std::io::Result<()>| match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("cannot remove {}: {error}", path.display()))
        }
        _ => Ok(()),
    };
    let handover = [handover::SOCKET, handover::TURNS, handover::TURNS_LOCK];
    let own = [CACHE_FILE, NETWORK_FILE, PROBE_FILE];
    for name in
        own.into_iter().chain([files::NODE_CHAIN, files::NODE_KEY, files::BUNDLE]).chain(handover)
    {
        let file = folder.join(name);
        let result = std::fs::remove_file(&file);
        gone(file, result)?;
    }
    let bundles = folder.join(BUNDLES_FOLDER);
    let result = std::fs::remove_dir_all(&bundles);
    gone(bundles, result)
}
