//! Packets that no honest QUIC stack sends: what quinn has put together is changed before it is sealed.
//!
//! quinn hands each packet's frames to a `PacketKey` in the clear. The one here rewrites them in place:
//! a stream frame that becomes padding is acknowledged and never sent again, so the gap that it leaves is
//! for ever; acknowledgements that become padding leave the peer with all that it has sent. Only what is
//! sent after the handshake is touched.

mod session;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub use self::session::Forger;

/// Changes the frames of a packet in place; zeros are padding.
pub type Rewrite = Arc<dyn Fn(&mut [u8]) + Send + Sync>;

/// A frame within a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its type.
    pub kind: u64,
    /// Where it is.
    pub at: Range<usize>,
    /// Of a stream frame: its stream, the offset of its first byte, and where its bytes are.
    pub stream: Option<(u64, u64, Range<usize>)>,
}

fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let first = *bytes.get(*at)?;
    let len = 1_usize << (first >> 6);
    let all = bytes.get(*at..*at + len)?;
    *at += len;
    Some(all[1..].iter().fold(u64::from(first & 0x3f), |v, b| v << 8 | u64::from(*b)))
}

fn put_varint(out: &mut Vec<u8>, value: u64) {
    match u32::try_from(value) {
        Ok(small @ 0..=0x3f) => out.push(small as u8),
        Ok(small @ 0x40..=0x3fff) => out.extend((small as u16 | 0x4000).to_be_bytes()),
        Ok(small @ 0x4000..=0x3fff_ffff) => out.extend((small | 0x8000_0000).to_be_bytes()),
        Ok(_) | Err(_) => out.extend((value | 0xc000_0000_0000_0000).to_be_bytes()),
    }
}

/// The frames of a packet, as far as they can be read.
#[must_use]
pub fn frames(packet: &[u8]) -> Vec<Frame> {
    let (mut all, mut at) = (Vec::new(), 0);
    while let Some(frame) = frame(packet, &mut at) {
        all.push(frame);
    }
    all
}

fn frame(packet: &[u8], at: &mut usize) -> Option<Frame> {
    while packet.get(*at) == Some(&0) {
        *at += 1;
    }
    let start = *at;
    let kind = varint(packet, at)?;
    let mut skip = |n: usize| (0..n).try_for_each(|_| varint(packet, at).map(drop));
    let mut stream = None;
    let run = match kind {
        2 | 3 => {
            skip(2)?;
            let ranges = varint(packet, at)? as usize;
            (0..1 + 2 * ranges + if kind == 3 { 3 } else { 0 })
                .try_for_each(|_| varint(packet, at).map(drop))?;
            0
        }
        8..=15 => {
            let id = varint(packet, at)?;
            let offset = if kind & 4 != 0 { varint(packet, at)? } else { 0 };
            let len = match kind & 2 {
                0 => packet.len() - *at,
                _ => varint(packet, at)? as usize,
            };
            stream = Some((id, offset, *at..*at + len));
            len
        }
        6 => {
            skip(1)?;
            varint(packet, at)? as usize
        }
        4 => skip(3).map(|()| 0)?,
        5 | 0x11 | 0x15 => skip(2).map(|()| 0)?,
        0x10 | 0x12..=0x14 | 0x16 | 0x17 | 0x19 => skip(1).map(|()| 0)?,
        0x18 => {
            skip(2)?;
            usize::from(*packet.get(*at)?) + 17
        }
        0x1a | 0x1b => 8,
        0xaf => skip(4).map(|()| 0)?,
        1 | 0x1e | 0x1f => 0,
        _ => return None,
    };
    *at += run;
    (*at <= packet.len()).then_some(Frame { kind, at: start..*at, stream })
}

/// The bytes of data streams at these offsets are never sent.
#[must_use]
pub fn gap(offsets: Range<u64>) -> Rewrite {
    Arc::new(move |packet| {
        for Frame { at, stream, .. } in frames(packet) {
            if stream.is_some_and(|(id, offset, _)| id > 0 && offsets.contains(&offset)) {
                packet[at].fill(0);
            }
        }
    })
}

/// Of data streams only every few bytes are sent within `offsets`, each as a frame of its own, and none
/// beyond: quinn takes a thousand gaps of one stream.
#[must_use]
pub fn crumbs(offsets: Range<u64>) -> Rewrite {
    rewritten(move |id, offset, room| {
        let (mut out, mut next) = (vec![PING], offset);
        if offset < offsets.start {
            return None;
        }
        while offsets.contains(&next) {
            let one = crumb(id, next);
            if out.len() + one.len() > room {
                break;
            }
            next += one.len() as u64;
            out.extend(one);
        }
        Some(out)
    })
}

/// Nothing of data streams is sent beyond `from`, but for a byte of one of `ids` in each tenth packet, with
/// a gap before it. A receiver that takes packets in batches has one buffer for each batch, and keeps all of
/// it for that byte.
#[must_use]
pub fn batched_crumbs(from: u64, ids: u64) -> Rewrite {
    const BATCH: u64 = 10;
    let nth = AtomicU64::new(0);
    rewritten(move |_, offset, room| {
        if offset < from {
            return None;
        }
        let packet = nth.fetch_add(1, Relaxed);
        let (turn, mut out) = (packet / BATCH, vec![PING]);
        let one = crumb(4 + 4 * (turn % ids), from + 1 + 2 * (turn / ids % 1000));
        if packet.is_multiple_of(BATCH) && one.len() < room {
            out.extend(one);
        }
        Some(out)
    })
}

