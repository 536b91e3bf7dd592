//! The encoding that all messages share: shortest varints, and fields in ascending order of type.
//!
//! Owns the rules of [`super`]; the messages themselves are beside it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use bytes::{BufMut, BytesMut};

/// The reason why bytes are not a valid message of their kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The message says that it is longer than its kind may be.
    #[error("longer than {0} bytes")]
    TooLong(usize),
    /// The message ends in the middle of a field.
    #[error("a field is cut short")]
    Truncated,
    /// An integer is not in its shortest form.
    #[error("an integer is not in its shortest form")]
    OverlongInteger,
    /// A field's type is not greater than the one before it: out of order, or twice.
    #[error("field {0} is repeated or out of order")]
    FieldOrder(u64),
    /// A critical field or message that this version does not know.
    #[error("critical type {0} is not known to this version")]
    UnknownCritical(u64),
    /// A field that the message cannot do without is absent.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A field's value breaks its grammar or bounds.
    #[error("{0} is not valid")]
    Invalid(&'static str),
    /// A list has more items than it may.
    #[error("it has more than {1} {0}")]
    TooMany(&'static str, usize),
    /// Two items of a list have what only one may have.
    #[error("two of its {0} have one name")]
    Repeated(&'static str),
    /// A message arrived out of place.
    #[error("unexpected message: {0}")]
    Unexpected(&'static str),
}

/// Writes an integer below 2^62 in its shortest form (RFC 9000 §16). Larger ones are cut to 2^62 - 1.
pub(super) fn put_varint(out: &mut BytesMut, value: u64) {
    match value {
        0..=0x3f => out.put_u8(value as u8),
        0x40..=0x3fff => out.put_u16(value as u16 | 0x4000),
        0x4000..=0x3fff_ffff => out.put_u32(value as u32 | 0x8000_0000),
        _ => out.put_u64(value.min((1 << 62) - 1) | 0xc000_0000_0000_0000),
    }
}

/// Reads an integer from the front of `input`; `None` if more bytes are needed.
pub(super) fn get_varint(input: &mut &[u8]) -> Result<Option<u64>, WireError> {
    let Some(first) = input.first() else { return Ok(None) };
    let len = 1_usize << (first >> 6);
    let Some((bytes, rest)) = input.split_at_checked(len) else { return Ok(None) };
    let value = bytes[1..].iter().fold(u64::from(first & 0x3f), |v, b| v << 8 | u64::from(*b));
    let smallest = match len {
        1 => 0,
        2 => 1 << 6,
        4 => 1 << 14,
        _ => 1 << 30,
    };
    if value < smallest {
        return Err(WireError::OverlongInteger);
    }
    *input = rest;
    Ok(Some(value))
}

/// Takes a length-prefixed run of at most `limit` bytes off the front of `input`; `None` if more bytes are
/// needed.
pub(super) fn get_length_prefixed<'a>(
    input: &mut &'a [u8],
    limit: usize,
) -> Result<Option<&'a [u8]>, WireError> {
    let mut rest = *input;
    let Some(len) = get_varint(&mut rest)? else { return Ok(None) };
    let len = usize::try_from(len).ok().filter(|n| *n <= limit);
    let len = len.ok_or(WireError::TooLong(limit))?;
    let Some((run, rest)) = rest.split_at_checked(len) else { return Ok(None) };
    *input = rest;
    Ok(Some(run))
}

/// Writes `body` with its length before it.
pub(super) fn put_length_prefixed(out: &mut BytesMut, body: &[u8]) {
    put_varint(out, body.len() as u64);
    out.put_slice(body);
}

/// Builds a message's fields, in ascending order of type.
#[derive(Default)]
pub(super) struct TlvWriter {
    body: BytesMut,
    last: u64,
}

impl TlvWriter {
    pub(super) fn bytes(&mut self, kind: u64, value: &[u8]) -> &mut Self {
        debug_assert!(kind > self.last || self.body.is_empty(), "fields are written in order");
        self.last = kind;
        put_varint(&mut self.body, kind);
        put_length_prefixed(&mut self.body, value);
        self
    }

    pub(super) fn text(&mut self, kind: u64, value: &str) -> &mut Self {
        self.bytes(kind, value.as_bytes())
    }

    pub(super) fn integer(&mut self, kind: u64, value: u64) -> &mut Self {
        let mut out = BytesMut::with_capacity(8);
        put_varint(&mut out, value);
        self.bytes(kind, &out)
    }

    /// A list: each item with its length before it.
    pub(super) fn list(
        &mut self,
        kind: u64,
        items: impl IntoIterator<Item = BytesMut>,
    ) -> &mut Self {
        let mut out = BytesMut::new();
        for item in items {
            put_length_prefixed(&mut out, &item);
        }
        self.bytes(kind, &out)
    }

    pub(super) fn finish(&mut self) -> BytesMut {
        self.last = 0;
        self.body.split()
    }
}

/// Reads a message's fields, and holds them to the order.
pub(super) struct TlvReader<'a> {
    input: &'a [u8],
    last: Option<u64>,
}

/// A field's value.
#[derive(Clone, Copy)]
pub(super) struct TlvValue<'a>(pub(super) &'a [u8]);

impl<'a> TlvReader<'a> {
    pub(super) fn new(input: &'a [u8]) -> Self {
        Self { input, last: None }
    }

