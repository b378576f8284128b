//! The routes of the server.

use actix_web::http::{Method, header};
use actix_web::{HttpRequest, Resource, Route, guard, web};

#[cfg(feature = "remote")]
use super::fleet;
#[cfg(feature = "journal")]
use super::past;
use super::problem::Problem;
use super::{commands, events, metrics, openapi, page, queries};

/// Returns the resource of one path. Requests with another method are answered with 405 and the allowed method.
fn at(path: &str, method: Method, route: Route) -> Resource {
    let allowed = method.to_string();
    web::resource(path).route(route.guard(guard::Method(method))).default_service(web::to(
        move |request: HttpRequest| {
            let detail = format!("this address does not support {}; it supports {allowed}", request.method());
            let status = actix_web::http::StatusCode::METHOD_NOT_ALLOWED;
            let problem = Problem::new(status, detail).with(header::ALLOW, allowed.clone()).at(&request);
            async move { problem.respond() }
        },
    ))
}

pub(super) fn configure(config: &mut web::ServiceConfig) {
    let get = |path: &str, route: Route| at(path, Method::GET, route);
    let post = |path: &str, route: Route| at(path, Method::POST, route);
    #[cfg(feature = "journal")]
    config
        .service(get("/api/v1/history", web::route().to(past::history)))
        .service(get("/api/v1/diff", web::route().to(past::diff)))
        .service(get("/api/v1/why", web::route().to(past::why)));
    #[cfg(feature = "remote")]
    config
        .service(get("/api/v1/fleet", web::route().to(fleet::fleet)))
        .service(get("/api/v1/fleet/groups/{name}/check", web::route().to(fleet::check)))
        .service(post("/api/v1/fleet/groups/{name}/pause", web::route().to(fleet::pause)))
        .service(post("/api/v1/fleet/groups/{name}/resume", web::route().to(fleet::resume)))
        .service(post("/api/v1/fleet/allocations/{name}/end", web::route().to(fleet::end)))
        .service(get("/api/v1/fleet/allocations/{name}/log", web::route().to(fleet::log)));
    config
        .service(get("/", web::route().to(page::home)))
        .service(get("/view", web::route().to(page::view)))
        .service(get("/view/{name}", web::route().to(page::file)))
        .service(get("/healthz", web::route().to(queries::health)))
        .service(get("/readyz", web::route().to(queries::ready)))
        .service(get("/metrics", web::route().to(metrics::metrics)))
        .service(get("/api/v1/openapi.json", web::route().to(openapi::openapi)))
        .service(get("/api/v1/app", web::route().to(queries::app)))
        .service(get("/api/v1/state", web::route().to(queries::state)))
        .service(get("/api/v1/status", web::route().to(queries::status)))
        .service(get("/api/v1/graph", web::route().to(queries::graph)))
        .service(get("/api/v1/nodes", web::route().to(queries::nodes)))
        .service(get("/api/v1/topics", web::route().to(queries::topics)))
        .service(get("/api/v1/payloads", web::route().to(queries::payloads)))
        .service(get("/api/v1/logs", web::route().to(queries::logs)))
        .service(get("/api/v1/events", web::route().to(events::events)))
        .service(get("/api/v1/works/{path}", web::route().to(queries::work)))
        .service(get("/api/v1/works/{path}/runs", web::route().to(queries::runs)))
        .service(post("/api/v1/works/{path}/stop", web::route().to(commands::stop)))
        .service(post("/api/v1/works/{path}/start", web::route().to(commands::start)))
        .service(post("/api/v1/works/{path}/restart", web::route().to(commands::restart)))
        .service(post("/api/v1/works/{path}/rerun", web::route().to(commands::rerun)))
        .service(post("/api/v1/works/{path}/forget", web::route().to(commands::forget)))
        .service(post("/api/v1/works/{path}/messages/{message}", web::route().to(commands::ask)))
        .service(get("/api/v1/services", web::route().to(queries::services)))
        .service(get("/api/v1/services/{path}", web::route().to(queries::service)))
        .service(post("/api/v1/services/{path}/messages/{message}", web::route().to(commands::ask_service)))
        .service(post("/api/v1/nodes/{name}/drain", web::route().to(commands::drain)))
        .service(post("/api/v1/app/resume", web::route().to(commands::resume)))
        .service(post("/api/v1/app/stop", web::route().to(commands::stop_app)));
}
