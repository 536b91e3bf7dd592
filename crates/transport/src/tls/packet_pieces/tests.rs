//! Tests of the bound on pieces and frames.

use tokio::time::advance;

use super::*;

/// A key that neither encrypts nor decrypts.
struct PlainKey;

impl PacketKey for PlainKey {
    fn encrypt(&self, _: u64, _: &mut [u8], _: usize) {}

    fn decrypt(&self, _: u64, _: &[u8], _: &mut BytesMut) -> Result<(), CryptoError> {
        Ok(())
    }

    fn tag_len(&self) -> usize {
        0
    }

    fn confidentiality_limit(&self) -> u64 {
        u64::MAX
    }

    fn integrity_limit(&self) -> u64 {
        u64::MAX
    }
}

fn key(kind: PacketKind) -> CountingPacketKey {
    CountingPacketKey { inner: Box::new(PlainKey), kind, pieces: Arc::default() }
}

/// The length that is left of a packet, if it can be read.
fn decrypt(key: &CountingPacketKey, packet: &[u8]) -> Option<usize> {
    let mut payload = BytesMut::from(packet);
    key.decrypt(0, &[], &mut payload).ok().map(|()| payload.len())
}

/// Single bytes of a handshake, with gaps.
fn handshake_crumbs(count: u8) -> Vec<u8> {
    (0..count).flat_map(|n| [6, 0x40, 2 * (n % 100), 1, b'x']).collect()
}

/// Single bytes of a stream, with gaps.
fn stream_crumbs(count: u8) -> Vec<u8> {
    (0..count).flat_map(|n| [0x0e, 4, 0x40, 1 + 2 * (n % 100), 1, b'x']).collect()
}

#[test]
fn a_handshake_in_too_many_pieces_is_ended_and_not_decrypted_any_more() {
    let key = key(PacketKind::Handshake);
    let each = [120, 120, 120, 1].map(|count| decrypt(&key, &handshake_crumbs(count)));
    assert_eq!(each, [Some(600), Some(600), Some(0), None]);
    assert!(key.pieces.is_exceeded());
}

#[tokio::test(start_paused = true)]
async fn a_connection_whose_streams_come_in_crumbs_is_ended_and_one_on_a_bad_path_is_not() {
    let bad = key(PacketKind::Stream);
    for _ in 0..600 {
        assert_eq!(decrypt(&bad, &stream_crumbs(200)), Some(1200));
        advance(Duration::from_millis(50)).await;
    }
    assert_eq!(bad.pieces.in_vain(), 120_000);
    let worse = key(PacketKind::Stream);
    let ended = (1..99).find(|_| decrypt(&worse, &stream_crumbs(200)) == Some(0));
    assert_eq!(ended, Some(41), "8,200 at once");
    assert_eq!(decrypt(&worse, &stream_crumbs(1)), None);
    let honest = key(PacketKind::Stream);
    for _ in 0..10_000 {
        assert!(decrypt(&honest, &[0x0e, 8, 0, 1, b'x', 0x10, 9]).is_some());
        assert!(decrypt(&honest, &[0x1f, 0x04, 8, 0, 1]).is_some());
        honest.pieces.add_taken(1);
    }
    assert_eq!(honest.pieces.in_vain(), 0);
}

/// A packet with so many pieces in order, a byte of each of so many streams, the `nth` one.
fn words(nth: u16, streams: u8) -> Vec<u8> {
    let [high, low] = (0x4000 | nth).to_be_bytes();
    (0..streams).flat_map(|n| [0x0e, 0x40, 4 * (n % 60), high, low, 1, b'x']).collect()
}

#[tokio::test(start_paused = true)]
async fn pieces_in_order_that_are_taken_or_large_are_never_too_many_and_others_are() {
    let (read, unread, large) =
        (key(PacketKind::Stream), key(PacketKind::Stream), key(PacketKind::Stream));
    let mut ended = None;
    for nth in 0..10_000_u16 {
        assert!(decrypt(&read, &words(nth, 60)) > Some(0));
        read.pieces.add_taken(60);
        let packet = [&words(nth, 1)[..], &[0x0c, 0x41, 0, 0x44, 0], &[0; 700]].concat();
        assert!(decrypt(&large, &packet) > Some(0));
        if decrypt(&unread, &words(nth, 60)) == Some(0) {
            ended.get_or_insert(nth);
        }
    }
    assert_eq!(ended, Some(620), "after nine times 4,140, less what is allowed for bytes");
    assert_eq!((read.pieces.in_vain(), large.pieces.in_vain()), (0, 0));
}

/// The packet of these that ends a connection, of the first ones that it sends at once.
fn ended_by(packet: &[u8], packets: usize) -> Option<usize> {
    let key = key(PacketKind::Stream);
    (1..=packets).find(|_| decrypt(&key, packet) == Some(0))
}

