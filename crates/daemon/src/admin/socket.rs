//! The admin socket's file: 0600, never somebody else's, gone when the process is.
//!
//! A crash leaves the file behind, and a second daemon must not take the first one's place. A lock beside it
//! (`PATH.lock`, released by the kernel with its process) tells the two apart; who holds it may replace the
//! file. The socket is made in a private folder and moved into place, so that there is no moment in which
//! its mode is the umask's choice.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Why the admin socket could not be had, with what to do.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another process serves it.
    #[error("{}: another adit serves this socket; stop it or set admin.socket to another path", .0.display())]
    Live(PathBuf),
    /// Something else is there.
    #[error("{}: this file is not a socket and is left alone; move it or set admin.socket to another path", .0.display())]
    NotASocket(PathBuf),
    /// The path does not fit a socket address.
    #[error("{}: a socket's path has at most 107 bytes; set admin.socket to a shorter one", .0.display())]
    TooLong(PathBuf),
    /// The operating system refused.
    #[error("{}: cannot {action}: {error}; make its folder writable for this user or set admin.socket to another path", .path.display())]
    Io {
        /// The action that failed.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// The error of the operating system.
        error: io::Error,
    },
}

/// A bound admin socket; its file goes when this is dropped.
#[derive(Debug)]
pub struct AdminSocket {
    path: PathBuf,
    /// Device and inode: only our own file is removed at the end.
    file: (u64, u64),
    listener: Option<UnixListener>,
    _lock: File,
}

/// `sun_path` without its NUL.
const MAX_PATH: usize = 107;

impl AdminSocket {
    /// Binds the socket at `path`; makes its folder where only that is missing.
    ///
    /// # Errors
    /// If another process serves it, something else is in its place, or the system refuses.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |error| SocketError::Io { action, path, error }
        };
        let folder =
            path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed("make its folder", path)(e));
            }
            Err(_) | Ok(()) => {}
        }
        let lock = lock(path)?;
        remove_stale(path)?;

        let private = folder.join(format!(".a{}", std::process::id()));
        let made = private.join("s");
        if path.as_os_str().len().max(made.as_os_str().len()) > MAX_PATH {
            return Err(SocketError::TooLong(path.to_owned()));
        }
        remove_folder(&private, &made);
        DirBuilder::new()
            .mode(0o700)
            .create(&private)
            .map_err(failed("make a folder beside it", path))?;
        let bound = UnixListener::bind(&made).and_then(|listener| {
            listener.set_nonblocking(true)?;
            std::fs::set_permissions(&made, Permissions::from_mode(0o600))?;
            let file = std::fs::symlink_metadata(&made)?;
            std::fs::rename(&made, path)?;
            Ok((listener, (file.dev(), file.ino())))
        });
        remove_folder(&private, &made);
        let (listener, file) = bound.map_err(failed("bind it", path))?;
        Ok(Self { path: path.to_owned(), file, listener: Some(listener), _lock: lock })
    }

    /// The listener, once; it does not block.
    pub fn take_listener(&mut self) -> Option<UnixListener> {
        self.listener.take()
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|file| (file.dev(), file.ino()) == self.file);
        if ours {
            // Left behind, it is replaced at the next start.
            std::fs::remove_file(&self.path).ok();
        }
    }
}

fn lock(path: &Path) -> Result<File, SocketError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let failed = |error| SocketError::Io { action: "lock it", path: path.to_owned(), error };
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(name)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(SocketError::Live(path.to_owned())),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Makes sure that what is at `path`, if anything, may be replaced.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let Ok(file) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !file.file_type().is_socket() {
        return Err(SocketError::NotASocket(path.to_owned()));
    }
    // The lock is ours, but a process that knows nothing of the lock may serve the socket.
    match UnixStream::connect(path) {
        Ok(_) => Err(SocketError::Live(path.to_owned())),
        Err(_) => Ok(()),
    }
}

fn remove_folder(folder: &Path, file: &Path) {
    // Both are ours by name; what cannot be removed makes the next step fail and say why.
    std::fs::remove_file(file).ok();
    std::fs::remove_dir(folder).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn it_is_private_and_goes_with_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("adit/admin.sock");
        let mut socket = AdminSocket::bind(&path).unwrap();
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        let listener = socket.take_listener().unwrap();
        let _client = UnixStream::connect(&path).unwrap();
        listener.set_nonblocking(false).unwrap();
        listener.accept().unwrap();
        let names = || std::fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(names(), 2, "the socket and its lock, nothing else");
        drop(socket);
        assert_eq!(names(), 1);
    }

    #[test]
    fn a_live_one_is_never_taken_and_a_stale_one_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let first = AdminSocket::bind(&path).unwrap();
        assert!(matches!(AdminSocket::bind(&path), Err(SocketError::Live(_))));
        assert!(UnixStream::connect(&path).is_ok(), "the first one still answers");
        drop(first);

        // Without our lock, as another program's.
        let foreign = UnixListener::bind(&path).unwrap();
        assert!(matches!(AdminSocket::bind(&path), Err(SocketError::Live(_))));
        // Its process is gone, its file is not: what kill -9 leaves.
        drop(foreign);
        assert!(path.exists());
        let again = AdminSocket::bind(&path).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        drop(again);
    }

    #[test]
    fn what_is_not_a_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        std::fs::write(&path, "precious").unwrap();
        let error = AdminSocket::bind(&path).unwrap_err();
        assert!(
            matches!(error, SocketError::NotASocket(_))
                && error.to_string().contains("admin.socket")
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn only_our_own_file_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let socket = AdminSocket::bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "somebody else's").unwrap();
        drop(socket);
        assert!(path.exists());
    }

    #[test]
    fn a_path_that_does_not_fit_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let error = AdminSocket::bind(&folder.path().join("s".repeat(120))).unwrap_err();
        assert!(matches!(error, SocketError::TooLong(_)), "{error}");
        let error = AdminSocket::bind(Path::new("/nowhere/at/all/admin.sock")).unwrap_err();
        assert!(error.to_string().contains("make its folder"), "{error}");
    }
}
