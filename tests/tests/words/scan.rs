//! Finds what breaks the rules in the text of one file. It reads lines as rustfmt leaves them; it is no parser.

/// Words that leave open what a doc block is about.
pub(crate) const PRONOUNS: [&str; 6] = ["What", "Whether", "It", "Who", "One", "How"];

/// Endings that tell a deadline from a period, a pause before a retry, a pause before acting, and a time of being valid.
pub(crate) const KINDS: [&str; 5] = ["_TIMEOUT", "_INTERVAL", "_BACKOFF", "_DELAY", "_LIFETIME"];

/// Units of time, which are of every kind.
const UNITS: [&str; 6] = ["MS", "MILLISECOND", "SECOND", "MINUTE", "HOUR", "DAY"];

/// Lines of a function, signature and braces included, that fit a screen.
pub(crate) const LONGEST_FUNCTION: usize = 60;

/// A line number, counted from 1, and what is found there.
pub(crate) type Found<T> = Vec<(usize, T)>;

/// Doc blocks that open with one of [`PRONOUNS`], by that word.
pub(crate) fn pronoun_docs(text: &str) -> Found<&str> {
    let mut found = Vec::new();
    let mut last = None;
    for (n, line) in text.lines().map(str::trim_start).enumerate() {
        let marker = ["///", "//!"].into_iter().find(|marker| line.starts_with(marker));
        if marker.is_some() && marker != last {
            let words = line.get(3..).unwrap_or_default();
            let first = words.trim_start().split(|c: char| !c.is_alphanumeric()).next();
            found.extend(first.filter(|word| PRONOUNS.contains(word)).map(|word| (n + 1, word)));
        }
        last = marker;
    }
    found
}

/// Names of the types that are defined. A `type` that is indented belongs to a trait or function and does not count.
pub(crate) fn types(text: &str) -> Found<&str> {
    let name = |line| {
        let (rest, indented) = without_visibility(line);
        let (keyword, rest) = rest.split_once(' ')?;
        let counts = matches!(keyword, "struct" | "enum" | "trait" | "union")
            || (keyword == "type" && !indented);
        let name = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()?;
        (counts && name.starts_with(|c: char| c.is_ascii_uppercase())).then_some(name)
    };
    numbered(text, name)
}

/// Constants that are a `Duration` and say of no kind.
pub(crate) fn kindless_durations(text: &str) -> Found<&str> {
    let name = |line| {
        let (rest, _) = without_visibility(line);
        let rest = rest.strip_prefix("const ").or_else(|| rest.strip_prefix("static "))?;
        let (name, kind) = rest.split_once(": ")?;
        let kind = kind.split(" =").next()?;
        let is_kindless = matches!(kind, "Duration" | "std::time::Duration")
            && !UNITS.contains(&name)
            && !KINDS.iter().any(|ending| name.ends_with(ending));
        is_kindless.then_some(name)
    };
    numbered(text, name)
}

/// Functions of more than [`LONGEST_FUNCTION`] lines: their names and how many lines they have.
pub(crate) fn long_functions(text: &str) -> Found<(&str, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (first, line) in lines.iter().enumerate() {
        let Some(name) = function(line) else { continue };
        let indent = line.len() - line.trim_start().len();
        let ends_signature = |line: &&str| line.ends_with(['{', ';', '}']);
        let rest = lines.get(first..).unwrap_or_default();
        let Some(signature) = rest.iter().position(ends_signature) else { continue };
        let closing = format!("{}}}", " ".repeat(indent));
        let has_body = rest.get(signature).is_some_and(|line| line.ends_with('{'));
        let end = rest.iter().skip(signature).position(|line| *line == closing);
        if let Some(end) = end.filter(|_| has_body) {
            let length = signature + end + 1;
            found.extend((length > LONGEST_FUNCTION).then_some((first + 1, (name, length))));
        }
    }
    found
}

