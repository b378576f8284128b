//! The routes.

use std::net::SocketAddr;
use std::time::Duration;

use actix_web::guard::GuardContext;
use actix_web::http::header;
use actix_web::{HttpResponse, Responder, web};
use bytes::Bytes;
use futures::stream;
use serde_json::json;

use crate::app::{AppError, Control};

/// The names under which the server may be called.
#[derive(Clone)]
pub(super) struct Hosts {
    /// Whether any name is fine: the server was told to listen beyond the loopback address.
    any: bool,
}

impl Hosts {
    pub(super) fn of(address: SocketAddr) -> Self {
        Self { any: !address.ip().is_loopback() }
    }

    fn admit(&self, host: &str) -> bool {
        let name = host.rsplit_once(':').map_or(host, |(name, port)| {
            if port.bytes().all(|byte| byte.is_ascii_digit()) { name } else { host }
        });
        let name = name.trim_start_matches('[').trim_end_matches(']');
        self.any
            || name.eq_ignore_ascii_case("localhost")
            || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

fn known_host(guard: &GuardContext<'_>) -> bool {
    let host =
        guard.head().headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    guard.app_data::<web::Data<Hosts>>().is_some_and(|hosts| hosts.admit(host))
}

pub(super) fn configure(config: &mut web::ServiceConfig) {
    config
        .service(
            web::scope("")
                .guard(actix_web::guard::fn_guard(known_host))
                .route("/healthz", web::get().to(health))
                .route("/api/v1/state", web::get().to(state))
                .route("/api/v1/status", web::get().to(status))
                .route("/api/v1/events", web::get().to(events))
                .route("/view", web::get().to(view))
                .route("/", web::get().to(home))
                .default_service(web::to(not_found)),
        )
        .default_service(web::to(wrong_host));
}

async fn health() -> impl Responder {
    HttpResponse::Ok().json(json!({ "status": "ok" }))
}

async fn state(control: web::Data<Control>) -> HttpResponse {
    match control.state().await {
        Ok(state) => fresh().json(state.to_json()),
        Err(error) => unavailable(&error),
    }
}

async fn status(control: web::Data<Control>) -> HttpResponse {
    match control.status().await {
        Ok(status) => fresh().json(status),
        Err(error) => unavailable(&error),
    }
}

async fn view() -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "text/html; charset=utf-8"))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .body(include_str!("view.html"))
}

async fn home() -> HttpResponse {
    HttpResponse::SeeOther().insert_header((header::LOCATION, "/view")).finish()
}

async fn not_found() -> HttpResponse {
    HttpResponse::NotFound()
        .json(json!({ "error": "there is nothing at this address; the page is at /view" }))
}

async fn wrong_host() -> HttpResponse {
    HttpResponse::Forbidden().json(json!({
        "error": "this App is served on the loopback address only, and the request names another host"
    }))
}

/// How often a page is sent something new at most: what a screen shows.
const FRAME: Duration = Duration::from_millis(16);

async fn events(control: web::Data<Control>) -> HttpResponse {
    let changes = control.changes();
    let events = stream::unfold((control, changes, true), |(control, mut changes, first)| async move {
        if !first {
            changes.changed().await.ok()?;
            tokio::time::sleep(FRAME).await;
        }
        let version = *changes.borrow_and_update();
        let state = control.state().await.ok()?.to_json();
        let status = control.status().await.ok()?;
        let data = json!({ "state": state, "status": status });
        let event = Bytes::from(format!("id: {version}\ndata: {data}\n\n"));
        Some((Ok::<_, actix_web::Error>(event), (control, changes, false)))
    });
    fresh().content_type("text/event-stream").streaming(events)
}

fn fresh() -> actix_web::HttpResponseBuilder {
    let mut response = HttpResponse::Ok();
    response.insert_header((header::CACHE_CONTROL, "no-store"));
    response
}

fn unavailable(error: &AppError) -> HttpResponse {
    HttpResponse::ServiceUnavailable().json(json!({ "error": error.to_string() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loopback_server_answers_to_loopback_names_only() {
        let hosts = Hosts::of("127.0.0.1:7501".parse().unwrap());
        for good in ["127.0.0.1:7501", "localhost:7501", "LOCALHOST", "[::1]:7501", "127.0.0.1"] {
            assert!(hosts.admit(good), "{good}");
        }
        for bad in ["evil.example:7501", "127.0.0.1.evil.example", "", "localhost.evil.example"] {
            assert!(!hosts.admit(bad), "{bad}");
        }
    }
}
