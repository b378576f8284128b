//! The event stream, shared by all clients.
//!
//! One task takes snapshots of the App, at most 60 a second, compares each with the previous one, and writes the
//! difference once; all clients are sent the same bytes. The latest events are kept in a single ring buffer, so that a
//! client costs no more than its position in it. A client whose position has been overwritten, because it was too slow
//! or disconnected for too long, is told how many events it missed and gets a new snapshot.
//!
//! Snapshots are bounded as well: clients share them, they are sent in pieces, and beyond a limit the oldest ones that
//! are not read to the end are evicted.

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

/// The interval of comments on an idle stream, by which both ends notice a broken connection.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// The maximum number of open streams.
const STREAMS: usize = 1024;

/// An open stream. It counts against [`STREAMS`] until it is dropped.
struct Stream {
    hub: Arc<Hub>,
    last: tokio::sync::watch::Receiver<u64>,
    seen: Option<u64>,
    /// The number of bytes of the next event that have been sent.
    within: usize,
    /// The snapshot in progress, and the number of its bytes that have been sent.
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
                // An evicted snapshot ends the stream; its client may reconnect.
                let piece = everything.piece(*sent)?;
                if piece.is_empty() {
                    self.snapshot = None;
                    return Some(Bytes::from_static(b"\n\n"));
                }
                *sent += piece.len();
                return Some(piece);
            }
            self.last.mark_unchanged();
            let next = self.hub.inner.lock().next_for(self.seen, self.within);
            match next {
                Next::Bytes(bytes, seen) => {
                    (self.seen, self.within) = (Some(seen), 0);
                    return Some(bytes);
                }
                Next::Part(bytes, upto) => {
                    self.within = upto;
                    return Some(bytes);
                }
                // After reconnecting, the client is told how many events it missed.
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

/// Streams events (server-sent events).
///
/// The first event is `snapshot`: the document that `/api/v1/status` returns, with the `state` added. A `patch` follows
/// for each change, at most 60 a second, with `version` and `ops`, a JSON Patch (RFC 6902) of that document; and a
/// `log` for each logged line. A client that is too slow gets `missed` with the number of `events`, and a new
/// `snapshot`. A client that reconnects with `Last-Event-ID` resumes after that event, as long as the events since are
/// still kept.
#[utoipa::path(get, path = "/api/v1/events", tag = "events",
    params(("Last-Event-ID" = Option<String>, Header, description = "the id of the last event received")),
    responses(
        (status = 200, description = "a stream that ends with the App", body = String, content_type = "text/event-stream",
            example = "id: 1700000000000001\nevent: patch\ndata: {\"version\":7,\"ops\":[]}\n\n"),
        Common,
    ),
)]
pub(super) async fn events(request: HttpRequest, hub: web::Data<Arc<Hub>>) -> Answer {
    let seen = request.headers().get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let Some(stream) = Stream::open(&hub, seen) else {
        let detail = format!("{STREAMS} event streams are open, the maximum; close one");
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail));
    };
    let events = stream::unfold(stream, |mut stream| async move {
        let bytes = stream.next().await?;
        Some((Ok::<_, actix_web::Error>(bytes), stream))
    });
    Ok(HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, "no-store"))
        // Disables response buffering in nginx, which would delay events until a buffer is full.
        .insert_header(("X-Accel-Buffering", "no"))
        .content_type("text/event-stream")
        .streaming(events))
}
