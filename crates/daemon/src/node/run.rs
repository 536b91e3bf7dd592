//! Both ways to run a node: from a file, and from the cluster around it.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use adit_config::ConfigChange;
use adit_config::cluster::NetworkMode;
use adit_dataplane::tcp::os::OsTcpNetwork;
use adit_kubernetes::Client;
use adit_kubernetes::node::ReaderPods;
use adit_pki::UnixTime;
use adit_runtime::Tasks;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

use super::config_source::ConfigSource;
use super::handover::HandoverState;
use super::kubernetes::{
    self, ClusterFollower, KubernetesNodeOptions, PreparedNode, certificate, local_range,
    state_folder,
};
use super::start::{StartContext, start};
use super::takeover::ProcessChain;
use crate::process::log::{line_format, log_fatal_error, set_log, start_log};
use crate::process::setup::{cannot, runtime};
use crate::process::signals::{ProcessSignals, end_requested};
use crate::process::{ProcessExit, StartError};
use crate::readiness::Readiness;
use crate::telemetry::ProcessLog;

/// Changes of files that may wait for the supervisor: each is a whole configuration.
const MAX_PENDING_CHANGES: usize = 4;

/// Runs the node that `file` describes until it has drained.
///
/// Takes over the process: its signals, its panic hook, its log and its metrics. With `take_over` also the sockets
/// of the node that runs with the same identity folder, if there is one, and hands them on to the next.
///
/// # Errors
/// All that keeps it from starting; it stands in the log already.
pub fn run(file: &Path, take_over: bool) -> Result<ProcessExit, StartError> {
    let log = start_log()?;
    let ended = run_file(file, take_over, &log);
    log_fatal_error(&log, "node", ended)
}

/// Runs the node that the cluster around it describes until it has drained. Waits for a name and a
/// certificate first; a signal ends that.
///
/// Takes over the process as [`run`] does.
///
/// # Errors
/// All that keeps it from starting and that waiting will not mend; it stands in the log already.
pub fn run_in_cluster(options: KubernetesNodeOptions) -> Result<ProcessExit, StartError> {
    let log = start_log()?;
    let ended = run_pod(options, &log);
    log_fatal_error(&log, "node", ended)
}

fn run_file(file: &Path, take_over: bool, log: &ProcessLog) -> Result<ProcessExit, StartError> {
    let started = Instant::now();
    adit_host::capabilities::raise().map_err(cannot("take capabilities into use"))?;
    // The file is read again at every reload, and what it refers to is found from where it is.
    let file = &std::path::absolute(file).map_err(cannot("find the current folder"))?;
    let (updates, config_updates) = mpsc::channel(MAX_PENDING_CHANGES);
    // The receiver is gone only when the process ends.
    let on_change = move |change: ConfigChange| drop(updates.blocking_send(change.into()));
    let (config, report, watching) = adit_config::watch(file, on_change).map_err(|report| {
        log.set_format(line_format(adit_config::log_format(file)));
        StartError::Config(vec![report])
    })?;
    set_log(log, &config.log)?;
    let runtime = runtime()?;
    let process = format!("{}-{}", std::process::id(), UnixTime::now().as_secs());
    let join = || ProcessChain::join(&config.node.identity, &process, false);
    let chain = take_over.then(join).transpose()?;
    let context = StartContext {
        started,
        config_source: ConfigSource::File(file.clone()),
        config,
        reports: vec![report],
        config_updates,
        kubernetes_state: None,
        readiness: Readiness::default(),
        net: OsTcpNetwork::default(),
        chain,
        handover: HandoverState::default(),
        reader_pods: None,
    };
    let ended = start(&runtime, context, &mut Tasks::default(), log);
    drop(watching);
    ended
}

