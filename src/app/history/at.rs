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
