//! Hands descriptors from one process to another: a Unix socket whose messages keep their bounds
//! (`SOCK_SEQPACKET`) and carry descriptors along (`SCM_RIGHTS`).
//!
//! Owns the way, not what is said on it. Everything blocks, within [`IpcConnection::MESSAGE_TIMEOUT`]: callers have a
//! thread for it.
//!
//! Only processes of the same user are spoken to. The listener's file says so (0600, and its owner is looked at): the
//! kernel lets nobody else connect. `SO_PEERCRED` would say less, since processes in two containers have no PID in
//! common, and rustix takes the 0 that stands for that for an error.

use std::fs::Permissions;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use socket2::{Domain, SockAddr, Socket, Type};

/// Descriptors that one message may carry: the kernel takes 253.
pub const MAX_DESCRIPTORS: usize = 128;
/// Bytes that one message may have.
pub const MAX_MESSAGE: usize = 16 * 1024;
/// Processes that may wait at a listener. There is one, as a rule.
const BACKLOG: i32 = 4;

/// An end of a connection between two processes of one user.
#[derive(Debug)]
pub struct IpcConnection(Socket);

impl IpcConnection {
    /// For how long a message may be waited for, and may wait to be taken.
    pub const MESSAGE_TIMEOUT: Duration = Duration::from_secs(5);

    /// Connects to the process behind the listener at `path`.
    ///
    /// # Errors
    /// Nobody is there (`NotFound`, `ConnectionRefused`), somebody of another user (`PermissionDenied`), or
    /// the system refuses.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let file = std::fs::symlink_metadata(path)?;
        let is_own = file.uid() == rustix::process::geteuid().as_raw() && file.mode() & 0o077 == 0;
        if !file.file_type().is_socket() || !is_own {
            let text = format!("{} is no socket of this user alone", path.display());
            return Err(io::Error::new(ErrorKind::PermissionDenied, text));
        }
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
        socket.set_write_timeout(Some(Self::MESSAGE_TIMEOUT))?;
        socket.connect(&SockAddr::unix(path)?)?;
        Self::with(socket)
    }

    fn with(socket: Socket) -> io::Result<Self> {
        socket.set_read_timeout(Some(Self::MESSAGE_TIMEOUT))?;
        socket.set_write_timeout(Some(Self::MESSAGE_TIMEOUT))?;
        Ok(Self(socket))
    }

    /// True while the other process holds its end, as far as one can tell without waiting.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let look = RecvFlags::DONTWAIT | RecvFlags::PEEK;
        match rustix::net::recv(&self.0, &mut [0; 1], look) {
            Ok((got, _)) => got > 0,
            Err(error) => error == Errno::AGAIN || error == Errno::INTR,
        }
    }

    /// From now on a message is waited for this long.
    ///
    /// # Errors
    /// Zero is no time.
    pub fn wait_for(&self, time: Duration) -> io::Result<()> {
        self.0.set_read_timeout(Some(time))
    }

    /// Sends one message.
    ///
    /// # Errors
    /// It is longer than [`MAX_MESSAGE`] or carries more than [`MAX_DESCRIPTORS`] (`InvalidInput`), the other
    /// process is gone, or does not take it in time.
    pub fn send(&self, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        if message.len() > MAX_MESSAGE || descriptors.len() > MAX_DESCRIPTORS {
            let (bytes, many) = (message.len(), descriptors.len());
            let text = format!("a message of {bytes} bytes with {many} descriptors is too large");
            return Err(io::Error::new(ErrorKind::InvalidInput, text));
        }
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        let parts = [IoSlice::new(message)];
        rustix::net::sendmsg(&self.0, &parts, &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Waits for one message.
    ///
    /// # Errors
    /// The other process is gone (`UnexpectedEof`), silent for too long (`WouldBlock`), or sent more than
    /// there may be (`InvalidData`).
    pub fn receive(&self) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
        let mut message = vec![0; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut message)];
        let got = rustix::net::recvmsg(&self.0, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let mut descriptors = Vec::new();
        for received in control.drain() {
            if let RecvAncillaryMessage::ScmRights(all) = received {
                descriptors.extend(all);
            }
        }
        if got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(io::Error::new(ErrorKind::InvalidData, "a message is too large"));
        }
        if got.bytes == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        message.truncate(got.bytes);
        Ok((message, descriptors))
    }
}

/// Where other processes find this one. The file goes when this is dropped, unless another process has put
/// its own in the place.
#[derive(Debug)]
pub struct IpcListener {
    socket: Socket,
    path: PathBuf,
    /// Device and inode.
    file: (u64, u64),
}

