//! The terminal while a page is live: a screen of its own, which is given back however the command ends.

use std::io::{Write, stdout};

use crate::status::tables::Style;

/// The size that is taken if the terminal does not tell: columns and lines.
const DEFAULT_SIZE: (u16, u16) = (80, 24);
/// Another screen, no cursor; and back.
const OPEN: &str = "\u{1b}[?1049h\u{1b}[?25l";
const CLOSE: &str = "\u{1b}[?25h\u{1b}[?1049l";
/// To the first line; the rest of a line away; the rest of the screen away.
const HOME: &str = "\u{1b}[H";
const CLEAR_LINE: &str = "\u{1b}[K";
const CLEAR_BELOW: &str = "\u{1b}[J";

/// A screen; the one before comes back when it is dropped.
#[derive(Debug)]
pub(super) struct Screen(());

impl Screen {
    pub(super) fn open() -> std::io::Result<Self> {
        let mut out = stdout().lock();
        // From here on it is given back.
        let screen = Self(());
        write!(out, "{OPEN}").and_then(|()| out.flush())?;
        Ok(screen)
    }

    /// Shows the lines that `page` has for this style and number of lines.
    pub(super) fn draw(
        &mut self,
        page: impl FnOnce(Style, usize) -> Vec<String>,
    ) -> std::io::Result<()> {
        let (width, height) = size();
        let style = Style { width: Some(width), ..Style::for_output(&stdout()) };
        let lines = page(style, usize::from(height));
        let mut frame = HOME.to_owned();
        for (nth, line) in lines.iter().take(usize::from(height)).enumerate() {
            // No end of line after the last: the screen would move.
            frame += if nth > 0 { "\r\n" } else { "" };
            frame += line;
            frame += CLEAR_LINE;
        }
        frame += CLEAR_BELOW;
        let mut out = stdout().lock();
        out.write_all(frame.as_bytes()).and_then(|()| out.flush())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut out = stdout().lock();
        // If nobody is there any more, there is nothing to give back.
        write!(out, "{CLOSE}").and_then(|()| out.flush()).ok();
    }
}

fn size() -> (u16, u16) {
    let size = rustix::termios::tcgetwinsize(stdout()).ok();
    let told = size.map(|size| (size.ws_col, size.ws_row));
    told.filter(|(width, height)| *width > 0 && *height > 0).unwrap_or(DEFAULT_SIZE)
}
