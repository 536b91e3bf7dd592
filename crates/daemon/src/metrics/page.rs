//! Writes the Prometheus text format (version 0.0.4) for values that are computed at the scrape.

use std::fmt::Write;

/// A metric family: what the page says of it once.
#[derive(Debug, Clone, Copy)]
pub struct MetricFamily {
    /// Its name, `adit_…`.
    pub name: &'static str,
    /// Gauge or counter.
    pub kind: FamilyKind,
    /// The unit of its values, as METRICS.md calls it.
    pub unit: &'static str,
    /// The names of its labels, in order.
    pub labels: &'static [&'static str],
    /// The sentence of its HELP line.
    pub help: &'static str,
}

/// A family's kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FamilyKind {
    /// Goes up and down.
    Gauge,
    /// Only grows, until the process ends.
    Counter,
}

/// The page being written.
#[derive(Debug, Default)]
pub struct MetricsPage {
    text: String,
}

impl From<String> for MetricsPage {
    fn from(mut text: String) -> Self {
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        Self { text }
    }
}

impl MetricsPage {
    /// Writes a family with all its samples: values of its labels, in order, and the value. A family
    /// without a sample is left out.
    pub fn family<'a, const N: usize>(
        &mut self,
        family: &MetricFamily,
        samples: impl IntoIterator<Item = ([&'a str; N], f64)>,
    ) {
        debug_assert_eq!(family.labels.len(), N, "{}", family.name);
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return;
        }
        let MetricFamily { name, help, labels, .. } = family;
        let kind = match family.kind {
            FamilyKind::Gauge => "gauge",
            FamilyKind::Counter => "counter",
        };
        self.put(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        for (values, value) in samples {
            self.text.push_str(name);
            for (n, (label, text)) in labels.iter().zip(values).enumerate() {
                let open = if n == 0 { '{' } else { ',' };
                let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                self.put(format_args!("{open}{label}=\"{text}\""));
            }
            self.put(format_args!("{} {value}\n", if N == 0 { "" } else { "}" }));
        }
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        // A String takes every write.
        self.text.write_fmt(text).ok();
    }

    /// The page.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAMILY: MetricFamily = MetricFamily {
        name: "adit_link_up",
        kind: FamilyKind::Gauge,
        unit: "",
        labels: &["cluster", "note"],
        help: "Whether",
    };

    #[test]
    fn labels_are_escaped_and_empty_families_left_out() {
        let mut page = MetricsPage::from("before 1".to_owned());
        page.family(&FAMILY, [(["bank", "a\"b\\c\nd"], 1.0), (["shop", ""], 0.5)]);
        page.family::<2>(&FAMILY, []);
        let expected = "before 1\n# HELP adit_link_up Whether\n# TYPE adit_link_up gauge\n\
            adit_link_up{cluster=\"bank\",note=\"a\\\"b\\\\c\\nd\"} 1\nadit_link_up{cluster=\"shop\",note=\"\"} 0.5\n";
        assert_eq!(page.into_text(), expected);
    }
}
