//! The processes before this one that still have connections, and how their packets reach them.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};

use adit_host::relay::{self, RelayOutcome};
use quinn::udp::RecvMeta;

use super::frame;

/// An older process of this node.
struct ElderProcess {
    generation: u8,
    socket: UnixDatagram,
    /// Nobody reads any more: its packets are answered as those of a process that died.
    gone: AtomicBool,
}

/// All of them. Cheap to ask where there is none, which is the usual case.
#[derive(Default)]
pub(crate) struct ElderProcesses(Vec<ElderProcess>);

impl ElderProcesses {
    /// Those that were inherited, each by its generation and the socket that reaches it.
    pub(crate) fn new(inherited: Vec<(u8, OwnedFd)>) -> io::Result<Self> {
        let elder = |(generation, socket)| {
            let socket = relay::adopt(socket)?;
            Ok(ElderProcess { generation, socket, gone: AtomicBool::new(false) })
        };
        inherited.into_iter().map(elder).collect::<io::Result<_>>().map(Self)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The elder of this generation, if it lives as far as is known.
    pub(super) fn of(&self, generation: u8) -> Option<usize> {
        let wanted = |elder: &ElderProcess| {
            elder.generation == generation && !elder.gone.load(Ordering::Relaxed)
        };
        self.0.iter().position(wanted)
    }

    /// Sends a run of datagrams of one sender, which a socket of `listening` received, to an elder.
    pub(super) fn forward(
        &self,
        elder: usize,
        listening: SocketAddr,
        run: &[u8],
        meta: &RecvMeta,
    ) -> RelayOutcome {
        let header = frame::header(listening, meta);
        let elder = &self.0[elder];
        let outcome = relay::send(&elder.socket, &[IoSlice::new(&header), IoSlice::new(run)]);
        if outcome == RelayOutcome::Gone && !elder.gone.swap(true, Ordering::Relaxed) {
            tracing::info!(
                generation = elder.generation,
                "an older process of this node has ended"
            );
        }
        outcome
    }

    /// The living ones, for the process that comes next.
    pub(crate) fn bequeath(&self) -> io::Result<Vec<(u8, OwnedFd)>> {
        let living = self.0.iter().filter(|elder| !elder.gone.load(Ordering::Relaxed));
        living.map(|elder| Ok((elder.generation, elder.socket.try_clone()?.into()))).collect()
    }
}
