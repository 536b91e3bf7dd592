//! The frames of a packet, read as far as their order is asked for (RFC 9000 §19).

/// A frame, as far as this module's readers ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FrameOutline {
    /// A piece of the handshake.
    Crypto,
    /// A piece of a stream.
    Stream(StreamPiece),
    /// The end of a stream of which nothing more comes.
    Reset(u64),
    /// Anything else that is said of one stream.
    StreamControl,
    /// An acknowledgement, with so many ranges beside the first.
    Acknowledgement { ranges: u64 },
    /// A connection ID that is given, or needed no more.
    ConnectionId,
    /// Anything else but padding.
    Other,
    /// Bytes that cannot be read, or are known to no version of ours, or end the connection. Nothing is read behind them:
    /// quinn does not either.
    Unreadable,
}

/// A piece of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StreamPiece {
    pub(super) stream: u64,
    pub(super) offset: u64,
    pub(super) len: u64,
    /// Nothing comes behind it.
    pub(super) is_last: bool,
}

/// The frames of a packet but for padding, in their order.
pub(super) fn frames(payload: &[u8]) -> impl Iterator<Item = FrameOutline> {
    let mut rest = payload;
    std::iter::from_fn(move || {
        let padding = rest.iter().take_while(|byte| **byte == PADDING).count();
        rest = &rest[padding..];
        if rest.is_empty() {
            return None;
        }
        let (frame, after) = read_frame(rest).unwrap_or((FrameOutline::Unreadable, &[]));
        rest = after;
        Some(frame)
    })
}

const PADDING: u8 = 0;

/// The first frame, and the bytes after it.
fn read_frame(bytes: &[u8]) -> Option<(FrameOutline, &[u8])> {
    let (kind, rest) = varint(bytes)?;
    let other = |rest| Some((FrameOutline::Other, rest));
    match kind {
        // PING, HANDSHAKE_DONE, IMMEDIATE_ACK
        0x01 | 0x1e | 0x1f => other(rest),
        // ACK: the largest, the delay; the number of further ranges; the first range, and these; counts of ECN.
        0x02 | 0x03 => {
            let (ranges, after) = varint(skip(rest, 2)?)?;
            let ecn = if kind == 0x03 { 3 } else { 0 };
            let after = skip(after, ranges.checked_mul(2)?.checked_add(1 + ecn)?)?;
            Some((FrameOutline::Acknowledgement { ranges }, after))
        }
        // RESET_STREAM
        0x04 => {
            let (stream, after) = varint(rest)?;
            Some((FrameOutline::Reset(stream), skip(after, 2)?))
        }
        0x06 => Some((FrameOutline::Crypto, skip_bytes(skip(rest, 1)?)?)),
        // NEW_TOKEN
        0x07 => other(skip_bytes(rest)?),
        0x08..=0x0f => read_stream(kind, rest),
        // MAX_DATA, MAX_STREAMS, DATA_BLOCKED, STREAMS_BLOCKED
        0x10 | 0x12..=0x14 | 0x16 | 0x17 => other(skip(rest, 1)?),
        // STOP_SENDING, MAX_STREAM_DATA, STREAM_DATA_BLOCKED
        0x05 | 0x11 | 0x15 => Some((FrameOutline::StreamControl, skip(rest, 2)?)),
        // NEW_CONNECTION_ID: two numbers, an ID with its length in a byte, a token.
        0x18 => {
            let after = skip(rest, 2)?;
            let after = after.get(1 + usize::from(*after.first()?) + 16..)?;
            Some((FrameOutline::ConnectionId, after))
        }
        // RETIRE_CONNECTION_ID
        0x19 => Some((FrameOutline::ConnectionId, skip(rest, 1)?)),
        // PATH_CHALLENGE, PATH_RESPONSE
        0x1a | 0x1b => other(rest.get(8..)?),
        // ACK_FREQUENCY
        0xaf => other(skip(rest, 4)?),
        _ => None,
    }
}

fn read_stream(kind: u64, rest: &[u8]) -> Option<(FrameOutline, &[u8])> {
    const FIN: u64 = 1;
    const LEN: u64 = 2;
    const OFF: u64 = 4;
    let (stream, rest) = varint(rest)?;
    let (offset, rest) = if kind & OFF == 0 { (0, rest) } else { varint(rest)? };
    let (data, after) = if kind & LEN == 0 {
        (rest, &[][..])
    } else {
        let (len, rest) = varint(rest)?;
        rest.split_at_checked(usize::try_from(len).ok()?)?
    };
    let piece = StreamPiece { stream, offset, len: data.len() as u64, is_last: kind & FIN != 0 };
    Some((FrameOutline::Stream(piece), after))
}

