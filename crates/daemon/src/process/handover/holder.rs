//! The process that runs: hands over what it has to whoever may take it, and goes on if nobody does.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::time::Duration;

use adit_dataplane::listeners::OpenSockets;
use adit_host::passage::{Door, MAX_DESCRIPTORS, Passage};
use adit_transport::Endpoints;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{PROTOCOL, START_TIMEOUT, Word, hear, say, unexpected};

/// After a door failed; out of descriptors, most likely.
const BACKOFF: Duration = Duration::from_millis(500);

/// A process has taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::process) struct Successor {
    /// Its version.
    pub(in crate::process) version: String,
}

/// What can be handed over.
pub(in crate::process) trait Estate: Send + 'static {
    /// Gives all of it, word by word.
    ///
    /// # Errors
    /// Those of `give`, and what keeps a socket from being shared.
    fn give(&self, give: &mut dyn FnMut(Word, Vec<OwnedFd>) -> io::Result<()>) -> io::Result<()>;

    /// Leaves to the successor what only one may read.
    fn step_aside(&self);

    /// Takes that back.
    fn resume(&self);
}

/// A node's sockets.
#[derive(Debug)]
pub(in crate::process) struct Sockets {
    /// Of imports.
    pub(in crate::process) imports: OpenSockets,
    /// Of the public server.
    pub(in crate::process) public: Option<TcpListener>,
    /// Where peers reach this node.
    pub(in crate::process) endpoints: Endpoints,
}

impl Estate for Sockets {
    fn give(&self, give: &mut dyn FnMut(Word, Vec<OwnedFd>) -> io::Result<()>) -> io::Result<()> {
        let mut all = |word: &dyn Fn() -> Word, mut sockets: Vec<OwnedFd>| {
            while !sockets.is_empty() {
                let rest = sockets.split_off(sockets.len().min(MAX_DESCRIPTORS));
                give(word(), std::mem::replace(&mut sockets, rest))?;
            }
            io::Result::Ok(())
        };
        for address in self.imports.addresses() {
            all(&|| Word::Tcp { address }, self.imports.share(address)?)?;
        }
        if let Some(public) = &self.public {
            let address: SocketAddr = public.local_addr()?;
            all(&|| Word::Public { address }, vec![public.try_clone()?.into()])?;
        }
        let udp = self.endpoints.bequeath()?;
        for (address, sockets) in udp.sockets {
            all(&|| Word::Udp { address }, sockets)?;
        }
        for (generation, socket) in udp.elders {
            all(&|| Word::Elder { generation }, vec![socket])?;
        }
        give(Word::Generation { generation: udp.generation }, Vec::new())
    }

    fn step_aside(&self) {
        self.endpoints.step_aside();
    }

    fn resume(&self) {
        self.endpoints.resume();
    }
}

/// Hands over to the first process that takes it, on the thread of the caller, until `stop`.
pub(in crate::process) fn serve(
    door: &Door,
    turn: u64,
    estate: &impl Estate,
    tell: &mpsc::Sender<Successor>,
    stop: &CancellationToken,
) {
    while !stop.is_cancelled() {
        let passage = match door.next() {
            Ok(Some(passage)) => passage,
            Ok(None) => continue,
            Err(error) => {
                tracing::warn!(%error, "nobody can come for a hand-over");
                std::thread::sleep(BACKOFF);
                continue;
            }
        };
        match converse(&passage, door, turn, estate) {
            Ok(Some(successor)) => {
                // The receiver is gone only when the process ends.
                drop(tell.blocking_send(successor));
                return;
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "a hand-over broke off; this process goes on"),
        }
    }
}

/// One conversation: a successor, if there is one now.
#[expect(clippy::wildcard_enum_match_arm, reason = "every other word is out of place here")]
fn converse(
    passage: &Passage,
    door: &Door,
    turn: u64,
    estate: &impl Estate,
) -> io::Result<Option<Successor>> {
    let version = match hear(passage)?.0 {
        Word::Ask { protocol, turn: theirs, .. } if protocol >= PROTOCOL && theirs <= turn => {
            let reason = format!("it came to this node as number {theirs}, this one as {turn}");
            say(passage, &Word::Refuse { reason }, &[])?;
            return Ok(None);
        }
        Word::Ask { protocol, version, .. } if protocol >= PROTOCOL => version,
        _ => {
            say(passage, &Word::NotKnown { protocol: PROTOCOL }, &[])?;
            return Ok(None);
        }
    };
    say(passage, &Word::Offer { version: env!("CARGO_PKG_VERSION").to_owned() }, &[])?;
    estate.give(&mut |word, sockets| say(passage, &word, &sockets))?;
    say(passage, &Word::End, &[])?;
    passage.wait_for(START_TIMEOUT)?;
    expect(passage, &Word::Ready)?;
    estate.step_aside();
    passage.wait_for(Passage::TIMEOUT)?;
    let taken = say(passage, &Word::Yielded, &[]).and_then(|()| expect(passage, &Word::Taken));
    match taken {
        Ok(()) => Ok(Some(Successor { version })),
        // It has put its own door here, so it serves, whatever became of its last word.
        Err(_) if !door.is_ours() => Ok(Some(Successor { version })),
        Err(error) => {
            estate.resume();
            Err(error)
        }
    }
}

fn expect(passage: &Passage, wanted: &Word) -> io::Result<()> {
    let (word, _) = hear(passage)?;
    if word == *wanted { Ok(()) } else { Err(unexpected(&word)) }
}
