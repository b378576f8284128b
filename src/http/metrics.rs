//! `/metrics`: numbers for Prometheus, in its text format.
//!
//! All is read from one look at the App when it is asked for. Labels are bounded: paths of Works up to a number, names of
//! nodes, types of Flows.
//!
//! It is written by hand, and not by a recorder behind the `metrics` facade: that has one recorder for a process, which may
//! have several Apps, and keeps the series of Works that are gone, while all these numbers are in the App anyhow, and
//! reading them there costs nothing while nobody asks. What is written is checked by `promtool check metrics`.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};

use actix_web::web;

use super::model::{NodeView, UsageView, nodes};
use super::problem::Common;
use super::read::{Answer, fresh};
use crate::app::{BOUNDS, Control, Snapshot, short_name};
use crate::remote::Traffic;
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
    let nodes = nodes(snapshot);
    every_node(&mut page, &nodes);
    bridge(&mut page, snapshot);
    payloads(&mut page, &nodes);
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

fn every_node(page: &mut Page, nodes: &BTreeMap<String, NodeView>) {
    type Get = fn(&NodeView) -> Option<f64>;
    let families: [(&str, &str, Get); 6] = [
        ("flowright_node_connected", "Whether there is a connection to the node.", |n| {
            Some(f64::from(u8::from(n.is_connected)))
        }),
        ("flowright_node_works", "Works that live on the node.", |n| Some(n.works.len() as f64)),
        ("flowright_node_heartbeat_age_seconds", "How long ago something was heard of the node.", |n| {
            Some(n.heartbeat_age)
        }),
        ("flowright_node_busy_cpus", "Processors that the process of the node keeps busy.", |n| {
            Some(n.load?.cpus)
        }),
        ("flowright_node_memory_bytes", "Memory that the process of the node has in use.", |n| {
            Some(n.load?.memory as f64)
        }),
        (
            "flowright_bridge_round_trip_seconds",
            "How long a message from the node and the answer took.",
            |n| n.round_trip,
        ),
    ];
    for (name, help, get) in families {
        page.family(name, "gauge", help);
        for (node, view) in nodes {
            if let Some(value) = get(view) {
                page.sample(name, &[("node", node)], value);
            }
        }
    }
}

fn bridge(page: &mut Page, snapshot: &Snapshot) {
    type Get = fn(&Traffic) -> u64;
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
}

fn payloads(page: &mut Page, nodes: &BTreeMap<String, NodeView>) {
    let known = || nodes.iter().filter_map(|(node, view)| Some((node, view.payloads?)));
    let name = "flowright_payload_bytes";
    page.family(name, "gauge", "What the values of payloads take on the node.");
    for (node, usage) in known() {
        page.sample(name, &[("node", node), ("where", "memory")], usage.memory);
        page.sample(name, &[("node", node), ("where", "disk")], usage.disk);
    }
    type Get = fn(&UsageView) -> u64;
    let families: [(&str, &str, Get); 3] = [
        ("flowright_payload_hits_total", "Values that were in memory when they were read.", |u| u.hits),
        ("flowright_payload_pulls_total", "Values that were pulled from another process.", |u| u.pulls),
        ("flowright_payload_spills_total", "Values that were put on disk to make room.", |u| u.spills),
    ];
    for (name, help, get) in families {
        page.family(name, "counter", help);
        for (node, usage) in known() {
            page.sample(name, &[("node", node)], get(&usage));
        }
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
