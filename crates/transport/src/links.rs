//! Links: the standing relations with other clusters, and streams over them.
//!
//! [`Links`] is what the rest of the process sees. Below it, each piece in a file of its own:
//!
//! * one connection: [`hello`] (who is there), [`session`] (from hello to end), [`accept`],
//!   [`misuse`] (what its peer opens in vain);
//! * all connections: [`register`] of [`conn`] (which there are), [`seats`] (how many there may be),
//!   [`pool`] (which one a stream takes), [`drain`], [`successor`] (a node's next
//!   process), [`doubled`] and [`boots`] (one that has two);
//! * dialling: [`dial`] (one attempt), [`dials`] (what attempts came to), [`losses`] (what was lost),
//!   both in [`recent`] (how much of it is kept), [`faults`] (how peers' handshakes fail), [`reach`] (why a
//!   cluster cannot be reached), [`standing`] (what is kept);
//! * [`reports`]: our own controller asks how this node is;
//! * state: [`feeds`] (what we tell), [`publish`] (telling it), [`learn`] (hearing it), [`allowance`] (how
//!   much of it), [`views`] (what was heard).
//!
//! What is decided here is decided by functions of `adit_core` (`admission`, `announce`, `choose`). No
//! byte of an application is looked at, and nothing is read of a data stream but its first byte.

mod accept;
mod allowance;
mod boots;
mod conn;
mod dial;
mod dials;
mod doubled;
mod drain;
mod faults;
mod feeds;
mod grants;
mod hello;
mod learn;
mod local;
mod losses;
mod messages;
mod metrics;
mod misuse;
mod pool;
mod publish;
mod reach;
mod recent;
mod register;
mod reports;
mod seats;
mod session;
mod shared;
mod standing;
mod status;
mod successor;
mod views;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use adit_core::code::Code;
use adit_core::name::{ClusterName, NodeName};
use adit_core::snapshot::{Class, Snapshot};
use adit_core::wire::StreamKind;
use adit_core::wire::report::NodeReport;
use adit_pki::{PeerVerifier, UnixTime};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use self::conn::InUse;
pub use self::dials::DialRecord;
pub use self::doubled::OwnDouble;
pub use self::local::{Clock, Local, Random, ReportAnswer, Settings};
pub use self::metrics::{
    begin as begin_metrics, begin_link as begin_link_metrics, describe as describe_metrics,
};
pub use self::misuse::{MisuseStatus, NEVER_ASKED_WITHIN};
use self::shared::{Known, Shared, Stages, Work};
pub use self::status::{Alternating, ConnectionStatus, LinkState, LinkStatus, Status};
pub use self::views::LinkView;
use crate::budget::BufferBudget;
use crate::endpoint::Endpoints;
use crate::peer::PeerInfo;
use crate::stream::{RecvStream, SendStream};

/// A data stream. Its kind byte has been sent, or read; the stream header comes next.
#[derive(Debug)]
pub struct Stream {
    /// Towards the peer.
    pub send: SendStream,
    /// From the peer.
    pub recv: RecvStream,
    /// Who is there.
    pub peer: Arc<PeerInfo>,
    /// The worker on which its connection lives, and on which it is served best.
    pub worker: usize,
}

impl Stream {
    /// While either half lives the connection counts as used.
    fn new(mut send: SendStream, mut recv: RecvStream, using: InUse) -> Self {
        let conn = using.conn();
        let (peer, worker) = (Arc::clone(&conn.peer), conn.quic.worker().index());
        let using = Arc::new(using);
        send.hold(Arc::clone(&using) as _);
        recv.hold(using);
        Self { send, recv, peer, worker }
    }
}

/// Serves the data streams that peers open.
pub trait Serve: Send + Sync + 'static {
    /// Serves one stream, from its header to its end. Runs on the stream's worker, in a task of its own;
    /// what it leaves unfinished is reset.
    fn serve(&self, stream: Stream) -> Pin<Box<dyn Future<Output = Served> + Send>>;
}

