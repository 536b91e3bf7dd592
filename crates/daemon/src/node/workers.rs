//! The data path's threads: one runtime of one thread per QUIC endpoint, apart from everything else.
//!
//! A packet meets one core from the socket to the stream, and neither a slow scrape nor a reload takes its
//! time. A task that panics ends alone; the runtime goes on.

use std::io;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// A worker's last tasks may take this long to end, from when all streams and connections have.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// The worker threads. They end on [`WorkerPool::stop`], or when this is dropped.
#[derive(Debug)]
pub(super) struct WorkerPool {
    handles: Vec<Handle>,
    threads: Vec<JoinHandle<()>>,
    stop: CancellationToken,
}

impl WorkerPool {
    /// Starts `count` threads.
    ///
    /// # Errors
    /// If the system gives no thread or no descriptor.
    pub(super) fn start(count: usize) -> io::Result<Self> {
        let mut workers =
            Self { handles: Vec::new(), threads: Vec::new(), stop: CancellationToken::new() };
        for n in 0..count {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let (started, handle) = mpsc::sync_channel(1);
            let stop = workers.stop.clone();
            let thread =
                std::thread::Builder::new().name(format!("worker-{n}")).spawn(move || {
                    // Nobody is left to tell only where the process is ending already.
                    started.send(runtime.handle().clone()).ok();
                    runtime.block_on(stop.cancelled());
                    runtime.shutdown_timeout(STOP_TIMEOUT);
                })?;
            workers.threads.push(thread);
            workers.handles.push(handle.recv().map_err(io::Error::other)?);
        }
        Ok(workers)
    }

    /// The threads' runtimes, in the order of their numbers.
    pub(super) fn handles(&self) -> &[Handle] {
        &self.handles
    }

    /// Ends all threads and waits for them; tasks that still run are dropped.
    pub(super) fn stop(mut self) {
        self.stop.cancel();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a worker thread ended by a panic");
            }
        }
    }
}

impl Drop for WorkerPool {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_one_task_and_nothing_else() {
        let workers = WorkerPool::start(2).unwrap();
        let names = workers.handles().iter().map(|h| {
            h.spawn(async { std::thread::current().name().unwrap_or_default().to_owned() })
        });
        let names = futures_util::future::join_all(names).await;
        let names: Vec<_> = names.into_iter().map(Result::unwrap).collect();
        assert_eq!(names, ["worker-0", "worker-1"]);

        let first = workers.handles()[0].clone();
        assert!(first.spawn(async { panic!("on purpose") }).await.unwrap_err().is_panic());
        assert_eq!(first.spawn(async { 7 }).await.unwrap(), 7);
        let endless = first.spawn(std::future::pending::<()>());
        tokio::task::spawn_blocking(|| workers.stop()).await.unwrap();
        assert!(endless.await.unwrap_err().is_cancelled());
    }
}
