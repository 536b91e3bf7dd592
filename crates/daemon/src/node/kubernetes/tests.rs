//! A node's part in its cluster, without an API server.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use adit_config::ConfigReport;
use adit_config::cluster::NetworkConfig;
use adit_kubernetes::node::NodeLocation;
use adit_kubernetes::node::observed::ObservedCluster;
use adit_pki::files;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::cache::{CACHE_FILE, clear_state, pin_network, read_cache, write_bundles};
use super::follow::{CACHE_WRITE_DELAY, ClusterFollower};
use super::source::BUNDLES_FOLDER;
use super::{KubernetesNodeOptions, KubernetesSource};
use crate::node::config_source::ConfigSource;
use crate::node::handover::HandoverState;

fn observed(text: &str) -> Arc<ObservedCluster> {
    let config = [("cluster.yaml".to_owned(), text.to_owned())].into();
    Arc::new(ObservedCluster { config, ..ObservedCluster::default() })
}

fn source(folder: &Path, text: &str) -> (watch::Sender<Arc<ObservedCluster>>, KubernetesSource) {
    let (tell, observed) = watch::channel(observed(text));
    let addresses = vec!["172.18.0.2".parse().unwrap()];
    let options = KubernetesNodeOptions {
        state_folder: folder.to_owned(),
        node: NodeLocation { node: "n1".parse().unwrap(), addresses },
        pod_uid: "one".into(),
    };
    (tell, KubernetesSource::new(options, observed))
}

#[test]
fn a_config_map_is_parsed_once_a_change_whoever_asks_what_it_says() {
    let (tell, source) = source(Path::new("/var/lib/adit"), "cluster: edge\n");
    let source = Arc::new(source);
    let config_source = ConfigSource::Kubernetes(source.clone());
    let mut last = None;
    for text in ["cluster: edge\n", "cluster: [\n", "cluster: edge\nlog: {level: debug}\n"] {
        tell.send_replace(observed(text));
        let fragments = tell.borrow().config.clone();
        let parsed = source.parsed(&fragments);
        // The follower, the supervisor with the status, and the renewal of the certificate.
        assert_eq!(source.read(&fragments).is_ok(), config_source.load().is_ok());
        config_source.describe();
        assert!(source.load().is_ok() || text.contains('['));
        assert!(Arc::ptr_eq(&parsed, &source.parsed(&fragments)), "{text}");
        assert!(last.is_none_or(|last| !Arc::ptr_eq(&parsed, &last)), "{text}");
        last = Some(parsed);
    }
}

