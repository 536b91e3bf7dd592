//! Tests of what a replica leaves out, what it shares, and what a view may cost.

use bytes::BytesMut;

use super::super::*;
use super::view;
use crate::grant::WorkloadPattern;
use crate::snapshot::PeerPort;

fn begun() -> ViewReplica {
    let mut replica = ViewReplica::default();
    replica.apply(StateMessage::Begin { epoch: 1, replaces: true }).unwrap();
    replica
}

fn mark(replica: &mut ViewReplica) -> MarkedView {
    replica.apply(StateMessage::Mark { sequence: 1, age_ms: 0, lost: false }).unwrap().unwrap()
}

#[test]
fn records_without_room_are_left_out_and_the_rest_is_read() {
    let mut replica = begun();
    let (_, export): (_, Arc<PeerExport>) = view().exports.pop_first().unwrap();
    let service = |n: usize| -> ServiceName { format!("a/b{n:05}").parse().unwrap() };
    for n in 0..MAX_EXPORTS + 2 {
        replica.apply(StateMessage::Export(service(n), export.clone())).unwrap();
    }
    for n in 0..MAX_NODES + 1 {
        replica.apply(StateMessage::Node(format!("n{n:04}").parse().unwrap(), vec![])).unwrap();
    }
    let full = mark(&mut replica);
    assert_eq!((full.view.exports.len(), full.view.nodes.len()), (MAX_EXPORTS, MAX_NODES));
    assert_eq!(full.omitted.count(), 3);
    let text = full.omitted.to_string();
    assert!(text.contains("export a/b10000 (a view has 10000 exports at most)"), "{text}");
    assert!(text.contains("node n5000 (a view has 5000 nodes at most)"), "{text}");
    assert_eq!(replica.position(), None, "they may fit when all is told again");

    // Withdrawals and changes are heard, and make room.
    replica.apply(StateMessage::ExportGone(service(0))).unwrap();
    replica.apply(StateMessage::Export(service(MAX_EXPORTS), export)).unwrap();
    replica.apply(StateMessage::ExportGone(service(MAX_EXPORTS + 1))).unwrap();
    replica.apply(StateMessage::NodeGone("n5000".parse().unwrap())).unwrap();
    let then = mark(&mut replica);
    assert!(then.omitted.is_empty() && replica.position().is_some());
    assert!(!then.view.exports.contains_key(&service(0)));
    assert!(then.view.exports.contains_key(&service(MAX_EXPORTS)));
}

#[test]
fn a_views_memory_is_bounded_by_what_it_holds_and_not_by_what_was_sent() {
    let mut replica = begun();
    let (_, mut export) = view().exports.pop_first().unwrap();
    let ready = (0..2000).map(|n| (format!("node-{n:04}").parse().unwrap(), 1));
    Arc::make_mut(&mut export).ports[0].ready = ready.collect();
    let service = |n: usize| -> ServiceName { format!("a/b{n:05}").parse().unwrap() };
    let record = |n: usize| StateMessage::Export(service(n), Arc::clone(&export));
    let fit = MAX_BYTES / memory_size::export(&service(0), &export);
    assert!((50..1000).contains(&fit), "{fit}");
    let other = |n: usize| {
        let mut export = PeerExport::clone(&export);
        export.ports[0].number += u16::try_from(n).unwrap();
        StateMessage::Export(service(0), Arc::new(export))
    };
    for n in 0..fit {
        replica.apply(record(n)).unwrap();
        replica.apply(other(n)).unwrap();
    }
    assert!(mark(&mut replica).omitted.is_empty());
    replica.apply(record(fit)).unwrap();
    assert_eq!(mark(&mut replica).omitted.count(), 1, "full");
    // What grows beyond the bound is not kept as it was: it may grant less now.
    let StateMessage::Export(_, larger) = other(1) else { unreachable!() };
    let mut larger = PeerExport::clone(&larger);
    larger.ports[0].ready.insert("one-more".parse().unwrap(), 1);
    let long = "x".repeat(250);
    let names = (0..4000).map(|n| {
        (format!("{n}{}", &long[..200]).replace("xx", "x.").trim_end_matches('.').parse(), 1)
    });
    larger.ports[0].ready = names.filter_map(|(name, n)| Some((name.ok()?, n))).collect();
    replica.apply(StateMessage::Export(service(1), Arc::new(larger))).unwrap();
    let full = mark(&mut replica);
    assert!(!full.view.exports.contains_key(&service(1)));
    assert_eq!(full.omitted.count(), 2);
    // What is gone makes room, and so does a new beginning.
    replica.apply(StateMessage::ExportGone(service(0))).unwrap();
    replica.apply(record(fit)).unwrap();
    replica.apply(record(1)).unwrap();
    assert!(mark(&mut replica).omitted.is_empty());
    replica.apply(StateMessage::Begin { epoch: 1, replaces: true }).unwrap();
    assert_eq!(replica.bytes, 0);
}

