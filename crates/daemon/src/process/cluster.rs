//! A node that runs on Kubernetes: what its cluster tells becomes what a node from a file would be told.
//!
//! The ConfigMap becomes a [`Config`], bundles and certificate become the files that it refers to, and the
//! rest becomes a [`NodeState`]. All that was seen is kept on disk, so that a node that starts while the API
//! server is away serves what it knew. Before a node can start, its cluster has to have a name and the node
//! a certificate: it waits for both ([`prepare`]), and says so.

pub(super) mod certificate;
mod neighbourhood;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fs::Permissions;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use adit_config::cluster::{ClusterConfig, Network, NodeFacts};
use adit_config::{ClusterReport, Config, Report};
use adit_core::name::NodeName;
use adit_host::routes::{self, Watch};
use adit_kubernetes::Client;
use adit_kubernetes::configuration;
use adit_kubernetes::node::observed::Observed;
use adit_kubernetes::node::state::{NodeState, state};
use adit_kubernetes::node::{Place, installation, watch as seeing};
use adit_kubernetes::tasks::Tasks;
use adit_pki::UnixTime;
use adit_pki::files::{self, Existing};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use self::neighbourhood::Neighbourhood;
use super::handover::{self, Custody};
use super::origin::{Input, Loaded};
use crate::compose::publish;

/// Where and as what a node runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder of what it keeps: certificate, bundles, what it saw last.
    pub state: PathBuf,
    /// The Kubernetes node.
    pub place: Place,
    /// The UID of the pod.
    pub pod: String,
}

/// The file with what was seen last.
const SEEN: &str = "seen.json";
/// The folder with other clusters' bundles.
const BUNDLES: &str = "bundles";
/// The file with the network that this pod began with: a pod's containers come and go, and all have the same.
const NETWORK: &str = "network";
/// What the first look at everything may take before a node begins with what it has; a node that has
/// something takes [`ASK`].
const LISTED: Duration = Duration::from_secs(10);
/// What is said of a change that sockets, routes and rules do not follow.
const RESTART: &str = "network: changes count when the nodes are restarted: \
    kubectl -n adit-system rollout restart daemonset/adit-node";
/// What asking the API server may take before what was seen last counts.
const ASK: Duration = Duration::from_secs(2);
/// What a successor may take to write what it and this process see.
const SUCCESSOR_WRITES: Duration = Duration::from_secs(2);
/// What was seen is written this long after it changed.
const WRITE: Duration = Duration::from_secs(1);

/// The cluster that a node runs in, as it is seen now.
#[derive(Debug)]
pub(super) struct Cluster {
    options: Options,
    seen: watch::Receiver<Arc<Observed>>,
    /// What sockets, routes and rules were made from.
    network: OnceLock<Network>,
    /// What this machine says of its pods, as it was known last.
    neighbourhood: Mutex<Neighbourhood>,
}

/// A node that can start.
pub(super) struct Prepared {
    pub(super) cluster: Arc<Cluster>,
    /// What it begins with, with a configuration that is good.
    pub(super) begun: Arc<Observed>,
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
        self.read(&seen.config)
            .map(|(_, config, reports)| (Box::new(config), reports))
            .map_err(refused)
    }

    /// SHA-256 over all fragments, in the order of their keys.
    pub(super) fn digest(&self) -> String {
        let seen = self.seen.borrow();
        let all: Vec<u8> = seen.config.values().flat_map(|text| text.bytes()).collect();
        super::digest(&all)
    }

    /// What has changed and does not count before a restart, as the ConfigMap names it.
    pub(super) fn needs_restart(&self) -> Vec<String> {
        let seen = self.seen.borrow().clone();
        let Ok((settings, _)) = configuration::read(&seen.config) else { return Vec::new() };
        let differences = self.network.get().map(|now| now.differences(&settings.network));
        differences.into_iter().flatten().map(str::to_owned).collect()
    }

    /// What the node has, where `settings` say another one.
    fn other_network(&self, settings: &ClusterConfig) -> Option<&Network> {
        self.network.get().filter(|network| **network != settings.network)
    }

    fn read(
        &self,
        fragments: &BTreeMap<String, String>,
    ) -> Result<(ClusterConfig, Config, Vec<Report>), ClusterReport> {
        let (mut settings, mut report) = configuration::read(fragments)?;
        if let Some(network) = self.other_network(&settings) {
            settings.network = network.clone();
            report.warn(RESTART);
        }
        let Options { state, place, pod: _ } = &self.options;
        let config = settings.node(NodeFacts {
            name: place.node.clone(),
            addresses: place.addresses.clone(),
            identity: state.clone(),
            bundles: state.join(BUNDLES),
        });
        Ok((settings, config, report.fragments))
    }

    /// With what only the machine knows. It is asked each time, since the pods' network gets its bridge with the
    /// first pod.
    async fn state(&self, seen: &Observed, settings: &ClusterConfig) -> NodeState {
        let found = routes::surroundings().await;
        let mut known = self.neighbourhood.lock().unwrap_or_else(PoisonError::into_inner);
        match found {
            Ok(found) => known.surroundings = found,
            Err(error) => tracing::warn!(%error, "what is around this machine is not known anew"),
        }
        let mut now = state(&known.held(seen), settings, &self.options.place);
        now.forbidden.extend(&known.surroundings.own);
        now.forbidden.extend(api_server());
        now
    }
}

