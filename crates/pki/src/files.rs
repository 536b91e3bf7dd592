//! The files that hold certificates and keys, and their permissions.
//!
//! Keys are written for their owner alone (0600) and read only if nobody else can read them. Nothing that
//! exists is replaced unless the caller says so. A file appears whole or not at all, new or in place of an old
//! one, so that a daemon that reloads never reads half a file and a full disk leaves none. Names and layout of a node's folder:
//! [`NODE_CHAIN`], [`NODE_KEY`], [`BUNDLE`].

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use adit_core::spiffe::{SpiffeId, TrustDomain};
use rustls_pki_types::UnixTime;
use zeroize::Zeroizing;

use crate::authority::{AuthorityError, ClusterAuthority};
use crate::bundle::{BundleError, TrustBundle};
use crate::identity::{self, Identity, IdentityError};
use crate::pem;

/// A node's certificate chain, leaf first.
pub const NODE_CHAIN: &str = "node.pem";
/// The key that belongs to it.
pub const NODE_KEY: &str = "node.key.pem";
/// The cluster's own trust bundle; in an authority's folder its one certificate.
pub const BUNDLE: &str = "ca.pem";
/// An authority's key.
pub const AUTHORITY_KEY: &str = "ca.key.pem";

/// The largest file that is read, in bytes: a generous bundle has a hundredth of it.
pub const MAX_FILE: u64 = 1024 * 1024;

/// The reason for which a file could not be read or written as asked.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system's own reason.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// The reason.
        error: io::Error,
    },
    /// The file is there already.
    #[error("{} exists and is left as it is", .0.display())]
    Exists(PathBuf),
    /// Larger than [`MAX_FILE`].
    #[error("{} is larger than {MAX_FILE} bytes", .0.display())]
    TooLarge(PathBuf),
    /// Others than its owner can read a key.
    #[error(
        "{path} holds a key and can be read by others (mode {mode:04o}): run chmod 600 {path}, and \
         replace the key if anybody else may have read it", path = .path.display()
    )]
    ReadableByOthers {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is no trust bundle of that trust domain.
    #[error("{}: {error}", path.display())]
    Bundle {
        /// Which file.
        path: PathBuf,
        /// The reason.
        error: BundleError,
    },
    /// The folder holds no usable authority.
    #[error("{}: {error}", folder.display())]
    Authority {
        /// Which folder.
        folder: PathBuf,
        /// The reason.
        error: AuthorityError,
    },
    /// There is no usable identity.
    #[error("{}: {error}", path.display())]
    Identity {
        /// Which file, or the folder where it is about two of them.
        path: PathBuf,
        /// The reason.
        error: IdentityError,
    },
}

/// The fate of a file that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfExists {
    /// The file stays, and writing fails.
    Keep,
    /// The file is replaced.
    Replace,
}

/// Reads a file that is nobody's secret.
///
/// # Errors
/// [`FileError::Io`], [`FileError::TooLarge`].
pub fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    open(path)?.1.read_to_end(&mut bytes).map_err(io_error(path))?;
    Ok(bytes)
}

/// Reads a key's file; the buffer is wiped when it is dropped.
///
/// # Errors
/// As [`read`], and [`FileError::ReadableByOthers`] where others than its owner can read it.
pub fn read_key(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let (metadata, mut file) = open(path)?;
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(FileError::ReadableByOthers { path: path.to_owned(), mode });
    }
    // Sized at once: a buffer that grows leaves its old bytes behind. One more finds the end.
    let size = usize::try_from(metadata.len()).unwrap_or(0);
    let mut bytes = Zeroizing::new(vec![0; size + 1]);
    let mut read = 0;
    while let Some(rest) = bytes.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match file.read(rest).map_err(io_error(path))? {
            0 => break,
            n => read += n,
        }
    }
    bytes.truncate(read);
    Ok(bytes)
}

/// Writes a file that everybody may read (0644, less the process's umask).
///
/// # Errors
/// [`FileError::Exists`], [`FileError::Io`].
pub fn write(path: &Path, bytes: &[u8], existing: IfExists) -> Result<(), FileError> {
    write_atomically(path, bytes, 0o644, existing)
}

/// Writes a file that only its owner may read (0600).
///
/// # Errors
/// [`FileError::Exists`], [`FileError::Io`].
pub fn write_key(path: &Path, bytes: &[u8], existing: IfExists) -> Result<(), FileError> {
    write_atomically(path, bytes, 0o600, existing)
}

/// Makes a folder for keys (0700) with its parents, unless it is there.
///
/// # Errors
/// [`FileError::Io`].
pub fn make_folder(path: &Path) -> Result<(), FileError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error(path))
}

/// Reads a trust bundle of `domain`, PEM or SPIFFE JSON.
///
/// # Errors
/// [`FileError`], see there.
pub fn load_bundle(path: &Path, domain: &TrustDomain) -> Result<TrustBundle, FileError> {
    TrustBundle::parse(domain.clone(), &read(path)?)
        .map_err(|error| FileError::Bundle { path: path.to_owned(), error })
}

