//! The past of an App with a journal.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value as Json;
use utoipa::ToSchema;

use super::stage::{ReasonView, StageView};
use super::status::StateView;
use super::{since, time};
use crate::app::history::{Because, Chain, Diff, Difference, Event, Page, Past};
use crate::id::ActorPath;
use crate::journal::Moment;
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

/// A moment of an App.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct MomentView {
    /// The last position in the journal up to that moment.
    pub(in crate::http) position: u64,
    #[schema(format = DateTime)]
    pub(in crate::http) time: String,
}

impl From<Moment> for MomentView {
    fn from(moment: Moment) -> Self {
        Self { position: moment.position, time: time(moment.wall) }
    }
}

/// A page of the differences between two moments.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct DiffView {
    pub(in crate::http) from: MomentView,
    pub(in crate::http) to: MomentView,
    pub(in crate::http) items: Vec<DifferenceView>,
    /// The number of differences between the moments.
    pub(in crate::http) total: u64,
    /// The value of `after` for the next page; `null` if there is none.
    pub(in crate::http) next: Option<u64>,
}

/// Something that differs between two moments.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct DifferenceView {
    pub(in crate::http) kind: DifferenceKind,
    /// The path of the Work or Flow, empty for the root; or of the part of the state.
    #[schema(example = "train.step")]
    pub(in crate::http) path: String,
    /// The stage, or the part of the state; absent if there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    pub(in crate::http) before: Option<Json>,
    /// The stage, or the part of the state; absent if there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    pub(in crate::http) after: Option<Json>,
}

#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum DifferenceKind {
    /// The stage of a Work or Flow.
    Stage,
    /// A part of the state.
    State,
}

impl From<&Difference> for DifferenceView {
    fn from(difference: &Difference) -> Self {
        let kind = match difference {
            Difference::Stage { .. } => DifferenceKind::Stage,
            Difference::State { .. } => DifferenceKind::State,
        };
        let mut json = difference.to_json();
        let path = json["path"].as_str().unwrap_or_default().to_owned();
        let mut take = |name: &str| json.as_object_mut().and_then(|json| json.remove(name));
        Self { kind, path, before: take("before"), after: take("after") }
    }
}

/// Size of the values of a page of differences after which it ends, in encoded bytes.
const PAGE_BYTES: usize = 1 << 20;

impl DiffView {
    /// Returns the page after this number of differences.
    pub(in crate::http) fn new(diff: &Diff, after: u64, limit: u64) -> Self {
        let index = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let rest = diff.items.get(index(after)..).unwrap_or_default();
        let mut size = 0;
        let is_within = |difference: &&Difference| {
            let is_within = size < PAGE_BYTES;
            size += difference.size();
            is_within
        };
        let page = rest.iter().take(index(limit)).take_while(is_within);
        let items: Vec<_> = page.map(DifferenceView::from).collect();
        let next = (items.len() < rest.len()).then_some(after + items.len() as u64);
        Self { from: diff.from.into(), to: diff.to.into(), items, total: diff.items.len() as u64, next }
    }
}

/// A part of the chain of runs that led to one.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct WhyView {
    pub(in crate::http) items: Vec<BecauseView>,
    /// The value of `cursor` for the rest of the chain; `null` if there is none.
    pub(in crate::http) next: Option<String>,
}

/// A run, and what led to its request.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct BecauseView {
    /// The path of the Work.
    pub(in crate::http) path: String,
    pub(in crate::http) run: u64,
    /// The request; `null` if the history does not go back to it.
    pub(in crate::http) request: Option<EventView>,
    /// Other events of its transaction that the Flow may have reacted to, the most likely one last.
    pub(in crate::http) causes: Vec<EventView>,
    /// The number of other events that are left out.
    pub(in crate::http) left_out: u64,
}

impl From<&Because> for BecauseView {
    fn from(because: &Because) -> Self {
        let Because { path, run, request, causes, left_out } = because;
        Self {
            path: path.as_str().to_owned(),
            run: *run,
            request: request.as_ref().map(EventView::from),
            causes: causes.iter().map(EventView::from).collect(),
            left_out: *left_out as u64,
        }
    }
}

impl From<Chain> for WhyView {
    fn from(chain: Chain) -> Self {
        let items = chain.items.iter().map(BecauseView::from).collect();
        Self { items, next: chain.next.map(|next| next.to_string()) }
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