/// A message with a body of these bytes.
fn raw(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u8::try_from(body.len()).unwrap();
    assert!(length < 64, "in its shortest form");
    [&[kind, length], body].concat()
}

#[test]
fn one_bad_export_is_left_out_and_the_rest_is_read() {
    let good =
        StateMessage::Export("a/good".parse().unwrap(), view().exports.pop_first().unwrap().1);
    let (_, mut other) = view().exports.pop_first().unwrap();
    Arc::make_mut(&mut other).replay = true;
    let bodies: [(&[u8], Option<&str>); 6] = [
        // No ports; a port twice; a name that is none; nothing at all; a critical field of a later version.
        (b"\x01\x05a/bad", Some("a/bad")),
        (
            b"\x01\x05a/bad\x03\x0c\x05\x03\x01\x09\x05\x00\x05\x03\x01\x09\x05\x00\x05\x00",
            Some("a/bad"),
        ),
        (b"\x01\x05A/BAD\x03\x00\x05\x00", None),
        (b"", None),
        (b"\x01\x05a/bad\x03\x00\x05\x00\x07\x00", Some("a/bad")),
        (b"\x01\x05a/bad\x03\x00\x05\xff", Some("a/bad")),
    ];
    for (body, named) in bodies {
        let mut replica = begun();
        let bad = "a/bad".parse::<ServiceName>().unwrap();
        replica.apply(StateMessage::Export(bad.clone(), other.clone())).unwrap();
        replica.apply(StateMessage::Node("b1".parse().unwrap(), vec![])).unwrap();
        let mut bytes = BytesMut::from(&raw(7, body)[..]);
        good.encode(&mut bytes);
        StateMessage::NodeGone("b1".parse().unwrap()).encode(&mut bytes);
        StateMessage::Mark { sequence: 9, age_ms: 0, lost: false }.encode(&mut bytes);
        let (mut rest, mut marked) = (&bytes[..], None);
        while let Some((heard, taken)) = ReceivedMessage::decode(rest).unwrap() {
            rest = &rest[taken..];
            marked = replica.receive(heard.unwrap()).unwrap().or(marked);
        }
        let MarkedView { view, omitted, .. } = marked.unwrap();
        assert!(view.exports.contains_key(&"a/good".parse().unwrap()) && view.nodes.is_empty());
        assert_eq!(view.exports.contains_key(&bad), named.is_none(), "what it was is forgotten");
        assert_eq!(omitted.count(), 1);
        let key = named.map(|name| RecordKey::Export(name.parse().unwrap()));
        assert_eq!(omitted.iter().next().map(|(key, _)| key.clone()), key, "{omitted}");
        assert!(replica.position().is_some(), "all the rest is known");
        // Told well it is heard.
        replica.apply(StateMessage::Export(bad.clone(), other.clone())).unwrap();
        assert_eq!(mark(&mut replica).omitted.count(), u64::from(named.is_none()));
    }
    // What is not framed, and what all the rest depends on, ends the stream.
    assert!(ReceivedMessage::decode(&raw(13, b"")).is_err());
    assert!(ReceivedMessage::decode(&raw(21, b"")).is_err());
    assert!(
        ViewReplica::default()
            .receive(ReceivedMessage::Invalid(None, WireError::Truncated))
            .is_err()
    );
}

#[test]
fn a_change_copies_what_is_beside_it_and_shares_the_rest() {
    let mut replica = begun();
    let (_, export) = view().exports.pop_first().unwrap();
    let service = |n: usize| -> ServiceName { format!("a/b{n:05}").parse().unwrap() };
    (0..MAX_EXPORTS)
        .for_each(|n| drop(replica.apply(StateMessage::Export(service(n), export.clone()))));
    (0..1000).for_each(|n| {
        drop(replica.apply(StateMessage::Node(format!("n{n:04}").parse().unwrap(), vec![])));
    });
    let mut before = mark(&mut replica).view;
    for n in 0..100 {
        replica.apply(StateMessage::ExportGone(service(100 * n))).unwrap();
        let now = mark(&mut replica).view;
        assert!(now.nodes.is_same(&before.nodes));
        let own = now.exports.own_entries(&before.exports);
        assert!(own <= 64, "{own} of {} entries were copied", now.exports.len());
        before = now;
    }
    // The same again is no change.
    replica.apply(StateMessage::Export(service(1), Arc::new(PeerExport::clone(&export)))).unwrap();
    assert!(Arc::ptr_eq(&mark(&mut replica).view, &before));
}

