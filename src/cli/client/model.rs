//! Responses of the API, with the fields that the commands show.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde_json::Value as Json;

/// The status document of an App.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Document {
    pub(super) app: AppView,
    pub(super) works: BTreeMap<String, WorkView>,
    pub(super) flows: BTreeMap<String, FlowView>,
    pub(super) nodes: BTreeMap<String, NodeView>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct AppView {
    pub(super) name: String,
    /// The full type of the root; only `/api/v1/app` returns it.
    pub(super) program: String,
    pub(super) version: String,
    pub(super) stage: String,
    pub(super) safe_mode: Option<SafeModeView>,
    pub(super) reactions: u64,
    pub(super) listening: Option<String>,
    pub(super) started: Option<String>,
    pub(super) journal: Option<JournalView>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SafeModeView {
    pub(super) reason: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct JournalView {
    pub(super) position: u64,
    pub(super) waiting: u64,
    pub(super) full: Option<String>,
    pub(super) parked: Vec<String>,
    pub(super) unread_inputs: BTreeMap<String, u64>,
    pub(super) unstable_inputs: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct FlowView {
    pub(super) stage: String,
    pub(super) message: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct WorkView {
    pub(super) stage: String,
    pub(super) reason: Option<String>,
    pub(super) message: Option<String>,
    pub(super) since: Option<String>,
    pub(super) placement: Json,
    pub(super) node: Option<String>,
    pub(super) is_up: bool,
    pub(super) held: Option<Held>,
    pub(super) mailbox: Mailbox,
    pub(super) runs: Counts,
    pub(super) restarts: u64,
}

impl WorkView {
    /// Returns the stage as it is shown: a Work without a run that is up answers messages.
    pub(super) fn shown_stage(&self) -> &str {
        if self.stage == "not_started" && self.is_up { "up" } else { &self.stage }
    }
}

/// A stop by an operator, and its time.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Held {
    pub(super) by: String,
    pub(super) since: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Mailbox {
    pub(super) waiting: u64,
    pub(super) capacity: Option<u64>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Counts {
    pub(super) waiting: u64,
    pub(super) succeeded: u64,
    pub(super) failed: u64,
    pub(super) stopped: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NodeView {
    pub(super) is_connected: bool,
    pub(super) is_leaving: bool,
    pub(super) ends_in: Option<f64>,
    pub(super) is_head: bool,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) resources: Resources,
    pub(super) used: Resources,
    pub(super) works: Vec<String>,
    pub(super) load: Option<Load>,
    pub(super) payloads: Option<Kept>,
    pub(super) heartbeat_age: Option<f64>,
    pub(super) round_trip: Option<f64>,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(default)]
pub(super) struct Resources {
    pub(super) cpus: f64,
    pub(super) gpus: f64,
    pub(super) memory: u64,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(default)]
pub(super) struct Load {
    pub(super) cpus: f64,
    pub(super) memory: u64,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(default)]
pub(super) struct Kept {
    pub(super) memory: u64,
    pub(super) disk: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Items<T> {
    pub(super) items: Vec<T>,
}

#[derive(Debug, Deserialize)]
pub(super) struct RunsPage {
    pub(super) total: u64,
    pub(super) items: Vec<RunView>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RunView {
    /// `None` while the run waits in the queue.
    pub(super) run: Option<u64>,
    pub(super) attempt: u64,
    pub(super) stage: String,
    pub(super) reason: Option<String>,
    pub(super) message: Option<String>,
    pub(super) input: Json,
    pub(super) output: Option<Json>,
    pub(super) started: Option<String>,
    pub(super) ended: Option<String>,
    pub(super) node: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PayloadView {
    pub(super) id: String,
    #[serde(rename = "type")]
    pub(super) type_name: String,
    pub(super) bytes: u64,
    pub(super) made_by: Option<String>,
    pub(super) owner: Option<String>,
    pub(super) copies: Vec<String>,
    pub(super) held_by: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TopicView {
    pub(super) name: String,
    #[serde(rename = "type")]
    pub(super) type_name: String,
    pub(super) published: u64,
    pub(super) delivered: u64,
    pub(super) dropped: u64,
    pub(super) subscriber_count: u64,
    pub(super) subscribers: Vec<SubscriberView>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SubscriberView {
    pub(super) path: String,
    pub(super) node: String,
    pub(super) bound: u64,
    pub(super) overflow: String,
    pub(super) waiting: u64,
    pub(super) delivered: u64,
    pub(super) dropped: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LogView {
    pub(super) seq: u64,
    pub(super) time: String,
    pub(super) level: String,
    pub(super) work: Option<String>,
    pub(super) text: String,
}

pub(super) type Graph = Items<Place>;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Place {
    pub(super) path: String,
    pub(super) kind: String,
    #[serde(rename = "type")]
    pub(super) type_name: String,
    pub(super) parent: Option<String>,
    pub(super) node: Option<String>,
    pub(super) stage: String,
}

/// An error of the API (RFC 9457).
#[derive(Debug, Deserialize)]
pub(super) struct Problem {
    title: String,
    detail: Option<String>,
    /// The names that exist.
    #[serde(default)]
    known: Vec<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.detail {
            Some(detail) => write!(f, "{}: {detail}", self.title)?,
            None => f.write_str(&self.title)?,
        }
        if self.known.is_empty() { Ok(()) } else { write!(f, " (known: {})", self.known.join(", ")) }
    }
}
