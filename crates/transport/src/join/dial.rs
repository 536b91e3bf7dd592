//! The joining side of a connection that joins by invitation. Needs no node: whoever can send to the other side's nodes
//! can do it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_core::wire::join::JoinMessage;
use adit_pki::invitation::{InviterError, check_inviter};
use adit_pki::{BundleFingerprint, InvitationSecret, TrustBundle, UnixTime};
use quinn::{ClientConfig, Connection, ConnectionError, EndpointConfig, RecvStream, SendStream};
use rustls::pki_types::CertificateDer;
use tokio::time::timeout;

use super::message::{JoinMessageError, read_message};
use crate::cid;
use crate::network::{SocketOptions, UdpNetwork};
use crate::tls::{self, ConnectionPieces};
use crate::tuning::Tuning;

/// The time for a handshake with one address.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// The time in which the other side has to send its document, from the end of the handshake; and what is sent has to go
/// out.
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// The time in which the other side closes the connection, from its answer.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// The reason why a cluster did not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Nothing can be sent.
    #[error("cannot send from here: {0}")]
    Local(String),
    /// Nobody answers.
    #[error("nothing answers there within {} s", HANDSHAKE_TIMEOUT.as_secs())]
    Silent,
    /// Somebody answers who has no invitation open.
    #[error(
        "its node answers and has no invitation open: the invitation has ended, the node was started again since, or it \
         is of a version that is older than invitations"
    )]
    NoInvitation,
    /// Somebody answers who has invitations, and not this one.
    #[error(
        "its node answers and does not know this invitation: it has ended, or is another cluster's"
    )]
    UnknownInvitation,
    /// The other side refused and has changed nothing.
    #[error("{0}")]
    Refused(String),
    /// Whoever answered is not who was wanted. Nothing was sent to it.
    #[error("{0}. Nothing was sent to it: somebody may be in between")]
    Inviter(#[from] InviterError),
    /// The other side broke off before anything was sent to it, or broke the protocol.
    #[error("the other side broke off: {0}")]
    BrokenOff(String),
    /// The other side was asked and gave no answer: it may have linked its cluster, or not.
    #[error("the other side was asked, and then there was no answer: {0}")]
    Unknown(String),
}

impl JoinError {
    /// True if another node of the same cluster may do better.
    #[must_use]
    pub fn is_worth_another_address(&self) -> bool {
        match self {
            Self::Silent
            | Self::NoInvitation
            | Self::UnknownInvitation
            | Self::BrokenOff(_)
            | Self::Inviter(_) => true,
            Self::Local(_) | Self::Refused(_) | Self::Unknown(_) => false,
        }
    }
}

/// A connection with whoever answered. Nothing has been sent on it but the proof that this side is invited.
#[derive(Debug)]
pub struct InviterConnection {
    connection: Connection,
    send: SendStream,
    recv: RecvStream,
    document: Box<str>,
}

/// Dials one address with an invitation, and receives what its node says of its cluster.
///
/// # Errors
/// [`JoinError`], see there.
///
/// # Panics
/// Outside of a tokio runtime.
pub async fn join(
    net: &Arc<dyn UdpNetwork>,
    address: SocketAddr,
    secret: &InvitationSecret,
) -> Result<InviterConnection, JoinError> {
    let local = |error: &dyn std::fmt::Display| JoinError::Local(error.to_string());
    let (tuning, pieces) = (Tuning::default(), Arc::<ConnectionPieces>::default());
    let options = SocketOptions {
        receive_buffer: tuning.receive_buffer,
        send_buffer: tuning.send_buffer,
        share_port: false,
    };
    let socket = net.dial(address, &options).map_err(|e| local(&e))?;
    let mut own = EndpointConfig::default();
    own.rng_seed(net.rng_seed(0));
    let runtime = Arc::new(quinn::TokioRuntime);
    let endpoint = quinn::Endpoint::new_with_abstract_socket(own, None, socket, runtime)
        .map_err(|e| local(&e))?;
    let mut config = ClientConfig::new(tls::for_joining(secret, &pieces).map_err(|e| local(&e))?);
    config
        .transport_config(tuning.invitee_transport())
        .initial_dst_cid_provider(Arc::new(cid::invitees_first_flight));
    // The name is neither sent nor looked at.
    let connecting =
        endpoint.connect_with(config, address, &address.ip().to_string()).map_err(|e| local(&e))?;
    let connection = timeout(HANDSHAKE_TIMEOUT, connecting).await.map_err(|_| JoinError::Silent)?;
    let connection = connection.map_err(|error| refused_handshake(&error))?;
    // In TLS 1.3 this side is done first: that the other refuses shows where it says nothing.
    let offered = async {
        let (send, mut recv) = connection.accept_bi().await.map_err(|e| refused_handshake(&e))?;
        match read_message(&mut recv).await {
            Ok(JoinMessage::Document(document)) => Ok((send, recv, document)),
            Ok(JoinMessage::Refused { sentence, .. }) => Err(JoinError::Refused(sentence)),
            Ok(JoinMessage::Accepted) => Err(JoinError::BrokenOff("it accepts nothing".into())),
            Err(JoinMessageError::Read(quinn::ReadError::ConnectionLost(e))) => {
                Err(refused_handshake(&e))
            }
            Err(error) => Err(JoinError::BrokenOff(error.to_string())),
        }
    };
    let offered = timeout(DOCUMENT_TIMEOUT, offered).await;
    let late = || JoinError::BrokenOff("it answered, and then said nothing".to_owned());
    let (send, recv, document) = offered.map_err(|_| late())??;
    Ok(InviterConnection { connection, send, recv, document })
}

