//! The status document as a page for people: problems first, then the node, links and services.
//!
//! A pure function of the document. What is well is told briefly, everything else with its reason
//! and code.

mod cells;

use std::fmt::Write;

use adit_core::text::{count_noun, escape, human_bytes, human_seconds};
use adit_daemon::status::with_port;
use adit_daemon::status::{
    BackendState, DenyEntryStatus, Import, Link, LinkHealth, OlderProcesses, StatusDocument,
    StatusProblem, StatusSeverity,
};
use owo_colors::{AnsiColors, OwoColorize};

use self::cells::{backends, describe_reason, ready, traffic_cells};
use super::tables::{CellStyle, Style, cell, number, styled_cell, table, text};

/// Returns the page.
pub(super) fn render(status: &StatusDocument, style: Style) -> String {
    let mut page = StatusPage { text: String::new(), style };
    page.headline(status);
    page.node(status);
    page.links(&status.links);
    page.connections(status);
    page.denied(&status.denied);
    page.imports(&status.imports);
    page.exports(status);
    page.backends(status);
    page.users(status);
    page.write_endings(status);
    page.text
}

struct StatusPage {
    text: String,
    style: Style,
}

impl StatusPage {
    fn line(&mut self, line: impl AsRef<str>) {
        self.text.push_str(line.as_ref());
        self.text.push('\n');
    }

    fn section(&mut self, name: &str, table: &comfy_table::Table) {
        if !table.is_empty() {
            let name = self.strong(name);
            self.line(format!("\n{name}"));
            self.text.push_str(&text(table));
        }
    }

    fn strong(&self, word: &str) -> String {
        if self.style.colour { word.bold().to_string() } else { word.to_owned() }
    }

    fn coloured(&self, word: &str, colour: AnsiColors) -> String {
        if self.style.colour { word.color(colour).bold().to_string() } else { word.to_owned() }
    }

    fn headline(&mut self, status: &StatusDocument) {
        let node = format!("{}/{}", status.node.cluster, status.node.node);
        let node = self.strong(&escape(&node));
        let wrong = |p: &&StatusProblem| p.severity != StatusSeverity::Notice;
        let wrong: Vec<_> = status.problems.iter().filter(wrong).collect();
        let verdict = match wrong.as_slice() {
            [] => self.coloured("all is well", AnsiColors::Green),
            [one] if one.severity == StatusSeverity::Warning => {
                self.coloured("works, with one thing to look at", AnsiColors::Yellow)
            }
            all if all.iter().all(|p| p.severity == StatusSeverity::Warning) => self.coloured(
                &format!("works, with {} things to look at", all.len()),
                AnsiColors::Yellow,
            ),
            [_] => self.coloured("one thing is wrong", AnsiColors::Red),
            all => self.coloured(&format!("{} things are wrong", all.len()), AnsiColors::Red),
        };
        self.line(format!("{node}: {verdict}"));
        for problem in &status.problems {
            let (mark, colour) = match problem.severity {
                StatusSeverity::Error => ("✗", AnsiColors::Red),
                StatusSeverity::Warning => ("!", AnsiColors::Yellow),
                StatusSeverity::Notice => ("·", AnsiColors::Default),
            };
            let mark = self.coloured(mark, colour);
            // A file's errors come as one sentence of several lines.
            let why: Vec<_> = problem.reason.sentence.lines().map(escape).collect();
            let (about, code) = (escape(&problem.about), escape(&problem.reason.code));
            self.line(format!("  {mark} {about}: {} ({code})", why.join("\n    ")));
        }
    }

