//! The attacks of a hostile cluster: each a function of an [`Enemy`] and a [`AttackPace`].
//!
//! * [`streams`]: streams that are refused, reset, unfinished, or empty;
//! * [`windows`]: bytes that nobody takes, in both directions; [`grants`]: what single streams are let carry;
//! * [`state`]: views that flap, grow, and invent; * [`connections`]: handshakes, hellos, control messages;
//! * [`strangers`]: what needs no certificate.
//!
//! Each goes on for [`AttackPace::seconds`] and leaves by closing nothing politely. It counts what it did, so that
//! a victim is not praised for an attack that never took place.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::client::{Enemy, EnemyConnection, Manners};

pub mod connections;
pub mod grants;
pub mod state;
pub mod strangers;
pub mod streams;
pub mod windows;

/// The length of an attack, and its share of its full size.
#[derive(Debug, Clone, Copy)]
pub struct AttackPace {
    /// When it ends.
    pub until: Instant,
    /// For how long it goes on.
    pub seconds: f64,
    /// From 0 to 1.
    pub part: f64,
}

impl AttackPace {
    /// So many of `full`, at least one.
    #[must_use]
    pub fn of(&self, full: usize) -> usize {
        ((full as f64 * self.part) as usize).max(1)
    }

    /// True if it goes on.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        Instant::now() < self.until
    }

    /// Waits for the end.
    pub async fn end(&self) {
        tokio::time::sleep_until(self.until).await;
    }
}

/// The counters of an attack.
#[derive(Debug, Default)]
pub struct AttackCounts(Mutex<BTreeMap<String, u64>>);

impl AttackCounts {
    /// Counts so many more.
    pub fn add(&self, what: &str, n: u64) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match all.get_mut(what) {
            Some(counted) => *counted += n,
            None => drop(all.insert(what.to_owned(), n)),
        }
    }

    /// All so far.
    #[must_use]
    pub fn all(&self) -> BTreeMap<String, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl AttackContext {
    /// Connects as the node of that number, and counts how that ends.
    ///
    /// # Errors
    /// Why the victim did not take it.
    pub async fn connect(
        &self,
        nth: usize,
        manners: &Manners,
        slot: u64,
    ) -> Result<EnemyConnection, String> {
        match self.enemy.connect(&self.enemy.node(nth), manners, slot).await {
            Ok(conn) => {
                self.counts.add("connections", 1);
                let (quinn, counts) = (conn.quinn.clone(), Arc::clone(&self.counts));
                drop(self.watchers.spawn(async move {
                    counts.add(&format!("closed: {}", quinn.closed().await), 1);
                }));
                Ok(conn)
            }
            Err(why) => {
                self.counts.add("connections refused", 1);
                self.counts.add(&format!("refused: {why}"), 1);
                Err(why)
            }
        }
    }
}

/// Everything that an attack has.
#[derive(Debug, Clone)]
pub struct AttackContext {
    /// The attacker.
    pub enemy: Arc<Enemy>,
    /// The attack's length and size.
    pub pace: AttackPace,
    /// The counters of what was done.
    pub counts: Arc<AttackCounts>,
    /// Tasks that wait for connections to end.
    pub watchers: TaskTracker,
}

type AttackFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// An attack.
#[derive(Debug, Clone, Copy)]
pub struct Attack {
    /// For `--only`.
    pub name: &'static str,
    /// In one sentence.
    pub what: &'static str,
    /// The counter that must be at least one, or the attack did not take place.
    pub proof: &'static str,
    /// Which part of it the gate runs, and for how many seconds.
    pub short: Option<(f64, f64)>,
    /// Does it.
    pub run: fn(AttackContext) -> AttackFuture,
}

macro_rules! attacks {
    ($($name:literal, $run:path, $proof:literal, $short:expr, $what:literal;)*) => {
        /// All of them.
        pub const ALL: &[Attack] = &[$(Attack {
            name: $name,
            what: $what,
            proof: $proof,
            short: $short,
            run: |means| Box::pin($run(means)),
        }),*];
    };
}

