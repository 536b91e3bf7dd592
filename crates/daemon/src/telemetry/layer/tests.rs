//! Real events as lines, with hostile values among them.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use adit_core::text::is_hostile;
use tracing_subscriber::Registry;
use tracing_subscriber::layer::SubscriberExt;

use super::*;
use crate::telemetry::format::LineStyle;

#[derive(Clone, Default)]
struct LogBuffer(Arc<Mutex<Vec<u8>>>);

impl Write for LogBuffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The lines that `act` logs, without the time stamps.
fn logged(render: LineStyle, act: impl FnOnce()) -> Vec<String> {
    let buffer = LogBuffer::default();
    let sink = LogSink::start(buffer.clone(), |n| format!("{n} dropped")).unwrap();
    let subscriber =
        Registry::default().with(LogLayer::new(CurrentStyle::new(render), sink.clone()));
    tracing::subscriber::with_default(subscriber, act);
    sink.flush(Duration::from_secs(30));
    let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn text(act: impl FnOnce()) -> Vec<String> {
    let lines = logged(LineStyle::Text { colour: false }, act);
    lines.into_iter().map(|l| l.split_once(' ').unwrap().1.to_owned()).collect()
}

fn json(act: impl FnOnce()) -> Vec<serde_json::Value> {
    logged(LineStyle::Json, act).iter().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn a_finished_stream() {
    tracing::info!(
        target: "adit::stream",
        direction = "outbound",
        source = "trustusbank-bank-agents/support-bot@edge",
        target = "trustusbank-bank-agents/fraud-bot:http",
        peer_cluster = "bank",
        peer_node = "b1",
        code = "finished",
        refused = false,
        bytes_out = 350_u64,
        bytes_in = 12_345_u64,
        duration_ms = 41_u64,
        hop = true,
        retries = 2_u64,
        flow = 7_u64,
    );
}

fn a_refused_stream() {
    tracing::warn!(
        target: "adit::stream",
        direction = "inbound",
        source = "other/thief@edge",
        asserted = true,
        target = "trustusbank-bank-agents/triage-bot:http",
        code = "denied",
        refused = true,
        reason = "no grant lets other/thief@edge use it",
        bytes_out = 0_u64,
        bytes_in = 0_u64,
        hop = false,
        retries = 0_u64,
        duration_ms = 0_u64,
    );
}

#[test]
fn a_stream_is_one_line_for_people() {
    assert_eq!(
        text(|| {
            a_finished_stream();
            a_refused_stream();
            tracing::warn!(target: "adit::stream", direction = "outbound", address = "10.0.0.9:4", code = "source-unknown", refused = true);
        }),
        [
            "INFO  outbound trustusbank-bank-agents/support-bot@edge → trustusbank-bank-agents/fraud-bot:http via bank/b1: finished; with an extra hop; after 2 refusals; 350 B sent, 12 KiB received in 41 ms flow=7",
            "WARN  inbound other/thief@edge (asserted) → trustusbank-bank-agents/triage-bot:http: refused, denied: no grant lets other/thief@edge use it in 0 ms",
            "WARN  outbound 10.0.0.9:4 → unknown target: refused, source-unknown",
        ]
    );
}

#[test]
fn a_stream_is_one_flat_object_for_machines() {
    let lines = json(a_finished_stream);
    let line = lines[0].as_object().unwrap();
    assert_eq!(line["module"], "adit::stream");
    assert_eq!(line["target"], "trustusbank-bank-agents/fraud-bot:http");
    assert_eq!((line["bytes_in"].as_u64(), line["duration_ms"].as_u64()), (Some(12_345), Some(41)));
    assert_eq!(line["refused"], false);
    assert!(line["time"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn spans_lend_their_fields_and_never_override() {
    let act = || {
        let outer =
            tracing::info_span!("connection", peer = "bank/b1", lane = tracing::field::Empty);
        outer.record("lane", "bulk");
        let _outer = outer.entered();
        let _inner = tracing::info_span!("stream", peer = "inner").entered();
        tracing::info!(level = "taken", "link is {}", "up");
    };
    assert_eq!(text(act), ["INFO  link is up level=taken peer=inner lane=bulk"]);
    let line = &json(act)[0];
    assert_eq!((&line["level"], &line["field_level"]), (&"info".into(), &"taken".into()));
}

#[test]
fn a_thousand_hostile_names_never_reach_a_log_raw() {
    for n in 0..1000_u32 {
        let hostile: String = (0..8_u32)
            .filter_map(|i| char::from_u32((n * 37 + i * 131) % 0x2100))
            .chain(['\n', '\u{1b}', '\u{9b}', '\u{202e}', '"', '\\'])
            .collect();
        let act = || {
            tracing::info!(peer = %hostile, why = ?hostile, bytes = hostile.as_str(), "from {hostile}");
            tracing::info!(target: "adit::stream", direction = "inbound", source = %hostile, target = %hostile, peer_cluster = %hostile, peer_node = %hostile, backend = %hostile, code = %hostile, reason = %hostile);
        };
        for lines in [logged(LineStyle::Text { colour: false }, act), logged(LineStyle::Json, act)]
        {
            assert_eq!(lines.len(), 2, "a name made a line of its own: {lines:?}");
            assert!(!lines.concat().chars().any(is_hostile), "{lines:?}");
        }
        assert_eq!(json(act)[0]["peer"], hostile.as_str(), "and JSON keeps what was said");
    }
}

#[test]
fn values_have_a_bound() {
    struct Endless;
    impl fmt::Debug for Endless {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            loop {
                f.write_str("éé")?;
            }
        }
    }
    let long = "é".repeat(1_000_000);
    let line = &json(|| tracing::info!(long, endless = ?Endless))[0];
    for name in ["long", "endless"] {
        let value = line[name].as_str().unwrap();
        assert_eq!(value.chars().count(), MAX_VALUE + 1);
        assert!(value.ends_with('…'));
    }
}
