//! The state of a controller, as its log and its Lease show it.

use adit_config::config::LogConfig;
use tokio::sync::watch;
use tokio::time::Instant;

/// Phase of a controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ControllerPhase {
    /// Another controller is active, or will be.
    #[default]
    Standby,
    /// Active, and reading the cluster's objects.
    Reading,
    /// Active, and waiting for a configuration that can be used.
    Waiting,
    /// Active.
    Active,
}

/// State of a controller, and what hinders it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ControllerState {
    /// Its phase.
    pub phase: ControllerPhase,
    /// The present problem, for people.
    pub trouble: Option<String>,
    /// The log that the configuration asks for; `None` until it was read, which only an active controller does.
    pub log: Option<LogConfig>,
    /// The time of the API server's last answer about the lease, which is asked for every two seconds.
    pub answered_at: Option<Instant>,
}

impl ControllerState {
    /// Forgets everything but what was learned for good.
    pub(super) fn reset(state: &watch::Sender<Self>) {
        state.send_modify(|now| {
            (now.phase, now.trouble) = (ControllerPhase::default(), None);
        });
    }
}
