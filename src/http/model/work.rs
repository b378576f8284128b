//! Works and their runs.

use serde::Serialize;
use serde_json::Value as Json;
use utoipa::ToSchema;

use super::stage::{ReasonView, StageView};
use super::{readable, since, time};
use crate::app::{WorkSnapshot, message_names, short_name};
use crate::flow::RunEntry;

/// A Work.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct WorkView {
    /// The Rust type of the Work.
    #[serde(rename = "type")]
    #[schema(example = "Train")]
    pub(in crate::http) type_name: String,
    pub(in crate::http) stage: StageView,
    pub(in crate::http) reason: Option<ReasonView>,
    /// The error with its chain of causes, or the reason why the Work is pending.
    pub(in crate::http) message: Option<String>,
    /// The attempt of the run, from 1; 0 before the first.
    pub(in crate::http) attempt: u32,
    /// The time at which the Work reached this stage.
    #[schema(format = DateTime)]
    pub(in crate::http) since: Option<String>,
    /// `thread`, `pool`, `process`, or a choice of nodes.
    #[schema(example = "thread")]
    pub(in crate::http) placement: String,
    /// The node on which the incarnation lives; `null` while there is none.
    #[schema(example = "head")]
    pub(in crate::http) node: Option<String>,
    /// True while an incarnation lives, so that messages are handled.
    pub(in crate::http) is_up: bool,
    /// The operator who stopped the Work. It stays stopped until it is started over the API, or its Flow releases it.
    pub(in crate::http) held: Option<HeldView>,
    pub(in crate::http) mailbox: MailboxView,
    pub(in crate::http) runs: RunCounts,
    /// The number of restarts.
    pub(in crate::http) restarts: u32,
    /// The run in progress.
    pub(in crate::http) current: Option<CurrentRun>,
    /// The names of the messages that it can be asked with.
    #[schema(example = json!(["Predict"]))]
    pub(in crate::http) messages: Vec<String>,
}

/// A stop by an operator.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct HeldView {
    #[schema(example = "alice@machine-0")]
    pub(in crate::http) by: String,
    #[schema(format = DateTime)]
    pub(in crate::http) since: String,
}

/// The mailbox of a Work.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct MailboxView {
    pub(in crate::http) waiting: u64,
    pub(in crate::http) capacity: u64,
    /// The number of messages accepted since the Work joined, including those forwarded to another process.
    pub(in crate::http) accepted: u64,
    /// The number of messages to the Work that no handler saw and whose senders were not told so, since the App started.
    pub(in crate::http) dead_letters: u64,
}

/// The number of waiting runs, and of ended attempts by outcome.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct RunCounts {
    pub(in crate::http) waiting: u64,
    pub(in crate::http) succeeded: u64,
    pub(in crate::http) failed: u64,
    pub(in crate::http) stopped: u64,
}

/// The run in progress.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct CurrentRun {
    pub(in crate::http) run: u64,
    /// The input; `null` when it is too large to be kept.
    pub(in crate::http) input: Json,
    #[schema(format = DateTime)]
    pub(in crate::http) started: Option<String>,
}

/// An attempt of a run.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct RunView {
    /// The number of the run; `null` while it waits in the queue.
    pub(in crate::http) run: Option<u64>,
    /// The attempt, from 1; 0 while the run waits for the first.
    pub(in crate::http) attempt: u32,
    pub(in crate::http) stage: StageView,
    pub(in crate::http) reason: Option<ReasonView>,
    pub(in crate::http) message: Option<String>,
    /// The input; `null` when it is larger than 4 KiB and was not kept.
    pub(in crate::http) input: Json,
    /// The output; absent when the run has set none, or when it is larger than 4 KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::http) output: Option<Json>,
    #[schema(format = DateTime)]
    pub(in crate::http) queued: String,
    #[schema(format = DateTime)]
    pub(in crate::http) started: Option<String>,
    #[schema(format = DateTime)]
    pub(in crate::http) ended: Option<String>,
    pub(in crate::http) node: Option<String>,
}

impl From<RunEntry> for RunView {
    fn from(run: RunEntry) -> Self {
        Self {
            run: run.run,
            attempt: run.attempt,
            stage: run.stage.into(),
            reason: run.reason.map(ReasonView::from),
            message: run.message.map(|message| message.to_string()),
            input: run.input.as_deref().map(readable).unwrap_or_default(),
            output: run.output.as_deref().map(readable),
            queued: time(run.queued),
            started: run.started.map(time),
            ended: run.ended.map(time),
            node: run.node.map(|node| node.to_string()),
        }
    }
}

/// A page of runs, the newest first.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct RunsView {
    pub(in crate::http) page: u64,
    pub(in crate::http) per_page: u64,
    /// The number of attempts that are kept.
    pub(in crate::http) total: u64,
    pub(in crate::http) items: Vec<RunView>,
}

pub(in crate::http) fn work_view(work: &WorkSnapshot) -> WorkView {
    let WorkSnapshot { status, outcomes, .. } = work;
    WorkView {
        type_name: short_name(work.kind.name()),
        stage: status.stage.into(),
        reason: status.reason.map(ReasonView::from),
        message: status.message.clone(),
        attempt: status.attempt,
        since: since(status),
        placement: work.placement.to_string(),
        node: work.node.as_ref().map(|node| node.to_string()),
        is_up: work.is_up,
        held: work.held.as_ref().map(|(by, since)| HeldView { by: by.to_string(), since: time(*since) }),
        mailbox: MailboxView {
            waiting: work.waiting_messages as u64,
            capacity: work.capacity as u64,
            accepted: work.accepted,
            dead_letters: work.dead_letters,
        },
        runs: RunCounts {
            waiting: work.waiting_runs as u64,
            succeeded: outcomes.succeeded,
            failed: outcomes.failed,
            stopped: outcomes.stopped,
        },
        restarts: work.restarts,
        current: work.current.as_ref().map(|(run, input, started)| CurrentRun {
            run: *run,
            input: input.as_deref().map(readable).unwrap_or_default(),
            started: started.map(time),
        }),
        messages: message_names(&work.kind.messages()),
    }
}
