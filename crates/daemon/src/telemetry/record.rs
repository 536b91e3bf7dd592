//! A record to be logged: what layer and formats share.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use adit_pki::UnixTime;
use adit_pki::time::rfc3339;
use tracing::Level;

/// The tracing target of the one event that each finished or refused stream leaves.
///
/// Its fields, all optional except `direction` and `code`: `direction` (`outbound`, `inbound`), `source`
/// (`NAMESPACE/ACCOUNT@CLUSTER`), `asserted` (true while the source is only asserted by the peer),
/// `address` (the client's), `target` (`NAMESPACE/SERVICE:PORT`), `peer_cluster`, `peer_node`, `backend`,
/// `code` (a name of the closed list), `refused` (true if nothing was delivered), `reason` (a
/// sentence), `bytes_in` and `bytes_out` (as the opener of the connection sees them), `duration_ms`, `hop`
/// (true if another node than the backend's was entered), `retries` (nodes or backends that refused
/// before), `flow` (joins the lines of both sides).
pub const STREAM: &str = "adit::stream";

/// A record to be logged: the event, its time and its place.
#[derive(Debug)]
pub(super) struct LogRecord {
    /// Since the Unix epoch.
    pub(super) at: Duration,
    pub(super) level: Level,
    /// The event's target: the module, or a fixed name such as [`STREAM`].
    pub(super) module: String,
    pub(super) message: String,
    pub(super) fields: Vec<(&'static str, FieldValue)>,
}

impl LogRecord {
    /// A record of this moment.
    pub(super) fn now(
        level: Level,
        module: impl Into<String>,
        message: impl Into<String>,
        fields: Vec<(&'static str, FieldValue)>,
    ) -> Self {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { at, level, module: module.into(), message: message.into(), fields }
    }
}

/// The value of a field.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum FieldValue {
    Text(String),
    Signed(i128),
    Unsigned(u128),
    Float(f64),
    Bool(bool),
}

impl fmt::Display for FieldValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(s) => f.write_str(s),
            Self::Signed(n) => n.fmt(f),
            Self::Unsigned(n) => n.fmt(f),
            Self::Float(x) => x.fmt(f),
            Self::Bool(b) => b.fmt(f),
        }
    }
}

/// The name of a level, as in configuration and lines.
pub(super) const fn level(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// A point in time as RFC 3339 in UTC with milliseconds, from the Unix epoch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogTimestamp(pub(crate) Duration);

impl fmt::Display for LogTimestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = rfc3339(UnixTime::since_unix_epoch(self.0));
        write!(f, "{}.{:03}Z", seconds.trim_end_matches('Z'), self.0.subsec_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_rfc_3339_with_milliseconds() {
        let stamp = LogTimestamp(Duration::from_millis(951_782_399_007)).to_string();
        assert_eq!(stamp, "2000-02-28T23:59:59.007Z");
    }
}
