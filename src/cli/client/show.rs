//! Tables of Works, nodes, runs, payloads and topics.

use std::io::Write;

use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use super::api::{Api, cleaned};
use super::error::ClientError;
use super::model::{
    Document, Items, JournalView, Kept, Load, NodeView, PayloadView, RunsPage, TopicView, WorkView,
};
use super::table::{Table, bytes, clock, colours, cut, seconds_between, span, stage, type_name};
use super::watch::Picture;
use crate::printable::{json, one_line};

/// Formats an answer as indented JSON. Control characters in strings are escaped, which does not change their meaning.
pub(super) fn as_json(value: &Json) -> String {
    json(&format!("{value:#}\n")).into_owned()
}

/// Returns the answer as JSON, or laid out for people.
pub(super) fn either<T: DeserializeOwned>(
    as_it_came: bool,
    value: Json,
    lay_out: impl FnOnce(T, &mut Vec<u8>) -> std::io::Result<()>,
) -> Picture {
    if as_it_came {
        return Ok(as_json(&value));
    }
    let strange = |error: serde_json::Error| {
        ClientError::Refused(format!("the App's answer is not understood: {error}"))
    };
    let mut out = Vec::new();
    lay_out(serde_json::from_value(cleaned(value)).map_err(strange)?, &mut out)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

pub(super) fn status(api: &Api, json: bool) -> Picture {
    either(json, api.get_raw("status")?, |document: Document, out| {
        writeln!(out, "{}", headline(&document))?;
        if let Some(safe_mode) = &document.app.safe_mode {
            let reason = one_line(&safe_mode.reason).into_owned();
            writeln!(out, "safe mode: {reason}; nothing goes on until `resume`")?;
        }
        let mut table = Table::new(&["WORK", "STAGE", "WHERE", "SINCE", "RUNS", "MAILBOX", "WHY"]);
        for (path, work) in &document.works {
            table.row(vec![
                path.as_str().into(),
                stage(work.shown_stage()),
                place(work).into(),
                age(work).into(),
                runs_of(work).into(),
                mailbox(work).into(),
                why(work).into(),
            ]);
        }
        if let Some(journal) = &document.app.journal {
            writeln!(out, "{}", one_line(&journal_line(journal)))?;
        }
        for (path, flow) in document.flows.iter().filter(|(_, flow)| flow.stage == "failed") {
            writeln!(out, "flow {path} failed: {}", one_line(flow.message.as_deref().unwrap_or_default()))?;
        }
        if document.works.is_empty() {
            return writeln!(out, "no Works yet");
        }
        writeln!(out)?;
        table.write(out, colours())
    })
}

/// Returns the headline: name, version, stage and uptime of the App.
pub(super) fn headline(document: &Document) -> String {
    let app = &document.app;
    let name = if app.name.is_empty() { "App" } else { &app.name };
    let up = seconds_between(app.started.as_deref(), None)
        .map(|up| format!(", up {}", span(up)))
        .unwrap_or_default();
    let join = app.listening.as_ref().map(|address| format!(", nodes join at {address}")).unwrap_or_default();
    let stage = app.stage.replace('_', " ");
    let line = format!("{name} {}: {stage}{up}, {} reactions{join}", app.version, app.reactions);
    one_line(&line).into_owned()
}

/// Returns the line about the journal.
fn journal_line(journal: &JournalView) -> String {
    let JournalView { position, waiting, full, parked, unread_inputs, unstable_inputs } = journal;
    let waiting = if *waiting > 0 { format!(", {waiting} not durable yet") } else { String::new() };
    let full = full.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    let parked = match &parked[..] {
        [] => String::new(),
        paths => format!("; parked, because the program does not have them: {}", paths.join(", ")),
    };
    let mut unread = String::new();
    if !unread_inputs.is_empty() {
        let works: Vec<_> =
            unread_inputs.iter().map(|(path, inputs)| format!("{inputs} of {path}")).collect();
        unread = format!("; remembered inputs that cannot be read: {}", works.join(", "));
    }
    let unstable = match &unstable_inputs[..] {
        [] => String::new(),
        paths => format!("; run once more at each start: {}", paths.join(", ")),
    };
    format!("journal at position {position}{waiting}{full}{parked}{unread}{unstable}")
}

pub(super) fn place(work: &WorkView) -> String {
    match (&work.node, &work.placement) {
        (Some(node), _) => node.clone(),
        (None, Json::String(placement)) => format!("(waits for {placement})"),
        (None, _) => "-".to_owned(),
    }
}

pub(super) fn age(work: &WorkView) -> String {
    match work.stage.as_str() {
        "not_started" => String::new(),
        _ => seconds_between(work.since.as_deref(), None).map(span).unwrap_or_default(),
    }
}

pub(super) fn runs_of(work: &WorkView) -> String {
    let runs = work.runs;
    let named = [
        (runs.succeeded, "ok"),
        (runs.failed, "failed"),
        (runs.stopped, "stopped"),
        (runs.waiting, "waiting"),
    ];
    let told: Vec<_> = named.iter().filter(|(n, _)| *n > 0).map(|(n, name)| format!("{n} {name}")).collect();
    if told.is_empty() { "-".to_owned() } else { told.join(", ") }
}

pub(super) fn mailbox(work: &WorkView) -> String {
    match work.mailbox.capacity {
        Some(capacity) => format!("{}/{capacity}", work.mailbox.waiting),
        None => work.mailbox.waiting.to_string(),
    }
}

pub(super) fn why(work: &WorkView) -> String {
    if let Some(held) = &work.held {
        let ago = seconds_between(held.since.as_deref(), None).map(|ago| format!(" {} ago", span(ago)));
        return format!("stopped by {}{}, until `start`", held.by, ago.unwrap_or_default());
    }
    let reason = work.reason.as_deref().unwrap_or_default().replace('_', " ");
    match (&work.message, work.restarts) {
        (Some(message), _) if reason.is_empty() => message.clone(),
        (Some(message), _) => format!("{reason}: {message}"),
        (None, _) => reason,
    }
}

/// Formats the memory and disk that payload values occupy on a node.
pub(super) fn kept(kept: Kept) -> String {
    match kept.disk {
        0 => bytes(kept.memory),
        disk => format!("{} +{} on disk", bytes(kept.memory), bytes(disk)),
    }
}

/// Formats the load of a node.
pub(super) fn busy(load: Load) -> String {
    format!("{:.2} cpus, {}", load.cpus, bytes(load.memory))
}

pub(super) fn nodes(api: &Api, json: bool) -> Picture {
    either(json, api.get_raw("nodes")?, |nodes: std::collections::BTreeMap<String, NodeView>, out| {
        let mut table = Table::new(&[
            "NODE", "STATE", "WORKS", "CPUS", "GPUS", "MEMORY", "BUSY", "PAYLOADS", "HEARD", "ANSWERS",
            "ENDS", "LABELS",
        ]);
        for (name, node) in &nodes {
            let used = |used: f64, all: f64| if all > 0.0 { format!("{used}/{all}") } else { "-".to_owned() };
            let memory = match node.resources.memory {
                0 => "-".to_owned(),
                all => format!("{} of {}", bytes(node.used.memory), bytes(all)),
            };
            let kept = node.payloads.map_or_else(|| "-".to_owned(), kept);
            let labels: Vec<_> = node.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            table.row(vec![
                name.as_str().into(),
                stage(if node.is_head {
                    "head"
                } else if node.is_connected && node.is_leaving {
                    "leaving"
                } else if node.is_connected {
                    "connected"
                } else {
                    "away"
                }),
                node.works.len().to_string().into(),
                used(node.used.cpus, node.resources.cpus).into(),
                used(node.used.gpus, node.resources.gpus).into(),
                memory.into(),
                node.load.map_or_else(|| "-".to_owned(), busy).into(),
                kept.into(),
                node.heartbeat_age
                    .filter(|_| !node.is_head)
                    .map(|age| format!("{} ago", span(age)))
                    .unwrap_or_default()
                    .into(),
                node.round_trip.map(|took| format!("in {:.2} ms", took * 1e3)).unwrap_or_default().into(),
                node.ends_in.map(|left| format!("in {}", span(left))).unwrap_or_default().into(),
                labels.join(" ").into(),
            ]);
        }
        table.write(out, colours())
    })
}

pub(super) fn runs(api: &Api, work: &str, limit: u32, json: bool) -> Picture {
    either(json, api.of_work_raw(work, &format!("/runs?page=1&per_page={limit}"))?, |page: RunsPage, out| {
        if page.items.is_empty() {
            return writeln!(out, "{} has not run yet", one_line(work));
        }
        // Most Works have no outputs.
        let has_outputs = page.items.iter().any(|run| run.output.is_some());
        let mut columns = vec!["RUN", "TRY", "STAGE", "STARTED", "TOOK", "WHERE", "INPUT", "OUTPUT", "WHY"];
        columns.retain(|column| has_outputs || *column != "OUTPUT");
        let mut table = Table::new(&columns);
        for run in &page.items {
            let took =
                run.started.as_deref().and_then(|begun| seconds_between(Some(begun), run.ended.as_deref()));
            let reason = run.reason.as_deref().unwrap_or_default().replace('_', " ");
            let why = run.message.as_ref().map_or(reason.clone(), |message| format!("{reason}: {message}"));
            let mut row = vec![
                run.run.map(|run| run.to_string()).unwrap_or_default().into(),
                run.attempt.to_string().into(),
                stage(&run.stage),
                run.started.as_deref().map(clock).unwrap_or_default().into(),
                took.map(span).unwrap_or_default().into(),
                run.node.clone().unwrap_or_default().into(),
                cut(&run.input.to_string(), 60).into(),
            ];
            if has_outputs {
                let output = run.output.as_ref().map(|output| cut(&output.to_string(), 60));
                row.push(output.unwrap_or_default().into());
            }
            row.push(why.into());
            table.row(row);
        }
        table.write(out, colours())?;
        match page.total.saturating_sub(page.items.len() as u64) {
            0 => Ok(()),
            more => writeln!(out, "and {more} older ones; --limit shows more"),
        }
    })
}

pub(super) fn payloads(api: &Api, json: bool) -> Picture {
    either(json, api.get_raw("payloads")?, |payloads: Items<PayloadView>, out| {
        if payloads.items.is_empty() {
            return writeln!(out, "no payloads");
        }
        let mut table = Table::new(&["PAYLOAD", "TYPE", "SIZE", "MADE BY", "ON", "COPIES", "HELD BY"]);
        for payload in &payloads.items {
            table.row(vec![
                cut(&payload.id, 16).into(),
                type_name(&payload.type_name).into(),
                bytes(payload.bytes).into(),
                payload.made_by.clone().unwrap_or_default().into(),
                payload.owner.clone().unwrap_or_default().into(),
                payload.copies.join(" ").into(),
                payload.held_by.join(", ").into(),
            ]);
        }
        table.write(out, colours())
    })
}

pub(super) fn topics(api: &Api, json: bool) -> Picture {
    either(json, api.get_raw("topics")?, |topics: Items<TopicView>, out| {
        if topics.items.is_empty() {
            return writeln!(out, "no topics");
        }
        let columns =
            ["TOPIC", "TYPE", "PUBLISHED", "DELIVERED", "DROPPED", "SUBSCRIBER", "ON", "WAITING", "OVERFLOW"];
        let mut table = Table::new(&columns);
        for topic in &topics.items {
            let numbers = [topic.published, topic.delivered, topic.dropped];
            let name = [topic.name.clone(), type_name(&topic.type_name)];
            let subscribers = format!("{} subscribers", topic.subscriber_count);
            let first = name.into_iter().chain(numbers.map(|number| number.to_string()));
            let last = [subscribers].into_iter().chain([const { String::new() }; 3]);
            table.row(first.chain(last).map(Into::into).collect());
            for subscriber in &topic.subscribers {
                let numbers = [subscriber.delivered, subscriber.dropped].map(|number| number.to_string());
                let first = [const { String::new() }; 3].into_iter().chain(numbers);
                let waiting = format!("{} of {}", subscriber.waiting, subscriber.bound);
                let last = [subscriber.path.clone(), subscriber.node.clone(), waiting];
                let row = first.chain(last).chain([subscriber.overflow.replace('_', " ")]);
                table.row(row.map(Into::into).collect());
            }
        }
        table.write(out, colours())
    })
}
