//! Bounds on what a node spends on its peers, and on how long it waits for them.
//!
//! Each field says its key, default, bounds and what a larger value costs; the constants beside it are
//! those bounds, so that text and check cannot part.

use std::ops::RangeInclusive;
use std::time::Duration;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// `limits` in the file; every key may be left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitsConfig {
    /// `streamsPerConnection`, default 1024, 1 to 65536: how many streams a peer may have open on one
    /// connection; it opens another connection beyond that. A larger value lets one lost connection take
    /// more streams with it.
    pub streams_per_connection: u32,
    /// `streamsPerPeer`, default 8192, 1 to 1000000: how many streams the nodes of one peer cluster may
    /// have open here, over all connections. An idle one costs about 6 KiB.
    pub streams_per_peer: u32,
    /// `headerDeadline`, default 3s, 100ms to 1m: how long a peer may take to send a stream's header. A
    /// larger value lets a slow or hostile peer hold streams for longer.
    pub header_deadline: Duration,
    /// `dialTimeout`, default 5s, 100ms to 1m: how long a backend may take to accept, and a peer's node
    /// to finish its handshake. A larger value keeps callers waiting before another is tried.
    pub dial_timeout: Duration,
    /// `peerBuffer`, default 32MiB, 1MiB to 16GiB: how many bytes may wait for the stalled streams of one
    /// peer cluster, each charged its window; the windows of its connections, which follow their use, may take
    /// as much again. A larger value costs twice that much memory for each peer that stalls.
    pub peer_buffer: u64,
    /// `processBuffer`, default 256MiB, 1MiB to 64GiB: both for all peers together, a half for each. Not
    /// less than `peerBuffer`.
    pub process_buffer: u64,
    /// `drain`, default 1h, 0s to 1d: how long streams may finish on a process once its successor has taken over,
    /// before they are reset. A larger value keeps an old version for longer; Kubernetes needs a termination grace
    /// period above it and `leave` together.
    pub drain: Duration,
    /// `leave`, default 30s, 0s to 1h: how long a process that is asked to end waits for a successor or for its
    /// streams to end, and serves as before; then what is left is reset. A larger value delays the stop.
    pub leave: Duration,
    /// `unknownSourceHold`, default 0s, 0s to 1m: how long a connection from a source that is not known
    /// yet is held before it is refused. The file's own table of workloads is complete, so there is
    /// nothing to wait for. A larger value costs a descriptor for that time.
    pub unknown_source_hold: Duration,
    /// `interactiveWindow`, default 256KiB, 16KiB to 64MiB: how many bytes one interactive stream may have
    /// under way at first. Over a path of more than 2 ms a fast reader gets more, up to 4 MiB, while there is
    /// memory. A larger value lets requests wait behind more bytes; one stream moves at most a window each round trip.
    pub interactive_window: u64,
    /// `bulkWindow`, default 8MiB, 64KiB to 1GiB: the same for streams of exports with `class: bulk`.
    /// Neither window is above `peerBuffer`.
    pub bulk_window: u64,
    /// `keepAlive`, default 3s, 100ms to 1m: how often an idle connection to a peer is shown to be alive;
    /// two in a row without an answer end it. A larger value costs fewer packets, finds a dead peer
    /// later and above 15s loses its place in the address translation of some networks.
    pub keep_alive: Duration,
    /// `mtu`: the size of packets between nodes.
    pub mtu: MtuConfig,
}

/// `limits.mtu` in the file: bytes of UDP payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MtuConfig {
    /// `initial`, default 1200, 1200 to 6500: the size that is used from the first packet. A larger value
    /// saves the probing on networks that are known to carry it, and on others no connection comes up.
    pub initial: u16,
    /// `max`, default 1452, 1200 to 6500: the size that is probed for. A larger value moves bulk
    /// faster where the network carries it (jumbo frames) and costs receive buffers: 3 MB for each endpoint
    /// at 1452, 13 MB at 6500.
    pub max: u16,
}

impl LimitsConfig {
    /// Bounds of [`streams_per_connection`](Self::streams_per_connection).
    pub const STREAMS_PER_CONNECTION: RangeInclusive<u32> = 1..=65_536;
    /// Bounds of [`streams_per_peer`](Self::streams_per_peer).
    pub const STREAMS_PER_PEER: RangeInclusive<u32> = 1..=1_000_000;
    /// Bounds of [`header_deadline`](Self::header_deadline) and [`dial_timeout`](Self::dial_timeout).
    pub const DEADLINE: RangeInclusive<Duration> =
        Duration::from_millis(100)..=Duration::from_secs(60);
    /// Bounds of [`peer_buffer`](Self::peer_buffer).
    pub const PEER_BUFFER: RangeInclusive<u64> = MIB..=16 * GIB;
    /// Bounds of [`process_buffer`](Self::process_buffer).
    pub const PROCESS_BUFFER: RangeInclusive<u64> = MIB..=64 * GIB;
    /// Bounds of [`drain`](Self::drain).
    pub const DRAIN: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(24 * 3600);
    /// Bounds of [`leave`](Self::leave).
    pub const LEAVE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);
    /// Bounds of [`unknown_source_hold`](Self::unknown_source_hold).
    pub const UNKNOWN_SOURCE_HOLD: RangeInclusive<Duration> =
        Duration::ZERO..=Duration::from_secs(60);
    /// Bounds of [`interactive_window`](Self::interactive_window).
    pub const INTERACTIVE_WINDOW: RangeInclusive<u64> = 16 * KIB..=64 * MIB;
    /// Bounds of [`bulk_window`](Self::bulk_window).
    pub const BULK_WINDOW: RangeInclusive<u64> = 64 * KIB..=GIB;
    /// Bounds of [`keep_alive`](Self::keep_alive).
    pub const KEEP_ALIVE: RangeInclusive<Duration> =
        Duration::from_millis(100)..=Duration::from_secs(60);
    /// Above this, address translation on the way may forget an idle connection.
    pub const NAT_KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);

    /// The life of a connection after the first packet that is not answered: two keep-alives. QUIC counts from
    /// what is sent into silence (RFC 9000 §10.1), so an idle connection ends after three intervals of
    /// silence, and one that carries something after two.
    #[must_use]
    pub fn idle_timeout(&self) -> Duration {
        self.keep_alive * 2
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            streams_per_connection: 1024,
            streams_per_peer: 8192,
            header_deadline: Duration::from_secs(3),
            dial_timeout: Duration::from_secs(5),
            peer_buffer: 32 * MIB,
            process_buffer: 256 * MIB,
            drain: Duration::from_secs(3600),
            leave: Duration::from_secs(30),
            unknown_source_hold: Duration::ZERO,
            interactive_window: 256 * KIB,
            bulk_window: 8 * MIB,
            keep_alive: Duration::from_secs(3),
            mtu: MtuConfig::default(),
        }
    }
}

impl MtuConfig {
    /// Bounds of both sizes. QUIC's own minimum; and what ten packets of fit into one send (GSO), beyond
    /// which quinn falls into a black hole of its own making.
    pub const BYTES: RangeInclusive<u16> = 1200..=6500;
}

impl Default for MtuConfig {
    fn default() -> Self {
        Self { initial: 1200, max: 1452 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_says_how_many_keep_alives_end_a_connection() {
        let limits = LimitsConfig::default();
        assert_eq!(limits.idle_timeout(), limits.keep_alive * 2);
        let said = crate::EXAMPLE.replace("\n  #", "");
        assert!(said.contains("Two in a row without an answer end it"), "two, as the code has");
    }
}
