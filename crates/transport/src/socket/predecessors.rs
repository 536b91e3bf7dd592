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
struct PredecessorProcess {
    generation: u8,
    socket: UnixDatagram,
    /// Nobody reads any more: its packets are answered as those of a process that died.
    is_gone: AtomicBool,
}

/// A frame that holds nothing. Every version skips it.
const EMPTY_FRAME: [u8; 1] = [0];

impl PredecessorProcess {
    /// False once nobody can read any more. One that ended in peace was sent nothing since, so it is asked.
    fn is_alive(&self) -> bool {
        !self.is_gone.load(Ordering::Relaxed)
            && relay::send(&self.socket, &[IoSlice::new(&EMPTY_FRAME)]) != RelayOutcome::NoReader
    }
}

/// All older processes. Cheap to ask if there is none, which is the usual case.
#[derive(Default)]
pub(crate) struct Predecessors(Vec<PredecessorProcess>);

impl Predecessors {
    /// Those of the inherited ones that live, each by its generation and the socket that reaches it.
    pub(crate) fn new(inherited: Vec<(u8, OwnedFd)>) -> io::Result<Self> {
        let process = |(generation, socket)| {
            let socket = relay::adopt(socket)?;
            Ok(PredecessorProcess { generation, socket, is_gone: AtomicBool::new(false) })
        };
        let mut all = inherited.into_iter().map(process).collect::<io::Result<Vec<_>>>()?;
        // Each takes a generation and a descriptor, of this process and of all that follow it.
        all.retain(PredecessorProcess::is_alive);
        Ok(Self(all))
    }

    /// The generation that follows `generation`: none of a living process, so that nobody gets its packets.
    /// `None` if all are taken.
    pub(crate) fn next_generation(&self, generation: u8) -> Option<u8> {
        let taken = |next: &u8| *next == generation || self.0.iter().any(|e| e.generation == *next);
        (1..=u8::MAX).map(|n| generation.wrapping_add(n)).find(|next| !taken(next))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The process of this generation, if it lives as far as is known.
    pub(super) fn find(&self, generation: u8) -> Option<usize> {
        let wanted = |process: &PredecessorProcess| {
            process.generation == generation && !process.is_gone.load(Ordering::Relaxed)
        };
        self.0.iter().position(wanted)
    }

    /// Sends a run of datagrams of one sender, which a socket of `listening` received, to a predecessor.
    pub(super) fn forward(
        &self,
        process: usize,
        listening: SocketAddr,
        run: &[u8],
        meta: &RecvMeta,
    ) -> RelayOutcome {
        let header = frame::header(listening, meta);
        let process = &self.0[process];
        let outcome = relay::send(&process.socket, &[IoSlice::new(&header), IoSlice::new(run)]);
        if outcome == RelayOutcome::NoReader && !process.is_gone.swap(true, Ordering::Relaxed) {
            tracing::info!(
                generation = process.generation,
                "an older process of this node has ended"
            );
        }
        outcome
    }

    /// The living ones, for the process that comes next.
    pub(crate) fn share_sockets(&self) -> io::Result<Vec<(u8, OwnedFd)>> {
        let living = self.0.iter().filter(|process| process.is_alive());
        living.map(|process| Ok((process.generation, process.socket.try_clone()?.into()))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_ended_takes_no_generation_and_no_descriptor_though_nothing_was_sent_to_it() {
        let mut inherited = Vec::new();
        let (kept, living) = relay::pair(1 << 16).unwrap();
        inherited.push((7, kept.into()));
        for generation in (0..=u8::MAX).filter(|generation| *generation != 7) {
            let (sender, ended) = relay::pair(1 << 16).unwrap();
            drop(ended);
            inherited.push((generation, sender.into()));
        }
        let predecessors = Predecessors::new(inherited).unwrap();
        assert_eq!((predecessors.0.len(), predecessors.find(7)), (1, Some(0)));
        assert_eq!(
            (predecessors.next_generation(6), predecessors.next_generation(u8::MAX)),
            (Some(8), Some(0))
        );
        assert_eq!(predecessors.share_sockets().unwrap().len(), 1);
        let mut bytes = [0; 100];
        let got = living.recv(&mut bytes).unwrap();
        assert!(frame::read(&bytes[..got]).is_none(), "who is asked takes nothing from it");
        drop(living);
        assert_eq!(predecessors.share_sockets().unwrap().len(), 0, "it has ended since");
    }
}
