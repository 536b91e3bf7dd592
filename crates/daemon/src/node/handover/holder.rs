//! The process that runs: hands over what it has to whoever may take it, and goes on if nobody does.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use adit_dataplane::listeners::OpenSockets;
use adit_host::ipc::{IpcConnection, IpcListener, MAX_DESCRIPTORS};
use adit_transport::Endpoints;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    HandoverMessage, PROTOCOL, START_TIMEOUT, receive_message, send_message, unexpected,
    watch_process,
};

/// After a listener failed; out of descriptors, most likely.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(500);

/// The time from when somebody connects to the first message: a requester sends it at once, and waits for the answer for
/// [`IpcConnection::MESSAGE_TIMEOUT`], in which some that say nothing may be before it.
const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(1);

/// After a listener could not be made: something else is there, or the disk is full.
const REOPEN_BACKOFF: Duration = Duration::from_secs(10);

/// A process has taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::node) struct Successor {
    /// Its version.
    pub(in crate::node) version: String,
}

/// The sockets that a holder can hand over.
pub(in crate::node) trait HandoverSockets: Send + 'static {
    /// Gives all of it, word by word.
    ///
    /// # Errors
    /// Those of `give`, and what keeps a socket from being shared.
    fn send_all(
        &self,
        give: &mut dyn FnMut(HandoverMessage, Vec<OwnedFd>) -> io::Result<()>,
    ) -> io::Result<()>;

    /// Leaves to the successor what only one may read.
    fn step_aside(&self);

    /// Takes that back.
    fn resume(&self);

    /// Lets go of what a successor serves from now on and this process does not need.
    fn release(&mut self);
}

/// A node's sockets.
#[derive(Debug)]
pub(in crate::node) struct NodeSockets {
    /// Of imports.
    pub(in crate::node) imports: OpenSockets,
    /// Of the public server.
    pub(in crate::node) public: Option<TcpListener>,
    /// The QUIC sockets.
    pub(in crate::node) endpoints: Endpoints,
}

impl HandoverSockets for NodeSockets {
    fn send_all(
        &self,
        give: &mut dyn FnMut(HandoverMessage, Vec<OwnedFd>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut all = |word: &dyn Fn() -> HandoverMessage, mut sockets: Vec<OwnedFd>| {
            while !sockets.is_empty() {
                let rest = sockets.split_off(sockets.len().min(MAX_DESCRIPTORS));
                give(word(), std::mem::replace(&mut sockets, rest))?;
            }
            io::Result::Ok(())
        };
        for address in self.imports.addresses() {
            all(&|| HandoverMessage::Tcp { address }, self.imports.share(address)?)?;
        }
        if let Some(public) = &self.public {
            let address: SocketAddr = public.local_addr()?;
            all(&|| HandoverMessage::Public { address }, vec![public.try_clone()?.into()])?;
        }
        let udp = self.endpoints.share_sockets()?;
        for (address, sockets) in udp.sockets {
            all(&|| HandoverMessage::Udp { address }, sockets)?;
        }
        for (generation, socket) in udp.predecessors {
            all(&|| HandoverMessage::Elder { generation }, vec![socket])?;
        }
        give(HandoverMessage::Generation { generation: udp.generation }, Vec::new())
    }

    fn step_aside(&self) {
        self.endpoints.pause_reading();
    }

    fn resume(&self) {
        self.endpoints.resume_reading();
    }

    fn release(&mut self) {
        self.public = None;
    }
}

/// Hands over to the process that takes it, on the thread of the caller, until `stop`; and to another one where that
/// and all that came after it have ended.
pub(in crate::node) fn serve(
    mut listener: IpcListener,
    turn: u64,
    sockets: &mut impl HandoverSockets,
    tell: &mpsc::Sender<Successor>,
    stop: &CancellationToken,
) {
    // Processes before this one, which want to hear of its end.
    let mut watchers = Vec::new();
    while let Some((successor, connection)) =
        wait_for_successor(&mut listener, turn, sockets, &mut watchers, stop)
    {
        // The receiver is gone only when the process ends.
        drop(tell.blocking_send(successor));
        sockets.release();
        if !wait_for_end(connection, listener.path(), stop) {
            return;
        }
        tracing::warn!("the process that took over has ended, and none has come after it");
        reopen(&mut listener);
        sockets.resume();
    }
}

/// Waits for a successor: what it said, and the connection to it.
fn wait_for_successor(
    listener: &mut IpcListener,
    turn: u64,
    sockets: &impl HandoverSockets,
    watchers: &mut Vec<IpcConnection>,
    stop: &CancellationToken,
) -> Option<(Successor, IpcConnection)> {
    while !stop.is_cancelled() {
        let connection = match listener.accept() {
            Ok(Some(connection)) => connection,
            Ok(None) if listener.is_ours() || stop.is_cancelled() => continue,
            Ok(None) => {
                // It got everything here and could not wait until this process heard that it serves.
                if let Ok(connection) = watch_process(listener.path()) {
                    sockets.step_aside();
                    return Some((Successor { version: "unknown".to_owned() }, connection));
                }
                reopen(listener);
                continue;
            }
            Err(error) => {
                tracing::warn!(%error, "nobody can come for a hand-over");
                std::thread::sleep(ACCEPT_BACKOFF);
                continue;
            }
        };
        let conversed = match receive_first(&connection) {
            Ok((HandoverMessage::Watch, _)) => {
                watchers.retain(IpcConnection::is_open);
                watchers.push(connection);
                continue;
            }
            Ok((first, _)) => answer_request(first, &connection, listener, turn, sockets),
            Err(error) => Err(error),
        };
        match conversed {
            Ok(Some(successor)) => return Some((successor, connection)),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "a hand-over broke off; this process goes on"),
        }
    }
    None
}

