//! The process that runs: hands over what it has to whoever may take it, and goes on if nobody does.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use adit_dataplane::listeners::OpenSockets;
use adit_host::passage::{Door, MAX_DESCRIPTORS, Passage};
use adit_transport::Endpoints;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{PROTOCOL, START_TIMEOUT, Word, hear, say, unexpected, watch};

/// After a door failed; out of descriptors, most likely.
const BACKOFF: Duration = Duration::from_millis(500);

/// After a door could not be made: something else is there, or the disk is full.
const REOPEN_BACKOFF: Duration = Duration::from_secs(10);

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

    /// Lets go of what a successor serves from now on and this process does not need.
    fn part(&mut self);
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

    fn part(&mut self) {
        self.public = None;
    }
}

/// Hands over to the process that takes it, on the thread of the caller, until `stop`; and to another one where that
/// and all that came after it have ended.
pub(in crate::process) fn serve(
    mut door: Door,
    turn: u64,
    estate: &mut impl Estate,
    tell: &mpsc::Sender<Successor>,
    stop: &CancellationToken,
) {
    // Processes before this one, which want to hear of its end.
    let mut watchers = Vec::new();
    while let Some((successor, passage)) = succeeded(&mut door, turn, estate, &mut watchers, stop) {
        // The receiver is gone only when the process ends.
        drop(tell.blocking_send(successor));
        estate.part();
        if !outlive(passage, door.path(), stop) {
            return;
        }
        tracing::warn!("the process that took over has ended, and none has come after it");
        reopen(&mut door);
        estate.resume();
    }
}

/// Waits for a successor: what it said, and the passage to it.
fn succeeded(
    door: &mut Door,
    turn: u64,
    estate: &impl Estate,
    watchers: &mut Vec<Passage>,
    stop: &CancellationToken,
) -> Option<(Successor, Passage)> {
    while !stop.is_cancelled() {
        let passage = match door.next() {
            Ok(Some(passage)) => passage,
            Ok(None) if door.is_ours() || stop.is_cancelled() => continue,
            Ok(None) => {
                // It got everything here and could not wait until this process heard that it serves.
                if let Ok(passage) = watch(door.path()) {
                    estate.step_aside();
                    return Some((Successor { version: "unknown".to_owned() }, passage));
                }
                reopen(door);
                continue;
            }
            Err(error) => {
                tracing::warn!(%error, "nobody can come for a hand-over");
                std::thread::sleep(BACKOFF);
                continue;
            }
        };
        let conversed = match hear(&passage) {
            Ok((Word::Watch, _)) => {
                watchers.retain(Passage::is_open);
                watchers.push(passage);
                continue;
            }
            Ok((first, _)) => converse(first, &passage, door, turn, estate),
            Err(error) => Err(error),
        };
        match conversed {
            Ok(Some(successor)) => return Some((successor, passage)),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "a hand-over broke off; this process goes on"),
        }
    }
    None
}

/// Makes the door anew where it was.
fn reopen(door: &mut Door) {
    let path = door.path().to_owned();
    match Door::bind(&path) {
        Ok(new) => *door = new,
        Err(error) => {
            tracing::error!(%error, "nobody will be able to take over");
            std::thread::sleep(REOPEN_BACKOFF);
        }
    }
}

/// Waits until the process at the other end of `passage` has ended, and whoever had the door at `path` then, and so
/// on. `false` on `stop`, or where one is of a version that does not let itself be watched.
fn outlive(mut passage: Passage, path: &Path, stop: &CancellationToken) -> bool {
    loop {
        if passage.wait_for(Door::WAIT_INTERVAL).is_err() {
            return false;
        }
        loop {
            if stop.is_cancelled() {
                return false;
            }
            match hear(&passage) {
                Ok((Word::NotKnown { .. }, _)) => return false,
                Ok(_) => {}
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(_) => break,
            }
        }
        passage = match watch(path) {
            Ok(passage) => passage,
            Err(error) => {
                let is_nobody =
                    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused);
                if !is_nobody {
                    tracing::warn!(%error, "it is not known whether this node has another process");
                }
                return is_nobody;
            }
        };
        // Whoever hangs up at once is not asked without end.
        std::thread::sleep(BACKOFF);
    }
}

/// The conversation that began with a word: a successor, if there is one now.
#[expect(clippy::wildcard_enum_match_arm, reason = "every other word is out of place here")]
fn converse(
    first: Word,
    passage: &Passage,
    door: &Door,
    turn: u64,
    estate: &impl Estate,
) -> io::Result<Option<Successor>> {
    let version = match first {
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
        // It has put its own door here and is behind it, so it serves, whatever became of its last word.
        Err(_) if !door.is_ours() && Passage::connect(door.path()).is_ok() => {
            Ok(Some(Successor { version }))
        }
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
