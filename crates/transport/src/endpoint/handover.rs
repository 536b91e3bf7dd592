//! Handing a node's sockets to the process that follows it.
//!
//! The giver [shares](Endpoints::share_sockets) its sockets, [stops reading](Endpoints::pause_reading) them
//! once its successor is there, and lives on for its connections: their packets reach the successor, which
//! forwards them. The taker is made by [`Endpoints::bind_after`] and reads nothing before it
//! [begins](Endpoints::resume_reading). So there is one reader at any time; what arrives between the two
//! waits in the system's buffers. See [`crate::socket`] for how each datagram finds its owner.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio_util::task::AbortOnDropHandle;

use super::{Endpoints, EndpointsInner};
use crate::socket::{LONGEST_FRAME, WorkerSocket, read_frame};

/// The sockets of one generation, for the process that follows it.
#[derive(Debug)]
pub struct UdpInheritance {
    /// The giver's generation.
    pub generation: u8,
    /// For each listening address its sockets, in the order of the giver's workers.
    pub sockets: Vec<(SocketAddr, Vec<OwnedFd>)>,
    /// The sockets at which each older generation that still lives receives its datagrams, the giver's own
    /// included.
    pub predecessors: Vec<(u8, OwnedFd)>,
}

/// The socket at which this process receives what its successors forward.
#[derive(Debug)]
pub(super) struct ForwardedInbox {
    sender: UnixDatagram,
    _reader: AbortOnDropHandle<()>,
}

/// Frames that are read before the workers' sockets may take their datagrams: together they fit an inbox.
const MAX_FRAMES_AT_ONCE: usize = 8;

impl Endpoints {
    /// Which of the processes that share the listening addresses this is.
    #[must_use]
    pub fn generation(&self) -> u8 {
        self.0.tuning.generation
    }

    /// All that a successor needs to serve this node's addresses and to leave this process its connections.
    /// May be called again, for another successor.
    ///
    /// # Errors
    /// There is no descriptor left, or the network is not the system's.
    pub fn share_sockets(&self) -> io::Result<UdpInheritance> {
        let shared = &self.0;
        let sockets = shared.sockets.iter().map(|(address, sockets)| {
            let sockets = sockets.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>()?;
            Ok((*address, sockets))
        });
        let sockets = sockets.collect::<io::Result<_>>()?;
        let mut predecessors = shared.predecessors.share_sockets()?;
        predecessors.push((self.generation(), self.forwarded()?));
        Ok(UdpInheritance { generation: self.generation(), sockets, predecessors })
    }

    /// Stops reading the listening sockets, on which this process only sends from now on; what belongs to
    /// its connections comes from its successor. What it dialled has sockets of its own and is not touched.
    pub fn pause_reading(&self) {
        self.wake_readers(true);
    }

    /// Reads the listening sockets: at a taker, after its giver has stepped aside; at a giver, if its
    /// successor came to nothing.
    pub fn resume_reading(&self) {
        self.wake_readers(false);
    }

    fn wake_readers(&self, aside: bool) {
        self.0.reading_paused.store(aside, Ordering::Release);
        for worker_socket in &self.0.worker_sockets {
            worker_socket.wake();
        }
    }

    /// The end at which successors send what is this process's.
    fn forwarded(&self) -> io::Result<OwnedFd> {
        let mut inbox = self.0.forwarded.lock();
        if let Some(inbox) = &*inbox {
            return inbox.sender.as_fd().try_clone_to_owned();
        }
        let (sender, receiver) = adit_host::relay::pair(self.0.tuning.receive_buffer)?;
        let handed = sender.as_fd().try_clone_to_owned()?;
        let runtime = self.0.workers[0].handle();
        let receiver = {
            let _context = runtime.enter();
            tokio::net::UnixDatagram::from_std(receiver)?
        };
        let reader =
            AbortOnDropHandle::new(runtime.spawn(read(receiver, self.0.worker_sockets.clone())));
        *inbox = Some(ForwardedInbox { sender, _reader: reader });
        Ok(handed)
    }
}

/// Takes in what successors forward.
async fn read(receiver: tokio::net::UnixDatagram, worker_sockets: Vec<Arc<WorkerSocket>>) {
    let mut frame = vec![0; LONGEST_FRAME];
    loop {
        for _ in 0..MAX_FRAMES_AT_ONCE {
            let Ok(len) = receiver.recv(&mut frame).await else { return };
            let Some((listening, datagrams, meta)) = read_frame(&frame[..len]) else { continue };
            if let Some(worker_socket) =
                worker_sockets.iter().find(|worker_socket| worker_socket.listening() == listening)
            {
                worker_socket.accept_forwarded(datagrams, &meta);
            }
        }
        tokio::task::yield_now().await;
    }
}

impl Endpoints {
    /// True if another process reads the listening sockets.
    pub(crate) fn is_reading_paused(&self) -> bool {
        self.0.is_reading_paused()
    }
}

impl EndpointsInner {
    pub(super) fn is_reading_paused(&self) -> bool {
        self.reading_paused.load(Ordering::Acquire)
    }
}
