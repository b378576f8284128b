//! Handlers of queries.

use std::time::SystemTime;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use chrono::DateTime;
use parking_lot::Mutex;
use serde::Deserialize;
use utoipa::IntoParams;

pub(super) use super::answers::{Answer, fresh};
use super::answers::{MOST, json, within};
#[cfg(feature = "journal")]
use super::model::AnyStateView;
use super::model::{
    About, AppInfo, GraphView, Health, LogView, LogsView, NodeView, PayloadView, PayloadsView, PendingView,
    Readiness, RunView, RunsView, ServiceView, ServicesView, StateView, StatusView, TopicView, TopicsView,
    WorkView, graph_view, service_view, status_view, work_view,
};
use super::problem::{Common, Problem};
use super::query::query;
use crate::app::{AppError, AppStage, Control, HEAD, ServiceSnapshot};
use crate::printable::chain;
use crate::work::logs::{self, AppLog, Wanted};
use crate::work::{Stage, Topics};

/// Reports liveness: 200 while the process answers and no Flow has blocked the App's thread for ten seconds.
#[utoipa::path(get, path = "/healthz", tag = "health", security(()), responses(
    (status = 200, description = "the App lives", body = Health),
    Common,
))]
pub(super) async fn health(control: web::Data<Control>) -> Answer {
    if let Some(problem) = Problem::stuck(&control) {
        return Err(problem);
    }
    Ok(json(&Health { status: "ok".to_owned() }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ReadyQuery {
    /// Lists the pending Works, including those that do not count, and the services that are not ready.
    #[param(default = false, nullable = false)]
    detail: Option<bool>,
}

/// Reports readiness: 200 when the App runs, no Work that counts is pending, and each service is ready.
///
/// A service is ready when one version serves with at least one replica to which messages go.
///
/// A Flow decides with `count_for_readiness` which Works count. By default a Work counts unless it waits for a node,
/// as a batch job does whose nodes have not been started yet.
#[utoipa::path(get, path = "/readyz", tag = "health", params(ReadyQuery), responses(
    (status = 200, description = "the App is ready", body = Readiness),
    Common,
))]
pub(super) async fn ready(request: HttpRequest, control: web::Data<Control>) -> Answer {
    let ReadyQuery { detail } = query(&request)?;
    let snapshot = control.snapshot().await?;
    let unavailable = |detail: String| Problem::new(actix_web::http::StatusCode::SERVICE_UNAVAILABLE, detail);
    if snapshot.stage != AppStage::Running {
        return Err(unavailable("the App does not run".to_owned()));
    }
    let works = snapshot.works.iter().filter(|work| work.status.stage == Stage::Pending);
    let pending = works.map(|work| PendingView {
        path: work.path.as_str().to_owned(),
        counts: work.counts_for_readiness.unwrap_or(!work.is_unplaced),
        message: work.status.message.clone(),
    });
    let services = snapshot.flows.iter().filter_map(|flow| unready(flow.service.as_ref()?));
    let mut services: Vec<_> = services.collect();
    services.sort_by(|a, b| a.path.cmp(&b.path));
    let pending: Vec<_> = pending.chain(services).collect();
    let counted: Vec<_> = pending.iter().filter(|one| one.counts).collect();
    if counted.is_empty() {
        let pending = detail.unwrap_or(false).then_some(pending);
        return Ok(json(&Readiness { status: "ok".to_owned(), pending }));
    }
    let reasons = counted.iter().take(REASONS).map(|one| match &one.message {
        Some(why) => format!("`{}` ({why})", one.path),
        None => format!("`{}`", one.path),
    });
    let mut reasons = reasons.collect::<Vec<_>>().join(", ");
    if counted.len() > REASONS {
        reasons.push_str(", …");
    }
    let known = counted.iter().map(|one| one.path.clone()).collect();
    let detail = format!("{} Works and services are not ready: {reasons}", counted.len());
    Err(unavailable(detail).known(known))
}

/// The maximum number of reasons in the answer of a readiness probe.
const REASONS: usize = 10;

/// Returns the reason why a service is not ready, unless it is.
fn unready(service: &ServiceSnapshot) -> Option<PendingView> {
    if service.is_ready() {
        return None;
    }
    let report = &service.report;
    let why = match (service.status.stage, report.serving, report.rollouts.last()) {
        (Stage::Running, Some(version), _) => {
            format!("version {version} serves with no replica that is ready")
        }
        (Stage::Running, None, None) => "nothing was deployed".to_owned(),
        (Stage::Running, None, Some(last)) => match &last.message {
            Some(why) => format!("no version serves; version {} was rolled back: {why}", last.version),
            None => format!("no version serves; version {} starts", last.version),
        },
        (stage, ..) => match &service.status.message {
            Some(why) => format!("the service is {stage}: {why}"),
            None => format!("the service is {stage}"),
        },
    };
    Some(PendingView { path: service.path.as_str().to_owned(), counts: true, message: Some(why) })
}

