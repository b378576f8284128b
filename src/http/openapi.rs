//! The OpenAPI document, made from the handlers and the types of their answers.

use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::problem::Problem;
use super::{commands, events, metrics, queries};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Flowright",
        description = "What an App shows and what can be asked of it. Errors are RFC 9457 problem documents.",
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
        queries::nodes,
        queries::payloads,
        queries::logs,
        events::events,
        commands::stop,
        commands::start,
        commands::restart,
        commands::rerun,
        commands::forget,
        commands::stop_app,
        commands::ask,
    ),
    components(schemas(Problem)),
    modifiers(&Bearer),
    security((), ("bearer" = [])),
)]
struct Api;

/// The token, where the server asks for one.
struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        components.add_security_scheme("bearer", scheme);
    }
}

/// The document, written once.
pub(super) struct Document(pub(super) String);

impl Document {
    pub(super) fn new() -> Self {
        // Types of the program's own always are JSON.
        Self(Api::openapi().to_pretty_json().unwrap_or_default())
    }
}