#[test]
fn what_records_have_in_common_is_held_once() {
    let mut replica = begun();
    let (_, mut export) = view().exports.pop_first().unwrap();
    let node = |n: usize| format!("node-{n:03}").parse().unwrap();
    let made = Arc::make_mut(&mut export);
    made.ports = (0..50)
        .map(|n| {
            let name = format!("p{n}").parse().unwrap();
            let ready = (0..100).map(|n| (node(n), 1)).collect();
            PeerPort { name, ready, ..made.ports[0].clone() }
        })
        .collect();
    let again = made.grants[0].clone();
    made.grants.extend(vec![again; 400]);
    let mut bytes = BytesMut::new();
    (0..100).for_each(|n| StateMessage::Node(node(n), vec![]).encode(&mut bytes));
    for n in 0..3 {
        StateMessage::Export(format!("a/b{n}").parse().unwrap(), export.clone()).encode(&mut bytes);
    }
    let mut rest = &bytes[..];
    while let Some((heard, taken)) = ReceivedMessage::decode(rest).unwrap() {
        rest = &rest[taken..];
        replica.receive(heard.unwrap()).unwrap();
    }
    let ClusterView { nodes, exports } = &*mark(&mut replica).view;
    let first = &exports.values().next().unwrap().ports[0].ready;
    let (name, _) = first.iter().next().unwrap();
    let (known, _) = nodes.first_key_value().unwrap();
    assert!(std::ptr::eq(name.as_str(), known.as_str()), "one name");
    for export in exports.values() {
        assert_eq!(export.grants.len(), 1, "a grant that is said again grants nothing more");
        assert!(export.ports.iter().all(|p| p.ready.is_same(first)), "one list of counts");
    }
}

#[test]
fn a_record_takes_little_more_in_memory_than_on_the_wire() {
    let (_, mut export) = view().exports.pop_first().unwrap();
    let export = Arc::make_mut(&mut export);
    let service: ServiceName = "a/b".parse().unwrap();
    let letters = || (b'a'..=b'z').map(|c| char::from(c).to_string());
    let pairs: Vec<String> =
        letters().flat_map(|a| letters().map(move |b| a.clone() + &b)).collect();
    let port =
        PeerPort { app_protocol: None, ready: ReadyCounts::default(), ..export.ports[0].clone() };
    let any = WorkloadPattern { namespace: Pattern::Any, service_account: Pattern::Any };
    let by_namespace = |n: &String| WorkloadPattern {
        namespace: Pattern::Exact(n.parse().unwrap()),
        service_account: Pattern::Any,
    };
    let named = |n: &String| PeerPort { name: n.parse().unwrap(), ..port.clone() };
    let busy =
        PeerPort { ready: pairs.iter().map(|n| (n.parse().unwrap(), 1)).collect(), ..port.clone() };
    let cases: [(&str, Vec<PeerPort>, Vec<WorkloadPattern>); 4] = [
        ("one grant again and again", vec![port.clone()], vec![any.clone(); 500]),
        ("short grants", vec![port.clone()], pairs.iter().take(500).map(by_namespace).collect()),
        ("short ports", pairs.iter().take(100).map(named).collect(), vec![any.clone()]),
        ("nodes", vec![busy], vec![any]),
    ];
    for (what, ports, grants) in cases {
        (export.ports, export.grants) = (ports, grants);
        let mut bytes = BytesMut::new();
        StateMessage::Export(service.clone(), Arc::new(export.clone())).encode(&mut bytes);
        let message = StateMessage::decode(&bytes).unwrap().unwrap().0;
        let Some(StateMessage::Export(_, read)) = message else { panic!("{message:?}") };
        let times = memory_size::export(&service, &read) as f64 / bytes.len() as f64;
        assert!((1.0..16.0).contains(&times) || read.grants.len() == 1, "{what}: {times} times");
        assert!(times < 16.0, "{what}: {times} times");
    }
}
