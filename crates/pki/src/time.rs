//! Times as certificates and people write them.
//!
//! Everything here is a function of its arguments: the clock belongs to the caller.

use std::time::Duration;

use rustls_pki_types::UnixTime;

const DAY: u64 = 24 * 60 * 60;

/// A time as RFC 3339 writes it, in UTC and whole seconds: `2026-11-21T10:30:00Z`.
#[must_use]
pub fn rfc3339(time: UnixTime) -> String {
    let secs = time.as_secs();
    let (year, month, day) = civil(secs / DAY);
    let (h, m, s) = (secs % DAY / 3600, secs % 3600 / 60, secs % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}Z")
}

/// A length of time in its two largest units: `89d 23h`, `10m`, `0s`.
#[must_use]
pub fn in_words(length: Duration) -> String {
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

fn from_parts(year: u64, rest: &[u8]) -> Option<UnixTime> {
    let two = |i: usize| digits(rest.get(i..i + 2)?);
    let (month, day, h, m, s) = (two(0)?, two(2)?, two(4)?, two(6)?, two(8)?);
    let valid = rest.get(10..) == Some(b"Z")
        && year >= 1970
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && h < 24
        && m < 60
        && s < 60;
    let days = days(year, month, day);
    // The 31st of a short month would come back as a day of the next one.
    (valid && civil(days) == (year, month, day)).then(|| {
        UnixTime::since_unix_epoch(Duration::from_secs(days * DAY + h * 3600 + m * 60 + s))
    })
}

fn digits(text: &[u8]) -> Option<u64> {
    text.iter().try_fold(0, |n, c| c.is_ascii_digit().then(|| n * 10 + u64::from(c - b'0')))
}

/// Days from 1970-01-01 to a date of the Gregorian calendar, in years that begin in March, so that
/// the leap day is a year's last (H. Hinnant, "chrono-compatible low-level date algorithms").
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day.saturating_sub(1);
    (era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year).saturating_sub(719_468)
}

/// The date of a day counted from 1970-01-01; the inverse of [`days`].
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
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
        for bad in
            [&b""[..], b"2611211030Z", b"261121103000", b"261121103000+0100", b"261321103000Z"]
        {
            assert_eq!(utc_time(bad), None, "{bad:?}");
        }
        assert_eq!(generalized_time(b"20261121103000.5Z"), None);
    }

    #[test]
    fn lengths_are_told_in_two_units() {
        for (secs, words) in
            [(0, "0s"), (59, "59s"), (600, "10m"), (86_399, "23h 59m"), (90 * DAY - 1, "89d 23h")]
        {
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
