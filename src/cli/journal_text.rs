//! Texts that the commands for journals have in common.

use std::io::{self, Write};
use std::time::SystemTime;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::Value as Json;

use crate::printable;

/// Returns a time as text, in UTC with milliseconds.
pub(super) fn time(time: SystemTime) -> String {
    DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Writes JSON for people.
pub(super) fn pretty(out: &mut dyn Write, value: &Json) -> io::Result<()> {
    out.write_all(printable::json(&format!("{value:#}\n")).as_bytes())
}
