//! The log of a process, from before its configuration is known to its last lines.

use std::io::{self, Write as _};
use std::time::Duration;

use adit_config::ConfigReport;
use adit_config::config::{LogConfig, LogFormat};

use super::exit::{ProcessExit, StartError};
use crate::telemetry::{FatalError, LineFormat, ProcessLog};

/// Writing the last lines of the log may take this long, from when a process ends.
const LOG_FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Sets up the log as it is until the configuration is known.
pub(crate) fn start_log() -> Result<ProcessLog, String> {
    let first = LogConfig::default();
    ProcessLog::init(first.level.as_str(), line_format(first.format)).map_err(|error| {
        let error = format!("log: {error}");
        // There is no other place for this one.
        writeln!(io::stderr(), "adit: {error}").ok();
        error
    })
}

/// Changes the log to what the configuration wants.
pub(crate) fn set_log(log: &ProcessLog, wanted: &LogConfig) -> Result<(), String> {
    log.set_format(line_format(wanted.format));
    log.set_level(wanted.level.as_str()).map_err(|e| format!("log: {e}"))
}

/// The format of lines that the configuration means.
pub(crate) fn line_format(wanted: LogFormat) -> LineFormat {
    match wanted {
        LogFormat::Auto => LineFormat::Auto,
        LogFormat::Text => LineFormat::Text,
        LogFormat::Json => LineFormat::Json,
    }
}

/// Logs the warnings about a configuration that is taken all the same.
pub(crate) fn log_warnings(reports: &[ConfigReport]) {
    for (report, problem) in reports.iter().flat_map(|r| r.warnings().map(move |p| (r, p))) {
        let (place, hint) = (report.location(problem), problem.hint.as_deref());
        tracing::warn!(key = problem.path, hint, "{place}: {}", problem.message);
    }
}

/// Writes the last lines of a process, which is called `what`, with all errors that it ended on.
pub(crate) fn log_fatal_error(
    log: &ProcessLog,
    what: &str,
    ended: Result<ProcessExit, StartError>,
) -> Result<ProcessExit, StartError> {
    if let Err(error) = &ended {
        let how = if error.had_started() { "ended" } else { "did not start" };
        let end = FatalError { message: format!("the {what} {how}"), ..FatalError::default() };
        let text = format!("{error}\nadit: the {what} {how}");
        log.fatal(&text, error.errors().into_iter().chain([end]));
    }
    log.flush(LOG_FLUSH_TIMEOUT);
    ended
}