    fn node(&mut self, status: &StatusDocument) {
        let node = &status.node;
        let ready = match (node.ready, node.draining) {
            (_, true) => "draining".to_owned(),
            (true, _) => "ready".to_owned(),
            (false, _) => format!("waiting for {}", node.waiting_for.join(", ")),
        };
        let boot: String = node.boot_id.chars().take(8).collect();
        let digest: String = node.configuration.digest.chars().take(12).collect();
        let left = u64::try_from(node.certificate.seconds_left);
        let left =
            left.map_or_else(|_| "ended".to_owned(), |s| format!("{} left", human_seconds(s)));
        let mut rows = table(self.style, &[]);
        for (name, value) in [
            (
                "node",
                format!(
                    "{ready}, up {}, version {}, process {} (boot {boot}), log {}",
                    human_seconds(node.uptime_seconds),
                    node.version,
                    node.pid,
                    node.log_level
                ),
            ),
            (
                "identity",
                format!("{}, until {} ({left})", node.certificate.id, node.certificate.not_after),
            ),
            (
                "file",
                format!(
                    "{}, applied {} (sha256 {digest})",
                    node.configuration.path, node.configuration.loaded_at
                ),
            ),
            ("listens", node.listen.join(", ")),
        ] {
            rows.add_row([cell(name), cell(value)]);
        }
        if node.older.processes > 0 {
            let OlderProcesses { processes, streams } = node.older;
            let plural = if processes == 1 { "process" } else { "processes" };
            let still = format!(
                "{processes} older {plural} of this node: {} to finish",
                count_noun(streams, "stream")
            );
            rows.add_row([cell("replaced"), cell(still)]);
        }
        self.text.push('\n');
        self.text.push_str(&text(&rows));
    }

    fn denied(&mut self, denied: &[DenyEntryStatus]) {
        let mut rows = table(self.style, &["DENIED", "WHY", "REFUSED", "LAST"]);
        for entry in denied {
            let last = entry.last.as_deref().unwrap_or("–");
            let reason = entry.reason.as_deref().unwrap_or("–");
            let how = if entry.refused > 0 { CellStyle::Doubtful } else { CellStyle::Plain };
            let refused = styled_cell(entry.refused.to_string(), how);
            rows.add_row([cell(&entry.entry), cell(reason), refused, cell(last)]);
        }
        self.section("Denied", &rows);
    }

    fn links(&mut self, links: &[Link]) {
        let mut rows =
            table(self.style, &["LINK", "STATE", "VIEW FROM", "VIEW AGE", "NODES", "DIALS", "WHY"]);
        for link in links {
            let (word, how) = match link.state {
                LinkHealth::Up => ("up", CellStyle::Good),
                LinkHealth::Degraded => ("degraded", CellStyle::Doubtful),
                LinkHealth::Down => ("down", CellStyle::Bad),
                LinkHealth::Unknown => ("unknown", CellStyle::Plain),
            };
            let view = link.view.as_ref();
            let from = view
                .map_or_else(|| "–".to_owned(), |v| format!("{}, change {}", v.hub, v.sequence));
            let age = view.map_or_else(|| "–".to_owned(), |v| human_seconds(v.age_seconds));
            let dials = match link.dials.failures {
                0 => link.dials.attempts.to_string(),
                failed => format!("{} ({failed} failed since)", link.dials.attempts),
            };
            let mut why = link.reason.as_ref().map(describe_reason).unwrap_or_default();
            if let Some(error) = link.dials.last_error.as_ref().filter(|_| link.dials.failures > 0)
                && !why.contains(error.as_str())
            {
                why = if why.is_empty() {
                    error.clone()
                } else {
                    format!("{why}; last dial: {error}")
                };
            }
            rows.add_row([
                cell(&link.cluster),
                styled_cell(word, how),
                cell(from),
                number(age),
                number(link.nodes.len()),
                number(dials),
                cell(why),
            ]);
        }
        self.section("Links", &rows);
    }

    fn connections(&mut self, status: &StatusDocument) {
        let headings = [
            "CONNECTION",
            "LANE",
            "WAY",
            "REMOTE",
            "RTT",
            "LOSS",
            "WINDOW",
            "MTU",
            "AGE",
            "STREAMS",
            "OUT",
            "IN",
        ];
        let mut rows = table(self.style, &headings);
        let peers = status.links.iter().flat_map(|l| l.nodes.iter().map(|n| (&l.cluster, n)));
        let siblings = status.siblings.iter().map(|n| (&status.node.cluster, n));
        for (cluster, node) in peers.chain(siblings) {
            let hub = if node.hub { " (hub)" } else { "" };
            for c in &node.connections {
                let mut name = format!("{cluster}/{}{hub}", node.node);
                if let Some(reason) = &c.closing {
                    write!(name, ", closing: {}", reason.code).ok();
                }
                rows.add_row([
                    cell(name),
                    cell(&c.lane),
                    cell(&c.direction),
                    cell(&c.remote),
                    number(format!("{:.1} ms", c.rtt_ms)),
                    number(format!("{:.2} %", c.loss_percent)),
                    number(human_bytes(c.congestion_window)),
                    number(c.mtu),
                    number(human_seconds(c.age_seconds)),
                    number(c.streams),
                    number(human_bytes(c.bytes_out)),
                    number(human_bytes(c.bytes_in)),
                ]);
            }
        }
        self.section("Connections", &rows);
    }