/// What came of a peer's stream, as far as the peer answers for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// It was carried, or failed by nobody's fault or ours.
    Used,
    /// The peer's node opened it in vain: it asked for what it may not have, broke the protocol, or gave
    /// up. A node that does much of that is asked to stay away, and then closed.
    InVain(Code),
}

impl Served {
    /// What a refusal by this side comes to: in vain, where the peer asked for what it may not have or
    /// broke the protocol. That a backend is gone, or this node goes away, is not the peer's doing.
    #[must_use]
    pub fn refused(code: Code) -> Self {
        let is_in_vain = matches!(
            code,
            Code::Denied
                | Code::ExportUnknown
                | Code::PortUnknown
                | Code::HeaderInvalid
                | Code::HeaderTimeout
                | Code::SourceForeign
                | Code::OverLimit
        );
        if is_in_vain { Self::InVain(code) } else { Self::Used }
    }
}

/// Why no stream was opened. Nothing was sent, so another node may be tried where the code says so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct OpenError {
    /// The reason, as one of the list.
    pub code: Code,
    /// For people: what was tried, and what it came to.
    pub reason: String,
}

/// A node's links. Cheap to clone; they last until [`Links::drain`], and go on without a handle.
#[derive(Clone)]
pub struct Links(Arc<Shared>);

