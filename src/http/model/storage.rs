//! What is kept: payloads, and lines that were logged.

use serde::Serialize;
use utoipa::ToSchema;

use super::time;
use crate::app::{HEAD, PayloadStatus};
use crate::work::logs::Line;

/// A payload that something in the App refers to.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct PayloadView {
    pub(in crate::http) id: String,
    /// The Rust type of its value.
    #[serde(rename = "type")]
    #[schema(example = "Vec<f32>")]
    pub(in crate::http) type_name: String,
    /// The length of its value, encoded.
    pub(in crate::http) bytes: u64,
    /// The path of the Work that made it.
    pub(in crate::http) made_by: String,
    /// The node that it is on; `null` when it is lost.
    pub(in crate::http) owner: Option<String>,
    /// The other nodes that have it.
    pub(in crate::http) copies: Vec<String>,
    /// Whether it is in the memory of the head.
    pub(in crate::http) in_memory: bool,
    /// Whether it is on the disk of the head.
    pub(in crate::http) on_disk: bool,
    /// The states and runs that refer to it.
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

/// The payloads.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct PayloadsView {
    pub(in crate::http) items: Vec<PayloadView>,
}

/// One line that was logged.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct LogView {
    /// Grows from line to line.
    pub(in crate::http) seq: u64,
    #[schema(format = DateTime)]
    pub(in crate::http) time: String,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    #[schema(example = "info")]
    pub(in crate::http) level: String,
    /// The path of the Work that said it.
    pub(in crate::http) work: Option<String>,
    /// The run that the Work had under way when it said it; `null` where it had none, as in handlers of messages between
    /// runs.
    pub(in crate::http) run: Option<u64>,
    #[schema(example = "head")]
    pub(in crate::http) node: String,
    pub(in crate::http) target: String,
    pub(in crate::http) text: String,
}

/// Lines that were logged, in order.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct LogsView {
    pub(in crate::http) items: Vec<LogView>,
    /// What to give as `after` to get those that follow.
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
