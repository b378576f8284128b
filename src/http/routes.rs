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
                .route("/view/view.css", web::get().to(view_css))
                .route("/view/view.js", web::get().to(view_js))
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

/// What the page may load: its own script and style, and its own server's events.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

async fn view() -> HttpResponse {
    embedded("text/html; charset=utf-8", include_str!("view/view.html"))
}

async fn view_css() -> HttpResponse {
    embedded("text/css; charset=utf-8", include_str!("view/view.css"))
}

async fn view_js() -> HttpResponse {
    embedded("text/javascript; charset=utf-8", include_str!("view/view.js"))
}

/// A part of the page. It is never cached: another program may be served at this address tomorrow.
fn embedded(content_type: &'static str, body: &'static str) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, content_type))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::CONTENT_SECURITY_POLICY, PAGE_POLICY))
        .body(body)
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
    use futures::FutureExt;

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
    #[test]
    fn the_page_loads_nothing_that_its_policy_forbids() {
        let page = view().now_or_never().unwrap();
        let policy = page.headers().get(header::CONTENT_SECURITY_POLICY).unwrap().to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        let html = include_str!("view/view.html");
        assert!(html.contains(r#"href="view/view.css""#) && html.contains(r#"src="view/view.js""#));
        for inline in ["<style", "<script>", " style=", " on", "http:", "https:"] {
            assert!(!html.contains(inline), "{inline}");
        }
        for markup in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write"] {
            assert!(!include_str!("view/view.js").contains(markup), "{markup}");
        }
    }
}