impl Links {
    /// Begins: accepts peers on all workers, and keeps the standing connections that `snapshot` asks for,
    /// now and whenever it changes. What peers open is given to `serve`. What carries no data, state above
    /// all, runs on the runtime of the caller, which is not a worker's where data must not wait for it.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn start(
        local: Local,
        endpoints: Endpoints,
        snapshot: watch::Receiver<Arc<Snapshot>>,
        serve: Arc<dyn Serve>,
    ) -> Self {
        let budget = BufferBudget::new(local.settings.buffers);
        let shared = Arc::new(Shared {
            local,
            endpoints,
            known: Known { snapshot, views: Default::default(), feeds: Default::default() },
            register: Default::default(),
            work: Work {
                tasks: TaskTracker::new(),
                control: Handle::current(),
                stages: Stages::default(),
                serve,
                dials: Default::default(),
                metrics: Default::default(),
                budget,
                misuse: Default::default(),
                faults: Default::default(),
                double: Default::default(),
                report: Default::default(),
            },
        });
        for worker in shared.endpoints.workers() {
            let accepting = accept::run(Arc::clone(&shared), worker.index());
            shared.work.tasks.spawn_on(accepting, worker.handle());
        }
        let supervising = standing::supervise(Arc::clone(&shared));
        shared.work.tasks.spawn_on(supervising, &shared.work.control);
        Self(shared)
    }

    /// Opens a data stream to `node` of `cluster`, for a caller on `worker`: over a connection that is
    /// there, else over one that is dialled for it. A caller that waits may give up at any time.
    ///
    /// # Errors
    /// [`OpenError`]. [`Code::LinkDown`] where the node cannot be reached, which is said at once where it is
    /// known; [`Code::OpenTimeout`] where its connections have no room; [`Code::Draining`] where it, or
    /// this node, is going away.
    ///
    /// # Panics
    /// Where there is no worker of that number.
    pub async fn open(
        &self,
        worker: usize,
        cluster: &ClusterName,
        node: &NodeName,
        lane: Class,
    ) -> Result<Stream, OpenError> {
        self.0.open(worker, (cluster, node), lane, StreamKind::Data).await
    }

    /// The nodes of `cluster` with which there is a connection that takes new streams, in order of name.
    #[must_use]
    pub fn connected(&self, cluster: &ClusterName) -> Vec<NodeName> {
        self.0.register.connected(cluster)
    }

    /// The first of these nodes of `cluster` to which a stream is worth a try: it is connected, or it can
    /// be dialled and was not found dead moments ago. One look at all connections answers for all of
    /// them; how many there are does not matter.
    #[must_use]
    pub fn first_in_reach<'a>(
        &self,
        cluster: &ClusterName,
        nodes: &[&'a NodeName],
    ) -> Option<&'a NodeName> {
        self.0.first_in_reach(cluster, nodes)
    }

    /// A node of `cluster` with which there is a connection that takes new streams: the first by name that
    /// is not one of `except`.
    #[must_use]
    pub fn other_connected(&self, cluster: &ClusterName, except: &[NodeName]) -> Option<NodeName> {
        self.0.register.other_connected(cluster, except)
    }

    /// What linked clusters say of themselves. Wakes at each change of a view or its source; that a view
    /// was confirmed makes it younger silently.
    #[must_use]
    pub fn views(&self) -> watch::Receiver<Arc<BTreeMap<ClusterName, LinkView>>> {
        self.0.known.views.subscribe()
    }

    /// What peers may have this node hold at present, in bytes.
    #[must_use]
    pub fn buffers(&self) -> &BufferBudget {
        &self.0.work.budget
    }

    /// Has the controller of our own cluster answered with what `report` says, encoded, whenever it asks. What it
    /// tells with the question is the argument: empty from an earlier version. The first
    /// call counts; until then the answer is that nothing is wrong.
    pub fn answer_reports(&self, report: ReportAnswer) {
        drop(self.0.work.report.set(report));
    }

    /// Asks a node of our own cluster how it is, and tells it `question`, encoded. Only the controller is answered.
    ///
    /// # Errors
    /// [`OpenError`]: the node cannot be reached or is of a version that does not answer
    /// ([`Code::VersionMismatch`]), or what it says is no report ([`Code::ProtocolError`]).
    pub async fn ask_report(
        &self,
        node: &NodeName,
        question: &[u8],
    ) -> Result<NodeReport, OpenError> {
        self.0.ask_report(node, question).await
    }

    /// Another living process that has this one's name, as was said lately by our own cluster, or found.
    #[must_use]
    pub fn own_double(&self) -> Option<OwnDouble> {
        self.0.own_double()
    }

    /// How everything is doing.
    #[must_use]
    pub fn status(&self) -> Status {
        self.0.status()
    }

    /// Ends the connections that rest on a certificate which has ended by `now` or which `verifier`, where it
    /// is given, no longer believes: at once where the peer is denied; else they take nothing new from now on and
    /// have ten seconds, in which a peer with a good certificate makes new ones. To be called every few seconds, and with the verifier whenever its
    /// trust has changed. A connection does not learn that its peer's certificate was renewed.
    pub fn recheck(&self, verifier: Option<&PeerVerifier>, now: UnixTime) {
        let mut told: BTreeMap<String, (usize, BTreeSet<String>)> = BTreeMap::new();
        for (conn, _) in self.0.register.all() {
            let ended = now > conn.quic.identity().not_after;
            let verified = verifier.map_or(Ok(()), |v| conn.quic.verify(v, now));
            if let Err(refusal) = &verified {
                if !self.0.stop_believing(&conn, refusal) {
                    continue;
                }
                let (count, peers) = told.entry(refusal.to_string()).or_default();
                *count += 1;
                peers.insert(conn.peer.id.to_string());
            } else if ended {
                let why = "its certificate has ended";
                tracing::warn!(peer = %conn.peer.id, "connection ended: {why}");
                conn.quic.close(Code::CertificateEnded, why);
            }
        }
        // One line for each reason, however many connections rest on it: an entry of the deny list, a bundle.
        for (why, (count, peers)) in told {
            let peers = peers.into_iter().collect::<Vec<_>>().join(", ");
            tracing::warn!(peers, connections = count, "connections end: {why}");
        }
    }

    /// Tells every peer, now and when it connects later, that it is to open nothing new here; peers that knock are
    /// refused. Streams of our own are opened as before, until [`Links::drain`].
    pub fn announce_leaving(&self) {
        self.0.announce_leaving();
    }

    /// Goes away: tells every peer, opens and accepts nothing new, waits up to `within` for the streams to
    /// end, closes all connections and waits a few seconds at most for that to be heard. Returns how
    /// many streams were broken: 0 where all ended by themselves.
    pub async fn drain(&self, within: Duration) -> usize {
        self.0.drain(within).await
    }
}

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Links").field("connections", &self.0.register.all().len()).finish()
    }
}
