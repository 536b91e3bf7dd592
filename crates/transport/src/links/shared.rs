//! The state that all tasks of a node's links share.

use std::sync::{Arc, OnceLock};

use adit_core::snapshot::Snapshot;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::ServeStream;
use super::dial_history::DialHistory;
use super::duplicate_identity::DuplicateRecord;
use super::handshake_faults::HandshakeFaults;
use super::metrics::LinkMetrics;
use super::misuse::MisuseTable;
use super::publisher::ViewPublishers;
use super::settings::{LinkContext, ReportAnswer};
use super::table::ConnectionTable;
use super::views::ViewTable;
use crate::budget::BufferBudget;
use crate::endpoint::Endpoints;

/// A node's links, as its tasks see them.
pub(super) struct LinksInner {
    pub(super) context: LinkContext,
    pub(super) endpoints: Endpoints,
    pub(super) knowledge: ClusterKnowledge,
    pub(super) connections: ConnectionTable,
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
    pub(super) dial_history: Arc<DialHistory>,
    pub(super) metrics: LinkMetrics,
    /// The budget of what connections may hold.
    pub(super) budget: BufferBudget,
    /// The record of what peers did in vain.
    pub(super) misuse: MisuseTable,
    /// Handshakes of peers that failed.
    pub(super) handshake_faults: HandshakeFaults,
    /// Another process that has this one's name.
    pub(super) duplicate: DuplicateRecord,
    /// The answer to the controller's reports; see [`super::Links::answer_reports`].
    pub(super) report: OnceLock<ReportAnswer>,
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
