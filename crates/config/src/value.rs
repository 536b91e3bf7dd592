//! Single values: text to addresses, durations, sizes, numbers and names.
//!
//! Each function takes what was written and gives a value or a [`ValueProblem`] that says what was expected;
//! none knows where in the file it is. Stricter than the standard library where that would guess: a
//! number has no sign, no leading zero and no underscore, and a duration always has its unit.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use adit_core::name::{NameError, Namespace};
use adit_core::prefix::IpPrefix;
use adit_core::snapshot::Seed;
use adit_core::spiffe::{SpiffeError, TrustDomain};

use crate::problem::{ProblemKind, ValueProblem, quoted};
use crate::suggest::closest;

fn invalid(message: String) -> ValueProblem {
    ValueProblem::new(ProblemKind::Invalid, message)
}

/// A name of `adit-core`.
pub(crate) fn name<T: FromStr<Err = NameError>>(text: &str) -> Result<T, ValueProblem> {
    text.parse().map_err(|error: NameError| {
        let simple = text.trim().to_lowercase().replace([' ', '_'], "-");
        let hint = simple.parse::<T>().is_ok().then(|| format!("did you mean {simple:?}?"));
        let NameError { kind, rule, .. } = error;
        let hint = hint.filter(|_| !simple.is_empty());
        invalid(format!("{} is not a valid {kind}: expected {rule}", quoted(text))).hint(hint)
    })
}

/// A SPIFFE trust domain, without its scheme.
pub(crate) fn trust_domain(text: &str) -> Result<TrustDomain, ValueProblem> {
    text.parse().map_err(|_: SpiffeError| {
        let simple = text.trim().to_lowercase();
        let simple = simple.strip_prefix("spiffe://").unwrap_or(&simple).trim_end_matches('/');
        let hint = simple.parse::<TrustDomain>().is_ok();
        invalid(format!(
            "{} is not a trust domain: expected 1 to 255 of a-z, 0-9, '.', '-' and '_', without spiffe://",
            quoted(text)
        ))
        .hint(hint.then(|| format!("did you mean {simple:?}?")))
    })
}

/// `IP:PORT`, IPv6 in brackets. Port 0 is left to the caller.
pub(crate) fn address(text: &str) -> Result<SocketAddr, ValueProblem> {
    text.parse().map_err(|_| {
        let named = dns_name(text)
            .is_some()
            .then(|| "names are resolved for links only; write the address".to_owned());
        invalid(format!("{} is not an address: expected IP:PORT", quoted(text)))
            .hint(address_hint(text).or(named))
    })
}

/// `IP:PORT` or `NAME:PORT`: where a peer may be dialled.
pub(crate) fn seed(text: &str) -> Result<Seed, ValueProblem> {
    if let Ok(address) = text.parse() {
        return dialable(address).map(Seed::Address);
    }
    match dns_name(text) {
        Some((_, 0)) => Err(port_zero()),
        Some((host, port)) => Ok(Seed::Name { host: host.to_lowercase().into(), port }),
        None => Err(invalid(format!(
            "{} is not an address: expected IP:PORT or NAME:PORT",
            quoted(text)
        ))
        .hint(address_hint(text))),
    }
}

/// An address that somebody can dial: not a wildcard, not port 0, not a group.
pub(crate) fn dialable(address: SocketAddr) -> Result<SocketAddr, ValueProblem> {
    let ip = address.ip().to_canonical();
    let cannot = |what: &str| Err(invalid(format!("{address} cannot be dialled: {what}")));
    if address.port() == 0 {
        Err(port_zero())
    } else if ip.is_unspecified() {
        cannot("it is the wildcard address")
    } else if ip.is_multicast() {
        cannot("it is a multicast address")
    } else if ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
        cannot("it is the broadcast address")
    } else {
        Ok(address)
    }
}

fn port_zero() -> ValueProblem {
    ValueProblem::new(ProblemKind::OutOfRange, "port 0 cannot be dialled: expected 1 to 65535")
}

fn address_hint(text: &str) -> Option<String> {
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Some(match ip {
            IpAddr::V4(ip) => format!("add a port: {ip}:PORT"),
            IpAddr::V6(ip) => {
                format!("put brackets around the address and add a port: [{ip}]:PORT")
            }
        });
    }
    if let Some((ip, port)) = text.rsplit_once(':')
        && let (Ok(ip), Ok(port)) = (ip.parse::<Ipv6Addr>(), port.parse::<u16>())
    {
        return Some(format!("did you mean \"[{ip}]:{port}\"?"));
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        return Some(format!("leave out {scheme}://: {}", quoted(rest.trim_end_matches('/'))));
    }
    if text.trim() != text {
        return Some("leave out the spaces".to_owned());
    }
    match text.rsplit_once(':') {
        Some((_, port)) if !port.is_empty() && port.bytes().all(|c| c.is_ascii_digit()) => {
            port.parse::<u16>().is_err().then(|| "a port is at most 65535".to_owned())
        }
        Some(_) => None,
        None => text.contains('.').then(|| "add a port, as in NAME:PORT".to_owned()),
    }
}

