//! The context of links: what is this process's own, and their settings.

use std::sync::Arc;
use std::time::Duration;

use adit_core::backoff::Backoff;
use adit_core::wire;

use crate::budget::BufferLimits;
use crate::peer::BootId;

/// The backoff between two tries to reach a node or a source.
pub(super) const RETRY_BACKOFF: Backoff =
    Backoff::new(Duration::from_millis(200), Duration::from_secs(30));

/// A source of random numbers. An argument, so that a simulation can repeat them.
pub type RandomSource = Arc<dyn Fn() -> u64 + Send + Sync>;

/// A calendar: Unix time in milliseconds.
pub type UnixClock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// A function that gives what a node answers its own controller, which asked with these bytes.
pub type ReportAnswer = Arc<dyn Fn(&[u8]) -> Vec<u8> + Send + Sync>;

/// The parts of links that are this process's own.
#[derive(Clone)]
pub struct LinkContext {
    /// Random, once per process.
    pub boot: BootId,
    /// The source of jitter and draws.
    pub random: RandomSource,
    /// Sent to peers, so that a later version can show how clocks differ; this one does not look at theirs.
    pub clock: UnixClock,
    /// The settings.
    pub settings: LinkSettings,
}

/// The settings of links. The defaults are what ships.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkSettings {
    /// The lowest and highest protocol version to speak.
    pub versions: (u64, u64),
    /// A data connection that we dialled is closed when it has carried nothing for so long. A longer time
    /// keeps some 60 KiB each on both sides; a shorter one makes more streams wait for a handshake.
    pub idle_timeout: Duration,
    /// The longest time that a peer may take for its hello, for a stream's kind, and for its subscription,
    /// from when the stream or connection begins.
    pub header_timeout: Duration,
    /// The longest time that a stream waits for a connection to be dialled, from when the dial began. The
    /// dial goes on for as long as a handshake may take, for the streams to come.
    pub dial_timeout: Duration,
    /// The longest time that a stream waits for a connection to have room for it, before another one is
    /// tried.
    pub open_timeout: Duration,
    /// The most connections that one worker dials to one node in one class; each takes as many streams as
    /// the peer allows.
    pub parallel_connections: usize,
    /// The most connections with nodes of all linked clusters, both ways; each costs some 60 KiB. One
    /// cluster gets a quarter of them at most. More lets larger clusters in; less is kinder to this
    /// node's memory when one of them goes mad.
    pub max_connections: usize,
    /// Limits on the bytes that peers may have this node hold; see [`crate::budget`].
    pub buffers: BufferLimits,
}

impl Default for LinkSettings {
    fn default() -> Self {
        Self {
            versions: wire::VERSIONS,
            idle_timeout: Duration::from_secs(300),
            header_timeout: wire::header::HEADER_TIMEOUT,
            dial_timeout: Duration::from_secs(2),
            open_timeout: Duration::from_millis(500),
            parallel_connections: 4,
            max_connections: 8192,
            buffers: BufferLimits { process: 256 << 20, peer: 32 << 20 },
        }
    }
}

impl LinkContext {
    /// A draw from 0 to 1.
    pub(super) fn random_unit(&self) -> f64 {
        // 53 bits are what a double holds.
        ((self.random)() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

impl std::fmt::Debug for LinkContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinkContext").field("boot", &self.boot).finish_non_exhaustive()
    }
}
