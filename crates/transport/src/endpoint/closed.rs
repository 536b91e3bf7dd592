//! The end of a connection: one of our codes, a text for people, and which side ended it.

use std::borrow::Cow;
use std::fmt;

use adit_core::code::Code;
use adit_core::text::printable_ascii;
use adit_pki::VerifyError;
use quinn::{ConnectionError, TransportErrorCode};

/// The side that ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClosedBy {
    /// This side closed it.
    Us,
    /// The peer closed it, or answered as one that does not know it.
    Peer,
    /// Neither: nothing was received from the peer for too long.
    Silence,
}

/// The text of a connection that this side ended for its pieces.
pub(crate) const TOO_MANY_PIECES: &str =
    "too many pieces of streams came that cannot be put together, or frames beside them";

/// The end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloseReason {
    /// The reason.
    pub code: Code,
    /// The text of whoever ended it, for people: printable ASCII, [`CloseReason::MAX_TEXT`] bytes at most. A
    /// peer's word, if it was the peer.
    pub text: Box<str>,
    /// The side that ended it.
    pub by: ClosedBy,
}

impl CloseReason {
    /// The longest text that is kept of a peer's, in bytes.
    pub const MAX_TEXT: usize = 256;

    pub(super) fn new(code: Code, text: &str, by: ClosedBy) -> Self {
        Self { code, text: printable_ascii(text.as_bytes(), Self::MAX_TEXT).into(), by }
    }

    /// Which side refused the other's certificate, as a code, and why, if that is what ended the connection.
    pub(crate) fn refused_certificate(&self) -> Option<(Code, &str)> {
        let why = self.text.strip_prefix(REFUSED_PREFIX)?;
        let code = match self.by {
            ClosedBy::Us => Code::CertificateRefused,
            ClosedBy::Peer => Code::RefusedByPeer,
            ClosedBy::Silence => return None,
        };
        Some((code, why))
    }

    /// An end that QUIC or TLS brought about. TLS has no alert for a verifier's own verdict, so that one of the deny
    /// list shows in the text, on both sides.
    fn from_transport(code: TransportErrorCode, text: &str, by: ClosedBy) -> Self {
        let verdict = text.strip_prefix(REFUSED_PREFIX).and_then(|why| why.split(':').next());
        let is_denied = verdict == Some(VerifyError::DENIED);
        Self::new(if is_denied { Code::DeniedIdentity } else { transport_code(code) }, text, by)
    }

    /// Translates quinn's error. `ours` is what this side closed the connection with, if it did.
    pub(super) fn from_quinn(error: &ConnectionError, closed_here: Option<&Self>) -> Self {
        match error {
            ConnectionError::LocallyClosed => closed_here.cloned().unwrap_or_else(|| {
                // Every handle was dropped: nobody has a use for it.
                Self::new(Code::ConnectionUnused, "", ClosedBy::Us)
            }),
            ConnectionError::ApplicationClosed(close) => {
                let code = match close.error_code.into_inner() {
                    // The same on the other side: quinn closes what nobody holds with 0.
                    0 => Code::ConnectionUnused,
                    number => Code::from_number(number),
                };
                Self {
                    code,
                    text: printable_ascii(&close.reason, Self::MAX_TEXT).into(),
                    by: ClosedBy::Peer,
                }
            }
            // The message of a peer that gives up before the handshake is done.
            ConnectionError::ConnectionClosed(close)
                if close.error_code == TransportErrorCode::APPLICATION_ERROR =>
            {
                Self::new(Code::ConnectionUnused, "the peer gave up", ClosedBy::Peer)
            }
            ConnectionError::ConnectionClosed(close) => {
                let reason = String::from_utf8_lossy(&close.reason);
                Self::from_transport(close.error_code, &unwrap_tls_error(&reason), ClosedBy::Peer)
            }
            ConnectionError::TransportError(error) => {
                Self::from_transport(error.code, &unwrap_tls_error(&error.reason), ClosedBy::Us)
            }
            ConnectionError::Reset => Self::new(
                Code::PeerRestarted,
                "the peer does not know this connection",
                ClosedBy::Peer,
            ),
            ConnectionError::TimedOut => Self::new(Code::ConnectionLost, "", ClosedBy::Silence),
            ConnectionError::VersionMismatch => {
                Self::new(Code::VersionMismatch, "no QUIC version in common", ClosedBy::Peer)
            }
            ConnectionError::CidsExhausted => {
                Self::new(Code::LocalError, "no connection IDs are left", ClosedBy::Us)
            }
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = match self.by {
            ClosedBy::Us => "closed here",
            ClosedBy::Peer => "closed by the peer",
            ClosedBy::Silence => "nothing heard from the peer",
        };
        write!(f, "{by}: {}", self.code)?;
        if self.text.is_empty() { Ok(()) } else { write!(f, " ({})", self.text) }
    }
}

/// The beginning of the text if a certificate was refused.
const REFUSED_PREFIX: &str = "the certificate is refused: ";

/// The verifier's words about a certificate, without what rustls wraps around them: it shows an error that is
/// not its own by its `Debug`. The other side of the connection receives rustls' words.
fn unwrap_tls_error(reason: &str) -> Cow<'_, str> {
    let Some(why) = reason.strip_prefix("invalid peer certificate: ") else {
        return reason.into();
    };
    let bare =
        why.strip_prefix("Other(OtherError(").map(|why| why.strip_suffix("))").unwrap_or(why));
    format!("{REFUSED_PREFIX}{}", bare.unwrap_or(why)).into()
}

/// Our code for an end that QUIC or TLS brought about (RFC 9000 §20.1, RFC 8446 §6).
fn transport_code(code: TransportErrorCode) -> Code {
    const CRYPTO: std::ops::RangeInclusive<u64> = 0x100..=0x1ff;
    let number = u64::from(code);
    if !CRYPTO.contains(&number) {
        return match code {
            // A node that goes away refuses; one that is merely busy does not answer.
            TransportErrorCode::CONNECTION_REFUSED => Code::Draining,
            TransportErrorCode::INTERNAL_ERROR => Code::Internal,
            _ => Code::ProtocolError,
        };
    }
    match number - CRYPTO.start() {
        // certificate_revoked, certificate_expired
        44 | 45 => Code::CertificateEnded,
        // bad, unsupported and unknown certificate, unknown authority, access denied, none presented
        42 | 43 | 46 | 48 | 49 | 116 => Code::IdentityMismatch,
        // protocol_version, no_application_protocol
        70 | 120 => Code::VersionMismatch,
        _ => Code::ProtocolError,
    }
}
