//! Signals, as a stream of actions that they ask for.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that mean something here.
#[derive(Debug)]
pub(crate) struct ProcessSignals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// The action that a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SignalAction {
    /// SIGTERM, SIGINT: go away. The number is the signal's.
    End(u8),
    /// SIGHUP: read the files again.
    Reload,
}

impl ProcessSignals {
    /// From now on these signals do not end the process by themselves.
    ///
    /// # Errors
    /// If they cannot be caught.
    pub(crate) fn catch() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next one.
    pub(crate) async fn next(&mut self) -> SignalAction {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => SignalAction::End(15),
            _ = self.interrupt.recv() => SignalAction::End(2),
            _ = self.hangup.recv() => SignalAction::Reload,
        }
    }
}

/// Waits for the signal that asks to go away, and returns its number.
pub(crate) async fn end_requested(signals: &mut ProcessSignals) -> u8 {
    loop {
        if let SignalAction::End(signal) = signals.next().await {
            return signal;
        }
    }
}