/// Identifies the program that serves this API.
#[utoipa::path(get, path = "/api/v1/app", tag = "status", responses(
    (status = 200, description = "its name, root type and version", body = AppInfo),
    Common,
))]
pub(super) async fn app(about: web::Data<About>) -> Answer {
    let About { name, program, version, .. } = &**about;
    Ok(json(&AppInfo { name: name.clone(), program: (*program).to_owned(), version: version.clone() }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct StateQuery {
    /// The dotted path of a part of the state; the whole state by default.
    #[param(example = "train", nullable = false)]
    path: Option<String>,
    /// A moment of the past of an App with a journal: a position, or a time (RFC 3339).
    #[cfg(feature = "journal")]
    #[param(
        example = "17",
        nullable = false,
        pattern = r"^([0-9]{1,18}|20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z)$"
    )]
    at: Option<String>,
}

/// The last serialised state and its version. Most clients poll more often than the state changes.
#[derive(Default)]
pub(super) struct Written(Mutex<Option<(u64, Bytes)>>);

impl Written {
    fn get(&self, version: u64) -> Option<Bytes> {
        self.0.lock().as_ref().filter(|(known, _)| *known == version).map(|(_, bytes)| bytes.clone())
    }
}

/// Returns the state of the App, or a part of it.
///
/// A request with `If-None-Match` and the `ETag` of an earlier answer gets 304 while the state is the same. With `at` it is
/// the state at a moment of the past, and has no `ETag`.
#[cfg_attr(feature = "journal", utoipa::path(get, path = "/api/v1/state", tag = "state", params(StateQuery), responses(
    (status = 200, description = "the state", body = AnyStateView, headers(("ETag" = Option<String>, description = "the version"))),
    (status = 304, description = "the state has not changed", headers(("ETag" = String, description = "the version"))),
    Common,
)))]
#[cfg_attr(not(feature = "journal"), utoipa::path(get, path = "/api/v1/state", tag = "state", params(StateQuery), responses(
    (status = 200, description = "the state", body = StateView, headers(("ETag" = String, description = "the version"))),
    (status = 304, description = "the state has not changed", headers(("ETag" = String, description = "the version"))),
    Common,
)))]
pub(super) async fn state(
    request: HttpRequest,
    control: web::Data<Control>,
    tag: web::Data<super::Instance>,
    written: web::Data<Written>,
) -> Answer {
    let wanted: StateQuery = query(&request)?;
    #[cfg(feature = "journal")]
    if let Some(at) = &wanted.at {
        return super::past::state(&control, wanted.path.as_deref().unwrap_or_default(), at).await;
    }
    let path = wanted.path;
    let etag = |version: u64| format!("\"{:x}-{version}\"", tag.0);
    let known = request.headers().get(header::IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
    let is_known = |version: u64| {
        let etag = etag(version);
        known.is_some_and(|known| known.split(',').any(|one| one.trim().trim_start_matches("W/") == etag))
    };
    // Read before the snapshot: the state may only become newer in between.
    let version = *control.changes().borrow();
    if path.is_none() && is_known(version) {
        return Ok(HttpResponse::NotModified().insert_header((header::ETAG, etag(version))).finish());
    }
    let respond = |version: u64, bytes: Bytes| {
        fresh().insert_header((header::ETAG, etag(version))).content_type("application/json").body(bytes)
    };
    if path.is_none()
        && let Some(bytes) = written.get(version)
    {
        return Ok(respond(version, bytes));
    }
    let snapshot = control.snapshot().await?;
    let version = snapshot.version;
    let state = snapshot
        .state
        .map_err(|error| Problem::new(actix_web::http::StatusCode::SERVICE_UNAVAILABLE, chain(&error)))?;
    let is_whole = path.is_none();
    let path = path.unwrap_or_default();
    let part =
        state.get(&path).ok_or_else(|| Problem::not_found(format!("the state has nothing at `{path}`")))?;
    if is_known(version) {
        return Ok(HttpResponse::NotModified().insert_header((header::ETAG, etag(version))).finish());
    }
    let view = serde_json::to_vec(&StateView { version, state: part.to_json() });
    let bytes = Bytes::from(view.map_err(|error| AppError::Internal(error.to_string()))?);
    if is_whole {
        *written.0.lock() = Some((version, bytes.clone()));
    }
    Ok(respond(version, bytes))
}

/// Returns the status of the App, its Works, Flows and nodes.
#[utoipa::path(get, path = "/api/v1/status", tag = "status", responses(
    (status = 200, description = "the status of the App, its Works, its Flows and its nodes", body = StatusView),
    Common,
))]
pub(super) async fn status(control: web::Data<Control>, about: web::Data<About>) -> Answer {
    Ok(json(&status_view(&control.snapshot().await?, &about)))
}

