//! How far each stream of a connection may be sent: what its reader's node lets come beyond what was taken.
//!
//! QUIC has windows for this, but they are as large for a stream that nobody reads as for a transfer. So where both
//! sides' hellos name a [stream window](super::control::Hello::stream_window), no more than the receiver's is sent on
//! any stream of that connection, until the receiver grants more on a stream of [its own](super::StreamKind::Credits):
//! a [`StreamCredit`] for each stream now and then. QUIC's windows hold whoever does not keep to it.
//!
//! A grant is two integers, the stream's number and the offset up to which it may be sent. Neither the
//! control stream nor those that carry grants are bound by grants.

use bytes::BytesMut;

use super::tlv::{WireError, get_varint, put_varint};

/// How far one stream may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamCredit {
    /// The stream's number, which is QUIC's.
    pub stream: u64,
    /// Bytes that may be sent on it from its beginning, at most 2^62 - 1. An earlier grant may have said more.
    pub limit: u64,
}

impl StreamCredit {
    /// Appends the grant to `out`.
    pub fn encode(self, out: &mut BytesMut) {
        put_varint(out, self.stream);
        put_varint(out, self.limit);
    }

    /// Reads a grant off the front of `input`, and says how many bytes it took; none while more bytes are needed.
    /// No grant is ever to be skipped.
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
