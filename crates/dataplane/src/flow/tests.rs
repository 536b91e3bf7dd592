//! Counts of flows, and the look-ups that they cost.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::*;
use crate::capacity::StreamCapacity;

/// A recorder whose gauges and histograms can be read, by name; their labels are not told apart. It counts how often a
/// series is looked up.
#[derive(Default)]
struct ReadableRecorder {
    look_ups: AtomicU64,
    gauges: Mutex<HashMap<String, Arc<AtomicU64>>>,
    histograms: Mutex<HashMap<String, Arc<Recorded>>>,
}

#[derive(Default)]
struct Recorded(Mutex<Vec<f64>>);

impl ::metrics::HistogramFn for Recorded {
    fn record(&self, value: f64) {
        self.0.lock().unwrap().push(value);
    }
}

impl ReadableRecorder {
    fn gauge(&self, name: &str) -> f64 {
        f64::from_bits(self.gauges.lock().unwrap()[name].load(Relaxed))
    }

    fn histogram(&self, name: &str) -> Vec<f64> {
        self.histograms.lock().unwrap()[name].0.lock().unwrap().clone()
    }
}

impl ::metrics::Recorder for ReadableRecorder {
    fn describe_counter(
        &self,
        _: ::metrics::KeyName,
        _: Option<::metrics::Unit>,
        _: ::metrics::SharedString,
    ) {
    }
    fn describe_gauge(
        &self,
        _: ::metrics::KeyName,
        _: Option<::metrics::Unit>,
        _: ::metrics::SharedString,
    ) {
    }
    fn describe_histogram(
        &self,
        _: ::metrics::KeyName,
        _: Option<::metrics::Unit>,
        _: ::metrics::SharedString,
    ) {
    }
    fn register_counter(
        &self,
        _: &::metrics::Key,
        _: &::metrics::Metadata<'_>,
    ) -> ::metrics::Counter {
        self.look_ups.fetch_add(1, Relaxed);
        ::metrics::Counter::noop()
    }
    fn register_gauge(
        &self,
        key: &::metrics::Key,
        _: &::metrics::Metadata<'_>,
    ) -> ::metrics::Gauge {
        self.look_ups.fetch_add(1, Relaxed);
        let mut gauges = self.gauges.lock().unwrap();
        ::metrics::Gauge::from_arc(gauges.entry(key.name().to_owned()).or_default().clone())
    }
    fn register_histogram(
        &self,
        key: &::metrics::Key,
        _: &::metrics::Metadata<'_>,
    ) -> ::metrics::Histogram {
        self.look_ups.fetch_add(1, Relaxed);
        let mut histograms = self.histograms.lock().unwrap();
        ::metrics::Histogram::from_arc(histograms.entry(key.name().to_owned()).or_default().clone())
    }
}

#[test]
fn a_flow_looks_no_series_up_that_another_of_its_target_has_found() {
    let recorder = ReadableRecorder::default();
    let target =
        Target { service: "agents/fraud-bot".parse().unwrap(), port: "http".parse().unwrap() };
    ::metrics::with_local_recorder(&recorder, || {
        let flows = Flows::new(StreamCapacity { all: 9 });
        let look_ups = |direction: Direction| {
            let before = recorder.look_ups.load(Relaxed);
            let mut flow = flows.begin(direction, [0; 16]);
            flow.attribute_to_target(&target, &"bank".parse().unwrap());
            flow.answered();
            flow.count_sent(1);
            flow.end(Ok(()));
            recorder.look_ups.load(Relaxed) - before
        };
        for direction in [Direction::Outbound, Direction::Inbound] {
            assert!(look_ups(direction) > 0);
            assert_eq!(look_ups(direction), 0, "{direction:?}");
        }
    });
}

fn fraud_bot() -> Target {
    Target { service: "agents/fraud-bot".parse().unwrap(), port: "http".parse().unwrap() }
}

