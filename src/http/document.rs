//! The OpenAPI document, made from the handlers and the types of their answers.

use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::problem::Problem;
use super::{act, events, metrics, read};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Flowright",
        description = "What an App shows and what can be asked of it. Errors are RFC 9457 problem documents.",
    ),
    paths(
        read::health,
        read::ready,
        metrics::metrics,
        read::app,
        read::state,
        read::status,
        read::graph,
        read::work,
        read::runs,
        read::nodes,
        read::payloads,
        read::logs,
        events::events,
        act::stop,
        act::start,
        act::restart,
        act::rerun,
        act::forget,
        act::stop_app,
        act::ask,
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
