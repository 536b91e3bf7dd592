//! `limits`, `admin`, `metrics` and `log`: the process itself.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use super::cross_refs::CrossRefs;
use crate::config::{AdminConfig, LimitsConfig, LogConfig, LogFormat, LogLevel, MtuConfig};
use crate::problem::{ProblemKind, ValueProblem};
use crate::reader::{MapReader, ValueReader};
use crate::value;

/// A limit that is wrong keeps its default: the sink knows, and later rules have something to compare.
pub(super) fn limits(mut fields: MapReader<'_>, defaults: LimitsConfig) -> LimitsConfig {
    let mut limits = defaults;
    let f = &mut fields;
    let bounds = LimitsConfig::STREAMS_PER_CONNECTION;
    number(f, "streamsPerConnection", &bounds, &mut limits.streams_per_connection);
    number(f, "streamsPerPeer", &LimitsConfig::STREAMS_PER_PEER, &mut limits.streams_per_peer);
    duration(f, "headerDeadline", &LimitsConfig::DEADLINE, &mut limits.header_deadline);
    duration(f, "dialTimeout", &LimitsConfig::DEADLINE, &mut limits.dial_timeout);
    let peer = size(f, "peerBuffer", &LimitsConfig::PEER_BUFFER, &mut limits.peer_buffer);
    let process =
        size(f, "processBuffer", &LimitsConfig::PROCESS_BUFFER, &mut limits.process_buffer);
    duration(f, "drain", &LimitsConfig::DRAIN, &mut limits.drain);
    duration(f, "leave", &LimitsConfig::LEAVE, &mut limits.leave);
    let hold = &mut limits.unknown_source_hold;
    duration(f, "unknownSourceHold", &LimitsConfig::UNKNOWN_SOURCE_HOLD, hold);
    let window = &mut limits.interactive_window;
    let interactive = size(f, "interactiveWindow", &LimitsConfig::INTERACTIVE_WINDOW, window);
    let bulk = size(f, "bulkWindow", &LimitsConfig::BULK_WINDOW, &mut limits.bulk_window);
    let alive = duration(f, "keepAlive", &LimitsConfig::KEEP_ALIVE, &mut limits.keep_alive);
    if let Some(fields) = fields.section("mtu") {
        limits.mtu = mtu(fields);
    }
    fields.finish();

    let LimitsConfig { peer_buffer, process_buffer, interactive_window, bulk_window, .. } = limits;
    at_most(
        peer.as_ref().or(process.as_ref()),
        ("peerBuffer", peer_buffer),
        ("processBuffer", process_buffer),
    );
    let windows =
        [(interactive, "interactiveWindow", interactive_window), (bulk, "bulkWindow", bulk_window)];
    for (item, key, window) in &windows {
        at_most(item.as_ref().or(peer.as_ref()), (*key, *window), ("peerBuffer", peer_buffer));
    }
    if let Some(item) = alive
        && limits.keep_alive > LimitsConfig::NAT_KEEP_ALIVE_INTERVAL
    {
        let message = "more than 15s: address translation on the way may forget an idle connection";
        item.warn(ValueProblem::new(ProblemKind::Doubtful, message));
    }
    limits
}

/// The budget that a part comes out of is no smaller than the part.
fn at_most(item: Option<&ValueReader<'_>>, (part, low): (&str, u64), (whole, high): (&str, u64)) {
    if let Some(item) = item
        && low > high
    {
        let (low, high) = (value::show_size(low), value::show_size(high));
        let message = format!("{part} ({low}) is more than {whole} ({high})");
        item.error(ValueProblem::new(ProblemKind::Conflict, message));
    }
}

fn mtu(mut fields: MapReader<'_>) -> MtuConfig {
    let mut mtu = MtuConfig::default();
    let initial = number(&mut fields, "initial", &MtuConfig::BYTES, &mut mtu.initial);
    let max = number(&mut fields, "max", &MtuConfig::BYTES, &mut mtu.max);
    if let Some(item) = initial.or(max)
        && mtu.initial > mtu.max
    {
        let message = format!("initial ({}) is more than max ({})", mtu.initial, mtu.max);
        item.error(ValueProblem::new(ProblemKind::Conflict, message));
    }
    fields.finish();
    mtu
}