/// The cluster's address of its API server, which the kubelet tells every pod.
fn api_server() -> Option<IpAddr> {
    std::env::var("KUBERNETES_SERVICE_HOST").ok()?.parse().ok()
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
/// What waiting will not mend: a folder that cannot be written, a task that ended.
pub(super) async fn prepare(
    client: &Client,
    options: Options,
    tasks: &mut Tasks,
) -> Result<Prepared, String> {
    let folder = &options.state;
    files::make_folder(folder).map_err(|e| e.to_string())?;
    close_to_others(folder);
    let last = remembered(client, folder, &options.place.node).await?;
    files::make_folder(&folder.join(BUNDLES)).map_err(|e| e.to_string())?;
    let good = last.config.clone();
    let (out, seen) = watch::channel(Arc::new(last));
    tasks.spawn("watching the cluster", seeing::run(client.clone(), options.place.clone(), out));
    tokio::select! {
        prepared = begin(client, options, seen, good) => prepared,
        ended = tasks.ended() => Err(ended.to_string()),
    }
}

/// Closes the folder to everybody else, where an earlier version left it open: a key lies in it.
fn close_to_others(folder: &Path) {
    let closed = std::fs::metadata(folder).and_then(|found| {
        let open = found.permissions().mode() & 0o077 != 0;
        if open { std::fs::set_permissions(folder, Permissions::from_mode(0o700)) } else { Ok(()) }
    });
    if let Err(error) = closed {
        tracing::warn!(%error, folder = %folder.display(), "cannot be closed to others: chmod 700");
    }
}

/// Waits for all that is needed among what is `seen`; `good` was the configuration when it was last seen.
async fn begin(
    client: &Client,
    options: Options,
    seen: watch::Receiver<Arc<Observed>>,
    good: BTreeMap<String, String>,
) -> Result<Prepared, String> {
    // An API server that is away is not waited for; what it has is, so that a peer is told nothing but that.
    let patience = if good.is_empty() { LISTED } else { ASK };
    if timeout(patience, complete(seen.clone())).await.is_err() {
        tracing::warn!("the API server does not answer; beginning with what was seen last");
    }

    let cluster = Arc::new(Cluster {
        options,
        seen: seen.clone(),
        network: OnceLock::new(),
        neighbourhood: Mutex::default(),
    });
    let (settings, config, _, good) = named(&cluster, seen.clone(), &good).await;
    let network = pinned(&cluster.options, &settings.network)?;
    cluster.network.get_or_init(|| network);
    // A CA may be replaced meanwhile, because it cannot sign.
    let present = async || {
        bundled(seen.clone(), &config).await?;
        Ok(cluster.load().map_or_else(|_| config.clone(), |(config, _)| *config))
    };
    certificate::have(client, present).await?;
    let (settings, config, reports, good) = named(&cluster, seen.clone(), &good).await;
    let bundle = bundled(seen.clone(), &config).await?;
    write_bundles(&config, &settings)?;
    let now = seen.borrow().as_ref().clone();
    let begun = Arc::new(Observed { config: good, bundle: Some(bundle), ..now });
    let state = cluster.state(&begun, &settings).await;
    Ok(Prepared { cluster, begun, settings, config, reports, state })
}

/// The network that the pod began with, kept for its next container.
fn pinned(options: &Options, wanted: &Network) -> Result<Network, String> {
    let file = options.state.join(NETWORK);
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    let of_this_pod = kept.split_once('\n').filter(|(pod, _)| *pod == options.pod);
    if let Some(network) = of_this_pod.and_then(|(_, line)| wanted.from_line(line)) {
        return Ok(network);
    }
    write(&file, &format!("{}\n{}", options.pod, wanted.line()))?;
    Ok(wanted.clone())
}

/// What was seen last of this installation. What another one left here goes, its certificate with it.
async fn remembered(client: &Client, folder: &Path, node: &NodeName) -> Result<Observed, String> {
    let mut last = read_seen(&folder.join(SEEN));
    last.begin(run(), node);
    let Ok(Ok(now)) = timeout(ASK, installation(client)).await else {
        // It was this one, as far as is known.
        return Ok(last);
    };
    if last.installation != now {
        forget(folder)?;
        last = Observed { installation: now, run: last.run, ..Observed::default() };
    }
    Ok(last)
}

/// Removes all that is kept, but for what tells peers of a restart.
pub(super) fn forget(folder: &Path) -> Result<(), String> {
    let gone = |path: PathBuf, result: std::io::Result<()>| match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("cannot remove {}: {error}", path.display()))
        }
        _ => Ok(()),
    };
    let handing = [handover::SOCKET, handover::TURNS, handover::TURNS_LOCK];
    for name in [SEEN, NETWORK, files::NODE_CHAIN, files::NODE_KEY, files::BUNDLE]
        .into_iter()
        .chain(handing)
    {
        let file = folder.join(name);
        let result = std::fs::remove_file(&file);
        gone(file, result)?;
    }
    let bundles = folder.join(BUNDLES);
    let result = std::fs::remove_dir_all(&bundles);
    gone(bundles, result)
}

