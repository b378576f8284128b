//! Errors as problem documents (RFC 9457).

use std::collections::BTreeMap;
use std::fmt;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, ResponseError};
use serde::Serialize;
use utoipa::openapi::{Content, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

#[cfg(feature = "journal")]
use crate::app::history::NoPast;
use crate::app::{AppError, Control, ServiceSnapshot};
use crate::printable::chain;
use crate::work::HandlerError;

pub(super) const MEDIA_TYPE: &str = "application/problem+json";

/// The maximum number of paths that exist in a problem.
const KNOWN: usize = 100;

/// A problem document (RFC 9457).
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Problem {
    /// Always `about:blank`: the status says what kind of problem it is.
    #[serde(rename = "type")]
    #[schema(example = "about:blank")]
    kind: &'static str,
    /// The reason phrase of the status.
    #[schema(example = "Not Found")]
    title: &'static str,
    /// The HTTP status code.
    #[schema(example = 404)]
    status: u16,
    /// The cause of the problem, and a remedy.
    #[schema(example = "there is no work `trian`")]
    detail: String,
    /// The path of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    instance: Option<Box<str>>,
    /// The names that exist, or the names that an ambiguous one may stand for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    known: Vec<String>,
    /// The error with which a handler has answered, as its type is written as JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    error: Option<Box<serde_json::Value>>,
    #[serde(skip)]
    header: Option<Box<(header::HeaderName, String)>>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: detail.into(),
            instance: None,
            known: Vec::new(),
            error: None,
            header: None,
        }
    }

    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    pub(super) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, detail)
    }

    pub(super) fn no_such_work(path: &str) -> Self {
        Self::not_found(format!("there is no work `{path}`; /api/v1/graph lists all Works"))
    }

    /// Returns the problem for a name that no node has, with the names of those that there are.
    pub(super) fn no_such_node(name: &str, nodes: impl Iterator<Item = String>) -> Self {
        Self::not_found(format!("there is no node `{name}`; /api/v1/nodes lists all nodes"))
            .known(nodes.take(KNOWN).collect())
    }

    /// Returns the problem for a path without a service, with the paths of those that there are.
    pub(super) fn no_such_service(path: &str, services: &[ServiceSnapshot]) -> Self {
        let known = services.iter().take(KNOWN).map(|service| service.path.as_str().to_owned()).collect();
        Self::not_found(format!("there is no service `{path}`; /api/v1/services lists all services"))
            .known(known)
    }

    /// Returns the problem for a Flow that does not return, if there is one. Requests that need the App's thread are
    /// answered with it instead of waiting.
    pub(super) fn stuck(control: &Control) -> Option<Self> {
        let stuck = control.stuck()?;
        let detail = format!("{stuck}: no Flow reacts, and the App answers no requests until it returns");
        Some(Self::new(StatusCode::SERVICE_UNAVAILABLE, detail))
    }

    /// Returns the problem for the error with which a handler of the Work at `path` has answered.
    pub(super) fn of_handler(path: &str, HandlerError { json, status }: &HandlerError) -> Self {
        let status = status.and_then(|status| StatusCode::from_u16(status).ok());
        let status = status.unwrap_or(StatusCode::UNPROCESSABLE_ENTITY);
        let error: serde_json::Value = serde_json::from_slice(json).unwrap_or_default();
        let text = error.as_str().map_or_else(|| error.to_string(), str::to_owned);
        let detail = format!("work `{path}` has handled the message, and answered with an error: {text}");
        Self { error: Some(Box::new(error)), ..Self::new(status, detail) }
    }

    pub(super) fn is(&self, status: StatusCode) -> bool {
        self.status == status.as_u16()
    }

    pub(super) fn known(self, known: Vec<String>) -> Self {
        Self { known, ..self }
    }

    pub(super) fn with(self, name: header::HeaderName, value: impl Into<String>) -> Self {
        Self { header: Some(Box::new((name, value.into()))), ..self }
    }

    /// Adds the path of the request.
    pub(super) fn at(self, request: &HttpRequest) -> Self {
        self.at_path(request.path())
    }

    /// Adds the path of a request.
    pub(super) fn at_path(self, path: &str) -> Self {
        Self { instance: Some(path.chars().take(256).collect::<String>().into()), ..self }
    }

    pub(super) fn respond(&self) -> HttpResponse {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = HttpResponse::build(status);
        response.insert_header((header::CONTENT_TYPE, MEDIA_TYPE));
        response.insert_header((header::CACHE_CONTROL, "no-store"));
        if let Some((name, value)) = self.header.as_deref() {
            if *name == header::CONNECTION {
                // The connection is closed, since the rest of the body stays unread.
                response.force_close();
            } else {
                response.insert_header((name.clone(), value.as_str()));
            }
        }
        // Serialising strings and numbers cannot fail.
        response.body(serde_json::to_vec(self).unwrap_or_default())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        self.respond()
    }
}

impl From<AppError> for Problem {
    fn from(error: AppError) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, chain(&error))
    }
}

#[cfg(feature = "journal")]
impl From<NoPast> for Problem {
    fn from(error: NoPast) -> Self {
        match error {
            NoPast::App(error) => error.into(),
            error if error.is_missing() => Self::not_found(chain(&error)),
            error => Self::new(StatusCode::SERVICE_UNAVAILABLE, chain(&error)),
        }
    }
}

/// A response of the OpenAPI document that is a problem.
fn described(description: &str) -> RefOr<Response> {
    let problem = Content::new(Some(RefOr::Ref(Ref::from_schema_name("Problem"))));
    RefOr::T(ResponseBuilder::new().description(description).content(MEDIA_TYPE, problem).build())
}

fn all(which: &[(&str, &str)]) -> BTreeMap<String, RefOr<Response>> {
    which.iter().map(|(status, description)| ((*status).to_owned(), described(description))).collect()
}

const COMMON: [(&str, &str); 8] = [
    ("400", "the request is malformed"),
    ("401", "the token is missing or wrong"),
    ("403", "the request comes from a page of another origin"),
    ("404", "the resource does not exist"),
    ("405", "the address does not support this method"),
    ("408", "the request did not arrive in time"),
    ("421", "the request names another host"),
    ("503", "the App does not run, or one of its Flows does not return"),
];

/// The errors of every route.
pub(super) struct Common;

impl IntoResponses for Common {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        all(&COMMON)
    }
}

/// The errors of actions: those of every route, and those of bodies and states.
pub(super) struct OfActions;

impl IntoResponses for OfActions {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let mut responses = all(&COMMON);
        responses.extend(all(&[
            ("409", "the action is impossible in the current state"),
            ("413", "the body is too large"),
            ("415", "the content type is not JSON"),
            ("422", "the body is JSON, but not of the expected form"),
        ]));
        responses
    }
}

/// The errors of asking a Work: those of actions, and failures of the handler.
pub(super) struct OfQuestions;

impl IntoResponses for OfQuestions {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let mut responses = OfActions::responses();
        responses.extend(all(&[
            ("4XX", "the handler has answered with an error, which is in `error` and says this status"),
            ("502", "the Work failed while it handled the message, or its answer is not JSON"),
            ("504", "the Work did not answer in time"),
            ("5XX", "the handler has answered with an error, which is in `error` and says this status"),
        ]));
        responses
    }
}