    fn imports(&mut self, imports: &[Import]) {
        let headings = [
            "IMPORT",
            "FROM",
            "LISTENS",
            "READY",
            "BACKENDS",
            "OPEN",
            "TOTAL",
            "REFUSED",
            "BROKEN",
            "OUT",
            "IN",
            "LAST FAILURE",
        ];
        let mut rows = table(self.style, &headings);
        for (import, port) in imports.iter().flat_map(|i| i.ports.iter().map(move |p| (i, p))) {
            let mut row = vec![
                cell(with_port(&import.service, &port.name)),
                cell(&import.from),
                cell(port.listen.join("\n")),
                ready(port.ready, port.reason.as_ref()),
                cell(backends(port)),
            ];
            row.extend(traffic_cells(&port.streams));
            rows.add_row(row);
        }
        self.section("Imports", &rows);
    }

    fn exports(&mut self, status: &StatusDocument) {
        let headings = [
            "EXPORT",
            "READY",
            "GRANTED TO",
            "ENTERS",
            "LANE",
            "OPEN",
            "TOTAL",
            "REFUSED",
            "BROKEN",
            "OUT",
            "IN",
            "LAST FAILURE",
        ];
        let mut rows = table(self.style, &headings);
        for (export, port) in
            status.exports.iter().flat_map(|e| e.ports.iter().map(move |p| (e, p)))
        {
            let grants: Vec<_> = export
                .allow
                .iter()
                .map(|g| format!("{}/{}@{}", g.namespace, g.service_account, g.cluster))
                .collect();
            let enters = if export.hop == "any" { "any node" } else { "backend's node" };
            let mut row = vec![
                cell(with_port(&export.service, &port.name)),
                ready(port.ready, port.reason.as_ref()),
                cell(if grants.is_empty() { "nobody".into() } else { grants.join("\n") }),
                cell(enters),
                cell(&export.class),
            ];
            row.extend(traffic_cells(&port.streams));
            rows.add_row(row);
        }
        self.section("Exports", &rows);
    }

    fn backends(&mut self, status: &StatusDocument) {
        let mut rows = table(self.style, &["BACKEND", "OF", "NODE", "STATE", "LAST DIAL"]);
        for (export, port) in
            status.exports.iter().flat_map(|e| e.ports.iter().map(move |p| (e, p)))
        {
            for backend in &port.backends {
                let (word, how) = match backend.state {
                    BackendState::Up => ("up", CellStyle::Good),
                    BackendState::Down => ("down", CellStyle::Bad),
                    BackendState::Forbidden => ("forbidden", CellStyle::Bad),
                    BackendState::Unknown => ("unknown", CellStyle::Plain),
                };
                rows.add_row([
                    cell(&backend.address),
                    cell(with_port(&export.service, &port.name)),
                    cell(&backend.node),
                    styled_cell(word, how),
                    cell(
                        backend.last_dial.as_ref().map_or_else(|| "–".to_owned(), describe_reason),
                    ),
                ]);
            }
        }
        self.section("Backends", &rows);
    }

    fn users(&mut self, status: &StatusDocument) {
        let mut rows = table(self.style, &["SOURCE", "USES", "STREAMS", "IDENTITY"]);
        for (export, using) in
            status.exports.iter().flat_map(|e| e.using.iter().map(move |u| (e, u)))
        {
            let (word, how) = if using.asserted {
                ("asserted by its cluster, not proven", CellStyle::Doubtful)
            } else {
                ("proven", CellStyle::Good)
            };
            let cells = [
                cell(&using.source),
                cell(&export.service),
                number(using.streams),
                styled_cell(word, how),
            ];
            rows.add_row(cells);
        }
        self.section("In use by", &rows);
    }

    fn write_endings(&mut self, status: &StatusDocument) {
        let ends: Vec<_> = status
            .streams
            .by_code
            .iter()
            .map(|(code, n)| format!("{n} {}", escape(code)))
            .collect();
        let ends =
            if ends.is_empty() { String::new() } else { format!("; ended: {}", ends.join(", ")) };
        let name = self.strong("Streams");
        self.line(format!("\n{name}\n  {} open{ends}", status.streams.open));
    }
}

#[cfg(test)]
mod tests;
