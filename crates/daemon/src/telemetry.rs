//! The log: set up once per process, read by people on a terminal and by machines elsewhere.
//!
//! Owns the level (changed while running), the choice of text or JSON, and the promise that no control
//! byte of a peer's string reaches a log: every value passes [`escape`] on its way out, so no
//! call site can forget it. Writing never holds up a task of the data path ([`sink`]).
//!
//! * [`layer`] makes a [`record`] of an event and its spans; [`mod@format`] writes its line by way of [`text`] or [`json`].
//! * One finished or refused stream is one event of target [`STREAM`] with fixed field names; [`text`]
//!   has a line of its own for it.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use adit_core::text::escape;
use adit_runtime::Mutex;
use tracing::Level;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

use self::format::{CurrentStyle, LineStyle, line};
pub use self::record::STREAM;
use self::record::{FieldValue, LogRecord};

mod format;
mod json;
mod layer;
mod record;
mod sink;
mod text;

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LineFormat {
    /// Text when the log is a terminal, JSON otherwise.
    #[default]
    Auto,
    /// For people.
    Text,
    /// A JSON object on each line.
    Json,
}

/// An error on which a process ends.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FatalError {
    /// The sentence, with its place.
    pub message: String,
    /// The key of the configuration that it is about, if it is about one.
    pub key: Option<String>,
    /// Tells what to do about it.
    pub hint: Option<String>,
}

/// Why a log level was not taken.
#[derive(Debug, thiserror::Error)]
#[error(
    "{value:?} is not a log level: {why}; write error, warn, info, debug or trace, or TARGET=LEVEL pairs joined by commas, such as info,adit_transport=debug"
)]
pub struct LevelError {
    value: String,
    why: String,
}

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The level is not one.
    #[error(transparent)]
    Level(#[from] LevelError),
    /// Somebody else has set up a log in this process.
    #[error("the log is already set up in this process")]
    AlreadySet,
    /// The thread that writes lines could not be started.
    #[error("cannot start the thread that writes the log: {0}")]
    Thread(#[from] std::io::Error),
}

/// The process's log. Cheap to clone; lives as long as the process.
#[derive(Debug, Clone)]
pub struct ProcessLog {
    filter: reload::Handle<EnvFilter, Registry>,
    style: CurrentStyle,
    level: Arc<Mutex<String>>,
    sink: sink::LogSink,
}

impl ProcessLog {
    /// Sets up the log of this process, which goes to standard error.
    ///
    /// # Errors
    /// If `level` is not one, or a log is already set up.
    pub fn init(level: &str, format: LineFormat) -> Result<Self, InitError> {
        let style = CurrentStyle::new(line_style(format));
        let (filter, handle) = reload::Layer::new(parse(level)?);
        let now = style.clone();
        let sink = sink::LogSink::start(std::io::stderr(), move |n| dropped_line(now.get(), n))?;
        Registry::default()
            .with(filter)
            .with(layer::LogLayer::new(style.clone(), sink.clone()))
            .try_init()
            .map_err(|_| InitError::AlreadySet)?;
        Ok(Self { filter: handle, style, level: Arc::new(level.to_owned().into()), sink })
    }

    /// Changes how lines look from now on.
    pub fn set_format(&self, format: LineFormat) {
        self.style.set(line_style(format));
    }

    /// Says why the process ends, in the format of the log and whatever its level: `text` where people read it, a
    /// line for each of `errors` where machines do.
    pub fn fatal(&self, text: &str, errors: impl IntoIterator<Item = FatalError>) {
        let style = self.style.get();
        if let LineStyle::Text { .. } = style {
            return self.sink.line(format!("{text}\n"));
        }
        for FatalError { message, key, hint } in errors {
            let fields = [("key", key), ("hint", hint)];
            let fields = fields.into_iter();
            let fields = fields.filter_map(|(name, value)| Some((name, FieldValue::Text(value?))));
            let record = LogRecord::now(Level::ERROR, module_path!(), message, fields.collect());
            self.sink.line(line(style, &record));
        }
    }

    /// Changes the level of the running process.
    ///
    /// # Errors
    /// If `level` is not one; the old one stays.
    pub fn set_level(&self, level: &str) -> Result<(), LevelError> {
        let filter = parse(level)?;
        let refused = |e: reload::Error| LevelError { value: level.into(), why: e.to_string() };
        self.filter.reload(filter).map_err(refused)?;
        *self.level.lock() = level.to_owned();
        Ok(())
    }

    /// The level now, as it was written.
    #[must_use]
    pub fn level(&self) -> String {
        self.level.lock().clone()
    }

    /// Lines dropped because whoever reads the log was too slow.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.sink.dropped()
    }

    /// Waits until what was logged before is written, at most `limit`: the last act of a process.
    pub fn flush(&self, limit: Duration) {
        self.sink.flush(limit);
    }
}

/// The style of a format's lines on standard error.
fn line_style(format: LineFormat) -> LineStyle {
    let terminal = std::io::stderr().is_terminal();
    match (format, terminal) {
        (LineFormat::Text, _) | (LineFormat::Auto, true) => {
            let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
            LineStyle::Text { colour }
        }
        (LineFormat::Json, _) | (LineFormat::Auto, false) => LineStyle::Json,
    }
}

/// The line that says how many lines are missing.
fn dropped_line(style: LineStyle, count: u64) -> String {
    let message = "log lines were dropped: whoever reads the log is slower than it is written";
    let fields = vec![("count", FieldValue::Unsigned(count.into()))];
    line(style, &LogRecord::now(Level::WARN, module_path!(), message, fields))
}

/// Libraries' warnings that tell an operator nothing: single datagrams without a route, by the hundred and
/// without a name, where links say it; and tokens of a peer that dialled before we started again, which then
/// dials without one.
const QUIET: &str = "quinn_udp=error,quinn_proto::bloom_token_log=error";

pub(crate) fn parse(level: &str) -> Result<EnvFilter, LevelError> {
    let error = |why: String| LevelError { value: escape(level).into_owned(), why };
    if level.trim().is_empty() {
        return Err(error("it is empty".into()));
    }
    // EnvFilter takes any word for a target and would then log nothing at all.
    for word in level.split(',').filter(|d| !d.contains(['=', '['])) {
        if word.trim().parse::<tracing_subscriber::filter::LevelFilter>().is_err() {
            return Err(error(format!("{word:?} is neither a level nor TARGET=LEVEL")));
        }
    }
    EnvFilter::builder().parse(format!("{QUIET},{level}")).map_err(|e| error(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_a_level_or_pairs() {
        for good in ["info", "warn,adit=debug", "adit_transport=trace", "off"] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in ["", "  ", "loud", "info,verbose", "adit=loud", "\u{1b}[31m"] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(error.contains("write error, warn, info"), "{error}");
            assert!(!error.contains('\u{1b}'), "{error}");
        }
    }
}
