//! Values one by one: what is taken, what is refused, and what is said about it.

use adit_core::name::{ClusterName, PortName, ServiceName};

use super::*;

fn said<T>(result: Result<T, ValueProblem>) -> String {
    match result {
        Ok(_) => "taken".to_owned(),
        Err(ValueProblem { message, hint: None, .. }) => message,
        Err(ValueProblem { message, hint: Some(hint), .. }) => format!("{message} ({hint})"),
    }
}

#[test]
fn addresses() {
    for good in ["0.0.0.0:7843", "127.0.0.1:0", "[::]:7843", "[fd00::1]:65535"] {
        assert_eq!(address(good).unwrap().to_string(), good);
    }
    const NOT: &str = "is not an address: expected IP:PORT";
    for (bad, expected) in [
        ("10.0.0.300:7843", format!("\"10.0.0.300:7843\" {NOT}")),
        ("10.0.0.1", format!("\"10.0.0.1\" {NOT} (add a port: 10.0.0.1:PORT)")),
        ("10.0.0.1:", format!("\"10.0.0.1:\" {NOT}")),
        ("10.0.0.1:65536", format!("\"10.0.0.1:65536\" {NOT} (a port is at most 65535)")),
        (":7843", format!("\":7843\" {NOT}")),
        ("", format!("\"\" {NOT}")),
        (
            "fd00::1",
            format!(
                "\"fd00::1\" {NOT} (put brackets around the address and add a port: [fd00::1]:PORT)"
            ),
        ),
        (
            "1:2:3:4:5:6:7:8:7843",
            format!("\"1:2:3:4:5:6:7:8:7843\" {NOT} (did you mean \"[1:2:3:4:5:6:7:8]:7843\"?)"),
        ),
        (" 10.0.0.1:1", format!("\" 10.0.0.1:1\" {NOT} (leave out the spaces)")),
        (
            "https://10.0.0.1:7843/",
            format!("\"https://10.0.0.1:7843/\" {NOT} (leave out https://: \"10.0.0.1:7843\")"),
        ),
        (
            "bank.example:7843",
            format!(
                "\"bank.example:7843\" {NOT} (names are resolved for links only; write the address)"
            ),
        ),
    ] {
        assert_eq!(said(address(bad)), expected, "{bad}");
    }
}

#[test]
fn seeds_are_addresses_or_names_with_a_port() {
    for good in ["10.0.0.1:7843", "[fd00::1]:7843", "bank.example:7843", "bank:1", "a_b.c.:9"] {
        assert_eq!(seed(good).unwrap().to_string(), good);
    }
    assert_eq!(seed("Bank.Example:7843").unwrap().to_string(), "bank.example:7843");
    const NOT: &str = "is not an address: expected IP:PORT or NAME:PORT";
    for bad in
        ["10.0.0.300:7843", "1:7843", "bank..example:7843", "-a:1", "a b:1", "bank:", "bänk:1"]
    {
        assert_eq!(said(seed(bad)), format!("{bad:?} {NOT}"));
    }
    assert_eq!(
        said(seed("bank.example")),
        format!("\"bank.example\" {NOT} (add a port, as in NAME:PORT)")
    );
    assert_eq!(said(seed("bank:70000")), format!("\"bank:70000\" {NOT} (a port is at most 65535)"));
    for (bad, why) in [
        ("bank:0", "port 0 cannot be dialled: expected 1 to 65535"),
        ("10.0.0.1:0", "port 0 cannot be dialled: expected 1 to 65535"),
        ("0.0.0.0:1", "0.0.0.0:1 cannot be dialled: it is the wildcard address"),
        ("[::ffff:0.0.0.0]:1", "[::ffff:0.0.0.0]:1 cannot be dialled: it is the wildcard address"),
        ("224.0.0.1:1", "224.0.0.1:1 cannot be dialled: it is a multicast address"),
        ("255.255.255.255:1", "255.255.255.255:1 cannot be dialled: it is the broadcast address"),
    ] {
        assert_eq!(said(seed(bad)), why);
    }
}

#[test]
fn ip_addresses() {
    assert!(ip("127.0.1.10").is_ok() && ip("fd00::1").is_ok());
    assert_eq!(
        said(ip("127.0.1.10:80")),
        "\"127.0.1.10:80\" is not an IP address (leave out the port: 127.0.1.10)"
    );
    assert_eq!(
        said(ip("10.0.0.0/8")),
        "\"10.0.0.0/8\" is not an IP address (write one entry for each address)"
    );
}

