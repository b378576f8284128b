//! Times and JSON, as the commands for a journal write them.

use std::io::{self, Write};
use std::time::SystemTime;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::Value as Json;

use crate::printable;

/// Formats a time as RFC 3339, in UTC, with milliseconds.
pub(super) fn time(time: SystemTime) -> String {
    DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Writes indented JSON.
pub(super) fn pretty(out: &mut dyn Write, value: &Json) -> io::Result<()> {
    out.write_all(printable::json(&format!("{value:#}\n")).as_bytes())
}
