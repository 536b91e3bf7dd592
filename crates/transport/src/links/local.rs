//! What links are told about this process when they begin.

use std::sync::Arc;
use std::time::Duration;

use adit_core::wire;

use crate::budget::Bounds;
use crate::peer::BootId;

/// A source of random numbers. An argument, so that a simulation can repeat them.
pub type Random = Arc<dyn Fn() -> u64 + Send + Sync>;

/// A calendar: Unix time in milliseconds.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What a node answers its own controller, which asked with these bytes.
pub type ReportAnswer = Arc<dyn Fn(&[u8]) -> Vec<u8> + Send + Sync>;

/// What is this process's own.
#[derive(Clone)]
pub struct Local {
    /// Random, once per process.
    pub boot: BootId,
    /// Where jitter and draws come from.
    pub random: Random,
    /// Told to peers, so that a later version can show how clocks differ; this one does not look at theirs.
    pub clock: Clock,
    /// What may be set.
    pub settings: Settings,
}

/// What may be set about links. The defaults are what ships.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The lowest and highest protocol version to speak.
    pub versions: (u64, u64),
    /// A data connection that we dialled is closed when it has carried nothing for so long. More keeps
    /// some 60 KiB each on both sides; less makes more streams wait for a handshake.
    pub idle: Duration,
    /// How long a peer may take for its hello, for a stream's kind, and for what it subscribes to.
    pub header_deadline: Duration,
    /// How long a stream waits for a connection to be dialled, from when the dial began. The dial goes on
    /// for as long as a handshake may take, for the streams to come.
    pub dial_wait: Duration,
    /// How long a stream waits for a connection to have room for it, before another one is tried.
    pub open_timeout: Duration,
    /// The most connections that one worker dials to one node in one lane; each takes as many streams as
    /// the peer allows.
    pub parallel: usize,
    /// The most connections with nodes of all linked clusters, both ways; each costs some 60 KiB. One
    /// cluster gets a quarter of them at most. More lets larger clusters in; less is kinder to this
    /// node's memory when one of them goes mad.
    pub connections: usize,
    /// What peers may have this node hold, in bytes; see [`crate::budget`].
    pub buffers: Bounds,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            versions: wire::VERSIONS,
            idle: Duration::from_secs(300),
            header_deadline: wire::header::DEADLINE,
            dial_wait: Duration::from_secs(2),
            open_timeout: Duration::from_millis(500),
            parallel: 4,
            connections: 8192,
            buffers: Bounds { process: 256 << 20, peer: 32 << 20 },
        }
    }
}

impl Local {
    /// A draw from 0 to 1.
    pub(super) fn unit(&self) -> f64 {
        // 53 bits are what a double holds.
        ((self.random)() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

impl std::fmt::Debug for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Local").field("boot", &self.boot).finish_non_exhaustive()
    }
}
