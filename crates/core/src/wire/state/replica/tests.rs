mod bounds;

use super::super::{MAX_MESSAGE_LEN, SubscribeRequest, ViewLog};
use super::*;
use crate::name::ServiceName;
use bytes::BytesMut;
use proptest::prelude::*;

fn view() -> ClusterView {
    let edge = crate::snapshot::tests::edge();
    (**edge.views.values().next().unwrap()).clone()
}

fn with_ready(view: &ClusterView, count: u32) -> ClusterView {
    let mut view = view.clone();
    let (service, export) = view.exports.pop_first().unwrap();
    let mut export = (*export).clone();
    export.ports[0].ready.insert("b1".parse().unwrap(), count);
    view.exports.insert(service, Arc::new(export));
    view
}

/// Sends messages over the codec, as the wire does, and returns their bytes' number.
fn deliver(
    replica: &mut ViewReplica,
    messages: Vec<StateMessage>,
    sequence: u64,
) -> (usize, Option<MarkedView>) {
    let mut bytes = BytesMut::new();
    for message in
        messages.into_iter().chain([StateMessage::Mark { sequence, age_ms: 0, lost: false }])
    {
        message.encode(&mut bytes);
    }
    let (sent, mut last) = (bytes.len(), None);
    while let Some((message, taken)) = StateMessage::decode(&bytes).unwrap() {
        bytes = bytes.split_off(taken);
        last = replica.apply(message.unwrap()).unwrap().or(last);
    }
    assert!(bytes.is_empty());
    (sent, last)
}

/// An export that says so many backends are ready.
fn export(count: u32) -> Arc<PeerExport> {
    let (_, export) = with_ready(&view(), count).exports.pop_first().unwrap();
    export
}

/// All that a subscriber is told.
fn since(publisher: &ViewLog, have: Option<(u64, u64)>) -> Vec<StateMessage> {
    publisher.updates_since(have).collect()
}

#[test]
fn a_change_costs_the_record_that_changed() {
    let (mut publisher, mut replica) = (ViewLog::new(5), ViewReplica::default());
    let mut big = view();
    let (_, template) = big.exports.pop_first().unwrap();
    for n in 0..1000 {
        let service: ServiceName = format!("agents/bot-{n:04}").parse().unwrap();
        big.exports.insert(service, template.clone());
    }
    assert!(publisher.update(&big));
    let (whole, first) = deliver(&mut replica, since(&publisher, None), 1);
    assert_eq!(*first.unwrap().view, big);

    let changed = with_ready(&big, 9);
    assert!(publisher.update(&changed) && !publisher.update(&changed));
    let news = since(&publisher, replica.position());
    let (one, second) = deliver(&mut replica, news, 2);
    assert_eq!(*second.unwrap().view, changed);
    assert!(whole > 90_000 && one < 200, "whole {whole} bytes, one change {one}");
    assert!(since(&publisher, replica.position()).is_empty());
}

#[test]
fn changes_are_coalesced_by_key() {
    let mut publisher = ViewLog::new(5);
    publisher.update(&view());
    let have = Some(publisher.position());
    for count in 3..50 {
        publisher.update(&with_ready(&view(), count));
    }
    assert_eq!(since(&publisher, have).len(), 2, "begin and the one record");
}

#[test]
fn another_epoch_or_a_forgotten_past_starts_anew() {
    let mut publisher = ViewLog::new(5);
    publisher.update(&view());
    for have in [None, Some((4, 1)), Some((5, 7))] {
        let first = since(&publisher, have).remove(0);
        assert_eq!(first, StateMessage::Begin { epoch: 5, replaces: true });
    }
    let long_ago = Some(publisher.position());
    for round in 0..1100 {
        let mut view = view();
        view.nodes.insert(format!("n{round}").parse().unwrap(), vec![]);
        publisher.update(&view);
    }
    assert_eq!(since(&publisher, long_ago)[0], StateMessage::Begin { epoch: 5, replaces: true });
    let (epoch, sequence) = publisher.position();
    let recent = since(&publisher, Some((epoch, sequence - 1)));
    assert_eq!(recent[0], StateMessage::Begin { epoch: 5, replaces: false });
    assert_eq!(recent.len(), 3, "one node came and one went");
}

#[test]
fn messages_out_of_place_are_refused() {
    let mark = StateMessage::Mark { sequence: 1, age_ms: 0, lost: false };
    assert!(ViewReplica::default().apply(mark).is_err());
    let later = StateMessage::Begin { epoch: 1, replaces: false };
    assert!(ViewReplica::default().apply(later).is_err());
    let mut replica = ViewReplica::default();
    replica.apply(StateMessage::Begin { epoch: 1, replaces: true }).unwrap();
    assert!(replica.apply(StateMessage::Begin { epoch: 2, replaces: false }).is_err());
    let subscribe = SubscribeRequest { cluster: "bank".parse().unwrap(), have: None };
    assert!(replica.apply(StateMessage::Subscribe(subscribe)).is_err());
}

#[test]
fn a_record_that_went_and_came_back_is_sent_as_it_is() {
    let mut publisher = ViewLog::new(5);
    publisher.update(&view());
    let have = Some(publisher.position());
    publisher.update(&ClusterView::default());
    let gone = since(&publisher, have);
    assert_eq!(gone.len(), 1 + view().nodes.len() + view().exports.len());
    publisher.update(&view());
    let back = since(&publisher, have);
    let is_gone =
        |m: &StateMessage| matches!(m, StateMessage::NodeGone(_) | StateMessage::ExportGone(_));
    assert_eq!((back.len(), back.iter().any(is_gone)), (gone.len(), false));
    assert_eq!(since(&publisher, Some(publisher.position())), []);
}

