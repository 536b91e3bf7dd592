//! The runtimes on which connections live.
//!
//! A node has one current-thread runtime per core rather than one with many threads, which is 15 to 20 %
//! slower in bulk (measured). quinn asks this module to run its drivers; it runs them where the endpoint
//! belongs, whichever task made them.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use quinn::{AsyncTimer, AsyncUdpSocket, Runtime};
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

/// A runtime with a number. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Worker {
    index: u8,
    handle: Handle,
}

impl Worker {
    /// The most workers that are worth having unless the operator says otherwise: beyond four cores the
    /// network is the limit.
    pub const MAX_WORKERS: usize = 4;

    /// Worker number `index` on this runtime. The indices of a node's workers are 0, 1, 2, …
    #[must_use]
    pub fn new(index: u8, handle: Handle) -> Self {
        Self { index, handle }
    }

    /// A worker on the runtime of the caller: for tests, simulations and demonstrations.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn current() -> Self {
        Self::new(0, Handle::current())
    }

    /// The number of workers of a node if the operator sets none: one per core, at most
    /// [`Worker::MAX_WORKERS`].
    #[must_use]
    pub fn recommended() -> usize {
        std::thread::available_parallelism().map_or(1, usize::from).min(Self::MAX_WORKERS)
    }

    /// Its number.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index.into()
    }

    /// Its runtime: the one on which the tasks that serve its connections should run, too.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    pub(super) fn core(&self) -> u8 {
        self.index
    }

    /// quinn's view of this worker. The tracker knows of every driver that still runs.
    pub(super) fn runtime(&self, drivers: &TaskTracker) -> Arc<dyn Runtime> {
        Arc::new(DriverRuntime { handle: self.handle.clone(), running: drivers.clone() })
    }
}

#[derive(Debug)]
struct DriverRuntime {
    handle: Handle,
    running: TaskTracker,
}

impl Runtime for DriverRuntime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        // Called by drivers, which are inside the runtime already.
        quinn::TokioRuntime.new_timer(at)
    }

    fn spawn(&self, driver: Pin<Box<dyn Future<Output = ()> + Send>>) {
        // It ends with its endpoint or connection; whoever must wait for that waits for the tracker.
        drop(self.running.spawn_on(driver, &self.handle));
    }

    fn wrap_udp_socket(&self, _: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "sockets are made by Net"))
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}
