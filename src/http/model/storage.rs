//! Payloads and log lines.

use serde::Serialize;
use utoipa::ToSchema;

use super::time;
use crate::app::{HEAD, PayloadStatus};
use crate::work::logs::Line;

/// A payload that a state or a run refers to.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct PayloadView {
    pub(in crate::http) id: String,
    /// The Rust type of the value.
    #[serde(rename = "type")]
    #[schema(example = "Vec<f32>")]
    pub(in crate::http) type_name: String,
    /// The length of the encoded value, in bytes.
    pub(in crate::http) bytes: u64,
    /// The path of the Work that made the payload.
    pub(in crate::http) made_by: String,
    /// The node that owns the value; `null` when the value is lost.
    pub(in crate::http) owner: Option<String>,
    /// The other nodes that have a replica.
    pub(in crate::http) copies: Vec<String>,
    /// True when the value is in the memory of the head.
    pub(in crate::http) in_memory: bool,
    /// True when the value is on the disk of the head.
    pub(in crate::http) on_disk: bool,
    /// The states and runs that refer to the payload.
    #[schema(example = json!(["train (state)", "deploy (run 3)"]))]
    pub(in crate::http) held_by: Vec<String>,
}

impl From<PayloadStatus> for PayloadView {
    fn from(status: PayloadStatus) -> Self {
        let mut nodes = status.nodes.into_iter();
        Self {
            id: status.id,
            type_name: status.type_name,
            bytes: status.bytes,
            made_by: status.made_by,
            owner: nodes.next(),
            copies: nodes.collect(),
            in_memory: status.is_in_memory,
            on_disk: status.is_here && !status.is_in_memory,
            held_by: status.held_by,
        }
    }
}

/// All payloads that states and runs refer to.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct PayloadsView {
    pub(in crate::http) items: Vec<PayloadView>,
}

/// A log line.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct LogView {
    /// The sequence number of the line. Later lines have higher numbers.
    pub(in crate::http) seq: u64,
    #[schema(format = DateTime)]
    pub(in crate::http) time: String,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    #[schema(example = "info")]
    pub(in crate::http) level: String,
    /// The path of the Work that logged the line.
    pub(in crate::http) work: Option<String>,
    /// The number of the run in which the Work logged the line; `null` outside of runs, as in message handlers between
    /// two runs.
    pub(in crate::http) run: Option<u64>,
    #[schema(example = "head")]
    pub(in crate::http) node: String,
    pub(in crate::http) target: String,
    pub(in crate::http) text: String,
}

/// Log lines in order.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct LogsView {
    pub(in crate::http) items: Vec<LogView>,
    /// The value of `after` for the next request, which then returns the lines that follow.
    pub(in crate::http) next: u64,
}

impl From<&Line> for LogView {
    fn from(line: &Line) -> Self {
        Self {
            seq: line.seq,
            time: time(line.time),
            level: line.level.as_str().to_ascii_lowercase(),
            work: line.work.as_ref().map(|work| work.as_str().to_owned()),
            run: line.run,
            node: line.node.as_deref().unwrap_or(HEAD).to_owned(),
            target: line.target.clone(),
            text: line.text.clone(),
        }
    }
}
