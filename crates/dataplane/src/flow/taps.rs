//! Taps, which follow streams as they begin and end (`adit tap`): a few subscriptions, each bounded and lossy.
//!
//! Nothing here is in the way of a stream: while nobody taps, it costs a look at a number; while somebody does, whoever ends a
//! stream puts an event into a queue that has room, or counts it as lost. A tap that reads too slowly is told how many.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use adit_core::code::Code;
use adit_core::name::{ClusterName, NodeName, PortName, ServiceName};
use adit_core::policy::{Source, Target};
use adit_runtime::Mutex;
use tokio::sync::mpsc;

use super::direction::Direction;
use super::{Flow, Flows};

/// The most taps of a process.
const MAX_TAPS: usize = 4;
/// The most events that wait for a reader. An event has at most some 2 KB.
const MAX_WAITING: usize = 512;

/// The streams that a tap is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TapFilter {
    /// Those of one direction; of both without it.
    pub direction: Option<Direction>,
    /// Those to one service; to all without it.
    pub service: Option<ServiceName>,
    /// Those to one port of it.
    pub port: Option<PortName>,
}

/// A stream that begins or ends.
#[derive(Debug, Clone)]
pub struct StreamEvent {
    /// The ID of the stream, which both sides know.
    pub id: [u8; 16],
    /// Its direction.
    pub direction: Direction,
    /// The workload that asks, as this node found it (outbound) or as the peer says (inbound), if that is known.
    pub source: Option<Source>,
    /// The service that is asked for, if that is known.
    pub target: Option<Target>,
    /// The node at the other end, if there is one yet.
    pub peer: Option<(ClusterName, NodeName)>,
    /// The end; `None` if it begins: it is allowed, and not yet answered.
    pub end: Option<StreamEnd>,
    /// True if it only asks.
    pub is_probe: bool,
}

/// The end of a stream.
#[derive(Debug, Clone)]
pub struct StreamEnd {
    /// Why.
    pub code: Code,
    /// More about it, in words; may be empty.
    pub reason: String,
    /// True if nothing of it was delivered.
    pub is_refused: bool,
    /// Bytes from the opener of the connection to the service.
    pub bytes_out: u64,
    /// Bytes from the service to the opener.
    pub bytes_in: u64,
    /// The time from its beginning.
    pub lasted: Duration,
    /// Nodes or backends that refused before.
    pub retries: u32,
}

/// The next thing that a tap says.
#[derive(Debug)]
pub enum TapItem {
    /// A stream begins or ends.
    Event(Box<StreamEvent>),
    /// So many events were lost here, because nobody read them.
    Lost(u64),
}

/// The taps of a process.
#[derive(Debug, Default)]
pub(super) struct StreamTaps {
    /// Their number, for whoever has something to tell.
    count: AtomicUsize,
    all: Mutex<Vec<TapSender>>,
}

#[derive(Debug)]
struct TapSender {
    filter: TapFilter,
    items: mpsc::Sender<TapItem>,
    lost: Arc<AtomicU64>,
}

/// A subscription to streams; it ends when it is dropped.
#[derive(Debug)]
pub struct StreamTap {
    flows: Flows,
    items: mpsc::Receiver<TapItem>,
    lost: Arc<AtomicU64>,
}

impl TapFilter {
    fn fits(&self, direction: Direction, target: Option<&Target>) -> bool {
        self.direction.is_none_or(|wanted| wanted == direction)
            && self.service.as_ref().is_none_or(|service| {
                target.is_some_and(|target| {
                    target.service == *service
                        && self.port.as_ref().is_none_or(|port| target.port == *port)
                })
            })
    }
}

impl TapSender {
    fn send(&self, event: &StreamEvent) {
        let lost = self.lost.swap(0, Relaxed);
        // In its place: what was lost came before this event.
        if lost > 0 && self.items.try_send(TapItem::Lost(lost)).is_err() {
            self.lost.fetch_add(lost + 1, Relaxed);
        } else if self.items.try_send(TapItem::Event(Box::new(event.clone()))).is_err() {
            self.lost.fetch_add(1, Relaxed);
        }
    }
}

impl Flows {
    /// Follows streams from now on; `None` if there are enough taps.
    #[must_use]
    pub fn tap(&self, filter: TapFilter) -> Option<StreamTap> {
        let taps = &self.0.taps;
        let mut all = taps.all.lock();
        if all.len() >= MAX_TAPS {
            return None;
        }
        let (items, received) = mpsc::channel(MAX_WAITING);
        let lost = Arc::<AtomicU64>::default();
        all.push(TapSender { filter, items, lost: Arc::clone(&lost) });
        taps.count.store(all.len(), Relaxed);
        drop(all);
        Some(StreamTap { flows: self.clone(), items: received, lost })
    }
}

impl StreamTap {
    /// The next thing that it says. It never ends by itself.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<TapItem> {
        match self.items.poll_recv(context) {
            Poll::Ready(Some(item)) => Poll::Ready(item),
            Poll::Ready(None) | Poll::Pending => match self.lost.swap(0, Relaxed) {
                0 => Poll::Pending,
                lost => Poll::Ready(TapItem::Lost(lost)),
            },
        }
    }

    /// The next thing that it says.
    pub async fn next(&mut self) -> TapItem {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }
}

impl Drop for StreamTap {
    fn drop(&mut self) {
        let taps = &self.flows.0.taps;
        let mut all = taps.all.lock();
        all.retain(|one| !Arc::ptr_eq(&one.lost, &self.lost));
        taps.count.store(all.len(), Relaxed);
    }
}

