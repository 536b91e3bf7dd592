//! The direction of a flow.

/// The direction in which a flow's connection was opened, as seen from this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// By a local workload.
    Outbound,
    /// By a peer's.
    Inbound,
}

impl Direction {
    /// As in logs and metric labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}
