//! The start of a node on Kubernetes: waits until its cluster has a name and the node a certificate, and logs it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use adit_config::cluster::ClusterConfig;
use adit_config::{ClusterReport, Config, ConfigReport};
use adit_kubernetes::Client;
use adit_kubernetes::node::observed::ObservedCluster;
use adit_kubernetes::node::state::NodeState;
use adit_kubernetes::node::watch as observe;
use adit_pki::files;
use adit_runtime::Tasks;
use tokio::sync::watch;
use tokio::time::timeout;

use super::cache::{self, API_SERVER_TIMEOUT};
use super::certificate;
use super::source::BUNDLES_FOLDER;
use super::source::{KubernetesNodeOptions, KubernetesSource};

/// The first list of everything may take this long before a node starts with what its folder has; a node whose folder
/// has something waits for [`API_SERVER_TIMEOUT`].
const FIRST_LIST_TIMEOUT: Duration = Duration::from_secs(10);

/// A node that can start.
pub(in crate::node) struct PreparedNode {
    pub(in crate::node) source: Arc<KubernetesSource>,
    /// The cluster as the node starts with it; its configuration is good.
    pub(in crate::node) observed: Arc<ObservedCluster>,
    pub(in crate::node) settings: ClusterConfig,
    pub(in crate::node) config: Config,
    pub(in crate::node) reports: Vec<ConfigReport>,
    /// The first state that Kubernetes adds.
    pub(in crate::node) state: NodeState,
}

/// Waits until a node can start: its cluster has a name, and it a certificate. One of `tasks` keeps what is observed
/// up to date.
///
/// # Errors
/// Whatever waiting will not mend: a folder that cannot be written, a task that ended.
pub(in crate::node) async fn prepare(
    client: &Client,
    options: KubernetesNodeOptions,
    tasks: &mut Tasks,
) -> Result<PreparedNode, String> {
    let folder = &options.state_folder;
    files::make_folder(folder).map_err(|e| e.to_string())?;
    cache::restrict_permissions(folder);
    let last = cache::load_cache(client, folder, &options.node.node).await?;
    files::make_folder(&folder.join(BUNDLES_FOLDER)).map_err(|e| e.to_string())?;
    let last_good = last.config.clone();
    let (out, observed) = watch::channel(Arc::new(last));
    tasks.spawn("watching the cluster", observe::run(client.clone(), options.node.clone(), out));
    tokio::select! {
        prepared = wait_until_prepared(client, options, observed, last_good) => prepared,
        ended = tasks.ended() => Err(ended.to_string()),
    }
}

/// Waits for all that a node needs among what is `observed`; `last_good` is the configuration that it ran on last.
async fn wait_until_prepared(
    client: &Client,
    options: KubernetesNodeOptions,
    observed: watch::Receiver<Arc<ObservedCluster>>,
    last_good: BTreeMap<String, String>,
) -> Result<PreparedNode, String> {
    // An API server that is away is not waited for; what it has is, so that a peer is told nothing but that.
    let patience = if last_good.is_empty() { FIRST_LIST_TIMEOUT } else { API_SERVER_TIMEOUT };
    if timeout(patience, wait_until_complete(observed.clone())).await.is_err() {
        tracing::warn!("the API server does not answer; beginning with what was seen last");
    }

    let source = Arc::new(KubernetesSource::new(options, observed.clone()));
    let (settings, config, _, last_good) =
        wait_for_config(&source, observed.clone(), &last_good).await;
    let network = cache::pin_network(&source.options, &settings.network)?;
    source.network.get_or_init(|| network);
    // A CA may be replaced meanwhile, because it cannot sign.
    let present = async || {
        wait_for_trust_bundle(observed.clone(), &config).await?;
        Ok(source.load().map_or_else(|_| config.clone(), |(config, _)| *config))
    };
    certificate::ensure_certificate(client, present).await?;
    let (settings, config, reports, last_good) =
        wait_for_config(&source, observed.clone(), &last_good).await;
    let bundle = wait_for_trust_bundle(observed.clone(), &config).await?;
    cache::write_bundles(&config, &settings)?;
    let now = observed.borrow().as_ref().clone();
    let observed = Arc::new(ObservedCluster { config: last_good, bundle: Some(bundle), ..now });
    let state = source.node_state(&observed, &settings).await;
    Ok(PreparedNode { source, observed, settings, config, reports, state })
}

/// Waits for a configuration that can be used. While the present one cannot, the one that was last good will
/// do.
async fn wait_for_config(
    source: &KubernetesSource,
    mut observed: watch::Receiver<Arc<ObservedCluster>>,
    last_good: &BTreeMap<String, String>,
) -> (ClusterConfig, Config, Vec<ConfigReport>, BTreeMap<String, String>) {
    let mut logged = None;
    // Notes the trust of its links, for those whose bundle is no good now.
    source.read(last_good).ok();
    loop {
        let now = observed.borrow_and_update().clone();
        let wrong = match source.read(&now.config) {
            Ok((settings, config, reports)) => {
                let is_good = source.is_wholly_good(&now.config) || last_good.is_empty();
                let good = if is_good { &now.config } else { last_good };
                return (settings, config, reports, good.clone());
            }
            Err(report) => report.to_string(),
        };
        if let Ok((settings, config, mut reports)) = source.read(last_good) {
            let mut report = ClusterReport::default();
            report.add_warning(format!(
                "the last good one is in force, since this one is wrong: {wrong}"
            ));
            reports.extend(report.fragments);
            return (settings, config, reports, last_good.clone());
        }
        if logged.as_ref() != Some(&wrong) {
            tracing::warn!("waiting for {}: {wrong}", KubernetesSource::CONFIG_NAME);
            logged = Some(wrong);
        }
        wait_for_change(&mut observed).await;
    }
}

/// Waits for this cluster's own trust bundle, and writes it where the node reads it.
async fn wait_for_trust_bundle(
    mut observed: watch::Receiver<Arc<ObservedCluster>>,
    config: &Config,
) -> Result<String, String> {
    let mut logged = false;
    loop {
        let bundle = observed.borrow_and_update().bundle.clone();
        if let Some(bundle) = bundle {
            cache::write_if_changed(&config.node.identity.join(files::BUNDLE), &bundle)?;
            return Ok(bundle);
        }
        if !logged {
            tracing::info!("waiting for the controller to make this cluster's CA");
            logged = true;
        }
        wait_for_change(&mut observed).await;
    }
}

async fn wait_until_complete(mut observed: watch::Receiver<Arc<ObservedCluster>>) {
    while !observed.borrow_and_update().is_complete {
        wait_for_change(&mut observed).await;
    }
}

async fn wait_for_change(observed: &mut watch::Receiver<Arc<ObservedCluster>>) {
    if observed.changed().await.is_err() {
        // Nothing more will be observed; whoever waits for this is ended from outside.
        std::future::pending::<Infallible>().await;
    }
}
