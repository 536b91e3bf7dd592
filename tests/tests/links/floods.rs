//! A peer that changes what it says as often as it can, and one of whose exports is no export.

use std::sync::Arc;

use adit_core::code::Code;
use adit_core::policy::{Pattern, WorkloadPattern};
use adit_core::snapshot::{Class, Hop, PeerExport, PeerPort, ReadyCounts, Snapshot};
use adit_core::wire::StreamKind;
use adit_core::wire::control::{ControlMessage, Hello};
use adit_core::wire::credit::StreamCredit;
use adit_core::wire::state::{MESSAGE_COST, StateMessage, SubscribeRequest, WHOLE_VIEW_COST};
use adit_tests::sites::{RunningNode, Site, eventually};
use adit_transport::{QuicConnection, RecvStream, SendStream};
use bytes::BytesMut;

use super::hostile::{Stranger, control, open, victim};
use crate::{LinkWorld, SECOND};

/// An export with so many grants.
fn export(number: u16, grants: usize) -> Arc<PeerExport> {
    let port = PeerPort {
        name: "http".parse().unwrap(),
        number,
        app_protocol: None,
        ready: ReadyCounts::default(),
        fault: None,
    };
    let grant = |n| WorkloadPattern {
        namespace: Pattern::Exact(format!("n{n}").parse().unwrap()),
        service_account: Pattern::Any,
    };
    Arc::new(PeerExport {
        ports: vec![port],
        grants: (0..grants).map(grant).collect(),
        hop: Hop::Any,
        class: Class::Interactive,
        replay: false,
        hold: None,
    })
}

fn service(n: usize) -> adit_core::name::ServiceName {
    format!("a/b{n:04}").parse().unwrap()
}

/// A stranger that is asked for what it has to say, and says it.
struct Speaker {
    quic: QuicConnection,
    send: SendStream,
    _open: (RecvStream, (SendStream, RecvStream)),
}

impl Speaker {
    /// Makes a victim, and says a view of these exports to it: number of the service, export. Returns the view's bytes too.
    async fn with_view(
        world: &LinkWorld,
        exports: impl IntoIterator<Item = (usize, Arc<PeerExport>)>,
    ) -> (RunningNode, Stranger, Self, BytesMut) {
        let (e1, edge, stranger) = victim(world);
        let mut peer = Self::meet(&stranger, &edge).await;
        let bytes = view(1, exports);
        peer.say(&bytes).await;
        (e1, stranger, peer, bytes)
    }

    async fn meet(stranger: &Stranger, edge: &Site) -> Self {
        let quic = stranger.dial(edge).await;
        let hello = open(&quic, &control(&ControlMessage::Hello(stranger.hello()))).await;
        let (send, recv) = quic.accept_bi().await.unwrap();
        Self { quic, send, _open: (recv, hello) }
    }

    async fn say(&mut self, bytes: &[u8]) {
        self.send.send_all(bytes).await.unwrap();
    }
}

/// These messages, and a mark after them.
fn messages(sequence: u64, messages: impl IntoIterator<Item = StateMessage>) -> BytesMut {
    let mut bytes = BytesMut::new();
    let mark = StateMessage::Mark { sequence, age_ms: 0, lost: false };
    messages.into_iter().chain([mark]).for_each(|message| message.encode(&mut bytes));
    bytes
}

/// A whole view of these exports.
fn view(sequence: u64, exports: impl IntoIterator<Item = (usize, Arc<PeerExport>)>) -> BytesMut {
    let begin = StateMessage::Begin { epoch: 5, replaces: true };
    let exports = exports.into_iter().map(|(n, export)| StateMessage::Export(service(n), export));
    messages(sequence, std::iter::once(begin).chain(exports))
}

