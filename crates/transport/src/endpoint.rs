//! A node's QUIC endpoints: one per worker for incoming connections, one per dial for outgoing ones.
//!
//! * [`Endpoints`]: binds, accepts, dials, ends.
//! * [`Incoming`]: an incoming handshake, within the limits.
//! * [`QuicConnection`]: an authenticated peer. * [`Worker`]: the runtime on which all of it lives.
//!
//! A worker's endpoint, its connections and their timers all run on that worker's runtime, so that a packet
//! meets one core from the socket to the stream. Every dial has a socket and a source port of its own: a port
//! that is used again meets the stale conntrack entry of the connection before (kubernetes#125467).
//! `adit-pki` decides who may be a peer; what a peer may do is decided above.

mod accept;
mod bind;
mod closed;
mod connection;
mod counters;
mod dial;
mod handover;
mod handshake_limiter;
mod listen;
mod peer_certificate;
mod worker;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use adit_core::code::Code;
use adit_pki::PeerVerifier;
use adit_runtime::Mutex;
use quinn::VarInt;
use tokio_util::task::TaskTracker;

pub(crate) use self::accept::UNHEARD_TIMEOUT;
pub use self::accept::{AcceptError, Incoming};
pub use self::bind::BindError;
pub(crate) use self::closed::TOO_MANY_PIECES;
pub use self::closed::{CloseReason, ClosedBy};
pub(crate) use self::connection::AckCounts;
pub use self::connection::{ConnectionStats, OpenBiError, QuicConnection};
pub use self::counters::EndpointCounters;
pub use self::dial::{DialError, DialRequest};
pub use self::handover::UdpInheritance;
use self::handshake_limiter::HandshakeLimiter;
pub use self::worker::Worker;
use crate::join::InvitationBook;
use crate::network::UdpNetwork;
use crate::secret::SecretKeys;
use crate::socket::{ForwardCounters, Predecessors, RecvBuffer, WorkerSocket};
use crate::tls::Tls;
use crate::tuning::Tuning;

/// A node's QUIC endpoints. Cheap to clone; they live until the last clone and the last connection are
/// gone.
#[derive(Debug, Clone)]
pub struct Endpoints(Arc<EndpointsInner>);

struct EndpointsInner {
    net: Arc<dyn UdpNetwork>,
    tuning: Tuning,
    tls: Tls,
    invitations: InvitationBook,
    keys: SecretKeys,
    workers: Vec<Worker>,
    /// For each worker, its endpoint on each listening address.
    servers: Vec<Vec<quinn::Endpoint>>,
    /// The configurations with which peers are answered, by the class that their first packet asks for.
    server_configs: accept::ServerConfigs,
    addresses: Vec<SocketAddr>,
    worker_sockets: Vec<Arc<WorkerSocket>>,
    /// Endpoints on inherited addresses at which this process does not listen any more: they read for the
    /// processes that still have connections there.
    retired: Vec<quinn::Endpoint>,
    /// The listening sockets once more, by their addresses, for a successor.
    sockets: Vec<(SocketAddr, Vec<OwnedFd>)>,
    predecessors: Arc<Predecessors>,
    /// Another process reads the listening sockets.
    reading_paused: Arc<AtomicBool>,
    forwarded: Mutex<Option<handover::ForwardedInbox>>,
    /// The listening sockets, by the numbers that [`adit_host::udp::drops`] knows.
    inodes: Vec<u64>,
    handshake_limiter: Arc<HandshakeLimiter>,
    forward_counters: Arc<ForwardCounters>,
    /// For each worker, what its dials receive through.
    recv_buffers: Vec<Arc<RecvBuffer>>,
    /// The drivers of what was dialled.
    dialled: TaskTracker,
    /// Tokens that peers gave, so that the next dial need not prove its address again.
    tokens: Arc<quinn::TokenMemoryCache>,
    /// Endpoints made so far, for [`UdpNetwork::rng_seed`].
    endpoints_made: AtomicU64,
    /// Connections made so far, for [`QuicConnection::id`].
    connections_made: AtomicU64,
    draining: AtomicBool,
}

impl Endpoints {
    /// Addresses at which the node can be dialled, with the ports that the system chose.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.0.addresses
    }

    /// The workers, in the order of their indices.
    #[must_use]
    pub fn workers(&self) -> &[Worker] {
        &self.0.workers
    }

    /// The numbers in force.
    #[must_use]
    pub(crate) fn tuning(&self) -> &Tuning {
        &self.0.tuning
    }

    /// The invitations by which other clusters may ask this node to be linked. At first there is none.
    #[must_use]
    pub fn invitations(&self) -> &InvitationBook {
        &self.0.invitations
    }

    /// The verifier of peers' certificates.
    pub(crate) fn peer_verifier(&self) -> &PeerVerifier {
        &self.0.tls.verifier
    }

    /// The addresses of a DNS name, as the network's resolver has them now.
    ///
    /// # Errors
    /// The resolver's: no such name, no answer.
    pub async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        self.0.net.resolve(host, port).await
    }

    /// From here on every incoming handshake is refused; connections stay.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    /// Ends every accepted connection with this code and text, and accepts no more. Dialled ones are
    /// their holders' to close.
    pub fn close(&self, code: Code, text: &str) {
        for endpoint in self.0.servers.iter().flatten() {
            endpoint.close(varint(code), text.as_bytes());
        }
    }

    /// Waits until every connection, dialled or accepted, has told its peer that it is closed; `within` at
    /// most, since a peer that is gone never answers (quinn needs three times its timeout).
    ///
    /// Without it a process that ends at once leaves its peers to their idle timeouts.
    pub async fn idle(&self, within: Duration) {
        let all = async {
            for endpoint in self.0.servers.iter().flatten() {
                endpoint.wait_idle().await;
            }
            self.0.dialled.close();
            self.0.dialled.wait().await;
            self.0.dialled.reopen();
        };
        // Late is as good as done: there is nothing more that could be tried.
        drop(tokio::time::timeout(within, all).await);
    }

    /// The counters of all endpoints so far.
    #[must_use]
    pub fn counters(&self) -> EndpointCounters {
        self.0.counters()
    }
}

impl std::fmt::Debug for EndpointsInner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EndpointsInner").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// A code as QUIC carries it.
pub(crate) fn varint(code: Code) -> VarInt {
    VarInt::from_u64(code.number()).unwrap_or(VarInt::MAX)
}
