//! Handover from one process of a node to the next: their messages, and the order of these.
//!
//! The process that runs (the holder, [`holder`]) is found at [`SOCKET`] in the folder that both share. The one that
//! starts (the requester, [`requester`]) gets every socket that must not close: connections wait in the queues of
//! listeners, and a queue dies with the last process that has it.
//!
//! ```text
//! requester                     holder, which serves all the while
//!   ask (protocol, turn)  ──▶
//!                         ◀──  offer, or refuse
//!                         ◀──  tcp, public, udp, elder (each with descriptors), end
//!   starts over them, hears its peers
//!   ready                 ──▶
//!                               steps aside: reads no more UDP of its own
//!                         ◀──  yielded
//!   accepts and reads
//!   taken                 ──▶
//!                               accepts no more, asks its peers to go to the requester, and finishes what it carries
//! ```
//!
//! Until `taken` the holder can go on as if nothing had been, and does if the requester dies. If the holder dies
//! or is silent, the requester binds what it lacks itself.
//!
//! **A successor that ends.** The holder still has the UDP sockets and perhaps streams, for as long as an hour, and
//! without the sockets nobody can begin. So it holds on to the connection, which closes with the other process, or
//! asks whoever listens there for another (`watch`). When it closes and nobody answers there, the holder listens
//! there again itself and reads the sockets, until the next requester comes.
//!
//! **Two versions may meet.** Fields that one does not know it skips; to what it does not know as a whole it says
//! `notKnown` with its protocol, and the requester waits until the holder has ended. A later protocol adds words; it
//! changes none.

pub(super) mod holder;
pub(super) mod requester;
#[cfg(test)]
mod tests;

use std::fs::{File, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use adit_host::ipc::IpcConnection;
use adit_pki::files::{self, IfExists};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

/// The holder's listener, in the folder that both processes share.
pub(super) const SOCKET: &str = "handover.sock";
/// The file that says in which order the pods of this node came.
pub(super) const TURNS: &str = "handover.turns";
/// The lock file of whoever reads or writes that.
pub(super) const TURNS_LOCK: &str = "handover.lock";
/// The protocol of this version.
const PROTOCOL: u32 = 1;
/// The turns of this many pods are kept.
const TURNS_KEPT: usize = 16;
/// A requester's start may take this long, from the last socket that it got to its message that it is ready.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// A message between the two processes. Descriptors travel beside some of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(in crate::node) enum HandoverMessage {
    /// May I take over?
    Ask { protocol: u32, version: String, turn: u64 },
    /// Yes; all that there is follows.
    Offer { version: String },
    /// No, and asking again will not help while I live.
    Refuse { reason: String },
    /// Sockets of imports that listen at this address.
    Tcp { address: SocketAddr },
    /// The public server's socket.
    Public { address: SocketAddr },
    /// The sockets at which peers reach this node, one for each worker in their order.
    Udp { address: SocketAddr },
    /// The generation of processes that the requester is.
    Generation { generation: u8 },
    /// The socket for packets that belong to connections of an earlier process.
    Elder { generation: u8 },
    /// That was all.
    End,
    /// I could serve now.
    Ready,
    /// I read no more.
    Yielded,
    /// I serve.
    Taken,
    /// Keep this connection for as long as you live, so that I hear when you end.
    Watch,
    /// I do not know what you said; I speak this.
    NotKnown { protocol: u32 },
    /// Something of a later version.
    #[serde(other)]
    Other,
}

fn send_message(
    connection: &IpcConnection,
    word: &HandoverMessage,
    descriptors: &[OwnedFd],
) -> io::Result<()> {
    let message = serde_json::to_vec(word)?;
    let descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    connection.send(&message, &descriptors)
}

/// Receives the next message; one that cannot be read counts as one of a later version.
fn receive_message(connection: &IpcConnection) -> io::Result<(HandoverMessage, Vec<OwnedFd>)> {
    let (message, descriptors) = connection.receive()?;
    Ok((serde_json::from_slice(&message).unwrap_or(HandoverMessage::Other), descriptors))
}

fn unexpected(word: &HandoverMessage) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("it said {word:?}"))
}

/// A connection to whoever has the listener at `path`, which closes when that process ends.
///
/// # Errors
/// Nobody is there (`NotFound`, `ConnectionRefused`), or as [`IpcConnection::connect`] and [`IpcConnection::send`].
fn watch_process(path: &Path) -> io::Result<IpcConnection> {
    let connection = IpcConnection::connect(path)?;
    send_message(&connection, &HandoverMessage::Watch, &[])?;
    Ok(connection)
}

/// The state of this process among those of its node: what the processes share has one owner at a time. All clones are
/// one.
#[derive(Debug, Clone, Default)]
pub(super) struct HandoverState {
    /// A successor has taken over: what both share, files and routes, is no longer this process's.
    pub(super) taken_over: CancellationToken,
    /// This process was asked to end.
    pub(super) ending: CancellationToken,
    /// Nobody comes after this process: Adit leaves.
    pub(super) removed: CancellationToken,
}

impl HandoverState {
    /// Polls `keeping` for as long as no successor has taken over, and then waits for ever.
    pub(super) async fn run_until_taken_over(self, keeping: impl Future<Output = ()>) {
        tokio::select! {
            () = keeping => {}
            () = self.taken_over.cancelled() => std::future::pending().await,
        }
    }
}

/// The turn of `pod` on this node: a pod that came later has a higher one, and keeps it over restarts of its
/// containers. So a process never takes over from one that came after its pod did.
///
/// # Errors
/// Those of the file in `folder`.
pub(super) fn turn(folder: &Path, pod: &str) -> io::Result<u64> {
    // The lock is not on the file itself, which is replaced: one that was written in part only would have the next pod
    // count from 1, and the process that runs refuse it.
    let mut options = OpenOptions::new();
    let lock = options.create(true).truncate(false).write(true).mode(0o600);
    let lock: File = lock.open(folder.join(TURNS_LOCK))?;
    lock.lock()?;
    let file = folder.join(TURNS);
    let text = match std::fs::read_to_string(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        text => text?,
    };
    let entry = |line: &str| {
        let (turn, pod) = line.split_once(' ')?;
        Some((turn.parse::<u64>().ok()?, pod.to_owned()))
    };
    let mut turns: Vec<(u64, String)> = text.lines().filter_map(entry).collect();
    if let Some((turn, _)) = turns.iter().find(|(_, known)| known == pod) {
        return Ok(*turn);
    }
    let turn = turns.iter().map(|(turn, _)| *turn).max().unwrap_or(0).saturating_add(1);
    turns.push((turn, pod.to_owned()));
    let kept = &turns[turns.len().saturating_sub(TURNS_KEPT)..];
    let text: String = kept.iter().map(|(turn, pod)| format!("{turn} {pod}\n")).collect();
    files::write(&file, text.as_bytes(), IfExists::Replace).map_err(io::Error::other)?;
    Ok(turn)
}