/// Returns the tree of Flows and Works, and the node of each.
#[utoipa::path(get, path = "/api/v1/graph", tag = "status", responses(
    (status = 200, description = "the Flows by path, then the Works in the order in which they joined", body = GraphView),
    Common,
))]
pub(super) async fn graph(control: web::Data<Control>) -> Answer {
    Ok(json(&graph_view(&control.snapshot().await?)))
}

/// Returns one Work.
#[utoipa::path(get, path = "/api/v1/works/{path}", tag = "works",
    params(("path" = String, Path, description = "the path of the Work", example = "train")),
    responses((status = 200, description = "the Work", body = WorkView), Common),
)]
pub(super) async fn work(control: web::Data<Control>, path: web::Path<String>) -> Answer {
    match control.work_snapshot(&path).await? {
        Some(work) => Ok(json(&work_view(&work))),
        None => Err(Problem::no_such_work(&path)),
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RunsQuery {
    /// The page, from 1.
    #[param(minimum = 1, maximum = 1_000_000, default = 1, nullable = false)]
    page: Option<u64>,
    /// The number of runs per page.
    #[param(minimum = 1, maximum = 200, default = 50, nullable = false)]
    per_page: Option<u64>,
}

/// Lists the runs of a Work, the newest first.
///
/// The last 200 attempts and all waiting runs are kept.
#[utoipa::path(get, path = "/api/v1/works/{path}/runs", tag = "works",
    params(("path" = String, Path, description = "the path of the Work", example = "train"), RunsQuery),
    responses((status = 200, description = "a page of runs", body = RunsView), Common),
)]
pub(super) async fn runs(
    request: HttpRequest,
    control: web::Data<Control>,
    path: web::Path<String>,
) -> Answer {
    let RunsQuery { page, per_page } = query(&request)?;
    let (page, per_page) = (page.unwrap_or(1), per_page.unwrap_or(50));
    within("page", page, 1, 1_000_000)?;
    within("per_page", per_page, 1, 200)?;
    let skip = usize::try_from((page - 1) * per_page).unwrap_or(usize::MAX);
    let take = usize::try_from(per_page).unwrap_or(usize::MAX);
    let runs = control.runs(&path, skip, take).await?.ok_or_else(|| Problem::no_such_work(&path))?;
    let items = runs.runs.into_iter().map(RunView::from).collect();
    Ok(json(&RunsView { page, per_page, total: runs.total as u64, items }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ServicesQuery {
    /// The page, from 1.
    #[param(minimum = 1, maximum = 1_000_000, default = 1, nullable = false)]
    page: Option<u64>,
    /// The number of services per page.
    #[param(minimum = 1, maximum = 200, default = 50, nullable = false)]
    per_page: Option<u64>,
}

/// Lists the services by path: versions, replicas and messages of each.
#[utoipa::path(get, path = "/api/v1/services", tag = "services", params(ServicesQuery), responses(
    (status = 200, description = "a page of services", body = ServicesView),
    Common,
))]
pub(super) async fn services(request: HttpRequest, control: web::Data<Control>) -> Answer {
    let ServicesQuery { page, per_page } = query(&request)?;
    let (page, per_page) = (page.unwrap_or(1), per_page.unwrap_or(50));
    within("page", page, 1, 1_000_000)?;
    within("per_page", per_page, 1, 200)?;
    let skip = usize::try_from((page - 1) * per_page).unwrap_or(usize::MAX);
    let take = usize::try_from(per_page).unwrap_or(usize::MAX);
    let services = control.services().await?;
    let items = services.iter().skip(skip).take(take).map(service_view).collect();
    Ok(json(&ServicesView { page, per_page, total: services.len() as u64, items }))
}

