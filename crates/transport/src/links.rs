//! Links: the standing relations with other clusters, and streams over them.
//!
//! [`Links`] is what the rest of the process sees. Below it there are three owners that do not know each other's
//! work, and tasks that use them:
//!
//! * [`connections`]: who there is. * [`dialer`]: is given addresses, gives connections.
//! * [`state`]: the views of clusters that are published and received.
//! * One connection: [`accept`], [`handshake`] (the hellos), [`admit`] (whether there is a place), [`session`]
//!   (from hello to end), [`credit_streams`], [`reports`].
//! * All of them: [`open`] (which connection a stream takes), [`dial`] (what is dialled for it), [`reconcile`]
//!   (which connections stand), [`maintain`] (one of those), [`drain`], [`successor`] (a node's next process), [`duplicate_identity`] (a
//!   node that has two).
//! * Peers that fail or misbehave: [`misuse`] and [`in_vain`], [`handshake_faults`], [`distrust`], [`unacknowledged`]
//!   (peers that do not receive), [`mod@unreachable`] (why a cluster cannot be reached), [`certificate_refusal`].
//! * [`inner`] holds all of it, [`context`] has the settings, [`status`] and [`metrics`] show it.
//!
//! Decisions are made by functions of `adit_core` (`admission`, `announce`, `routing`). No byte of an
//! application is looked at, and nothing is read of a data stream but its first byte.

mod accept;
mod admit;
mod certificate_refusal;
mod coexistence;
mod connections;
mod context;
mod credit_streams;
mod dial;
mod dialer;
mod distrust;
mod drain;
mod duplicate_identity;
mod duplicate_record;
mod fragments;
mod handshake;
mod handshake_faults;
mod in_vain;
mod inner;
mod maintain;
mod message_reader;
mod metrics;
mod misuse;
mod open;
mod pieces;
mod reconcile;
mod reports;
mod session;
mod state;
mod status;
mod stream;
mod successor;
mod unacknowledged;
mod unreachable;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use adit_core::code::Code;
use adit_core::name::{ClusterName, NodeKey, NodeName};
use adit_core::snapshot::{Class, Snapshot};
use adit_core::wire::StreamKind;
use adit_core::wire::report::NodeReport;
use adit_pki::{PeerVerifier, UnixTime};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

pub use self::context::{LinkContext, LinkSettings, RandomSource, ReportAnswer, UnixClock};
pub use self::dialer::DialRecord;
use self::dialer::Dialer;
pub use self::duplicate_record::OwnDuplicate;
use self::inner::{ClusterKnowledge, LinkRuntime, LinksInner, PeerRecords, ShutdownStages};
pub use self::metrics::{
    begin as begin_metrics, begin_link as begin_link_metrics, describe as describe_metrics,
};
pub use self::misuse::{MisuseStatus, TOLERATED_RATE};
pub use self::state::views::ReceivedView;
pub use self::status::{
    AlternatingNodes, CoexistingNodes, ConnectionStatus, LinkState, LinkStatus, LinksStatus,
};
pub use self::stream::{OpenStreamError, PeerStream, ServeOutcome, ServeStream};
use crate::budget::BufferBudget;
use crate::endpoint::Endpoints;

/// A node's links. Cheap to clone; they last until [`Links::drain`], and go on without a handle.
#[derive(Clone)]
pub struct Links(Arc<LinksInner>);

