//! Datagrams that other workers' sockets received for this one.
//!
//! A bounded queue with one reader. A check of an empty one costs an atomic load, so that the usual case,
//! where no client has changed its port, pays nothing for the unusual one.

use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Context;

use adit_runtime::Mutex;

use futures_util::task::AtomicWaker;
use quinn::udp::RecvMeta;

/// About what a burst at 1 Gbit/s brings in 12 ms; 1.5 MB of datagrams of the usual size.
pub(super) const INBOX_CAPACITY: usize = 1024;

#[derive(Default)]
pub(super) struct SocketInbox {
    /// Number of datagrams in the queue, readable without its lock.
    waiting: AtomicUsize,
    queue: Mutex<VecDeque<QueuedDatagram>>,
    reader: AtomicWaker,
}

struct QueuedDatagram {
    datagram: Box<[u8]>,
    meta: RecvMeta,
}

impl SocketInbox {
    /// Adds one datagram of a received batch, unless the inbox is full.
    #[must_use]
    pub(super) fn push(&self, datagram: &[u8], batch: &RecvMeta) -> bool {
        let meta = RecvMeta { len: datagram.len(), stride: datagram.len(), ..*batch };
        let mut queue = self.lock_queue();
        if queue.len() >= INBOX_CAPACITY {
            return false;
        }
        queue.push_back(QueuedDatagram { datagram: datagram.into(), meta });
        self.waiting.store(queue.len(), Ordering::Release);
        drop(queue);
        self.reader.wake();
        true
    }

    /// Moves what waits into the buffers, and returns how many of them it filled.
    pub(super) fn drain_into(&self, bufs: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) -> usize {
        if self.waiting.load(Ordering::Acquire) == 0 {
            return 0;
        }
        let mut queue = self.lock_queue();
        let mut taken = 0;
        for (buf, slot) in bufs.iter_mut().zip(metas) {
            let Some(QueuedDatagram { datagram, meta }) = queue.pop_front() else { break };
            *slot = meta;
            // Every socket has buffers for the same greatest datagram, so this one fits.
            slot.len = datagram.len().min(buf.len());
            buf[..slot.len].copy_from_slice(&datagram[..slot.len]);
            taken += 1;
        }
        self.waiting.store(queue.len(), Ordering::Release);
        taken
    }

    /// Has the reader check again what it may receive.
    pub(super) fn wake(&self) {
        self.reader.wake();
    }

    /// Has the reader woken by the next datagram. `false` if one came before that was arranged.
    #[must_use]
    pub(super) fn register_waker(&self, cx: &Context<'_>) -> bool {
        self.reader.register(cx.waker());
        self.waiting.load(Ordering::Acquire) == 0
    }

    fn lock_queue(&self) -> MutexGuard<'_, VecDeque<QueuedDatagram>> {
        self.queue.lock()
    }
}
