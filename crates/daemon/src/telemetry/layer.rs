//! From tracing's events to lines: collects fields, adds those of the spans around, hands over the line.
//!
//! Values are kept as what they are (numbers stay numbers in JSON); strings are bounded here and escaped by
//! whoever renders them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::sink::LogSink;
use super::{json, text};

/// The most characters of one value; a longer one is cut and marked.
const MAX_VALUE: usize = 2048;

/// The style of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LineStyle {
    Text { colour: bool },
    Json,
}

/// The style of the next line. Cheap to clone; all clones change together.
#[derive(Debug, Clone)]
pub(super) struct CurrentStyle(Arc<AtomicU8>);

impl CurrentStyle {
    const ALL: [LineStyle; 3] =
        [LineStyle::Text { colour: false }, LineStyle::Text { colour: true }, LineStyle::Json];

    pub(super) fn new(render: LineStyle) -> Self {
        let current = Self(Arc::default());
        current.set(render);
        current
    }

    pub(super) fn get(&self) -> LineStyle {
        let nth = usize::from(self.0.load(Ordering::Relaxed));
        Self::ALL.get(nth).copied().unwrap_or(LineStyle::Json)
    }

    pub(super) fn set(&self, render: LineStyle) {
        let nth = Self::ALL.iter().zip(0..).find(|(known, _)| **known == render);
        self.0.store(nth.map_or(0, |(_, nth)| nth), Ordering::Relaxed);
    }
}

/// A record to be logged: the event, its time and its place.
#[derive(Debug)]
pub(super) struct LogRecord {
    /// Since the Unix epoch.
    pub(super) at: Duration,
    pub(super) level: Level,
    /// The event's target: the module, or a fixed name such as [`super::STREAM`].
    pub(super) module: String,
    pub(super) message: String,
    pub(super) fields: Vec<(&'static str, FieldValue)>,
}

/// The value of a field.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum FieldValue {
    Text(String),
    Signed(i128),
    Unsigned(u128),
    Float(f64),
    Bool(bool),
}

impl fmt::Display for FieldValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(s) => f.write_str(s),
            Self::Signed(n) => n.fmt(f),
            Self::Unsigned(n) => n.fmt(f),
            Self::Float(x) => x.fmt(f),
            Self::Bool(b) => b.fmt(f),
        }
    }
}

/// The layer.
#[derive(Debug)]
pub(super) struct LogLayer {
    render: CurrentStyle,
    sink: LogSink,
}

impl LogLayer {
    pub(super) fn new(render: CurrentStyle, sink: LogSink) -> Self {
        Self { render, sink }
    }
}

impl<S> Layer<S> for LogLayer
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = RecordFields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, record: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<RecordFields>()
        {
            record.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = RecordFields::default();
        event.record(&mut fields);
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(outer) = span.extensions().get::<RecordFields>() {
                fields.add_missing(outer);
            }
        }
        let metadata = event.metadata();
        let entry = LogRecord {
            at: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            level: *metadata.level(),
            module: fields.log_target.unwrap_or_else(|| metadata.target().to_owned()),
            message: fields.message.unwrap_or_default(),
            fields: fields.values,
        };
        self.sink.line(line(self.render.get(), &entry));
    }
}

fn line(render: LineStyle, entry: &LogRecord) -> String {
    match render {
        LineStyle::Text { colour } => text::line(entry, colour),
        LineStyle::Json => json::line(entry),
    }
}

/// A line of a process that ends, whatever the level of the log is.
pub(super) fn final_line(
    render: LineStyle,
    module: &str,
    message: &str,
    fields: Vec<(&'static str, FieldValue)>,
) -> String {
    let (module, message) = (module.to_owned(), message.to_owned());
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    line(render, &LogRecord { at, level: Level::ERROR, module, message, fields })
}

/// The line that tells how many lines are missing.
pub(super) fn dropped(render: LineStyle, count: u64) -> String {
    let entry = LogRecord {
        at: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        level: Level::WARN,
        module: module_path!().to_owned(),
        message: "log lines were dropped: whoever reads the log is slower than it is written"
            .into(),
        fields: vec![("count", FieldValue::Unsigned(count.into()))],
    };
    line(render, &entry)
}

/// The fields of a span or an event.
#[derive(Debug, Default)]
struct RecordFields {
    message: Option<String>,
    /// The true target of a record that came through the `log` crate.
    log_target: Option<String>,
    values: Vec<(&'static str, FieldValue)>,
}

impl RecordFields {
    fn put(&mut self, field: &Field, value: FieldValue) {
        match (field.name(), value) {
            ("message", value) => self.message = Some(value.to_string()),
            ("log.target", value) => self.log_target = Some(value.to_string()),
            ("log.module_path" | "log.file" | "log.line", _) => {}
            (name, value) => match self.values.iter_mut().find(|(n, _)| *n == name) {
                Some((_, old)) => *old = value,
                None => self.values.push((name, value)),
            },
        }
    }

    /// Takes what the span around has and this one lacks.
    fn add_missing(&mut self, outer: &Self) {
        for (name, value) in &outer.values {
            if !self.values.iter().any(|(n, _)| n == name) {
                self.values.push((name, value.clone()));
            }
        }
    }
}

impl Visit for RecordFields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut bounded = BoundedText { text: String::new(), left: MAX_VALUE };
        // Fails only when the bound is reached, which the text then shows.
        if fmt::write(&mut bounded, format_args!("{value:?}")).is_err() {
            bounded.text.push('…');
        }
        self.put(field, FieldValue::Text(bounded.text));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let text = match value.char_indices().nth(MAX_VALUE) {
            Some((end, _)) => format!("{}…", &value[..end]),
            None => value.to_owned(),
        };
        self.put(field, FieldValue::Text(text));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, FieldValue::Signed(value.into()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, FieldValue::Unsigned(value.into()));
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.put(field, FieldValue::Signed(value));
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.put(field, FieldValue::Unsigned(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, FieldValue::Float(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, FieldValue::Bool(value));
    }
}

/// Stops a `Debug` that would write without end.
struct BoundedText {
    text: String,
    left: usize,
}

impl fmt::Write for BoundedText {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let count = s.chars().count();
        if count <= self.left {
            self.left -= count;
            self.text.push_str(s);
            return Ok(());
        }
        self.text.extend(s.chars().take(self.left));
        self.left = 0;
        Err(fmt::Error)
    }
}

#[cfg(test)]
mod tests;
