//! `logs`: past and new log lines.

use std::io::{self, Write};

use chrono::{DateTime, SecondsFormat, Utc};
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

/// Converts a span before now, or a time, to a time of the API (RFC 3339).
pub(super) fn since(text: &str) -> Result<String, String> {
    since_at(text, Utc::now())
}

fn since_at(text: &str, now: DateTime<Utc>) -> Result<String, String> {
    if DateTime::parse_from_rfc3339(text).is_ok() {
        return Ok(text.to_owned());
    }
    let wrong = || "write it as 90s, 10m, 2h or 1d, or as a time such as 2026-11-24T19:00:00Z".to_owned();
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3_600,
        Some('d') => 86_400,
        _ => return Err(wrong()),
    };
    let number: u32 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    let ago = chrono::TimeDelta::try_seconds(i64::from(number) * unit).ok_or_else(wrong)?;
    let time = now.checked_sub_signed(ago).ok_or_else(wrong)?;
    Ok(time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_counted_back_from_now() {
        let now = "2026-11-24T19:00:00Z".parse().unwrap();
        assert_eq!(since_at("90s", now).unwrap(), "2026-11-24T18:58:30.000Z");
        assert_eq!(since_at("1d", now).unwrap(), "2026-11-23T19:00:00.000Z");
        assert_eq!(since_at("2026-11-24T19:00:00+01:00", now).unwrap(), "2026-11-24T19:00:00+01:00");
        for bad in ["", "m", "10", "-5m", "ten minutes", "5ä", "4294967295d"] {
            assert!(since_at(bad, now).is_err(), "{bad}");
        }
    }
}
