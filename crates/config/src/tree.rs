//! Parses YAML text into a tree of values that know their positions. The only file that knows the YAML library.
//!
//! The tree keeps what was written: scalars as their own text, so that `cluster: no` is a cluster named
//! "no" and `007` can be refused; doubled keys, so that both can be pointed at. Bounds on depth, size
//! and aliases make a hostile file an error rather than an outage. Meaning is given in
//! [`crate::reader`].

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::{DuplicateKeyPolicy, MergeKeyPolicy, NonFiniteFloatPolicy};
use serde_saphyr::{Error, MessageFormatter as _, Spanned, UserMessageFormatter};

use crate::problem::{Position, ProblemKind, ValueProblem};

/// A value and where it is written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct YamlNode {
    pub(crate) position: Position,
    pub(crate) value: YamlValue,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum YamlValue {
    /// Nothing, `~` or `null`.
    Empty,
    /// A word that YAML takes for a number or boolean, as it was written.
    Literal(String),
    /// Text, quoted or not.
    Text(String),
    List(Vec<YamlNode>),
    Map(Vec<(YamlNode, YamlNode)>),
}

/// The greatest depth of a document; ours is seven deep.
const MAX_DEPTH: usize = 20;
/// The most events that aliases replay. Each makes a value; without a bound ten lines of aliases make millions.
const MAX_REPLAYED: usize = 100_000;

/// Reads one document.
pub(crate) fn parse(text: &str) -> Result<YamlNode, (ValueProblem, Option<Position>)> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: MAX_DEPTH, max_documents: 1 },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_REPLAYED },
        // Doubled keys reach us, to be reported all at once; merge keys do, to be refused by name.
        duplicate_keys: DuplicateKeyPolicy::LastWins,
        merge_keys: MergeKeyPolicy::AsOrdinary,
        strict_booleans: true,
        reject_unsupported_tags: true,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        with_snippet: false,
    };
    match serde_saphyr::from_str_with_options::<Spanned<RawYaml>>(text, options) {
        Ok(raw) => Ok(node(raw, text)),
        Err(error) => Err(explain(error.without_snippet(), text)),
    }
}

/// Writes one document. Text of several lines stands as it is.
pub(crate) fn write<T: serde::Serialize>(value: &T) -> Result<String, serde_saphyr::ser::Error> {
    let options = serde_saphyr::ser_options! { compact_list_indent: false };
    serde_saphyr::to_string_with_options(value, options)
}

/// Reads all documents of a text of our own.
pub(crate) fn read_all<T: serde::de::DeserializeOwned>(text: &str) -> Result<Vec<T>, Error> {
    serde_saphyr::from_multiple(text)
}

