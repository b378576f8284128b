//! Handlers for the groups of nodes that engines start.

use std::sync::Arc;

use actix_web::{HttpRequest, web};
use serde::Deserialize;
use utoipa::IntoParams;

use super::answers::{Answer, accepted, json};
use super::model::{Accepted, FleetCheckView, FleetLogView, FleetView, groups_of};
use super::problem::{Common, OfActions, Problem};
use super::query::query;
use crate::app::{AppFleet, Control};
use crate::fleet::{EngineError, Fleet};

/// The largest number of lines of an output.
const LINES: u32 = 1000;

/// Returns the fleet of the App.
fn fleet_of(control: &Control) -> Result<Fleet, Problem> {
    let slot: Option<Arc<AppFleet>> = control.runtime().part();
    let fleet = slot.and_then(|slot| slot.get().cloned());
    fleet.ok_or_else(|| Problem::not_found("this App has no fleet: its configuration has no [fleet.NAME]"))
}

fn no_such_group(fleet: &Fleet, name: &str) -> Problem {
    let known = fleet.views().into_iter().map(|group| group.name);
    Problem::not_found(format!("there is no group `{name}`; /api/v1/fleet lists all groups"))
        .known(known.collect())
}

fn no_such_allocation(name: &str) -> Problem {
    Problem::not_found(format!("there is no allocation `{name}`; /api/v1/fleet lists all allocations"))
}

/// Lists the groups of nodes that engines start, with their allocations; none if the App has no fleet.
#[utoipa::path(get, path = "/api/v1/fleet", tag = "status", responses(
    (status = 200, description = "the groups", body = FleetView),
    Common,
))]
pub(super) async fn fleet(control: web::Data<Control>) -> Answer {
    Ok(json(&FleetView { items: groups_of(control.runtime()).into_iter().map(Into::into).collect() }))
}

/// Returns the script or manifest of a group, and what its engine says to it. Nothing is started.
#[utoipa::path(get, path = "/api/v1/fleet/groups/{name}/check", tag = "status",
    params(("name" = String, Path, description = "the name of the group", example = "a100")),
    responses((status = 200, description = "the script and the verdict", body = FleetCheckView), Common,
        (status = 502, description = "the engine did not answer")),
)]
pub(super) async fn check(control: web::Data<Control>, name: web::Path<String>) -> Answer {
    let fleet = fleet_of(&control)?;
    match fleet.check(&name).await {
        Some(Ok(checked)) => Ok(json(&FleetCheckView::from(checked))),
        Some(Err(error)) => Err(no_answer(&error)),
        None => Err(no_such_group(&fleet, &name)),
    }
}

/// Pauses a group: no more nodes are requested, and those that there are stay.
#[utoipa::path(post, path = "/api/v1/fleet/groups/{name}/pause", tag = "actions",
    params(("name" = String, Path, description = "the name of the group", example = "a100")),
    responses((status = 202, description = "the group is paused", body = Accepted), OfActions),
)]
pub(super) async fn pause(control: web::Data<Control>, name: web::Path<String>) -> Answer {
    let fleet = fleet_of(&control)?;
    match fleet.pause(&name).await {
        true => Ok(accepted()),
        false => Err(no_such_group(&fleet, &name)),
    }
}

/// Resumes a group that somebody, a refusal of its engine or failures have paused.
#[utoipa::path(post, path = "/api/v1/fleet/groups/{name}/resume", tag = "actions",
    params(("name" = String, Path, description = "the name of the group", example = "a100")),
    responses((status = 202, description = "the group goes on", body = Accepted), OfActions),
)]
pub(super) async fn resume(control: web::Data<Control>, name: web::Path<String>) -> Answer {
    let fleet = fleet_of(&control)?;
    match fleet.resume(&name).await {
        true => Ok(accepted()),
        false => Err(no_such_group(&fleet, &name)),
    }
}

/// Ends an allocation. The Works on its node continue elsewhere.
#[utoipa::path(post, path = "/api/v1/fleet/allocations/{name}/end", tag = "actions",
    params(("name" = String, Path, description = "the name of the allocation", example = "a100-k3x9wq")),
    responses((status = 202, description = "the allocation will end", body = Accepted), OfActions),
)]
pub(super) async fn end(control: web::Data<Control>, name: web::Path<String>) -> Answer {
    match fleet_of(&control)?.end(&name).await {
        true => Ok(accepted()),
        false => Err(no_such_allocation(&name)),
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct OutputQuery {
    /// The number of lines.
    #[param(minimum = 1, maximum = 1000, nullable = false)]
    lines: Option<u32>,
}

/// Returns the last lines of the output of an allocation, 100 by default.
#[utoipa::path(get, path = "/api/v1/fleet/allocations/{name}/log", tag = "status",
    params(("name" = String, Path, description = "the name of the allocation", example = "a100-k3x9wq"), OutputQuery),
    responses((status = 200, description = "the output", body = FleetLogView), Common,
        (status = 502, description = "the engine did not answer, or has no output of it")),
)]
pub(super) async fn log(
    request: HttpRequest,
    control: web::Data<Control>,
    name: web::Path<String>,
) -> Answer {
    let lines = query::<OutputQuery>(&request)?.lines.unwrap_or(100);
    if !(1..=LINES).contains(&lines) {
        return Err(Problem::bad_request(format!("`lines` must be from 1 to {LINES}")));
    }
    match fleet_of(&control)?.output(&name, lines as usize).await {
        Some(Ok(text)) => Ok(json(&FleetLogView { text })),
        Some(Err(error)) => Err(no_answer(&error)),
        None => Err(no_such_allocation(&name)),
    }
}

fn no_answer(error: &EngineError) -> Problem {
    Problem::new(actix_web::http::StatusCode::BAD_GATEWAY, error.to_string())
}
