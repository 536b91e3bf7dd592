//! What all tasks of a node's links have in common.

use std::sync::{Arc, OnceLock};

use adit_core::snapshot::Snapshot;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Serve;
use super::dials::Dials;
use super::doubled::DoubleRecord;
use super::faults::FaultTable;
use super::feeds::Feeds;
use super::local::{Local, ReportAnswer};
use super::metrics::Metrics;
use super::misuse::MisuseTable;
use super::register::Register;
use super::views::Views;
use crate::budget::BufferBudget;
use crate::endpoint::Endpoints;

/// A node's links, as its tasks see them.
pub(super) struct Shared {
    pub(super) local: Local,
    pub(super) endpoints: Endpoints,
    pub(super) known: Known,
    pub(super) register: Register,
    pub(super) work: Work,
}

/// What is known: by configuration, and of other clusters.
pub(super) struct Known {
    pub(super) snapshot: watch::Receiver<Arc<Snapshot>>,
    pub(super) views: Views,
    /// What we tell.
    pub(super) feeds: Feeds,
}

/// What is being done.
pub(super) struct Work {
    pub(super) tasks: TaskTracker,
    /// Where runs what carries no data.
    pub(super) control: Handle,
    pub(super) stages: Stages,
    pub(super) serve: Arc<dyn Serve>,
    pub(super) dials: Arc<Dials>,
    pub(super) metrics: Metrics,
    /// What connections may hold.
    pub(super) budget: BufferBudget,
    /// What peers did in vain.
    pub(super) misuse: MisuseTable,
    /// Handshakes of peers that failed.
    pub(super) faults: FaultTable,
    /// Another process that has this one's name.
    pub(super) double: DoubleRecord,
    /// What the controller is answered; see [`super::Links::answer_reports`].
    pub(super) report: OnceLock<ReportAnswer>,
}

/// The steps of an end.
#[derive(Debug, Default)]
pub(super) struct Stages {
    /// Peers are told that they are to open nothing new.
    pub(super) leaving: CancellationToken,
    /// Nothing new is begun.
    pub(super) draining: CancellationToken,
    /// Whoever was told so has had time to hear it: streams of peers are refused, or one that has a right to nothing
    /// could keep this process for as long as streams may last.
    pub(super) heard: CancellationToken,
    /// Nothing goes on.
    pub(super) ended: CancellationToken,
}

impl Shared {
    /// What the node believes now.
    pub(super) fn now(&self) -> Arc<Snapshot> {
        Arc::clone(&self.known.snapshot.borrow())
    }
}