/// Receives the message that a conversation begins with.
fn receive_first(connection: &IpcConnection) -> io::Result<(HandoverMessage, Vec<OwnedFd>)> {
    connection.wait_for(FIRST_MESSAGE_TIMEOUT)?;
    let first = receive_message(connection)?;
    connection.wait_for(IpcConnection::MESSAGE_TIMEOUT)?;
    Ok(first)
}

/// Makes the listener anew where it was.
fn reopen(listener: &mut IpcListener) {
    let path = listener.path().to_owned();
    match IpcListener::bind(&path) {
        Ok(new) => *listener = new,
        Err(error) => {
            tracing::error!(%error, "nobody will be able to take over");
            std::thread::sleep(REOPEN_BACKOFF);
        }
    }
}

/// Waits until the process at the other end of `connection` has ended, and whoever had the listener at `path` then, and
/// so on. `false` on `stop`, or where one is of a version that does not let itself be watched.
fn wait_for_end(mut connection: IpcConnection, path: &Path, stop: &CancellationToken) -> bool {
    loop {
        if connection.wait_for(IpcListener::ACCEPT_TIMEOUT).is_err() {
            return false;
        }
        loop {
            if stop.is_cancelled() {
                return false;
            }
            match receive_message(&connection) {
                Ok((HandoverMessage::NotKnown { .. }, _)) => return false,
                Ok(_) => {}
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(_) => break,
            }
        }
        connection = match watch_process(path) {
            Ok(connection) => connection,
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
        std::thread::sleep(ACCEPT_BACKOFF);
    }
}

/// The conversation that began with a word: a successor, if there is one now.
#[expect(clippy::wildcard_enum_match_arm, reason = "every other word is out of place here")]
fn answer_request(
    first: HandoverMessage,
    connection: &IpcConnection,
    listener: &IpcListener,
    turn: u64,
    sockets: &impl HandoverSockets,
) -> io::Result<Option<Successor>> {
    let version = match first {
        HandoverMessage::Ask { protocol, turn: theirs, .. }
            if protocol >= PROTOCOL && theirs <= turn =>
        {
            let reason = format!("it came to this node as number {theirs}, this one as {turn}");
            send_message(connection, &HandoverMessage::Refuse { reason }, &[])?;
            return Ok(None);
        }
        HandoverMessage::Ask { protocol, version, .. } if protocol >= PROTOCOL => version,
        _ => {
            send_message(connection, &HandoverMessage::NotKnown { protocol: PROTOCOL }, &[])?;
            return Ok(None);
        }
    };
    send_message(
        connection,
        &HandoverMessage::Offer { version: env!("CARGO_PKG_VERSION").to_owned() },
        &[],
    )?;
    sockets.send_all(&mut |word, sockets| send_message(connection, &word, &sockets))?;
    send_message(connection, &HandoverMessage::End, &[])?;
    connection.wait_for(START_TIMEOUT)?;
    expect(connection, &HandoverMessage::Ready)?;
    sockets.step_aside();
    connection.wait_for(IpcConnection::MESSAGE_TIMEOUT)?;
    let taken = send_message(connection, &HandoverMessage::Yielded, &[])
        .and_then(|()| expect(connection, &HandoverMessage::Taken));
    match taken {
        Ok(()) => Ok(Some(Successor { version })),
        // It has put its own listener here and is behind it, so it serves, whatever became of its last word.
        Err(_) if !listener.is_ours() && IpcConnection::connect(listener.path()).is_ok() => {
            Ok(Some(Successor { version }))
        }
        Err(error) => {
            sockets.resume();
            Err(error)
        }
    }
}

fn expect(connection: &IpcConnection, wanted: &HandoverMessage) -> io::Result<()> {
    let (word, _) = receive_message(connection)?;
    if word == *wanted { Ok(()) } else { Err(unexpected(&word)) }
}
