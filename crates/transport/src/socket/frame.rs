//! The frame of datagrams on their way from the process that received them to the one that owns them.
//!
//! ```text
//!  0         1     2        4          31          58       75 bytes
//! +---------+-----+--------+----------+-----------+--------+------------------------+
//! | version | ECN | stride | sender   | listening | local  | datagrams, one behind  |
//! +---------+-----+--------+----------+-----------+--------+ another ---------------+
//! socket address = family (4 or 6), IP (16), port, flow, scope      local = family (0: none), IP (16)
//! ```
//!
//! All datagrams of a frame have one sender and, but for the last, `stride` bytes each. Numbers are
//! little-endian. Only processes of this node's can send frames; still nothing that they may hold is fatal.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use quinn::udp::{EcnCodepoint, RecvMeta};

/// The version of the frame; a reader takes no other.
const FRAME_VERSION: u8 = 1;
const STRIDE_AT: usize = 2;
const SENDER_AT: usize = 4;
const ADDRESS_LEN: usize = 27;
const LISTENING_AT: usize = SENDER_AT + ADDRESS_LEN;
const LOCAL_AT: usize = LISTENING_AT + ADDRESS_LEN;
/// The bytes before the datagrams.
pub(crate) const HEADER_LEN: usize = LOCAL_AT + 17;
/// No frame is longer: what UDP delivers at once, and the header.
pub(crate) const MAX_FRAME_LEN: usize = HEADER_LEN + (1 << 16);

/// The header of datagrams that the socket of `listening` received. `meta` says all but their length.
pub(crate) fn header(listening: SocketAddr, meta: &RecvMeta) -> [u8; HEADER_LEN] {
    let mut bytes = [0; HEADER_LEN];
    bytes[0] = FRAME_VERSION;
    bytes[1] = meta.ecn.map_or(0, |ecn| ecn as u8);
    // UDP has no longer datagrams than that.
    let stride = u16::try_from(meta.stride).unwrap_or(u16::MAX);
    bytes[STRIDE_AT..SENDER_AT].copy_from_slice(&stride.to_le_bytes());
    put_address(&mut bytes[SENDER_AT..LISTENING_AT], meta.addr);
    put_address(&mut bytes[LISTENING_AT..LOCAL_AT], listening);
    if let Some(ip) = meta.dst_ip {
        put_ip(&mut bytes[LOCAL_AT..], ip);
    }
    bytes
}

/// Reads a frame: the listening address, the datagrams, and what is known of them.
pub(crate) fn read(frame: &[u8]) -> Option<(SocketAddr, &[u8], RecvMeta)> {
    let (head, datagrams) = frame.split_at_checked(HEADER_LEN)?;
    if head[0] != FRAME_VERSION || datagrams.is_empty() {
        return None;
    }
    let stride = usize::from(u16::from_le_bytes([head[STRIDE_AT], head[STRIDE_AT + 1]]));
    let meta = RecvMeta {
        addr: address(&head[SENDER_AT..LISTENING_AT])?,
        len: datagrams.len(),
        stride: if stride == 0 { datagrams.len() } else { stride },
        ecn: EcnCodepoint::from_bits(head[1]),
        dst_ip: ip(&head[LOCAL_AT..]),
    };
    Some((address(&head[LISTENING_AT..LOCAL_AT])?, datagrams, meta))
}

fn put_ip(bytes: &mut [u8], ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => {
            bytes[0] = 4;
            bytes[1..5].copy_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            bytes[0] = 6;
            bytes[1..17].copy_from_slice(&ip.octets());
        }
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.first()? {
        4 => Some(Ipv4Addr::from(*bytes[1..].first_chunk::<4>()?).into()),
        6 => Some(Ipv6Addr::from(*bytes[1..].first_chunk::<16>()?).into()),
        _ => None,
    }
}

fn put_address(bytes: &mut [u8], address: SocketAddr) {
    put_ip(bytes, address.ip());
    bytes[17..19].copy_from_slice(&address.port().to_le_bytes());
    if let SocketAddr::V6(address) = address {
        bytes[19..23].copy_from_slice(&address.flowinfo().to_le_bytes());
        bytes[23..27].copy_from_slice(&address.scope_id().to_le_bytes());
    }
}

fn address(bytes: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_le_bytes(*bytes[17..].first_chunk()?);
    let word = |at: usize| Some(u32::from_le_bytes(*bytes[at..].first_chunk()?));
    Some(match ip(bytes)? {
        IpAddr::V4(ip) => SocketAddrV4::new(ip, port).into(),
        IpAddr::V6(ip) => SocketAddrV6::new(ip, port, word(19)?, word(23)?).into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn addresses() -> impl Strategy<Value = SocketAddr> {
        prop_oneof![
            any::<SocketAddrV4>().prop_map(SocketAddr::from),
            any::<SocketAddrV6>().prop_map(SocketAddr::from),
        ]
    }

    proptest! {
        #[test]
        fn a_frame_carries_all_that_the_receiver_knew(
            listening in addresses(),
            addr in addresses(),
            dst_ip: Option<IpAddr>,
            ecn in 0u8..4,
            stride in 1u16..,
            datagrams in proptest::collection::vec(any::<u8>(), 1..200),
        ) {
            let meta = RecvMeta {
                addr, dst_ip, stride: stride.into(), len: 0, ecn: EcnCodepoint::from_bits(ecn),
            };
            let frame = [&header(listening, &meta)[..], &datagrams].concat();
            let (at, got, read) = read(&frame).unwrap();
            prop_assert_eq!((at, got), (listening, &datagrams[..]));
            prop_assert_eq!((read.addr, read.dst_ip, read.ecn), (addr, dst_ip, meta.ecn));
            prop_assert_eq!((read.stride, read.len), (usize::from(stride), datagrams.len()));
        }

        #[test]
        fn any_frame_is_read_without_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = read(&bytes);
            if let Some(version) = bytes.first_mut() {
                *version = FRAME_VERSION;
            }
            if let Some((_, datagrams, meta)) = read(&bytes) {
                prop_assert!(!datagrams.is_empty() && meta.stride > 0);
            }
        }
    }
}
