//! METRICS.md says what the code says, and the page is what Prometheus reads.

use std::collections::BTreeMap;
use std::sync::Mutex;

use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, with_local_recorder,
};

use super::*;
use crate::status::{Export, Grant, Import, ImportPort, Link, LinkHealth};

/// Notes what is described: name → (type, unit, sentence).
#[derive(Default)]
struct DescribedMetrics(Mutex<BTreeMap<String, (String, String, String)>>);

impl DescribedMetrics {
    fn note(&self, kind: &str, name: &KeyName, unit: Option<Unit>, help: &SharedString) {
        let unit = unit.map_or("", |u| u.as_str()).to_owned();
        let row = (kind.to_owned(), unit, help.to_string());
        let old = self.0.lock().unwrap().insert(name.as_str().to_owned(), row);
        assert_eq!(old, None, "{} is described twice", name.as_str());
    }
}

impl Recorder for DescribedMetrics {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.note("counter", &name, unit, &help);
    }

    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.note("gauge", &name, unit, &help);
    }

    fn describe_histogram(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.note("histogram", &name, unit, &help);
    }

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[test]
fn the_table_says_what_the_code_says() {
    let described = DescribedMetrics::default();
    with_local_recorder(&described, describe);
    let mut described = described.0.into_inner().unwrap();
    for family in gauges::ALL {
        let kind = match family.kind {
            page::FamilyKind::Gauge => "gauge",
            page::FamilyKind::Counter => "counter",
        };
        let row = (kind.to_owned(), family.unit.to_owned(), family.help.to_owned());
        let old = described.insert(family.name.to_owned(), row);
        assert_eq!(old, None, "{} is described twice", family.name);
    }

    let table: Vec<Vec<&str>> = include_str!("../../METRICS.md")
        .lines()
        .filter(|l| l.starts_with("| `adit_") || l.starts_with("| `process_"))
        .map(|l| l.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let mut written = BTreeMap::new();
    for row in &table {
        let [name, kind, unit, labels, help] = row[..] else { panic!("not five cells: {row:?}") };
        let name = name.trim_matches('`');
        let unit = if unit == "–" { "" } else { unit };
        let row = (kind.to_owned(), unit.to_owned(), help.to_owned());
        assert_eq!(written.insert(name.to_owned(), row), None, "{name} stands there twice");
        let labels: Vec<&str> =
            labels.split(',').map(|l| l.trim().trim_matches('`')).filter(|l| *l != "–").collect();
        if let Some(family) = gauges::ALL.iter().find(|f| f.name == name) {
            assert_eq!(labels, family.labels, "{name}");
        }
    }
    let names = |rows: &BTreeMap<String, _>| rows.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&written), names(&described), "METRICS.md (left) against the code (right)");
    assert_eq!(written, described, "METRICS.md (left) against the code (right)");
}

#[test]
fn names_tell_their_unit() {
    let described = DescribedMetrics::default();
    with_local_recorder(&described, describe);
    let counted = described.0.into_inner().unwrap();
    let all = counted
        .iter()
        .map(|(name, (kind, unit, _))| (name.as_str(), kind == "counter", unit.as_str()))
        .chain(gauges::ALL.iter().map(|f| (f.name, f.kind == page::FamilyKind::Counter, f.unit)));
    for (name, counter, unit) in all {
        assert!(name.starts_with("adit_") || name.starts_with("process_"), "{name}");
        assert_eq!(name.ends_with("_total"), counter, "{name}");
        let stem = name.trim_end_matches("_total");
        assert_eq!(stem.ends_with("_seconds"), unit == "seconds", "{name} in {unit}");
        assert_eq!(stem.ends_with("_bytes"), unit == "bytes", "{name} in {unit}");
    }
}

