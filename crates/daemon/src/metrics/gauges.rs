//! States, computed from the status document and from what the kernel knows, at each scrape.

use std::iter::once;
use std::time::Duration;

use adit_transport::budget::BufferCharges;
use adit_transport::endpoint::EndpointCounters;

use super::page::FamilyKind::{Counter, Gauge};
use super::page::{MetricFamily, MetricsPage};
use super::process::ProcessUsage;
use crate::status::{BackendState, LinkHealth, StatusDocument, StatusSeverity, duplicates};

macro_rules! families {
    ($($name:ident = $text:literal, $kind:ident, $unit:literal, [$($label:literal),*], $help:literal;)*) => {
        $(const $name: MetricFamily = MetricFamily { name: $text, kind: $kind, unit: $unit, labels: &[$($label),*], help: $help };)*
        /// Every family that this module writes.
        pub const ALL: &[MetricFamily] = &[$($name),*];
    };
}

families! {
    BUILD = "adit_build_info", Gauge, "", ["version"], "Always 1; the version of the daemon, or of the controller, is its label";
    UPTIME = "adit_uptime_seconds", Gauge, "seconds", [], "For how long the process has run";
    READY = "adit_ready", Gauge, "", [], "Whether this node may be sent work";
    DRAINING = "adit_draining", Gauge, "", [], "Whether this node is going away";
    PROBLEMS = "adit_problems", Gauge, "count", ["severity"], "What a person should look at; adit status names each";
    CONFIG_REJECTED = "adit_config_rejected", Gauge, "", [], "Whether the newest configuration file was rejected and an older one is in use";
    CERTIFICATE = "adit_certificate_left_seconds", Gauge, "seconds", [], "What is left of this node's certificate; negative once it has ended";
    CONTROLLER_SILENCE = "adit_controller_silence_seconds", Gauge, "seconds", [], "How long ago the controller of this node's cluster last asked it how it is; absent until it has";
    API_SILENCE = "adit_controller_api_silence_seconds", Gauge, "seconds", [], "Of a controller: how long ago the API server last answered it, which it asks every two seconds";
    ACTIVE = "adit_controller_active", Gauge, "", [], "Of a controller: whether it is the active one of its cluster";
    CPU = "process_cpu_seconds_total", Counter, "seconds", [], "Processor time that all threads have used";
    RESIDENT = "process_resident_memory_bytes", Gauge, "bytes", [], "Resident memory";
    VIRTUAL = "process_virtual_memory_bytes", Gauge, "bytes", [], "Virtual memory";
    DESCRIPTORS = "process_open_fds", Gauge, "count", [], "Descriptors that are open";
    MAX_DESCRIPTORS = "process_max_fds", Gauge, "count", [], "Descriptors that may be open; absent where there is no limit";
    STARTED = "process_start_time_seconds", Gauge, "seconds", [], "When the process started, since the Unix epoch";
    THREADS = "process_threads", Gauge, "count", [], "Threads";
    UDP_DROPS = "adit_udp_receive_drops_total", Counter, "count", [], "Datagrams that the kernel dropped because the buffer of a QUIC socket was full";
    LOG_DROPPED = "adit_log_dropped_lines_total", Counter, "count", [], "Lines of the log that were dropped because its reader was too slow";
    LINK_UP = "adit_link_up", Gauge, "", ["link"], "Whether the link can be used; a degraded one can";
    LINK_DEGRADED = "adit_link_degraded", Gauge, "", ["link"], "Whether the link is in use with something missing";
    LINK_DOUBLED = "adit_link_doubled_nodes", Gauge, "count", ["link"], "Nodes of the other cluster that two processes live under the name of, by turns or beside each other: their identity was copied, or one of them does not end";
    VIEW_AGE = "adit_link_view_age_seconds", Gauge, "seconds", ["link"], "How old this node's view of the other cluster is; absent without one";
    RTT = "adit_link_rtt_seconds", Gauge, "seconds", ["link"], "The least round-trip time among the link's connections; absent without one";
    WINDOW = "adit_link_congestion_window_bytes", Gauge, "bytes", ["link"], "The least congestion window among the link's connections; absent without one";
    IMPORT_READY = "adit_import_ready", Gauge, "", ["service", "port"], "Whether a connection to the import made now would be carried";
    IMPORT_BACKENDS = "adit_import_backends", Gauge, "count", ["service", "port"], "Ready backends that the exporting cluster reports";
    EXPORT_READY = "adit_export_ready", Gauge, "", ["service", "port"], "Whether a stream to the export that comes now would find a backend";
    EXPORT_BACKENDS = "adit_export_backends", Gauge, "count", ["service", "port", "state"], "Backends of the export by state: up, down, forbidden";
    HANDSHAKES_OPEN = "adit_handshakes_open", Gauge, "count", [], "Handshakes of peers that dialled us, under way now";
    HANDSHAKES = "adit_handshakes_total", Counter, "count", ["outcome"], "Handshakes of peers that dialled us, by outcome: accepted, certificate-refused (the peer's, here), refused-by-peer (this node's certificate), failed otherwise, timed-out (or given up unheard), too-many-pieces (ended here), retried (asked to prove the address), refused-busy (not answered), refused-draining";
    HANDED = "adit_datagrams_handed_total", Counter, "count", ["outcome"], "Datagrams that arrived at another worker than their connection's, by outcome: delivered, dropped";
    FORWARDED = "adit_datagrams_forwarded_total", Counter, "count", ["outcome"], "Datagrams of connections that an older process of this node still has, by outcome: sent to it, dropped because it is behind or gone, received from a younger process";
    TASKS = "adit_tasks", Gauge, "count", [], "Tasks on the workers: some for the node, each connection and each stream";
    STALLED_STREAMS = "adit_stalled_streams", Gauge, "count", [], "Streams whose reader has stopped reading";
    STALLED_BYTES = "adit_stalled_bytes", Gauge, "bytes", [], "Memory that is charged to stalled streams";
    WINDOW_BYTES = "adit_window_bytes", Gauge, "bytes", [], "Memory that connections with peers may take while no stream stalls, beyond what each begins with";
}