attacks! {
    "unwritable-refusals", streams::unwritable_refusals, "streams", Some((1.0, 4.0)),
        "19,000 refused streams whose answers cannot be written";
    "refused-fast", streams::refused_fast, "refused", Some((1.0, 1.0)),
        "refused as fast as possible";
    "resets-before-kind", streams::resets_before_kind, "resets", Some((1.0, 1.0)),
        "streams that are reset before their kind byte, as fast as possible";
    "resets-after-kind", streams::resets_after_kind, "resets", None,
        "the same after the kind byte";
    "resets-after-header", streams::resets_after_header, "resets", None,
        "the same after a granted header: each may dial a backend";
    "empty-streams", streams::empty_streams, "streams", Some((1.0, 1.0)),
        "streams of nothing: finished at once, after the kind, after an empty header";
    "slow-headers", streams::slow_headers, "streams", Some((0.2, 3.5)),
        "4,000 streams that send one byte of header a second";
    "idle-granted", streams::idle_granted, "streams", None,
        "9,000 granted streams that say nothing";

    "unread-refused-bulk", windows::unread_refused_bulk, "streams", Some((0.2, 2.0)),
        "200 refused streams filled to bulk windows";
    "unread-refused", windows::unread_refused, "streams", None,
        "2,000 refused streams filled to interactive windows";
    "unread-dialling", windows::unread_dialling, "streams", Some((0.2, 2.0)),
        "200 streams filled while their backend is dialled, anew whenever one ends";
    "unread-granted", windows::unread_granted, "streams", None,
        "2,000 granted streams filled to windows whose backend does not read";
    "gap", windows::gap, "streams", Some((0.2, 2.0)),
        "200 granted bulk streams filled behind a byte that never comes";
    "crumbs", windows::crumbs, "streams", None,
        "900 granted streams of a thousand single bytes each, with gaps";
    "batched-crumbs", windows::batched_crumbs, "streams", Some((1.0, 2.5)),
        "900 granted streams of single bytes, each of which keeps the whole batch of packets that it came in";
    "repeated-crumbs", windows::repeated_crumbs, "streams", None,
        "a thousand single bytes of one stream, with gaps, over and over: all have to be sorted again and again";
    "unread-answers", windows::unread_answers, "streams", None,
        "64 bulk connections that grant all and read nothing of endless answers";
    "unacknowledged-answers", windows::unacknowledged_answers, "streams", Some((0.3, 2.0)),
        "64 bulk connections that read endless answers and acknowledge nothing";
    "slow-reader", windows::slow_reader, "streams", None,
        "1,000 granted streams of endless answers, each read at 1 KB/s";

    "halted-answers", grants::halted_answers, "streams", Some((0.5, 2.5)),
        "4,000 granted streams of endless answers that are taken until they come in large pieces, and then not let go on";
    "grant-floods", grants::grant_floods, "grants", None,
        "16 connections that grant streams more, which are open or not, as fast as possible";
    "grants-of-a-byte", grants::grants_of_a_byte, "grants", None,
        "800 endless answers that are let go on by a byte each, as fast as possible";
    "unheard-grants", grants::unheard_grants, "streams", None,
        "streams of 96 KiB one after the other, by who does not hear what the victim grants on them";

    "flapping-view", state::flapping_view, "changes", Some((1.0, 2.5)),
        "50 changes a second of a view of 5.3 MB";
    "begin-floods", state::begin_floods, "changes", None,
        "a small view that is begun anew as fast as possible";
    "wide-view", state::wide_view, "bytes", Some((1.0, 2.0)),
        "a view of many ports, grants and counts: largest in memory for its bytes, begun anew again and again";
    "invented-nodes", state::invented_nodes, "connections", Some((0.3, 2.5)),
        "4,990 invented ready nodes, 500 connections, and a workload that uses what they announce";
    "dial-backs", state::dial_backs, "changes", Some((1.0, 1.5)),
        "nodes announced at loopback, metadata, pod and node addresses of the victim's";
    "followed", state::followed, "said", Some((0.5, 11.0)),
        "1,000 nodes of sixteen addresses where nobody answers, each of which says that it is followed";
    "subscribe-storm", state::subscribe_storm, "subscribed", None,
        "subscriptions that end and begin as fast as possible, and some that are never read";

    "many-connections", connections::many_connections, "connections", Some((0.2, 2.0)),
        "1,000 connections of as many invented nodes, made anew when they end";
    "duplicate-hellos", connections::duplicate_hellos, "hellos", Some((1.0, 1.0)),
        "one node's hello again and again, on connections that stay";
    "silent-connections", connections::silent_connections, "connections", None,
        "500 connections that never say hello, made anew when they end";
    "control-floods", connections::control_floods, "messages", Some((1.0, 1.0)),
        "go-aways, dial-mes and unknown messages without end";
    "frame-noise", connections::frame_noise, "bytes", None,
        "packets full of path challenges, pings, window updates and stops";
    "retired-ids", connections::retired_ids, "bytes", Some((1.0, 1.5)),
        "packets full of connection IDs that are not needed any more, each of which its endpoint is told of";
    "wide-acknowledgements", connections::wide_acknowledgements, "bytes", None,
        "acknowledgements of every other packet, of six hundred ranges, or as many as a packet holds, over and over";
    "needless-acknowledgements", connections::needless_acknowledgements, "bytes", None,
        "an acknowledgement in each packet, of no more ranges than a path brings that loses much";
    "answered-acknowledgements", connections::answered_acknowledgements, "bytes", None,
        "the same beside a ping, so that packets come of which there is something to say";

    "handshakes-17", strangers::handshakes, "knocks", Some((1.0, 2.0)),
        "handshakes from 17 addresses without a certificate, which fail or never go on";
    "handshake-crumbs", strangers::handshake_crumbs, "packets", Some((0.5, 1.5)),
        "handshakes of single bytes with gaps, from 17 addresses without a certificate: all have to be sorted again and again";
    "spoofed-initials", strangers::spoofed_initials, "initials", Some((0.25, 1.5)),
        "20,000 first packets a second from spoofed addresses";
}

/// Makes `n` connections, at most some at a time, as so many nodes.
pub(crate) async fn connect(
    means: &AttackContext,
    n: usize,
    names: usize,
    manners: &Manners,
) -> Vec<EnemyConnection> {
    const AT_ONCE: usize = 16;
    let (mut making, mut made) = (JoinSet::new(), Vec::new());
    let mut next = 0;
    while (next < n && means.pace.goes_on()) || !making.is_empty() {
        while next < n && making.len() < AT_ONCE && means.pace.goes_on() {
            let (means, manners) = (means.clone(), manners.clone());
            let (nth, slot) = (next % names, (next / names) as u64);
            making.spawn(async move { means.connect(nth, &manners, slot).await });
            next += 1;
        }
        match making.join_next().await {
            Some(Ok(Ok(conn))) => made.push(conn),
            // Counted already.
            Some(_) => {}
            None => break,
        }
    }
    made
}

/// Waits a moment.
pub(crate) async fn ms(n: u64) {
    tokio::time::sleep(Duration::from_millis(n)).await;
}
