//! The numbers that decide how QUIC behaves, each with its reason.
//!
//! One [`Tuning`] per node; what differs between interactive and bulk connections is in its two
//! [`ClassTuning`]s. The operator's file may set any of them. What is fixed, and why, is in
//! [`Tuning::transport`].

mod congestion;
mod path;

use std::sync::Arc;
use std::time::Duration;

use adit_core::admission::rate_limit::RateLimit;
use adit_core::snapshot::Class;
use quinn::{AckFrequencyConfig, MtuDiscoveryConfig, TransportConfig, VarInt};

use self::congestion::CappedControllerFactory;
pub(crate) use self::congestion::acknowledged_packets;
use crate::budget::{WindowLimits, WindowSizes};
use crate::stream_credit::CreditLimits;

/// The congestion controller of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CongestionControl {
    /// BBR, under a ceiling of our own.
    ///
    /// Between clusters a loss is rarely a full queue. Measured over 50 ms with 1 % loss, 32 streams
    /// on one connection: 601 to 612 requests a second of 640 with a p99 of 104 to 110 ms, and
    /// 354 Mbit/s in bulk; CUBIC reached 338 with 254 ms, and 4 Mbit/s. Without loss the two are level
    /// (475 and 480 Mbit/s). quinn calls its BBR experimental: while an application sends little, its
    /// window grows without bound (quinn#2798), which the ceiling stops.
    Bbr,
    /// CUBIC (RFC 9438), for paths whose owner wants what TCP would do.
    Cubic,
}

/// The settings in which the connections of the two traffic classes differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassTuning {
    /// Bytes that a peer may send on one stream before the reader has taken them, at first. One stream's rate is
    /// at most this much a round trip, and a stalled reader costs up to this much memory. The window of
    /// the whole connection follows use: see [`crate::budget`].
    pub stream_window: u32,
    /// The largest window that a stream may reach if the path is long and the reader fast, see
    /// [`crate::stream_credit`]; no less than `stream_window` in any case. Peers that know no credit have it
    /// from the start.
    pub max_stream_window: u32,
    /// Bytes sent and not yet acknowledged, over all streams of a connection, once it has been used as
    /// much; writers wait beyond it. It is memory of this node's, and the congestion window's ceiling.
    pub send_window: u32,
    /// The congestion controller.
    pub congestion: CongestionControl,
    /// Bytes that may be sent before anything is known of the path.
    pub initial_window: u32,
}

/// The sizes of datagrams, as UDP payload in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MtuBounds {
    /// The size with which a connection begins. More than 1200 saves the search on paths that are known.
    pub initial: u16,
    /// The size that every path is trusted to carry; never less than 1200 (RFC 9000 §14).
    pub min: u16,
    /// The size at which the search ends, at most [`MtuBounds::MAX`]. It sizes the receive buffer too: an
    /// endpoint has room for 2048 datagrams of it.
    pub max: u16,
}

impl MtuBounds {
    /// quinn sends batches of ten segments, and a batch beyond 65507 bytes is refused by the system
    /// and silently lost: larger datagrams end in the smallest ones (measured).
    pub const MAX: u16 = 6500;
}

/// Limits on handshakes that peers begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandshakeLimits {
    /// While more handshakes than this are under way with peers that have not proved their address,
    /// new ones are asked to prove it first (Retry), which costs them a round trip and us no memory.
    pub retry_above: usize,
    /// Handshakes under way at once, over all endpoints; first packets beyond it are not answered.
    pub handshakes: usize,
    /// The part of these that is for addresses at which nodes of linked clusters are known to be, in equal
    /// parts; strangers get no more than the rest.
    pub reserved: usize,
    /// The rate at which handshakes may begin, over all endpoints, that hold no reserved place. Each takes a
    /// millisecond or two of a processor: all that this lets strangers take is a tenth of one. It is less
    /// than what ends within `timeout`, so that places are never all taken for long.
    pub strangers: RateLimit,
    /// The rate at which handshakes of one cluster may begin that hold a place of its part: its nodes may all
    /// come back at once.
    pub known: RateLimit,
    /// The most handshakes of peers with a validated address from one IPv4 address or one IPv6 network of 64
    /// bits: nobody keeps all others out by beginning handshakes that he does not go on with. (Unvalidated
    /// ones are not counted so: anybody could claim a friend's address.)
    pub per_source: usize,
    /// First packets that wait to be handled; further ones are dropped unanswered.
    pub waiting: usize,
    /// Bytes kept for handshakes that wait, over all endpoints.
    pub waiting_bytes: u32,
    /// A handshake ends in this time or not at all; for our own dials, too. First packets that are
    /// lost are sent again after 0.15, 0.45, 1.05, 2.25 and 4.65 seconds.
    pub timeout: Duration,
}