#[test]
fn a_network_that_waits_for_a_restart_is_reported_as_long_as_it_does() {
    let (tell, source) = source(Path::new("/var/lib/adit"), "cluster: edge\n");
    source.network.get_or_init(NetworkConfig::default);
    let config_source = ConfigSource::Kubernetes(Arc::new(source));
    assert!(config_source.describe().needs_restart.is_empty());
    for more in ["", "log: {level: debug}\n"] {
        tell.send_replace(observed(&format!(
            "cluster: edge\nnetwork: {{mode: nodeAddress}}\n{more}"
        )));
        assert!(config_source.load().is_ok());
        assert_eq!(config_source.describe().needs_restart, ["network.mode"]);
    }
    tell.send_replace(observed("cluster: edge\nnetwork: {metrics: \"0.0.0.0:7844\"}\n"));
    assert_eq!(config_source.describe().needs_restart, ["network.metrics"]);
    tell.send_replace(observed("cluster: edge\n"));
    assert!(config_source.describe().needs_restart.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_cluster_as_observed_last_is_kept_with_the_last_good_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let (tell, source) = source(folder.path(), "cluster: edge\n");
    let last = tell.borrow().clone();
    let (settings, config, _) = source.read(&last.config).unwrap();
    let (updates, _updates) = mpsc::channel(10);
    let (state, _state) = watch::channel(Arc::new(source.node_state(&last, &settings).await));
    let (source, handover) = (Arc::new(source), HandoverState::default());
    let follower = ClusterFollower { source, last, settings, config, updates, state, handover };
    let mut tasks = JoinSet::new();
    tasks.spawn(follower.run());
    let good = "cluster: edge\nlog: {level: debug}\n";
    for (run, text) in [("one", good), ("two", "cluster: [\n")] {
        tell.send_replace(Arc::new(ObservedCluster {
            boot_id: run.into(),
            ..observed(text).as_ref().clone()
        }));
        sleep(3 * CACHE_WRITE_DELAY).await;
        let kept = read_cache(&folder.path().join(CACHE_FILE));
        assert_eq!((&*kept.boot_id, &*kept.config["cluster.yaml"]), (run, good));
    }
}

#[tokio::test]
async fn the_machines_own_addresses_are_never_backends() {
    let (tell, source) = source(Path::new("/var/lib/adit"), "cluster: edge\n");
    let observed = tell.borrow().clone();
    let (settings, ..) = source.read(&observed.config).unwrap();
    let state = source.node_state(&observed, &settings).await;
    assert!(state.forbidden.contains(&"127.0.0.1".parse().unwrap()), "{:?}", state.forbidden);
}

#[test]
fn the_containers_of_a_pod_have_one_network() {
    let folder = tempfile::tempdir().unwrap();
    let (_tell, mut source) = source(folder.path(), "cluster: edge\n");
    let (first, next) =
        (NetworkConfig::default(), NetworkConfig { port: 9, ..NetworkConfig::default() });
    for wanted in [&first, &next] {
        assert_eq!(pin_network(&source.options, wanted).unwrap(), first, "though it was changed");
    }
    source.options.pod_uid = "another".into();
    assert_eq!(pin_network(&source.options, &next).unwrap(), next);
    assert_eq!(pin_network(&source.options, &first).unwrap(), next);
    clear_state(folder.path()).unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// A slip in `trustDomain` must not end what the link carries: its trust stays as it was, and it is said where.
#[test]
fn a_trust_domain_that_is_not_its_bundles_leaves_the_trust_of_its_link_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let (_tell, source) = source(folder.path(), "cluster: edge\n");
    let file = folder.path().join("fresh");
    crate::testing::TestCa::new("bank").bundle(&file);
    let pem = std::fs::read_to_string(file).unwrap().trim_end().replace('\n', "\n      ");
    let fragments = |domain: &str| -> BTreeMap<String, String> {
        let links = format!(
            "links:\n- cluster: bank\n  trustDomain: {domain}\n  trustBundle: |\n      {pem}\n"
        );
        [
            ("cluster.yaml".to_owned(), "cluster: edge\n".to_owned()),
            ("link-bank.yaml".to_owned(), links),
        ]
        .into()
    };
    let (good, slip) = (fragments("bank.example"), fragments("bank.exmple"));
    assert!(source.is_wholly_good(&good) && !source.is_wholly_good(&slip));
    source.read(&good).unwrap();
    let (settings, config, reports) = source.read(&slip).unwrap();
    assert_eq!(config.links[0].trust_domain.as_str(), "bank.example");
    assert!(adit_kubernetes::config_map::link_bundle(&settings.links[0]).is_ok());
    let said = reports.iter().map(ConfigReport::to_string).collect::<String>();
    assert!(said.contains("link-bank.yaml: warning: trust bundle of link bank: "), "{said}");
}

/// A ConfigMap in which one bundle of two is none: the other one counts, what was good is kept, and it is said.
#[test]
fn one_bad_bundle_of_a_config_map_keeps_nothing_else_from_being_taken() {
    let folder = tempfile::tempdir().unwrap();
    files::make_folder(&folder.path().join(BUNDLES_FOLDER)).unwrap();
    let (_tell, source) = source(folder.path(), "cluster: edge\n");
    let pem = |name: &str| {
        let file = folder.path().join("fresh");
        crate::testing::TestCa::new(name).bundle(&file);
        std::fs::read_to_string(file).unwrap()
    };
    let take = |links: &[(&str, &str)]| {
        let link = |(name, pem): &(&str, &str)| {
            let pem = pem.trim_end().replace('\n', "\n      ");
            format!(
                "- cluster: {name}\n  trustDomain: {name}.example\n  trustBundle: |\n      {pem}\n"
            )
        };
        let links: String = links.iter().map(link).collect();
        let fragments = [("c.yaml".to_owned(), format!("cluster: edge\nlinks:\n{links}"))].into();
        let (settings, config, reports) = source.read(&fragments).unwrap();
        write_bundles(&config, &settings).unwrap();
        (config, reports.iter().map(ConfigReport::to_string).collect::<String>())
    };
    let read = |name: &str| std::fs::read_to_string(folder.path().join(BUNDLES_FOLDER).join(name));
    let (bank, shop, next) = (pem("bank"), pem("shop"), pem("shop"));
    let (config, said) = take(&[("bank", &bank), ("shop", &shop)]);
    assert_eq!((config.links.len(), said.as_str()), (2, ""));
    let (config, said) = take(&[("bank", "half a certi"), ("shop", &next)]);
    assert!(said.contains("trust bundle of link bank"), "{said}");
    assert_eq!(config.links.len(), 2);
    assert_eq!(read("bank.example.last.pem").unwrap(), bank);
    assert_eq!(read("shop.pem").unwrap(), next);
    assert_eq!(read("shop.example.last.pem").unwrap(), next);
    // A cluster that is linked no more is forgotten.
    take(&[("shop", &next)]);
    assert!(read("bank.pem").is_err() && read("bank.example.last.pem").is_err());
}