#[tokio::test(start_paused = true)]
async fn a_view_that_changes_without_a_pause_is_handed_on_four_times_a_second() {
    let world = LinkWorld::new();
    let exports = (0..1000).map(|n| (n, export(80, 490)));
    let (e1, stranger, mut peer, bytes) = Speaker::with_view(&world, exports).await;
    assert!(bytes.len() > 3_000_000, "{}", bytes.len());
    eventually("all is known", 10 * SECOND, || e1.view(&stranger.site).is_some()).await;
    tokio::time::sleep(SECOND).await;

    let mut views = e1.links.views();
    views.mark_unchanged();
    let (site, count) = (Arc::clone(&stranger.site), Arc::new(std::sync::Mutex::new(0)));
    let counted = Arc::clone(&count);
    let mut counting = tokio::task::JoinSet::new();
    counting.spawn(async move {
        while views.changed().await.is_ok() {
            views.borrow_and_update();
            *counted.lock().unwrap() += 1;
        }
    });
    for n in 0..500 {
        let change = StateMessage::Export(service(n), export(81, 1));
        peer.say(&messages(2 + n as u64, [change])).await;
        if n == 0 {
            tokio::time::sleep(SECOND / 50).await;
            assert_eq!(*count.lock().unwrap(), 1, "the first after a pause is handed on at once");
        } else {
            tokio::time::sleep(SECOND / 50).await;
        }
    }
    tokio::time::sleep(SECOND).await;
    drop(counting);
    let handed = *count.lock().unwrap();
    assert!((35..=43).contains(&handed), "{handed} views in ten seconds");
    let view = e1.view(&site).unwrap();
    assert!(view.view.exports.values().take(500).all(|e| e.ports[0].number == 81), "the last, too");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_too_much_is_not_read_and_goes_on_later() {
    let world = LinkWorld::new();
    let (e1, edge, stranger) = victim(&world);
    let mut peer = Speaker::meet(&stranger, &edge).await;
    let bytes = view(1, (0..500).map(|n| (n, export(80, 400))));
    let cost = bytes.len() + 502 * MESSAGE_COST;
    let began = tokio::time::Instant::now();
    // The same view told anew, time and again: what it cost is not forgotten with it.
    let times = 4 * WHOLE_VIEW_COST / cost / 3;
    for _ in 0..times {
        peer.say(&bytes).await;
    }
    let took = began.elapsed().as_secs_f64();
    let least = (times * cost - WHOLE_VIEW_COST) as f64 / f64::from(1 << 20);
    assert!(took > 0.8 * least && took < least + 20.0, "{took} s, at least {least} s");
    eventually("all is heard", 30 * SECOND, || {
        e1.view(&stranger.site).is_some_and(|v| v.view.exports.len() == 500)
    })
    .await;
    assert!(peer.quic.is_closed().is_none());
}

#[tokio::test(start_paused = true)]
async fn messages_that_are_skipped_cost_a_peer_as_much_as_others() {
    let world = LinkWorld::new();
    let (e1, stranger, mut peer, _) = Speaker::with_view(&world, []).await;
    eventually("heard", SECOND, || e1.view(&stranger.site).is_some()).await;
    // As many small messages as pass at once; then some that may be skipped.
    let began = tokio::time::Instant::now();
    let mut gone = BytesMut::new();
    StateMessage::NodeGone("b9".parse().unwrap()).encode(&mut gone);
    peer.say(&gone.repeat(WHOLE_VIEW_COST / (MESSAGE_COST + gone.len()))).await;
    let (skipped, times) = ([&[0x0a, 60][..], &[0; 60]].concat(), 40_000);
    peer.say(&skipped.repeat(times)).await;
    peer.say(&view(2, [(1, export(80, 1))])).await;
    eventually("the rest is heard", 60 * SECOND, || {
        e1.view(&stranger.site).is_some_and(|v| v.view.exports.len() == 1)
    })
    .await;
    let least = (times * (MESSAGE_COST + skipped.len())) as f64 / f64::from(1 << 20);
    let took = began.elapsed().as_secs_f64();
    assert!(took > 0.8 * least && took < least + 2.0, "{took} s of {least} s");
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_takes_nothing_is_given_up_after_a_while() {
    let world = LinkWorld::new();
    let (e1, edge, stranger) = victim(&world);
    // More to tell than fits any window.
    e1.snapshot.send_modify(|now| {
        let mut more = Snapshot::clone(now);
        let one = Arc::clone(more.exports.first_key_value().unwrap().1);
        let named = |n| {
            let mut export = (*one).clone();
            export.service = service(n);
            (export.service.clone(), Arc::new(export))
        };
        more.exports = (0..9000).map(named).collect();
        *now = Arc::new(more);
    });
    tokio::time::sleep(SECOND).await;
    let quic = stranger.dial(&edge).await;
    let _control = open(&quic, &control(&ControlMessage::Hello(stranger.hello()))).await;
    let mut subscribe = BytesMut::from(&[1][..]);
    StateMessage::Subscribe(SubscribeRequest { cluster: edge.name.clone(), have: None })
        .encode(&mut subscribe);
    let (_send, mut recv) = open(&quic, &subscribe).await;
    tokio::time::sleep(14 * SECOND).await;
    let ended = async {
        loop {
            match recv.read_chunk(1 << 20).await {
                Ok(Some(_)) => {}
                Ok(None) => break None,
                Err(error) => break Some(error.code()),
            }
        }
    };
    let ended = tokio::time::timeout(5 * SECOND, ended).await;
    assert_eq!(ended, Ok(Some(Code::HeaderTimeout)), "what waits for it is held here");
    assert!(quic.is_closed().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_bad_export_is_left_out_and_said_and_withdrawals_go_on() {
    let world = LinkWorld::new();
    let exports = [(1, 1), (2, 501), (3, 1)].map(|(n, grants)| (n, export(80, grants)));
    let (e1, stranger, mut peer, _) = Speaker::with_view(&world, exports).await;
    let names = || -> Vec<String> {
        let view = e1.view(&stranger.site);
        view.iter().flat_map(|v| v.view.exports.keys()).map(ToString::to_string).collect()
    };
    eventually("the good ones are known", SECOND, || names() == ["a/b0001", "a/b0003"]).await;
    let omitted = e1.links.status().links[0].view.as_ref().unwrap().omitted.clone();
    assert_eq!(omitted.to_string(), "export a/b0002 (it has more than 500 grants)");
    peer.say(&messages(2, [StateMessage::ExportGone(service(1))])).await;
    eventually("the withdrawal is heard", SECOND, || names() == ["a/b0003"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_grants_without_end_is_heard_at_a_pace_and_named() {
    let world = LinkWorld::new();
    let (e1, edge, stranger) = victim(&world);
    let quic = stranger.dial(&edge).await;
    let hello = Hello { stream_window: 1 << 18, ..stranger.hello() };
    let _control = open(&quic, &control(&ControlMessage::Hello(hello))).await;
    let (mut send, _recv) = open(&quic, &[StreamKind::Credits.byte()]).await;
    let last = || e1.links.status().links.remove(0).misuse.last.map(|(_, _, code)| code);
    let mut bytes = BytesMut::new();
    (0..1000).for_each(|limit| StreamCredit { stream: 1, limit }.encode(&mut bytes));
    for _ in 0..40 {
        send.send_all(&bytes).await.unwrap();
    }
    tokio::time::sleep(SECOND).await;
    assert_eq!(last(), None, "as many as any transfer needs");
    // All that is allowed at once, anew, and twice as many.
    for _ in 0..130 {
        let sent = tokio::time::timeout(SECOND, send.send_all(&bytes)).await;
        assert!(sent.is_ok_and(|sent| sent.is_ok()));
    }
    eventually("named", 10 * SECOND, || last() == Some(Code::OverLimit)).await;
    assert_eq!(quic.is_closed(), None);
}
