//! A bound on the pieces in which handshakes and streams may come, and on the frames beside them.
//!
//! quinn keeps what comes of a handshake or a stream in order: up to a thousand pieces with gaps between them, all of
//! which it sorts again whenever they hold on to too much memory (0.11.19). Each piece then costs three microseconds of a worker
//! (measured), a packet brings more than two hundred, and for those of a handshake nobody needs a certificate: a
//! stranger with 36 Mbit/s held up honest answers for seconds. So each packet is looked at as it is decrypted, here, where
//! quinn asks its keys, and the one that brings too many pieces ends its connection. Packets that come after it are not even
//! decrypted. To look costs some 20 ns of a packet of one stream.
//!
//! * Of a handshake all frames are counted, [`MAX_HANDSHAKE_FRAMES`].
//! * Of streams small pieces are that do not come in order ([`super::stream_order`]), [`ALLOWED_DISORDERED`].
//! * Those that do come in order are compared with what is taken, since quinn joins them no better than to pieces of some
//!   hundred bytes, [`ALLOWED_UNTAKEN`].
//! * Other frames are counted where a packet brings more than an honest one, and acknowledgements where there are more than
//!   packets that were sent ([`super::frame_noise`]), [`ALLOWED_NOISE`]; of connection IDs all are, [`ALLOWED_IDS`].
//!
//! What all connections of a cluster send so is bounded by [`crate::links`], `fragments`.
//!
//! A piece that waits also keeps the whole buffer of the system call that it came with, which may hold sixty other
//! datagrams. So packets of a handshake, and those with pieces out of order, are copied into buffers of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use adit_core::admission::rate_limit::RateLimit;
use adit_runtime::Mutex;
use bytes::BytesMut;
use quinn::crypto::{KeyPair, PacketKey};
use quinn_proto::crypto::CryptoError;
use tokio::time::Instant;

use super::frame_noise::{AckAllowance, FrameNoise};
use super::frames::frames;
use super::stream_order::{OrderCounts, StreamEnds};

/// Frames in which one handshake may come, padding apart. An honest one has a dozen, and some hundred on a path that
/// loses most of them; so many pieces with gaps cost less than the signature.
const MAX_HANDSHAKE_FRAMES: u32 = 256;
/// Small pieces out of order that may come on one connection. Of 20,000 small pieces a second on a path that loses a
/// tenth, 2,000 follow a loss and 2,000 come again. All of the burst costs 25 ms of a worker.
const ALLOWED_DISORDERED: RateLimit = RateLimit { burst: 8_192, per_second: 4_096 };
/// Pieces in order that may come on one connection and are not taken one by one: a reader that stalls leaves them until
/// they are joined. All of the burst costs some 10 ms.
const ALLOWED_UNTAKEN: RateLimit = RateLimit { burst: 32_768, per_second: 2_048 };
/// Frames that are said of streams, beyond what one packet of an honest peer has: two for each of all streams that a
/// connection can have (32,768), where these end in one moment, and as much again. All of the burst costs some 10 ms.
const ALLOWED_STREAM_CONTROL: RateLimit = RateLimit { burst: 131_072, per_second: 16_384 };
/// Other frames, and ranges of acknowledgements, beyond what one packet of an honest peer has. All of the burst costs
/// some 2 ms.
const ALLOWED_NOISE: RateLimit = RateLimit { burst: 16_384, per_second: 8_192 };
/// Connection IDs that a peer may give or need no more: at most one of each whenever its address changes, and five at first.
const ALLOWED_IDS: RateLimit = RateLimit { burst: 1_024, per_second: 256 };
/// So many bytes for each piece are never too few.
const MIN_MEAN_PIECE: u64 = 256;
/// The pieces after which those that came are compared with those that were taken: many times what is on its way to
/// readers.
const COMPARED_PIECES: u64 = 4_096;

