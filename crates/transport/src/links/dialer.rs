//! Dials: it is given addresses, and gives connections.
//!
//! * [`attempt`]: one attempt, from addresses to a connection. Whether the peer that answers is wanted, and
//!   what becomes of its connection, is the caller's to say.
//! * [`in_flight`]: the dials under way, one at a time for each node, class and worker.
//! * [`history`]: how dialling went, so that a node that is known to be dead is not dialled for every stream.
//!
//! When to dial whom, and at which addresses, is decided above: see [`super::dial`].

mod attempt;
mod history;
mod in_flight;

pub(crate) use self::attempt::{AddressFailure, DialTarget, Dialer, MAX_ADDRESSES};
pub(crate) use self::history::DialFailure;
pub use self::history::DialRecord;
pub(crate) use self::in_flight::{DialKey, DialLeader, DialRole, PendingDial};
