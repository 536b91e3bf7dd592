//! Windows of single streams that follow the path and the use.
//!
//! One stream's rate is at most its window a round trip, so 256 KiB are plenty within a site and 5 MB/s over
//! 50 ms. A window of several MiB for every stream would cost as much for each reader that stalls, and a
//! dozen of them would spend a peer's budget. quinn has one window for all streams of a connection, which
//! never changes (quinn#2582). So that one is large, and nodes agree on a smaller one for each stream, as
//! [`adit_core::wire::credit`] says:
//!
//! * it begins with [`ClassTuning::stream_window`](crate::tuning::ClassTuning::stream_window);
//! * it doubles while its reader takes half of it within two round trips, up to what the path needs for `TARGET_STREAM_RATE`:
//!   nothing changes within a site, where more would only let transfers queue before requests;
//! * a reader that takes less halves it again, and if a peer's stalled streams hold a part of its budget
//!   ([`ConnectionWindows::is_pressed`](crate::budget)), no window is larger than at first;
//! * a stream that stalls is charged what it was granted and has not taken.
//!
//! A peer that does not keep to it has the window of its connection, which is charged to it in any case, and holds
//! up its own streams only.

mod receive;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use adit_core::wire::credit::StreamCredit;
use adit_runtime::Mutex;
use bytes::BytesMut;
use tokio::sync::Notify;
use tokio::time::Instant;

pub(crate) use self::receive::{CreditLimits, ReceiveCredit};
use self::receive::{MinRtt, PathWindow};

/// The credit of one connection's streams, both ways. A connection without it is bound by QUIC's windows
/// alone.
#[derive(Debug)]
pub(crate) struct StreamCredits {
    /// Bytes that the peer accepts on a stream before it gives more credit.
    peer_initial: u64,
    limits: CreditLimits,
    sending: Mutex<HashMap<u64, Arc<SendCredit>>>,
    min_rtt: Mutex<MinRtt>,
    /// Limits that are yet to be sent to the peer, by stream.
    due: Mutex<BTreeMap<u64, u64>>,
    is_due: Notify,
    is_stream_open: AtomicBool,
}

/// The credit of one of our streams: how far it may be sent.
#[derive(Debug)]
pub(crate) struct SendCredit {
    limit: AtomicU64,
    raised: Notify,
}

impl StreamCredits {
    /// Nothing has been sent on the streams that it will be asked for. `peer_initial` is what the peer's
    /// hello named.
    pub(crate) fn new(peer_initial: u64, limits: CreditLimits) -> Self {
        Self {
            peer_initial,
            limits,
            sending: Mutex::default(),
            min_rtt: Mutex::new(MinRtt::new()),
            due: Mutex::default(),
            is_due: Notify::new(),
            is_stream_open: AtomicBool::new(false),
        }
    }

    /// A stream that is sent from here on.
    pub(crate) fn begin_sending(&self, stream: u64) -> Arc<SendCredit> {
        let credit = SendCredit { limit: AtomicU64::new(self.peer_initial), raised: Notify::new() };
        let credit = Arc::new(credit);
        self.sending.lock().insert(stream, Arc::clone(&credit));
        credit
    }

    /// Forgets a stream that is not sent any more.
    pub(crate) fn end_sending(&self, stream: u64) {
        self.sending.lock().remove(&stream);
    }

    /// Takes credit from the peer; for a stream that has ended meanwhile it means nothing.
    pub(crate) fn receive_credit(&self, StreamCredit { stream, limit }: StreamCredit) {
        if let Some(credit) = self.sending.lock().get(&stream)
            && credit.limit.fetch_max(limit, Relaxed) < limit
        {
            credit.raised.notify_one();
        }
    }

    /// Forgets what the peer was to be told of a stream that does not come any more: one that does not read its credit
    /// has no more kept than it has streams open.
    pub(crate) fn end_receiving(&self, stream: u64) {
        self.due.lock().remove(&stream);
    }

    /// True if this is the first credit stream that the peer opens: there may be one.
    pub(crate) fn begin_credit_stream(&self) -> bool {
        !self.is_stream_open.swap(true, Relaxed)
    }

    /// A stream that comes from here on.
    pub(crate) fn begin_receiving(&self) -> ReceiveCredit {
        ReceiveCredit::new(self.limits)
    }

    /// Bytes of a stream were taken, so the peer will be given more credit. `look` says what the connection's
    /// round trip is, and whether memory is scarce.
    pub(crate) fn taken(
        &self,
        stream: u64,
        credit: &mut ReceiveCredit,
        count: u64,
        look: impl FnOnce() -> (Duration, bool),
    ) {
        let limit = credit.taken(self.limits, count, || {
            let (round_trip, is_pressed) = look();
            let round_trip = self.min_rtt.lock().observe(Instant::now(), round_trip);
            let most = if is_pressed { 0 } else { self.limits.window_for(round_trip) };
            PathWindow { round_trip, most }
        });
        if let Some(limit) = limit {
            self.due.lock().insert(stream, limit);
            self.is_due.notify_one();
        }
    }

    /// The next credit messages for the peer, encoded. Waits until there are some.
    pub(crate) async fn next_due(&self) -> BytesMut {
        loop {
            let due = std::mem::take(&mut *self.due.lock());
            if !due.is_empty() {
                let mut bytes = BytesMut::new();
                for (stream, limit) in due {
                    StreamCredit { stream, limit }.encode(&mut bytes);
                }
                return bytes;
            }
            self.is_due.notified().await;
        }
    }
}

