//! Sizes and spans of time as people read them, the same in the log and in `adit status`.

/// A size for people, in binary units with at most one decimal.
#[must_use]
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let power = (n.ilog2() / 10) as usize;
    let unit = 1_u64 << (10 * power);
    let tenths = u128::from(n) * 10 / u128::from(unit);
    let name = UNITS[power - 1];
    if tenths < 100 {
        format!("{}.{} {name}", tenths / 10, tenths % 10)
    } else {
        format!("{} {name}", tenths / 10)
    }
}

/// A span of time for people, from milliseconds.
#[must_use]
pub fn span(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0 => format!("{ms} ms"),
        1..60 => format!("{s}.{} s", ms % 1000 / 100),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3600),
    }
}

/// The same from whole seconds.
#[must_use]
pub fn seconds(s: u64) -> String {
    if s < 60 { format!("{s} s") } else { span(s.saturating_mul(1000)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_spans_are_short() {
        let sizes = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (10_240, "10 KiB"),
            (u64::MAX, "15 EiB"),
        ];
        assert!(sizes.iter().all(|(n, s)| bytes(*n) == *s), "{:?}", sizes.map(|(n, _)| bytes(n)));
        let spans = [
            (7, "7 ms"),
            (1250, "1.2 s"),
            (61_000, "1 min 1 s"),
            (7_260_000, "2 h 1 min"),
            (90_000_000, "1 d 1 h"),
        ];
        assert_eq!((seconds(0), seconds(90)), ("0 s".into(), "1 min 30 s".into()));
        assert!(spans.iter().all(|(n, s)| span(*n) == *s), "{:?}", spans.map(|(n, _)| span(n)));
    }
}