/// The kernel's name for this run of the machine.
fn run() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
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

/// Waits for a configuration that can be used. While the present one cannot, the one that was last good will
/// do.
async fn named(
    cluster: &Cluster,
    mut seen: watch::Receiver<Arc<Observed>>,
    good: &BTreeMap<String, String>,
) -> (ClusterConfig, Config, Vec<Report>, BTreeMap<String, String>) {
    let mut told = None;
    loop {
        let now = seen.borrow_and_update().clone();
        let wrong = match cluster.read(&now.config) {
            Ok((settings, config, reports)) => {
                return (settings, config, reports, now.config.clone());
            }
            Err(report) => report.to_string(),
        };
        if let Ok((settings, config, mut reports)) = cluster.read(good) {
            let mut report = ClusterReport::default();
            report.warn(format!("the last good one is in force, since this one is wrong: {wrong}"));
            reports.extend(report.fragments);
            return (settings, config, reports, good.clone());
        }
        if told.as_ref() != Some(&wrong) {
            tracing::warn!("waiting for {}: {wrong}", Cluster::NAME);
            told = Some(wrong);
        }
        wait(&mut seen).await;
    }
}

/// Waits for this cluster's own trust bundle, and writes it where the node reads it.
async fn bundled(
    mut seen: watch::Receiver<Arc<Observed>>,
    config: &Config,
) -> Result<String, String> {
    let mut told = false;
    loop {
        let bundle = seen.borrow_and_update().bundle.clone();
        if let Some(bundle) = bundle {
            write(&config.node.identity.join(files::BUNDLE), &bundle)?;
            return Ok(bundle);
        }
        if !told {
            tracing::info!("waiting for the controller to make this cluster's CA");
            told = true;
        }
        wait(&mut seen).await;
    }
}

async fn complete(mut seen: watch::Receiver<Arc<Observed>>) {
    while !seen.borrow_and_update().is_complete {
        wait(&mut seen).await;
    }
}

async fn wait(seen: &mut watch::Receiver<Arc<Observed>>) {
    if seen.changed().await.is_err() {
        // Nothing more will be seen; whoever waits for this is ended from outside.
        std::future::pending::<Infallible>().await;
    }
}

