//! The few tools that every crate with tasks and shared state needs.
//!
//! * [`Mutex`] locks without a failure to handle.
//! * [`Tasks`] must run as long as their owner; that one of them ends is an error.
//! * [`count_down`] takes one from a count by key.
//! * [`publish_if_changed`] wakes readers of a `watch` channel only for a value that differs.
//!
//! Nothing here knows what it is used for.

mod counts;
mod mutex;
mod publish;
mod tasks;

pub use self::counts::count_down;
pub use self::mutex::Mutex;
pub use self::publish::publish_if_changed;
pub use self::tasks::{TaskEnded, Tasks};
