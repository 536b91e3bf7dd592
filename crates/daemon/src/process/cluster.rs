//! A node that runs on Kubernetes: what its cluster tells becomes what a node from a file would be told.
//!
//! The ConfigMap becomes a [`Config`], bundles and certificate become the files that it refers to, and the
//! rest becomes a [`NodeState`]. All that was seen is kept on disk, so that a node that starts while the API
//! server is away serves what it knew. Before a node can start, its cluster has to have a name and the node
//! a certificate: it waits for both ([`prepare`]), and says so.

pub(super) mod certificate;

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use adit_config::cluster::{ClusterConfig, NodeFacts};
use adit_config::{ClusterReport, Config, Report};
use adit_kubernetes::Client;
use adit_kubernetes::node::observed::Observed;
use adit_kubernetes::node::state::{NodeState, state};
use adit_kubernetes::node::{Place, installation, watch as seeing};
use adit_pki::files::{self, Existing};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::origin::{Input, Loaded};

/// Where and as what a node runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder of what it keeps: certificate, bundles, what it saw last.
    pub state: PathBuf,
    /// The Kubernetes node.
    pub place: Place,
}

/// The file with what was seen last.
const SEEN: &str = "seen.json";
/// The folder with other clusters' bundles.
const BUNDLES: &str = "bundles";
/// What asking the API server may take before what was seen last counts.
const ASK: Duration = Duration::from_secs(5);
/// What was seen is written this long after it changed.
const WRITE: Duration = Duration::from_secs(1);

/// The cluster that a node runs in, as it is seen now.
#[derive(Debug)]
pub(super) struct Cluster {
    options: Options,
    seen: watch::Receiver<Arc<Observed>>,
}

/// A node that can start.
pub(super) struct Prepared {
    pub(super) cluster: Arc<Cluster>,
    pub(super) settings: ClusterConfig,
    pub(super) config: Config,
    pub(super) reports: Vec<Report>,
    /// What Kubernetes adds, as it is at first.
    pub(super) state: NodeState,
}

impl Cluster {
    /// What the status calls the configuration.
    pub(super) const NAME: &str = "ConfigMap adit-system/adit";

    /// Reads the configuration as it is now.
    pub(super) fn load(&self) -> Loaded {
        let seen = self.seen.borrow().clone();
        self.read(&seen).map(|(_, config, reports)| (Box::new(config), reports)).map_err(refused)
    }

    /// SHA-256 over all fragments, in the order of their keys.
    pub(super) fn digest(&self) -> String {
        let seen = self.seen.borrow();
        let all: Vec<u8> = seen.config.values().flat_map(|text| text.bytes()).collect();
        super::digest(&all)
    }

    fn read(&self, seen: &Observed) -> Result<(ClusterConfig, Config, Vec<Report>), ClusterReport> {
        let (settings, report) = adit_kubernetes::configuration::read(&seen.config)?;
        let Options { state, place } = &self.options;
        let config = settings.node(NodeFacts {
            name: place.node.clone(),
            addresses: place.addresses.clone(),
            identity: state.clone(),
            bundles: state.join(BUNDLES),
        });
        Ok((settings, config, report.fragments))
    }

    fn state(&self, seen: &Observed, settings: &ClusterConfig) -> NodeState {
        state(seen, settings, &self.options.place)
    }
}

/// A report that stands for a document without a name, too.
fn refused(mut report: ClusterReport) -> Vec<Report> {
    if report.unnamed {
        report.refuse(ClusterReport::UNNAMED);
    }
    report.fragments
}

/// Waits until a node can start: its cluster has a name, and it a certificate. What is seen is kept up to
/// date by one of `tasks`.
///
/// # Errors
/// What waiting will not mend: a folder that cannot be written.
pub(super) async fn prepare(
    client: &Client,
    options: Options,
    tasks: &mut JoinSet<()>,
) -> Result<Prepared, String> {
    let folder = &options.state;
    files::make_folder(folder).map_err(|e| e.to_string())?;
    files::make_folder(&folder.join(BUNDLES)).map_err(|e| e.to_string())?;
    let last = remembered(client, folder).await?;
    let (out, seen) = watch::channel(Arc::new(last));
    tasks.spawn(seeing::run(client.clone(), options.place.clone(), out));

    let cluster = Arc::new(Cluster { options, seen: seen.clone() });
    let (settings, config, reports) = named(&cluster, seen.clone()).await;
    bundled(seen.clone(), &config).await?;
    write_bundles(&config, &settings)?;
    certificate::have(client, &config).await?;
    let state = cluster.state(&seen.borrow(), &settings);
    Ok(Prepared { cluster, settings, config, reports, state })
}

/// What was seen last of this installation. What another one left here goes, its certificate with it.
async fn remembered(client: &Client, folder: &Path) -> Result<Observed, String> {
    let mut last = read_seen(&folder.join(SEEN));
    let Ok(Ok(now)) = timeout(ASK, installation(client)).await else {
        // It was this one, as far as is known.
        return Ok(last);
    };
    if last.installation != now {
        forget(folder)?;
        last = Observed { installation: now, ..Observed::default() };
    }
    Ok(last)
}

