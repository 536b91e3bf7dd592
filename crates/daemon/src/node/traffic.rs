//! Traffic in the status document, made from the data path's counts.

use std::collections::BTreeMap;

use adit_dataplane::backends::BackendHealth;
use adit_dataplane::flow::{Direction, Flows, TargetTotals};

use crate::status::build::Traffic;
use crate::status::{ActiveSource, Reason, StreamCounts, StreamSummary};

/// All of it, now.
pub(super) fn traffic(flows: &Flows, backends: &BackendHealth) -> Traffic {
    let mut all =
        Traffic { streams: summary(flows), refusals: flows.refusals(), ..Traffic::default() };
    for ((direction, target, _), group) in flows.groups() {
        let streams = match direction {
            Direction::Outbound => all.outbound.entry(target).or_default(),
            Direction::Inbound => all.inbound.entry(target).or_default(),
        };
        add(streams, direction, group);
    }
    for ((service, source), streams) in flows.users() {
        // Until peers prove workloads, only the peer's cluster is proved of what it says.
        let using =
            ActiveSource { source: source.to_string(), asserted: true, streams: streams as u64 };
        all.using.entry(service).or_default().push(using);
    }
    for (backend, outcome) in backends.last_dials() {
        let reason = match outcome {
            Ok(()) => Reason { code: String::new(), sentence: "answered".into() },
            Err(failure) => Reason::new(failure.code, failure.reason),
        };
        all.dials.insert(backend, reason);
    }
    all
}

fn summary(flows: &Flows) -> StreamSummary {
    let mut by_code = BTreeMap::new();
    for ((_, code), count) in flows.ended() {
        *by_code.entry(code.to_string()).or_default() += count;
    }
    StreamSummary { open: flows.open() as u64, by_code }
}

/// Adds the flows of one peer cluster. Bytes are told as the opener of the connection sees them.
fn add(streams: &mut StreamCounts, direction: Direction, group: TargetTotals) {
    let (out, back) = match direction {
        Direction::Outbound => (group.bytes_sent, group.bytes_received),
        Direction::Inbound => (group.bytes_received, group.bytes_sent),
    };
    streams.open += group.open;
    streams.total += group.open + group.ended;
    streams.refused += group.refused;
    streams.refused_in_a_row += group.refused_in_a_row;
    streams.failed += group.failed;
    streams.hops += group.hops;
    streams.bytes_out += out;
    streams.bytes_in += back;
    if let Some((code, sentence)) = group.last_failure {
        let sentence = if sentence.is_empty() { code.text().to_owned() } else { sentence };
        streams.last_failure = Some(Reason::new(code, sentence));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use adit_core::code::Code;

    #[test]
    fn bytes_are_told_as_the_opener_sees_them() {
        let group = || TargetTotals {
            open: 1,
            ended: 5,
            refused: 2,
            refused_in_a_row: 1,
            failed: 1,
            bytes_sent: 10,
            bytes_received: 20,
            hops: 3,
            last_failure: Some((Code::NoBackend, String::new())),
        };
        let (mut out, mut back) = (StreamCounts::default(), StreamCounts::default());
        add(&mut out, Direction::Outbound, group());
        add(&mut back, Direction::Inbound, group());
        add(&mut back, Direction::Inbound, group());
        assert_eq!((out.bytes_out, out.bytes_in, out.total), (10, 20, 6));
        assert_eq!((back.bytes_out, back.bytes_in, back.total, back.hops), (40, 20, 12, 6));
        assert_eq!(out.last_failure.unwrap().sentence, Code::NoBackend.text());
    }
}
