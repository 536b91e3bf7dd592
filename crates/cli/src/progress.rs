//! Progress of a command that waits: one line that is rewritten on a terminal, plain lines in a pipe.
//!
//! On standard error, so that standard output has results alone.

use std::io::{IsTerminal, Write, stderr};

use adit_core::text::escape;
use comfy_table::Table;
use tokio::time::Instant;

/// Columns of a terminal that does not say how many it has.
const DEFAULT_COLUMNS: usize = 80;

/// The progress of one command.
#[derive(Debug)]
pub(crate) struct ProgressLine {
    /// Columns of the terminal; `None` if it is none.
    columns: Option<usize>,
    began: Instant,
    /// The text that was told last.
    last: String,
}

impl ProgressLine {
    /// Begins, with the time from now on.
    pub(crate) fn start() -> Self {
        let columns = || Table::new().width().map_or(DEFAULT_COLUMNS, usize::from);
        let columns = stderr().is_terminal().then(columns);
        Self { columns, began: Instant::now(), last: String::new() }
    }

    /// Tells what is waited for; nothing, if nothing is any more. In a pipe only what is new.
    pub(crate) fn tell(&mut self, waiting: &[String]) {
        let text = escape(&waiting.join("; ")).to_string();
        let line = line(&text, &self.last, self.began.elapsed().as_secs(), self.columns);
        let mut out = stderr().lock();
        // A terminal that is gone hears nothing more, and the work goes on.
        drop(out.write_all(line.as_bytes()).and_then(|()| out.flush()));
        self.last = text;
    }
}

/// Returns the text to be written. On a terminal it fits one line, since one that wraps cannot be rewritten.
fn line(text: &str, last: &str, seconds: u64, columns: Option<usize>) -> String {
    match (columns, text.is_empty()) {
        (Some(_), true) if last.is_empty() => String::new(),
        (Some(_), true) => "\r\x1b[K".to_owned(),
        (Some(columns), false) => {
            let whole = format!("waiting, {seconds} s: {text}");
            let fits: String = whole.chars().take(columns.saturating_sub(1)).collect();
            format!("\r\x1b[K{fits}")
        }
        (None, false) if text != last => format!("waiting, {seconds} s: {text}\n"),
        (None, _) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_gets_a_line_for_each_change_and_a_terminal_the_time() {
        let (pipe, terminal) = (None, Some(20));
        assert_eq!(line("nodes 0/1", "", 0, pipe), "waiting, 0 s: nodes 0/1\n");
        assert_eq!(line("nodes 0/1", "nodes 0/1", 1, pipe), "");
        assert_eq!(line("", "nodes 0/1", 2, pipe), "");
        assert_eq!(line("nodes 0/1", "nodes 0/1", 1, Some(80)), "\r\x1b[Kwaiting, 1 s: nodes 0/1");
        assert_eq!(line("nodes 0/1", "", 1, terminal), "\r\x1b[Kwaiting, 1 s: nodes");
        assert_eq!(line("", "nodes 0/1", 2, terminal), "\r\x1b[K");
        assert_eq!(line("", "", 2, terminal), "");
    }
}
