use super::*;
use proptest::prelude::*;

fn header() -> StreamHeader {
    StreamHeader {
        target: Target {
            service: "trustusbank-bank-agents/fraud-bot".parse().unwrap(),
            port: "http".parse().unwrap(),
        },
        source: Workload {
            namespace: "trustusbank-bank-agents".parse().unwrap(),
            service_account: "support-bot".parse().unwrap(),
        },
        probe: Some(StreamProbe::Dial),
        flow: Some([7; 16]),
        trace: Some(TraceContext { trace: [1; 16], span: [2; 8], flags: 1 }),
    }
}

fn encoded(header: &StreamHeader) -> BytesMut {
    let mut out = BytesMut::new();
    header.encode(&mut out);
    out
}

/// A header of raw fields.
fn raw(fields: &[(u64, &[u8])]) -> BytesMut {
    let mut body = BytesMut::new();
    for (kind, value) in fields {
        super::super::tlv::put_varint(&mut body, *kind);
        put_length_prefixed(&mut body, value);
    }
    let mut out = BytesMut::new();
    put_length_prefixed(&mut out, &body);
    out
}

const NS: &[u8] = b"ns/svc";
const SRC: &[u8] = b"\0/ns/a/sa/b";

#[test]
fn round_trip_and_the_bytes_after_survive() {
    let mut bytes = encoded(&header());
    let len = bytes.len();
    bytes.extend_from_slice(b"GET / HTTP/1.1");
    let (decoded, taken) = StreamHeader::decode(&bytes).unwrap().unwrap();
    assert_eq!((decoded, taken), (header(), len));
    assert_eq!(&bytes[taken..], b"GET / HTTP/1.1");
}

#[test]
fn every_truncation_asks_for_more() {
    let bytes = encoded(&header());
    for cut in 0..bytes.len() {
        assert_eq!(StreamHeader::decode(&bytes[..cut]), Ok(None), "cut at {cut}");
    }
}

#[test]
fn every_flipped_byte_is_refused_or_reads_as_something_whole() {
    let bytes = encoded(&header());
    for at in 0..bytes.len() {
        for flip in 1..=255u8 {
            let mut changed = bytes.clone();
            changed[at] ^= flip;
            if let Ok(Some((read, taken))) = StreamHeader::decode(&changed) {
                // What is accepted encodes to what arrived, but for optional fields it did not know.
                assert!(encoded(&read).len() <= taken, "byte {at} ^ {flip}");
            }
        }
    }
}

#[test]
fn bad_headers_give_the_reason_meant_for_them() {
    let long = [b'a'; 600];
    for (bytes, why) in [
        (raw(&[(3, b"http"), (5, SRC)]), WireError::Missing("service")),
        (raw(&[(1, NS)]), WireError::Missing("source")),
        (raw(&[(1, NS), (1, NS), (5, SRC)]), WireError::FieldOrder(1)),
        (raw(&[(5, SRC), (1, NS)]), WireError::FieldOrder(1)),
        (raw(&[(1, NS), (5, SRC), (7, b"")]), WireError::Invalid("probe")),
        (raw(&[(1, NS), (5, SRC), (7, b"\x02")]), WireError::Invalid("probe")),
        (raw(&[(1, NS), (5, SRC), (7, b"\x40\x01")]), WireError::OverlongInteger),
        (raw(&[(1, NS), (5, SRC), (9, b"")]), WireError::UnknownCritical(9)),
        (raw(&[(1, b"no-slash"), (5, SRC)]), WireError::Invalid("service")),
        (raw(&[(1, b"ns/\xff"), (5, SRC)]), WireError::Invalid("service")),
        (raw(&[(1, b"ns/a\0"), (5, SRC)]), WireError::Invalid("service")),
        (raw(&[(1, NS), (3, b"HTTP"), (5, SRC)]), WireError::Invalid("port")),
        (raw(&[(1, NS), (3, b""), (5, SRC)]), WireError::Invalid("port")),
        (raw(&[(1, NS), (5, b"")]), WireError::Invalid("source")),
        (raw(&[(1, NS), (5, b"\x01proof")]), WireError::Invalid("source")),
        (raw(&[(1, NS), (5, b"\0/ns/%61/sa/b")]), WireError::Invalid("source")),
        (raw(&[(1, NS), (5, b"\0/adit/node/n")]), WireError::Invalid("source")),
        (raw(&[(1, NS), (5, b"\0@evil/ns/a/sa/b")]), WireError::Invalid("source")),
        (raw(&[(1, NS), (5, SRC), (16, b"short")]), WireError::Invalid("flow")),
        (raw(&[(1, NS), (5, SRC), (18, b"short")]), WireError::Invalid("trace")),
        (raw(&[(1, &long)]), WireError::TooLong(MAX_HEADER_LEN - 2)),
        (BytesMut::from(&[0x40, 0x05, 0, 0][..]), WireError::OverlongInteger),
        (BytesMut::from(&[3, 1, 40, b'a'][..]), WireError::Truncated),
    ] {
        assert_eq!(StreamHeader::decode(&bytes), Err(why), "{bytes:?}");
    }
    let skipped = raw(&[(1, NS), (5, SRC), (100, b"later")]);
    assert!(
        StreamHeader::decode(&skipped).unwrap().is_some(),
        "an unknown optional field is skipped"
    );
}

