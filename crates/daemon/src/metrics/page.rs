//! Values of the moment on the metrics page: set into a recorder of their own at each scrape.
//!
//! So no value outlives what it describes, which one of the process's recorder would: that one keeps every series that
//! it was ever given.

use std::fmt::Write;

use metrics::{Key, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

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

/// The values of one scrape.
#[derive(Debug)]
pub struct MetricsPage {
    recorder: PrometheusRecorder,
    /// Families that the recorder cannot hold.
    rest: String,
}

const METADATA: Metadata<'_> = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

impl Default for MetricsPage {
    fn default() -> Self {
        Self { recorder: PrometheusBuilder::new().build_recorder(), rest: String::new() }
    }
}

impl MetricsPage {
    /// Sets all samples of a family: values of its labels, in order, and the value. A counter's values are whole
    /// numbers. A family without a sample is left out.
    pub fn family<'a, const N: usize>(
        &mut self,
        family: &MetricFamily,
        samples: impl IntoIterator<Item = ([&'a str; N], f64)>,
    ) {
        debug_assert_eq!(family.labels.len(), N, "{}", family.name);
        family.describe(&self.recorder);
        for (values, value) in samples {
            let labels = family.labels.iter().zip(values);
            let labels: Vec<_> = labels.map(|(l, v)| Label::new(*l, v.to_owned())).collect();
            let key = Key::from_parts(family.name, labels);
            match family.kind {
                FamilyKind::Gauge => self.recorder.register_gauge(&key, &METADATA).set(value),
                FamilyKind::Counter => {
                    self.recorder.register_counter(&key, &METADATA).absolute(value as u64);
                }
            }
        }
    }

    /// Writes a counter without labels that has fractions: the counters of `metrics` are whole numbers.
    pub fn fractional_counter(&mut self, family: &MetricFamily, value: f64) {
        let MetricFamily { name, help, .. } = family;
        // A String takes every write.
        writeln!(self.rest, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}").ok();
    }

    /// The page's lines.
    #[must_use]
    pub fn into_text(self) -> String {
        self.recorder.handle().render() + &self.rest
    }
}

impl MetricFamily {
    /// Describes the family to a recorder.
    pub fn describe(&self, recorder: &impl Recorder) {
        let (name, unit, help) = (self.name.into(), Unit::from_string(self.unit), self.help.into());
        match self.kind {
            FamilyKind::Gauge => recorder.describe_gauge(name, unit, help),
            FamilyKind::Counter => recorder.describe_counter(name, unit, help),
        }
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
    const SECONDS: MetricFamily = MetricFamily {
        name: "process_cpu_seconds_total",
        kind: FamilyKind::Counter,
        unit: "seconds",
        labels: &[],
        help: "Time",
    };

    #[test]
    fn labels_are_escaped_and_empty_families_left_out() {
        let mut page = MetricsPage::default();
        page.family(&FAMILY, [(["bank", "a\"b\nd"], 1.0), (["shop", ""], 0.5)]);
        page.family::<0>(&MetricFamily { labels: &[], name: "adit_nothing", ..FAMILY }, []);
        page.fractional_counter(&SECONDS, 1.25);
        let text = page.into_text();
        let mut lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        lines[2..4].sort_unstable();
        let expected = [
            "# HELP adit_link_up Whether",
            "# TYPE adit_link_up gauge",
            "adit_link_up{cluster=\"bank\",note=\"a\\\"b\\nd\"} 1",
            "adit_link_up{cluster=\"shop\",note=\"\"} 0.5",
            "# HELP process_cpu_seconds_total Time",
            "# TYPE process_cpu_seconds_total counter",
            "process_cpu_seconds_total 1.25",
        ];
        assert_eq!(lines, expected);
    }
}
