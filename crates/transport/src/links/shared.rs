//! What all tasks of a node's links have in common.

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

/// What is known: by configuration, and of other clusters.
pub(super) struct ClusterKnowledge {
    pub(super) snapshot: watch::Receiver<Arc<Snapshot>>,
    pub(super) views: ViewTable,
    /// What we tell.
    pub(super) publishers: ViewPublishers,
}

/// What is being done.
pub(super) struct LinkRuntime {
    pub(super) tasks: TaskTracker,
    /// Where runs what carries no data.
    pub(super) control_runtime: Handle,
    pub(super) shutdown: ShutdownStages,
    pub(super) serve: Arc<dyn ServeStream>,
    pub(super) dial_history: Arc<DialHistory>,
    pub(super) metrics: LinkMetrics,
    /// What connections may hold.
    pub(super) budget: BufferBudget,
    /// What peers did in vain.
    pub(super) misuse: MisuseTable,
    /// Handshakes of peers that failed.
    pub(super) handshake_faults: HandshakeFaults,
    /// Another process that has this one's name.
    pub(super) duplicate: DuplicateRecord,
    /// What the controller is answered; see [`super::Links::answer_reports`].
    pub(super) report: OnceLock<ReportAnswer>,
}

/// The steps of an end.
#[derive(Debug, Default)]
pub(super) struct ShutdownStages {
    /// Peers are told that they are to open nothing new.
    pub(super) leaving: CancellationToken,
    /// Nothing new is begun.
    pub(super) draining: CancellationToken,
    /// Whoever was told so has had time to hear it: streams of peers are refused, or one that has a right to nothing
    /// could keep this process for as long as streams may last.
    pub(super) peers_informed: CancellationToken,
    /// Nothing goes on.
    pub(super) ended: CancellationToken,
}

impl LinksInner {
    /// What the node believes now.
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.knowledge.snapshot.borrow())
    }
}
