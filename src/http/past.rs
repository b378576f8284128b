//! Handlers of queries for the past of an App with a journal.

use actix_web::{HttpRequest, web};
use serde::Deserialize;
use utoipa::IntoParams;

use super::answers::{Answer, MOST, json, within};
use super::model::{HistoryView, PastStateView};
use super::problem::{Common, Problem};
use super::query::query;
use crate::app::Control;
use crate::app::history::{At, Wanted};
use crate::id::ActorPath;

/// Answers with the state at a moment of the past.
pub(super) async fn state(control: &Control, path: &str, at: &str) -> Answer {
    let at = at.parse::<At>().map_err(|error| Problem::bad_request(format!("`at`: {error}")))?;
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
