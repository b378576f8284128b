//! `logs`: past and new log lines.

use std::io::{self, Write};

use serde_json::Value as Json;

use super::api::{Api, cleaned, escape};
use super::args::LogsArgs;
use super::error::ClientError;
use super::model::LogView;
use super::table::{colours, paint};
use crate::printable::{json, one_line};

pub(super) fn logs(args: &LogsArgs) -> Result<(), ClientError> {
    let api = Api::new(&args.target)?;
    // Subscribing before reading past lines leaves no gap between them.
    let mut events = if args.follow { Some(api.events()?) } else { None };
    if let Some(events) = &mut events {
        events.next()?;
    }
    if let Some(work) = &args.work {
        api.of_work_raw(work, "")?;
    }
    let work = args.work.as_ref().map(|work| format!("&work={}", escape(work))).unwrap_or_default();
    let since = args.since.as_ref().map(|since| format!("&since={}", escape(since))).unwrap_or_default();
    let past = api.get_raw(&format!("logs?level={}&limit=1000{work}{since}", args.level))?;
    let mut last = 0;
    for item in past["items"].as_array().into_iter().flatten() {
        last = last.max(write(item, args.target.json)?);
    }
    let Some(mut events) = events else { return Ok(()) };
    while let Some(event) = events.next()? {
        if event.name != "log" {
            continue;
        }
        let Ok(item) = serde_json::from_str::<Json>(&event.data) else { continue };
        let seq = item["seq"].as_u64().unwrap_or_default();
        let is_meant = args.work.as_ref().is_none_or(|work| item["work"] == work.as_str());
        if seq > last && is_meant && rank(item["level"].as_str().unwrap_or_default()) <= rank(&args.level) {
            last = write(&item, args.target.json)?;
        }
    }
    Ok(())
}

/// Writes a line and returns its sequence number.
fn write(item: &Json, as_it_came: bool) -> Result<u64, ClientError> {
    let mut out = io::stdout().lock();
    let line: LogView = serde_json::from_value(cleaned(item.clone())).unwrap_or_default();
    if as_it_came {
        writeln!(out, "{}", json(&item.to_string()))?;
    } else {
        let work = line.work.map(|work| format!(" {}:", one_line(&work))).unwrap_or_default();
        let level = one_line(&line.level);
        let level = paint(&format!("{:5}", level.to_uppercase()), &level.to_lowercase(), colours());
        // The text may have several lines; it was sanitised as a whole.
        writeln!(out, "{} {level}{work} {}", one_line(&line.time), line.text)?;
    }
    Ok(line.seq)
}

fn rank(level: &str) -> usize {
    let levels = ["error", "warn", "info", "debug", "trace"];
    levels.iter().position(|name| name.eq_ignore_ascii_case(level)).unwrap_or(levels.len())
}
