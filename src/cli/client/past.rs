//! The past of a running App with a journal.

use std::fmt::Write as _;

use serde_json::{Value as Json, json};

use super::api::{Api, escape};
use super::args::{DiffArgs, HistoryArgs, WhyArgs};
use super::error::ClientError;
use super::show::{as_json, either};
use super::watch::Picture;
use crate::cli::past_text::{diff_document, diff_text, event_line, why_text};

/// Number of differences of a page.
const DIFFERENCES: u32 = 10_000;

/// Number of runs of a page.
const RUNS: u32 = 100;

pub(super) fn history(api: &Api, args: &HistoryArgs, json: bool) -> Picture {
    let HistoryArgs { path, from, to, limit, .. } = args;
    let mut query = format!("history?limit={limit}");
    for (name, value) in [("from", from), ("to", to)] {
        if let Some(value) = value {
            query.push_str(&format!("&{name}={value}"));
        }
    }
    if let Some(path) = path {
        query.push_str(&format!("&path={}", escape(path)));
    }
    either(json, api.past(&query)?, |page: Json, out| {
        use std::io::Write as _;

        if let Some(older) = page["older"].as_u64() {
            writeln!(out, "older events are left out; --to {older} or a larger --limit shows them")?;
        }
        for event in page["items"].as_array().into_iter().flatten() {
            writeln!(out, "{}", event_line(event))?;
        }
        match page["newer"].as_u64() {
            Some(newer) => writeln!(out, "newer events are left out; --from {newer} shows them"),
            None => Ok(()),
        }
    })
}

pub(super) fn diff(api: &Api, args: &DiffArgs, json: bool) -> Picture {
    let DiffArgs { a, b, path, .. } = args;
    let (mut from, mut to) = (escape(a), b.as_deref().map(escape));
    let (mut stages, mut state) = (Vec::new(), Vec::new());
    let mut after = 0;
    loop {
        let mut query = format!("diff?from={from}&after={after}&limit={DIFFERENCES}");
        for (name, value) in [("to", to.clone()), ("path", path.as_deref().map(escape))] {
            if let Some(value) = value {
                let _ = write!(query, "&{name}={value}");
            }
        }
        let page = api.past(&query)?;
        let position = |name: &str| page[name]["position"].as_u64().ok_or_else(|| api.strange("no position"));
        let (a, b) = (position("from")?, position("to")?);
        for item in page["items"].as_array().into_iter().flatten() {
            let mut item = item.clone();
            let kind = item.as_object_mut().and_then(|item| item.remove("kind"));
            if kind == Some("stage".into()) { &mut stages } else { &mut state }.push(item);
        }
        match page["next"].as_u64() {
            Some(next) => after = next,
            None => {
                let document = diff_document(a, b, stages, state);
                return Ok(if json { as_json(&document) } else { diff_text(&document) });
            }
        }
        // All pages are of the same two positions.
        (from, to) = (a.to_string(), Some(b.to_string()));
    }
}

pub(super) fn why(api: &Api, args: &WhyArgs, json: bool) -> Picture {
    let WhyArgs { work, run, .. } = args;
    let first = format!("why?work={}&run={run}&limit={RUNS}", escape(work));
    let (mut items, mut query) = (Vec::new(), first.clone());
    loop {
        let page = api.past(&query)?;
        items.extend(page["items"].as_array().into_iter().flatten().cloned());
        match page["next"].as_str() {
            Some(next) => query = format!("{first}&cursor={}", escape(next)),
            None => break,
        }
    }
    if items.is_empty() {
        return Err(ClientError::NoRun { work: work.clone(), run: *run });
    }
    let document = json!({ "items": items });
    Ok(if json { as_json(&document) } else { why_text(&document) })
}