/// The pieces that came on one connection. All clones of its `Arc` are one.
#[derive(Debug, Default)]
pub(crate) struct ConnectionPieces {
    handshake_frames: AtomicU32,
    order: Mutex<OrderState>,
    /// Pieces that somebody took.
    taken: AtomicU64,
    /// Packets that were sent after the handshake.
    sent: AtomicU64,
    /// Pieces out of order, in order and not taken, and frames beside them beyond the ordinary.
    in_vain: AtomicU64,
    is_exceeded: AtomicBool,
}

#[derive(Debug, Default)]
struct OrderState {
    order: StreamEnds,
    disordered: PieceDebt,
    untaken: PieceDebt,
    stream_control: PieceDebt,
    noise: PieceDebt,
    ids: PieceDebt,
    acknowledgements: AckAllowance,
    since_compared: PieceCounts,
}

/// The pieces in order since they were last compared with those taken.
#[derive(Debug, Default)]
struct PieceCounts {
    came: u64,
    bytes: u64,
    /// All that had been taken then.
    taken_before: u64,
}

/// Pieces beyond what is allowed with time.
#[derive(Debug, Default)]
pub(crate) struct PieceDebt {
    pieces: u64,
    at: Option<Instant>,
}

/// The consequence of a packet's pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PacketVerdict {
    /// Nothing of it waits for what comes later.
    Keep,
    /// Some of it may wait.
    Copy,
    /// There are too many pieces now.
    End,
}

/// The packets that a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PacketKind {
    Handshake,
    Stream,
}

/// A key that looks at what it has decrypted, and counts what it encrypts.
pub(super) struct CountingPacketKey {
    inner: Box<dyn PacketKey>,
    kind: PacketKind,
    pieces: Arc<ConnectionPieces>,
}

impl PieceDebt {
    /// Adds pieces. True if there are more now than is allowed.
    pub(crate) fn add(&mut self, pieces: u64, allowed: RateLimit) -> bool {
        let now = Instant::now();
        let since = self.at.replace(now).map_or(Duration::ZERO, |at| now - at);
        let forgiven = since.as_millis() * u128::from(allowed.per_second) / 1000;
        let forgiven = u64::try_from(forgiven).unwrap_or(u64::MAX);
        self.pieces = self.pieces.saturating_sub(forgiven).saturating_add(pieces);
        self.pieces > u64::from(allowed.burst)
    }
}

impl ConnectionPieces {
    /// True if more came than is allowed, which ended the connection.
    pub(crate) fn is_exceeded(&self) -> bool {
        self.is_exceeded.load(Ordering::Relaxed)
    }

    /// Pieces of streams so far that came out of order, or in vain.
    pub(crate) fn in_vain(&self) -> u64 {
        self.in_vain.load(Ordering::Relaxed)
    }

    /// Counts pieces that were taken.
    pub(crate) fn add_taken(&self, pieces: usize) {
        self.taken.fetch_add(pieces as u64, Ordering::Relaxed);
    }

    /// Has the keys of packets of this kind count what comes, and the packets that are sent.
    pub(super) fn count_in(
        self: &Arc<Self>,
        kind: PacketKind,
        keys: KeyPair<Box<dyn PacketKey>>,
    ) -> KeyPair<Box<dyn PacketKey>> {
        let KeyPair { local, remote } = keys;
        let counting = |inner| -> Box<dyn PacketKey> {
            Box::new(CountingPacketKey { inner, kind, pieces: Arc::clone(self) })
        };
        KeyPair { local: counting(local), remote: counting(remote) }
    }

    fn take_packet(&self, kind: PacketKind, payload: &[u8]) -> PacketVerdict {
        let verdict = match kind {
            PacketKind::Handshake => self.take_handshake_packet(payload),
            PacketKind::Stream => self.take_stream_packet(payload),
        };
        if verdict == PacketVerdict::End {
            self.is_exceeded.store(true, Ordering::Relaxed);
        }
        verdict
    }

