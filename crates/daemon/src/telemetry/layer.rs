//! From tracing's events to lines: collects fields, adds those of the spans around, hands over the line.
//!
//! Values are kept as what they are (numbers stay numbers in JSON); strings are bounded here and escaped by
//! whoever renders them.
//!
//! `tracing_subscriber::fmt` is no substitute: it keeps a span's fields as text that is formatted already, so that a
//! number of a span could not stay one, and a field of an event could not hide the same field of its span.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::format::{CurrentStyle, line};
use super::record::{FieldValue, LogRecord};
use super::sink::LogSink;

/// The most characters of one value; a longer one is cut and marked.
const MAX_VALUE: usize = 2048;

/// The layer.
#[derive(Debug)]
pub(super) struct LogLayer {
    style: CurrentStyle,
    sink: LogSink,
}

impl LogLayer {
    pub(super) fn new(style: CurrentStyle, sink: LogSink) -> Self {
        Self { style, sink }
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
        let module = fields.log_target.unwrap_or_else(|| metadata.target().to_owned());
        let message = fields.message.unwrap_or_default();
        let record = LogRecord::now(*metadata.level(), module, message, fields.values);
        self.sink.line(line(self.style.get(), &record));
    }
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
