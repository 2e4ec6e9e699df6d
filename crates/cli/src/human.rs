//! Durations, times and sizes as people write and read them.

use jiff::{SignedDuration, Timestamp};
use model::ByteSize;

const DAY: i64 = 86_400;

/// A span of time in its largest whole unit: `3s`, `12m`, `5h`, `9d`, `3w`, `2y`. Negative spans count as none: clocks
/// step.
pub fn duration(seconds: i64) -> String {
    // From how many seconds on, the unit's length in seconds, its name: at least two of a unit, so that little is lost.
    const UNITS: [(i64, i64, &str); 6] = [
        (365 * DAY, 365 * DAY, "y"),
        (14 * DAY, 7 * DAY, "w"),
        (2 * DAY, DAY, "d"),
        (7_200, 3_600, "h"),
        (120, 60, "m"),
        (0, 1, "s"),
    ];
    let seconds = seconds.max(0);
    let (_, length, unit) = UNITS.iter().find(|(least, ..)| seconds >= *least).unwrap_or(&UNITS[5]);
    format!("{}{unit}", seconds / length)
}

/// How long ago `then` was, as [`duration`].
pub fn since(then: Timestamp, now: Timestamp) -> String {
    duration(now.duration_since(then).as_secs())
}

/// A size in binary units without space and with three digits at most before the unit: `0B`, `64MiB`, `1.5GiB`.
pub fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string().replace(' ', "")
}

/// A point in time: RFC 3339 (`2026-01-31T08:00:00Z`), a date (midnight UTC), seconds since 1970, or a span before now
/// (`90s`, `10m`, `1h30m`, `2d`).
///
/// # Errors
/// A sentence that says what was expected.
pub fn time(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let expected = || {
        format!(
            "`{text}` is not a time: expected RFC 3339 such as 2026-01-31T08:00:00Z, or a span before now such as 10m"
        )
    };
    if let Some(span) = span(text) {
        return now.checked_sub(span).map_err(|_| expected());
    }
    if let Some(time) = seconds_since_1970(text) {
        return Ok(time);
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    text.parse::<jiff::civil::Date>()
        .ok()
        .and_then(|date| date.to_zoned(jiff::tz::TimeZone::UTC).ok())
        .map(|midnight| midnight.timestamp())
        .ok_or_else(expected)
}

fn seconds_since_1970(text: &str) -> Option<Timestamp> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if fraction.is_empty() || fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanos = format!("{fraction:0<9}").parse().ok()?;
    Timestamp::new(whole.parse().ok()?, nanos).ok()
}

/// A span such as `90s`, `1h30m`, `2d`, `250ms`; every part needs its unit.
pub fn span(text: &str) -> Option<SignedDuration> {
    let mut rest = text.strip_prefix('-').unwrap_or(text);
    if rest.is_empty() {
        return None;
    }
    let mut total = SignedDuration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let millis: i64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 7 * 86_400_000,
            _ => return None,
        };
        let part = number.parse::<i64>().ok()?.checked_mul(millis)?;
        total = total.checked_add(SignedDuration::from_millis(part))?;
        rest = tail;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_show_one_unit() {
        for (seconds, text) in [
            (-5, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (7_199, "119m"),
            (7_200, "2h"),
            (172_799, "47h"),
            (172_800, "2d"),
            (14 * 86_400, "2w"),
            (365 * 86_400, "1y"),
        ] {
            assert_eq!(duration(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn sizes_have_no_space() {
        assert_eq!(size(0), "0B");
        assert_eq!(size(64 << 20), "64MiB");
        assert_eq!(size(3 << 29), "1.5GiB");
    }

    #[test]
    fn times() {
        let now: Timestamp = "2026-02-01T12:00:00Z".parse().unwrap();
        for (text, expected) in [
            ("10m", "2026-02-01T11:50:00Z"),
            ("1h30m", "2026-02-01T10:30:00Z"),
            ("2d", "2026-01-30T12:00:00Z"),
            ("2026-01-31T08:00:00Z", "2026-01-31T08:00:00Z"),
            ("2026-01-31T08:00:00+01:00", "2026-01-31T07:00:00Z"),
            ("2026-01-31", "2026-01-31T00:00:00Z"),
            ("1769846400", "2026-01-31T08:00:00Z"),
            ("1769846400.5", "2026-01-31T08:00:00.5Z"),
        ] {
            assert_eq!(time(text, now), Ok(expected.parse().unwrap()), "{text}");
        }
        for text in ["", "yesterday", "10x", "m", "1h30", "-", "1.", "2026-13-01", "99999999999999999999s"] {
            assert!(time(text, now).is_err(), "{text}");
        }
    }
}
