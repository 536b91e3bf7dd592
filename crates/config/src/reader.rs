//! Typed access to the YAML tree. It goes on after an error, so that one pass finds all of them.
//!
//! A [`ValueReader`] is a value that knows its path; a [`MapReader`] is a map whose keys are asked for one by
//! one. The keys that were asked for *are* the format: at the end every other key is unknown. A value that is
//! wrong is noted in the [`ProblemSink`] and read as `None`. The keys are in [`crate::sections`].

mod sink;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub(crate) use self::sink::ProblemSink;
use self::sink::UnreadKey;
use crate::problem::{Position, ProblemKind, ProblemSeverity, ValueProblem, quoted};
use crate::source::{FileReference, ReferenceKind};
use crate::tree::{YamlNode, YamlValue};

/// The text and line of an earlier value.
#[derive(Debug, Clone)]
pub(crate) struct ValueOrigin {
    text: String,
    line: u64,
}

impl ValueOrigin {
    /// The place in words, for a reader of `item`: `at line 3`, or `in KEY at line 3` where that is another text.
    pub(crate) fn relative_to(&self, item: &ValueReader<'_>) -> String {
        let Self { text, line } = self;
        if *text == item.sink.name {
            format!("at line {line}")
        } else {
            format!("in {text} at line {line}")
        }
    }
}

/// A value of the file.
#[derive(Debug, Clone)]
pub(crate) struct ValueReader<'a> {
    sink: &'a ProblemSink,
    node: &'a YamlNode,
    path: String,
}

impl<'a> ValueReader<'a> {
    pub(crate) fn root(sink: &'a ProblemSink, node: &'a YamlNode) -> Self {
        Self { sink, node, path: String::new() }
    }

    pub(crate) fn position(&self) -> Position {
        self.node.position
    }

    pub(crate) fn origin(&self) -> ValueOrigin {
        ValueOrigin { text: self.sink.name.clone(), line: self.position().line }
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn error(&self, finding: ValueProblem) {
        self.sink.add(finding.at(ProblemSeverity::Error, &self.path, self.position()));
    }

    pub(crate) fn warn(&self, finding: ValueProblem) {
        self.sink.add(finding.at(ProblemSeverity::Warning, &self.path, self.position()));
    }

    /// Passes a value on, or notes what is wrong with it.
    pub(crate) fn check<T>(&self, result: Result<T, ValueProblem>) -> Option<T> {
        result.map_err(|finding| self.error(finding)).ok()
    }

    fn wrong_type(&self, expected: &str) -> ValueProblem {
        let found = match &self.node.value {
            YamlValue::Empty => {
                return ValueProblem::new(
                    ProblemKind::MissingKey,
                    format!("no value: expected {expected}"),
                );
            }
            YamlValue::Literal(text) => text.clone(),
            YamlValue::Text(text) => quoted(text),
            YamlValue::List(_) => "a list".to_owned(),
            YamlValue::Map(_) => "a map".to_owned(),
        };
        ValueProblem::new(ProblemKind::WrongType, format!("expected {expected}, found {found}"))
    }

    /// Text. What YAML takes for a number or boolean is text where text is wanted.
    pub(crate) fn text(&self) -> Option<&'a str> {
        match &self.node.value {
            YamlValue::Text(text) | YamlValue::Literal(text) => Some(text),
            YamlValue::List(items) => {
                let one =
                    (items.len() == 1).then(|| "leave out the brackets or the dash".to_owned());
                self.error(self.wrong_type("text").hint(one));
                None
            }
            YamlValue::Empty | YamlValue::Map(_) => {
                self.error(self.wrong_type("text"));
                None
            }
        }
    }

    /// Text that `read` understands.
    pub(crate) fn value<T>(&self, read: impl FnOnce(&str) -> Result<T, ValueProblem>) -> Option<T> {
        self.check(read(self.text()?))
    }

