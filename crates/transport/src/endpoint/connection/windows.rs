//! A connection's windows and the credit of its streams: what its peer may send, and what that is charged.

use std::time::Duration;

use adit_core::name::ClusterName;
use adit_core::snapshot::Class;

use super::QuicConnection;
use crate::budget::{BufferBudget, ConnectionWindows, UnsentCharge, WindowedConnection};
use crate::stream_credit::{CreditLimits, ReceiveCredit, StreamCredits};
use crate::tuning::Tuning;

impl QuicConnection {
    /// Charges what it may hold to the budget of its peer's cluster, from now on and once, and lets it have
    /// as much as a connection of `class` may: `Interactive` unless the peer has something to carry in
    /// bulk. Until then it may hold [`Tuning::WINDOW_AT_FIRST`].
    pub fn charge_to(
        &self,
        budget: &BufferBudget,
        cluster: &ClusterName,
        tuning: &Tuning,
        class: Class,
    ) {
        self.0.windows.get_or_init(|| {
            let limits = tuning.windows(class);
            ConnectionWindows::new(&self.0.quinn, budget.clone(), cluster.clone(), limits)
        });
    }

    /// Its windows, if its peer is known, and the connection that sets them.
    pub(crate) fn windows(&self) -> Option<(&ConnectionWindows, &quinn::Connection)> {
        Some((self.0.windows.get()?, &self.0.quinn))
    }

    /// Charges to its peer what was read to be sent on one of its streams, and has to wait. `None` while it is not
    /// known whose it is.
    #[must_use]
    pub fn charge_unsent(&self, bytes: usize) -> Option<UnsentCharge> {
        self.windows().map(|(windows, _)| windows.charge_unsent(bytes))
    }

    /// Changes how large its windows may become.
    pub(crate) fn limit_windows(&self, tuning: &Tuning, class: Class) {
        if let Some((windows, _)) = self.windows() {
            windows.limit(tuning.windows(class));
        }
    }

    /// Lets its windows shrink if they have grown and are not used.
    pub(crate) fn shrink_windows_if_unused(&self) {
        if let Some((windows, quinn)) = self.windows() {
            windows.shrink_if_unused(quinn);
        }
    }

    /// The bytes that the peer may send on one stream before they are taken, if nothing less was agreed on.
    pub(crate) fn stream_window(&self) -> u64 {
        self.0.facts.stream_windows.most
    }

    /// The windows that its streams may have if the peer keeps to credit. In the bulk class all have the
    /// largest from the start.
    pub(crate) fn credit_limits(&self) -> Option<CreditLimits> {
        Some(self.0.facts.stream_windows).filter(|_| self.class() == Class::Interactive)
    }

    /// Has all streams from here on keep to credit, if the peer does so: its hello named how much it accepts
    /// at first. Both sides see both hellos, and so agree.
    pub(crate) fn enable_credits(&self, peer_window: u64) {
        if let Some(limits) = self.credit_limits().filter(|_| peer_window > 0) {
            self.0.credits.get_or_init(|| StreamCredits::new(peer_window, limits));
        }
    }

    /// The credit of its streams, if both sides keep to credit.
    pub(crate) fn credits(&self) -> Option<&StreamCredits> {
        self.0.credits.get()
    }

    /// Bytes of one of its streams were taken, so the peer may be granted more.
    pub(crate) fn grant_credit(&self, stream: u64, grant: &mut ReceiveCredit, taken: u64) {
        let Some(credits) = self.credits() else { return };
        credits.taken(stream, grant, taken, || {
            let is_pressed = self.windows().is_none_or(|(windows, _)| windows.is_pressed());
            (self.0.quinn.rtt(), is_pressed)
        });
    }

    /// Bytes that the peer sent were taken.
    pub(crate) fn bytes_taken(&self, bytes: usize, pieces: usize) {
        self.0.facts.pieces.add_taken(pieces);
        if let Some((windows, quinn)) = self.windows() {
            windows.bytes_taken(quinn, bytes as u64);
        }
    }

    /// Bytes were given to it to send.
    pub(crate) fn bytes_sent(&self, bytes: usize) {
        if let Some((windows, quinn)) = self.windows() {
            windows.bytes_sent(quinn, bytes as u64);
        }
    }
}

impl WindowedConnection for quinn::Connection {
    fn set_receive_window(&self, bytes: u64) {
        // A value that does not fit is as good as none.
        self.set_receive_window(quinn::VarInt::from_u64(bytes).unwrap_or(quinn::VarInt::MAX));
    }

    fn set_send_window(&self, bytes: u64) {
        self.set_send_window(bytes);
    }

    fn rtt(&self) -> Duration {
        self.rtt()
    }
}
