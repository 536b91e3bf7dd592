//! The state of a controller, as its log and its Lease show it.

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
}
