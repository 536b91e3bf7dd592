//! The protocol of client and server, by which either knows that every byte is right.
//!
//! A request is a head of 16 bytes (seed, length of the request, length of the answer) and then bytes of
//! the pattern up to its length; the answer is so many bytes of the pattern, from the place that the seed
//! says. A lost, doubled, swapped or foreign byte therefore shows, at the cost of a comparison.

use std::sync::LazyLock;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// The most bytes of the pattern that can be had at once.
pub(crate) const CHUNK: usize = 256 << 10;
/// An answer without end.
pub(crate) const ENDLESS: u64 = u64::MAX;
/// The length of a request's head.
pub(crate) const HEAD: usize = 16;
/// A prime, so that no power of two that a buffer has hides a shift.
const PERIOD: u64 = 65_537;

static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let byte = |at: u64| ((at % PERIOD).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
    (0..PERIOD + CHUNK as u64).map(byte).collect()
});

/// `len` bytes of the pattern, at most [`CHUNK`], from `at` on.
pub(crate) fn pattern(at: u64, len: usize) -> &'static [u8] {
    let start = usize::try_from(at % PERIOD).unwrap_or_default();
    &PATTERN[start..start + len]
}

/// A client's request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request {
    /// From which place of the pattern the answer begins.
    pub(crate) seed: u32,
    /// The length of the request, its head included.
    pub(crate) length: u32,
    /// The length of the answer.
    pub(crate) answer: u64,
}

impl Request {
    /// All its bytes.
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.length as usize);
        out.extend(self.seed.to_be_bytes());
        out.extend(self.length.to_be_bytes());
        out.extend(self.answer.to_be_bytes());
        out.extend_from_slice(pattern(self.seed.into(), self.body()));
        out
    }

    /// Reads a head.
    pub(crate) fn decode(head: [u8; HEAD]) -> Result<Self> {
        let [a, b, c, d, e, f, g, h, answer @ ..] = head;
        let request = Self {
            seed: u32::from_be_bytes([a, b, c, d]),
            length: u32::from_be_bytes([e, f, g, h]),
            answer: u64::from_be_bytes(answer),
        };
        ensure!((HEAD..=CHUNK).contains(&(request.length as usize)), "no request: {request:?}");
        Ok(request)
    }

    /// The number of bytes that follow its head.
    pub(crate) fn body(self) -> usize {
        (self.length as usize).saturating_sub(HEAD)
    }
}

/// Sends a request, reads the answer, and says when the first byte of it was here.
pub(crate) async fn exchange(
    stream: &mut TcpStream,
    request: Request,
    buffer: &mut [u8],
) -> Result<Instant> {
    stream.write_all(&request.encode()).await?;
    let mut first = None;
    let mut at = 0;
    while at < request.answer {
        at += read_checked(stream, request.seed, at, buffer).await?;
        first.get_or_insert_with(Instant::now);
    }
    ensure!(at == request.answer, "{at} bytes came back, {} were asked for", request.answer);
    first.context("an empty answer was asked for")
}

/// Reads what is there of an answer, compares it, and says how much it was.
pub(crate) async fn read_checked(
    stream: &mut TcpStream,
    seed: u32,
    at: u64,
    buffer: &mut [u8],
) -> Result<u64> {
    let n = stream.read(buffer).await?;
    ensure!(n > 0, "the answer ended after {at} bytes");
    ensure!(buffer[..n] == *pattern(u64::from(seed) + at, n), "wrong bytes after {at}");
    Ok(n as u64)
}

/// Connects as every client here does.
pub(crate) async fn connect(to: std::net::SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(to).await.with_context(|| format!("{to}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
