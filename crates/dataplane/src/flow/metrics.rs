//! What flows count. Labels are closed lists, services of the configuration and clusters of its links: neither a
//! peer nor a workload can add a series by naming something new.

use std::time::Duration;

use adit_core::code::Code;
use metrics::{
    Counter, Gauge, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};

use super::Direction;

const BYTES: &str = "adit_stream_bytes_total";
const OPEN: &str = "adit_streams_open";
const ENDED: &str = "adit_streams_ended_total";
const SECONDS: &str = "adit_stream_seconds";
/// How long the answer to a stream took: from a millisecond or less to the longest wait for a backend.
pub const ANSWER_SECONDS: &str = "adit_stream_answer_seconds";

/// Describes what flows count to the recorder: once, after it is installed.
pub(crate) fn describe() {
    describe_counter!(
        BYTES,
        Unit::Bytes,
        "Bytes carried, by direction and way: sent is from local workloads to peers"
    );
    describe_gauge!(OPEN, Unit::Count, "Streams open now");
    describe_counter!(
        ENDED,
        Unit::Count,
        "Streams that ended or were refused, by code; without a service where none of the configuration was meant"
    );
    describe_histogram!(SECONDS, Unit::Seconds, "How long streams lasted, refused ones too");
    describe_histogram!(
        ANSWER_SECONDS,
        Unit::Seconds,
        "How long streams that were taken waited for it: outbound from the accept to the peer's answer, inbound from the stream's arrival to the backend's accept"
    );
}

/// Has what counts no service begin at 0, each code included.
pub(crate) fn begin() {
    for direction in [Direction::Outbound, Direction::Inbound] {
        open(direction).increment(0.0);
        for code in Code::ALL {
            ended(direction, *code, "", "").increment(0);
        }
        for way in ["sent", "received"] {
            bytes(direction, way, "", "").increment(0);
        }
    }
}

/// Has what counts a service of the configuration begin at 0. Of the codes only `finished` does: each of them for
/// each service would be forty series instead of those that happen.
pub fn begin_service(direction: Direction, service: &str, link: &str) {
    ended(direction, Code::Finished, service, link).increment(0);
    for way in ["sent", "received"] {
        bytes(direction, way, service, link).increment(0);
    }
}

pub(super) fn bytes(direction: Direction, way: &'static str, service: &str, link: &str) -> Counter {
    let (service, link) = (service.to_owned(), link.to_owned());
    counter!(BYTES, "direction" => direction.name(), "way" => way, "service" => service, "link" => link)
}

pub(super) fn ended(direction: Direction, code: Code, service: &str, link: &str) -> Counter {
    let (service, link) = (service.to_owned(), link.to_owned());
    counter!(ENDED, "direction" => direction.name(), "code" => code.name(), "service" => service, "link" => link)
}

pub(super) fn open(direction: Direction) -> Gauge {
    gauge!(OPEN, "direction" => direction.name())
}

pub(super) fn lasted(direction: Direction, duration: Duration) {
    histogram!(SECONDS, "direction" => direction.name()).record(duration.as_secs_f64());
}

pub(super) fn answered(direction: Direction, link: &str, waited: Duration) {
    histogram!(ANSWER_SECONDS, "direction" => direction.name(), "link" => link.to_owned())
        .record(waited.as_secs_f64());
}
