//! The process that starts: asks for what is there, and says when it serves.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;

use adit_dataplane::listeners::InheritedListeners;
use adit_host::ipc::IpcConnection;
use adit_transport::endpoint::UdpInheritance;

use super::super::bind::InheritedSockets;
use super::{HandoverMessage, PROTOCOL, SOCKET, receive_message, send_message, unexpected};

/// The answer of the process before this one.
#[derive(Debug)]
pub(in crate::node) enum HandoverReply {
    /// Everything, from a process that goes on until it hears that it need not.
    Inherited(Box<HandoverInheritance>),
    /// There is no such process, or it died.
    NoPredecessor,
    /// There is one that gives nothing, and why.
    Refused(String),
}

/// The sockets that a process gets from the one before it, with the rest of the conversation.
#[derive(Debug)]
pub(in crate::node) struct HandoverInheritance {
    /// Sockets.
    pub(in crate::node) sockets: InheritedSockets,
    /// The way back to who gave it.
    pub(in crate::node) succession: Succession,
}

/// Asks the process that runs with `folder`, if there is one.
pub(in crate::node) fn request_handover(folder: &Path, turn: u64) -> HandoverReply {
    match request_at(&folder.join(SOCKET), turn) {
        Ok(asked) => asked,
        Err(error) => {
            if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) {
                tracing::warn!(%error, "the process that runs hands nothing over");
            }
            HandoverReply::NoPredecessor
        }
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "every other word is out of place here")]
fn request_at(path: &Path, turn: u64) -> io::Result<HandoverReply> {
    let connection = IpcConnection::connect(path)?;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    send_message(&connection, &HandoverMessage::Ask { protocol: PROTOCOL, version, turn }, &[])?;
    match receive_message(&connection)?.0 {
        HandoverMessage::Offer { version } => {
            let given = receive_sockets(connection)?;
            let addresses = given.sockets.tcp.len();
            tracing::info!(from_version = version, addresses, "the running process hands over");
            Ok(HandoverReply::Inherited(Box::new(given)))
        }
        HandoverMessage::Refuse { reason } => Ok(HandoverReply::Refused(reason)),
        HandoverMessage::NotKnown { protocol } => {
            let reason =
                format!("it speaks protocol {protocol} of handing over, this one {PROTOCOL}");
            Ok(HandoverReply::Refused(reason))
        }
        other => Err(unexpected(&other)),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "every other word is out of place here")]
fn receive_sockets(connection: IpcConnection) -> io::Result<HandoverInheritance> {
    let (mut tcp, mut public) = (InheritedListeners::new(), None);
    let mut sockets: BTreeMap<SocketAddr, Vec<OwnedFd>> = BTreeMap::new();
    let (mut generation, mut predecessors) = (None, Vec::new());
    loop {
        let (word, mut descriptors) = receive_message(&connection)?;
        match word {
            HandoverMessage::Tcp { address } => {
                tcp.entry(address).or_default().append(&mut descriptors)
            }
            HandoverMessage::Public { address } => {
                public = descriptors.pop().map(|socket| (address, socket))
            }
            HandoverMessage::Udp { address } => {
                sockets.entry(address).or_default().append(&mut descriptors)
            }
            HandoverMessage::Generation { generation: number } => generation = Some(number),
            HandoverMessage::Elder { generation } => {
                predecessors.extend(descriptors.pop().map(|socket| (generation, socket)));
            }
            HandoverMessage::End => break,
            // A later version hands over more; what this one has no name for it has no use for.
            HandoverMessage::Other => {}
            other => return Err(unexpected(&other)),
        }
    }
    let sockets = sockets.into_iter().collect();
    let udp = generation.map(|generation| UdpInheritance { generation, sockets, predecessors });
    Ok(HandoverInheritance {
        sockets: InheritedSockets { tcp, public, udp },
        succession: Succession(connection),
    })
}

/// The rest of the conversation. Where it breaks off, the process before this one has died, or will find that it has
/// been replaced.
#[derive(Debug)]
pub(in crate::node) struct Succession(IpcConnection);

impl Succession {
    /// Says that this process could serve, and waits until the other one has stepped aside: whether it did.
    #[expect(clippy::wildcard_enum_match_arm, reason = "every other word is out of place here")]
    pub(in crate::node) fn announce_ready(&self) -> bool {
        let yielded =
            send_message(&self.0, &HandoverMessage::Ready, &[]).and_then(
                |()| match receive_message(&self.0)?.0 {
                    HandoverMessage::Yielded => Ok(()),
                    other => Err(unexpected(&other)),
                },
            );
        if let Err(error) = yielded {
            tracing::warn!(%error, "the process before this one did not step aside");
            return false;
        }
        true
    }

    /// Says that this process serves. What says that it lives is that it keeps this.
    pub(in crate::node) fn confirm_taken(&self) {
        if let Err(error) = send_message(&self.0, &HandoverMessage::Taken, &[]) {
            tracing::warn!(%error, "the process before this one does not hear that it is replaced");
        }
    }
}