/// Instead of what data streams bring beyond `from`: single bytes of the stream `id`, with gaps, the same thousand over and
/// over. Whoever keeps pieces in order sorts all of them each time that they take too much.
#[must_use]
pub fn repeated_crumbs(from: u64, id: u64) -> Rewrite {
    let nth = AtomicU64::new(0);
    rewritten(move |_, offset, room| {
        if offset < from {
            return None;
        }
        let mut out = vec![PING];
        loop {
            let one = crumb(id, from + 1 + 2 * (nth.load(Relaxed) % 1000));
            if out.len() + one.len() > room {
                return Some(out);
            }
            nth.fetch_add(1, Relaxed);
            out.extend(one);
        }
    })
}

/// So that a packet without anything else is acknowledged.
const PING: u8 = 1;
const ACK: u8 = 2;

/// A frame with one byte of a stream.
fn crumb(id: u64, offset: u64) -> Vec<u8> {
    let mut one = vec![0x0e];
    put_varint(&mut one, id);
    put_varint(&mut one, offset);
    one.extend([1, b'x']);
    one
}

/// Instead of the bytes of data streams beyond `from`, this frame over and over.
#[must_use]
pub fn noise(from: u64, frame: Vec<u8>) -> Rewrite {
    rewritten(move |_, offset, room| (offset >= from).then(|| frame.repeat(room / frame.len())))
}

/// A flood of acknowledgements.
#[derive(Debug, Clone, Copy)]
pub struct AckFlood {
    /// The most ranges that each has beside the first.
    pub ranges: u64,
    /// As many of them as a packet has room for, rather than one.
    pub is_repeated: bool,
    /// Each packet asks for an acknowledgement in return.
    pub has_ping: bool,
}

/// Instead of the bytes of data streams: acknowledgements of every other packet up to the newest that was heard of, which
/// come again and again.
#[must_use]
pub fn wide_acknowledgements(flood: AckFlood) -> Rewrite {
    let newest = Arc::new(AtomicU64::new(0));
    let heard = Arc::clone(&newest);
    let fill = rewritten(move |_, _, room| {
        let newest = newest.load(Relaxed);
        let ranges = (newest / 2).saturating_sub(1).min(room.saturating_sub(20) as u64 / 2);
        let ranges = ranges.min(flood.ranges);
        let mut one = vec![ACK];
        [newest, 0, ranges, 0].into_iter().for_each(|number| put_varint(&mut one, number));
        one.extend(vec![0; 2 * ranges as usize]);
        let mut out = if flood.has_ping { vec![PING] } else { Vec::new() };
        let times = if flood.is_repeated { room.saturating_sub(1) / one.len() } else { 1 };
        out.extend(one.repeat(times));
        Some(out)
    });
    Arc::new(move |packet| {
        for Frame { at, .. } in frames(packet).into_iter().filter(|frame| frame.kind == 2) {
            heard.fetch_max(varint(packet, &mut (at.start + 1)).unwrap_or(0), Relaxed);
        }
        fill(packet);
    })
}

/// Replaces frames of data streams by what is made for their stream, offset and room.
fn rewritten(make: impl Fn(u64, u64, usize) -> Option<Vec<u8>> + Send + Sync + 'static) -> Rewrite {
    Arc::new(move |packet| {
        for Frame { at, stream, .. } in frames(packet) {
            let Some((id, offset, _)) = stream.filter(|(id, ..)| *id > 0) else { continue };
            if let Some(new) = make(id, offset, at.len()) {
                packet[at.clone()].fill(0);
                packet[at.start..at.start + new.len()].copy_from_slice(&new);
            }
        }
    })
}

/// Nothing is acknowledged.
#[must_use]
pub fn no_acknowledgements() -> Rewrite {
    Arc::new(|packet| {
        for Frame { at, kind, .. } in frames(packet) {
            if matches!(kind, 2 | 3) {
                packet[at].fill(0);
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PING, a stream frame of stream 4 at 1000 with 30 bytes, and one of stream 8 up to the end.
    fn packet() -> Vec<u8> {
        let mut packet = vec![1, 0x0e, 4, 0x43, 0xe8, 30];
        packet.extend([b'a'; 30]);
        packet.extend([0x0c, 8, 0x44, 0x00]);
        packet.extend([b'b'; 20]);
        packet
    }

    #[test]
    fn frames_are_found() {
        let found = frames(&packet());
        let kinds: Vec<u64> = found.iter().map(|f| f.kind).collect();
        assert_eq!(kinds, [1, 0x0e, 0x0c]);
        assert_eq!(found[1].stream, Some((4, 1000, 6..36)));
        assert_eq!(found[2].stream, Some((8, 1024, 40..60)));
    }

    #[test]
    fn a_gap_is_padding_and_the_rest_stays() {
        let mut changed = packet();
        gap(1000..1001)(&mut changed);
        let left = frames(&changed);
        assert_eq!(left.len(), 2);
        assert_eq!(left[1].stream, Some((8, 1024, 40..60)));
    }

    #[test]
    fn crumbs_are_single_bytes_with_gaps() {
        let mut changed = packet();
        crumbs(1000..2000)(&mut changed);
        let left: Vec<_> = frames(&changed).into_iter().filter_map(|f| f.stream).collect();
        assert!(left.len() >= 5, "{left:?}");
        assert!(left.iter().all(|(_, _, bytes)| bytes.len() == 1));
        assert!(left.windows(2).all(|pair| pair[0].1 + 1 != pair[1].1));
    }
}
