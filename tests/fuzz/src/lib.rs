//! Properties that hold for any bytes: one function for each format that somebody else writes.
//!
//! A function panics where its property is broken. `fuzz_targets/` hands them what libFuzzer invents, and the
//! workspace's test `corpus.rs` what an earlier run found worth keeping, so that it needs no fuzzer.
//!
//! Three properties are common to all codecs of the wire. Decoding never panics and never takes more than it
//! was given. What was decoded is the same after it was encoded and decoded again. A message that lacks its
//! last byte is incomplete or refused, and never another message: data that arrives in pieces means the same.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;

use adit_core::spiffe::SpiffeId;
use adit_core::wire::WireError;
use adit_core::wire::control::ControlMessage;
use adit_core::wire::credit::StreamCredit;
use adit_core::wire::header::{StreamAnswer, StreamHeader};
use adit_core::wire::join::JoinMessage;
use adit_core::wire::report::{NodeReport, ReportQuestion};
use adit_core::wire::state::{MAX_EXPORTS, MAX_NODES, ReceivedMessage, StateMessage, ViewReplica};
use bytes::BytesMut;

/// The header of a data stream, and its answer.
pub fn header(input: &[u8]) {
    framed(input, StreamHeader::decode, StreamHeader::encode);
    framed(input, StreamAnswer::decode, StreamAnswer::encode);
}

/// Messages of the control stream, and of the one that grants windows.
pub fn control(input: &[u8]) {
    framed_or_skipped(input, ControlMessage::decode, ControlMessage::encode);
    framed_or_skipped(input, StreamCredit::decode, |grant, out| grant.encode(out));
}

/// Messages of the state stream one by one, and as a subscriber hears them: one after the other.
pub fn state(input: &[u8]) {
    framed_or_skipped(input, StateMessage::decode, StateMessage::encode);
    let (mut replica, mut rest) = (ViewReplica::default(), input);
    while let Ok(Some((heard, taken))) = ReceivedMessage::decode(rest) {
        rest = &rest[taken..];
        let Some(heard) = heard else { continue };
        let Ok(marked) = replica.receive(heard) else { return };
        if let Some(marked) = marked {
            assert!(marked.view.nodes.len() <= MAX_NODES);
            assert!(marked.view.exports.len() <= MAX_EXPORTS);
        }
    }
}

/// A node's report to its own controller, and the controller's question; each takes the whole stream.
pub fn report(input: &[u8]) {
    if let Ok(question) = ReportQuestion::decode(input) {
        assert_eq!(ReportQuestion::decode(&question.encode()), Ok(question));
    }
    if let Ok(report) = NodeReport::decode(input) {
        assert_eq!(NodeReport::decode(&report.encode()), Ok(report));
    }
}

/// Messages of a connection that joins by invitation.
pub fn join(input: &[u8]) {
    let decode = |input: &[u8]| {
        let mut rest = input;
        let message = JoinMessage::decode(&mut rest)?;
        Ok(message.map(|message| (message, input.len() - rest.len())))
    };
    framed(input, decode, |message, out| out.extend_from_slice(&message.encode()));
}

/// SPIFFE IDs, as certificates carry them.
pub fn spiffe(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(id) = text.parse::<SpiffeId>() else { return };
    assert_eq!(id.as_str(), text, "an ID is kept as it was written");
    assert!(text.ends_with(id.path()) && text.contains(id.trust_domain().as_str()));
    drop(id.role());
}

/// A node's file, and the same text as a fragment of a ConfigMap.
pub fn config(input: &[u8]) {
    let report = match adit_config::parse(input, Path::new("adit.yaml")) {
        Ok((_, report)) => {
            assert!(report.errors().next().is_none(), "a configuration in force has no errors");
            report
        }
        Err(report) => {
            assert!(report.errors().next().is_some(), "a refusal says why: {report:?}");
            report
        }
    };
    printable(&report.to_string());
    let Ok(text) = String::from_utf8(input.to_vec()) else { return };
    match adit_config::parse_cluster(&BTreeMap::from([("fuzz.yaml".to_owned(), text)])) {
        Ok((_, report)) => assert!(report.errors().next().is_none()),
        Err(report) => {
            assert!(report.unnamed || report.errors().next().is_some(), "{report:?}");
            printable(&report.to_string());
        }
    }
}

/// Checks a message about hostile input: it goes to a terminal, where it has to be harmless.
fn printable(text: &str) {
    let control = text.chars().find(|c| c.is_control() && *c != '\n');
    assert_eq!(control, None, "a control character in {text:?}");
}

fn framed<T: PartialEq + Debug>(
    input: &[u8],
    decode: impl Fn(&[u8]) -> Result<Option<(T, usize)>, WireError>,
    encode: impl Fn(&T, &mut BytesMut),
) {
    framed_or_skipped(input, |i| Ok(decode(i)?.map(|(t, taken)| (Some(t), taken))), encode);
}

/// The properties of a codec whose reader may skip a message.
fn framed_or_skipped<T: PartialEq + Debug>(
    input: &[u8],
    decode: impl Fn(&[u8]) -> Result<Option<(Option<T>, usize)>, WireError>,
    encode: impl Fn(&T, &mut BytesMut),
) {
    let Ok(Some((message, taken))) = decode(input) else { return };
    assert!((1..=input.len()).contains(&taken));
    assert_eq!(decode(&input[..taken]), decode(input), "what follows a message changes it");
    assert_eq!(decode(&input[..taken - 1]), Ok(None), "it lacks a byte and was read all the same");
    if let Some(message) = message {
        let mut again = BytesMut::new();
        encode(&message, &mut again);
        let length = again.len();
        assert_eq!(decode(&again), Ok(Some((Some(message), length))));
    }
}
