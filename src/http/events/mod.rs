//! One stream of what happens, for any number of clients.
//!
//! One task looks at the App, at most 60 times a second, compares what it sees with what it saw before, and writes the
//! difference once; all clients are sent the same bytes. What was written last is kept in one ring for all, so that a client
//! costs its place in it and no more. One that was too slow, or away for too long, finds that its place is gone: it is told
//! how much it has missed, and shown everything anew.
//!
//! What clients are shown is bounded as well: they share snapshots, which leave in pieces, and those that are not read to the
//! end are given up beyond a limit.

mod hub;
mod watch;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures::stream;
use serde_json::json;

pub(super) use self::hub::Hub;
use self::hub::{Everything, Next};
pub(super) use self::watch::watch;
use super::problem::{Common, Problem};
use super::queries::Answer;

/// A stream that says nothing says so, so that a broken connection is noticed.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Streams at once.
const STREAMS: usize = 1024;

/// Counted for as long as it is open.
struct Stream {
    hub: Arc<Hub>,
    last: tokio::sync::watch::Receiver<u64>,
    seen: Option<u64>,
    /// How much of the next event was sent.
    within: usize,
    /// The snapshot that is being sent, from this byte on.
    snapshot: Option<(Arc<Everything>, usize)>,
}

impl Stream {
    fn open(hub: &Arc<Hub>, seen: Option<u64>) -> Option<Self> {
        let take = |open: usize| (open < STREAMS).then_some(open + 1);
        hub.streams.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).ok()?;
        hub.joined.notify_one();
        Some(Self { hub: hub.clone(), last: hub.last.subscribe(), seen, within: 0, snapshot: None })
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some((everything, sent)) = &mut self.snapshot {
                // One that was given up ends the stream: too much was kept for clients that do not read. This one may come back.
                let piece = everything.piece(*sent)?;
                if piece.is_empty() {
                    self.snapshot = None;
                    return Some(Bytes::from_static(b"\n\n"));
                }
                *sent += piece.len();
                return Some(piece);
            }
            self.last.mark_unchanged();
            let next = self.hub.lock().next_for(self.seen, self.within);
            match next {
                Next::Bytes(bytes, seen) => {
                    (self.seen, self.within) = (Some(seen), 0);
                    return Some(bytes);
                }
                Next::Part(bytes, upto) => {
                    self.within = upto;
                    return Some(bytes);
                }
                // When it comes back it is told what it missed.
                Next::Lost => return None,
                Next::Anew { missed, at, everything } => {
                    let missed = missed.map(|events| {
                        format!("id: {at}\nevent: missed\ndata: {}\n\n", json!({ "events": events }))
                    });
                    let head = format!("{}id: {at}\nevent: snapshot\ndata: ", missed.unwrap_or_default());
                    self.snapshot = Some((everything, 0));
                    self.seen = Some(at);
                    return Some(head.into());
                }
                Next::Wait => tokio::select! {
                    changed = self.last.changed() => if changed.is_err() { return None },
                    () = tokio::time::sleep(HEARTBEAT) => return Some(Bytes::from_static(b": still here\n\n")),
                },
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.hub.streams.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What happens, as server-sent events.
///
/// First comes `snapshot`, which is what `/api/v1/status` answers, with the `state` besides; then `patch` for each change,
/// with `version` and `ops`, a JSON Patch of that document, at most 60 a second; and `log` for each line that is logged.
/// A client that is too slow gets `missed` with the number of `events`, and a new `snapshot`. With `Last-Event-ID` a client
/// that comes back goes on where it was, as long as that is not too long ago.
#[utoipa::path(get, path = "/api/v1/events", tag = "events",
    params(("Last-Event-ID" = Option<String>, Header, description = "the last event that was seen")),
    responses(
        (status = 200, description = "a stream that ends with the App", body = String, content_type = "text/event-stream",
            example = "id: 1700000000000001\nevent: patch\ndata: {\"version\":7,\"ops\":[]}\n\n"),
        Common,
    ),
)]
pub(super) async fn events(request: HttpRequest, hub: web::Data<Arc<Hub>>) -> Answer {
    let seen = request.headers().get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let Some(stream) = Stream::open(&hub, seen) else {
        let detail = format!("{STREAMS} event streams are open; close one");
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail));
    };
    let events = stream::unfold(stream, |mut stream| async move {
        let bytes = stream.next().await?;
        Some((Ok::<_, actix_web::Error>(bytes), stream))
    });
    Ok(HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, "no-store"))
        // nginx would gather events until it has a buffer full of them.
        .insert_header(("X-Accel-Buffering", "no"))
        .content_type("text/event-stream")
        .streaming(events))
}