/// Removes all that is kept, but for what tells peers of a restart.
pub(super) fn forget(folder: &Path) -> Result<(), String> {
    for name in [SEEN, files::NODE_CHAIN, files::NODE_KEY, files::BUNDLE] {
        match std::fs::remove_file(folder.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(format!("cannot remove {}: {error}", folder.join(name).display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// What was seen last, or nothing: a file that cannot be read is as good as none.
fn read_seen(file: &Path) -> Observed {
    let text = match std::fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Observed::default(),
        Err(error) => {
            tracing::warn!(%error, file = %file.display(), "what was seen last cannot be read");
            return Observed::default();
        }
    };
    serde_json::from_slice(&text).unwrap_or_else(|error| {
        tracing::warn!(%error, file = %file.display(), "what was seen last is of no use");
        Observed::default()
    })
}

/// Waits for a configuration that can be used.
async fn named(
    cluster: &Cluster,
    mut seen: watch::Receiver<Arc<Observed>>,
) -> (ClusterConfig, Config, Vec<Report>) {
    let mut told = None;
    loop {
        let now = seen.borrow_and_update().clone();
        let wrong = match cluster.read(&now) {
            Ok(read) => return read,
            Err(report) => report.to_string(),
        };
        if told.as_ref() != Some(&wrong) {
            tracing::warn!("waiting for {}: {wrong}", Cluster::NAME);
            told = Some(wrong);
        }
        wait(&mut seen).await;
    }
}

/// Waits for this cluster's own trust bundle, and writes it where the node reads it.
async fn bundled(mut seen: watch::Receiver<Arc<Observed>>, config: &Config) -> Result<(), String> {
    let mut told = false;
    loop {
        let bundle = seen.borrow_and_update().bundle.clone();
        if let Some(bundle) = bundle {
            return write(&config.node.identity.join(files::BUNDLE), &bundle);
        }
        if !told {
            tracing::info!("waiting for the controller to make this cluster's CA");
            told = true;
        }
        wait(&mut seen).await;
    }
}

async fn wait(seen: &mut watch::Receiver<Arc<Observed>>) {
    if seen.changed().await.is_err() {
        // Nothing more will be seen; whoever waits for this is ended from outside.
        std::future::pending::<Infallible>().await;
    }
}

/// Takes what is seen from now on: the configuration through `tell`, the rest through `out`. A bad
/// configuration is told, too, and the last good one stays.
pub(super) async fn follow(
    cluster: Arc<Cluster>,
    (mut settings, mut config): (ClusterConfig, Config),
    tell: mpsc::Sender<Input>,
    out: watch::Sender<Arc<NodeState>>,
) {
    let mut seen = cluster.seen.clone();
    let mut last: Arc<Observed> = seen.borrow_and_update().clone();
    let mut problems: Vec<String> = Vec::new();
    let mut write_at = Some(Instant::now());
    loop {
        tokio::select! {
            changed = seen.changed() => if changed.is_err() {
                std::future::pending::<Infallible>().await;
            },
            () = sleep_until(write_at.unwrap_or_else(Instant::now)), if write_at.is_some() => {
                write_at = None;
                remember(&cluster.options.state.join(SEEN), &last);
                continue;
            }
        }
        let now = seen.borrow_and_update().clone();
        if now.config != last.config {
            let input = match cluster.read(&now) {
                Ok((new_settings, new_config, reports)) => {
                    if let Err(error) = write_bundles(&new_config, &new_settings) {
                        tracing::error!("trust bundles: {error}");
                    }
                    (settings, config) = (new_settings, new_config.clone());
                    Ok((Box::new(new_config), reports))
                }
                Err(report) => Err(refused(report)),
            };
            // The receiver is gone only when the process ends.
            drop(tell.send(Input::Config(input)).await);
        }
        if let Some(bundle) = now.bundle.as_ref().filter(|_| now.bundle != last.bundle) {
            let file = config.node.identity.join(files::BUNDLE);
            match write(&file, bundle) {
                Ok(()) => drop(tell.send(Input::Files(vec![file])).await),
                Err(error) => tracing::error!("{error}"),
            }
        }
        let state = cluster.state(&now, &settings);
        if state.problems != problems {
            for problem in state.problems.iter().filter(|p| !problems.contains(p)) {
                tracing::error!("{problem}");
            }
            problems.clone_from(&state.problems);
        }
        out.send_if_modified(|old| {
            let differs = **old != state;
            *old = Arc::new(state);
            differs
        });
        last = now;
        write_at = write_at.or_else(|| Some(Instant::now() + WRITE));
    }
}

fn remember(file: &Path, seen: &Observed) {
    let written = serde_json::to_vec(seen)
        .map_err(|e| e.to_string())
        .and_then(|text| files::write(file, &text, Existing::Replace).map_err(|e| e.to_string()));
    if let Err(error) = written {
        tracing::error!("what was seen cannot be kept for the next start: {error}");
    }
}

/// Other clusters' bundles, as files.
fn write_bundles(config: &Config, settings: &ClusterConfig) -> Result<(), String> {
    let mut links = config.links.iter().zip(&settings.links);
    links.try_for_each(|(link, from)| write(&link.trust_bundle, &from.trust_bundle))
}

/// Writes a public file, unless it is so already.
fn write(file: &Path, text: &str) -> Result<(), String> {
    if std::fs::read(file).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(());
    }
    files::write(file, text.as_bytes(), Existing::Replace).map_err(|e| e.to_string())
}
