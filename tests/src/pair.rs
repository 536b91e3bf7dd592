//! Two nodes of two clusters on a network in memory, as most tests of the transport need them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use adit_core::snapshot::Class;
use adit_transport::budget::{BufferBudget, BufferLimits};
use adit_transport::endpoint::{AcceptError, DialError};
use adit_transport::{
    DialRequest, Endpoints, QuicConnection, RecvStream, SendStream, Tuning, Worker,
};
use tokio::runtime::Handle;

use crate::identity::{TestCluster, TestNode};
use crate::net::memory::MemoryNetwork;

/// The time that a datagram is under way.
pub const PATH_DELAY: Duration = Duration::from_millis(10);
/// The port on which both listen.
pub const PORT: u16 = 7843;
/// Where the dialling side is.
pub const EDGE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 1, 1));
/// Where the dialled side is.
pub const BANK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 2, 1));

/// Node `e1` of cluster `edge.example` and node `b1` of `bank.example`, which believe each other.
#[derive(Debug)]
pub struct NodePair {
    /// The network between them.
    pub network: MemoryNetwork,
    /// The clusters, edge first.
    pub clusters: (TestCluster, TestCluster),
    /// The nodes, edge's first.
    pub nodes: (TestNode, TestNode),
    /// Edge's endpoints.
    pub edge: Endpoints,
    /// Bank's.
    pub bank: Endpoints,
    /// The bytes that each may hold for the other.
    pub budgets: (BufferBudget, BufferBudget),
    tuning: Tuning,
}

impl NodePair {
    /// A pair with this tuning, of which bank has so many workers, all on the caller's runtime.
    ///
    /// # Panics
    /// Outside of a runtime.
    #[must_use]
    pub fn new(tuning: Tuning, workers: u8) -> Self {
        let network = MemoryNetwork::new(PATH_DELAY);
        let clusters = (TestCluster::new("edge.example"), TestCluster::new("bank.example"));
        let nodes = (clusters.0.node("e1", &[&clusters.1]), clusters.1.node("b1", &[&clusters.0]));
        let edge = bind(&network, EDGE, &nodes.0, 1, tuning);
        let bank = bind(&network, BANK, &nodes.1, workers, tuning);
        let budget = || BufferBudget::new(BufferLimits { process: 1 << 30, peer: 256 << 20 });
        Self { network, clusters, nodes, edge, bank, budgets: (budget(), budget()), tuning }
    }

    /// The address, name and settings with which edge dials bank.
    #[must_use]
    pub fn dial(&self) -> DialRequest<'_> {
        DialRequest {
            address: SocketAddr::new(BANK, PORT),
            trust_domain: self.clusters.1.trust_domain(),
            class: Class::Interactive,
        }
    }

    /// Edge dials, bank accepts at whichever worker the packets reach; both ends' outcome.
    pub async fn try_connect(
        &self,
        dial: DialRequest<'_>,
    ) -> (Result<QuicConnection, DialError>, Result<QuicConnection, AcceptError>) {
        let workers = self.bank.workers().len();
        let accept = async {
            let each = (0..workers).map(|worker| Box::pin(self.bank.accept(worker)));
            let incoming = futures_util::future::select_all(each).await.0;
            incoming.expect("the endpoints are open").accept().await
        };
        let (edge, bank) = tokio::join!(self.edge.dial(0, dial), accept);
        // As links do once they know who is there.
        let (at_edge, at_bank) = &self.budgets;
        for (conn, budget, peer) in
            [(edge.as_ref().ok(), at_edge, "bank"), (bank.as_ref().ok(), at_bank, "edge")]
        {
            if let Some(conn) = conn {
                let cluster = peer.parse().expect("a name");
                conn.charge_to(budget, &cluster, &self.tuning, conn.class());
            }
        }
        (edge, bank)
    }

    /// A connection, as both ends see it: edge's end first.
    ///
    /// # Panics
    /// Where there is none.
    pub async fn connect(&self) -> (QuicConnection, QuicConnection) {
        let (dialled, accepted) = self.try_connect(self.dial()).await;
        (dialled.expect("dialled"), accepted.expect("accepted"))
    }
}

/// A node's endpoints on a network in memory.
///
/// # Panics
/// Outside of a runtime, and where the address is taken.
#[must_use]
pub fn bind(
    network: &MemoryNetwork,
    at: IpAddr,
    node: &TestNode,
    workers: u8,
    tuning: Tuning,
) -> Endpoints {
    let workers = (0..workers).map(|n| Worker::new(n, Handle::current())).collect();
    let listen = [SocketAddr::new(at, PORT)];
    Endpoints::bind(network.host(at), workers, &listen, &node.secret, node.tls(), tuning)
        .expect("a free address")
}

/// A stream, as both ends of a connection see it, opened by `from` and known to `to` by its first
/// byte, a zero, which has been read.
///
/// # Panics
/// Where the connection is gone.
pub async fn stream(
    from: &QuicConnection,
    to: &QuicConnection,
) -> ((SendStream, RecvStream), (SendStream, RecvStream)) {
    let mut ours = from.open_bi(Duration::from_secs(1)).await.expect("room for a stream");
    ours.0.send_all(&[0]).await.expect("a connection");
    let mut theirs = to.accept_bi().await.expect("a connection");
    assert_eq!(theirs.1.read(&mut [0]).await, Ok(Some(1)));
    (ours, theirs)
}

/// All that is left of a stream, or the error in its place.
///
/// # Errors
/// The stream's own.
pub async fn read_all(recv: &mut RecvStream) -> Result<Vec<u8>, adit_transport::RecvError> {
    let mut all = Vec::new();
    while let Some(chunk) = recv.read_chunk(usize::MAX).await? {
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}