impl Flow {
    /// Tells whoever taps it that it begins.
    pub(super) fn tell_begin(&self) {
        self.tell(|| None);
    }

    /// Tells whoever taps it how it ended.
    pub(super) fn tell_end(&self, code: Code, lasted: Duration) {
        self.tell(|| {
            let (out, back) = match self.direction {
                Direction::Outbound => (&self.sent, &self.received),
                Direction::Inbound => (&self.received, &self.sent),
            };
            let reason = self.end.as_ref().err().map(|failure| self.local_reason(failure));
            Some(StreamEnd {
                code,
                reason: reason.unwrap_or_default().into_owned(),
                is_refused: self.is_refused(code),
                bytes_out: out.bytes(),
                bytes_in: back.bytes(),
                lasted,
                retries: self.retries,
            })
        });
    }

    fn tell(&self, end: impl FnOnce() -> Option<StreamEnd>) {
        let taps = &self.flows.0.taps;
        if taps.count.load(Relaxed) == 0 {
            return;
        }
        let all = taps.all.lock();
        let fits = |tap: &&TapSender| tap.filter.fits(self.direction, self.target.as_ref());
        let mut wanted = all.iter().filter(fits).peekable();
        if wanted.peek().is_none() {
            return;
        }
        let event = StreamEvent {
            id: self.id,
            direction: self.direction,
            source: self.source.clone(),
            target: self.target.clone(),
            peer: self.peer.clone(),
            end: end(),
            is_probe: self.is_probe,
        };
        wanted.for_each(|tap| tap.send(&event));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::StreamCapacity;

    fn flow(flows: &Flows, direction: Direction, service: &str) -> Flow {
        let mut flow = flows.begin(direction, [7; 16]);
        let (service, port) = (service.parse().unwrap(), "http".parse().unwrap());
        flow.attribute_to_target(&Target { service, port }, &"bank".parse().unwrap());
        flow
    }

    fn next(tap: &mut StreamTap) -> Option<TapItem> {
        match tap.poll_next(&mut Context::from_waker(std::task::Waker::noop())) {
            Poll::Ready(item) => Some(item),
            Poll::Pending => None,
        }
    }

    /// Begin (`None`) or end of the next stream that is told, and the service.
    fn event(tap: &mut StreamTap) -> Option<(String, Option<Code>)> {
        match next(tap)? {
            TapItem::Event(event) => {
                let service = event.target.map_or_else(String::new, |t| t.service.to_string());
                Some((service, event.end.map(|end| end.code)))
            }
            TapItem::Lost(lost) => panic!("{lost} lost"),
        }
    }

    #[test]
    fn a_tap_is_told_of_the_streams_that_it_is_about() {
        let flows = Flows::new(StreamCapacity { all: 99 });
        flow(&flows, Direction::Outbound, "a/b").end(Ok(()));
        let tap = |direction, service: Option<&str>, port: Option<&str>| {
            let service = service.map(|service| service.parse().unwrap());
            flows.tap(TapFilter { direction, service, port: port.map(|p| p.parse().unwrap()) })
        };
        let mut all = tap(None, None, None).unwrap();
        let mut inbound = tap(Some(Direction::Inbound), Some("a/b"), None).unwrap();
        let mut one = tap(None, Some("a/b"), Some("http")).unwrap();
        let mut port = tap(None, Some("a/b"), Some("grpc")).unwrap();
        assert!(tap(None, None, None).is_none(), "there are enough");
        let mut begun = flow(&flows, Direction::Outbound, "a/b");
        begun.join_conversation();
        flow(&flows, Direction::Outbound, "a/other").end(Err(Code::Denied.into()));
        begun.end(Ok(()));
        drop(flows.begin(Direction::Inbound, [0; 16]));
        let (ab, finished) = ("a/b".to_owned(), Some(Code::Finished));
        assert_eq!(event(&mut all), Some((ab.clone(), None)));
        assert_eq!(event(&mut all), Some(("a/other".to_owned(), Some(Code::Denied))));
        assert_eq!(event(&mut all), Some((ab.clone(), finished)));
        assert_eq!(event(&mut all), Some((String::new(), Some(Code::Internal))));
        assert_eq!((event(&mut all), event(&mut inbound), event(&mut port)), (None, None, None));
        assert_eq!(
            (event(&mut one), event(&mut one)),
            (Some((ab.clone(), None)), Some((ab, finished)))
        );
        drop(one);
        assert!(tap(None, None, None).is_some(), "its place is free");
    }

    #[test]
    fn a_slow_reader_loses_events_and_is_told_how_many_in_their_place() {
        let flows = Flows::new(StreamCapacity { all: 1 << 20 });
        let mut tap = flows.tap(TapFilter::default()).unwrap();
        let end =
            |n: usize| (0..n).for_each(|_| flow(&flows, Direction::Outbound, "a/b").end(Ok(())));
        end(MAX_WAITING + 100);
        for _ in 0..10 {
            assert!(matches!(next(&mut tap), Some(TapItem::Event(_))));
        }
        end(3);
        let mut said = Vec::new();
        while let Some(item) = next(&mut tap) {
            said.push(if let TapItem::Lost(lost) = item { lost } else { 0 });
        }
        assert_eq!(said.len(), MAX_WAITING - 10 + 4);
        assert_eq!(said[MAX_WAITING - 10..], [100, 0, 0, 0]);
        end(2 * MAX_WAITING);
        while let Some(item) = next(&mut tap) {
            said.push(if let TapItem::Lost(lost) = item { lost } else { 0 });
        }
        assert_eq!(said.last(), Some(&(MAX_WAITING as u64)), "nothing has to come for it");
    }
}
