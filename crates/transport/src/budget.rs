//! The budget of bytes that peers may have this node hold.
//!
//! QUIC lets a peer send whatever its windows allow, whether or not anybody takes it. So the windows *are*
//! the memory that a peer may claim, gaps included (RFC 9000 §4.1 counts the highest offset), and this
//! module keeps their sum within bounds:
//!
//! * every connection begins with [`Tuning::WINDOW_AT_FIRST`] and, once its peer is known, is given its
//!   [`Tuning::BASE_RECEIVE_WINDOW`] if the peer's budget has room for it;
//! * it grows while what arrives is *taken* fast enough that the window is what holds it back
//!   ([`windows`]); a peer whose streams are all refused has nothing taken, and gets no more;
//! * a window that is not used any more shrinks to what it was at first;
//! * a stream whose reader stalls would fill the connection's window and stop all others (measured). So the
//!   window grows by what the stalled stream may hold, and that is charged to the peer. When the budget
//!   is spent, the stream that has stalled for longest is reset
//!   ([`Code::OverBudget`](adit_core::code::Code::OverBudget)). While there is budget a stream may stall
//!   for as long as it likes;
//! * what was read to be sent, and waits because the peer does not let it go, is charged as a stalled stream, too
//!   ([`unsent`]).
//!
//! Windows and stalled streams have a budget of the same size each, so that neither starves the other: a
//! peer's is [`BufferLimits::peer`] for each, and of [`BufferLimits::process`] each has a half.
//!
//! [`Tuning::WINDOW_AT_FIRST`]: crate::Tuning::WINDOW_AT_FIRST
//! [`Tuning::BASE_RECEIVE_WINDOW`]: crate::Tuning::BASE_RECEIVE_WINDOW

mod ledger;
mod stall;
mod unsent;
mod windows;

use std::sync::{Arc, MutexGuard};

use adit_core::name::ClusterName;
use adit_runtime::Mutex;
use tokio::sync::Notify;

use self::ledger::BudgetLedger;
pub use self::ledger::{BufferCharges, BufferLimits};
pub use self::stall::StallCharge;
pub use self::unsent::UnsentCharge;
pub(crate) use self::windows::{ConnectionWindows, WindowLimits, WindowSizes, WindowedConnection};

/// The budgets of one process. Cheap to clone; every clone is the same.
#[derive(Debug, Clone)]
pub struct BufferBudget(Arc<Mutex<BudgetLedger>>);

impl BufferBudget {
    /// Nothing is charged yet.
    #[must_use]
    pub fn new(bounds: BufferLimits) -> Self {
        let BufferLimits { process, peer } = bounds;
        Self(Arc::new(Mutex::new(BudgetLedger::new(BufferLimits { process: process / 2, peer }))))
    }

    /// Everything that is charged at present.
    #[must_use]
    pub fn charges(&self) -> BufferCharges {
        self.ledger().charges()
    }

    /// The charges of one peer cluster.
    #[must_use]
    pub fn charges_of(&self, cluster: &ClusterName) -> BufferCharges {
        self.ledger().charges_of(cluster)
    }

    fn ledger(&self) -> MutexGuard<'_, BudgetLedger> {
        self.0.lock()
    }

    /// Charges a window of `bytes`, if there is room for it.
    fn try_reserve(&self, cluster: &ClusterName, bytes: usize) -> bool {
        self.ledger().try_reserve(cluster, bytes)
    }

    /// Charges a window whether or not there is room: it is granted already.
    fn reserve(&self, cluster: &ClusterName, bytes: usize) {
        self.ledger().reserve(cluster, bytes);
    }

    fn release(&self, cluster: &ClusterName, bytes: usize) {
        self.ledger().release(cluster, bytes);
    }

    /// Charges a stalled stream of `bytes`; `evict` is notified when its memory is wanted back. Returns
    /// its number, and whether the connection's window may grow by as much.
    fn stall(&self, cluster: &ClusterName, bytes: usize, evict: &Arc<Notify>) -> (u64, bool) {
        self.ledger().stall(cluster, bytes, Arc::downgrade(evict))
    }
}
