//! A value that is replaced as a whole while others read it.
//!
//! Identities and trust are reloaded without a new endpoint: handshakes take what is current when they
//! begin and keep it. Nothing is ever changed in place.

use std::sync::{Arc, PoisonError, RwLock};

/// The current value of something that is replaced now and then.
///
/// Meant for what is read once a handshake, not once a packet: reading takes a lock for as long as it
/// takes to count one reference up.
#[derive(Debug, Default)]
pub struct Current<T>(RwLock<Arc<T>>);

impl<T> Current<T> {
    /// Begins with `value`.
    #[must_use]
    pub fn new(value: T) -> Self {
        Self(RwLock::new(Arc::new(value)))
    }

    /// The value that is current now. The caller's copy stays as it is when the value is replaced.
    #[must_use]
    pub fn get(&self) -> Arc<T> {
        // Nothing can panic while the lock is held, so there is nothing to be half-way through.
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the value for everybody who asks from now on.
    pub fn set(&self, value: T) {
        let value = Arc::new(value);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = value;
    }
}