/// `NAME:PORT`, where the name could be one in DNS: a last label of digits would be a botched address.
fn dns_name(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let port = number_of(port)?.try_into().ok()?;
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_'))
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    let relative = host.strip_suffix('.').unwrap_or(host);
    let last = relative.rsplit('.').next()?;
    let named = !last.bytes().all(|c| c.is_ascii_digit());
    (host.len() <= 253 && relative.split('.').all(label) && named).then_some((host, port))
}

/// An IP address without a port.
pub(crate) fn ip(text: &str) -> Result<IpAddr, ValueProblem> {
    text.parse().map_err(|_| {
        let hint = match text.parse::<SocketAddr>() {
            Ok(address) => Some(format!("leave out the port: {}", address.ip())),
            Err(_) if text.contains('/') => Some("write one entry for each address".to_owned()),
            Err(_) => None,
        };
        invalid(format!("{} is not an IP address", quoted(text))).hint(hint)
    })
}

/// `ADDRESS/LENGTH`, an IPv4 range that can be local to a node.
pub(crate) fn range4(text: &str, lengths: &RangeInclusive<u8>) -> Result<IpPrefix, ValueProblem> {
    let (first, range) = range::<Ipv4Addr>(text, "198.18.0.0/15", lengths)?;
    let link_local = range.contains(Ipv4Addr::new(169, 254, 0, 0).into()) || first.is_link_local();
    let top = first.octets()[0];
    if link_local || matches!(top, 0 | 127 | 224..) {
        return Err(taken(text));
    }
    Ok(range)
}

/// `ADDRESS/LENGTH`, an IPv6 range that can be local to a node.
pub(crate) fn range6(text: &str, lengths: &RangeInclusive<u8>) -> Result<IpPrefix, ValueProblem> {
    let (first, range) = range::<Ipv6Addr>(text, "fd00:ad17::/64", lengths)?;
    // `::` has the loopback address and the mapped ones.
    if first.is_unicast_link_local() || first.is_multicast() || first.is_unspecified() {
        return Err(taken(text));
    }
    Ok(range)
}

/// Reads `ADDRESS/LENGTH`: the address and the range. The address is the first of it, otherwise the meaning is not clear.
fn range<T: FromStr + Copy + Into<IpAddr>>(
    text: &str,
    example: &str,
    lengths: &RangeInclusive<u8>,
) -> Result<(T, IpPrefix), ValueProblem> {
    let wrong = || {
        invalid(format!("{} is not a range: expected ADDRESS/LENGTH as {example}", quoted(text)))
    };
    let (address, length) = text.split_once('/').ok_or_else(wrong)?;
    let address: T = address.parse().map_err(|_| wrong())?;
    let range = IpPrefix::new(address, number(length, lengths)?);
    if address.into() == range.first() {
        return Ok((address, range));
    }
    Err(invalid(format!("{text} does not begin at its first address"))
        .hint(format!("did you mean {range}?")))
}

fn taken(text: &str) -> ValueProblem {
    invalid(format!("{text} has a meaning of its own in IP: expected a range that nobody uses"))
}

/// The key of a Kubernetes label.
pub(crate) fn label_key(text: &str) -> Result<String, ValueProblem> {
    let (prefix, name) = text.split_once('/').map_or((None, text), |(p, n)| (Some(p), n));
    let dns = |prefix: &str| {
        prefix.len() <= 253 && prefix.split('.').all(|l| l.parse::<Namespace>().is_ok())
    };
    if label(name) && !name.is_empty() && prefix.is_none_or(dns) {
        return Ok(text.to_owned());
    }
    Err(invalid(format!("{} is not the key of a label: expected [PREFIX/]NAME", quoted(text))))
}

/// The value of a Kubernetes label.
pub(crate) fn label_value(text: &str) -> Result<String, ValueProblem> {
    if label(text) {
        return Ok(text.to_owned());
    }
    Err(invalid(format!(
        "{} is not the value of a label: expected at most 63 letters, digits, '-', '_' and '.'",
        quoted(text)
    )))
}

fn label(text: &str) -> bool {
    let edge = |c: Option<&u8>| c.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
}

