//! `/metrics`: numbers for Prometheus, in its text format.
//!
//! All is read from one look at the App when it is asked for. Labels are bounded: paths of Works up to a number, names of
//! nodes, types of Flows.

use std::fmt::{Display, Write};

use actix_web::web;

use super::model::nodes;
use super::problem::Common;
use super::read::{Answer, fresh};
use crate::app::{BOUNDS, Control, Snapshot, short_name};
use crate::payload::PayloadCounts;
use crate::work::Stage;

/// The Works that have numbers of their own; those of all others are summed up as one.
const WORKS: usize = 1000;

/// Numbers for Prometheus, in its text format.
#[utoipa::path(get, path = "/metrics", tag = "health", responses(
    (status = 200, description = "the numbers", body = String, content_type = "text/plain"),
    Common,
))]
pub(super) async fn metrics(control: web::Data<Control>) -> Answer {
    let text = write(&control.snapshot().await?);
    Ok(fresh().content_type("text/plain; version=0.0.4; charset=utf-8").body(text))
}

struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (place, (label, text)) in labels.iter().enumerate() {
            let before = if place == 0 { '{' } else { ',' };
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{before}{label}=\"{text}\"");
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{end} {value}");
    }
}

/// The numbers of one Work, or of those that have none of their own.
#[derive(Default, Clone)]
struct Numbers {
    messages: u64,
    depth: u64,
    published: u64,
    conflated: u64,
    waiting: u64,
    running: u64,
    restarts: u64,
    runs: [u64; 3],
    seconds: [f64; 3],
}

const OUTCOMES: [&str; 3] = ["succeeded", "failed", "stopped"];

fn numbers(snapshot: &Snapshot) -> Vec<(String, Numbers)> {
    let mut all: Vec<(String, Numbers)> = Vec::new();
    let mut others = Numbers::default();
    for work in &snapshot.works {
        let one = Numbers {
            messages: work.accepted,
            depth: work.waiting_messages as u64,
            published: work.published,
            conflated: work.conflated,
            waiting: work.waiting_runs as u64,
            running: u64::from(work.status.stage == Stage::Running),
            restarts: u64::from(work.restarts),
            runs: [work.outcomes.succeeded, work.outcomes.failed, work.outcomes.stopped],
            seconds: work.outcomes.seconds,
        };
        if all.len() < WORKS {
            all.push((work.path.as_str().to_owned(), one));
            continue;
        }
        others.messages += one.messages;
        others.depth += one.depth;
        others.published += one.published;
        others.conflated += one.conflated;
        others.waiting += one.waiting;
        others.running += one.running;
        others.restarts += one.restarts;
        for place in 0..3 {
            others.runs[place] += one.runs[place];
            others.seconds[place] += one.seconds[place];
        }
    }
    if snapshot.works.len() > WORKS {
        // No child has an empty name, so that no Work is called so.
        all.push(("others..".to_owned(), others));
    }
    all
}

fn write(snapshot: &Snapshot) -> String {
    let mut page = Page(String::new());
    works(&mut page, &numbers(snapshot));
    page.family("flowright_works", "gauge", "Works that are part of the App.");
    page.sample("flowright_works", &[], snapshot.works.len());
    reactions(&mut page, snapshot);
    every_node(&mut page, snapshot);
    bridge(&mut page, snapshot);
    payloads(&mut page, snapshot);
    page.0
}

fn works(page: &mut Page, all: &[(String, Numbers)]) {
    type Get = fn(&Numbers) -> u64;
    let families: [(&str, &str, &str, Get); 7] = [
        ("flowright_work_messages_total", "counter", "Messages that the mailbox has taken.", |n| n.messages),
        ("flowright_work_mailbox_depth", "gauge", "Messages that wait in the mailbox.", |n| n.depth),
        ("flowright_work_publishes_total", "counter", "States that the Work has published.", |n| n.published),
        (
            "flowright_work_conflations_total",
            "counter",
            "Published states that were not seen, since a newer one came first.",
            |n| n.conflated,
        ),
        ("flowright_work_runs_waiting", "gauge", "Runs that wait for their turn.", |n| n.waiting),
        ("flowright_work_running", "gauge", "Whether a run is under way.", |n| n.running),
        ("flowright_work_restarts_total", "counter", "How often the Work was started anew.", |n| n.restarts),
    ];
    for (name, kind, help, get) in families {
        page.family(name, kind, help);
        for (path, numbers) in all {
            page.sample(name, &[("work", path)], get(numbers));
        }
    }
    let name = "flowright_work_run_seconds";
    page.family(name, "summary", "How long runs took, by how they ended.");
    for (path, numbers) in all {
        for (place, outcome) in OUTCOMES.iter().enumerate() {
            let labels = [("work", path.as_str()), ("outcome", *outcome)];
            page.sample(&format!("{name}_sum"), &labels, numbers.seconds[place]);
            page.sample(&format!("{name}_count"), &labels, numbers.runs[place]);
        }
    }
}