impl IpcListener {
    /// [`IpcListener::accept`] waits this long.
    pub const ACCEPT_TIMEOUT: Duration = Duration::from_millis(500);

    /// Makes the listener at `path`, open to this user alone, in the place of whatever listener was there.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let draft = path.with_extension(format!("{}", std::process::id()));
        match std::fs::remove_file(&draft) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
        socket.bind(&SockAddr::unix(&draft)?)?;
        std::fs::set_permissions(&draft, Permissions::from_mode(0o600))?;
        socket.set_read_timeout(Some(Self::ACCEPT_TIMEOUT))?;
        socket.listen(BACKLOG)?;
        let made = std::fs::symlink_metadata(&draft)?;
        std::fs::rename(&draft, path)?;
        Ok(Self { socket, path: path.to_owned(), file: (made.dev(), made.ino()) })
    }

    /// Waits a moment for a process to come; none if there was none.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn accept(&self) -> io::Result<Option<IpcConnection>> {
        match self.socket.accept() {
            Ok((socket, _)) => IpcConnection::with(socket).map(Some),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True if others still find this process there, and not one that came after it.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        std::fs::symlink_metadata(&self.path)
            .is_ok_and(|file| (file.dev(), file.ino()) == self.file)
    }
}

impl Drop for IpcListener {
    fn drop(&mut self) {
        if self.is_ours() {
            // Left behind, it is replaced by who comes next.
            std::fs::remove_file(&self.path).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    fn meet(path: &Path) -> (IpcListener, IpcConnection, IpcConnection) {
        let listener = IpcListener::bind(path).unwrap();
        let near = IpcConnection::connect(path).unwrap();
        let far = listener.accept().unwrap().unwrap();
        (listener, near, far)
    }

    #[test]
    fn a_listener_that_was_passed_serves_what_waited_in_its_queue() {
        let folder = tempfile::tempdir().unwrap();
        let (_door, near, far) = meet(&folder.path().join("listener"));
        let old = TcpListener::bind("127.0.0.1:0").unwrap();
        let waiting = TcpStream::connect(old.local_addr().unwrap()).unwrap();
        far.send(b"tcp", &[old.as_fd()]).unwrap();
        let (message, mut descriptors) = near.receive().unwrap();
        assert_eq!((&message[..], descriptors.len()), (&b"tcp"[..], 1));
        let new = TcpListener::from(descriptors.remove(0));
        drop(old);
        let (_, from) = new.accept().unwrap();
        assert_eq!(from, waiting.local_addr().unwrap());
    }

    #[test]
    fn what_is_too_large_and_who_is_gone_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let (_door, near, far) = meet(&folder.path().join("listener"));
        let large = vec![1; MAX_MESSAGE + 1];
        assert_eq!(near.send(&large, &[]).unwrap_err().kind(), ErrorKind::InvalidInput);
        let one = near.0.as_fd();
        let many = vec![one; MAX_DESCRIPTORS + 1];
        assert_eq!(near.send(b"x", &many).unwrap_err().kind(), ErrorKind::InvalidInput);
        near.send(&large[1..], &many[1..]).unwrap();
        let (message, descriptors) = far.receive().unwrap();
        assert_eq!((message.len(), descriptors.len()), (MAX_MESSAGE, MAX_DESCRIPTORS));
        assert!(near.is_open());
        far.send(b"y", &[]).unwrap();
        assert!(near.is_open(), "what was said waits");
        near.receive().unwrap();
        drop(far);
        assert!(!near.is_open());
        assert_eq!(near.receive().unwrap_err().kind(), ErrorKind::UnexpectedEof);
        assert!(near.send(b"x", &[]).is_err());
    }

    #[test]
    fn the_last_door_at_a_place_is_the_one_that_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("listener");
        let first = IpcListener::bind(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode, first.is_ours()), (0o600, true));
        let second = IpcListener::bind(&path).unwrap();
        assert_eq!((first.is_ours(), second.is_ours()), (false, true));
        drop(first);
        let near = IpcConnection::connect(&path).unwrap();
        let far = second.accept().unwrap().unwrap();
        near.send(b"hello", &[]).unwrap();
        assert_eq!(far.receive().unwrap().0, b"hello");
        assert!(second.accept().unwrap().is_none(), "nobody else came");
        for mode in [0o660, 0o606] {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let refused = IpcConnection::connect(&path).unwrap_err().kind();
            assert_eq!(refused, ErrorKind::PermissionDenied, "others may be behind it");
        }
        drop(second);
        assert_eq!(IpcConnection::connect(&path).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
