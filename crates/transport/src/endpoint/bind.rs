//! Making a node's listening endpoints: one per worker and address.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use adit_core::snapshot::Class;
use quinn::{EndpointConfig, ServerConfig, TimeSource, TokenMemoryCache};
use tokio_util::task::TaskTracker;

use super::accept::Answers;
use super::{Endpoints, Shared, UdpInheritance, Worker, listen};
use crate::cid::{Generator, Route};
use crate::net::{Net, SocketOptions};
use crate::secret::{Keys, NodeSecret};
use crate::socket::{ElderProcesses, Passed};
use crate::tls::Tls;
use crate::tuning::{Mtu, Tuning};

/// Why a node's endpoints cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address cannot be had.
    #[error("cannot listen on UDP {address}: {error}")]
    Listen {
        /// Which one.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// Workers are not numbered 0, 1, 2, … or there is none.
    #[error("workers must be numbered from 0 without a gap, and there must be one")]
    Workers,
    /// What another process handed over is of no use.
    #[error("the UDP sockets that the process before handed over cannot be used: {0}")]
    Inherited(io::Error),
}

/// Of one handshake that waits, this much is kept: a first flight is two or three datagrams.
const WAITING_BYTES_EACH: u64 = 64 << 10;

impl Endpoints {
    /// Binds every address in `listen` on every worker. No address at all makes a node that only dials.
    ///
    /// Where a node has several workers its sockets share their ports, and so could another process by
    /// mistake; therefore each address is first bound alone, for a moment.
    ///
    /// # Errors
    /// [`BindError`], see there. Nothing stays bound.
    pub fn bind(
        net: Arc<dyn Net>,
        workers: Vec<Worker>,
        listen: &[SocketAddr],
        secret: &NodeSecret,
        tls: Tls,
        tuning: Tuning,
    ) -> Result<Self, BindError> {
        Self::bind_after(net, workers, listen, secret, tls, tuning, None)
    }

    /// The same after another process of this node, whose sockets are taken over by their addresses; further
    /// ones are bound. Endpoints with an inheritance read nothing before [`Endpoints::resume`], so that the
    /// giver can step aside first.
    ///
    /// The generation is the next one that nobody has, whatever `tuning` says. An inherited address that is
    /// not in `listen` any more is read for older processes, and nobody is accepted there. The secret must be
    /// the giver's.
    ///
    /// # Errors
    /// [`BindError`], see there. What was inherited is closed.
    pub fn bind_after(
        net: Arc<dyn Net>,
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
        let (mut sockets, mut elders) = (Vec::new(), ElderProcesses::default());
        if let Some(inherited) = inherited {
            elders = ElderProcesses::new(inherited.elders).map_err(BindError::Inherited)?;
            tuning.generation = elders.next(inherited.generation).ok_or_else(|| {
                BindError::Inherited(io::Error::other("every generation has a living process"))
            })?;
            sockets = inherited.sockets;
        }
        let keys = secret.keys();
        let answers = answers(&net, &keys, &tls, &tuning, workers.len() * listen.len());
        let mut shared = Shared {
            net,
            tuning,
            tls,
            keys,
            servers: workers.iter().map(|_| Vec::new()).collect(),
            scratches: workers.iter().map(|_| Arc::default()).collect(),
            workers,
            answers,
            addresses: Vec::new(),
            legs: Vec::new(),
            retired: Vec::new(),
            sockets: Vec::new(),
            elders: Arc::new(elders),
            aside: Arc::new(AtomicBool::new(aside)),
            forwarded: Mutex::new(None),
            inodes: Vec::new(),
            gate: Arc::default(),
            passed: Arc::new(Passed::default()),
            dialled: TaskTracker::new(),
            tokens: Arc::new(TokenMemoryCache::default()),
            made: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            draining: AtomicBool::new(false),
        };
        for address in listen {
            shared
                .listen(*address, listen::take(&mut sockets, *address))
                .map_err(|error| BindError::Listen { address: *address, error })?;
        }
        for (_, sockets) in sockets {
            shared.retire(sockets).map_err(BindError::Inherited)?;
        }
        Ok(Self(Arc::new(shared)))
    }
}

impl Shared {
    /// What all endpoints of this node have in common.
    pub(super) fn endpoint_config(&self, worker: &Worker) -> EndpointConfig {
        let route = Route { generation: self.tuning.generation, core: worker.core() };
        let generator = Generator { key: self.keys.cid.clone(), route };
        let mut config = EndpointConfig::new(Arc::new(self.keys.reset.clone()));
        config
            .cid_generator(move || Box::new(generator.clone()))
            .min_reset_interval(self.tuning.reset_interval)
            .rng_seed(self.net.seed(self.made.fetch_add(1, Ordering::Relaxed)));
        let largest = self.tuning.mtu.max.clamp(ETHERNET, Mtu::MAX);
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

    pub(super) fn next_id(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed)
    }
}

/// What an Ethernet frame carries as UDP payload: every peer may send that much.
const ETHERNET: u16 = 1472;

fn answers(
    net: &Arc<dyn Net>,
    keys: &Keys,
    tls: &Tls,
    tuning: &Tuning,
    endpoints: usize,
) -> Answers {
    let each = endpoints.max(1);
    let mut interactive = ServerConfig::new(Arc::clone(&tls.server) as _, Arc::new(keys.token()));
    interactive
        .transport_config(tuning.transport(Class::Interactive))
        .max_incoming(tuning.admission.waiting.div_ceil(each))
        .incoming_buffer_size(WAITING_BYTES_EACH)
        .incoming_buffer_size_total(u64::from(tuning.admission.waiting_bytes) / each as u64)
        .time_source(Arc::new(Calendar(Arc::clone(net))));
    let mut bulk = interactive.clone();
    bulk.transport_config(tuning.transport(Class::Bulk));
    Answers { interactive: Arc::new(interactive), bulk: Arc::new(bulk) }
}

/// quinn's calendar is the network's.
struct Calendar(Arc<dyn Net>);

impl TimeSource for Calendar {
    fn now(&self) -> SystemTime {
        self.0.calendar()
    }
}