fn reactions(page: &mut Page, snapshot: &Snapshot) {
    let name = "flowright_reaction_seconds";
    page.family(name, "histogram", "How long Flows took to react, by type.");
    for (flow, times) in &snapshot.reaction_times {
        let flow = short_name(flow);
        let (below, all) = times.cumulated();
        for (bound, count) in BOUNDS.iter().zip(below) {
            page.sample(&format!("{name}_bucket"), &[("flow", &flow), ("le", &bound.to_string())], count);
        }
        page.sample(&format!("{name}_bucket"), &[("flow", &flow), ("le", "+Inf")], all);
        page.sample(&format!("{name}_sum"), &[("flow", &flow)], times.sum());
        page.sample(&format!("{name}_count"), &[("flow", &flow)], all);
    }
    page.family("flowright_reactions_total", "counter", "How many times Flows have reacted.");
    page.sample("flowright_reactions_total", &[], snapshot.reactions);
}

fn every_node(page: &mut Page, snapshot: &Snapshot) {
    let nodes = nodes(snapshot);
    page.family("flowright_node_connected", "gauge", "Whether there is a connection to the node.");
    for (name, node) in &nodes {
        page.sample("flowright_node_connected", &[("node", name)], u8::from(node.is_connected));
    }
    page.family("flowright_node_works", "gauge", "Works that live on the node.");
    for (name, node) in &nodes {
        page.sample("flowright_node_works", &[("node", name)], node.works.len());
    }
    let age = "flowright_node_heartbeat_age_seconds";
    page.family(age, "gauge", "How long ago something was heard of the node.");
    for (name, node) in &nodes {
        page.sample(age, &[("node", name)], node.heartbeat_age);
    }
}

fn bridge(page: &mut Page, snapshot: &Snapshot) {
    type Get = fn(&crate::remote::Traffic) -> u64;
    let families: [(&str, &str, Get); 5] = [
        ("flowright_bridge_sent_bytes_total", "Bytes that were sent to the node.", |t| t.sent_bytes),
        ("flowright_bridge_received_bytes_total", "Bytes of messages that came from the node.", |t| {
            t.received_bytes
        }),
        ("flowright_bridge_sent_frames_total", "Messages that were sent to the node.", |t| t.sent_messages),
        ("flowright_bridge_received_frames_total", "Messages that came from the node.", |t| {
            t.received_messages
        }),
        ("flowright_bridge_resends_total", "Buffers that were sent to the node once more.", |t| t.resent),
    ];
    for (name, help, get) in families {
        page.family(name, "counter", help);
        for (node, status) in &snapshot.nodes {
            page.sample(name, &[("node", node)], get(&status.traffic));
        }
    }
    let name = "flowright_bridge_acknowledgement_seconds";
    page.family(
        name,
        "gauge",
        "How long the node took to acknowledge a message, which it does not do at once.",
    );
    for (node, status) in &snapshot.nodes {
        if let Some(after) = status.traffic.acknowledged_after {
            page.sample(name, &[("node", node)], after.as_secs_f64());
        }
    }
}

fn payloads(page: &mut Page, snapshot: &Snapshot) {
    let name = "flowright_payload_bytes";
    page.family(name, "gauge", "What the values of payloads take on the head.");
    page.sample(name, &[("where", "memory")], snapshot.payloads.memory);
    page.sample(name, &[("where", "disk")], snapshot.payloads.disk);
    let PayloadCounts { hits, pulls, spills } = PayloadCounts::here();
    for (name, help, count) in [
        ("flowright_payload_hits_total", "Values that were in memory when they were read on the head.", hits),
        ("flowright_payload_pulls_total", "Values that the head has pulled from another process.", pulls),
        ("flowright_payload_spills_total", "Values that were put on disk to make room on the head.", spills),
    ] {
        page.family(name, "counter", help);
        page.sample(name, &[], count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_path_contains_cannot_end_its_label() {
        let mut page = Page(String::new());
        page.sample("x", &[("work", "a\"} 1\n\\b"), ("outcome", "failed")], 2);
        assert_eq!(page.0, "x{work=\"a\\\"} 1\\n\\\\b\",outcome=\"failed\"} 2\n");
    }

    #[test]
    fn the_dashboard_shows_numbers_that_there_are() {
        let dashboard = include_str!("../../docs/dashboard.json");
        let source = include_str!("metrics.rs");
        let names = dashboard.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let mut count = 0;
        for name in names.filter(|name| name.starts_with("flowright_")) {
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            assert!(source.contains(&format!("\"{}\"", family.unwrap_or(name))), "{name}");
            count += 1;
        }
        assert!(count > 10);
    }
}
