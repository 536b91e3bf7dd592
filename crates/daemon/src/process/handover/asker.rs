//! The process that starts: asks for what is there, and says when it serves.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;

use adit_dataplane::listeners::Inherited;
use adit_host::passage::Passage;
use adit_transport::endpoint::UdpInheritance;

use super::super::bind::Given;
use super::{PROTOCOL, SOCKET, Word, hear, say, unexpected};

/// What came of asking.
#[derive(Debug)]
pub(in crate::process) enum Asked {
    /// Everything, from a process that goes on until it hears that it need not.
    Given(Box<Inheritance>),
    /// There is no such process, or it died.
    Nobody,
    /// There is one that gives nothing, and why.
    Refused(String),
}

/// What a process gets from the one before it.
#[derive(Debug)]
pub(in crate::process) struct Inheritance {
    /// Sockets.
    pub(in crate::process) given: Given,
    /// The way back to who gave it.
    pub(in crate::process) succession: Succession,
}

/// Asks the process that runs with `folder`, if there is one.
pub(in crate::process) fn ask(folder: &Path, turn: u64) -> Asked {
    match asked(&folder.join(SOCKET), turn) {
        Ok(asked) => asked,
        Err(error) => {
            if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) {
                tracing::warn!(%error, "the process that runs hands nothing over");
            }
            Asked::Nobody
        }
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "every other word is out of place here")]
fn asked(path: &Path, turn: u64) -> io::Result<Asked> {
    let passage = Passage::connect(path)?;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    say(&passage, &Word::Ask { protocol: PROTOCOL, version, turn }, &[])?;
    match hear(&passage)?.0 {
        Word::Offer { version } => {
            let given = receive(passage)?;
            let addresses = given.given.tcp.len();
            tracing::info!(from_version = version, addresses, "the running process hands over");
            Ok(Asked::Given(Box::new(given)))
        }
        Word::Refuse { reason } => Ok(Asked::Refused(reason)),
        Word::NotKnown { protocol } => {
            let reason =
                format!("it speaks protocol {protocol} of handing over, this one {PROTOCOL}");
            Ok(Asked::Refused(reason))
        }
        other => Err(unexpected(&other)),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "every other word is out of place here")]
fn receive(passage: Passage) -> io::Result<Inheritance> {
    let (mut tcp, mut public) = (Inherited::new(), None);
    let mut sockets: BTreeMap<SocketAddr, Vec<OwnedFd>> = BTreeMap::new();
    let (mut generation, mut elders) = (None, Vec::new());
    loop {
        let (word, mut descriptors) = hear(&passage)?;
        match word {
            Word::Tcp { address } => tcp.entry(address).or_default().append(&mut descriptors),
            Word::Public { address } => public = descriptors.pop().map(|socket| (address, socket)),
            Word::Udp { address } => sockets.entry(address).or_default().append(&mut descriptors),
            Word::Generation { generation: ours } => generation = Some(ours),
            Word::Elder { generation } => {
                elders.extend(descriptors.pop().map(|socket| (generation, socket)));
            }
            Word::End => break,
            // A later version hands over more; what this one has no name for it has no use for.
            Word::Other => {}
            other => return Err(unexpected(&other)),
        }
    }
    let sockets = sockets.into_iter().collect();
    let udp = generation.map(|generation| UdpInheritance { generation, sockets, elders });
    Ok(Inheritance { given: Given { tcp, public, udp }, succession: Succession(passage) })
}

/// The rest of the conversation. Where it breaks off, the process before this one has died, or will find that it has
/// been replaced.
#[derive(Debug)]
pub(in crate::process) struct Succession(Passage);

impl Succession {
    /// Says that this process could serve, and waits until the other one has stepped aside: whether it did.
    #[expect(clippy::wildcard_enum_match_arm, reason = "every other word is out of place here")]
    pub(in crate::process) fn ready(&self) -> bool {
        let yielded = say(&self.0, &Word::Ready, &[]).and_then(|()| match hear(&self.0)?.0 {
            Word::Yielded => Ok(()),
            other => Err(unexpected(&other)),
        });
        if let Err(error) = yielded {
            tracing::warn!(%error, "the process before this one did not step aside");
            return false;
        }
        true
    }

    /// Says that this process serves. What says that it lives is that it keeps this.
    pub(in crate::process) fn taken(&self) {
        if let Err(error) = say(&self.0, &Word::Taken, &[]) {
            tracing::warn!(%error, "the process before this one does not hear that it is replaced");
        }
    }
}
