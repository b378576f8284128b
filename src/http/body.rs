//! Request bodies, bounded in length and in time.

use std::time::Duration;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpMessage, HttpRequest, web};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use serde::Deserialize;

use super::problem::Problem;

/// The maximum length of a body, in bytes.
pub(super) const LONGEST: usize = 4 << 20;

/// The time within which a whole body must arrive.
const PATIENCE: Duration = Duration::from_secs(30);

fn too_large() -> Problem {
    let detail = format!("the body has more than {LONGEST} bytes; put large values into a payload");
    // The connection is closed, since the rest of the body stays unread.
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail).with(header::CONNECTION, "close")
}

/// Reads a body to its end.
pub(super) async fn read(request: &HttpRequest, mut payload: web::Payload) -> Result<Bytes, Problem> {
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > LONGEST as u64) {
        return Err(too_large());
    }
    let all = async {
        let mut body = BytesMut::new();
        while let Some(part) = payload.next().await {
            let part =
                part.map_err(|error| Problem::bad_request(format!("the body cannot be read: {error}")))?;
            if body.len() + part.len() > LONGEST {
                return Err(too_large());
            }
            body.extend_from_slice(&part);
        }
        Ok(body.freeze())
    };
    tokio::time::timeout(PATIENCE, all).await.unwrap_or_else(|_| {
        let detail = format!("the body did not arrive within {} s", PATIENCE.as_secs());
        Err(Problem::new(StatusCode::REQUEST_TIMEOUT, detail).with(header::CONNECTION, "close"))
    })
}

/// Reads a body whose `Content-Type` is JSON. Requiring the type protects against other origins: a browser sends it for
/// a page of another origin only after a preflight request.
pub(super) async fn read_json(request: &HttpRequest, payload: web::Payload) -> Result<Bytes, Problem> {
    let said = request.content_type();
    if !said.eq_ignore_ascii_case("application/json") {
        let detail = "send JSON, with the header `Content-Type: application/json`";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    read(request, payload).await
}

/// Parses JSON as a `T`.
///
/// # Errors
/// 400 when the body is not valid JSON, 422 when it is not a `T`.
pub(super) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => unfit(error.to_string()),
        _ => Problem::bad_request(format!("the body is not valid JSON: {error}")),
    })
}

/// Parses a JSON object as a `T`. Arrays are refused, which serde would accept for a struct.
pub(super) fn parse_object<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    let value = parse(body)?;
    match body.trim_ascii_start().first() {
        Some(b'{') => Ok(value),
        _ => Err(unfit("it has to be an object")),
    }
}

/// Creates the problem for a body that is valid JSON of the wrong form (422).
pub(super) fn unfit(why: impl std::fmt::Display) -> Problem {
    Problem::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        format!("the body is JSON, but not of the expected form: {why}"),
    )
}
