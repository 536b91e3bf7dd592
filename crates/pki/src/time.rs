//! Times as certificates and people write them.
//!
//! Everything here is a function of its arguments: the clock belongs to the caller.

use std::time::Duration;

use jiff::SignedDuration;
use jiff::civil::DateTime;
use rustls_pki_types::UnixTime;

/// The beginning of a [`UnixTime`]. Its calendar is counted from here, not as jiff's `Timestamp`, which ends a day before
/// the last second that a certificate can write, and that second stands for "does not expire" (RFC 5280 §4.1.2.5).
const UNIX_EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);
/// The last second that a certificate can write.
const LAST_SECOND: DateTime = DateTime::constant(9999, 12, 31, 23, 59, 59, 0);

/// A time as RFC 3339 writes it, in UTC and whole seconds: `2026-11-21T10:30:00Z`. Times beyond the year 9999 are written as
/// its last second.
#[must_use]
pub fn rfc3339(time: UnixTime) -> String {
    let since = i64::try_from(time.as_secs()).map(SignedDuration::from_secs);
    let date = since.ok().and_then(|since| UNIX_EPOCH.checked_add(since).ok());
    format!("{}Z", date.unwrap_or(LAST_SECOND))
}

/// A length of time in its two largest units: `89d 23h`, `10m`, `0s`. These are the units in which `adit pki` takes a lifetime,
/// unlike those of `adit_core::text`.
#[must_use]
pub fn in_words(length: Duration) -> String {
    const DAY: u64 = 24 * 60 * 60;
    let secs = length.as_secs();
    let units = [(DAY, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let Some(first) = units.iter().position(|(unit, _)| secs >= *unit) else {
        return "0s".to_owned();
    };
    let (unit, name) = units[first];
    let mut words = format!("{}{name}", secs / unit);
    if let Some((next, name)) = units.get(first + 1) {
        let rest = secs % unit / next;
        if rest > 0 {
            words.push_str(&format!(" {rest}{name}"));
        }
    }
    words
}

/// `YYMMDDHHMMSSZ`, as RFC 5280 §4.1.2.5.1 reads its two-digit years.
pub(crate) fn utc_time(text: &[u8]) -> Option<UnixTime> {
    let (yy, rest) = text.split_at_checked(2)?;
    let yy = digits(yy)?;
    from_parts(if yy >= 50 { 1900 + yy } else { 2000 + yy }, rest)
}

/// `YYYYMMDDHHMMSSZ`, without fractions (RFC 5280 §4.1.2.5.2).
pub(crate) fn generalized_time(text: &[u8]) -> Option<UnixTime> {
    let (year, rest) = text.split_at_checked(4)?;
    from_parts(digits(year)?, rest)
}

fn from_parts(year: i16, rest: &[u8]) -> Option<UnixTime> {
    let two = |i: usize| i8::try_from(digits(rest.get(i..i + 2)?)?).ok();
    if rest.get(10..) != Some(b"Z") {
        return None;
    }
    // A 31st of a short month or a leap second is no date of the calendar.
    let date = DateTime::new(year, two(0)?, two(2)?, two(4)?, two(6)?, two(8)?, 0).ok()?;
    let secs = u64::try_from(date.duration_since(UNIX_EPOCH).as_secs()).ok()?;
    Some(UnixTime::since_unix_epoch(Duration::from_secs(secs)))
}

/// The number that up to four digits write.
fn digits(text: &[u8]) -> Option<i16> {
    text.iter().try_fold(0, |n, c| c.is_ascii_digit().then(|| n * 10 + i16::from(c - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn certificates_write_times_in_two_ways() {
        let text = |t: Option<UnixTime>| t.map(rfc3339);
        assert_eq!(text(utc_time(b"261121103000Z")).as_deref(), Some("2026-11-21T10:30:00Z"));
        assert_eq!(text(utc_time(b"991231235959Z")).as_deref(), Some("1999-12-31T23:59:59Z"));
        assert_eq!(
            text(generalized_time(b"20500229000000Z")),
            None,
            "2050 has no 29th of February"
        );
        assert_eq!(
            text(generalized_time(b"20520229000000Z")).as_deref(),
            Some("2052-02-29T00:00:00Z")
        );
        let forever = text(generalized_time(b"99991231235959Z"));
        assert_eq!(
            forever.as_deref(),
            Some("9999-12-31T23:59:59Z"),
            "a certificate without an end"
        );
        let beyond = UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX));
        assert_eq!(rfc3339(beyond), "9999-12-31T23:59:59Z");
        for bad in [
            &b""[..],
            b"2611211030Z",
            b"261121103000",
            b"261121103000+0100",
            b"261321103000Z",
            b"261121103060Z",
        ] {
            assert_eq!(utc_time(bad), None, "{bad:?}");
        }
        assert_eq!(generalized_time(b"20261121103000.5Z"), None);
        assert_eq!(generalized_time(b"19691231235959Z"), None, "before UnixTime begins");
    }

    #[test]
    fn lengths_are_told_in_two_units() {
        for (secs, words) in [
            (0, "0s"),
            (59, "59s"),
            (600, "10m"),
            (86_399, "23h 59m"),
            (90 * 86_400 - 1, "89d 23h"),
        ] {
            assert_eq!(in_words(Duration::from_secs(secs)), words);
        }
    }

    proptest! {
        #[test]
        fn every_second_reads_back(secs in 0u64..253_402_300_800) {
            let time = UnixTime::since_unix_epoch(Duration::from_secs(secs));
            let text = rfc3339(time).replace(['-', ':', 'T'], "");
            prop_assert_eq!(generalized_time(text.as_bytes()), Some(time));
        }

        #[test]
        fn any_text_ends(text in proptest::collection::vec(any::<u8>(), 0..20)) {
            let _: Option<UnixTime> = utc_time(&text).or_else(|| generalized_time(&text));
        }
    }
}
