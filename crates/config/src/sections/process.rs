//! `limits`, `admin`, `metrics` and `log`: the process itself.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use super::known::Known;
use crate::config::{Admin, Limits, Log, LogFormat, LogLevel, Mtu};
use crate::problem::{Flaw, Kind};
use crate::reader::{Fields, Item};
use crate::value;

/// A limit that is wrong keeps its default: the sink knows, and later rules have something to compare.
pub(super) fn limits(mut fields: Fields<'_>, defaults: Limits) -> Limits {
    let mut limits = defaults;
    let f = &mut fields;
    let bounds = Limits::STREAMS_PER_CONNECTION;
    number(f, "streamsPerConnection", &bounds, &mut limits.streams_per_connection);
    number(f, "streamsPerPeer", &Limits::STREAMS_PER_PEER, &mut limits.streams_per_peer);
    duration(f, "headerDeadline", &Limits::DEADLINE, &mut limits.header_deadline);
    duration(f, "dialTimeout", &Limits::DEADLINE, &mut limits.dial_timeout);
    let peer = size(f, "peerBuffer", &Limits::PEER_BUFFER, &mut limits.peer_buffer);
    let process = size(f, "processBuffer", &Limits::PROCESS_BUFFER, &mut limits.process_buffer);
    duration(f, "drain", &Limits::DRAIN, &mut limits.drain);
    duration(f, "leave", &Limits::LEAVE, &mut limits.leave);
    let hold = &mut limits.unknown_source_hold;
    duration(f, "unknownSourceHold", &Limits::UNKNOWN_SOURCE_HOLD, hold);
    let window = &mut limits.interactive_window;
    let interactive = size(f, "interactiveWindow", &Limits::INTERACTIVE_WINDOW, window);
    let bulk = size(f, "bulkWindow", &Limits::BULK_WINDOW, &mut limits.bulk_window);
    let alive = duration(f, "keepAlive", &Limits::KEEP_ALIVE, &mut limits.keep_alive);
    if let Some(fields) = fields.section("mtu") {
        limits.mtu = mtu(fields);
    }
    fields.finish();

    let Limits { peer_buffer, process_buffer, interactive_window, bulk_window, .. } = limits;
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
        && limits.keep_alive > Limits::KEEP_ALIVE_ACROSS_NAT
    {
        let message = "more than 15s: address translation on the way may forget an idle connection";
        item.warn(Flaw::new(Kind::Doubtful, message));
    }
    limits
}

/// The budget that a part comes out of is no smaller than the part.
fn at_most(item: Option<&Item<'_>>, (part, low): (&str, u64), (whole, high): (&str, u64)) {
    if let Some(item) = item
        && low > high
    {
        let (low, high) = (value::show_size(low), value::show_size(high));
        let message = format!("{part} ({low}) is more than {whole} ({high})");
        item.error(Flaw::new(Kind::Conflict, message));
    }
}

fn mtu(mut fields: Fields<'_>) -> Mtu {
    let mut mtu = Mtu::default();
    let initial = number(&mut fields, "initial", &Mtu::BYTES, &mut mtu.initial);
    let max = number(&mut fields, "max", &Mtu::BYTES, &mut mtu.max);
    if let Some(item) = initial.or(max)
        && mtu.initial > mtu.max
    {
        let message = format!("initial ({}) is more than max ({})", mtu.initial, mtu.max);
        item.error(Flaw::new(Kind::Conflict, message));
    }
    fields.finish();
    mtu
}

fn number<'a, T>(
    fields: &mut Fields<'a>,
    key: &'static str,
    range: &RangeInclusive<T>,
    into: &mut T,
) -> Option<Item<'a>>
where
    T: Copy + PartialOrd + std::fmt::Display + TryFrom<u64> + Into<u64>,
{
    let item = fields.optional(key)?;
    *into = item.number(|text| value::number(text, range))?;
    Some(item)
}

fn duration<'a>(
    fields: &mut Fields<'a>,
    key: &'static str,
    range: &RangeInclusive<Duration>,
    into: &mut Duration,
) -> Option<Item<'a>> {
    let item = fields.optional(key)?;
    *into = item.value(|text| value::duration(text, range))?;
    Some(item)
}

fn size<'a>(
    fields: &mut Fields<'a>,
    key: &'static str,
    range: &RangeInclusive<u64>,
    into: &mut u64,
) -> Option<Item<'a>> {
    let item = fields.optional(key)?;
    *into = item.value(|text| value::size(text, range))?;
    Some(item)
}

pub(super) fn admin(mut fields: Fields<'_>, base: &Path, known: &mut Known) -> Option<Admin> {
    let socket = fields.optional("socket");
    let listen = fields.optional("listen");
    fields.finish();
    let by_address = listen.as_ref().map(|item| admin_address(item, known));
    let by_socket = socket.map(|item| admin_socket(&item, base));
    match (by_socket, by_address) {
        (None, None) => Some(Admin::default()),
        (Some(socket), None) => socket,
        (None, Some(address)) => address,
        (Some(_), Some(_)) => {
            let flaw = Flaw::new(Kind::Conflict, "expected either socket or listen, found both");
            listen?.error(flaw);
            None
        }
    }
}

fn admin_socket(item: &Item<'_>, base: &Path) -> Option<Admin> {
    let socket = item.file(base)?;
    let (length, most) = (socket.as_os_str().len(), Admin::MAX_SOCKET_PATH);
    if length > most {
        let message = format!("{length} bytes: expected at most {most} for a Unix socket");
        item.error(Flaw::new(Kind::OutOfRange, message));
    }
    Some(Admin::Socket(socket))
}

fn admin_address(item: &Item<'_>, known: &mut Known) -> Option<Admin> {
    let address = item.value(value::address)?;
    if !address.ip().to_canonical().is_loopback() {
        let message = format!("{address} can be reached from outside: expected a loopback address");
        let hint = format!("write 127.0.0.1:{}, or use socket", address.port());
        item.error(Flaw::new(Kind::Conflict, message).hint(hint));
    }
    known.sockets.bind_tcp(item, address);
    Some(Admin::Listen(address))
}

/// The inner answer is what the file says, the outer whether it could be read.
pub(super) fn metrics(item: Option<Item<'_>>, known: &mut Known) -> Option<Option<SocketAddr>> {
    let Some(item) = item else { return Some(None) };
    let mut fields = item.fields()?;
    let listen = fields.required("listen", "IP:PORT");
    fields.finish();
    let item = listen?;
    let address = item.value(value::address)?;
    known.sockets.bind_tcp(&item, address);
    Some(Some(address))
}

pub(super) fn log(mut fields: Fields<'_>) -> Option<Log> {
    let levels =
        [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace];
    let level = fields.choice("level", &levels.map(|level| (level.as_str(), level)));
    let format = log_format(&mut fields);
    fields.finish();
    Some(Log { level: level?, format: format? })
}

/// `format` of the log.
pub(super) fn log_format(fields: &mut Fields<'_>) -> Option<LogFormat> {
    let formats = [("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)];
    fields.choice("format", &formats)
}