/// Counters that links and data path keep themselves.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessTotals {
    /// At the QUIC endpoints.
    pub endpoints: EndpointCounters,
    /// Tasks that are alive on the workers.
    pub tasks: usize,
    /// Memory that peers have this node hold.
    pub buffers: BufferCharges,
    /// Lines of the log that were dropped.
    pub log_dropped: u64,
}

/// Adds all of them to the page.
#[expect(
    clippy::cast_precision_loss,
    reason = "the format has no integers; counts stay below 2^53"
)]
pub(super) fn render(
    page: &mut MetricsPage,
    status: &StatusDocument,
    process: &ProcessUsage,
    totals: &ProcessTotals,
) {
    node(page, status);
    kernel(page, process);
    endpoints(page, totals);
    page.family(&LOG_DROPPED, one(totals.log_dropped as f64));
    links(page, status);
    services(page, status);
}

#[expect(
    clippy::cast_precision_loss,
    reason = "the format has no integers; seconds and bytes stay below 2^53"
)]
fn node(page: &mut MetricsPage, status: &StatusDocument) {
    let node = &status.node;
    let count =
        |s: StatusSeverity| status.problems.iter().filter(|p| p.severity == s).count() as f64;
    page.family(&BUILD, [([node.version.as_str()], 1.0)]);
    page.family(&UPTIME, one(node.uptime_seconds as f64));
    page.family(&READY, one(flag(node.ready)));
    page.family(&DRAINING, one(flag(node.draining)));
    page.family(
        &PROBLEMS,
        [
            (["error"], count(StatusSeverity::Error)),
            (["warning"], count(StatusSeverity::Warning)),
            (["notice"], count(StatusSeverity::Notice)),
        ],
    );
    page.family(&CONFIG_REJECTED, one(flag(node.configuration.error.is_some())));
    page.family(&CERTIFICATE, one(node.certificate.seconds_left as f64));
    let silence = node.controller_asked_seconds_ago;
    page.family(&CONTROLLER_SILENCE, silence.into_iter().flat_map(|s| one(s as f64)));
}

/// Adds what a controller knows of itself.
pub(super) fn controller(page: &mut MetricsPage, api_silence: Duration, is_active: bool) {
    page.family(&BUILD, [([env!("CARGO_PKG_VERSION")], 1.0)]);
    page.family(&API_SILENCE, one(api_silence.as_secs_f64()));
    page.family(&ACTIVE, one(flag(is_active)));
}

