//! A node's part in its cluster, without an API server.

use super::super::config_source::ConfigSource;
use super::*;

fn seen(text: &str) -> Arc<ObservedCluster> {
    let config = [("cluster.yaml".to_owned(), text.to_owned())].into();
    Arc::new(ObservedCluster { config, ..ObservedCluster::default() })
}

fn cluster(folder: &Path, text: &str) -> (watch::Sender<Arc<ObservedCluster>>, KubernetesSource) {
    let (tell, seen) = watch::channel(seen(text));
    let place = NodeLocation {
        node: "n1".parse().unwrap(),
        addresses: vec!["172.18.0.2".parse().unwrap()],
    };
    let options = KubernetesNodeOptions {
        state_folder: folder.to_owned(),
        node: place,
        pod_uid: "one".into(),
    };
    (
        tell,
        KubernetesSource {
            options,
            observed: seen,
            network: OnceLock::new(),
            pod_addresses: Mutex::default(),
        },
    )
}

#[test]
fn that_a_network_waits_for_a_restart_is_said_as_long_as_it_does() {
    let (tell, cluster) = cluster(Path::new("/var/lib/adit"), "cluster: edge\n");
    cluster.network.get_or_init(NetworkConfig::default);
    let origin = ConfigSource::Kubernetes(Arc::new(cluster));
    assert!(origin.describe().needs_restart.is_empty());
    for more in ["", "log: {level: debug}\n"] {
        tell.send_replace(seen(&format!("cluster: edge\nnetwork: {{mode: nodeAddress}}\n{more}")));
        assert!(origin.load().is_ok());
        assert_eq!(origin.describe().needs_restart, ["network.mode"]);
    }
    tell.send_replace(seen("cluster: edge\nnetwork: {metrics: \"0.0.0.0:7844\"}\n"));
    assert_eq!(origin.describe().needs_restart, ["network.metrics"]);
    tell.send_replace(seen("cluster: edge\n"));
    assert!(origin.describe().needs_restart.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_was_seen_last_is_kept_with_the_last_good_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let (tell, cluster) = cluster(folder.path(), "cluster: edge\n");
    let begun = tell.borrow().clone();
    let (settings, config, _) = cluster.read(&begun.config).unwrap();
    let (inputs, _inputs) = mpsc::channel(10);
    let (out, _state) = watch::channel(Arc::new(cluster.node_state(&begun, &settings).await));
    let known = (settings, config);
    let mut tasks = JoinSet::new();
    tasks.spawn(follow(Arc::new(cluster), begun, known, inputs, out, HandoverState::default()));
    let good = "cluster: edge\nlog: {level: debug}\n";
    for (run, text) in [("one", good), ("two", "cluster: [\n")] {
        tell.send_replace(Arc::new(ObservedCluster {
            run: run.into(),
            ..seen(text).as_ref().clone()
        }));
        sleep(3 * CACHE_WRITE_DELAY).await;
        let kept = read_cache(&folder.path().join(CACHE_FILE));
        assert_eq!((&*kept.run, &*kept.config["cluster.yaml"]), (run, good));
    }
}

#[tokio::test]
async fn the_machines_own_addresses_are_nobodys_backend() {
    let (tell, cluster) = cluster(Path::new("/var/lib/adit"), "cluster: edge\n");
    let seen = tell.borrow().clone();
    let (settings, ..) = cluster.read(&seen.config).unwrap();
    let state = cluster.node_state(&seen, &settings).await;
    assert!(state.forbidden.contains(&"127.0.0.1".parse().unwrap()), "{:?}", state.forbidden);
}

#[test]
fn the_containers_of_a_pod_have_one_network() {
    let folder = tempfile::tempdir().unwrap();
    let (_tell, mut cluster) = cluster(folder.path(), "cluster: edge\n");
    let (first, next) =
        (NetworkConfig::default(), NetworkConfig { port: 9, ..NetworkConfig::default() });
    for wanted in [&first, &next] {
        assert_eq!(pin_network(&cluster.options, wanted).unwrap(), first, "though it was changed");
    }
    cluster.options.pod_uid = "another".into();
    assert_eq!(pin_network(&cluster.options, &next).unwrap(), next);
    assert_eq!(pin_network(&cluster.options, &first).unwrap(), next);
    clear_state(folder.path()).unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// A ConfigMap in which one bundle of two is none: the other one counts, what was good is kept, and it is said.
#[test]
fn one_bad_bundle_of_a_config_map_keeps_nothing_else_from_being_taken() {
    let folder = tempfile::tempdir().unwrap();
    files::make_folder(&folder.path().join(BUNDLES_FOLDER)).unwrap();
    let (_tell, cluster) = cluster(folder.path(), "cluster: edge\n");
    let pem = |name: &str| {
        let file = folder.path().join("fresh");
        crate::process::testing::TestCa::new(name).bundle(&file);
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
        let (settings, config, reports) = cluster.read(&fragments).unwrap();
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
    // Who is linked no more is forgotten.
    take(&[("shop", &next)]);
    assert!(read("bank.pem").is_err() && read("bank.example.last.pem").is_err());
}
