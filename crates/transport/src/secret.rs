//! The node's secret: 32 random bytes that outlive the process, and the keys made from them.
//!
//! They let a restarted node answer its peers' old packets with stateless resets they believe, so that
//! a crash is noticed in about a second instead of after the idle timeout (measured: 1.2 s against
//! 31.2 s). Both halves are needed: the key of the reset tokens, and the key by which the node still
//! recognises the connection IDs that it gave out before (see [`crate::cid`]).
//!
//! Whoever has the secret can end this node's connections, and read or fake nothing else.

use std::fs;
use std::io;
use std::path::Path;

use adit_pki::files::{self, FileError, IfExists};
use aws_lc_rs::{hkdf, hmac};
use zeroize::Zeroizing;

use crate::cid::CidKey;

/// The secret's file inside the identity folder.
pub const SECRET_FILE: &str = "node.secret";

const SECRET_LEN: usize = 32;
/// HKDF's salt (RFC 5869 §3.1): a constant that no other use of the same bytes would have.
const KEY_SALT: &[u8] = b"adit node secret, version 1";

/// The reason why there is no usable secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read or written, or others can read it.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is not of the right length: not made by this program, or cut off.
    #[error(
        "{path} must hold {SECRET_LEN} bytes and holds {found}: remove it, a new one will be made"
    )]
    Length {
        /// Which file.
        path: String,
        /// Its length, in bytes.
        found: usize,
    },
    /// The system gave no random bytes.
    #[error("the system gave no random bytes: {0}")]
    Random(getrandom::Error),
}

/// A node's secret. It is shown nowhere and wiped when dropped.
#[derive(Clone)]
pub struct NodeSecret(Zeroizing<[u8; SECRET_LEN]>);

impl NodeSecret {
    /// Reads the secret of a node's identity folder, and makes it if there is none yet.
    ///
    /// Of several processes that start at once with one folder, all get the same secret: the file
    /// appears whole or not at all, and the first one stays.
    ///
    /// # Errors
    /// [`SecretError`], see there.
    pub fn load_or_create(folder: &Path) -> Result<Self, SecretError> {
        let path = folder.join(SECRET_FILE);
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Self::random()?.store(&path)?;
            }
            // Whatever else may be wrong with it, reading will say.
            Ok(_) | Err(_) => {}
        }
        let bytes = files::read_key(&path)?;
        let exact = <[u8; SECRET_LEN]>::try_from(bytes.as_slice()).map_err(|_| {
            SecretError::Length { path: path.display().to_string(), found: bytes.len() }
        })?;
        Ok(Self::from_bytes(exact))
    }

    /// A secret that lasts as long as this value: for demonstrations and tests. A node that was started
    /// with it and dies is noticed by its peers only after the idle timeout.
    ///
    /// # Errors
    /// [`SecretError::Random`].
    pub fn random() -> Result<Self, SecretError> {
        let mut bytes = Zeroizing::new([0; SECRET_LEN]);
        getrandom::fill(&mut *bytes).map_err(SecretError::Random)?;
        Ok(Self(bytes))
    }

    /// The secret with these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; SECRET_LEN]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Puts the secret in its place unless another process was first, whose secret serves as well.
    fn store(&self, path: &Path) -> Result<(), SecretError> {
        match files::write_key(path, &*self.0, IfExists::Keep) {
            Err(FileError::Exists(_)) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn keys(&self) -> SecretKeys {
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, KEY_SALT).extract(&*self.0);
        SecretKeys {
            reset: hmac::Key::new(hmac::HMAC_SHA256, &*expand::<32>(&prk, b"stateless reset")),
            cid: CidKey::new(
                &expand(&prk, b"connection id mac"),
                &expand(&prk, b"connection id mask"),
            ),
            token: *expand(&prk, b"address validation token"),
        }
    }
}

impl std::fmt::Debug for NodeSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NodeSecret")
    }
}

/// Keys that are derived from a secret; the same at every start.
pub(crate) struct SecretKeys {
    /// Makes the tokens of stateless resets (RFC 9000 §10.3).
    pub(crate) reset: hmac::Key,
    /// Makes and recognises connection IDs.
    pub(crate) cid: CidKey,
    token: [u8; 32],
}

impl SecretKeys {
    /// Encrypts the tokens that prove a client's address (RFC 9000 §8.1). All endpoints of a node
    /// share it, since a client's second packet may reach another one than its first.
    pub(crate) fn token(&self) -> hkdf::Prk {
        hkdf::Salt::new(hkdf::HKDF_SHA256, KEY_SALT).extract(&self.token)
    }
}

fn expand<const N: usize>(prk: &hkdf::Prk, purpose: &[u8]) -> Zeroizing<[u8; N]> {
    struct Len(usize);
    impl hkdf::KeyType for Len {
        fn len(&self) -> usize {
            self.0
        }
    }
    let mut out = Zeroizing::new([0; N]);
    prk.expand(&[purpose], Len(N))
        .and_then(|okm| okm.fill(&mut *out))
        .expect("HKDF-SHA256 gives up to 8160 bytes");
    out
}

#[cfg(test)]
mod tests;