impl InviterConnection {
    /// The other cluster, as it describes itself. Not to be believed before [`Self::check`].
    #[must_use]
    pub fn document(&self) -> &str {
        &self.document
    }

    /// Decides whether it is a node of the cluster that made the token, whose bundle it handed over.
    ///
    /// # Errors
    /// [`JoinError::Inviter`].
    pub fn check(
        &self,
        bundle: &TrustBundle,
        expected: BundleFingerprint,
        now: UnixTime,
    ) -> Result<(), JoinError> {
        let any = self.connection.peer_identity();
        let chain: Option<Box<Vec<CertificateDer<'static>>>> =
            any.and_then(|any| any.downcast().ok());
        let chain = chain.map(|chain| *chain).unwrap_or_default();
        Ok(check_inviter(&chain, bundle, expected, now).map(drop)?)
    }

    /// Asks it, which [`Self::check`] must have approved, to link its cluster, and waits for the answer of its operator:
    /// as long as the connection lives.
    ///
    /// # Errors
    /// [`JoinError`], see there.
    pub async fn ask(mut self, document: &str) -> Result<(), JoinError> {
        let message = JoinMessage::Document(document.into()).encode();
        let sent = timeout(DOCUMENT_TIMEOUT, self.send.write_all(&message)).await;
        match sent {
            Ok(Ok(())) => {}
            // It may have refused meanwhile, and say so.
            Ok(Err(_)) => {}
            Err(_) => return Err(JoinError::BrokenOff("it takes nothing".to_owned())),
        }
        let answer = read_message(&mut self.recv).await;
        // The other side closes once it knows that its answer has come.
        drop(timeout(CLOSE_TIMEOUT, self.connection.closed()).await);
        self.connection.close(0_u32.into(), b"");
        match answer {
            Ok(JoinMessage::Accepted) => Ok(()),
            Ok(JoinMessage::Refused { sentence, .. }) => Err(JoinError::Refused(sentence)),
            Ok(JoinMessage::Document(_)) => Err(JoinError::Unknown("it broke the protocol".into())),
            Err(error) => Err(JoinError::Unknown(error.to_string())),
        }
    }
}

/// The reason for which a handshake failed, or ended as soon as the other side had seen the proof.
fn refused_handshake(error: &ConnectionError) -> JoinError {
    /// TLS alerts as QUIC's codes (RFC 9001 §4.8): access_denied, no_application_protocol.
    const ACCESS_DENIED: u64 = 0x100 + 49;
    const NO_PROTOCOL: u64 = 0x100 + 120;
    let code = match error {
        ConnectionError::ConnectionClosed(close) => u64::from(close.error_code),
        ConnectionError::TransportError(error) => u64::from(error.code),
        ConnectionError::TimedOut => return JoinError::Silent,
        ConnectionError::VersionMismatch
        | ConnectionError::ApplicationClosed(_)
        | ConnectionError::Reset
        | ConnectionError::LocallyClosed
        | ConnectionError::CidsExhausted => 0,
    };
    match code {
        ACCESS_DENIED => JoinError::UnknownInvitation,
        NO_PROTOCOL => JoinError::NoInvitation,
        _ => JoinError::BrokenOff(error.to_string()),
    }
}