fn explain(error: &Error, text: &str) -> (ValueProblem, Option<Position>) {
    let position =
        error.location().map(|l| Position { line: l.line().max(1), column: l.column().max(1) });
    // The library adds places to its text in its own way; ours goes in front.
    let shown: String =
        UserMessageFormatter.format_message(innermost(error)).chars().take(200).collect();
    let here = position.and_then(|p| {
        let line = text.lines().nth(usize::try_from(p.line - 1).ok()?)?;
        line.chars().nth(usize::try_from(p.column - 1).ok()?)
    });
    let syntax = |message: String| ValueProblem::new(ProblemKind::Syntax, message);
    #[expect(clippy::wildcard_enum_match_arm, reason = "the library's list is open and long")]
    let finding = match innermost(error) {
        Error::Budget { breach: serde_saphyr::budget::BudgetBreach::Documents { .. }, .. } => {
            syntax("a second YAML document begins here: expected one document in the file".into())
        }
        Error::Budget { breach: serde_saphyr::budget::BudgetBreach::Depth { .. }, .. } => {
            syntax(format!("nested too deeply: expected at most {MAX_DEPTH} levels"))
        }
        Error::AliasReplayLimitExceeded { .. } | Error::Budget { .. } => {
            syntax("more values, anchors or aliases than any configuration needs".into())
        }
        Error::UnknownAnchor { .. } => {
            syntax("*NAME refers to an anchor &NAME, and there is none of that name".into())
                .hint("put text that begins with * in quotes".to_owned())
        }
        Error::RecursiveReferencesRequireWeakTypes { .. } => {
            syntax("an alias that contains itself".into())
        }
        _ if shown.contains("anchor or alias") && here == Some('*') => {
            syntax("* begins an alias in YAML".into()).hint(r#"write "*" in quotes"#.to_owned())
        }
        _ if shown.contains("tabs") => {
            syntax(format!("not valid YAML: {shown}")).hint("indent with spaces".to_owned())
        }
        _ if shown.contains("unexpected character") && matches!(here, Some('@' | '%' | '`')) => {
            syntax(format!("not valid YAML: {shown}")).hint("put the text in quotes".to_owned())
        }
        _ if shown.contains("mapping values are not allowed") => {
            syntax(format!("not valid YAML: {shown}")).hint(
                "put text that contains \": \" in quotes; otherwise look at the indentation"
                    .to_owned(),
            )
        }
        _ => syntax(format!("not valid YAML: {shown}")),
    };
    (finding, position)
}

fn innermost(error: &Error) -> &Error {
    #[expect(clippy::wildcard_enum_match_arm, reason = "only the wrapper is of interest")]
    match error {
        Error::AliasError { error, .. } => innermost(error),
        other => other,
    }
}

/// A value as the library reads it. A literal's own text is taken from the source by its span.
enum RawYaml {
    Empty,
    Literal,
    Text(String),
    List(Vec<Spanned<Self>>),
    Map(Vec<(Spanned<Self>, Spanned<Self>)>),
}

fn node(raw: Spanned<RawYaml>, text: &str) -> YamlNode {
    // Where an alias is used, the mistake is where the value is written.
    let at = raw.defined;
    let position = Position { line: at.line().max(1), column: at.column().max(1) };
    let value = match raw.value {
        RawYaml::Empty => YamlValue::Empty,
        RawYaml::Text(text) => YamlValue::Text(text),
        RawYaml::Literal => {
            let span = at.span();
            let start = span.byte_offset().and_then(|o| usize::try_from(o).ok());
            let len = span.byte_len().and_then(|l| usize::try_from(l).ok());
            let written = start.zip(len).and_then(|(s, l)| text.get(s..s.checked_add(l)?));
            YamlValue::Literal(written.unwrap_or_default().trim().to_owned())
        }
        RawYaml::List(items) => YamlValue::List(items.into_iter().map(|i| node(i, text)).collect()),
        RawYaml::Map(entries) => YamlValue::Map(
            entries.into_iter().map(|(k, v)| (node(k, text), node(v, text))).collect(),
        ),
    };
    YamlNode { position, value }
}

impl<'de> Deserialize<'de> for RawYaml {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(YamlVisitor)
    }
}

struct YamlVisitor;

impl<'de> Visitor<'de> for YamlVisitor {
    type Value = RawYaml;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<RawYaml, E> {
        Ok(RawYaml::Empty)
    }

    fn visit_bool<E>(self, _: bool) -> Result<RawYaml, E> {
        Ok(RawYaml::Literal)
    }

    fn visit_i64<E>(self, _: i64) -> Result<RawYaml, E> {
        Ok(RawYaml::Literal)
    }

    fn visit_u64<E>(self, _: u64) -> Result<RawYaml, E> {
        Ok(RawYaml::Literal)
    }

    fn visit_f64<E>(self, _: f64) -> Result<RawYaml, E> {
        Ok(RawYaml::Literal)
    }

    fn visit_str<E>(self, text: &str) -> Result<RawYaml, E> {
        Ok(RawYaml::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<RawYaml, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(RawYaml::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawYaml, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(RawYaml::Map(entries))
    }
}
