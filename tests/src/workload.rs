//! Clients and backends whose every ending can be told apart.
//!
//! A backend reads one command byte and behaves as told; a client knows what it must see. Bytes follow a
//! pattern that depends on their position, so that a lost, doubled or swapped byte shows.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use socket2::SockRef;

/// The behaviour of a backend after the command byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Sends back what it reads; finishes when its client has.
    Echo,
    /// Reads to the end, and only then answers with that many bytes and finishes.
    AnswerAfterEnd(u32),
    /// Answers and finishes at once, and only then reads to the end.
    FinishFirst(u32),
    /// Answers that many bytes, then resets.
    Reset(u32),
    /// Reads to the end, answers that many bytes, then resets.
    ResetAfterEnd(u32),
    /// Answers without end and never reads.
    Flood,
    /// Neither reads nor writes.
    Stall,
    /// Answers that many bytes and closes with most of the request unread, which the kernel turns into a
    /// reset: what a server does whose limit is passed (413).
    AnswerUnread(u32),
}

impl Behaviour {
    fn encode(self) -> [u8; 5] {
        let (kind, n) = match self {
            Self::Echo => (0, 0),
            Self::AnswerAfterEnd(n) => (1, n),
            Self::FinishFirst(n) => (2, n),
            Self::Reset(n) => (3, n),
            Self::ResetAfterEnd(n) => (4, n),
            Self::Flood => (5, 0),
            Self::Stall => (6, 0),
            Self::AnswerUnread(n) => (7, n),
        };
        let n = n.to_be_bytes();
        [kind, n[0], n[1], n[2], n[3]]
    }

    fn decode(bytes: [u8; 5]) -> Self {
        let n = u32::from_be_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]);
        match bytes[0] {
            0 => Self::Echo,
            1 => Self::AnswerAfterEnd(n),
            2 => Self::FinishFirst(n),
            3 => Self::Reset(n),
            4 => Self::ResetAfterEnd(n),
            5 => Self::Flood,
            7 => Self::AnswerUnread(n),
            _ => Self::Stall,
        }
    }
}

/// The end of a direction, as its reader saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DirectionEnd {
    /// A clean end after that many bytes, all of them right.
    Finished(u64),
    /// A reset after that many bytes, all of them right.
    Reset(u64),
}

/// The time that anything here may take before a test is stuck.
const WORKLOAD_TIMEOUT: Duration = Duration::from_secs(30);

/// The byte at a position of every stream here.
#[must_use]
pub fn pattern(at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// Writes `len` bytes of the pattern, from its beginning.
///
/// # Errors
/// Those of the socket.
pub fn send(socket: &mut impl Write, len: u64) -> std::io::Result<()> {
    let mut at = 0;
    while at < len {
        let end = (at + 64 * 1024).min(len);
        let block: Vec<u8> = (at..end).map(pattern).collect();
        socket.write_all(&block)?;
        at = end;
    }
    Ok(())
}

/// Reads to the end, and checks every byte.
///
/// # Panics
/// At a wrong byte, or where nothing happens for long.
pub fn receive(socket: &mut impl Read) -> DirectionEnd {
    let mut buffer = vec![0; 64 * 1024];
    let mut at = 0;
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => return DirectionEnd::Finished(at),
            Ok(n) => {
                for byte in &buffer[..n] {
                    assert_eq!(*byte, pattern(at), "wrong byte at {at}");
                    at += 1;
                }
            }
            Err(e) if e.kind() == ErrorKind::ConnectionReset => return DirectionEnd::Reset(at),
            Err(e) => panic!("after {at} bytes: {e}"),
        }
    }
}

/// From here on closing the socket resets it.
pub fn reset_on_close(socket: &TcpStream) {
    SockRef::from(socket).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Listens at `address` until the process ends, and tells how each connection's reading side ended.
#[must_use]
pub fn backend(address: SocketAddr) -> Receiver<DirectionEnd> {
    let (ends, seen) = channel();
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let ends = ends.clone();
            std::thread::spawn(move || behave(socket, &ends));
        }
    });
    seen
}

fn behave(mut socket: TcpStream, ends: &Sender<DirectionEnd>) {
    socket.set_read_timeout(Some(WORKLOAD_TIMEOUT)).unwrap();
    let mut command = [0; 5];
    if socket.read_exact(&mut command).is_err() {
        return;
    }
    // What the client does next may well break writes; how reading ends is what is told.
    let tell = |end| ends.send(end).ok();
    match Behaviour::decode(command) {
        Behaviour::Echo => {
            tell(echo(&mut socket));
        }
        Behaviour::AnswerAfterEnd(n) => {
            tell(receive(&mut socket));
            send(&mut socket, n.into()).ok();
        }
        Behaviour::FinishFirst(n) => {
            send(&mut socket, n.into()).ok();
            socket.shutdown(Shutdown::Write).ok();
            tell(receive(&mut socket));
        }
        Behaviour::Reset(n) => {
            send(&mut socket, n.into()).ok();
            reset_on_close(&socket);
        }
        Behaviour::ResetAfterEnd(n) => {
            tell(receive(&mut socket));
            send(&mut socket, n.into()).ok();
            reset_on_close(&socket);
        }
        Behaviour::Flood => while send(&mut socket, 1 << 20).is_ok() {},
        Behaviour::Stall => std::thread::sleep(WORKLOAD_TIMEOUT),
        Behaviour::AnswerUnread(n) => {
            socket.read_exact(&mut [0; 100]).ok();
            send(&mut socket, n.into()).ok();
        }
    }
}

fn echo(socket: &mut TcpStream) -> DirectionEnd {
    let mut buffer = vec![0; 64 * 1024];
    let mut at = 0;
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => return DirectionEnd::Finished(at),
            Ok(n) => {
                at += n as u64;
                if socket.write_all(&buffer[..n]).is_err() {
                    return DirectionEnd::Reset(at);
                }
            }
            Err(_) => return DirectionEnd::Reset(at),
        }
    }
}

/// Connects and tells the backend what to do.
///
/// # Errors
/// Those of connecting and of the first write.
pub fn call(to: SocketAddr, behaviour: Behaviour) -> std::io::Result<TcpStream> {
    let mut socket = TcpStream::connect_timeout(&to, WORKLOAD_TIMEOUT)?;
    command(&mut socket, behaviour)?;
    Ok(socket)
}

/// Tells the backend what to do, on a connection that stands.
///
/// # Errors
/// Those of the socket.
pub fn command(socket: &mut TcpStream, behaviour: Behaviour) -> std::io::Result<()> {
    socket.set_read_timeout(Some(WORKLOAD_TIMEOUT))?;
    socket.set_nodelay(true)?;
    socket.write_all(&behaviour.encode())
}
