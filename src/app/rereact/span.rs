//! A range of moments, as people write it.

use std::str::FromStr;

use thiserror::Error;

use crate::app::history::At;

/// A range of moments of an App; a border that is `None` is that of the history.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Span {
    pub(crate) from: Option<At>,
    pub(crate) to: Option<At>,
}

/// Error returned for a text that is no range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum NoSpan {
    #[error(
        "write a position such as 17, a time such as 2026-11-24T19:00:00Z, or a range of these such as 17..40, 17.. or ..40"
    )]
    Malformed,
    #[error("the range ends before it begins; write the earlier moment first")]
    Backwards,
}

impl FromStr for Span {
    type Err = NoSpan;

    fn from_str(text: &str) -> Result<Self, NoSpan> {
        let moment = |text: &str| match text {
            "" => Ok(None),
            text => text.parse::<At>().map(Some).map_err(|_| NoSpan::Malformed),
        };
        let span = match text.split_once("..") {
            Some((from, to)) => Self { from: moment(from)?, to: moment(to)? },
            None => {
                let only = moment(text)?.ok_or(NoSpan::Malformed)?;
                Self { from: Some(only), to: Some(only) }
            }
        };
        let is_backwards = match (span.from, span.to) {
            (Some(At::Position(from)), Some(At::Position(to))) => from > to,
            (Some(At::Time(from)), Some(At::Time(to))) => from > to,
            _ => false,
        };
        if is_backwards { Err(NoSpan::Backwards) } else { Ok(span) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    /// Ranges have one or two borders, which are positions or times; anything else is refused with what to write.
    #[test]
    fn span_is_read_from_text() {
        let span = |text: &str| text.parse::<Span>();
        let positions = |from, to| Ok(Span { from, to });
        let at = |position| Some(At::Position(position));
        assert_eq!(span("17"), positions(at(17), at(17)));
        assert_eq!(span("17..40"), positions(at(17), at(40)));
        assert_eq!(span("17.."), positions(at(17), None));
        assert_eq!(span("..40"), positions(None, at(40)));
        assert_eq!(span(".."), positions(None, None));
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_500);
        assert_eq!(span("3..1970-01-01T00:00:01.5Z"), positions(at(3), Some(At::Time(time))));
        for garbage in ["", "x", "1..x", "-3", "1...2", "1-2", "1..2..3", " 1"] {
            assert_eq!(span(garbage), Err(NoSpan::Malformed), "{garbage:?}");
        }
        assert_eq!(span("40..17"), Err(NoSpan::Backwards));
        assert_eq!(span("1970-01-02T00:00:00Z..1970-01-01T00:00:00Z"), Err(NoSpan::Backwards));
    }
}
