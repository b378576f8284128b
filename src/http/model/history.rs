//! The past of an App with a journal.

use serde::Serialize;
use serde_json::Value as Json;
use utoipa::ToSchema;

use super::status::StateView;
use super::time;
use crate::app::history::{Event, Page};
use crate::journal::Moment;
use crate::state::Value;

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
}

impl PastStateView {
    pub(in crate::http) fn new(moment: Moment, state: &Value) -> Self {
        Self { position: moment.position, time: time(moment.wall), state: state.to_json() }
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
