//! What happens when a task panics: it is logged, counted, and that task alone ends.

use std::panic::{self, PanicHookInfo};

/// Logs and counts every panic of this process from now on, instead of printing it.
pub(super) fn install() {
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
