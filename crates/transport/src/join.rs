//! Joining by invitation: a connection on which one cluster asks another, once, to be linked.
//!
//! * [`book`]: the invitations that a node knows, and what has become of them. There is none unless an operator has made
//!   one, and while there is none nobody gets in here.
//! * [`serve`]: the inviting node's side of a connection. * [`dial`]: the joining side's, which needs no node.
//! * [`message`]: reading and writing [`adit_core::wire::join`] messages, within bounds.
//!
//! Whoever is here has proved to hold the invitation's key and nothing else. Nothing is decided here: both documents go to
//! the operators' commands.

mod book;
mod dial;
mod message;
mod serve;

pub use self::book::{Applicant, ApplicationAnswer, BookError, InvitationBook, InvitationEnd};
pub use self::dial::{InviterConnection, JoinError, join};
