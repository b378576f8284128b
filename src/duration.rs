//! Durations as people write them: `90s`, `5m`, `1h30m`.

use std::time::Duration;

use thiserror::Error;

/// The units, the longest first, with their lengths in milliseconds.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Error returned for a text that is no duration.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("write a duration as 90s, 5m, 4h, 1d or 1h30m")]
pub(crate) struct BadDuration;

/// Parses whole numbers with the units `d`, `h`, `m`, `s` and `ms`, the longest unit first and each at most once.
///
/// # Errors
/// [`BadDuration`], also if the duration exceeds 2^64 milliseconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, BadDuration> {
    let (mut rest, mut units, mut total) = (text, &UNITS[..], 0_u64);
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit()).ok_or(BadDuration)?;
        let (number, behind) = rest.split_at(digits);
        let end = behind.find(|letter: char| letter.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(end);
        let at = units.iter().position(|(name, _)| *name == unit).ok_or(BadDuration)?;
        let number: u64 = number.parse().map_err(|_| BadDuration)?;
        let part = number.checked_mul(units[at].1).ok_or(BadDuration)?;
        total = total.checked_add(part).ok_or(BadDuration)?;
        (rest, units) = (behind, &units[at + 1..]);
    }
    if text.is_empty() { Err(BadDuration) } else { Ok(Duration::from_millis(total)) }
}

/// Parses a duration like [`parse_duration`] that must be longer than zero.
///
/// # Errors
/// [`BadDuration`].
pub(crate) fn parse_positive_duration(text: &str) -> Result<Duration, BadDuration> {
    parse_duration(text).and_then(|time| if time.is_zero() { Err(BadDuration) } else { Ok(time) })
}

/// Writes a duration as [`parse_duration`] reads it, down to milliseconds.
pub(crate) fn write_duration(time: Duration) -> String {
    let mut millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, length) in UNITS {
        if millis >= length {
            text.push_str(&format!("{}{unit}", millis / length));
            millis %= length;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read_with_their_units() {
        let seconds = |text: &str| parse_duration(text).map(|time| time.as_secs_f64());
        assert_eq!(seconds("90s"), Ok(90.0));
        assert_eq!(seconds("5m"), Ok(300.0));
        assert_eq!(seconds("4h"), Ok(14_400.0));
        assert_eq!(seconds("1d"), Ok(86_400.0));
        assert_eq!(seconds("1h30m"), Ok(5_400.0));
        assert_eq!(seconds("1m250ms"), Ok(60.25));
        assert_eq!(seconds("0s"), Ok(0.0));
        assert_eq!(parse_positive_duration("0s"), Err(BadDuration));
        assert_eq!(write_duration(Duration::from_secs(5_400)), "1h30m");
        assert_eq!(write_duration(Duration::ZERO), "0s");
    }

    #[test]
    fn texts_without_unit_or_in_disorder_are_refused() {
        for bad in ["", "5", "m", "-5m", "5 m", "5M", "1m1h", "1m1m", "5ä", "1.5h", "99999999999999999999s"]
        {
            assert_eq!(parse_duration(bad), Err(BadDuration), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn duration_that_is_written_is_read_as_the_same(millis: u64) {
            let time = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&write_duration(time)), Ok(time));
        }

        #[test]
        fn text_of_any_kind_is_read_without_panic(text in ".{0,12}") {
            let _ = parse_duration(&text);
        }
    }
}