#[test]
fn the_page_has_what_was_counted_and_what_is() {
    let metrics = ProcessMetrics::install().unwrap();
    config_read(FileReadOutcome::Rejected);
    panicked();
    let mut status = StatusDocument::default();
    let link = |cluster: &str, state| Link { cluster: cluster.into(), state, ..Link::default() };
    status.links = vec![link("bank", LinkHealth::Degraded), link("shop", LinkHealth::Down)];
    let port = ImportPort {
        name: "http".into(),
        ready: true,
        backends: [("b1".to_owned(), 2), ("b2".to_owned(), 1)].into(),
        ..ImportPort::default()
    };
    let (service, from) = ("a/b".into(), "bank".into());
    status.imports = vec![Import { service, from, ports: vec![port], ..Import::default() }];
    let grant = |cluster: &str| Grant { cluster: cluster.into(), ..Grant::default() };
    let allow = vec![grant("shop"), grant("stranger")];
    status.exports = vec![Export { service: "a/c".into(), allow, ..Export::default() }];
    let page = metrics.render(&status, &ProcessUsage::default(), &ProcessTotals::default());
    for line in [
        "adit_config_reloads_total{outcome=\"rejected\"} 1",
        "# TYPE adit_panics_total counter",
        "adit_panics_total 1",
        "adit_link_up{link=\"bank\"} 1",
        "adit_link_up{link=\"shop\"} 0",
        "adit_handshakes_total{outcome=\"refused-busy\"} 0",
        "adit_import_ready{service=\"a/b\",port=\"http\"} 1",
        "adit_import_backends{service=\"a/b\",port=\"http\"} 3",
        "adit_log_dropped_lines_total 0",
    ] {
        assert!(page.lines().any(|l| l == line), "{line}\n{page}");
    }
    assert!(!page.contains("process_resident_memory_bytes"), "what is not known is absent");
    from_the_start(&page);
    let page = metrics.render(&status, &ProcessUsage::read(), &ProcessTotals::default());
    for name in [
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_open_fds",
        "process_start_time_seconds",
    ] {
        let value = page.lines().find_map(|l| l.strip_prefix(name)?.trim().parse::<f64>().ok());
        assert!(value.is_some_and(|v| v > 0.0), "{name}\n{page}");
    }
    assert!(
        metrics
            .render_controller(&ProcessUsage::read(), Duration::ZERO, true)
            .contains("\nprocess_open_fds "),
        "a controller's too"
    );

    status.links.remove(1);
    let page = metrics.render(&status, &ProcessUsage::default(), &ProcessTotals::default());
    assert!(!page.contains("adit_link_up{link=\"shop\"}"), "no state outlives its link");
    metrics.upkeep();
}

/// Asserts that events which have not happened yet are 0, and that no name appears which no configuration has.
fn from_the_start(page: &str) {
    let is = |line: String| assert!(page.lines().any(|l| l == line), "{line}\n{page}");
    for code in adit_core::code::Code::ALL {
        for direction in ["outbound", "inbound"] {
            is(format!(
                "adit_streams_ended_total{{direction=\"{direction}\",code=\"{code}\",service=\"\",link=\"\"}} 0"
            ));
        }
        is(format!("adit_peers_refused_total{{code=\"{code}\"}} 0"));
        is(format!("adit_dials_total{{link=\"bank\",code=\"{code}\"}} 0"));
    }
    for line in [
        "adit_accept_errors_total 0",
        "adit_config_reloads_total{outcome=\"applied\"} 0",
        "adit_identity_reloads_total{outcome=\"rejected\"} 0",
        "adit_streams_open{direction=\"inbound\"} 0",
        "adit_streams_ended_total{direction=\"outbound\",code=\"finished\",service=\"a/b\",link=\"bank\"} 0",
        "adit_streams_ended_total{direction=\"inbound\",code=\"finished\",service=\"a/c\",link=\"shop\"} 0",
        "adit_stream_bytes_total{direction=\"outbound\",way=\"sent\",service=\"a/b\",link=\"bank\"} 0",
        "adit_state_bytes_total{link=\"bank\",direction=\"received\"} 0",
    ] {
        is(line.to_owned());
    }
    assert!(!page.contains("stranger"), "a cluster without a link");
}