    /// A number, which is written without quotes.
    pub(crate) fn number<T>(
        &self,
        read: impl FnOnce(&str) -> Result<T, ValueProblem>,
    ) -> Option<T> {
        match &self.node.value {
            YamlValue::Literal(text) => self.check(read(text)),
            YamlValue::Text(text) => {
                let digits = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
                let hint = digits.then(|| format!("write {text} without quotes"));
                self.error(self.wrong_type("a whole number").hint(hint));
                None
            }
            YamlValue::Empty | YamlValue::List(_) | YamlValue::Map(_) => {
                self.error(self.wrong_type("a whole number"));
                None
            }
        }
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&self) -> Option<bool> {
        let (word, literal) = match &self.node.value {
            YamlValue::Literal(text) => (text.to_lowercase(), true),
            YamlValue::Text(text) => (text.to_lowercase(), false),
            YamlValue::Empty | YamlValue::List(_) | YamlValue::Map(_) => (String::new(), false),
        };
        let meant = match word.as_str() {
            "true" | "yes" | "on" => Some(true),
            "false" | "no" | "off" => Some(false),
            _ => None,
        };
        if literal && meant.is_some() {
            return meant;
        }
        let hint = meant.map(|meant| format!("did you mean {meant} (without quotes)?"));
        self.error(self.wrong_type("true or false").hint(hint));
        None
    }

    /// A path; a relative one begins at `base`.
    pub(crate) fn file(&self, base: &Path) -> Option<PathBuf> {
        self.value(|text| match text {
            "" => Err(ValueProblem::new(ProblemKind::Invalid, "expected a path, found \"\"")),
            text if text.contains(char::is_control) => Err(ValueProblem::new(
                ProblemKind::Invalid,
                format!("{} is not a path: expected no control characters", quoted(text)),
            )),
            text => Ok(base.join(text)),
        })
    }

    /// Remembers that the value refers to `file`.
    pub(crate) fn add_reference(&self, file: &Path, want: ReferenceKind) {
        let (path, position) = (self.path.clone(), self.position());
        let reference = FileReference { path, position, file: file.to_owned(), kind: want };
        self.sink.references.borrow_mut().push(reference);
    }

    /// The entries of a list. A key without a value is an empty list.
    pub(crate) fn list(&self) -> Option<Vec<Self>> {
        match &self.node.value {
            YamlValue::Empty => Some(Vec::new()),
            YamlValue::List(items) => Some(self.entries(items)),
            YamlValue::Literal(text) | YamlValue::Text(text) => {
                let hint = format!("write [{}]", quoted(text));
                self.error(self.wrong_type("a list").hint(hint));
                None
            }
            YamlValue::Map(_) => {
                let hint = "begin each entry with a dash, or put the list in [ ]".to_owned();
                self.error(self.wrong_type("a list").hint(hint));
                None
            }
        }
    }

    /// The entries of a list, or the one value where there is no list.
    pub(crate) fn one_or_more(&self) -> Option<Vec<Self>> {
        match &self.node.value {
            YamlValue::Text(_) | YamlValue::Literal(_) => Some(vec![self.clone()]),
            YamlValue::Empty | YamlValue::List(_) | YamlValue::Map(_) => self.list(),
        }
    }

    fn entries(&self, items: &'a [YamlNode]) -> Vec<Self> {
        let entry = |(n, node)| Self { node, path: format!("{}[{n}]", self.path), ..*self };
        items.iter().enumerate().map(entry).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.node.value == YamlValue::Empty
    }

    pub(crate) fn is_map(&self) -> bool {
        matches!(self.node.value, YamlValue::Map(_))
    }

