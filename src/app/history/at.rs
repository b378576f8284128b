//! A moment of an App, as people write it.

use std::str::FromStr;
use std::time::SystemTime;

use chrono::DateTime;
use thiserror::Error;

/// A moment of an App.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum At {
    Position(u64),
    Time(SystemTime),
}

/// A range of moments, both of which belong to it.
#[cfg(feature = "cli")]
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct AtRange {
    /// `None` for the first moment that the journal has.
    pub(crate) from: Option<At>,
    /// `None` for the last one.
    pub(crate) to: Option<At>,
}

/// Error returned for a text that is no range of moments.
#[cfg(feature = "cli")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "write a position such as 17, a range such as 17..42, 17.. or ..42, or a range of times such as \
     2026-11-24T19:00:00Z..2026-11-24T20:00:00Z"
)]
pub(crate) struct NoRange;

#[cfg(feature = "cli")]
impl FromStr for AtRange {
    type Err = NoRange;

    fn from_str(text: &str) -> Result<Self, NoRange> {
        let moment = |text: &str| match text {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| NoRange),
        };
        let range = match text.split_once("..") {
            Some((from, to)) => Self { from: moment(from)?, to: moment(to)? },
            None => {
                let at = Some(text.parse().map_err(|_| NoRange)?);
                Self { from: at, to: at }
            }
        };
        match range {
            Self { from: Some(At::Position(from)), to: Some(At::Position(to)) } if from > to => Err(NoRange),
            range => Ok(range),
        }
    }
}

/// Error returned for a text that is no moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("write a position such as 17, or a time such as 2026-11-24T19:00:00Z")]
pub(crate) struct NoMoment;

impl FromStr for At {
    type Err = NoMoment;

    fn from_str(text: &str) -> Result<Self, NoMoment> {
        if let Ok(position) = text.parse() {
            return Ok(Self::Position(position));
        }
        DateTime::parse_from_rfc3339(text).map(|time| Self::Time(time.into())).map_err(|_| NoMoment)
    }
}
