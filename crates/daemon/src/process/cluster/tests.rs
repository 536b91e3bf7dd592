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
    let options = Options { state: folder.to_owned(), place };
    (tell, Cluster { options, seen, network: OnceLock::new() })
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
