//! The past of an App with a journal.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value as Json;
use utoipa::ToSchema;

use super::stage::{ReasonView, StageView};
use super::status::StateView;
use super::{since, time};
use crate::app::history::{Event, Page, Past};
use crate::id::ActorPath;
use crate::work::Status;

/// Something that happened, with more fields for some kinds: `run`, `attempt`, `stage`, `reason`, `message`, `input`,
/// `seconds`, `node`, `fields`, `expression`, `name`, `done`, `by`, `root`, `error`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct EventView {
    /// The position of the transaction in the journal.
    pub(in crate::http) position: u64,
    #[schema(format = DateTime)]
    pub(in crate::http) time: String,
    /// The path of the Work or Flow, empty for the root and the App itself.
    pub(in crate::http) path: String,
    /// The kind of the event.
    #[schema(example = "run_ended")]
    pub(in crate::http) event: String,
    /// The event in words.
    #[schema(example = "run 1 succeeded after 2ms, input 3")]
    pub(in crate::http) text: String,
    #[serde(flatten)]
    #[schema(ignore)]
    pub(in crate::http) more: serde_json::Map<String, Json>,
}

impl From<&Event> for EventView {
    fn from(event: &Event) -> Self {
        let mut more =
            if let Json::Object(fields) = event.to_json() { fields } else { serde_json::Map::new() };
        let mut text = |name: &str| match more.remove(name) {
            Some(Json::String(text)) => text,
            _ => String::new(),
        };
        let (time, path, kind, words) = (text("time"), text("path"), text("event"), text("text"));
        more.remove("position");
        Self { position: event.position, time, path, event: kind, text: words, more }
    }
}

/// A page of events, the oldest first.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct HistoryView {
    pub(in crate::http) items: Vec<EventView>,
    /// The value of `to` for the page of older events; `null` if there are none.
    pub(in crate::http) older: Option<u64>,
    /// The value of `from` for the page of newer events; `null` if there were none.
    pub(in crate::http) newer: Option<u64>,
}

impl From<Page> for HistoryView {
    fn from(page: Page) -> Self {
        let Page { events, older, newer } = page;
        Self { items: events.iter().map(EventView::from).collect(), older, newer }
    }
}

/// The state at a moment of the past.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct PastStateView {
    /// The last position in the journal up to that moment.
    pub(in crate::http) position: u64,
    #[schema(format = DateTime)]
    pub(in crate::http) time: String,
    pub(in crate::http) state: Json,
    /// The Works at the path and below it, by path.
    pub(in crate::http) works: BTreeMap<String, PastStatusView>,
    /// The Flows at the path and below it, by path; the path of the root is empty.
    pub(in crate::http) flows: BTreeMap<String, PastStatusView>,
}

/// The status of a Work or Flow at a moment of the past.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct PastStatusView {
    pub(in crate::http) stage: StageView,
    pub(in crate::http) reason: Option<ReasonView>,
    /// The error with its chain of causes, or the reason why the Work was pending.
    pub(in crate::http) message: Option<String>,
    /// The attempt of the run, from 1; 0 before the first.
    pub(in crate::http) attempt: u32,
    /// The time at which the stage was reached.
    #[schema(format = DateTime)]
    pub(in crate::http) since: Option<String>,
}

impl From<&Status> for PastStatusView {
    fn from(status: &Status) -> Self {
        Self {
            stage: status.stage.into(),
            reason: status.reason.map(ReasonView::from),
            message: status.message.clone(),
            attempt: status.attempt,
            since: since(status),
        }
    }
}

impl PastStateView {
    /// Returns the part of the past at a path, `None` if there was nothing.
    pub(in crate::http) fn new(past: &Past, path: &str) -> Option<Self> {
        let Past { moment, state, works, flows } = past;
        let is_part = |other: &ActorPath| {
            let rest = other.as_str().strip_prefix(path);
            path.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let parts = |statuses: &BTreeMap<ActorPath, Status>| {
            let parts = statuses.iter().filter(|(path, _)| is_part(path));
            parts.map(|(path, status)| (path.as_str().to_owned(), status.into())).collect()
        };
        Some(Self {
            position: moment.position,
            time: time(moment.wall),
            state: state.get(path)?.to_json(),
            works: parts(works),
            flows: parts(flows),
        })
    }
}

/// The state now, or with `at` the state at a moment of the past.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "for the OpenAPI document; each variant is serialised on its own")]
pub(in crate::http) enum AnyStateView {
    Now(StateView),
    Past(PastStateView),
}
