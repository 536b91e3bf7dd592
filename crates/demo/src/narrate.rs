//! The demo's output: numbered steps, facts in columns, a mark for each thing that was checked.
//!
//! It says only what it is given; numbers are formatted here and measured elsewhere. Colour is the
//! caller's decision, since only the caller knows whether a person is looking.

use std::fmt;
use std::io::Write;
use std::time::Duration;

/// Writes the story.
pub(crate) struct Narrator {
    out: Box<dyn Write + Send>,
    colour: bool,
    step: u32,
    title: &'static str,
}

/// The width of a fact's label.
const LABEL: usize = 11;

impl Narrator {
    pub(crate) fn new(out: Box<dyn Write + Send>, colour: bool) -> Self {
        Self { out, colour, step: 0, title: "" }
    }

    /// Begins the next step.
    pub(crate) fn step(&mut self, title: &'static str) {
        self.step += 1;
        self.title = title;
        let number = format!("{:>2}", self.step);
        self.line(format_args!(
            "\n{} {}",
            self.paint(Paint::Dim, &number),
            self.paint(Paint::Bold, title)
        ));
    }

    /// The number and title of the step that is under way.
    pub(crate) fn under_way(&self) -> (u32, &'static str) {
        (self.step, self.title)
    }

    /// Something that is so.
    pub(crate) fn fact(&mut self, label: &str, text: impl fmt::Display) {
        let label = format!("{label:<LABEL$}");
        self.line(format_args!("     {} {text}", self.paint(Paint::Dim, &label)));
    }

    /// Something that was checked and holds.
    pub(crate) fn holds(&mut self, text: impl fmt::Display) {
        self.line(format_args!("   {} {text}", self.paint(Paint::Green, "✓")));
    }

    /// A line as it is.
    pub(crate) fn plain(&mut self, text: impl fmt::Display) {
        self.line(format_args!("{text}"));
    }

    fn paint<'a>(&self, paint: Paint, text: &'a str) -> Painted<'a> {
        Painted { code: self.colour.then_some(paint), text }
    }

    fn line(&mut self, text: fmt::Arguments<'_>) {
        // Whoever closed our output no longer listens; the checks go on and the exit status tells.
        writeln!(self.out, "{text}").and_then(|()| self.out.flush()).ok();
    }
}

impl fmt::Debug for Narrator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Narrator").field("step", &self.step).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy)]
enum Paint {
    Bold,
    Dim,
    Green,
}

struct Painted<'a> {
    code: Option<Paint>,
    text: &'a str,
}

impl fmt::Display for Painted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(code) = self.code else { return f.write_str(self.text) };
        let sgr = match code {
            Paint::Bold => "1",
            Paint::Dim => "2",
            Paint::Green => "32",
        };
        write!(f, "\x1b[{sgr}m{}\x1b[0m", self.text)
    }
}

/// A measured time, with as many digits as mean something.
pub(crate) struct ShownDuration(pub(crate) Duration);

impl fmt::Display for ShownDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_secs_f64() * 1e3;
        match ms {
            1000.0.. => write!(f, "{:.2} s", ms / 1e3),
            10.0.. => write!(f, "{ms:.0} ms"),
            1.0.. => write!(f, "{ms:.1} ms"),
            _ => write!(f, "{ms:.2} ms"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct SharedBuffer(Arc<Mutex<Vec<u8>>>);

    impl Write for SharedBuffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn told(colour: bool) -> String {
        let page = SharedBuffer::default();
        let mut narrator = Narrator::new(Box::new(page.clone()), colour);
        narrator.step("First");
        narrator.fact("e1", "ready");
        narrator.holds("good");
        narrator.step("Second");
        narrator.plain("over");
        assert_eq!(narrator.under_way(), (2, "Second"));
        String::from_utf8(page.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn steps_are_numbered_and_colour_is_asked_for() {
        assert_eq!(
            told(false),
            "\n 1 First\n     e1          ready\n   ✓ good\n\n 2 Second\nover\n"
        );
        assert!(told(true).contains("\x1b[32m✓\x1b[0m good"));
    }

    #[test]
    fn times_have_few_digits() {
        let took = |us| ShownDuration(Duration::from_micros(us)).to_string();
        assert_eq!([took(840), took(1_240), took(12_400)], ["0.84 ms", "1.2 ms", "12 ms"]);
        assert_eq!(took(1_236_000), "1.24 s");
    }
}