    fn take_handshake_packet(&self, payload: &[u8]) -> PacketVerdict {
        let new = u32::try_from(frames(payload).count()).unwrap_or(u32::MAX);
        // The packets of a connection come one after the other, so nothing is added meanwhile.
        let all = self.handshake_frames.load(Ordering::Relaxed).saturating_add(new);
        self.handshake_frames.store(all, Ordering::Relaxed);
        if all > MAX_HANDSHAKE_FRAMES { PacketVerdict::End } else { PacketVerdict::Copy }
    }

    fn take_stream_packet(&self, payload: &[u8]) -> PacketVerdict {
        let mut state = self.order.lock();
        let OrderCounts { pieces, disordered, noise } = state.order.take_packet(payload);
        let mut is_over = self.add_noise(&mut state, noise);
        if disordered > 0 {
            self.in_vain.fetch_add(disordered, Ordering::Relaxed);
            is_over |= state.disordered.add(disordered, ALLOWED_DISORDERED);
        }
        let counts = &mut state.since_compared;
        counts.came += pieces - disordered;
        counts.bytes += payload.len() as u64;
        if counts.came >= COMPARED_PIECES {
            let untaken = counts.compare(self.taken.load(Ordering::Relaxed));
            self.in_vain.fetch_add(untaken, Ordering::Relaxed);
            is_over |= state.untaken.add(untaken, ALLOWED_UNTAKEN);
        }
        match disordered {
            _ if is_over => PacketVerdict::End,
            0 => PacketVerdict::Keep,
            _ => PacketVerdict::Copy,
        }
    }

    /// Counts a packet's frames that are no pieces. True if there are more now than is allowed.
    fn add_noise(&self, state: &mut OrderState, noise: FrameNoise) -> bool {
        state.acknowledgements.update(self.sent.load(Ordering::Relaxed));
        let excess = noise.excess(&mut state.acknowledgements);
        let (of_streams, ids) = (noise.excess_of_streams(), noise.ids);
        if of_streams == 0 && excess == 0 && ids == 0 {
            return false;
        }
        // Streams that all end in one moment are no offence of their cluster.
        self.in_vain.fetch_add(excess.saturating_add(ids), Ordering::Relaxed);
        let of_streams = state.stream_control.add(of_streams, ALLOWED_STREAM_CONTROL);
        let others = state.noise.add(excess, ALLOWED_NOISE);
        state.ids.add(ids, ALLOWED_IDS) || of_streams || others
    }
}

impl PieceCounts {
    /// The pieces that came since the last time, less those that were taken by now or were large. Begins anew.
    fn compare(&mut self, taken: u64) -> u64 {
        let new = taken.saturating_sub(self.taken_before);
        let untaken = self.came.saturating_sub(new + self.bytes / MIN_MEAN_PIECE);
        *self = Self { taken_before: taken, ..Self::default() };
        untaken
    }
}

impl PacketKey for CountingPacketKey {
    fn encrypt(&self, packet: u64, buf: &mut [u8], header_len: usize) {
        if self.kind == PacketKind::Stream {
            self.pieces.sent.fetch_add(1, Ordering::Relaxed);
        }
        self.inner.encrypt(packet, buf, header_len);
    }

    fn decrypt(
        &self,
        packet: u64,
        header: &[u8],
        payload: &mut BytesMut,
    ) -> Result<(), CryptoError> {
        if self.pieces.is_exceeded() {
            return Err(CryptoError);
        }
        self.inner.decrypt(packet, header, payload)?;
        match self.pieces.take_packet(self.kind, payload) {
            PacketVerdict::Keep => {}
            PacketVerdict::Copy => *payload = BytesMut::from(&payload[..]),
            // quinn ends a connection of which a packet without frames comes (RFC 9000 §12.4).
            PacketVerdict::End => payload.clear(),
        }
        Ok(())
    }

    fn tag_len(&self) -> usize {
        self.inner.tag_len()
    }

    fn confidentiality_limit(&self) -> u64 {
        self.inner.confidentiality_limit()
    }

    fn integrity_limit(&self) -> u64 {
        self.inner.integrity_limit()
    }
}

#[cfg(test)]
mod tests;
