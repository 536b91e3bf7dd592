//! The metrics page: events counted as they happen, states read when the page is asked for.
//!
//! Events (streams ended, reloads, panics) are counters and histograms of the `metrics` crate, described by the crate
//! that counts them. States (a link is up, bytes resident) are [`gauges`]: they are computed from the status document
//! and from [`process`] at each scrape, and go through the same exporter in a recorder of that scrape ([`page`]), so
//! that none of them outlives what it describes. Every name, with its unit and labels, stands in METRICS.md, which a
//! test holds against the code. Labels come from closed lists or from the operator's configuration, never from a peer.

use std::time::Duration;

use adit_dataplane::begin_service_metrics;
use adit_dataplane::flow::Direction;
use metrics::{Unit, counter, describe_counter};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use self::gauges::ProcessTotals;
use self::process::ProcessUsage;
use crate::status::StatusDocument;

pub mod gauges;
pub mod page;
pub mod process;

/// From half a millisecond, a warm stream on one machine, to an hour, a stream of events.
const SECONDS: [f64; 16] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0,
    3600.0,
];
/// From half a millisecond, a backend on the next node, to the ten seconds that nobody waits for twice.
const ANSWER_SECONDS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// From one small answer to a bulk transfer.
const BYTES: [f64; 8] = [
    256.0,
    4096.0,
    65_536.0,
    1_048_576.0,
    16_777_216.0,
    268_435_456.0,
    4_294_967_296.0,
    68_719_476_736.0,
];

/// This process's metrics. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ProcessMetrics {
    handle: PrometheusHandle,
}

/// Why there are no metrics.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up metrics: {0}")]
pub struct MetricsError(#[from] BuildError);

impl ProcessMetrics {
    /// Sets up the metrics of this process and describes them all.
    ///
    /// # Errors
    /// If somebody else has done so before.
    pub fn install() -> Result<Self, MetricsError> {
        // No idle timeout: a handle that is taken once and kept would go on counting into nothing.
        let [answer, dial] = [adit_dataplane::ANSWER_SECONDS, adit_dataplane::DIAL_SECONDS]
            .map(|name| Matcher::Full(name.into()));
        let handle = PrometheusBuilder::new()
            .set_buckets_for_metric(answer, &ANSWER_SECONDS)?
            .set_buckets_for_metric(dial, &ANSWER_SECONDS)?
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
            .set_buckets_for_metric(Matcher::Suffix("_bytes".into()), &BYTES)?
            .install_recorder()?;
        describe();
        begin_at_zero();
        process::started();
        Ok(Self { handle })
    }

    /// Moves what histograms were given into their buckets: without it their memory grows from scrape to
    /// scrape. To be called every few seconds.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    /// The page of a process that is no node: the events counted, and what the kernel says of the process.
    #[must_use]
    pub fn render_controller(
        &self,
        process: &ProcessUsage,
        api_silence: Duration,
        is_active: bool,
    ) -> String {
        let mut page = page::MetricsPage::default();
        gauges::kernel(&mut page, process);
        gauges::controller(&mut page, api_silence, is_active);
        self.handle.render() + &page.into_text()
    }

    /// The page.
    #[must_use]
    pub fn render(
        &self,
        status: &StatusDocument,
        process: &ProcessUsage,
        totals: &ProcessTotals,
    ) -> String {
        begin_configured_at_zero(status);
        let mut page = page::MetricsPage::default();
        gauges::render(&mut page, status, process, totals);
        self.handle.render() + &page.into_text()
    }
}

/// Describes all that is counted, in this crate and below. The unit and the sentence are the reference.
pub fn describe() {
    adit_transport::links::describe_metrics();
    adit_dataplane::describe_metrics();
    crate::admin::serve::describe();
    describe_counter!(
        RELOADS,
        Unit::Count,
        "Configuration files read, by what became of them: applied, unchanged, rejected"
    );
    describe_counter!(
        IDENTITY_RELOADS,
        Unit::Count,
        "Identity and trust bundle files read, by what became of them: applied, unchanged, rejected"
    );
    describe_counter!(PANICS, Unit::Count, "Tasks that ended by a panic: each is a bug");
}

/// Has every counter begin at 0 that no configuration is needed for, with each of its codes: what is missing until
/// it has happened once cannot be told from what does not exist, and its first increase is lost to whoever asks for
/// rates.
fn begin_at_zero() {
    adit_transport::links::begin_metrics();
    adit_dataplane::begin_metrics();
    crate::admin::serve::begin();
    for outcome in [FileReadOutcome::Applied, FileReadOutcome::Unchanged, FileReadOutcome::Rejected]
    {
        counter!(RELOADS, "outcome" => outcome.name()).increment(0);
        counter!(IDENTITY_RELOADS, "outcome" => outcome.name()).increment(0);
    }
    counter!(PANICS).increment(0);
}

/// The same for each link and service of the configuration.
fn begin_configured_at_zero(status: &StatusDocument) {
    for link in &status.links {
        adit_transport::links::begin_link_metrics(&link.cluster);
    }
    let linked = |cluster: &str| status.links.iter().any(|link| link.cluster == cluster);
    for import in status.imports.iter().filter(|import| linked(&import.from)) {
        begin_service_metrics(Direction::Outbound, &import.service, &import.from);
    }
    for export in &status.exports {
        for grant in export.allow.iter().filter(|grant| linked(&grant.cluster)) {
            begin_service_metrics(Direction::Inbound, &export.service, &grant.cluster);
        }
    }
}

const RELOADS: &str = "adit_config_reloads_total";
const IDENTITY_RELOADS: &str = "adit_identity_reloads_total";
const PANICS: &str = "adit_panics_total";

/// The result of reading a file again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileReadOutcome {
    /// The file is in use.
    Applied,
    /// The file says what was in use already.
    Unchanged,
    /// The last good one stays in use.
    Rejected,
}

impl FileReadOutcome {
    const fn name(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Unchanged => "unchanged",
            Self::Rejected => "rejected",
        }
    }
}

/// Counts a configuration file that was read.
pub fn config_read(outcome: FileReadOutcome) {
    counter!(RELOADS, "outcome" => outcome.name()).increment(1);
}

/// Counts identity files that were read.
pub fn identity_read(outcome: FileReadOutcome) {
    counter!(IDENTITY_RELOADS, "outcome" => outcome.name()).increment(1);
}

/// Counts a panic.
pub fn panicked() {
    counter!(PANICS).increment(1);
}

#[cfg(test)]
mod tests;
