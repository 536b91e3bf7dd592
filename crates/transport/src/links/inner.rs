//! The state that all tasks of a node's links share: the three owners, what is known, and what runs.
//!
//! The owners ([`super::connections`], [`super::dialer`], [`super::state`]'s tables) do not know it.

use std::sync::{Arc, OnceLock};

use adit_core::snapshot::Snapshot;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connections::ConnectionTable;
use super::context::{LinkContext, ReportAnswer};
use super::dialer::Dialer;
use super::duplicate_record::DuplicateRecord;
use super::handshake_faults::HandshakeFaults;
use super::metrics::LinkMetrics;
use super::misuse::MisuseTable;
use super::state::publisher::ViewPublishers;
use super::state::views::ViewTable;
use super::stream::ServeStream;
use crate::budget::BufferBudget;
use crate::endpoint::Endpoints;

/// A node's links, as its tasks see them.
pub(super) struct LinksInner {
    pub(super) context: LinkContext,
    pub(super) endpoints: Endpoints,
    pub(super) knowledge: ClusterKnowledge,
    /// The connections that there are.
    pub(super) connections: ConnectionTable,
    /// The dialler, which makes more of them.
    pub(super) dialer: Dialer,
    pub(super) peers: PeerRecords,
    pub(super) runtime: LinkRuntime,
}

/// The node's knowledge: its snapshot, and the views of other clusters.
pub(super) struct ClusterKnowledge {
    pub(super) snapshot: watch::Receiver<Arc<Snapshot>>,
    pub(super) views: ViewTable,
    /// The publishers of views.
    pub(super) publishers: ViewPublishers,
}

/// The services that tasks use.
pub(super) struct LinkRuntime {
    pub(super) tasks: TaskTracker,
    /// The runtime for all that carries no data.
    pub(super) control_runtime: Handle,
    pub(super) shutdown: ShutdownStages,
    pub(super) serve: Arc<dyn ServeStream>,
    /// The answer to the controller's reports; see [`super::Links::answer_reports`].
    pub(super) report: OnceLock<ReportAnswer>,
}

/// The records of what peers cost, and of what they did.
#[derive(Debug)]
pub(super) struct PeerRecords {
    /// The budget of what connections may hold.
    pub(super) budget: BufferBudget,
    pub(super) metrics: LinkMetrics,
    /// The record of what peers did in vain.
    pub(super) misuse: MisuseTable,
    /// Handshakes of peers that failed.
    pub(super) handshake_faults: HandshakeFaults,
    /// Another process that has this one's name.
    pub(super) duplicate: DuplicateRecord,
}

/// The steps of an end.
#[derive(Debug, Default)]
pub(super) struct ShutdownStages {
    /// Peers are asked to open nothing new.
    pub(super) leaving: CancellationToken,
    /// Nothing new is begun.
    pub(super) draining: CancellationToken,
    /// Peers have had time to receive that: their new streams are refused, or a peer that has a right to
    /// nothing could keep this process for as long as streams may last.
    pub(super) peers_informed: CancellationToken,
    /// Nothing goes on.
    pub(super) ended: CancellationToken,
}

impl LinksInner {
    /// The node's present snapshot.
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.knowledge.snapshot.borrow())
    }
}