/// The bytes after so many numbers.
fn skip(bytes: &[u8], numbers: u64) -> Option<&[u8]> {
    (0..numbers).try_fold(bytes, |rest, _| Some(varint(rest)?.1))
}

/// The bytes after a length and as many bytes.
fn skip_bytes(bytes: &[u8]) -> Option<&[u8]> {
    let (len, rest) = varint(bytes)?;
    rest.get(usize::try_from(len).ok()?..)
}

/// A number of variable length (RFC 9000 §16), and the bytes after it.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let len = 1_usize << (bytes.first()? >> 6);
    let (number, rest) = bytes.split_at_checked(len)?;
    let first = u64::from(number[0] & 0x3f);
    Some((number[1..].iter().fold(first, |value, byte| value << 8 | u64::from(*byte)), rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CRYPTO_PIECE: [u8; 5] = [6, 0x41, 0, 1, b'x'];

    fn count(packet: &[u8]) -> usize {
        frames(packet).count()
    }

    #[test]
    fn each_frame_is_found_but_padding() {
        let ack = [2, 0x40, 99, 0x41, 0, 1, 3, 0, 2];
        let with_ecn = [3, 9, 0, 0, 9, 1, 2, 3];
        let ping = [1];
        for (packet, expected) in [
            (vec![], 0),
            (vec![0; 1162], 0),
            ([&[0, 0][..], &ping, &ack, &CRYPTO_PIECE, &[0; 9], &with_ecn, &ping].concat(), 5),
            (CRYPTO_PIECE.repeat(240), 240),
            // A type may be longer than it need be.
            ([&[0x40, 6][..], &CRYPTO_PIECE[1..], &ping].concat(), 2),
        ] {
            assert_eq!(count(&packet), expected, "{packet:x?}");
        }
    }

    #[test]
    fn frames_of_every_kind_are_passed_over() {
        let all: &[&[u8]] = &[
            &[4, 4, 9, 0x41, 0],
            &[5, 8, 9],
            &[7, 3, 1, 2, 3],
            &[0x10, 0x7f, 0xff],
            &[0x11, 4, 9],
            &[0x12, 9],
            &[0x15, 4, 9],
            &[0x18, 1, 0, 4, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
            &[0x19, 1],
            &[0x1a, 1, 2, 3, 4, 5, 6, 7, 8],
            &[0x40, 0xaf, 1, 2, 3, 4],
            &[0x1e],
            &[0x1f],
        ];
        let last = [&all.concat()[..], &[0x0d, 8, 3, b'a', b'b']].concat();
        let found: Vec<FrameOutline> = frames(&last).collect();
        assert_eq!(found[0], FrameOutline::Reset(4));
        let piece = StreamPiece { stream: 8, offset: 3, len: 2, is_last: true };
        assert_eq!(found.last(), Some(&FrameOutline::Stream(piece)));
        assert_eq!(found.len(), all.len() + 1);
    }

    #[test]
    fn nothing_is_read_behind_what_ends_the_connection() {
        for end in [&[0x1c, 0, 0, 0][..], &[0x22, 1, 1], &[6, 0, 0x7f, 0xff], &[2, 0, 0, 0xc0]] {
            let found: Vec<_> = frames(&[end, &[1; 30]].concat()).collect();
            assert_eq!(found, [FrameOutline::Unreadable], "{end:x?}");
        }
    }

    proptest! {
        #[test]
        fn any_packet_is_read(bytes in proptest::collection::vec(any::<u8>(), 0..1500)) {
            prop_assert!(count(&bytes) <= bytes.len());
        }

        #[test]
        fn pieces_are_found_whatever_their_length(lens in proptest::collection::vec(0_u8..60, 0..40)) {
            let piece = |len: &u8| [&[0x0e, 4, 7, *len][..], &vec![1; usize::from(*len)]].concat();
            let packet: Vec<u8> = lens.iter().flat_map(piece).collect();
            let found: Vec<u64> = frames(&packet)
                .filter_map(|frame| match frame {
                    FrameOutline::Stream(piece) => Some(piece.len),
                    FrameOutline::Crypto
                    | FrameOutline::Reset(_)
                    | FrameOutline::StreamControl
                    | FrameOutline::Acknowledgement { .. }
                    | FrameOutline::ConnectionId
                    | FrameOutline::Other
                    | FrameOutline::Unreadable => None,
                })
                .collect();
            prop_assert_eq!(found, lens.iter().map(|len| u64::from(*len)).collect::<Vec<_>>());
        }
    }
}
