//! The pieces of streams that come out of their order, as they are found in a connection's packets.
//!
//! Each costs quinn the more the more of them wait for what is missing before them. An honest peer's come so after a
//! loss alone: the first behind it, and what is sent again. Pieces of [`MIN_PIECE`] bytes cost their sender as much as
//! us, and are never too many.

use std::collections::HashMap;

use super::frame_noise::FrameNoise;
use super::frames::{FrameOutline, StreamPiece, frames};

/// The least bytes of a piece that is never too many.
const MIN_PIECE: u64 = 256;
/// Streams of which the end is remembered, half as many again as a peer may have open: 35 KiB. Of one that is forgotten one
/// piece too many is counted.
const MAX_STREAMS: usize = 1_536;

/// The offsets that the streams of one connection have reached.
#[derive(Debug, Default)]
pub(super) struct StreamEnds {
    /// The stream of the last piece, and the offset behind the last of its bytes: usually the next piece's.
    last: Option<(u64, u64)>,
    /// The same of all others.
    ends: HashMap<u64, u64>,
}

/// The pieces that a packet brings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct OrderCounts {
    pub(super) pieces: u64,
    /// Those of them that are small and out of order.
    pub(super) disordered: u64,
    /// All that is no piece.
    pub(super) noise: FrameNoise,
}

impl StreamEnds {
    /// Takes a packet's frames.
    pub(super) fn take_packet(&mut self, payload: &[u8]) -> OrderCounts {
        let mut counts = OrderCounts::default();
        for frame in frames(payload) {
            counts.noise.add(frame);
            let is_disordered = match frame {
                FrameOutline::Stream(piece) => self.is_disordered(piece),
                // TLS has nothing to say after the handshake.
                FrameOutline::Crypto => true,
                FrameOutline::Reset(stream) => {
                    self.forget(stream);
                    continue;
                }
                FrameOutline::StreamControl
                | FrameOutline::Acknowledgement { .. }
                | FrameOutline::ConnectionId
                | FrameOutline::Other
                | FrameOutline::Unreadable => continue,
            };
            counts.pieces += 1;
            counts.disordered += u64::from(is_disordered);
        }
        counts
    }

    /// True if a small piece does not come where the one before it ended.
    fn is_disordered(&mut self, piece: StreamPiece) -> bool {
        let StreamPiece { stream, offset, len, is_last } = piece;
        let end = self.end_of(stream);
        let in_order = offset == end;
        if is_last && in_order {
            self.forget(stream);
        } else {
            self.last = Some((stream, end.max(offset.saturating_add(len))));
        }
        !in_order && len < MIN_PIECE
    }

    /// The offset that a stream has reached. Makes it the last one.
    fn end_of(&mut self, stream: u64) -> u64 {
        match self.last {
            Some((last, end)) if last == stream => return end,
            Some((last, end)) => drop(self.ends.insert(last, end)),
            None => {}
        }
        if self.ends.len() >= MAX_STREAMS {
            self.forget_oldest();
        }
        let end = self.ends.remove(&stream).unwrap_or_default();
        self.last = Some((stream, end));
        end
    }

    /// Forgets half at least, so that it is rarely done: the oldest have the least numbers.
    fn forget_oldest(&mut self) {
        let newest = self.ends.keys().max().copied().unwrap_or_default();
        // Of both sides, in steps of four.
        let oldest = newest.saturating_sub(MAX_STREAMS as u64);
        self.ends.retain(|stream, _| *stream >= oldest);
        if self.ends.len() > MAX_STREAMS / 2 {
            self.ends.clear();
        }
    }

    fn forget(&mut self, stream: u64) {
        if self.last.is_some_and(|(last, _)| last == stream) {
            self.last = None;
        }
        self.ends.remove(&stream);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn varint(number: u64) -> [u8; 4] {
        (number as u32 | 0x8000_0000).to_be_bytes()
    }

    fn piece(stream: u64, offset: u64, len: usize, is_last: bool) -> Vec<u8> {
        let head = [&[0x0e | u8::from(is_last)][..], &varint(stream), &varint(offset)].concat();
        [&head[..], &varint(len as u64), &vec![b'x'; len]].concat()
    }

    #[test]
    fn what_comes_in_order_is_not_counted_however_small() {
        let mut order = StreamEnds::default();
        let mut packet = Vec::new();
        for word in 0..1000 {
            for stream in 0..20 {
                packet.extend(piece(4 * stream, 3 * word, 3, false));
            }
            packet.extend([0x10, 9, 1]);
            assert_eq!(order.take_packet(&std::mem::take(&mut packet)).disordered, 0);
        }
        assert_eq!(order.take_packet(&piece(0, 3000, 0, true)).disordered, 0, "it ends");
        assert_eq!(order.ends.len() + usize::from(order.last.is_some()), 19);
    }

    #[test]
    fn a_loss_counts_twice_and_large_pieces_never() {
        let mut order = StreamEnds::default();
        let mut take = |piece: Vec<u8>| order.take_packet(&piece).disordered;
        assert_eq!(take(piece(4, 0, 10, false)), 0);
        assert_eq!(take(piece(4, 20, 10, false)), 1, "behind a loss");
        assert_eq!(take(piece(4, 30, 10, false)), 0);
        assert_eq!(take(piece(4, 10, 10, false)), 1, "sent again");
        assert_eq!(take(piece(4, 40, 10, false)), 0);
        for nth in (10..20).rev() {
            assert_eq!(take(piece(8, nth * 1000, 256, false)), 0);
        }
    }

    #[test]
    fn crumbs_count_each_time_that_they_come_spread_over_streams_or_not() {
        let mut order = StreamEnds::default();
        let mut counted = 0;
        for nth in 0..3000 {
            counted += order.take_packet(&piece(4, 1 + 2 * (nth % 1000), 1, false)).disordered;
        }
        assert_eq!(counted, 3000);
        counted = 0;
        for nth in 0..30 {
            let spread: Vec<u8> =
                (2..102).flat_map(|stream| piece(4 * stream, 1 + 2 * nth, 1, false)).collect();
            counted += order.take_packet(&spread).disordered;
        }
        assert_eq!(counted, 3000);
        let late = order.take_packet(&[6, 0, 1, b'x'].repeat(9));
        assert_eq!(late.disordered, 9, "of the handshake, long after it");
    }

    #[test]
    fn invented_streams_take_no_memory() {
        let mut order = StreamEnds::default();
        for nth in 0..100_000_u64 {
            order.take_packet(&piece(4 * nth, 1, 1, false));
            assert!(order.ends.len() <= MAX_STREAMS + 1);
        }
        for nth in 0..100_000_u64 {
            order.take_packet(&piece(nth.wrapping_mul(0x9e37_79b9) & 0x3fff_fffc, 1, 1, false));
            assert!(order.ends.len() <= MAX_STREAMS + 1);
        }
    }
}
