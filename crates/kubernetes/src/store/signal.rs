//! The signal by which stores report changes.

use tokio::sync::watch;

/// A signal that any of the stores that share it has changed, or has become or ceased to be up to
/// date.
#[derive(Debug, Clone, Default)]
pub struct ChangeSignal(watch::Sender<u64>);

impl ChangeSignal {
    /// Notifies all subscribers.
    pub fn notify(&self) {
        self.0.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Subscribes from now on: wait with [`watch::Receiver::changed`].
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}
