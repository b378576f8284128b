//! Streamed replies over HTTP: lines of JSON, or server-sent events.
//!
//! # Guarantees
//! - A client that reads slowly holds back the sender of its stream, at the window, and nobody else.
//! - A client that closes its connection ends the stream: its sender is told so.
//! - The end of a stream that is complete differs from that of one that is not.

use std::convert::Infallible;
use std::time::Duration;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use futures::{StreamExt, stream};
use serde_json::json;

use super::answers::fresh;
use super::problem::Problem;
use crate::work::JsonItems;

/// The interval of comments on an idle event stream, by which both ends notice a broken connection.
const HEARTBEAT: Duration = Duration::from_secs(15);

pub(super) const EVENTS: &str = "text/event-stream";
pub(super) const LINES: &str = "application/x-ndjson";

/// Returns the response with the items of a stream, in the format that the client accepts.
pub(super) fn respond(request: &HttpRequest, items: JsonItems) -> HttpResponse {
    let accepts_events = |accept: &header::HeaderValue| {
        accept.to_str().is_ok_and(|accept| accept.to_ascii_lowercase().contains(EVENTS))
    };
    let path = Place(request.path().to_owned());
    if request.headers().get_all(header::ACCEPT).any(accepts_events) {
        return fresh()
            .content_type(EVENTS)
            // Proxies such as nginx would hold events back.
            .insert_header(("x-accel-buffering", "no"))
            .streaming(stream::unfold((Some(items), path), next_event));
    }
    let lines = items.map(move |item| match item {
        Ok(mut json) => {
            json.push(b'\n');
            Ok::<_, Infallible>(Bytes::from(json))
        }
        Err(why) => Ok(Bytes::from(format!("{}\n", json!({ "$error": path.problem(why) })))),
    });
    fresh().content_type(LINES).insert_header(("x-accel-buffering", "no")).streaming(lines)
}

/// The path of a request, for problem documents.
struct Place(String);

impl Place {
    fn problem(&self, why: String) -> Problem {
        Problem::new(StatusCode::BAD_GATEWAY, why).at_path(&self.0)
    }
}

/// Returns the next event. The items are gone once the last one was returned.
async fn next_event(
    (items, path): (Option<JsonItems>, Place),
) -> Option<(Result<Bytes, Infallible>, (Option<JsonItems>, Place))> {
    let mut items = items?;
    let event = tokio::select! {
        item = items.next() => match item {
            Some(Ok(json)) => [b"data: ", &json[..], b"\n\n"].concat(),
            Some(Err(why)) => {
                let event = format!("event: error\ndata: {}\n\n", json!(path.problem(why)));
                return Some((Ok(event.into()), (None, path)));
            }
            None => return Some((Ok(Bytes::from_static(b"event: end\ndata: null\n\n")), (None, path))),
        },
        () = tokio::time::sleep(HEARTBEAT) => b": still here\n\n".to_vec(),
    };
    Some((Ok(event.into()), (Some(items), path)))
}