#[test]
fn durations() {
    let any = Duration::ZERO..=Duration::from_secs(3600);
    for (text, millis) in
        [("0s", 0), ("100ms", 100), ("5s", 5000), ("1m", 60_000), ("1h", 3_600_000)]
    {
        assert_eq!(duration(text, &any).unwrap(), Duration::from_millis(millis), "{text}");
    }
    const NOT: &str =
        "is not a duration: expected a whole number and its unit, as in 100ms, 5s, 1m, 1h or 1d";
    for (bad, hint) in [
        ("5", " (did you mean 5s?)"),
        ("5 s", " (did you mean 5s?)"),
        ("5S", " (did you mean 5s?)"),
        ("5sec", " (did you mean 5s?)"),
        ("5min", " (did you mean 5m?)"),
        ("5MS", " (did you mean 5ms?)"),
        ("2hours", " (did you mean 2h?)"),
        ("1day", " (did you mean 1d?)"),
        ("1w", ""),
        ("1.5s", ""),
        ("-5s", ""),
        ("s", ""),
        ("", ""),
        ("1h30m", ""),
    ] {
        assert_eq!(said(duration(bad, &any)), format!("{bad:?} {NOT}{hint}"));
    }
    let month = Duration::ZERO..=Duration::from_secs(30 * 86_400);
    assert_eq!(duration("30d", &month).unwrap(), *month.end());
    assert_eq!(said(duration("61m", &any)), "61m is out of range: expected 0ms to 1h");
    assert_eq!(
        said(duration("99999999999999999h", &any)),
        "99999999999999999h is out of range: expected 0ms to 1h"
    );
}

#[test]
fn sizes() {
    let any = 1024..=8 << 30;
    for (text, bytes) in
        [("4096B", 4096), ("256KiB", 256 << 10), ("8MiB", 8 << 20), ("8GiB", 8 << 30)]
    {
        assert_eq!(size(text, &any).unwrap(), bytes, "{text}");
    }
    const NOT: &str =
        "is not a size: expected a whole number and its unit, as in 256KiB, 8MiB or 1GiB";
    for (bad, hint) in [
        ("8MB", " (did you mean 8MiB?)"),
        ("8Mi", " (did you mean 8MiB?)"),
        ("8m", " (did you mean 8MiB?)"),
        ("8 mib", " (did you mean 8MiB?)"),
        ("8G", " (did you mean 8GiB?)"),
        ("8k", " (did you mean 8KiB?)"),
        ("8TiB", ""),
        ("1.5MiB", ""),
        ("-1KiB", ""),
        ("MiB", ""),
    ] {
        assert_eq!(said(size(bad, &any)), format!("{bad:?} {NOT}{hint}"));
    }
    assert_eq!(said(size("16GiB", &any)), "16GiB is out of range: expected 1KiB to 8GiB");
    assert_eq!(said(size("1023B", &any)), "1023B is out of range: expected 1KiB to 8GiB");
}

#[test]
fn numbers() {
    let ports = 1..=65535_u16;
    assert_eq!(number("8080", &ports).unwrap(), 8080);
    for (bad, why) in [
        ("0", "0 is out of range: expected 1 to 65535"),
        ("65536", "65536 is out of range: expected 1 to 65535"),
        ("-1", "-1 is out of range: expected 1 to 65535"),
        ("99999999999999999999", "99999999999999999999 is out of range: expected 1 to 65535"),
        ("8080.0", "\"8080.0\" is not a whole number: expected 1 to 65535"),
        ("0x1f90", "\"0x1f90\" is not a whole number: expected 1 to 65535"),
        ("8_080", "\"8_080\" is not a whole number: expected 1 to 65535"),
        ("", "\"\" is not a whole number: expected 1 to 65535"),
        (
            "0644",
            "0644 is ambiguous: expected a number without leading zeros (write 644, or its value if this was meant to be octal)",
        ),
    ] {
        assert_eq!(said(number(bad, &ports)), why);
    }
}

#[test]
fn names_say_their_rule_and_the_nearest_right_one() {
    const LABEL: &str =
        "expected 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit";
    assert_eq!(
        said(name::<ClusterName>("Edge_1")),
        format!("\"Edge_1\" is not a valid cluster name: {LABEL} (did you mean \"edge-1\"?)")
    );
    assert_eq!(said(name::<ClusterName>("")), format!("\"\" is not a valid cluster name: {LABEL}"));
    assert!(said(name::<ServiceName>("fraud-bot")).ends_with("each 1 to 63 of a-z, 0-9 and '-'"));
    assert!(said(name::<PortName>(" ")).starts_with("\" \" is not a valid port name"));
    assert_eq!(
        said(trust_domain("spiffe://Bank.example/")),
        "\"spiffe://Bank.example/\" is not a trust domain: expected 1 to 255 of a-z, 0-9, '.', '-' and '_', without spiffe:// (did you mean \"bank.example\"?)"
    );
}

#[test]
fn choices() {
    let hops = [("any", 1), ("sameNode", 2)];
    assert_eq!(choice("sameNode", &hops).unwrap(), 2);
    assert_eq!(
        said(choice("samenode", &hops)),
        "\"samenode\" is not one of any, sameNode (did you mean sameNode?)"
    );
    assert_eq!(said(choice("never", &hops)), "\"never\" is not one of any, sameNode");
}
