//! The log: set up once per process, read by people on a terminal and by machines elsewhere.
//!
//! Owns the level (changed while running), the choice of text or JSON, and the promise that no control
//! byte of a peer's string reaches a log: every value passes [`escape`](mod@escape) on its way out, so no
//! call site can forget it. Writing never holds up a task of the data path ([`sink`]).
//!
//! * [`layer`] collects an event's fields; [`text`] and [`json`] render them.
//! * One finished or refused stream is one event of target [`STREAM`] with fixed field names; [`text`]
//!   has a line of its own for it.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

pub mod escape;
mod json;
mod layer;
mod sink;
mod text;

/// The tracing target of the one event that each finished or refused stream leaves.
///
/// Its fields, all optional except `direction` and `code`: `direction` (`outbound`, `inbound`), `source`
/// (`NAMESPACE/ACCOUNT@CLUSTER`), `asserted` (true while the source is only asserted by the peer),
/// `address` (the client's), `target` (`NAMESPACE/SERVICE:PORT`), `peer_cluster`, `peer_node`, `backend`,
/// `code` (a name of the closed list), `refused` (true where nothing was delivered), `reason` (a
/// sentence), `bytes_in` and `bytes_out` (as the opener of the connection sees them), `duration_ms`, `hop`
/// (true where another node than the backend's was entered), `retries` (nodes or backends that refused
/// before), `flow` (joins the lines of both sides).
pub const STREAM: &str = "adit::stream";

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
    render: layer::CurrentStyle,
    level: Arc<std::sync::Mutex<String>>,
    sink: sink::LogSink,
}

impl ProcessLog {
    /// Sets up the log of this process, which goes to standard error.
    ///
    /// # Errors
    /// Where `level` is not one, or a log is already set up.
    pub fn init(level: &str, format: LineFormat) -> Result<Self, InitError> {
        let render = layer::CurrentStyle::new(render(format));
        let (filter, handle) = reload::Layer::new(parse(level)?);
        let now = render.clone();
        let sink = sink::LogSink::start(std::io::stderr(), move |n| layer::dropped(now.get(), n))?;
        Registry::default()
            .with(filter)
            .with(layer::LogLayer::new(render.clone(), sink.clone()))
            .try_init()
            .map_err(|_| InitError::AlreadySet)?;
        Ok(Self { filter: handle, render, level: Arc::new(level.to_owned().into()), sink })
    }

    /// Changes how lines look from now on.
    pub fn set_format(&self, format: LineFormat) {
        self.render.set(render(format));
    }

    /// Says why the process ends, in the format of the log and whatever its level: `text` where people read it, a
    /// line for each of `errors` where machines do.
    pub fn fatal(&self, text: &str, errors: impl IntoIterator<Item = FatalError>) {
        let render = self.render.get();
        if let layer::LineStyle::Text { .. } = render {
            return self.sink.line(format!("{text}\n"));
        }
        for FatalError { message, key, hint } in errors {
            let fields = [("key", key), ("hint", hint)];
            let fields = fields.into_iter();
            let fields =
                fields.filter_map(|(name, value)| Some((name, layer::FieldValue::Text(value?))));
            self.sink.line(layer::final_line(render, module_path!(), &message, fields.collect()));
        }
    }

    /// Changes the level of the running process.
    ///
    /// # Errors
    /// Where `level` is not one; the old one stays.
    pub fn set_level(&self, level: &str) -> Result<(), LevelError> {
        let filter = parse(level)?;
        let refused = |e: reload::Error| LevelError { value: level.into(), why: e.to_string() };
        self.filter.reload(filter).map_err(refused)?;
        *self.level.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = level.to_owned();
        Ok(())
    }

    /// The level now, as it was written.
    #[must_use]
    pub fn level(&self) -> String {
        self.level.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
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
fn render(format: LineFormat) -> layer::LineStyle {
    let terminal = std::io::stderr().is_terminal();
    match (format, terminal) {
        (LineFormat::Text, _) | (LineFormat::Auto, true) => {
            let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
            layer::LineStyle::Text { colour }
        }
        (LineFormat::Json, _) | (LineFormat::Auto, false) => layer::LineStyle::Json,
    }
}

/// Libraries' warnings that tell an operator nothing: single datagrams without a route, by the hundred and
/// without a name, where links say it; and tokens of a peer that dialled before we started again, which then
/// dials without one.
const QUIET: &str = "quinn_udp=error,quinn_proto::bloom_token_log=error";

pub(crate) fn parse(level: &str) -> Result<EnvFilter, LevelError> {
    let error = |why: String| LevelError { value: escape::text(level).into_owned(), why };
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
