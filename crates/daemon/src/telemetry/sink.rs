//! Where lines go: a bounded queue and one thread that writes.
//!
//! A log pipe whose reader has stopped would otherwise stop every task that logs, and with it the traffic
//! it carries. When the queue is full, lines are dropped and counted, and the count is logged as soon as
//! there is room again.
//!
//! `tracing-appender` has such a queue, too. It has no word for lines that were dropped, and ends with a fixed wait
//! instead of the one that a process which dies of an error gives its last lines.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

/// A burst of refused streams fits; 4,096 lines of 500 bytes are 2 MB.
const QUEUE: usize = 4096;

enum SinkItem {
    Line(String),
    Flush(SyncSender<()>),
}

/// The writing end. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct LogSink {
    queue: SyncSender<SinkItem>,
    dropped: Arc<AtomicU64>,
}

impl LogSink {
    /// Starts the thread that writes to `out`; `notice` makes the line that tells how many were dropped.
    pub(super) fn start(
        out: impl Write + Send + 'static,
        notice: impl Fn(u64) -> String + Send + 'static,
    ) -> std::io::Result<Self> {
        let (queue, items) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let counter = dropped.clone();
        std::thread::Builder::new()
            .name("log".into())
            .spawn(move || write(out, &items, &counter, notice))?;
        Ok(Self { queue, dropped })
    }

    /// Hands over one line, its newline included; drops it where the queue is full.
    pub(super) fn line(&self, line: String) {
        match self.queue.try_send(SinkItem::Line(line)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until all lines handed over before are written, at most `limit`.
    pub(super) fn flush(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let (done, wait) = sync_channel(1);
        let mut ask = SinkItem::Flush(done);
        // A queue that is full has most to lose.
        while let Err(TrySendError::Full(back)) = self.queue.try_send(ask) {
            if Instant::now() >= deadline {
                return;
            }
            ask = back;
            std::thread::park_timeout(Duration::from_millis(1));
        }
        // Late or broken: the process ends all the same.
        wait.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok();
    }
}

fn write(
    mut out: impl Write,
    items: &Receiver<SinkItem>,
    dropped: &AtomicU64,
    notice: impl Fn(u64) -> String,
) {
    let mut reported = 0;
    while let Ok(item) = items.recv() {
        // A log that cannot be written has nobody to be told to.
        match item {
            SinkItem::Line(line) => drop(out.write_all(line.as_bytes())),
            SinkItem::Flush(done) => {
                drop(out.flush());
                done.send(()).ok();
            }
        }
        let now = dropped.load(Ordering::Relaxed);
        if now > reported {
            drop(out.write_all(notice(now - reported).as_bytes()));
            reported = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Condvar, Mutex};

    /// A writer that is stuck until it is let go, as a pipe that nobody reads.
    #[derive(Clone, Default)]
    struct StuckWriter(Arc<StuckPipe>);

    #[derive(Default)]
    struct StuckPipe {
        open_and_written: Mutex<(bool, Vec<u8>)>,
        changed: Condvar,
    }

    impl Write for StuckWriter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let state = self.0.open_and_written.lock().unwrap();
            let mut state = self.0.changed.wait_while(state, |s| !s.0).unwrap();
            state.1.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stuck_reader_costs_lines_and_never_time() {
        let pipe = StuckWriter::default();
        let sink = LogSink::start(pipe.clone(), |n| format!("{n} dropped\n")).unwrap();
        let lines = QUEUE as u64 + 100;
        for n in 0..lines {
            sink.line(format!("line {n}\n"));
        }
        // One more may sit in the writer's hands.
        let dropped = sink.dropped();
        assert!((99..=100).contains(&dropped), "{dropped}");

        pipe.0.open_and_written.lock().unwrap().0 = true;
        pipe.0.changed.notify_all();
        while sink.queue.try_send(SinkItem::Line("end\n".into())).is_err() {
            std::thread::yield_now();
        }
        sink.flush(Duration::from_secs(30));
        let text = String::from_utf8(pipe.0.open_and_written.lock().unwrap().1.clone()).unwrap();
        assert_eq!(text.matches("line ").count() as u64, lines - dropped);
        assert!(text.contains(&format!("{dropped} dropped\n")), "the loss is told");
    }
}