/// Everything that can be tuned. The defaults are for clusters some tens of milliseconds apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// Requests, answers, events: a window small enough that nothing queues behind a transfer
    /// (measured: RPC p50 of 1.8 ms beside two saturating flows, 5.2 ms with 1 MiB).
    pub interactive: ClassTuning,
    /// Large transfers: a window for 1 Gbit/s at 60 ms.
    pub bulk: ClassTuning,
    /// Streams for data that a peer may have open at once on one connection, at most, besides
    /// [`Tuning::OWN_STREAMS`]. A connection begins with [`Tuning::STREAMS_AT_FIRST`] of both, and gets
    /// more as it uses them.
    pub streams: u32,
    /// A silent connection sends something within this time: below the 15 to 30 s for which NATs and conntrack
    /// remember a UDP flow. Its dialler does so after a third of it, and so notices within that and a round
    /// trip that the other side was started again; the other side, where nothing comes, after two fifths of it.
    pub keep_alive: Duration,
    /// A connection is dead this long after the first keep-alive that nothing was received since: two further
    /// ones, of which one may be late, and more than their probes (QUIC counts from what is sent into
    /// silence, RFC 9000 §10.1). The lower of both sides' values holds. After a cut QUIC tries again at
    /// intervals that double, so a cut of more than half of this may end a connection in mid-transfer.
    pub idle_timeout: Duration,
    /// The round trip that is assumed before one is measured. A lost first packet is sent again after
    /// three times this.
    pub initial_rtt: Duration,
    /// Datagram sizes.
    pub mtu: MtuBounds,
    /// Ask the peer to acknowledge only every so many packets. `None` is QUIC's two; ten saves 5 to
    /// 10 % of CPU in bulk and coarsens what BBR sees.
    pub ack_every: Option<u32>,
    /// Hand packets to the system in batches (GSO). Off costs two thirds of the throughput (measured);
    /// for network cards that break them.
    pub segmentation_offload: bool,
    /// Limits on handshakes that peers begin.
    pub handshakes: HandshakeLimits,
    /// The least time between two stateless resets of one endpoint. They answer only packets with a
    /// connection ID of ours, so this bounds how fast a restarted node ends its old connections: a
    /// thousand a second.
    pub reset_interval: Duration,
    /// Receive buffer of a listening socket, in bytes; see [`adit_host::udp`].
    pub receive_buffer: usize,
    /// Send buffer of a listening socket, in bytes.
    pub send_buffer: usize,
    /// Which of several processes that share a listening address this is: 0 unless another process
    /// handed its sockets over.
    pub generation: u8,
}

/// A dead node is noticed by who dialled it after two and a third of these, by others little later.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(3);
const MIB: u32 = 1 << 20;

impl Default for Tuning {
    fn default() -> Self {
        let interactive = ClassTuning {
            stream_window: MIB / 4,
            // 80 MB/s over 50 ms.
            max_stream_window: 4 * MIB,
            send_window: 4 * MIB,
            congestion: CongestionControl::Bbr,
            // A request's body of some 50 KB fits the first flight; TCP's ten segments would not do.
            initial_window: MIB / 16,
        };
        Self {
            interactive,
            bulk: ClassTuning {
                stream_window: 8 * MIB,
                // It has all of its window from the start.
                max_stream_window: 0,
                send_window: 16 * MIB,
                ..interactive
            },
            streams: 1024,
            keep_alive: KEEP_ALIVE_INTERVAL,
            idle_timeout: KEEP_ALIVE_INTERVAL.saturating_mul(2),
            initial_rtt: Duration::from_millis(50),
            mtu: MtuBounds { initial: 1200, min: 1200, max: 1452 },
            ack_every: None,
            segmentation_offload: true,
            handshakes: HandshakeLimits {
                retry_above: 128,
                handshakes: 1024,
                // Each costs some 80 KiB (measured): strangers have 20 MiB at most.
                reserved: 768,
                strangers: RateLimit { burst: 256, per_second: 48 },
                known: RateLimit { burst: 1024, per_second: 32 },
                per_source: 64,
                waiting: 1024,
                waiting_bytes: 8 * MIB,
                timeout: Duration::from_secs(5),
            },
            reset_interval: Duration::from_millis(1),
            receive_buffer: 4 * MIB as usize,
            send_buffer: 2 * MIB as usize,
            generation: 0,
        }
    }
}