const DURATION: [(&str, u64); 5] =
    [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Parses a duration as the configuration writes it, for an option of a command: a whole number and `ms`, `s`,
/// `m`, `h` or `d`.
///
/// # Errors
/// A sentence for whoever wrote it, if it is no such text or out of `range`.
pub fn parse_duration(text: &str, range: &RangeInclusive<Duration>) -> Result<Duration, String> {
    duration(text, range).map_err(|problem| match problem.hint {
        Some(hint) => format!("{}; {hint}", problem.message),
        None => problem.message,
    })
}

/// A whole number and `ms`, `s`, `m`, `h` or `d`.
pub(crate) fn duration(
    text: &str,
    range: &RangeInclusive<Duration>,
) -> Result<Duration, ValueProblem> {
    const EXPECTED: &str = "expected a whole number and its unit, as in 100ms, 5s, 1m, 1h or 1d";
    let millis = parse_with_unit(text, &DURATION).map_err(|hint| {
        invalid(format!("{} is not a duration: {EXPECTED}", quoted(text))).hint(hint)
    })?;
    let duration = millis.map_or(Duration::MAX, Duration::from_millis);
    check_bounds(text, duration, range, |d| show(d.as_millis(), &DURATION))
}

const SIZE: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// A whole number and `B`, `KiB`, `MiB` or `GiB`.
pub(crate) fn size(text: &str, range: &RangeInclusive<u64>) -> Result<u64, ValueProblem> {
    const EXPECTED: &str = "expected a whole number and its unit, as in 256KiB, 8MiB or 1GiB";
    let bytes = parse_with_unit(text, &SIZE).map_err(|hint| {
        invalid(format!("{} is not a size: {EXPECTED}", quoted(text))).hint(hint)
    })?;
    check_bounds(text, bytes.unwrap_or(u64::MAX), range, |b| show_size(*b))
}

/// A size in its largest whole unit.
pub(crate) fn show_size(bytes: u64) -> String {
    show(u128::from(bytes), &SIZE)
}

/// The value in the smallest unit, `None` if it overflows; or a hint on what is wrong.
fn parse_with_unit(text: &str, units: &[(&str, u64)]) -> Result<Option<u64>, Option<String>> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let number = number_of(digits);
    if let (Some(number), Some((_, factor))) = (number, units.iter().find(|(u, _)| *u == unit)) {
        return Ok(number.checked_mul(*factor));
    }
    // `5 s`, `5sec`, `8mb`, `8Mi`, `5` are understood, but not guessed at.
    let meant = unit.trim().to_lowercase();
    let first = meant.chars().next();
    let near = match first {
        None => units.get(1),
        Some(_) if !meant.chars().all(char::is_alphabetic) => None,
        Some(c) => units.iter().find(|(u, _)| {
            u.eq_ignore_ascii_case(&meant)
                || (meant != "ms" && *u != "ms" && u.to_lowercase().starts_with(c))
        }),
    };
    Err(number.zip(near).map(|(number, (unit, _))| format!("did you mean {number}{unit}?")))
}

/// Writes a value in the largest unit that divides it.
fn show(value: u128, units: &[(&str, u64)]) -> String {
    let fits = |f: u64| value != 0 && value.is_multiple_of(u128::from(f));
    let (unit, factor) = units.iter().rev().find(|(_, f)| fits(*f)).unwrap_or(&units[0]);
    format!("{}{unit}", value / u128::from(*factor))
}

/// A whole number.
pub(crate) fn number<T>(text: &str, range: &RangeInclusive<T>) -> Result<T, ValueProblem>
where
    T: Copy + PartialOrd + Display + TryFrom<u64> + Into<u64>,
{
    let (low, high) = (*range.start(), *range.end());
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if unsigned.is_empty() || !unsigned.bytes().all(|c| c.is_ascii_digit()) {
        return Err(ValueProblem::new(
            ProblemKind::WrongType,
            format!("{} is not a whole number: expected {low} to {high}", quoted(text)),
        ));
    }
    let out = || {
        ValueProblem::new(
            ProblemKind::OutOfRange,
            format!("{text} is out of range: expected {low} to {high}"),
        )
    };
    if unsigned.len() > 1 && unsigned.starts_with('0') {
        let plain = unsigned.trim_start_matches('0');
        let plain = if plain.is_empty() { "0" } else { plain };
        return Err(invalid(format!(
            "{text} is ambiguous: expected a number without leading zeros"
        ))
        .hint(format!("write {plain}, or its value if this was meant to be octal")));
    }
    let value = number_of(text).and_then(|n| T::try_from(n).ok()).ok_or_else(out)?;
    if range.contains(&value) { Ok(value) } else { Err(out()) }
}

fn number_of(digits: &str) -> Option<u64> {
    let plain = !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit());
    plain.then(|| digits.parse().ok())?
}

fn check_bounds<T: PartialOrd>(
    text: &str,
    value: T,
    range: &RangeInclusive<T>,
    show: impl Fn(&T) -> String,
) -> Result<T, ValueProblem> {
    if range.contains(&value) {
        return Ok(value);
    }
    let (low, high) = (show(range.start()), show(range.end()));
    Err(ValueProblem::new(
        ProblemKind::OutOfRange,
        format!("{text} is out of range: expected {low} to {high}"),
    ))
}

/// Reads one of a few words.
pub(crate) fn choice<T: Copy>(
    text: &str,
    choices: &[(&'static str, T)],
) -> Result<T, ValueProblem> {
    if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let words = choices.iter().map(|(word, _)| *word);
    let hint = closest(text, words.clone()).map(|w| format!("did you mean {w}?"));
    let words: Vec<_> = words.collect();
    Err(invalid(format!("{} is not one of {}", quoted(text), words.join(", "))).hint(hint))
}

#[cfg(test)]
mod tests;
