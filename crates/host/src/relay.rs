//! Datagrams from one process of this machine to another: bounded, in order, and never waited for.
//!
//! Both ends are Unix datagram sockets that know only each other. Between such a pair the system bounds what
//! waits by the sender's buffer, not by a count of datagrams (`net.unix.max_dgram_qlen`), so it is made as
//! large as a UDP socket's.

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

use rustix::io::Errno;
use rustix::net::sockopt;
use socket2::SockRef;

/// The result of sending a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayOutcome {
    /// The datagram will be read, unless the reader ends first.
    Sent,
    /// The reader is behind, so it was dropped.
    Full,
    /// There is no reader any more.
    NoReader,
}

/// A pair of non-blocking sockets: what is sent on the first is received from the second. Up to `buffer`
/// bytes of memory wait, or what the system allows.
///
/// # Errors
/// If there is no descriptor left.
pub fn pair(buffer: usize) -> io::Result<(UnixDatagram, UnixDatagram)> {
    let (sender, receiver) = UnixDatagram::pair()?;
    sender.set_nonblocking(true)?;
    receiver.set_nonblocking(true)?;
    if sockopt::set_socket_send_buffer_size_force(&sender, buffer).is_err() {
        SockRef::from(&sender).set_send_buffer_size(buffer)?;
    }
    Ok((sender, receiver))
}

/// The sending end as another process hands it over.
///
/// # Errors
/// What was handed over is no socket.
pub fn adopt(sender: OwnedFd) -> io::Result<UnixDatagram> {
    let sender = UnixDatagram::from(sender);
    sender.set_nonblocking(true)?;
    Ok(sender)
}

/// Sends one datagram, put together from these parts.
#[must_use]
pub fn send(sender: &UnixDatagram, parts: &[IoSlice<'_>]) -> RelayOutcome {
    loop {
        match SockRef::from(sender).send_vectored(parts) {
            Ok(_) => return RelayOutcome::Sent,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if dropped(&error) => return RelayOutcome::Full,
            Err(_) => return RelayOutcome::NoReader,
        }
    }
}

/// Errors of one datagram, after which the next may be sent.
fn dropped(error: &io::Error) -> bool {
    let error = Errno::from_io_error(error);
    error.is_some_and(|error| {
        [Errno::AGAIN, Errno::NOBUFS, Errno::NOMEM, Errno::MSGSIZE].contains(&error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_by_bytes_and_never_waited_for() {
        let (sender, receiver) = pair(1 << 20).unwrap();
        let payload = [7; 1200];
        let send_one = || send(&sender, &[IoSlice::new(b"head"), IoSlice::new(&payload)]);
        let waiting = (0..100_000).take_while(|_| send_one() == RelayOutcome::Sent).count();
        // More than the ten that `net.unix.max_dgram_qlen` lets wait at other sockets.
        assert!((20..5000).contains(&waiting), "{waiting}");
        assert_eq!(send_one(), RelayOutcome::Full);
        let mut buffer = [0; 2000];
        for _ in 0..waiting {
            assert_eq!(receiver.recv(&mut buffer).unwrap(), 1204);
        }
        assert_eq!(&buffer[..5], b"head\x07");
        assert_eq!(send_one(), RelayOutcome::Sent);
    }

    #[test]
    fn a_reader_that_ended_is_noticed_by_every_holder_of_the_sender() {
        let (sender, receiver) = pair(1 << 20).unwrap();
        let dup = adopt(sender.try_clone().unwrap().into()).unwrap();
        drop(receiver);
        for end in [&sender, &dup, &sender] {
            assert_eq!(send(end, &[IoSlice::new(b"x")]), RelayOutcome::NoReader);
        }
    }
}