impl Tuning {
    /// Streams that a peer may have open on a new connection. quinn keeps some 120 bytes for each
    /// (measured), used or not, which at 1024 would be twice what the rest of a connection takes.
    pub const STREAMS_AT_FIRST: u32 = 128;

    /// Streams that nodes use among themselves: control, and state of several clusters or in the moment in
    /// which one stream takes another's place.
    pub const OWN_STREAMS: u32 = 8;

    /// Both windows of a new connection, in bytes: what anybody who finishes a handshake may have this node
    /// hold on it before the peer is known, and what a connection keeps if its peer has spent its budget.
    /// Hello and header take less than a kilobyte.
    pub const WINDOW_AT_FIRST: u32 = 32 << 10;

    /// The receive window of a connection whose peer is known, in bytes: two interactive streams that
    /// stall, until what they hold is charged and the window grows by it. Some fifty connections of one
    /// peer cluster have it within the default budget.
    pub const BASE_RECEIVE_WINDOW: u32 = MIB / 2;

    /// The send window of such a connection, in bytes: a first flight, twice.
    pub const BASE_SEND_WINDOW: u32 = MIB / 8;

    /// The sizes that the windows of a connection may have. One of the bulk class with a peer that has
    /// nothing to carry in bulk is treated as `Interactive`: the dialler chooses the class.
    pub(crate) fn windows(&self, class: Class) -> WindowLimits {
        let tuning = self.for_class(class);
        let first = u64::from(Self::WINDOW_AT_FIRST);
        let send = u64::from(tuning.send_window).max(first);
        let most = WindowSizes { receive: send.max(u64::from(tuning.stream_window) * 2), send };
        // A transfer needs more from the start: growing to a bulk window takes some ten round trips (measured:
        // 302 instead of 349 Mbit/s over four seconds at 50 ms).
        let (receive, send) = match class {
            Class::Interactive => (Self::BASE_RECEIVE_WINDOW, Self::BASE_SEND_WINDOW),
            Class::Bulk => (4 * Self::BASE_RECEIVE_WINDOW, 8 * Self::BASE_SEND_WINDOW),
        };
        let base = WindowSizes {
            receive: u64::from(receive).min(most.receive),
            send: u64::from(send).min(most.send),
        };
        WindowLimits { first, base, max: most }
    }

    /// The windows of a stream of a class: at first, and at most, which is QUIC's.
    pub(crate) fn stream_windows(&self, class: Class) -> CreditLimits {
        let ClassTuning { stream_window, max_stream_window: most_stream_window, .. } =
            *self.for_class(class);
        let most = most_stream_window.max(stream_window);
        CreditLimits { first: stream_window.into(), most: most.into() }
    }

    /// All streams that a peer may have open at once on one connection, at most.
    pub(crate) fn all_streams(&self) -> u32 {
        self.streams.saturating_add(Self::OWN_STREAMS)
    }

    /// The settings of a traffic class.
    #[must_use]
    pub fn for_class(&self, class: Class) -> &ClassTuning {
        match class {
            Class::Interactive => &self.interactive,
            Class::Bulk => &self.bulk,
        }
    }

    /// quinn's settings for a connection of `class`. All that is not set here stays at quinn's default. The
    /// windows are those of a peer that is not known yet: see [`crate::budget`].
    pub(crate) fn transport(&self, class: Class) -> Arc<TransportConfig> {
        Arc::new(self.transport_config(class))
    }

    /// quinn's settings for a connection that we dial. A dialler speaks up more often, since it alone is told
    /// at once that the other side was started again: the process that answers at the listening port says so
    /// (stateless reset), but nobody does at the port that was dialled from.
    pub(crate) fn dialler_transport(&self, class: Class) -> Arc<TransportConfig> {
        let mut config = self.transport_config(class);
        config.keep_alive_interval(Some(self.keep_alive / 3));
        Arc::new(config)
    }