impl Links {
    /// Begins: accepts peers on all workers, and keeps the standing connections that `snapshot` asks for,
    /// now and whenever it changes. What peers open is given to `serve`. What carries no data, state above
    /// all, runs on the runtime of the caller, which is not a worker's where data must not wait for it.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn start(
        context: LinkContext,
        endpoints: Endpoints,
        snapshot: watch::Receiver<Arc<Snapshot>>,
        serve: Arc<dyn ServeStream>,
    ) -> Self {
        let budget = BufferBudget::new(context.settings.buffers);
        let shared = Arc::new(LinksInner {
            context,
            dialer: Dialer::new(endpoints.clone()),
            endpoints,
            knowledge: ClusterKnowledge {
                snapshot,
                views: Default::default(),
                publishers: Default::default(),
            },
            connections: Default::default(),
            peers: PeerRecords {
                budget,
                metrics: Default::default(),
                misuse: Default::default(),
                handshake_faults: Default::default(),
                duplicate: Default::default(),
            },
            runtime: LinkRuntime {
                tasks: TaskTracker::new(),
                control_runtime: Handle::current(),
                shutdown: ShutdownStages::default(),
                serve,
                report: Default::default(),
            },
        });
        for worker in shared.endpoints.workers() {
            let accepting = accept::run(Arc::clone(&shared), worker.index());
            shared.runtime.tasks.spawn_on(accepting, worker.handle());
        }
        let supervising = reconcile::run(Arc::clone(&shared));
        shared.runtime.tasks.spawn_on(supervising, &shared.runtime.control_runtime);
        let ended = shared.runtime.shutdown.ended.clone();
        let watching = fragments::watch(Arc::clone(&shared));
        let watching = async move {
            let _ended = ended.run_until_cancelled_owned(watching).await;
        };
        shared.runtime.tasks.spawn_on(watching, &shared.runtime.control_runtime);
        Self(shared)
    }

    /// Opens a data stream to `node` of `cluster`, for a caller on `worker`: over a connection that is
    /// there, else over one that is dialled for it. A caller that waits may give up at any time.
    ///
    /// # Errors
    /// [`OpenStreamError`]. [`Code::LinkDown`] if the node cannot be reached, at once if that is known
    /// already; [`Code::OpenTimeout`] if its connections have no room; [`Code::Draining`] if it, or this
    /// node, is going away.
    ///
    /// # Panics
    /// If there is no worker of that number.
    pub async fn open(
        &self,
        worker: usize,
        cluster: &ClusterName,
        node: &NodeName,
        class: Class,
    ) -> Result<PeerStream, OpenStreamError> {
        self.0.open(worker, NodeKey::new(cluster, node), class, StreamKind::Data).await
    }

    /// The nodes of `cluster` with which there is a connection that takes new streams, in order of name.
    #[must_use]
    pub fn connected(&self, cluster: &ClusterName) -> Vec<NodeName> {
        self.0.connections.connected(cluster)
    }

    /// The first of these nodes of `cluster` to which a stream is worth a try: it is connected, or it can be
    /// dialled and was not found dead moments ago. One look at all connections answers for all of them,
    /// however many there are.
    #[must_use]
    pub fn first_reachable<'a>(
        &self,
        cluster: &ClusterName,
        nodes: &[&'a NodeName],
    ) -> Option<&'a NodeName> {
        self.0.first_reachable(cluster, nodes)
    }

    /// A node of `cluster` with which there is a connection that takes new streams: the first by name that
    /// is not one of `except`.
    #[must_use]
    pub fn other_connected(&self, cluster: &ClusterName, except: &[NodeName]) -> Option<NodeName> {
        self.0.connections.other_connected(cluster, except)
    }

    /// The views of linked clusters. The receiver wakes at each change of a view or its source; a mere
    /// confirmation makes a view younger without waking anybody.
    #[must_use]
    pub fn views(&self) -> watch::Receiver<Arc<BTreeMap<ClusterName, ReceivedView>>> {
        self.0.knowledge.views.subscribe()
    }

    /// The bytes that peers may have this node hold at present.
    #[must_use]
    pub fn buffers(&self) -> &BufferBudget {
        &self.0.peers.budget
    }

    /// Sets what the controller of our own cluster is answered whenever it asks for a report: the result of
    /// `report`, encoded. Its argument is the controller's question, encoded, empty from an earlier version.
    /// The first call counts; until then the answer is that nothing is wrong.
    pub fn answer_reports(&self, report: ReportAnswer) {
        drop(self.0.runtime.report.set(report));
    }

    /// Asks a node of our own cluster for its report, and sends it `question`, encoded. Only the controller
    /// is answered.
    ///
    /// # Errors
    /// [`OpenStreamError`]: the node cannot be reached or is of a version that does not answer
    /// ([`Code::VersionMismatch`]), or its answer is no report ([`Code::ProtocolError`]).
    pub async fn ask_report(
        &self,
        node: &NodeName,
        question: &[u8],
    ) -> Result<NodeReport, OpenStreamError> {
        self.0.ask_report(node, question).await
    }

    /// Another living process that has this one's name, as our own cluster reported or a probe found lately.
    #[must_use]
    pub fn own_duplicate(&self) -> Option<OwnDuplicate> {
        self.0.own_duplicate()
    }

    /// The state of everything.
    #[must_use]
    pub fn status(&self) -> LinksStatus {
        self.0.status()
    }

    /// Ends the connections whose certificate has ended by `now`, or which `verifier`, if one is given, no
    /// longer believes: at once if the peer is denied; else they take no new streams from now on and have ten
    /// seconds, in which a peer with a good certificate makes new ones. Call it every few seconds, and with
    /// the verifier whenever its trust has changed. A connection does not learn that its peer's certificate
    /// was renewed.
    pub fn recheck_certificates(&self, verifier: Option<&PeerVerifier>, now: UnixTime) {
        let mut refusals: BTreeMap<String, (usize, BTreeSet<String>)> = BTreeMap::new();
        for (conn, _) in self.0.connections.all() {
            let ended = now > conn.quic.identity().not_after;
            let verified = verifier.map_or(Ok(()), |v| conn.quic.verify(v, now));
            if let Err(refusal) = &verified {
                if !self.0.begin_distrust(&conn, refusal) {
                    continue;
                }
                let (count, peers) = refusals.entry(refusal.to_string()).or_default();
                *count += 1;
                peers.insert(conn.peer.id.to_string());
            } else if ended {
                let why = "its certificate has ended";
                tracing::warn!(peer = %conn.peer.id, "connection ended: {why}");
                conn.quic.close(Code::CertificateEnded, why);
            }
        }
        // One line for each reason, however many connections rest on it: an entry of the deny list, a bundle.
        for (why, (count, peers)) in refusals {
            let peers = peers.into_iter().collect::<Vec<_>>().join(", ");
            tracing::warn!(peers, connections = count, "connections end: {why}");
        }
    }

    /// Asks every peer, now and when it connects later, to open nothing new here; incoming handshakes are
    /// refused. Streams of our own are opened as before, until [`Links::drain`].
    pub fn announce_leaving(&self) {
        self.0.announce_leaving();
    }

    /// Goes away: asks every peer to open nothing new, opens and accepts nothing new, waits up to `within`
    /// for the streams to end, closes all connections and waits a few seconds at most until peers have
    /// received that. Returns how many streams were broken: 0 if all ended by themselves.
    pub async fn drain(&self, within: Duration) -> usize {
        self.0.drain(within).await
    }
}

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Links").field("connections", &self.0.connections.all().len()).finish()
    }
}