/// Adds what the kernel knows of this process: what every process has, a node or not.
#[expect(clippy::cast_precision_loss, reason = "the format has no integers; bytes stay below 2^53")]
pub(super) fn kernel(page: &mut MetricsPage, process: &ProcessUsage) {
    if let Some(time) = process.cpu {
        page.fractional_counter(&CPU, time.as_secs_f64());
    }
    page.family(&STARTED, process.started.into_iter().flat_map(|t| one(t.as_secs_f64())));
    for (family, value) in [
        (&RESIDENT, process.resident),
        (&VIRTUAL, process.virtual_memory),
        (&DESCRIPTORS, process.descriptors),
        (&MAX_DESCRIPTORS, process.max_descriptors),
        (&THREADS, process.threads),
    ] {
        page.family(family, value.into_iter().flat_map(|v| one(v as f64)));
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "the format has no integers; counts stay below 2^53"
)]
fn endpoints(page: &mut MetricsPage, totals: &ProcessTotals) {
    let counted = &totals.endpoints;
    page.family(&HANDSHAKES_OPEN, one(counted.handshakes as f64));
    let outcomes = [
        ("accepted", counted.accepted),
        ("certificate-refused", counted.certificate_refused),
        ("refused-by-peer", counted.refused_by_peer),
        ("failed", counted.failed),
        ("timed-out", counted.timed_out),
        ("too-many-pieces", counted.too_many_pieces),
        ("retried", counted.retried),
        ("refused-busy", counted.refused_busy),
        ("refused-draining", counted.refused_draining),
    ];
    page.family(&HANDSHAKES, outcomes.map(|(name, n)| ([name], n as f64)));
    let handed = [("delivered", counted.rerouted), ("dropped", counted.rerouted_dropped)];
    page.family(&HANDED, handed.map(|(name, n)| ([name], n as f64)));
    let forwarded = [
        ("sent", counted.forwarded),
        ("dropped", counted.forward_dropped),
        ("received", counted.received),
    ];
    page.family(&FORWARDED, forwarded.map(|(name, n)| ([name], n as f64)));
    page.family(&UDP_DROPS, counted.dropped.into_iter().flat_map(|n| one(n as f64)));
    page.family(&TASKS, one(totals.tasks as f64));
    page.family(&STALLED_BYTES, one(totals.buffers.stalled as f64));
    page.family(&STALLED_STREAMS, one(totals.buffers.streams as f64));
    page.family(&WINDOW_BYTES, one(totals.buffers.windows as f64));
}

#[expect(clippy::cast_precision_loss, reason = "the format has no integers; ages stay below 2^53")]
fn links(page: &mut MetricsPage, status: &StatusDocument) {
    let all = || status.links.iter();
    let up = |s| matches!(s, LinkHealth::Up | LinkHealth::Degraded);
    page.family(&LINK_UP, all().map(|l| ([l.cluster.as_str()], flag(up(l.state)))));
    let degraded = |s| s == LinkHealth::Degraded;
    page.family(&LINK_DEGRADED, all().map(|l| ([l.cluster.as_str()], flag(degraded(l.state)))));
    let twice = all().map(|l| ([l.cluster.as_str()], duplicates::count(l) as f64));
    page.family(&LINK_DOUBLED, twice);
    let age =
        all().filter_map(|l| Some(([l.cluster.as_str()], l.view.as_ref()?.age_seconds as f64)));
    page.family(&VIEW_AGE, age);
    let rtt = all().filter_map(|l| {
        let all = l.nodes.iter().flat_map(|n| &n.connections).map(|c| c.rtt_ms / 1000.0);
        Some(([l.cluster.as_str()], all.min_by(f64::total_cmp)?))
    });
    page.family(&RTT, rtt);
    let window = all().filter_map(|l| {
        let all = l.nodes.iter().flat_map(|n| &n.connections).map(|c| c.congestion_window);
        Some(([l.cluster.as_str()], all.min()? as f64))
    });
    page.family(&WINDOW, window);
}

#[expect(
    clippy::cast_precision_loss,
    reason = "the format has no integers; counts stay below 2^53"
)]
fn services(page: &mut MetricsPage, status: &StatusDocument) {
    let imports = || {
        let ports = |i: &'_ crate::status::Import| i.ports.len();
        status
            .imports
            .iter()
            .flat_map(move |i| (0..ports(i)).map(move |n| (i.service.as_str(), &i.ports[n])))
    };
    page.family(
        &IMPORT_READY,
        imports().map(|(service, p)| ([service, p.name.as_str()], flag(p.ready))),
    );
    page.family(
        &IMPORT_BACKENDS,
        imports().map(|(service, p)| {
            ([service, p.name.as_str()], p.backends.values().map(|n| f64::from(*n)).sum())
        }),
    );
    let exports =
        || status.exports.iter().flat_map(|e| e.ports.iter().map(move |p| (e.service.as_str(), p)));
    page.family(
        &EXPORT_READY,
        exports().map(|(service, p)| ([service, p.name.as_str()], flag(p.ready))),
    );
    let states = [
        ("up", BackendState::Up),
        ("down", BackendState::Down),
        ("forbidden", BackendState::Forbidden),
    ];
    page.family(
        &EXPORT_BACKENDS,
        exports().flat_map(|(service, p)| {
            states.map(|(name, state)| {
                let count = p.backends.iter().filter(|b| b.state == state).count();
                ([service, p.name.as_str(), name], count as f64)
            })
        }),
    );
}

fn one(value: f64) -> impl Iterator<Item = ([&'static str; 0], f64)> {
    once(([], value))
}

const fn flag(is: bool) -> f64 {
    if is { 1.0 } else { 0.0 }
}