    /// quinn's settings for a connection of somebody who joins by invitation: he opens no stream, and what he may
    /// have this node hold is what any unknown peer may.
    pub(crate) fn inviter_transport(&self) -> Arc<TransportConfig> {
        let mut config = self.transport_config(Class::Interactive);
        config.max_concurrent_bidi_streams(VarInt::from_u32(0));
        Arc::new(config)
    }

    /// quinn's settings for joining by invitation: one stream, which the other side opens.
    pub(crate) fn invitee_transport(&self) -> Arc<TransportConfig> {
        let mut config = self.transport_config(Class::Interactive);
        config
            .max_concurrent_bidi_streams(VarInt::from_u32(1))
            .keep_alive_interval(Some(self.keep_alive / 3));
        Arc::new(config)
    }

    fn transport_config(&self, class: Class) -> TransportConfig {
        let tuning = self.for_class(class);
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(self.mtu.max.min(MtuBounds::MAX));
        let mut config = TransportConfig::default();
        config
            .stream_receive_window(tuning.stream_window.max(tuning.max_stream_window).into())
            .receive_window(Self::WINDOW_AT_FIRST.into())
            .send_window(Self::WINDOW_AT_FIRST.into())
            .max_concurrent_bidi_streams(self.all_streams().min(Self::STREAMS_AT_FIRST).into())
            // Every stream of ours goes both ways, and nothing is worth losing.
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .datagram_receive_buffer_size(None)
            // Nothing is sent for it while the dialler does: what comes puts it off. Once nothing comes, this is when
            // the silence begins to be counted.
            .keep_alive_interval(Some(self.keep_alive * 2 / 5))
            // A value beyond 2^62 ms, which does not fit, is as good as none.
            .max_idle_timeout(self.idle_timeout.try_into().ok())
            .initial_rtt(self.initial_rtt)
            .initial_mtu(self.mtu.initial.min(MtuBounds::MAX))
            .min_mtu(self.mtu.min.min(MtuBounds::MAX))
            .mtu_discovery_config(Some(discovery))
            .enable_segmentation_offload(self.segmentation_offload)
            .congestion_controller_factory(Arc::new(CappedControllerFactory::from(tuning)));
        if let Some(threshold) = self.ack_every {
            let mut frequency = AckFrequencyConfig::default();
            frequency.ack_eliciting_threshold(threshold.into());
            config.ack_frequency_config(Some(frequency));
        }
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(tuning: &Tuning, class: Class) -> String {
        format!("{:?}", tuning.transport(class))
    }

    #[test]
    fn lanes_differ_in_their_windows_only() {
        let tuning = Tuning::default();
        let (interactive, bulk) = (shown(&tuning, Class::Interactive), shown(&tuning, Class::Bulk));
        assert!(interactive.contains("stream_receive_window: 4194304"), "{interactive}");
        assert!(bulk.contains("stream_receive_window: 8388608"), "{bulk}");
        assert_eq!(bulk.replace("8388608", "4194304"), interactive);
        let first = |class| tuning.stream_windows(class).first;
        assert_eq!((first(Class::Interactive), first(Class::Bulk)), (256 << 10, 8 << 20));
        let most = |class| tuning.windows(class).max;
        assert_eq!(most(Class::Interactive), WindowSizes { receive: 4 << 20, send: 4 << 20 });
        assert_eq!(most(Class::Bulk), WindowSizes { receive: 16 << 20, send: 16 << 20 });
    }

    #[test]
    fn what_must_not_be_tuned_is_not() {
        let shown = shown(&Tuning::default(), Class::Interactive);
        for fixed in [
            // Before a peer is known it can have next to nothing held here.
            " receive_window: 32768",
            " send_window: 32768",
            "max_concurrent_uni_streams: 0",
            "datagram_receive_buffer_size: None",
            "max_concurrent_bidi_streams: 128",
        ] {
            assert!(shown.contains(fixed), "{fixed} is not in {shown}");
        }
    }

    #[test]
    fn datagrams_stay_below_what_can_be_sent_in_batches() {
        let mtu = MtuBounds { initial: 8952, min: 8952, max: 8952 };
        let shown = shown(&Tuning { mtu, ..Tuning::default() }, Class::Bulk);
        assert!(!shown.contains("8952"), "{shown}");
        for bound in ["initial_mtu: 6500", "min_mtu: 6500", "upper_bound: 6500"] {
            assert!(shown.contains(bound), "{bound} is not in {shown}");
        }
    }
}