fn number<'a, T>(
    fields: &mut MapReader<'a>,
    key: &'static str,
    range: &RangeInclusive<T>,
    into: &mut T,
) -> Option<ValueReader<'a>>
where
    T: Copy + PartialOrd + std::fmt::Display + TryFrom<u64> + Into<u64>,
{
    let item = fields.optional(key)?;
    *into = item.number(|text| value::number(text, range))?;
    Some(item)
}

fn duration<'a>(
    fields: &mut MapReader<'a>,
    key: &'static str,
    range: &RangeInclusive<Duration>,
    into: &mut Duration,
) -> Option<ValueReader<'a>> {
    let item = fields.optional(key)?;
    *into = item.value(|text| value::duration(text, range))?;
    Some(item)
}

fn size<'a>(
    fields: &mut MapReader<'a>,
    key: &'static str,
    range: &RangeInclusive<u64>,
    into: &mut u64,
) -> Option<ValueReader<'a>> {
    let item = fields.optional(key)?;
    *into = item.value(|text| value::size(text, range))?;
    Some(item)
}

pub(super) fn admin(
    mut fields: MapReader<'_>,
    base: &Path,
    refs: &mut CrossRefs,
) -> Option<AdminConfig> {
    let socket = fields.optional("socket");
    let listen = fields.optional("listen");
    fields.finish();
    let by_address = listen.as_ref().map(|item| admin_address(item, refs));
    let by_socket = socket.map(|item| admin_socket(&item, base));
    match (by_socket, by_address) {
        (None, None) => Some(AdminConfig::default()),
        (Some(socket), None) => socket,
        (None, Some(address)) => address,
        (Some(_), Some(_)) => {
            let finding = ValueProblem::new(
                ProblemKind::Conflict,
                "expected either socket or listen, found both",
            );
            listen?.error(finding);
            None
        }
    }
}

fn admin_socket(item: &ValueReader<'_>, base: &Path) -> Option<AdminConfig> {
    let socket = item.file(base)?;
    let (length, most) = (socket.as_os_str().len(), AdminConfig::MAX_SOCKET_PATH);
    if length > most {
        let message = format!("{length} bytes: expected at most {most} for a Unix socket");
        item.error(ValueProblem::new(ProblemKind::OutOfRange, message));
    }
    Some(AdminConfig::Socket(socket))
}

fn admin_address(item: &ValueReader<'_>, refs: &mut CrossRefs) -> Option<AdminConfig> {
    let address = item.value(value::address)?;
    if !address.ip().to_canonical().is_loopback() {
        let message = format!("{address} can be reached from outside: expected a loopback address");
        let hint = format!("write 127.0.0.1:{}, or use socket", address.port());
        item.error(ValueProblem::new(ProblemKind::Conflict, message).hint(hint));
    }
    refs.sockets.bind_tcp(item, address);
    Some(AdminConfig::Listen(address))
}

/// The inner answer is what the file says, the outer whether it could be read.
pub(super) fn metrics(
    item: Option<ValueReader<'_>>,
    refs: &mut CrossRefs,
) -> Option<Option<SocketAddr>> {
    let Some(item) = item else { return Some(None) };
    let mut fields = item.fields()?;
    let listen = fields.required("listen", "IP:PORT");
    fields.finish();
    let item = listen?;
    let address = item.value(value::address)?;
    refs.sockets.bind_tcp(&item, address);
    Some(Some(address))
}

pub(super) fn log(mut fields: MapReader<'_>) -> Option<LogConfig> {
    let levels =
        [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace];
    let level = fields.choice("level", &levels.map(|level| (level.as_str(), level)));
    let format = log_format(&mut fields);
    fields.finish();
    Some(LogConfig { level: level?, format: format? })
}

/// `format` of the log.
pub(super) fn log_format(fields: &mut MapReader<'_>) -> Option<LogFormat> {
    let formats = [("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)];
    fields.choice("format", &formats)
}
