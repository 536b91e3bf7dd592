//! Rules as the text of a fragment, for commands that write them. What is a default is left out.

use std::fmt;

use adit_core::name::ClusterName;
use adit_core::policy::WorkloadPattern;
use adit_core::snapshot::{Class, Hop};
use adit_core::spiffe::TrustDomain;

use super::{AppProtocols, ClusterLink, ExportRule, ImportRule, NamePattern, ServiceSelection};

/// A fragment that names a cluster.
#[must_use]
pub fn cluster(name: &ClusterName, trust_domain: &TrustDomain) -> String {
    format!("cluster: {}\ntrustDomain: {}\n", scalar(name), scalar(trust_domain))
}

/// A fragment with one link.
#[must_use]
pub fn link(link: &ClusterLink) -> String {
    let mut lines = ListEntryWriter::new("links");
    lines.first_line(format_args!("cluster: {}", scalar(&link.cluster)));
    lines.next_line(format_args!("trustDomain: {}", scalar(&link.trust_domain)));
    lines.list("addresses", &link.addresses);
    if !link.import.is_empty() || link.create_services || !link.also_allow.is_empty() {
        lines.next_line(format_args!("import:"));
        let namespaces: Vec<_> = link.import.iter().map(NamePattern::as_str).map(scalar).collect();
        lines.next_line(format_args!("  namespaces: [{}]", namespaces.join(", ")));
        lines.next_line(format_args!("  createServices: {}", link.create_services));
        if !link.also_allow.is_empty() {
            lines.next_line(format_args!("  alsoAllow:"));
        }
        for pattern in &link.also_allow {
            lines.next_line(format_args!("    - {{{}}}", workloads(pattern)));
        }
    }
    lines.text("trustBundle", &link.trust_bundle);
    lines.0
}

/// A fragment with one export.
#[must_use]
pub fn export(export: &ExportRule) -> String {
    let mut lines = ListEntryWriter::new("exports");
    match &export.services {
        ServiceSelection::Named(service) => {
            lines.first_line(format_args!("service: {}", scalar(service)))
        }
        ServiceSelection::Selected { namespaces, labels } => {
            let namespaces: Vec<_> = namespaces.iter().map(scalar).collect();
            lines.first_line(format_args!("select:"));
            lines.next_line(format_args!("  namespaces: [{}]", namespaces.join(", ")));
            lines.next_line(format_args!("  labels:"));
            for (key, value) in labels {
                lines.next_line(format_args!("    {}: {}", scalar(key), scalar(value)));
            }
        }
    }
    if let Some(alias) = &export.alias {
        lines.next_line(format_args!("as: {}", scalar(alias)));
    }
    if export.make_alias {
        lines.next_line(format_args!("makeAlias: true"));
    }
    match &export.app_protocol {
        AppProtocols::Own => {}
        AppProtocols::All(protocol) => {
            lines.next_line(format_args!("appProtocol: {}", scalar(protocol)))
        }
        AppProtocols::Ports(ports) => {
            let ports: Vec<_> =
                ports.iter().map(|(p, v)| format!("{}: {}", scalar(p), scalar(v))).collect();
            lines.next_line(format_args!("appProtocol: {{{}}}", ports.join(", ")));
        }
    }
    if export.hop == Hop::SameNode {
        lines.next_line(format_args!("hop: sameNode"));
    }
    if export.class == Class::Bulk {
        lines.next_line(format_args!("class: bulk"));
    }
    if export.replay {
        lines.next_line(format_args!("replay: true"));
    }
    if let Some(interval) = export.probe {
        lines.next_line(format_args!("probe: {{interval: {}ms}}", interval.as_millis()));
    }
    if let Some(hold) = export.hold {
        let (millis, streams) = (hold.timeout.as_millis(), hold.streams);
        lines.next_line(format_args!("whenEmpty: {{hold: {millis}ms, streams: {streams}}}"));
    }
    if !export.allow.is_empty() {
        lines.next_line(format_args!("allow:"));
    }
    for grant in &export.allow {
        let workloads = workloads(&grant.workloads);
        lines.next_line(format_args!("  - {{cluster: {}, {workloads}}}", scalar(&grant.cluster)));
    }
    lines.0
}

/// A fragment with one import.
#[must_use]
pub fn import(import: &ImportRule) -> String {
    let mut lines = ListEntryWriter::new("imports");
    lines.first_line(format_args!("service: {}", scalar(&import.service)));
    lines.next_line(format_args!("from: {}", scalar(&import.from)));
    if !import.create_service {
        lines.next_line(format_args!("createService: false"));
    }
    if let Some(description) = &import.agent {
        lines.next_line(format_args!("kagentAgent: {}", quoted(description)));
    }
    match import.allow.as_deref() {
        None => {}
        Some([]) => lines.next_line(format_args!("allow: []")),
        Some(allow) => {
            lines.next_line(format_args!("allow:"));
            for pattern in allow {
                lines.next_line(format_args!("  - {{{}}}", workloads(pattern)));
            }
        }
    }
    lines.0
}

fn workloads(pattern: &WorkloadPattern) -> String {
    let WorkloadPattern { namespace, service_account } = pattern;
    format!("namespace: {}, serviceAccount: {}", scalar(namespace), scalar(service_account))
}

/// Writes one entry of a list, line by line.
struct ListEntryWriter(String);

impl ListEntryWriter {
    fn new(list: &str) -> Self {
        Self(format!("{list}:\n"))
    }

    fn first_line(&mut self, line: fmt::Arguments<'_>) {
        self.0 += &format!("  - {line}\n");
    }

    fn next_line(&mut self, line: fmt::Arguments<'_>) {
        self.0 += &format!("    {line}\n");
    }

    fn list<T: fmt::Display>(&mut self, key: &str, items: &[T]) {
        if items.is_empty() {
            return;
        }
        self.next_line(format_args!("{key}:"));
        for item in items {
            self.next_line(format_args!("  - {}", scalar(item)));
        }
    }

    /// Text of several lines: as it is where YAML keeps it so, else with escapes.
    fn text(&mut self, key: &str, text: &str) {
        let body = text.strip_suffix('\n');
        let plain = |c: char| c == '\n' || (c.is_ascii() && !c.is_ascii_control());
        match body {
            Some(body)
                if body.starts_with(|c: char| c.is_ascii_graphic())
                    && !body.ends_with('\n')
                    && body.chars().all(plain) =>
            {
                self.next_line(format_args!("{key}: |"));
                for line in body.split('\n') {
                    self.next_line(format_args!("  {line}"));
                }
            }
            _ => self.next_line(format_args!("{key}: {}", quoted(text))),
        }
    }
}

/// A value on one line, in quotes where YAML would take it for something else.
fn scalar(value: impl fmt::Display) -> String {
    const WORDS: [&str; 9] = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];
    let text = value.to_string();
    let plain = text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_'))
        && !WORDS.contains(&text.as_str());
    if plain { text } else { quoted(&text) }
}

/// A double-quoted scalar.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        let code = u32::from(c);
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out += "\\n",
            ' '..='~' => out.push(c),
            _ => out += &format!("\\U{code:08x}"),
        }
    }
    out + "\""
}

#[cfg(test)]
mod tests;
