//! The token of an invitation: what one operator gives to the other, as one word of text.
//!
//! `adit1-` and the base64url form of: secret, fingerprint of the inviting cluster's bundle, end (seconds since 1970),
//! its name and trust domain (each a length and its bytes), its nodes' addresses (a count; of each 4 or 6, the address and the
//! port), and the first four bytes of SHA-256 over all of that, by which a token that was cut is known. Numbers are big-endian.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use adit_core::name::ClusterName;
use adit_core::spiffe::TrustDomain;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls_pki_types::UnixTime;
use zeroize::Zeroizing;

use super::InvitationSecret;
use crate::fingerprint::BundleFingerprint;

const PREFIX: &str = "adit";
const VERSION: &str = "1-";
const CHECKSUM_LEN: usize = 4;
/// The longest text that is looked at, in bytes: the longest names and all addresses have a third of it.
const MAX_TEXT_LEN: usize = 4096;

/// Everything that a token says.
pub struct InvitationToken {
    /// The secret that proves who is invited.
    pub secret: InvitationSecret,
    /// The trust bundle that the inviting cluster must hand over.
    pub fingerprint: BundleFingerprint,
    /// The end, by the inviting operator's clock; whole seconds.
    pub until: UnixTime,
    /// The inviting cluster.
    pub cluster: ClusterName,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// Addresses of its nodes; at most [`InvitationToken::MAX_ADDRESSES`].
    pub addresses: Vec<SocketAddr>,
}

/// The reason for which a text is not a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvitationTokenError {
    /// Something else.
    #[error("this is no token of an invitation: one begins with {PREFIX}{VERSION}")]
    NotAToken,
    /// A token of another version.
    #[error("this token is of another version of Adit, whose tokens this one cannot read")]
    OtherVersion,
    /// A token of which something is missing or changed.
    #[error(
        "the token is damaged: a part of it is missing or was changed; copy it again, all of it"
    )]
    Damaged,
    /// The checksum is right, and yet something cannot be so.
    #[error("the token says something that cannot be so: its {0} is not valid")]
    Invalid(&'static str),
}

impl InvitationToken {
    /// The most addresses in a token.
    pub const MAX_ADDRESSES: usize = 8;

    /// The text. Addresses beyond [`Self::MAX_ADDRESSES`] are left out.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(512));
        bytes.extend_from_slice(&self.secret.0[..]);
        bytes.extend_from_slice(self.fingerprint.as_bytes());
        bytes.extend_from_slice(&self.until.as_secs().to_be_bytes());
        for name in [self.cluster.as_str(), self.trust_domain.as_str()] {
            // Names are no longer than 255 bytes.
            bytes.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
            bytes.extend_from_slice(name.as_bytes());
        }
        let addresses = &self.addresses[..self.addresses.len().min(Self::MAX_ADDRESSES)];
        bytes.push(u8::try_from(addresses.len()).unwrap_or(u8::MAX));
        for address in addresses {
            match address.ip() {
                IpAddr::V4(ip) => {
                    bytes.push(4);
                    bytes.extend_from_slice(&ip.octets());
                }
                IpAddr::V6(ip) => {
                    bytes.push(6);
                    bytes.extend_from_slice(&ip.octets());
                }
            }
            bytes.extend_from_slice(&address.port().to_be_bytes());
        }
        let sum = digest(&SHA256, &bytes);
        bytes.extend_from_slice(&sum.as_ref()[..CHECKSUM_LEN]);
        Zeroizing::new(format!("{PREFIX}{VERSION}{}", URL_SAFE_NO_PAD.encode(&bytes[..])))
    }

    /// Reads a token. White space in it, as where a line was broken, is skipped.
    ///
    /// # Errors
    /// [`InvitationTokenError`], see there. No error repeats any of it.
    pub fn parse(text: &str) -> Result<Self, InvitationTokenError> {
        use InvitationTokenError as E;
        if text.len() > MAX_TEXT_LEN {
            return Err(E::NotAToken);
        }
        let text = Zeroizing::new(text.split_ascii_whitespace().collect::<String>());
        let rest = text.strip_prefix(PREFIX).ok_or(E::NotAToken)?;
        let Some(body) = rest.strip_prefix(VERSION) else {
            let is_version = |v: &str| !v.is_empty() && v.bytes().all(|b| b.is_ascii_digit());
            let other = rest.split_once('-').is_some_and(|(version, _)| is_version(version));
            return Err(if other { E::OtherVersion } else { E::NotAToken });
        };
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(body).map_err(|_| E::Damaged)?);
        let at = bytes.len().checked_sub(CHECKSUM_LEN).ok_or(E::Damaged)?;
        let (content, sum) = bytes.split_at(at);
        if digest(&SHA256, content).as_ref()[..CHECKSUM_LEN] != *sum {
            return Err(E::Damaged);
        }
        let mut reader = TokenReader(content);
        let secret = Zeroizing::new(reader.array::<{ InvitationSecret::LEN }>()?);
        let token = Self {
            secret: InvitationSecret(secret),
            fingerprint: BundleFingerprint::from_bytes(reader.array()?),
            until: UnixTime::since_unix_epoch(Duration::from_secs(u64::from_be_bytes(
                reader.array()?,
            ))),
            cluster: reader.name()?.parse().map_err(|_| E::Invalid("cluster's name"))?,
            trust_domain: reader.name()?.parse().map_err(|_| E::Invalid("trust domain"))?,
            addresses: reader.addresses()?,
        };
        if reader.0.is_empty() { Ok(token) } else { Err(E::Invalid("length")) }
    }
}

impl fmt::Debug for InvitationToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InvitationToken")
            .field("cluster", &self.cluster)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

/// The rest of a token's content.
struct TokenReader<'a>(&'a [u8]);

impl<'a> TokenReader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], InvitationTokenError> {
        let (taken, rest) =
            self.0.split_at_checked(len).ok_or(InvitationTokenError::Invalid("length"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], InvitationTokenError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn name(&mut self) -> Result<&'a str, InvitationTokenError> {
        let [len] = self.array()?;
        let name = self.take(len.into())?;
        std::str::from_utf8(name).map_err(|_| InvitationTokenError::Invalid("name"))
    }

    fn addresses(&mut self) -> Result<Vec<SocketAddr>, InvitationTokenError> {
        const INVALID: InvitationTokenError = InvitationTokenError::Invalid("list of addresses");
        let [count] = self.array()?;
        if count == 0 || usize::from(count) > InvitationToken::MAX_ADDRESSES {
            return Err(INVALID);
        }
        (0..count)
            .map(|_| {
                let ip: IpAddr = match self.array()? {
                    [4] => self.array::<4>()?.into(),
                    [6] => self.array::<16>()?.into(),
                    _ => return Err(INVALID),
                };
                let port = u16::from_be_bytes(self.array()?);
                // Nobody's node is there, and this node sends nothing to such.
                if port == 0 || ip.is_unspecified() || ip.is_multicast() {
                    return Err(INVALID);
                }
                Ok(SocketAddr::new(ip, port))
            })
            .collect()
    }
}
