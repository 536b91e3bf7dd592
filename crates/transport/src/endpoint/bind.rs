//! Making a node's listening endpoints: one per worker and address.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use adit_core::snapshot::Class;
use adit_runtime::Mutex;
use quinn::{EndpointConfig, ServerConfig, TimeSource, TokenMemoryCache};
use tokio_util::task::TaskTracker;

use super::accept::ServerConfigs;
use super::{Endpoints, EndpointsInner, UdpInheritance, Worker, listen};
use crate::cid::{CidGenerator, CidRoute};
use crate::join::InvitationBook;
use crate::network::{SocketOptions, UdpNetwork};
use crate::secret::{NodeSecret, SecretKeys};
use crate::socket::{ForwardCounters, Predecessors};
use crate::tls::Tls;
use crate::tuning::{MtuBounds, Tuning};

/// The reason why a node's endpoints cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address cannot be had.
    #[error("cannot listen on UDP {address}: {error}")]
    Listen {
        /// Which one.
        address: SocketAddr,
        /// The error.
        error: io::Error,
    },
    /// Workers are not numbered 0, 1, 2, … or there is none.
    #[error("workers must be numbered from 0 without a gap, and there must be one")]
    Workers,
    /// The sockets that another process handed over cannot be used.
    #[error("the UDP sockets that the process before handed over cannot be used: {0}")]
    Inherited(io::Error),
}

/// Bytes that are kept of one handshake that waits: a first flight is two or three datagrams.
const WAITING_BYTES_PER_HANDSHAKE: u64 = 64 << 10;

impl Endpoints {
    /// Binds every address in `listen` on every worker. No address at all makes a node that only dials.
    ///
    /// If a node has several workers its sockets share their ports, and so could another process by mistake;
    /// therefore each address is first bound alone, for a moment.
    ///
    /// # Errors
    /// [`BindError`], see there. Nothing stays bound.
    pub fn bind(
        net: Arc<dyn UdpNetwork>,
        workers: Vec<Worker>,
        listen: &[SocketAddr],
        secret: &NodeSecret,
        tls: Tls,
        tuning: Tuning,
    ) -> Result<Self, BindError> {
        Self::bind_after(net, workers, listen, secret, tls, tuning, None)
    }

    /// Binds after another process of this node, whose sockets are taken over by their addresses; further
    /// ones are bound. Endpoints with an inheritance read nothing before [`Endpoints::resume_reading`], so
    /// that the giver can stop first.
    ///
    /// The generation is the next free one, whatever `tuning` says. An inherited address that is not in
    /// `listen` any more is read for older processes, and nobody is accepted there. The secret must be the
    /// giver's.
    ///
    /// # Errors
    /// [`BindError`], see there. What was inherited is closed.
    pub fn bind_after(
        net: Arc<dyn UdpNetwork>,
        workers: Vec<Worker>,
        listen: &[SocketAddr],
        secret: &NodeSecret,
        tls: Tls,
        mut tuning: Tuning,
        inherited: Option<UdpInheritance>,
    ) -> Result<Self, BindError> {
        if workers.is_empty() || workers.iter().enumerate().any(|(i, w)| i != w.index()) {
            return Err(BindError::Workers);
        }
        let aside = inherited.is_some();
        let (mut sockets, mut predecessors) = (Vec::new(), Predecessors::default());
        if let Some(inherited) = inherited {
            predecessors =
                Predecessors::new(inherited.predecessors).map_err(BindError::Inherited)?;
            let next = predecessors.next_generation(inherited.generation);
            let none = || io::Error::other("every generation has a living process");
            tuning.generation = next.ok_or_else(none).map_err(BindError::Inherited)?;
            sockets = inherited.sockets;
        }
        let keys = secret.keys();
        let endpoints = workers.len() * listen.len();
        let mut shared = EndpointsInner {
            server_configs: server_configs(&net, &keys, &tls, &tuning, endpoints),
            invitations: InvitationBook::new(Arc::clone(&tls.invited)),
            net,
            tuning,
            tls,
            keys,
            servers: workers.iter().map(|_| Vec::new()).collect(),
            recv_buffers: workers.iter().map(|_| Arc::default()).collect(),
            workers,
            addresses: Vec::new(),
            worker_sockets: Vec::new(),
            retired: Vec::new(),
            sockets: Vec::new(),
            predecessors: Arc::new(predecessors),
            reading_paused: Arc::new(AtomicBool::new(aside)),
            forwarded: Mutex::new(None),
            inodes: Vec::new(),
            handshake_limiter: Arc::default(),
            forward_counters: Arc::new(ForwardCounters::default()),
            dialled: TaskTracker::new(),
            tokens: Arc::new(TokenMemoryCache::default()),
            endpoints_made: AtomicU64::new(0),
            connections_made: AtomicU64::new(0),
            draining: AtomicBool::new(false),
        };
        for address in listen {
            shared
                .listen(*address, listen::take_inherited(&mut sockets, *address))
                .map_err(|error| BindError::Listen { address: *address, error })?;
        }
        for (_, sockets) in sockets {
            shared.read_for_predecessors(sockets).map_err(BindError::Inherited)?;
        }
        Ok(Self(Arc::new(shared)))
    }
}

