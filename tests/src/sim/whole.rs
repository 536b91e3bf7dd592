//! A whole node, as the process composes it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use adit_config::Config;
use adit_core::code::Code;
use adit_core::snapshot::Snapshot;
use adit_daemon::node::data_plane::NodeDataPlane;
use adit_daemon::node::snapshot::{self, SnapshotBuilder, SnapshotSources};
use adit_daemon::process::tuning::tuning;
use adit_dataplane::flow::Direction;
use adit_transport::links::LinkSettings;
use adit_transport::{Endpoints, UdpNetwork, Worker};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::net::pipe::Pipes;
use crate::sites::local;

/// A node with its links and data path.
#[derive(Debug)]
pub struct Whole {
    /// The node's data path, as the process holds it.
    pub node: NodeDataPlane,
    /// The snapshot that it believes.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    base: watch::Sender<SnapshotBuilder>,
    listen: Vec<SocketAddr>,
}

fn read(text: &str) -> Config {
    let (config, _) = adit_config::parse(text.as_bytes(), Path::new("node.yaml"))
        .unwrap_or_else(|report| panic!("{report}\n{text}"));
    config
}

impl Whole {
    /// Starts a node on the caller's runtime, where all of it runs. `boot` is its boot ID's last byte; its
    /// draws follow from that and `seed`.
    ///
    /// # Panics
    /// Where `config` is no configuration, or an address cannot be had.
    #[must_use]
    pub fn start(
        net: Arc<dyn UdpNetwork>,
        pods: &Pipes,
        identity: &crate::identity::TestNode,
        config: &str,
        boot: u8,
        seed: u64,
    ) -> Self {
        let config = read(config);
        let listen = config.node.listen.clone();
        let (workers, tuning) = (vec![Worker::current()], tuning(&config.limits));
        let tls = identity.tls();
        let endpoints = Endpoints::bind(net, workers, &listen, &identity.secret, tls, tuning);
        let base = SnapshotBuilder::from_config(&config, &listen);
        let first = Arc::new(base.snapshot(&Default::default(), &Default::default()));
        let (base, bases) = watch::channel(base);
        let (publish, snapshot) = watch::channel(first);
        let local = local(boot, seed, LinkSettings::default());
        let endpoints = endpoints.expect("endpoints");
        let (node, work) =
            NodeDataPlane::start(local, endpoints, snapshot.clone(), &config.limits, pods.clone());
        let sources = SnapshotSources::new(bases, None, node.views(), node.backend_states());
        let tasks = TaskTracker::new();
        tasks.spawn(work.run());
        node.begin();
        tasks.spawn(snapshot::run(sources, publish));
        Self { node, snapshot, base, listen }
    }

    /// Takes another configuration, as after a reload.
    ///
    /// # Panics
    /// Where `config` is no configuration.
    pub fn configure(&self, config: &str) {
        self.believe(config, |_| {});
    }

    /// Takes a configuration with something in it that no file says, but another source might.
    ///
    /// # Panics
    /// Where `config` is no configuration.
    pub fn believe(&self, config: &str, change: impl FnOnce(&mut Config)) {
        let mut config = read(config);
        change(&mut config);
        self.base.send_replace(SnapshotBuilder::from_config(&config, &self.listen));
    }

    /// The number of streams that ended with this code.
    #[must_use]
    pub fn ended(&self, direction: Direction, code: Code) -> u64 {
        self.node.flows.ended().get(&(direction, code)).copied().unwrap_or_default()
    }

    /// The newest failure of a stream with a known target.
    #[must_use]
    pub fn failure(&self) -> Option<(Code, String)> {
        self.node.flows.groups().into_values().find_map(|group| group.last_failure)
    }
}
