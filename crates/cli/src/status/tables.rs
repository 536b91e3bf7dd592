//! Style of tables: aligned columns without lines, as wide as the terminal, coloured only on one.

use std::io::IsTerminal;
use std::os::fd::AsFd;

use adit_core::text::escape;
use comfy_table::{Cell, CellAlignment, Color, ContentArrangement, Table, presets};
use owo_colors::{AnsiColors, OwoColorize};

/// Abilities of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Style {
    /// Columns of the terminal; `None` if lines need not fit.
    pub(crate) width: Option<u16>,
    /// True if colours are shown.
    pub(crate) colour: bool,
}

impl Style {
    /// Returns the style for `out`.
    pub(crate) fn for_output(out: &(impl IsTerminal + AsFd)) -> Self {
        let width = out.is_terminal().then(|| Table::new().width()).flatten();
        Self { width, colour: super::wants_colour(out) }
    }

    /// Returns a word with a meaning, for a line that is no table.
    pub(crate) fn paint(self, word: &str, meaning: CellStyle) -> String {
        let colour = match meaning {
            CellStyle::Good => AnsiColors::Green,
            CellStyle::Doubtful => AnsiColors::Yellow,
            CellStyle::Bad => AnsiColors::Red,
            CellStyle::Plain => return word.to_owned(),
        };
        if self.colour { word.color(colour).to_string() } else { word.to_owned() }
    }
}

/// Meaning of a cell, shown by its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CellStyle {
    Good,
    Doubtful,
    Bad,
    Plain,
}

impl CellStyle {
    pub(crate) const fn colour(self) -> Option<Color> {
        match self {
            Self::Good => Some(Color::Green),
            Self::Doubtful => Some(Color::Yellow),
            Self::Bad => Some(Color::Red),
            Self::Plain => None,
        }
    }
}

/// Returns a cell of text that may come from anywhere.
pub(crate) fn cell(text: impl AsRef<str>) -> Cell {
    // Line breaks are wanted within a cell, and come from us alone.
    let lines: Vec<_> = text.as_ref().split('\n').map(escape).collect();
    Cell::new(lines.join("\n"))
}

/// Returns a cell with a number or a size: aligned right.
pub(crate) fn number(text: impl ToString) -> Cell {
    Cell::new(text.to_string()).set_alignment(CellAlignment::Right)
}

/// Returns a cell with a meaning.
pub(crate) fn styled_cell(text: impl AsRef<str>, mood: CellStyle) -> Cell {
    let cell = cell(text);
    match mood.colour() {
        Some(colour) => cell.fg(colour),
        None => cell,
    }
}

/// Returns a table with these headings, rows to be added.
pub(crate) fn table(style: Style, headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if !headings.is_empty() {
        table.set_header(headings.iter().map(Cell::new).collect::<Vec<_>>());
    }
    match style.width {
        Some(width) => {
            // Less the indentation.
            table.set_width(width.saturating_sub(1).max(20));
            table.set_content_arrangement(ContentArrangement::Dynamic);
        }
        None => {
            table.set_content_arrangement(ContentArrangement::Disabled);
        }
    }
    if style.colour {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table
}

/// Returns the table as lines, indented by two, without trailing blanks.
pub(crate) fn text(table: &Table) -> String {
    // Each line begins with the padding of its first cell.
    table.lines().map(|line| format!(" {line}").trim_end().to_owned() + "\n").collect()
}