#[tokio::test(start_paused = true)]
async fn the_first_byte_of_the_answer_is_timed_once_and_that_of_the_question_is_not() {
    let recorder = ReadableRecorder::default();
    // A local recorder holds for this thread, on which all of this runs.
    let _guard = ::metrics::set_default_local_recorder(&recorder);
    let flows = Flows::new(StreamCapacity { all: 9 });
    let seconds = async |n| tokio::time::advance(Duration::from_secs(n)).await;
    for direction in [Direction::Outbound, Direction::Inbound] {
        let mut flow = flows.begin(direction, [0; 16]);
        flow.attribute_to_target(&fraud_bot(), &"bank".parse().unwrap());
        seconds(1).await;
        flow.dialled(Duration::from_millis(125));
        flow.answered();
        let count = |is_answer: bool, bytes| match (direction, is_answer) {
            (Direction::Outbound, true) | (Direction::Inbound, false) => flow.count_received(bytes),
            (Direction::Outbound, false) | (Direction::Inbound, true) => flow.count_sent(bytes),
        };
        count(false, 7);
        count(true, 0);
        for _ in 0..3 {
            seconds(2).await;
            count(true, 5);
        }
        flow.end(Ok(()));
    }
    assert_eq!(recorder.histogram("adit_stream_first_byte_seconds"), [3.0, 3.0]);
    assert_eq!(recorder.histogram("adit_stream_answer_seconds"), [1.0, 1.0]);
    assert_eq!(recorder.histogram("adit_backend_dial_seconds"), [0.125], "of the exporting side");
}

#[test]
fn a_flow_is_half_open_between_the_ends_of_its_ways_and_never_after_its_own() {
    let recorder = ReadableRecorder::default();
    ::metrics::with_local_recorder(&recorder, || {
        let flows = Flows::new(StreamCapacity { all: 9 });
        let half_open = || recorder.gauge("adit_streams_half_open");
        let (whole, broken) = [(); 2].map(|()| flows.begin(Direction::Outbound, [0; 16])).into();
        whole.count_ended_way();
        broken.count_ended_way();
        assert_eq!(half_open(), 2.0);
        whole.count_ended_way();
        assert_eq!(half_open(), 1.0);
        whole.end(Ok(()));
        broken.end(Err(Code::ConnectionLost.into()));
        assert_eq!(half_open(), 0.0);
    });
}

#[test]
fn refusals_are_counted_until_one_is_taken() {
    let flows = Flows::new(StreamCapacity { all: 9 });
    let target =
        Target { service: "agents/fraud-bot".parse().unwrap(), port: "http".parse().unwrap() };
    let end = |end: Result<(), Code>| {
        let mut flow = flows.begin(Direction::Outbound, [0; 16]);
        flow.attribute_to_target(&target, &"bank".parse().unwrap());
        if end != Err(Code::Denied) && end != Err(Code::NoBackend) {
            flow.answered();
        }
        flow.end(end.map_err(FlowFailure::from));
        flows.groups().values().next().unwrap().refused_in_a_row
    };
    assert_eq!(end(Err(Code::Denied)), 1);
    assert_eq!(end(Err(Code::NoBackend)), 2);
    assert_eq!(end(Err(Code::BackendReset)), 0, "it had been taken");
    assert_eq!(end(Err(Code::Denied)), 1);
    assert_eq!(end(Ok(())), 0);
}

#[test]
fn what_was_refused_is_told_until_somebody_is_served_whatever_numbers_a_peer_invents() {
    let flows = Flows::new(StreamCapacity { all: 9 });
    let target =
        Target { service: "agents/fraud-bot".parse().unwrap(), port: "http".parse().unwrap() };
    let end = |code: Code, is_answered: bool| {
        let mut flow = flows.begin(Direction::Outbound, [0; 16]);
        flow.attribute_to_target(&target, &"bank".parse().unwrap());
        if is_answered {
            flow.answered();
        }
        flow.end(if code == Code::Finished { Ok(()) } else { Err(code.into()) });
        let told = flows.refusals().0.into_iter().map(|series| (series.code, series.count));
        let in_a_row = flows.groups().values().next().unwrap().refused_in_a_row;
        (told.collect::<Vec<_>>(), in_a_row)
    };
    let denied = (Code::Denied, 1);
    assert_eq!(end(Code::Denied, false), (vec![denied], 1));
    assert_eq!(end(Code::SourceReset, false), (vec![denied], 1), "its caller had no patience");
    for nth in 1..=100 {
        let invented = (Code::Unknown(0), nth);
        let told = end(Code::Unknown(1000 + nth), false);
        let in_a_row = told.1;
        assert_eq!(told.0.len(), 2, "all invented numbers are one");
        assert!(told.0.contains(&invented) && told.0.contains(&denied), "{told:?}");
        assert_eq!(in_a_row, 1 + nth);
    }
    assert_eq!(end(Code::Unknown(7), true), (vec![], 0), "it was taken, and broke later");
}
