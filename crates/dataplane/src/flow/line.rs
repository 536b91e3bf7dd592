//! The log line of a flow.

use std::fmt::Write as _;
use std::time::Duration;

use adit_core::code::Code;

use super::Flow;
use super::direction::Direction;

impl Flow {
    /// The one line of the flow. Its fields have fixed names, which people's tools and `adit demo` read;
    /// what is not known is left out. Bytes are as the opener of the connection sees them.
    ///
    /// Where there are many, only some are logged: see [`LogLimit`](super::log_limit::LogLimit).
    pub(super) fn log(&self, code: Code, duration: Duration) {
        let cluster = self.peer.as_ref().map(|(cluster, _)| cluster);
        let Some(unlogged) = self.flows.0.log_limit.admit(self.direction, code, cluster) else {
            return;
        };
        let (out, back) = match self.direction {
            Direction::Outbound => (&self.sent, &self.received),
            Direction::Inbound => (&self.received, &self.sent),
        };
        let (source_address, backend) = match self.direction {
            Direction::Outbound => (self.workload, None),
            Direction::Inbound => (None, self.workload),
        };
        let reason = self.end.as_ref().err().map(|f| f.reason.as_str()).filter(|r| !r.is_empty());
        let id = self.id.iter().fold(String::with_capacity(32), |mut id, byte| {
            // Writing to a string cannot fail.
            write!(id, "{byte:02x}").ok();
            id
        });
        tracing::info!(
            target: "adit::stream",
            direction = self.direction.name(),
            code = code.name(),
            refused = code.is_refusal(),
            source = self.source.as_ref().map(display),
            // An inbound source is what the peer's daemon says; that daemon's ID is what is verified.
            asserted = self.source.as_ref().map(|_| self.direction == Direction::Inbound),
            address = source_address.map(display),
            target = self.target.as_ref().map(display),
            peer_cluster = self.peer.as_ref().map(|(cluster, _)| display(cluster)),
            peer_node = self.peer.as_ref().map(|(_, node)| display(node)),
            backend = backend.map(display),
            reason,
            bytes_out = out.bytes(),
            bytes_in = back.bytes(),
            duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            probe = self.is_probe.then_some(true),
            hop = self.hop,
            retries = self.retries,
            unlogged = (unlogged > 0).then_some(unlogged),
            flow = id,
            "{}",
            code.text()
        );
    }
}
