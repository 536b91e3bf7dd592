//! Credit for single streams: how far each may be sent beyond what its reader's node has taken.
//!
//! QUIC has windows for this, but they are as large for a stream that nobody reads as for a transfer. So if
//! both sides' hellos name a [stream window](super::control::Hello::stream_window), no more than the
//! receiver's is sent on any stream of that connection, until the receiver gives more credit on a stream of
//! [its own](super::StreamKind::Credits): a [`StreamCredit`] for each stream now and then. QUIC's windows
//! hold a peer that does not keep to it.
//!
//! A credit message is two integers, the stream's number and the offset up to which it may be sent. Neither
//! the control stream nor those that carry credit are bound by credit.

use bytes::BytesMut;

use super::tlv::{WireError, get_varint, put_varint};

/// The limit up to which one stream may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamCredit {
    /// The stream's number, which is QUIC's.
    pub stream: u64,
    /// Bytes that may be sent on it from its beginning, at most 2^62 - 1. An earlier message may have named
    /// more.
    pub limit: u64,
}

impl StreamCredit {
    /// Appends the message to `out`.
    pub fn encode(self, out: &mut BytesMut) {
        put_varint(out, self.stream);
        put_varint(out, self.limit);
    }

    /// Reads a message off the front of `input`, and says how many bytes it took; `None` while more bytes are
    /// needed. No credit message is ever to be skipped.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(input: &[u8]) -> Result<Option<(Option<Self>, usize)>, WireError> {
        let mut rest = input;
        let Some(stream) = get_varint(&mut rest)? else { return Ok(None) };
        let Some(limit) = get_varint(&mut rest)? else { return Ok(None) };
        Ok(Some((Some(Self { stream, limit }), input.len() - rest.len())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_round_trip_and_every_truncation_asks_for_more() {
        for grant in [(0, 0), (4, 262_144), (70_000, 5 << 40)] {
            let grant = StreamCredit { stream: grant.0, limit: grant.1 };
            let mut bytes = BytesMut::new();
            grant.encode(&mut bytes);
            assert_eq!(StreamCredit::decode(&bytes), Ok(Some((Some(grant), bytes.len()))));
            for cut in 0..bytes.len() {
                assert_eq!(StreamCredit::decode(&bytes[..cut]), Ok(None));
            }
        }
    }

    #[test]
    fn a_longer_form_of_an_integer_is_refused() {
        assert!(StreamCredit::decode(&[0x40, 1, 0]).is_err());
    }
}
