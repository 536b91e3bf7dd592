//! Panics: each is logged and counted, and ends its own task alone.

use std::panic::{self, PanicHookInfo};

/// Logs and counts every panic of this process from now on, instead of printing it.
pub(crate) fn install() {
    panic::set_hook(Box::new(hook));
}

fn hook(info: &PanicHookInfo<'_>) {
    crate::metrics::panicked();
    let payload = info.payload();
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text");
    let thread = std::thread::current();
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let backtrace = std::backtrace::Backtrace::capture();
    let captured = backtrace.status() == std::backtrace::BacktraceStatus::Captured;
    tracing::error!(
        thread = thread.name().unwrap_or("unnamed"),
        place,
        backtrace = captured.then(|| tracing::field::display(&backtrace)),
        "a task ended by a panic, which is a bug: {text}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use metrics_exporter_prometheus::PrometheusBuilder;

    /// In a process of its own, because the hook is the process's: this test runs itself again.
    #[test]
    fn a_panic_is_logged_and_counted_and_printed_nowhere_else() {
        const CHILD: &str = "ADIT_TEST_PANICS";
        if std::env::var_os(CHILD).is_none() {
            let test =
                "process::panics::tests::a_panic_is_logged_and_counted_and_printed_nowhere_else";
            let out = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", test, "--nocapture"])
                .env(CHILD, "1")
                .output()
                .unwrap();
            let log = String::from_utf8(out.stderr).unwrap();
            let lines: Vec<_> = log.lines().filter(|l| l.contains("on purpose")).collect();
            assert!(out.status.success() && lines.len() == 1, "{log}");
            let line: serde_json::Value = serde_json::from_str(lines[0]).unwrap();
            assert_eq!(
                line["message"],
                "a task ended by a panic, which is a bug: on purpose\u{1b}"
            );
            assert!(line["place"].as_str().unwrap().contains("panics.rs"));
            return;
        }
        let log =
            crate::telemetry::ProcessLog::init("info", crate::telemetry::LineFormat::Json).unwrap();
        let recorder = PrometheusBuilder::new().build_recorder();
        install();
        metrics::with_local_recorder(&recorder, || {
            panic::catch_unwind(|| panic!("on purpose\u{1b}")).unwrap_err();
        });
        assert!(recorder.handle().render().contains("adit_panics_total 1"));
        log.flush(std::time::Duration::from_secs(10));
    }
}