/// Takes what is seen after `last`: the configuration through `tell`, the rest through `out`. A bad
/// configuration is told, too, and the last good one stays.
pub(super) async fn follow(
    cluster: Arc<Cluster>,
    mut last: Arc<Observed>,
    (mut settings, mut config): (ClusterConfig, Config),
    tell: mpsc::Sender<Input>,
    out: watch::Sender<Arc<NodeState>>,
    custody: Custody,
) {
    let mut seen = cluster.seen.clone();
    let mut good = last.config.clone();
    // What there is now may not be what the node began with.
    seen.mark_changed();
    let mut problems: Vec<String> = Vec::new();
    let mut write_at = Some(Instant::now());
    let mut writing = JoinSet::new();
    let mut network = Watch::new().ok();
    loop {
        tokio::select! {
            // A pod's device may have gone, which the API server says later.
            () = neighbourhood::changed(&mut network) => {}
            changed = seen.changed() => if changed.is_err() {
                std::future::pending::<Infallible>().await;
            },
            // One after the other, and beside: the disk may be slow.
            () = sleep_until(write_at.unwrap_or_else(Instant::now)), if write_at.is_some() && writing.is_empty() => {
                write_at = None;
                if custody.succeeded.is_cancelled() {
                    continue;
                }
                let (file, seen) = (cluster.options.state.join(SEEN), last.clone());
                let good = good.clone();
                writing.spawn_blocking(move || remember(&file, &seen, &good));
                continue;
            }
            Some(_) = writing.join_next() => continue,
        }
        let now = seen.borrow_and_update().clone();
        if now.config != last.config {
            let input = match cluster.read(&now.config) {
                Ok((new_settings, new_config, reports)) => {
                    good.clone_from(&now.config);
                    if custody.succeeded.is_cancelled() {
                        // The successor writes them, and another version may name them otherwise.
                        sleep(SUCCESSOR_WRITES).await;
                    } else if let Err(error) = write_bundles(&new_config, &new_settings) {
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
            let written = if custody.succeeded.is_cancelled() {
                sleep(SUCCESSOR_WRITES).await;
                Ok(())
            } else {
                write(&file, bundle)
            };
            match written {
                Ok(()) => drop(tell.send(Input::Files(vec![file])).await),
                Err(error) => tracing::error!("{error}"),
            }
        }
        let state = cluster.state(&now, &settings).await;
        if state.problems != problems {
            for problem in state.problems.iter().filter(|p| !problems.contains(p)) {
                tracing::error!("{problem}");
            }
            problems.clone_from(&state.problems);
        }
        publish(&out, state);
        if !Arc::ptr_eq(&now, &last) {
            write_at = write_at.or_else(|| Some(Instant::now() + WRITE));
        }
        last = now;
    }
}

fn remember(file: &Path, seen: &Observed, good: &BTreeMap<String, String>) {
    let seen = &Observed { config: good.clone(), ..seen.clone() };
    let written = serde_json::to_vec(seen)
        .map_err(|e| e.to_string())
        .and_then(|text| files::write(file, &text, Existing::Replace).map_err(|e| e.to_string()));
    if let Err(error) = written {
        tracing::error!("what was seen cannot be kept for the next start: {error}");
    }
}

/// Other clusters' bundles, as files; and beside each what was good last. Nothing stays of clusters that are linked no
/// more: who is linked anew begins anew.
fn write_bundles(config: &Config, settings: &ClusterConfig) -> Result<(), String> {
    let mut ours = BTreeSet::new();
    for (link, from) in config.links.iter().zip(&settings.links) {
        write(&link.trust_bundle, &from.trust_bundle)?;
        let good = configuration::bundle(from).is_ok_and(|b| b.is_current(UnixTime::now()));
        if let Some(last) = link.last_bundle.as_ref().filter(|_| good) {
            write(last, &from.trust_bundle)?;
        }
        ours.extend(link.last_bundle.iter().chain([&link.trust_bundle]));
    }
    let files = std::fs::read_dir(config.node.identity.join(BUNDLES)).into_iter().flatten();
    for file in files.filter_map(Result::ok).map(|file| file.path()) {
        if file.extension().is_some_and(|e| e == "pem") && !ours.contains(&file) {
            std::fs::remove_file(&file)
                .map_err(|e| format!("cannot remove {}: {e}", file.display()))?;
        }
    }
    Ok(())
}

/// Writes a public file, unless it is so already.
fn write(file: &Path, text: &str) -> Result<(), String> {
    if std::fs::read(file).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(());
    }
    files::write(file, text.as_bytes(), Existing::Replace).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests;