#[test]
fn the_longest_names_fit() {
    let long = |n: usize| "a".repeat(n);
    let service = format!("{}/{}", long(63), long(63));
    let account = [long(63), long(63), long(63), long(61)].join(".");
    let header = StreamHeader {
        target: Target { service: service.parse().unwrap(), port: long(63).parse().unwrap() },
        source: Workload {
            namespace: long(63).parse().unwrap(),
            service_account: account.parse().unwrap(),
        },
        ..header()
    };
    let bytes = encoded(&header);
    // Longer ones than Kubernetes' own limits in use do not fit, and are refused by the sender's side.
    assert!(bytes.len() > MAX_HEADER_LEN, "{}", bytes.len());
    assert_eq!(StreamHeader::decode(&bytes), Err(WireError::TooLong(MAX_HEADER_LEN - 2)));
}

#[test]
fn a_hostile_reason_becomes_printable() {
    let answer =
        StreamAnswer::refused(Code::NoBackend, &format!("a\x1b[31m\n\0é{}", "x".repeat(400)));
    let mut out = BytesMut::new();
    answer.encode(&mut out);
    let (read, taken) = StreamAnswer::decode(&out).unwrap().unwrap();
    assert_eq!((&read, taken), (&answer, out.len()));
    assert!(read.reason.starts_with("a?[31m???x") && read.reason.len() == MAX_REASON_LEN);
    let mut raw = raw(&[(1, &[0]), (2, b"a\x1b[31m")]);
    assert_eq!(StreamAnswer::decode(&raw), Err(WireError::Invalid("reason")));
    raw.truncate(3);
    assert_eq!(StreamAnswer::decode(&raw), Ok(None));
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_whole(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(Some((header, taken))) = StreamHeader::decode(&bytes) {
            prop_assert!(taken <= bytes.len() && encoded(&header).len() <= taken);
        }
        if let Ok(Some((_, taken))) = StreamAnswer::decode(&bytes) {
            prop_assert!(taken <= bytes.len());
        }
    }

    #[test]
    fn any_header_round_trips(
        ns in "[a-z]([a-z0-9-]{0,20}[a-z0-9])?", svc in "[a-z]{1,20}", port in "[a-z]{0,15}",
        sa in "[a-z]{1,20}(\\.[a-z]{1,9})?", flow: Option<[u8; 16]>, dials: Option<bool>,
    ) {
        let header = StreamHeader {
            target: Target { service: format!("{ns}/{svc}").parse().unwrap(), port: port.parse().unwrap() },
            source: Workload { namespace: ns.parse().unwrap(), service_account: sa.parse().unwrap() },
            probe: dials.map(|dials| if dials { StreamProbe::Dial } else { StreamProbe::Ask }),
            flow,
            trace: None,
        };
        let bytes = encoded(&header);
        prop_assert_eq!(StreamHeader::decode(&bytes), Ok(Some((header, bytes.len()))));
    }
}
