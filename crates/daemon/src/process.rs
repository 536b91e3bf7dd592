//! The parts that every long-running process of ours has, be it a node or a controller: its log, its signals, its
//! panics, and the ways in which it ends.

mod exit;
pub(crate) mod link_context;
pub(crate) mod log;
pub(crate) mod panics;
pub(crate) mod setup;
pub(crate) mod signals;
pub mod tuning;

pub(crate) use self::exit::report_lines;
pub use self::exit::{ProcessExit, StartError};
