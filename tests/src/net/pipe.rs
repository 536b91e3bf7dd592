//! TCP in memory: what the data path needs of it, resets and half-closes included.
//!
//! turmoil's TCP has no RST and no readiness, and on a paused clock the kernel's own TCP would stand
//! still. Workloads and their node are on one host anyway, so their TCP needs no network: a connection
//! here is two bounded queues that know FIN and RST.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use adit_dataplane::tcp::{ReadBuffer, Tcp, TcpAcceptor, TcpNetwork};
use bytes::{Buf, Bytes};
use tokio::sync::{Notify, mpsc};

/// Bytes that one direction holds before its writer waits.
const CAPACITY: usize = 64 * 1024;

/// All listeners that one host's workloads and its node can reach.
#[derive(Debug, Clone, Default)]
pub struct Pipes(Arc<Mutex<HashMap<SocketAddr, mpsc::Sender<MemoryPipe>>>>);

/// An end of a connection.
#[derive(Debug)]
pub struct MemoryPipe {
    local: SocketAddr,
    remote: SocketAddr,
    /// True if dropping this end sends RST: a node's does until it is settled, a workload's when asked.
    resets: AtomicBool,
    incoming: Arc<Queue>,
    outgoing: Arc<Queue>,
}

/// A direction of a connection.
#[derive(Debug, Default)]
struct Queue {
    state: Mutex<PipeState>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct PipeState {
    bytes: VecDeque<u8>,
    finished: bool,
    reset: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, PipeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut PipeState) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.notify_waiters();
        result
    }

    /// Waits until `ready` gives something.
    async fn wait<T>(&self, mut ready: impl FnMut(&mut PipeState) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            let found = ready(&mut self.lock());
            if let Some(found) = found {
                self.changed.notify_waiters();
                return found;
            }
            changed.await;
        }
    }
}

impl Pipes {
    /// Connects as a workload whose address is `from`, to a node.
    ///
    /// # Errors
    /// Where nobody listens.
    pub async fn connect(&self, from: SocketAddr, to: SocketAddr) -> io::Result<MemoryPipe> {
        self.join(from, to, PipeSide::Accepting).await
    }

    /// Connects; the end on the `node`'s side resets unless it is settled.
    async fn join(
        &self,
        from: SocketAddr,
        to: SocketAddr,
        node: PipeSide,
    ) -> io::Result<MemoryPipe> {
        let listener = {
            let listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            listeners.get(&to).cloned().ok_or(ErrorKind::ConnectionRefused)?
        };
        let (there, back) = (Arc::<Queue>::default(), Arc::<Queue>::default());
        let accepted = MemoryPipe {
            local: to,
            remote: from,
            resets: AtomicBool::new(node == PipeSide::Accepting),
            incoming: there.clone(),
            outgoing: back.clone(),
        };
        let connected = MemoryPipe {
            local: from,
            remote: to,
            resets: AtomicBool::new(node == PipeSide::Connecting),
            incoming: back,
            outgoing: there,
        };
        listener.send(accepted).await.map_err(|_| ErrorKind::ConnectionRefused)?;
        Ok(connected)
    }
}

#[derive(PartialEq, Eq)]
enum PipeSide {
    Accepting,
    Connecting,
}

impl Tcp for MemoryPipe {
    fn local(&self) -> SocketAddr {
        self.local
    }

    fn remote(&self) -> SocketAddr {
        self.remote
    }

    async fn read(&self, room: &mut ReadBuffer) -> io::Result<Option<Bytes>> {
        self.incoming
            .wait(|state| {
                if state.reset {
                    return Some(Err(ErrorKind::ConnectionReset.into()));
                }
                if state.bytes.is_empty() {
                    return state.finished.then_some(Ok(None));
                }
                let buffer = room.buffer_mut();
                let n = state.bytes.len().min(buffer.capacity() - buffer.len());
                buffer.extend(state.bytes.drain(..n));
                Some(Ok(Some(room.take())))
            })
            .await
    }

    async fn write(&self, chunks: &mut [Bytes]) -> io::Result<()> {
        for chunk in chunks {
            while !chunk.is_empty() {
                let written = self.outgoing.wait(|state| {
                    if state.reset {
                        return Some(Err(io::Error::from(ErrorKind::BrokenPipe)));
                    }
                    let n = chunk.len().min(CAPACITY - state.bytes.len());
                    state.bytes.extend(&chunk[..n]);
                    (n > 0).then_some(Ok(n))
                });
                let n = written.await?;
                chunk.advance(n);
            }
        }
        Ok(())
    }

    fn finish(&self) -> impl Future<Output = io::Result<()>> + Send {
        self.outgoing.change(|state| state.finished = true);
        std::future::ready(Ok(()))
    }

    async fn broken(&self) {
        self.incoming.wait(|state| state.reset.then_some(())).await;
    }

    fn close_gracefully(&self) {
        self.resets.store(false, Relaxed);
    }
}

impl MemoryPipe {
    /// True if the other end closed the connection without a byte, as whoever only looks does.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        let incoming = self.incoming.lock();
        let nothing_came = incoming.bytes.is_empty() && !incoming.reset;
        drop(incoming);
        nothing_came && self.outgoing.lock().reset
    }

    /// From here on dropping the connection sends RST.
    pub fn reset(&self) {
        self.resets.store(true, Relaxed);
    }
}

impl Drop for MemoryPipe {
    fn drop(&mut self) {
        // As the kernel does: unread bytes make a close a reset, and who writes to a closed end learns it.
        let unread = self.incoming.change(|state| {
            let unread = !state.bytes.is_empty();
            state.reset = true;
            unread
        });
        self.outgoing.change(|state| {
            if self.resets.load(Relaxed) || unread {
                state.reset = true;
            }
            state.finished = true;
        });
    }
}

/// A listener's queue of connections.
#[derive(Debug)]
pub struct Accepting(tokio::sync::Mutex<mpsc::Receiver<MemoryPipe>>);

impl TcpNetwork for Pipes {
    type Stream = MemoryPipe;
    type Listener = Accepting;

    fn listen(&self, address: SocketAddr, _shared: bool) -> io::Result<Accepting> {
        let (sender, receiver) = mpsc::channel(1024);
        let mut listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if listeners.get(&address).is_some_and(|l| !l.is_closed()) {
            return Err(ErrorKind::AddrInUse.into());
        }
        listeners.insert(address, sender);
        Ok(Accepting(tokio::sync::Mutex::new(receiver)))
    }

    async fn dial(&self, address: SocketAddr) -> io::Result<MemoryPipe> {
        self.join(SocketAddr::from(([10, 255, 255, 254], 1)), address, PipeSide::Connecting).await
    }
}

impl TcpAcceptor for Accepting {
    type Stream = MemoryPipe;

    async fn accept(&self) -> io::Result<MemoryPipe> {
        self.0.lock().await.recv().await.ok_or_else(|| ErrorKind::NotConnected.into())
    }
}