/// Reads a cluster's authority from its folder ([`BUNDLE`], [`AUTHORITY_KEY`]).
///
/// # Errors
/// [`FileError`], see there.
pub fn load_authority(folder: &Path) -> Result<ClusterAuthority, FileError> {
    let certificate = read(&folder.join(BUNDLE))?;
    let key = read_key(&folder.join(AUTHORITY_KEY))?;
    ClusterAuthority::from_pem(&certificate, &key)
        .map_err(|error| FileError::Authority { folder: folder.to_owned(), error })
}

/// Reads a node's identity and its cluster's own bundle from the node's folder ([`NODE_CHAIN`],
/// [`NODE_KEY`], [`BUNDLE`]), checked at `now`. `nodes_by_id` as in [`crate::Trust`]; usually none.
///
/// # Errors
/// Everything that is wrong with the three files, at least one.
pub fn load_node(
    folder: &Path,
    domain: &TrustDomain,
    nodes_by_id: &BTreeSet<SpiffeId>,
    now: UnixTime,
) -> Result<(Identity, TrustBundle), Vec<FileError>> {
    let (chain_file, key_file) = (folder.join(NODE_CHAIN), folder.join(NODE_KEY));
    let of = |path: &Path| {
        let path = path.to_owned();
        move |error| FileError::Identity { path, error }
    };
    let bundle = load_bundle(&folder.join(BUNDLE), domain);
    let chain = read(&chain_file).and_then(|pem| {
        pem::certificates(&pem).map_err(IdentityError::Chain).map_err(of(&chain_file))
    });
    let key = read_key(&key_file)
        .and_then(|pem| pem::private_key(&pem).map_err(IdentityError::Key).map_err(of(&key_file)));
    match (bundle, chain, key) {
        (Ok(bundle), Ok(chain), Ok(key)) => {
            match Identity::new(chain, key, &bundle, nodes_by_id, now) {
                Ok(identity) => Ok((identity, bundle)),
                Err(error) => {
                    let path = match error {
                        IdentityError::Key(_) | IdentityError::KeyKind(_) => &key_file,
                        IdentityError::Mismatch => folder,
                        IdentityError::Chain(_)
                        | IdentityError::TrustDomain { .. }
                        | IdentityError::Refused(_) => &*chain_file,
                    };
                    Err(vec![of(path)(error)])
                }
            }
        }
        (bundle, chain, key) => {
            // Whoever mends the key would hear of the certificate only then.
            let refused = match (&bundle, &chain) {
                (Ok(bundle), Ok(chain)) => {
                    identity::verified(chain, bundle, nodes_by_id, now).err().map(of(&chain_file))
                }
                _ => None,
            };
            let all = [bundle.err(), chain.err(), refused, key.err()];
            Err(all.into_iter().flatten().collect())
        }
    }
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> FileError {
    move |error| FileError::Io { path: path.to_owned(), error }
}

fn open(path: &Path) -> Result<(fs::Metadata, File), FileError> {
    let file = File::open(path).map_err(io_error(path))?;
    let metadata = file.metadata().map_err(io_error(path))?;
    // A folder opens and fails on the first read; a FIFO or device may never end.
    if metadata.is_file() && metadata.len() > MAX_FILE {
        return Err(FileError::TooLarge(path.to_owned()));
    }
    if !metadata.is_file() {
        return Err(io_error(path)(io::Error::new(io::ErrorKind::InvalidInput, "not a file")));
    }
    Ok((metadata, file))
}

/// Writes the whole file under another name first, which is removed whatever fails: a full disk must leave neither
/// half a file, which would stand in the way of the next attempt, nor drafts without end.
fn write_atomically(
    path: &Path,
    bytes: &[u8],
    mode: u32,
    existing: IfExists,
) -> Result<(), FileError> {
    let draft = draft_path(path, existing).map_err(io_error(path))?;
    let placed = create(&draft, bytes, mode).and_then(|()| match existing {
        // A link, unlike a rename, never replaces what is there.
        IfExists::Keep => fs::hard_link(&draft, path),
        IfExists::Replace => fs::rename(&draft, path),
    });
    // One that was renamed is gone, and one that cannot be removed keeps nobody from going on.
    fs::remove_file(&draft).ok();
    placed.and_then(|()| sync_folder(path)).map_err(|error| {
        if error.kind() == io::ErrorKind::AlreadyExists {
            return FileError::Exists(path.to_owned());
        }
        io_error(path)(error)
    })
}

/// The path at which a file is written before it takes the name `path`. Of several processes that make a new file at once
/// each has its own; whoever replaces one also removes what a crash left behind.
fn draft_path(path: &Path, existing: IfExists) -> io::Result<PathBuf> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    if existing == IfExists::Replace {
        name.push(".new");
        let draft = path.with_file_name(name);
        return match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(draft),
        };
    }
    let mut unique = [0; 8];
    let random = aws_lc_rs::rand::fill(&mut unique);
    random.map_err(|_| io::Error::other("the system gave no random bytes"))?;
    name.push(format!(".{:016x}", u64::from_ne_bytes(unique)));
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    Ok(path.with_file_name(hidden))
}

/// Makes a new name last beyond a power cut.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

/// Makes a file that is not there. `create_new` follows no link, so the mode is the one given.
fn create(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
