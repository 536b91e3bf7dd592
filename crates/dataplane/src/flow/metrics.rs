//! Metrics of flows. Labels are closed lists, services of the configuration and clusters of its links: neither a
//! peer nor a workload can add a series by naming something new.

use std::collections::BTreeMap;
use std::time::Duration;

use adit_core::code::Code;
use adit_runtime::Mutex;
use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};

use super::direction::Direction;

const BYTES: &str = "adit_stream_bytes_total";
const OPEN: &str = "adit_streams_open";
const ENDED: &str = "adit_streams_ended_total";
const PROBES: &str = "adit_probes_total";
const SECONDS: &str = "adit_stream_seconds";
/// The time that the answer to a stream took: from a millisecond or less to the longest wait for a backend.
pub const ANSWER_SECONDS: &str = "adit_stream_answer_seconds";
/// The time that a backend took to accept: in the same range.
pub const DIAL_SECONDS: &str = "adit_backend_dial_seconds";
const FIRST_BYTE_SECONDS: &str = "adit_stream_first_byte_seconds";
const HALF_OPEN: &str = "adit_streams_half_open";
const REFUSED: &str = "adit_streams_refused_total";

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
    describe_counter!(
        PROBES,
        Unit::Count,
        "Questions of `adit doctor` what would become of a stream, asked by this node or answered here, by code; they are no streams"
    );
    describe_histogram!(SECONDS, Unit::Seconds, "How long streams lasted, refused ones too");
    describe_histogram!(
        ANSWER_SECONDS,
        Unit::Seconds,
        "How long streams that were taken waited for it: outbound from the accept to the peer's answer, inbound from the stream's arrival to the backend's accept"
    );
    describe_histogram!(
        DIAL_SECONDS,
        Unit::Seconds,
        "How long backends took to accept a connection for a stream of the cluster"
    );
    describe_histogram!(
        FIRST_BYTE_SECONDS,
        Unit::Seconds,
        "How long streams waited for the first byte of the answer: outbound from the accept, inbound from the stream's arrival; with what their sources took to ask"
    );
    describe_gauge!(HALF_OPEN, Unit::Count, "Streams open now of which one way has ended");
    describe_counter!(
        REFUSED,
        Unit::Count,
        "Streams to services of the configuration that were refused, by code and source: NAMESPACE/ACCOUNT of this cluster's own callers, other beyond the bound, empty where it is not known and for callers of the other cluster"
    );
}

/// Has what counts no service begin at 0, each code included.
pub(crate) fn begin() {
    for direction in [Direction::Outbound, Direction::Inbound] {
        open(direction).increment(0.0);
        half_open(direction).increment(0.0);
        for code in Code::ALL {
            ended(direction, *code, "", "").increment(0);
        }
        counter!(PROBES, "direction" => direction.name(), "code" => Code::Finished.name(), "link" => "").increment(0);
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

fn bytes(direction: Direction, way: &'static str, service: &str, link: &str) -> Counter {
    let (service, link) = (service.to_owned(), link.to_owned());
    counter!(BYTES, "direction" => direction.name(), "way" => way, "service" => service, "link" => link)
}

fn ended(direction: Direction, code: Code, service: &str, link: &str) -> Counter {
    let (service, link) = (service.to_owned(), link.to_owned());
    counter!(ENDED, "direction" => direction.name(), "code" => code.name(), "service" => service, "link" => link)
}

fn open(direction: Direction) -> Gauge {
    gauge!(OPEN, "direction" => direction.name())
}

fn half_open(direction: Direction) -> Gauge {
    gauge!(HALF_OPEN, "direction" => direction.name())
}

fn dialled(link: &str) -> Histogram {
    histogram!(DIAL_SECONDS, "link" => link.to_owned())
}

/// The time to the first byte of the answer, of flows with a cluster.
pub(super) fn first_byte(direction: Direction, link: &str) -> Histogram {
    histogram!(FIRST_BYTE_SECONDS, "direction" => direction.name(), "link" => link.to_owned())
}

/// The count of refusals of a source, as it is labelled, to a service of the configuration.
pub(super) fn refused(
    direction: Direction,
    service: &str,
    link: &str,
    (source, code): (&str, Code),
) -> Counter {
    let (service, link, source) = (service.to_owned(), link.to_owned(), source.to_owned());
    counter!(REFUSED, "direction" => direction.name(), "code" => code.name(), "service" => service, "link" => link, "source" => source)
}

fn answered(direction: Direction, link: &str) -> Histogram {
    histogram!(ANSWER_SECONDS, "direction" => direction.name(), "link" => link.to_owned())
}

/// Counts the end of a flow that was for no service of the configuration.
pub(super) fn ended_unnamed(direction: Direction, code: Code, link: &str) {
    ended(direction, code, "", link).increment(1);
}

/// Counts the end of a flow that only asked.
pub(super) fn probe_ended(direction: Direction, code: Code, link: &str) {
    let link = link.to_owned();
    counter!(PROBES, "direction" => direction.name(), "code" => code.name(), "link" => link)
        .increment(1);
}

/// Records how long a flow waited whose target is not counted by name.
pub(super) fn answered_unnamed(direction: Direction, link: &str, waited: Duration) {
    answered(direction, link).record(waited.as_secs_f64());
}

/// Metrics of all flows of one direction. To look a series up costs more than to count in it, so each of
/// these is looked up once.
#[derive(Debug)]
pub(super) struct DirectionMetrics {
    pub(super) open: Gauge,
    pub(super) half_open: Gauge,
    lasted: Histogram,
    /// Bytes of flows whose target is not known.
    pub(super) sent: Counter,
    pub(super) received: Counter,
}

impl DirectionMetrics {
    pub(super) fn new(direction: Direction) -> Self {
        Self {
            open: open(direction),
            half_open: half_open(direction),
            lasted: histogram!(SECONDS, "direction" => direction.name()),
            sent: bytes(direction, "sent", "", ""),
            received: bytes(direction, "received", "", ""),
        }
    }

    pub(super) fn lasted(&self, duration: Duration) {
        self.lasted.record(duration.as_secs_f64());
    }
}

/// Metrics of the flows of one target of the configuration with one linked cluster.
#[derive(Debug)]
pub(super) struct TargetMetrics {
    direction: Direction,
    service: String,
    link: String,
    pub(super) sent: Counter,
    pub(super) received: Counter,
    answered: Histogram,
    pub(super) first_byte: Histogram,
    pub(super) dialled: Histogram,
    /// By code, those that have happened.
    ended: Mutex<BTreeMap<Code, Counter>>,
}

impl TargetMetrics {
    pub(super) fn new(direction: Direction, service: String, link: &str) -> Self {
        Self {
            sent: bytes(direction, "sent", &service, link),
            received: bytes(direction, "received", &service, link),
            answered: answered(direction, link),
            first_byte: first_byte(direction, link),
            // Only where streams come in are backends dialled.
            dialled: match direction {
                Direction::Inbound => dialled(link),
                Direction::Outbound => Histogram::noop(),
            },
            ended: Mutex::default(),
            direction,
            service,
            link: link.to_owned(),
        }
    }

    pub(super) fn answered(&self, waited: Duration) {
        self.answered.record(waited.as_secs_f64());
    }

    /// Counts an end. Codes are a closed list: one that only a peer knows is to be told as one.
    pub(super) fn ended(&self, code: Code) {
        let mut ended = self.ended.lock();
        let count = ended
            .entry(code)
            .or_insert_with(|| self::ended(self.direction, code, &self.service, &self.link));
        count.increment(1);
    }
}
