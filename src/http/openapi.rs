//! The OpenAPI document, generated from the handlers and their response types.

use actix_web::{HttpResponse, web};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};

#[cfg(feature = "remote")]
use super::fleet;
#[cfg(feature = "journal")]
use super::past;
use super::problem::Problem;
use super::queries::fresh;
use super::{commands, events, metrics, queries};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Flowright",
        description = "Queries an App and controls it. Errors are RFC 9457 problem documents.",
    ),
    paths(
        queries::health,
        queries::ready,
        metrics::metrics,
        queries::app,
        queries::state,
        queries::status,
        queries::graph,
        queries::work,
        queries::runs,
        queries::services,
        queries::service,
        queries::nodes,
        queries::payloads,
        queries::topics,
        queries::logs,
        events::events,
        commands::stop,
        commands::start,
        commands::restart,
        commands::rerun,
        commands::forget,
        commands::stop_app,
        commands::resume,
        commands::drain,
        commands::ask,
        commands::ask_service,
    ),
    components(schemas(Problem)),
    modifiers(&Bearer),
    security((), ("bearer" = [])),
)]
struct Api;

/// The routes of an App that may have a journal.
#[cfg(feature = "journal")]
#[derive(OpenApi)]
#[openapi(paths(past::history, past::diff, past::why))]
struct JournalApi;

/// The routes of an App that may have a fleet.
#[cfg(feature = "remote")]
#[derive(OpenApi)]
#[openapi(paths(fleet::fleet, fleet::check, fleet::pause, fleet::resume, fleet::end, fleet::log))]
struct FleetApi;

/// Adds the bearer token as a security scheme.
struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        components.add_security_scheme("bearer", scheme);
    }
}

/// The document, rendered once when the server starts.
pub(super) struct OpenApiDocument(pub(super) String);

impl OpenApiDocument {
    pub(super) fn new() -> Self {
        let document = Api::openapi();
        #[cfg(feature = "journal")]
        let document = document.merge_from(JournalApi::openapi());
        #[cfg(feature = "remote")]
        let document = document.merge_from(FleetApi::openapi());
        // Serialising the crate's own types cannot fail.
        Self(document.to_pretty_json().unwrap_or_default())
    }
}

/// Returns the OpenAPI document.
pub(super) async fn openapi(document: web::Data<OpenApiDocument>) -> HttpResponse {
    fresh().content_type("application/json").body(document.0.clone())
}