impl EndpointsInner {
    /// The configuration that all endpoints of this node have in common.
    pub(super) fn endpoint_config(&self, worker: &Worker) -> EndpointConfig {
        let route = CidRoute { generation: self.tuning.generation, core: worker.core() };
        let generator = CidGenerator { key: self.keys.cid.clone(), route };
        let mut config = EndpointConfig::new(Arc::new(self.keys.reset.clone()));
        config
            .cid_generator(move || Box::new(generator.clone()))
            .min_reset_interval(self.tuning.reset_interval)
            .rng_seed(self.net.rng_seed(self.endpoints_made.fetch_add(1, Ordering::Relaxed)));
        let largest = self.tuning.mtu.max.clamp(ETHERNET_UDP_PAYLOAD, MtuBounds::MAX);
        config.max_udp_payload_size(largest).expect("at least 1200 by the line above");
        config
    }

    pub(super) fn socket_options(&self) -> SocketOptions {
        SocketOptions {
            receive_buffer: self.tuning.receive_buffer,
            send_buffer: self.tuning.send_buffer,
            share_port: false,
        }
    }

    pub(super) fn next_connection_id(&self) -> u64 {
        self.connections_made.fetch_add(1, Ordering::Relaxed)
    }
}

/// The UDP payload of an Ethernet frame: every peer may send that much.
const ETHERNET_UDP_PAYLOAD: u16 = 1472;

fn server_configs(
    net: &Arc<dyn UdpNetwork>,
    keys: &SecretKeys,
    tls: &Tls,
    tuning: &Tuning,
    endpoints: usize,
) -> ServerConfigs {
    let each = endpoints.max(1);
    // Each handshake has another in its place that counts its pieces.
    let mut interactive =
        ServerConfig::new(tls.for_incoming(&Arc::default()), Arc::new(keys.token()));
    interactive
        .transport_config(tuning.transport(Class::Interactive))
        .max_incoming(tuning.handshakes.waiting.div_ceil(each))
        .incoming_buffer_size(WAITING_BYTES_PER_HANDSHAKE)
        .incoming_buffer_size_total(u64::from(tuning.handshakes.waiting_bytes) / each as u64)
        .time_source(Arc::new(NetworkTimeSource(Arc::clone(net))));
    let mut bulk = interactive.clone();
    bulk.transport_config(tuning.transport(Class::Bulk));
    let mut invitee = interactive.clone();
    invitee.transport_config(tuning.inviter_transport());
    ServerConfigs {
        interactive: Arc::new(interactive),
        bulk: Arc::new(bulk),
        invitee: Arc::new(invitee),
    }
}

/// quinn's calendar is the network's.
struct NetworkTimeSource(Arc<dyn UdpNetwork>);

impl TimeSource for NetworkTimeSource {
    fn now(&self) -> SystemTime {
        self.0.system_time()
    }
}