impl SendCredit {
    /// Number of further bytes that may be sent after `sent`.
    pub(crate) fn remaining(&self, sent: u64) -> usize {
        let left = self.limit.load(Relaxed).saturating_sub(sent);
        usize::try_from(left).unwrap_or(usize::MAX)
    }

    /// Waits until the peer has given more credit than when this was asked last.
    pub(crate) async fn wait_raised(&self) {
        self.raised.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const KIB: u64 = 1024;
    const LIMITS: CreditLimits = CreditLimits { first: 256 * KIB, most: 4096 * KIB };
    const MS: Duration = Duration::from_millis(1);

    /// A stream, and what its sender was told.
    struct CreditRun {
        credits: StreamCredits,
        grant: ReceiveCredit,
        round_trip: Duration,
        is_pressed: bool,
    }

    impl CreditRun {
        fn new(round_trip: Duration) -> Self {
            let credits = StreamCredits::new(0, LIMITS);
            let grant = credits.begin_receiving();
            Self { credits, grant, round_trip, is_pressed: false }
        }

        /// Takes so many KiB in pieces, each after so long, and says how many are granted beyond.
        async fn take(&mut self, kib: u64, each: Duration) -> u64 {
            for _ in 0..kib / 16 {
                advance(each).await;
                let look = || (self.round_trip, self.is_pressed);
                self.credits.taken(4, &mut self.grant, 16 * KIB, look);
            }
            self.grant.window() / KIB
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_grows_while_its_reader_is_fast_and_the_path_needs_it() {
        let mut long = CreditRun::new(50 * MS);
        let open = long.take(16 << 10, MS / 4).await;
        assert!((3072..=4096).contains(&open), "{open}");
        let mut short = CreditRun::new(MS);
        let open = short.take(16 << 10, MS / 20).await;
        assert!((192..=256).contains(&open), "{open}");
        let mut middle = CreditRun::new(10 * MS);
        let open = middle.take(16 << 10, MS / 10).await;
        assert!((700..=977).contains(&open), "{open}: 100 MB/s for 10 ms");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_and_scarce_memory_make_a_window_small_again() {
        let mut run = CreditRun::new(50 * MS);
        run.take(16 << 10, MS / 4).await;
        let open = run.take(8 << 10, 50 * MS).await;
        assert!((192..=256).contains(&open), "{open}: 300 KiB a second");
        run.take(16 << 10, MS / 4).await;
        run.is_pressed = true;
        let open = run.take(8 << 10, MS / 4).await;
        assert!((192..=256).contains(&open), "{open}: pressed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_path_that_becomes_longer_is_noticed() {
        let mut run = CreditRun::new(MS);
        run.take(1 << 10, MS).await;
        run.round_trip = 50 * MS;
        let open = run.take(600 << 10, MS / 4).await;
        assert!((192..=256).contains(&open), "{open} KiB after ten seconds");
        let open = run.take(800 << 10, MS / 4).await;
        assert!(open >= 3072, "{open} KiB after twenty seconds");
    }

    #[tokio::test(start_paused = true)]
    async fn credit_is_sent_once_and_only_the_newest() {
        let mut run = CreditRun::new(50 * MS);
        run.take(1 << 10, MS / 4).await;
        let bytes = run.credits.next_due().await;
        let (grant, taken) = StreamCredit::decode(&bytes).unwrap().unwrap();
        assert_eq!(taken, bytes.len(), "one for one stream");
        let limit = run.grant.granted;
        assert_eq!(grant, Some(StreamCredit { stream: 4, limit }));
        assert!(futures_util::FutureExt::now_or_never(run.credits.next_due()).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_sender_goes_as_far_as_it_was_ever_granted() {
        let credits = StreamCredits::new(100, LIMITS);
        let grant = credits.begin_sending(8);
        assert_eq!((grant.remaining(40), grant.remaining(101)), (60, 0));
        credits.receive_credit(StreamCredit { stream: 8, limit: 300 });
        grant.wait_raised().await;
        credits.receive_credit(StreamCredit { stream: 8, limit: 200 });
        credits.receive_credit(StreamCredit { stream: 12, limit: 900 });
        assert_eq!(grant.remaining(100), 200);
        credits.end_sending(8);
        assert!(credits.sending.lock().is_empty());
        assert!(credits.begin_credit_stream() && !credits.begin_credit_stream());
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_read_has_nothing_kept_but_for_streams_that_are_open() {
        let credits = StreamCredits::new(0, LIMITS);
        for stream in 0..10_000 {
            let mut credit = credits.begin_receiving();
            credits.taken(stream, &mut credit, 96 * KIB, || (50 * MS, false));
            if stream >= 10 {
                credits.end_receiving(stream);
            }
        }
        assert_eq!(credits.due.lock().len(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_credit_is_woken_by_more_of_it_alone() {
        let credits = StreamCredits::new(0, LIMITS);
        let credit = credits.begin_sending(8);
        let woken = |credit: &SendCredit| {
            futures_util::FutureExt::now_or_never(credit.wait_raised()).is_some()
        };
        for (limit, is_more) in [(0, false), (100, true), (100, false), (99, false), (101, true)] {
            credits.receive_credit(StreamCredit { stream: 8, limit });
            assert_eq!(woken(&credit), is_more, "{limit}");
        }
    }
}