#[test]
fn a_mark_without_a_change_costs_no_copy() {
    let (mut publisher, mut replica) = (ViewLog::new(5), ViewReplica::default());
    publisher.update(&view());
    let first = deliver(&mut replica, since(&publisher, None), 1).1.unwrap().view;
    let second = deliver(&mut replica, vec![], 2).1.unwrap().view;
    assert!(Arc::ptr_eq(&first, &second));
    publisher.update(&with_ready(&view(), 9));
    let fourth = deliver(&mut replica, since(&publisher, None), 4).1.unwrap().view;
    assert_eq!(*fourth, with_ready(&view(), 9));
}

fn all_messages() -> Vec<StateMessage> {
    let (service, export) = view().exports.pop_first().unwrap();
    let (node, addresses) = view().nodes.pop_first().unwrap();
    let have = Some((77, 3));
    vec![
        StateMessage::Subscribe(SubscribeRequest { cluster: "bank".parse().unwrap(), have }),
        StateMessage::Begin { epoch: (1 << 62) - 1, replaces: true },
        StateMessage::Node(node.clone(), addresses),
        StateMessage::NodeGone(node),
        StateMessage::Export(service.clone(), export),
        StateMessage::ExportGone(service),
        StateMessage::Mark { sequence: 70_000, age_ms: 12, lost: false },
        StateMessage::Mark { sequence: 1, age_ms: 0, lost: true },
    ]
}

#[test]
fn messages_round_trip_and_every_truncation_asks_for_more() {
    for message in all_messages() {
        let mut bytes = BytesMut::new();
        message.encode(&mut bytes);
        assert_eq!(StateMessage::decode(&bytes), Ok(Some((Some(message), bytes.len()))));
        for cut in 0..bytes.len() {
            assert_eq!(StateMessage::decode(&bytes[..cut]), Ok(None));
        }
    }
    assert_eq!(StateMessage::decode(&[20, 1, 0]), Ok(Some((None, 3))));
    assert_eq!(StateMessage::decode(&[21, 1, 0]), Err(WireError::UnknownCritical(21)));
    assert_eq!(
        StateMessage::decode(&[7, 0xbf, 255, 255, 255]),
        Err(WireError::TooLong(MAX_MESSAGE_LEN))
    );
}

#[test]
fn every_flipped_byte_is_refused_or_whole() {
    for message in all_messages() {
        let mut bytes = BytesMut::new();
        message.encode(&mut bytes);
        for at in 0..bytes.len() {
            for flip in 1..=255u8 {
                let mut changed = bytes.clone();
                changed[at] ^= flip;
                if let Ok(Some((Some(read), _))) = StateMessage::decode(&changed) {
                    let mut again = BytesMut::new();
                    read.encode(&mut again);
                    assert_eq!(StateMessage::decode(&again).unwrap().unwrap().0, Some(read));
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_whole(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(Some((_, taken))) = StateMessage::decode(&bytes) {
            prop_assert!(taken <= bytes.len());
        }
    }

    /// However changes and deliveries interleave, the replica ends up with the publisher's view.
    #[test]
    fn a_replica_converges(steps in proptest::collection::vec((0u8..6, 0u8..4, any::<bool>()), 1..60)) {
        let (mut publisher, mut replica) = (ViewLog::new(1), ViewReplica::default());
        let mut view = ClusterView::default();
        let (_, template) = self::view().exports.pop_first().unwrap();
        for (what, which, tell) in steps {
            let node = format!("n{which}").parse().unwrap();
            let service = format!("a/s{which}").parse().unwrap();
            match what {
                0 => { view.nodes.insert(node, vec![]); }
                1 => { view.nodes.remove(&node); }
                2 => { view.exports.insert(service, template.clone()); }
                3 => { view.exports.remove(&service); }
                4 => { view.nodes.insert(node, vec!["1.2.3.4:5".parse().unwrap()]); }
                _ => publisher = ViewLog::new(publisher.position().0 + 1),
            }
            publisher.update(&view);
            if tell {
                let news = since(&publisher, replica.position());
                let (_, marked) = deliver(&mut replica, news, publisher.position().1);
                prop_assert_eq!(&*marked.unwrap().view, &view);
            }
        }
    }
}

#[test]
fn a_hundred_slow_subscribers_hold_one_view() {
    let view = |count: u32| ClusterView {
        exports: (0..10_000).map(|n| (format!("a/b{n}").parse().unwrap(), export(count))).collect(),
        ..ClusterView::default()
    };
    let mut publisher = ViewLog::new(5);
    publisher.update(&view(1));
    let old = publisher.position();
    let newer = view(2);
    publisher.update(&newer);
    let shared = |newer: &ClusterView| Arc::strong_count(newer.exports.values().last().unwrap());
    let before = shared(&newer);
    // New ones, and some that say that they have missed all of it.
    let mut slow: Vec<_> =
        (0..100).map(|n| publisher.updates_since((n % 2 == 1).then_some(old))).collect();
    for news in &mut slow {
        let first = news.next();
        assert_eq!(
            first,
            Some(StateMessage::Begin { epoch: 5, replaces: true }),
            "too much was missed"
        );
        news.next();
    }
    assert_eq!(shared(&newer), before, "no subscriber holds a record of its own");
    // What changes meanwhile is not in what they are told: that ends with the mark of the older view.
    publisher.update(&view(3));
    let told: Vec<_> = slow.pop().unwrap().collect();
    assert_eq!(told.len(), 10_000 - 1);
    let is_old = |m: &StateMessage| matches!(m, StateMessage::Export(_, e) if *e == export(2));
    assert!(told.iter().all(is_old));
}