    /// The keys of a map. A key without a value is an empty map.
    pub(crate) fn fields(&self) -> Option<MapReader<'a>> {
        Some(MapReader { item: self.clone(), known: self.keys()?, asked: Vec::new() })
    }

    /// The keys and values of a map whose keys are not ours to name.
    pub(crate) fn map(&self) -> Option<Vec<(&'a str, Self)>> {
        Some(self.keys()?.into_iter().map(|(key, (_, item))| (key, item)).collect())
    }

    fn keys(&self) -> Option<BTreeMap<&'a str, (Position, Self)>> {
        let entries = match &self.node.value {
            YamlValue::Empty => &[][..],
            YamlValue::Map(entries) => entries,
            YamlValue::List(_) | YamlValue::Literal(_) | YamlValue::Text(_) => {
                self.error(self.wrong_type("a map of keys and values"));
                return None;
            }
        };
        let mut known: BTreeMap<&str, (Position, Self)> = BTreeMap::new();
        for (key, node) in entries {
            let (YamlValue::Text(name) | YamlValue::Literal(name)) = &key.value else {
                let finding = ValueProblem::new(
                    ProblemKind::WrongType,
                    "a key is not text: expected NAME: VALUE",
                );
                self.sink.add(finding.at(ProblemSeverity::Error, &self.path, key.position));
                continue;
            };
            let path = join(&self.path, &printable_key(name));
            if let Some((first, _)) = known.get(name.as_str()) {
                let message = format!("duplicate key: first written at line {}", first.line);
                let finding = ValueProblem::new(ProblemKind::DuplicateKey, message);
                self.sink.add(finding.at(ProblemSeverity::Error, &path, key.position));
            } else {
                known.insert(name, (key.position, Self { sink: self.sink, node, path }));
            }
        }
        Some(known)
    }
}

/// The keys of a map, to be asked for one by one.
#[derive(Debug)]
pub(crate) struct MapReader<'a> {
    item: ValueReader<'a>,
    known: BTreeMap<&'a str, (Position, ValueReader<'a>)>,
    asked: Vec<&'static str>,
}

impl<'a> MapReader<'a> {
    /// A key that may be left out.
    pub(crate) fn optional(&mut self, key: &'static str) -> Option<ValueReader<'a>> {
        self.asked.push(key);
        self.item.sink.asked.borrow_mut().insert((key, without_indices(&self.item.path)));
        self.known.get(key).map(|(_, item)| item.clone())
    }

    /// A key that may not be left out; `expected` says what its value is.
    pub(crate) fn required(
        &mut self,
        key: &'static str,
        expected: &str,
    ) -> Option<ValueReader<'a>> {
        let item = self.optional(key);
        if item.is_none() {
            let finding =
                ValueProblem::new(ProblemKind::MissingKey, format!("missing: expected {expected}"));
            let path = join(&self.item.path, key);
            self.item.sink.add(finding.at(ProblemSeverity::Error, &path, self.item.position()));
        }
        item
    }

    /// A key that may be left out, whose value is itself a map; its keys are read in any case.
    pub(crate) fn section(&mut self, key: &'static str) -> Option<Self> {
        match self.optional(key) {
            Some(item) => item.fields(),
            None => Some(Self {
                item: ValueReader { path: join(&self.item.path, key), ..self.item.clone() },
                known: BTreeMap::new(),
                asked: Vec::new(),
            }),
        }
    }

    /// A key that may be left out, whose value is one of a few words.
    pub(crate) fn choice<T: Copy + Default>(
        &mut self,
        key: &'static str,
        choices: &[(&'static str, T)],
    ) -> Option<T> {
        match self.optional(key) {
            Some(item) => item.value(|text| crate::value::choice(text, choices)),
            None => Some(T::default()),
        }
    }

    /// Notes the keys that nobody asked for.
    pub(crate) fn finish(self) {
        let mut unknown = self.item.sink.unknown.borrow_mut();
        let absent =
            || self.asked.iter().copied().filter(|k| !self.known.contains_key(k)).collect();
        for (key, (position, item)) in &self.known {
            if !self.asked.contains(key) {
                let (key, path) = ((*key).to_owned(), item.path.clone());
                let known = self.asked.clone();
                unknown.push(UnreadKey { key, position: *position, path, known, absent: absent() });
            }
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// A key of a stranger, as part of a path.
fn printable_key(key: &str) -> String {
    let plain = (1..=40).contains(&key.len())
        && key.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'<'));
    if plain { key.to_owned() } else { quoted(key) }
}

/// `links[1].addresses` to `links[].addresses`.
fn without_indices(path: &str) -> String {
    let mut inside = false;
    let kept = |c: &char| {
        let drop = inside && *c != ']';
        inside = *c == '[' || (inside && *c != ']');
        !drop
    };
    path.chars().filter(kept).collect()
}
