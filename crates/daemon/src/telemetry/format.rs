//! From a record to its line, in the style of the moment.

use std::sync::Arc;

use adit_runtime::Mutex;

use super::record::LogRecord;
use super::{json, text};

/// The style of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LineStyle {
    Text { colour: bool },
    Json,
}

/// The style of the next line. Cheap to clone; all clones change together.
#[derive(Debug, Clone)]
pub(super) struct CurrentStyle(Arc<Mutex<LineStyle>>);

impl CurrentStyle {
    pub(super) fn new(style: LineStyle) -> Self {
        Self(Arc::new(style.into()))
    }

    pub(super) fn get(&self) -> LineStyle {
        *self.0.lock()
    }

    pub(super) fn set(&self, style: LineStyle) {
        *self.0.lock() = style;
    }
}

/// The line of a record, its newline included.
pub(super) fn line(style: LineStyle, record: &LogRecord) -> String {
    match style {
        LineStyle::Text { colour } => text::line(record, colour),
        LineStyle::Json => json::line(record),
    }
}
