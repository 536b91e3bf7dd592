//! Frames beside those of streams, where a packet or a connection brings more of them than any honest peer sends.
//!
//! Each costs a few bytes and no window, and takes quinn some 20 ns or more (0.11.19):
//!
//! * An acknowledgement may name six hundred ranges, each of which is looked up among what was sent. quinn's own name
//!   [`ORDINARY_RANGES`] at most. As many as these are honest on a path that loses much, but not more acknowledgements than
//!   there are packets that they can be of ([`AckAllowance`]).
//! * A ping is one byte, so that a packet holds more than a thousand.
//! * A connection ID that the peer gives or needs no more is told to the endpoint in a message of a hundred bytes; these wait
//!   without a bound while other packets come. Two bytes of a packet say it, for the same ID again and again.

use super::frames::FrameOutline;

/// Frames that one packet of an honest peer may bring, of those that are said of a stream (its window, its end), and of
/// all other kinds.
const ORDINARY_FRAMES: u64 = 48;
/// Ranges that its acknowledgement names beside the first.
const ORDINARY_RANGES: u64 = 64;
/// Packets of ours, sent and not acknowledged yet, that an acknowledgement may still come for: more than the largest window
/// of a connection holds.
const MAX_UNACKNOWLEDGED: u64 = 1 << 16;

/// The frames of one packet that are no pieces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct FrameNoise {
    frames: u64,
    of_streams: u64,
    acknowledgements: u64,
    ranges: u64,
    /// Connection IDs that are given or needed no more.
    pub(super) ids: u64,
}

impl FrameNoise {
    pub(super) fn add(&mut self, frame: FrameOutline) {
        match frame {
            FrameOutline::Crypto | FrameOutline::Stream(_) => {}
            FrameOutline::Acknowledgement { ranges } => {
                self.acknowledgements += 1;
                self.ranges = self.ranges.saturating_add(ranges);
            }
            FrameOutline::ConnectionId => self.ids += 1,
            FrameOutline::Reset(_) | FrameOutline::StreamControl => self.of_streams += 1,
            FrameOutline::Other | FrameOutline::Unreadable => self.frames += 1,
        }
    }

    /// Frames about streams that are more than an honest peer sends, but where many streams end in one moment.
    pub(super) fn excess_of_streams(self) -> u64 {
        self.of_streams.saturating_sub(ORDINARY_FRAMES)
    }

    /// All else that is more than an honest peer sends, connection IDs apart. `allowance` is for the packets that were sent
    /// to it.
    pub(super) fn excess(self, allowance: &mut AckAllowance) -> u64 {
        let frames = self.frames.saturating_sub(ORDINARY_FRAMES);
        let needless = allowance.take(self.acknowledgements);
        let ordinary = if needless == 0 { ORDINARY_RANGES } else { 0 };
        frames.saturating_add(needless).saturating_add(self.ranges.saturating_sub(ordinary))
    }
}

/// The acknowledgements that may come: one for each packet that was sent. An honest peer sends one for two packets, one for
/// each where packets are lost, and some few a round trip again beside other frames (quinn 0.11.19).
#[derive(Debug, Default)]
pub(super) struct AckAllowance {
    left: u64,
    sent_before: u64,
}

impl AckAllowance {
    /// Takes note of the number of packets that were sent so far.
    pub(super) fn update(&mut self, sent: u64) {
        let new = sent.saturating_sub(self.sent_before);
        self.left = self.left.saturating_add(new).min(MAX_UNACKNOWLEDGED);
        self.sent_before = sent;
    }

    /// Takes as many as there are. Returns how many are missing.
    fn take(&mut self, acknowledgements: u64) -> u64 {
        let missing = acknowledgements.saturating_sub(self.left);
        self.left = self.left.saturating_sub(acknowledgements);
        missing
    }
}