/// Returns one service: versions, replicas and messages.
#[utoipa::path(get, path = "/api/v1/services/{path}", tag = "services",
    params(("path" = String, Path, description = "the path of the service", example = "server")),
    responses((status = 200, description = "the service", body = ServiceView), Common),
)]
pub(super) async fn service(control: web::Data<Control>, path: web::Path<String>) -> Answer {
    match control.service(&path).await? {
        Some(service) => Ok(json(&service_view(&service))),
        None => Err(Problem::no_such_service(&path, &control.services().await?)),
    }
}

/// Lists the nodes, including `head`, the process with the Flows.
#[utoipa::path(get, path = "/api/v1/nodes", tag = "status", responses(
    (status = 200, description = "the nodes by name", body = std::collections::BTreeMap<String, NodeView>),
    Common,
))]
pub(super) async fn nodes(control: web::Data<Control>) -> Answer {
    Ok(json(&super::model::nodes(&control.snapshot().await?)))
}

/// Lists the topics by name: messages and subscribers of each. What other processes report is up to 2 s old.
#[utoipa::path(get, path = "/api/v1/topics", tag = "status", responses(
    (status = 200, description = "the topics", body = TopicsView),
    Common,
))]
pub(super) async fn topics(control: web::Data<Control>) -> Answer {
    let items = Topics::of(control.runtime()).status(HEAD).into_iter().map(TopicView::from).collect();
    Ok(json(&TopicsView { items }))
}

/// Lists the payloads that states of Works and inputs of runs refer to.
#[utoipa::path(get, path = "/api/v1/payloads", tag = "state", responses(
    (status = 200, description = "the payloads", body = PayloadsView),
    Common,
))]
pub(super) async fn payloads(control: web::Data<Control>) -> Answer {
    let items = control.payloads().await?.into_iter().map(PayloadView::from).collect();
    Ok(json(&PayloadsView { items }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct LogsQuery {
    /// The path of a Work; lines of all Works and of the App by default.
    #[param(nullable = false)]
    work: Option<String>,
    /// The lowest severity; `info` by default.
    #[param(inline, value_type = LevelName, required = false)]
    level: Option<LevelName>,
    /// The earliest time (RFC 3339).
    #[param(format = DateTime, nullable = false)]
    since: Option<String>,
    /// The number of a line; only later lines are returned. Without it, the last lines are.
    #[param(minimum = 0, maximum = 9007199254740991_i64, nullable = false)]
    after: Option<u64>,
    /// The maximum number of lines.
    #[param(minimum = 1, maximum = 1000, default = 200, nullable = false)]
    limit: Option<u64>,
}

#[derive(Debug, Clone, Copy, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum LevelName {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// Returns logged lines, the oldest first. The last 1,000 lines of each Work are kept.
#[utoipa::path(get, path = "/api/v1/logs", tag = "logs", params(LogsQuery), responses(
    (status = 200, description = "log lines, the oldest first", body = LogsView),
    Common,
))]
pub(super) async fn logs(request: HttpRequest, control: web::Data<Control>) -> Answer {
    let LogsQuery { work, level, since, after, limit } = query(&request)?;
    let since = match since {
        Some(text) => DateTime::parse_from_rfc3339(&text)
            .map_err(|error| {
                Problem::bad_request(format!(
                    "`since` is not an RFC 3339 time ({error}); write it like 2026-01-31T12:00:00Z"
                ))
            })?
            .into(),
        None => SystemTime::UNIX_EPOCH,
    };
    let limit = limit.unwrap_or(200);
    within("limit", limit, 1, 1000)?;
    within("after", after.unwrap_or(0), 0, MOST)?;
    let level = match level.unwrap_or(LevelName::Info) {
        LevelName::Error => log::Level::Error,
        LevelName::Warn => log::Level::Warn,
        LevelName::Info => log::Level::Info,
        LevelName::Debug => log::Level::Debug,
        LevelName::Trace => log::Level::Trace,
    };
    let last = *logs::last().borrow();
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let found =
        AppLog::of(control.runtime()).find(&Wanted { work: work.as_deref(), level, since, after, limit });
    // A full page may have more lines behind it; otherwise all lines up to `last` have been searched.
    let next = match found.last() {
        Some(line) if found.len() == limit => line.seq,
        Some(line) => line.seq.max(last),
        None => last.max(after.unwrap_or(0)),
    };
    Ok(json(&LogsView { items: found.iter().map(|line| LogView::from(&**line)).collect(), next }))
}

/// Answers requests to unknown addresses with 404.
pub(super) async fn not_found(request: HttpRequest) -> HttpResponse {
    let detail = "there is nothing at this address; the page is at /view, and the API is described by \
                  /api/v1/openapi.json";
    Problem::not_found(detail).at(&request).respond()
}