/// An acknowledgement with so many ranges beside the first.
fn acknowledgement(ranges: u16) -> Vec<u8> {
    let rest = vec![0; 2 * usize::from(ranges)];
    [&[2, 0x7f, 0xff, 0][..], &(0x4000 | ranges).to_be_bytes(), &[0], &rest].concat()
}

#[tokio::test(start_paused = true)]
async fn frames_beside_streams_end_a_connection_where_no_honest_peer_sends_as_many() {
    let given = [&[0x18, 9, 9, 8][..], &[7; 8 + 16]].concat();
    assert_eq!(ended_by(&[0x19, 0].repeat(600), 99), Some(2), "IDs that are needed no more");
    assert_eq!(ended_by(&given.repeat(40), 99), Some(26), "IDs that are given");
    assert_eq!(ended_by(&acknowledgement(600), 99), Some(28), "ranges");
    assert_eq!(ended_by(&acknowledgement(1).repeat(120), 999), Some(69), "acknowledgements");
    assert_eq!(ended_by(&[1; 1160], 99), Some(15), "pings");
    assert_eq!(ended_by(&[5, 0x40, 0x40, 0].repeat(290), 999), Some(542), "stops");
    // Honest ones: the ends of all streams of a connection at once; an address that changes again and again.
    assert_eq!(ended_by(&[4, 0x44, 0, 0, 9, 5, 0x44, 0, 0].repeat(128), 256), None);
    let moving = key(PacketKind::Stream);
    let packet = [&given[..], &[0x19, 9, 0x1a, 1, 2, 3, 4, 5, 6, 7, 8, 1]].concat();
    for _ in 0..10_000 {
        assert!(decrypt(&moving, &packet) > Some(0));
        advance(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn acknowledgements_are_as_many_as_packets_that_were_sent_and_a_few() {
    // Each names what a path brings that loses much.
    let wide = acknowledgement(64);
    assert_eq!(ended_by(&wide, 999), Some(253), "of nothing");
    let send = |key: &CountingPacketKey, packets| {
        (0..packets).for_each(|_| key.encrypt(0, &mut [], 0));
    };
    let (honest, hasty) = (key(PacketKind::Stream), key(PacketKind::Stream));
    // A window is sent at once, and acknowledged a round trip later, again and again; some are said twice.
    for _ in 0..100 {
        send(&honest, 6_000);
        advance(Duration::from_millis(50)).await;
        assert!((0..6_000).all(|_| decrypt(&honest, &wide) > Some(0)));
        (0..4).for_each(|_| assert!(decrypt(&honest, &wide) > Some(0)));
    }
    assert_eq!(honest.pieces.in_vain(), 26_000, "the 65 of four, a hundred times");
    let ended = (1..9_999).find(|_| {
        send(&hasty, 1);
        decrypt(&hasty, &wide.repeat(2)) == Some(0)
    });
    assert_eq!(ended, Some(128), "two for each");
    // What was sent long ago and never acknowledged does not last for ever.
    let silent = key(PacketKind::Stream);
    send(&silent, 1 << 20);
    let ended = (1..99_999).find(|_| decrypt(&silent, &wide) == Some(0));
    assert_eq!(ended, Some((1 << 16) + 253));
}

#[test]
fn a_packet_of_which_something_waits_keeps_nothing_of_the_batch_that_it_came_in() {
    let batch_after = |kind, packet: &[u8]| {
        let mut batch = BytesMut::zeroed(64 << 10);
        batch[..packet.len()].copy_from_slice(packet);
        let mut payload = batch.split_to(packet.len());
        key(kind).decrypt(0, &[], &mut payload).unwrap();
        assert_eq!(payload, packet);
        // Only whoever has all of a buffer can have its beginning back.
        batch.clear();
        batch.try_reclaim(64 << 10)
    };
    assert!(batch_after(PacketKind::Handshake, &handshake_crumbs(100)));
    assert!(batch_after(PacketKind::Stream, &stream_crumbs(100)));
    assert!(!batch_after(PacketKind::Stream, &[0x0e, 4, 0, 1, b'x']), "it is taken at once");
}

#[tokio::test(start_paused = true)]
async fn pieces_are_forgiven_with_time() {
    const ALLOWED: RateLimit = RateLimit { burst: 32_768, per_second: 2_048 };
    let mut debt = PieceDebt::default();
    for _ in 0..1000 {
        assert!(!debt.add(2048, ALLOWED), "2,048 a second for ever");
        advance(Duration::from_secs(1)).await;
    }
    assert!(!debt.add(30_000, ALLOWED));
    assert!(debt.add(3_000, ALLOWED));
}
