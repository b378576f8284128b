//! Handlers of queries for the past of an App with a journal.

use actix_web::{HttpRequest, web};
use serde::Deserialize;
use utoipa::IntoParams;

use super::answers::{Answer, MOST, json, within};
use super::model::{DiffView, HistoryView, PastStateView, WhyView};
use super::problem::{Common, Problem};
use super::query::query;
use crate::app::Control;
use crate::app::history::{At, Cursor, NoCursor, Tracing, Wanted};
use crate::id::ActorPath;

fn moment(name: &str, text: &str) -> Result<At, Problem> {
    text.parse().map_err(|error| Problem::bad_request(format!("`{name}`: {error}")))
}

/// Answers with the state at a moment of the past.
pub(super) async fn state(control: &Control, path: &str, at: &str) -> Answer {
    let at = moment("at", at)?;
    let past = control.state_at(at).await?;
    let position = past.moment.position;
    let missing = || Problem::not_found(format!("the state at position {position} has nothing at `{path}`"));
    let view = PastStateView::new(&past, path).ok_or_else(missing)?;
    Ok(json(&view))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct HistoryQuery {
    /// The path of a Work or Flow: events of it and of all below it; all events by default.
    #[param(example = "train", nullable = false)]
    path: Option<String>,
    /// The first position: the oldest events from it. Without it, the newest events.
    #[param(minimum = 0, maximum = 9007199254740991_i64, nullable = false)]
    from: Option<u64>,
    /// The last position.
    #[param(minimum = 0, maximum = 9007199254740991_i64, nullable = false)]
    to: Option<u64>,
    /// The number of events after which the page ends, with the last transaction complete.
    #[param(minimum = 1, maximum = 1000, default = 200, nullable = false)]
    limit: Option<u64>,
}

/// Tells what happened, from the journal of the App, the oldest event first.
///
/// All of it is durable. Without `from`, a page has the newest events.
#[utoipa::path(get, path = "/api/v1/history", tag = "state", params(HistoryQuery), responses(
    (status = 200, description = "a page of events", body = HistoryView),
    Common,
))]
pub(super) async fn history(request: HttpRequest, control: web::Data<Control>) -> Answer {
    let HistoryQuery { path, from, to, limit } = query(&request)?;
    let limit = limit.unwrap_or(200);
    within("limit", limit, 1, 1000)?;
    within("from", from.unwrap_or(0), 0, MOST)?;
    within("to", to.unwrap_or(0), 0, MOST)?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let path = path.as_deref().map(ActorPath::from);
    let page = control.history(Wanted { path, from, to, limit, is_short: true }).await?;
    Ok(json(&HistoryView::from(page)))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DiffQuery {
    /// The first moment: a position, or a time.
    #[param(
        example = "17",
        pattern = r"^([0-9]{1,18}|20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z)$"
    )]
    from: String,
    /// The second moment: a position, or a time; the last position that is durable by default.
    #[param(
        example = "2026-11-24T19:00:00Z",
        nullable = false,
        pattern = r"^([0-9]{1,18}|20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z)$"
    )]
    to: Option<String>,
    /// The path of a Flow, a Work or a field: what differs there and below it; everything by default.
    #[param(example = "train", nullable = false)]
    path: Option<String>,
    /// The number of differences before those of the page: `next` of the page before it, together with the positions of
    /// that page in `from` and `to`.
    #[param(minimum = 0, maximum = 9007199254740991_i64, default = 0, nullable = false)]
    after: Option<u64>,
    /// The number of differences after which the page ends. It ends earlier if they are large.
    #[param(minimum = 1, maximum = 10000, default = 200, nullable = false)]
    limit: Option<u64>,
}

/// Compares the App at two moments, from its journal.
///
/// Stages of Works and Flows that differ come first, then the parts of the state that do, each as small as possible.
#[utoipa::path(get, path = "/api/v1/diff", tag = "state", params(DiffQuery), responses(
    (status = 200, description = "a page of differences", body = DiffView),
    Common,
))]
pub(super) async fn diff(request: HttpRequest, control: web::Data<Control>) -> Answer {
    let DiffQuery { from, to, path, after, limit } = query(&request)?;
    let (after, limit) = (after.unwrap_or(0), limit.unwrap_or(200));
    within("limit", limit, 1, 10_000)?;
    within("after", after, 0, MOST)?;
    let from = moment("from", &from)?;
    let to = to.map(|to| moment("to", &to)).transpose()?;
    let path = path.unwrap_or_default();
    let missing = || Problem::not_found(format!("there is nothing at `{path}` at either moment"));
    let diff = control.diff(from, to, &path).await?.ok_or_else(missing)?;
    Ok(json(&DiffView::new(&diff, after, limit)))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WhyQuery {
    /// The path of the Work.
    #[param(example = "train")]
    work: String,
    /// The number of the run.
    #[param(minimum = 0, maximum = 9007199254740991_i64)]
    run: u64,
    /// `next` of the page before; the chain begins with the run itself by default.
    #[param(
        nullable = false,
        pattern = r"^(progress|(first|run)-[0-9]{1,18}|request-[0-9]{1,18}-[0-9]{1,18})-[0-9]{1,18}-[0-9]{1,18}-[a-z]{1,20}$"
    )]
    cursor: Option<String>,
    /// The number of runs after which the page ends. It ends earlier where much of the history has to be read.
    #[param(minimum = 1, maximum = 100, default = 20, nullable = false)]
    limit: Option<u64>,
}

/// Tells what led to a run, from the journal of the App: its request, what the Flow saw then, and what led to that.
///
/// Each run of the chain led to the one before it.
#[utoipa::path(get, path = "/api/v1/why", tag = "state", params(WhyQuery), responses(
    (status = 200, description = "a part of the chain", body = WhyView),
    Common,
))]
pub(super) async fn why(request: HttpRequest, control: web::Data<Control>) -> Answer {
    let WhyQuery { work, run, cursor, limit } = query(&request)?;
    let limit = limit.unwrap_or(20);
    within("limit", limit, 1, 100)?;
    within("run", run, 0, MOST)?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let is_first = cursor.is_none();
    let wrong = |error: NoCursor| Problem::bad_request(format!("`cursor`: {error}"));
    let tracing = match cursor {
        None => Tracing::new(ActorPath::from(work.as_str()), run, limit, true),
        Some(cursor) => Tracing::from(cursor.parse::<Cursor>().map_err(wrong)?, limit, true),
    };
    let chain = control.why(tracing).await?;
    if is_first && chain.items.is_empty() && chain.next.is_none() {
        return Err(Problem::not_found(format!(
            "the history has no run {run} of `{work}`; `history` lists the runs that it has"
        )));
    }
    Ok(json(&WhyView::from(chain)))
}