    /// The next field; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u64, TlvValue<'a>)>, WireError> {
        if self.input.is_empty() {
            return Ok(None);
        }
        let kind = get_varint(&mut self.input)?.ok_or(WireError::Truncated)?;
        if self.last.is_some_and(|last| kind <= last) {
            return Err(WireError::FieldOrder(kind));
        }
        self.last = Some(kind);
        // The whole message has a bound of its own, so a longer field is one that is cut short.
        let value = match get_length_prefixed(&mut self.input, usize::MAX) {
            Ok(Some(value)) => value,
            Ok(None) | Err(WireError::TooLong(_)) => return Err(WireError::Truncated),
            Err(other) => return Err(other),
        };
        Ok(Some((kind, TlvValue(value))))
    }

    /// Skips a field of a type that this version does not know, if it is optional.
    pub(super) fn skip_unknown(kind: u64) -> Result<(), WireError> {
        if kind % 2 == 1 { Err(WireError::UnknownCritical(kind)) } else { Ok(()) }
    }
}

impl<'a> TlvValue<'a> {
    pub(super) fn integer(self, what: &'static str) -> Result<u64, WireError> {
        let mut rest = self.0;
        match get_varint(&mut rest)? {
            Some(value) if rest.is_empty() => Ok(value),
            _ => Err(WireError::Invalid(what)),
        }
    }

    pub(super) fn text(self, what: &'static str) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.0).map_err(|_| WireError::Invalid(what))
    }

    /// Text that obeys the grammar of `T`.
    pub(super) fn name<T: FromStr>(self, what: &'static str) -> Result<T, WireError> {
        self.text(what)?.parse().map_err(|_| WireError::Invalid(what))
    }

    pub(super) fn array<const N: usize>(self, what: &'static str) -> Result<[u8; N], WireError> {
        self.0.try_into().map_err(|_| WireError::Invalid(what))
    }

    /// The items of a list, at most `limit` of them.
    pub(super) fn list<T>(
        self,
        limit: usize,
        what: &'static str,
        item: impl Fn(Self) -> Result<T, WireError>,
    ) -> Result<Vec<T>, WireError> {
        let (mut rest, mut items) = (self.0, Vec::new());
        while !rest.is_empty() {
            let run = get_length_prefixed(&mut rest, self.0.len())?.ok_or(WireError::Truncated)?;
            if items.len() == limit {
                return Err(WireError::TooMany(what, limit));
            }
            items.push(item(TlvValue(run))?);
        }
        // What is read is kept.
        items.shrink_to_fit();
        Ok(items)
    }
}

/// An address as 4 or 16 bytes and a port in network order.
pub(super) fn address(address: &SocketAddr) -> BytesMut {
    let mut out = BytesMut::with_capacity(18);
    match address.ip() {
        IpAddr::V4(ip) => out.put_slice(&ip.octets()),
        IpAddr::V6(ip) => out.put_slice(&ip.octets()),
    }
    out.put_u16(address.port());
    out
}

/// Reads [`address`].
pub(super) fn read_address(value: TlvValue<'_>) -> Result<SocketAddr, WireError> {
    let invalid = WireError::Invalid("address");
    let (ip, port) = value.0.split_last_chunk::<2>().ok_or(invalid)?;
    let port = u16::from_be_bytes(*port);
    let v4 = <[u8; 4]>::try_from(ip).map(|o| IpAddr::V4(Ipv4Addr::from(o)));
    let v6 = <[u8; 16]>::try_from(ip).map(|o| IpAddr::V6(Ipv6Addr::from(o)));
    v4.or(v6).map(|ip| SocketAddr::new(ip, port)).map_err(|_| invalid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_overlong_integer_is_refused() {
        for overlong in [&[0x40, 0x3f][..], &[0x80, 0, 0x3f, 0xff], &[0xc0, 0, 0, 0, 0, 0, 0, 1]] {
            assert_eq!(get_varint(&mut &*overlong), Err(WireError::OverlongInteger));
        }
    }

    #[test]
    fn order_and_criticality_hold() {
        let fields = |bytes: &[u8]| {
            let mut reader = TlvReader::new(bytes);
            let mut kinds = Vec::new();
            while let Some((kind, _)) = reader.next()? {
                kinds.push(kind);
            }
            Ok(kinds)
        };
        assert_eq!(fields(&[1, 0, 2, 1, 9]), Ok(vec![1, 2]));
        assert_eq!(fields(&[2, 0, 1, 0]), Err(WireError::FieldOrder(1)));
        assert_eq!(fields(&[1, 0, 1, 0]), Err(WireError::FieldOrder(1)));
        assert_eq!(fields(&[1, 2, 0]), Err(WireError::Truncated));
        assert_eq!(TlvReader::skip_unknown(3), Err(WireError::UnknownCritical(3)));
        assert_eq!(TlvReader::skip_unknown(4), Ok(()));
    }

    proptest! {
        #[test]
        fn integers_round_trip(value in 0u64..1 << 62) {
            let mut out = BytesMut::new();
            put_varint(&mut out, value);
            let mut rest = &out[..];
            prop_assert_eq!(get_varint(&mut rest), Ok(Some(value)));
            prop_assert!(rest.is_empty());
            for cut in 0..out.len() {
                prop_assert_eq!(get_varint(&mut &out[..cut]), Ok(None));
            }
        }

        #[test]
        fn addresses_round_trip(ip: IpAddr, port: u16) {
            let a = SocketAddr::new(ip, port);
            prop_assert_eq!(read_address(TlvValue(&address(&a))), Ok(a));
        }
    }
}
