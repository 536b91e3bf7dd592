//! A node's part in its cluster, without an API server.

use super::super::origin::Origin;
use super::*;

fn seen(text: &str) -> Arc<Observed> {
    let config = [("cluster.yaml".to_owned(), text.to_owned())].into();
    Arc::new(Observed { config, ..Observed::default() })
}

fn cluster(folder: &Path, text: &str) -> (watch::Sender<Arc<Observed>>, Cluster) {
    let (tell, seen) = watch::channel(seen(text));
    let place =
        Place { node: "n1".parse().unwrap(), addresses: vec!["172.18.0.2".parse().unwrap()] };
    let options = Options { state: folder.to_owned(), place, pod: "one".into() };
    (tell, Cluster { options, seen, network: OnceLock::new(), neighbourhood: Mutex::default() })
}

#[test]
fn that_a_network_waits_for_a_restart_is_said_as_long_as_it_does() {
    let (tell, cluster) = cluster(Path::new("/var/lib/adit"), "cluster: edge\n");
    cluster.network.get_or_init(Network::default);
    let origin = Origin::Cluster(Arc::new(cluster));
    assert!(origin.describe().needs_restart.is_empty());
    for more in ["", "log: {level: debug}\n"] {
        tell.send_replace(seen(&format!("cluster: edge\nnetwork: {{mode: nodeAddress}}\n{more}")));
        assert!(origin.load().is_ok());
        assert_eq!(origin.describe().needs_restart, ["network"]);
    }
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
    let (out, _state) = watch::channel(Arc::new(cluster.state(&begun, &settings).await));
    let known = (settings, config);
    let mut tasks = JoinSet::new();
    tasks.spawn(follow(Arc::new(cluster), begun, known, inputs, out));
    let good = "cluster: edge\nlog: {level: debug}\n";
    for (run, text) in [("one", good), ("two", "cluster: [\n")] {
        tell.send_replace(Arc::new(Observed { run: run.into(), ..seen(text).as_ref().clone() }));
        tokio::time::sleep(3 * WRITE).await;
        let kept = read_seen(&folder.path().join(SEEN));
        assert_eq!((&*kept.run, &*kept.config["cluster.yaml"]), (run, good));
    }
}

#[tokio::test]
async fn the_machines_own_addresses_are_nobodys_backend() {
    let (tell, cluster) = cluster(Path::new("/var/lib/adit"), "cluster: edge\n");
    let seen = tell.borrow().clone();
    let (settings, ..) = cluster.read(&seen.config).unwrap();
    let state = cluster.state(&seen, &settings).await;
    assert!(state.forbidden.contains(&"127.0.0.1".parse().unwrap()), "{:?}", state.forbidden);
}

#[test]
fn the_containers_of_a_pod_have_one_network() {
    let folder = tempfile::tempdir().unwrap();
    let (_tell, mut cluster) = cluster(folder.path(), "cluster: edge\n");
    let (first, next) = (Network::default(), Network { port: 9, ..Network::default() });
    for wanted in [&first, &next] {
        assert_eq!(pinned(&cluster.options, wanted).unwrap(), first, "though it was changed");
    }
    cluster.options.pod = "another".into();
    assert_eq!(pinned(&cluster.options, &next).unwrap(), next);
    assert_eq!(pinned(&cluster.options, &first).unwrap(), next);
    forget(folder.path()).unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