/// The name of the function that a line begins.
fn function(line: &str) -> Option<&str> {
    let (mut rest, _) = without_visibility(line);
    for qualifier in ["const ", "async ", "unsafe ", "extern \"C\" "] {
        rest = rest.strip_prefix(qualifier).unwrap_or(rest);
    }
    rest.strip_prefix("fn ")?.split(['(', '<']).next()
}

/// A line without indentation and `pub`, and true if it was indented.
fn without_visibility(line: &str) -> (&str, bool) {
    let rest = line.trim_start();
    let indented = rest.len() < line.len();
    let rest = match rest.strip_prefix("pub") {
        Some(public) if public.starts_with('(') => {
            public.split_once(") ").map_or(rest, |(_, rest)| rest)
        }
        Some(public) => public.strip_prefix(' ').unwrap_or(rest),
        None => rest,
    };
    (rest, indented)
}

fn numbered<'a, T>(text: &'a str, find: impl Fn(&'a str) -> Option<T>) -> Found<T> {
    text.lines().enumerate().filter_map(|(n, line)| Some((n + 1, find(line)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pronoun_is_found_where_a_block_opens_and_only_there() {
        let text = [
            "//! What this is.",
            "//! What it is not.",
            "",
            "    /// Whether so.",
            "    /// It is.",
            "    fn f() {}",
            "/// Whatever comes.",
            "///",
            "/// What follows.",
            "/// `It`",
            "// Who reads this?",
            "//! One",
        ];
        let text = &text.join("\n");
        assert_eq!(pronoun_docs(text), [(1, "What"), (4, "Whether"), (12, "One")]);
        assert_eq!(
            pronoun_docs("/// A\n//! It\n///"),
            [(2, "It")],
            "another marker is another block"
        );
    }

    #[test]
    fn a_type_is_found_with_any_visibility_and_no_associated_one() {
        let text = [
            "pub struct A<T>(T);",
            "pub(crate) enum B {",
            "    struct C;",
            "    type D = u8;",
            "type E = u8;",
            "pub(in crate::x) trait F: G {",
            "structure H",
            "let x = 'struct I';",
            "union J {",
        ];
        let text = &text.join("\n");
        let names: Vec<_> = types(text).into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, ["A", "B", "C", "E", "F", "J"]);
    }

    #[test]
    fn a_duration_without_a_kind_is_found() {
        let text = [
            "const REST: Duration = X;",
            "    pub const POLL_INTERVAL: Duration = X;",
            "const DAY: Duration = X;",
            "pub(crate) const LEAVE: std::time::Duration =",
            "const MAX: RangeInclusive<Duration> = X;",
            "static AGAIN: Duration = X;",
            "const TIMEOUTS: Duration = X;",
            "let said: Duration = x;",
        ];
        let text = &text.join("\n");
        let names: Vec<_> = kindless_durations(text).into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, ["REST", "LEAVE", "AGAIN", "TIMEOUTS"]);
    }

    #[test]
    fn a_function_is_measured_from_its_signature_to_its_brace() {
        let body = |lines| "        x();\n".repeat(lines);
        let function = |head: &str, lines| format!("    {head} {{\n{}    }}\n", body(lines));
        let fits = function("fn fits()", LONGEST_FUNCTION - 2);
        let long = function("pub(crate) async fn long<T>(a: T)", LONGEST_FUNCTION - 1);
        let signature =
            function("const fn wide(\n        a: u8,\n    ) -> u8", LONGEST_FUNCTION - 4);
        let text = format!("trait T {{\n    fn none(&self);\n{fits}{long}{signature}}}\n");
        let found: Vec<_> = long_functions(&text).into_iter().map(|(_, found)| found).collect();
        assert_eq!(found, [("long", LONGEST_FUNCTION + 1)]);
        let longer = function("const fn wide(\n        a: u8,\n    ) -> u8", LONGEST_FUNCTION - 3);
        assert_eq!(long_functions(&longer), [(1, ("wide", LONGEST_FUNCTION + 1))]);
        assert_eq!(long_functions("fn f() {}\nfn g();\n"), []);
    }
}