fn run_pod(options: KubernetesNodeOptions, log: &ProcessLog) -> Result<ProcessExit, StartError> {
    let started = Instant::now();
    // Before the first thread but that of the log, because threads inherit them.
    adit_host::capabilities::raise().map_err(cannot("take capabilities into use"))?;
    let runtime = runtime()?;
    let (folder, pod) = (options.state_folder.clone(), options.pod_uid.clone());
    let handover = HandoverState::default();
    // They end with the node, and it with the first of them.
    let mut tasks = Tasks::default();
    let _context = runtime.enter();
    let client = adit_kubernetes::client::in_cluster().map_err(|e| e.to_string())?;
    let Some(prepared) = prepare(&runtime, &client, options, &mut tasks)? else {
        return Ok(ProcessExit::Drained { reset: 0 });
    };
    set_log(log, &prepared.config.log)?;
    let chain = ProcessChain::join(&folder, &pod, true)?;
    let readiness = Readiness::default();
    let (network, node) = (&prepared.settings.network, &prepared.config.node);
    let range = local_range::install(network, node, &readiness, &handover, &mut tasks);
    runtime.block_on(range)?;
    let context =
        spawn_cluster_tasks(started, prepared, chain, readiness, &handover, &client, &mut tasks);
    let ended = start(&runtime, context, &mut tasks, log);
    runtime.block_on(tasks.shutdown());
    if ended.is_ok() && !handover.taken_over.is_cancelled() {
        runtime.block_on(local_range::remove_if_uninstalled(&client, &folder));
    }
    ended
}

/// Waits until the node can start; `None` if a signal asks it to end before.
fn prepare(
    runtime: &Runtime,
    client: &Client,
    options: KubernetesNodeOptions,
    tasks: &mut Tasks,
) -> Result<Option<PreparedNode>, StartError> {
    let folder = options.state_folder.clone();
    runtime.block_on(async {
        let mut signals = ProcessSignals::catch().map_err(cannot("catch signals"))?;
        tokio::select! {
            prepared = kubernetes::prepare(client, options, tasks) => Ok(prepared.map(Some)?),
            signal = end_requested(&mut signals) => {
                tracing::info!(signal, "asked to end before the node could start");
                local_range::remove_if_uninstalled(client, &folder).await;
                Ok(None)
            }
        }
    })
}

/// Has `tasks` renew the certificate, follow the cluster, and ask whether Adit is being uninstalled.
fn spawn_cluster_tasks(
    started: Instant,
    prepared: PreparedNode,
    chain: ProcessChain,
    readiness: Readiness,
    handover: &HandoverState,
    client: &Client,
    tasks: &mut Tasks,
) -> StartContext {
    let PreparedNode { source, observed, settings, config, reports, state } = prepared;
    let (updates, config_updates) = mpsc::channel(MAX_PENDING_CHANGES);
    let (state, kubernetes_state) = watch::channel(Arc::new(state));
    let net = OsTcpNetwork { local_range: settings.network.mode == NetworkMode::LocalRange };
    // A trust domain that was changed together with its CA: the old one's certificates are no more.
    let current = source.clone();
    let present = move || current.load().ok().map(|(config, _)| *config);
    let renewal = certificate::renew(client.clone(), present, config.clone(), updates.clone());
    tasks.spawn("renewing the certificate", handover.clone().run_until_taken_over(renewal));
    // The successor checks the same one.
    let folder = state_folder::watch_folder(config.node.identity.clone(), updates.clone());
    tasks.spawn("checking the disk", handover.clone().run_until_taken_over(folder));
    let removal = local_range::check_removal(client.clone(), handover.clone());
    tasks.spawn("asking whether Adit leaves", removal);
    let follower = ClusterFollower {
        source: source.clone(),
        last: observed,
        settings,
        config: config.clone(),
        updates,
        state,
        handover: handover.clone(),
    };
    tasks.spawn("following the cluster", follower.run());
    StartContext {
        started,
        config_source: ConfigSource::Kubernetes(source),
        config,
        reports,
        config_updates,
        kubernetes_state: Some(kubernetes_state),
        readiness,
        net,
        chain: Some(chain),
        handover: handover.clone(),
        reader_pods: Some(ReaderPods::new(client.clone())),
    }
}
