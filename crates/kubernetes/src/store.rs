//! The objects of one kind that the API server holds, as far as they are known: level-triggered.
//!
//! A [`Store`] keeps all objects that a [`Selector`] names (the server selects, so that other objects cost nothing)
//! and notifies a [`ChangeSignal`] when they change. A subscriber then reads everything again; no event is ever passed
//! on, so none can be missed.
//!
//! * `object_store`: the content. * `list_watch`: the task that keeps it up to date.
//! * `relist_pace`: how often it lists for selectors that change.
//! * `selector`: which objects. * `signal`: who is notified.

mod list_watch;
mod object_store;
mod relist_pace;
mod selector;
mod signal;

pub use self::object_store::{Staleness, Store, StoredObject};
pub use self::selector::Selector;
pub use self::signal::ChangeSignal;

#[cfg(test)]
mod tests;
