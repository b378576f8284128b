//! One stream of what happens, for any number of clients.
//!
//! One task looks at the App, at most 60 times a second, compares what it sees with what it saw before, and writes the
//! difference once; all clients are sent the same bytes. What was written last is kept in one ring for all, so that a client
//! costs its place in it and no more. One that was too slow, or away for too long, finds that its place is gone: it is told
//! how much it has missed, and shown everything anew.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures::stream;
use serde::Serialize;
use serde_json::json;
use tokio::sync::{Notify, watch};

use super::model::{About, LogView, StatusView, status_view};
use super::problem::{Common, Problem};
use super::read::Answer;
use crate::app::Control;
use crate::id::AppId;
use crate::state::{Tracker, Value};
use crate::work::logs::{self, Wanted};

/// How often clients are sent something new at most: what a screen shows.
const FRAME: Duration = Duration::from_millis(16);

/// What does not count as a change, such as how many messages wait, is looked at so often while somebody watches.
const REFRESH: Duration = Duration::from_secs(2);

/// For so long after the last client has gone what happens is still written down, for when it comes back.
const LINGER: Duration = Duration::from_secs(30);

/// A stream that says nothing says so, so that a broken connection is noticed.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// What is kept for clients that lag behind.
const EVENTS: usize = 4096;
const BYTES: usize = 4 << 20;

/// As much of it as is sent in one piece.
const PIECE: usize = 64 * 1024;

/// Lines of the log that are shown in one frame.
const LINES: usize = 500;

/// Streams at once.
const STREAMS: usize = 1024;

pub(super) struct Hub {
    inner: Mutex<Inner>,
    /// The number of the last event.
    last: watch::Sender<u64>,
    streams: AtomicUsize,
    joined: Notify,
}

struct Inner {
    /// The next event's number. It begins with the time, so that no client takes another life of the App for this one.
    next: u64,
    events: VecDeque<(u64, Bytes)>,
    bytes: usize,
    current: Option<Arc<Current>>,
}

/// All there is to see.
struct Current {
    document: Value,
    /// Written when somebody needs it.
    json: OnceLock<Bytes>,
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    status: StatusView,
    state: &'a Value,
}

/// What a client is sent next.
#[derive(Debug, PartialEq)]
enum Next {
    Wait,
    Bytes(Bytes, u64),
    /// So many events were missed; everything as it is now, which is the case after this event.
    Anew {
        missed: Option<u64>,
        at: u64,
    },
}

impl Hub {
    pub(super) fn new() -> Self {
        let micros = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let next = u64::try_from(micros).unwrap_or(u64::MAX >> 1);
        Self {
            inner: Mutex::new(Inner { next, events: VecDeque::new(), bytes: 0, current: None }),
            last: watch::Sender::new(0),
            streams: AtomicUsize::new(0),
            joined: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn streams(&self) -> usize {
        self.streams.load(Ordering::Acquire)
    }

    /// Shows what there is now, and the events that led to it.
    fn show(&self, document: Option<Value>, events: Vec<(&'static str, String)>, skipped: u64) {
        let mut inner = self.lock();
        inner.next += skipped;
        if let Some(document) = document {
            let first = inner.current.is_none();
            inner.current = Some(Arc::new(Current { document, json: OnceLock::new() }));
            if first {
                // Whoever has waited for it.
                inner.next += 1;
            }
        }
        for (name, data) in events {
            inner.push(name, &data);
        }
        let last = inner.next - 1;
        drop(inner);
        self.last.send_if_modified(|known| std::mem::replace(known, last) != last);
    }

    /// Forgets what there was; nobody looks.
    fn clear(&self) {
        let mut inner = self.lock();
        inner.current = None;
        inner.events.clear();
        inner.bytes = 0;
    }
}

impl Inner {
    fn push(&mut self, name: &str, data: &str) {
        let id = self.next;
        self.next += 1;
        let event = Bytes::from(format!("id: {id}\nevent: {name}\ndata: {data}\n\n"));
        self.bytes += event.len();
        self.events.push_back((id, event));
        while self.events.len() > EVENTS || self.bytes > BYTES {
            let Some((_, gone)) = self.events.pop_front() else { break };
            self.bytes -= gone.len();
        }
    }

    fn next_for(&self, seen: Option<u64>) -> Next {
        if self.current.is_none() {
            return Next::Wait;
        }
        let last = self.next - 1;
        let Some(seen) = seen.filter(|seen| *seen <= last) else {
            return Next::Anew { missed: None, at: last };
        };
        if seen == last {
            return Next::Wait;
        }
        let start = self.events.partition_point(|(id, _)| *id <= seen);
        let mut upto = seen;
        let mut piece = Vec::new();
        for (id, event) in self.events.range(start..) {
            if *id != upto + 1 || !piece.is_empty() && piece.len() + event.len() > PIECE {
                break;
            }
            piece.extend_from_slice(event);
            upto = *id;
        }
        if piece.is_empty() {
            return Next::Anew { missed: Some(last - seen), at: last };
        }
        Next::Bytes(Bytes::from(piece), upto)
    }
}

impl Current {
    fn json(&self) -> Bytes {
        self.json.get_or_init(|| Bytes::from(self.document.to_json().to_string())).clone()
    }
}

/// Looks at the App for as long as it lives.
pub(super) async fn watch(control: Control, about: About, hub: Arc<Hub>, app: AppId) {
    let mut changes = control.changes();
    let mut lines = logs::last();
    let mut tracker = Tracker::new(usize::MAX);
    let mut shown: Option<u64> = None;
    let mut line = 0;
    let mut watched = Instant::now();
    loop {
        if hub.streams() > 0 {
            watched = Instant::now();
        } else if watched.elapsed() >= LINGER || shown.is_none() {
            hub.clear();
            (tracker, shown) = (Tracker::new(usize::MAX), None);
            tokio::select! {
                () = hub.joined.notified() => {}
                over = over(&mut changes) => return over,
            }
            watched = Instant::now();
            continue;
        }
        if shown.is_none() {
            line = *lines.borrow_and_update();
        }
        let began = Instant::now();
        changes.mark_unchanged();
        let Ok(snapshot) = control.snapshot().await else { return };
        let state = snapshot.state.as_ref().cloned().unwrap_or_default();
        let document = Document { status: status_view(&snapshot, &about), state: &state };
        let patch = match tracker.update(&document) {
            Ok(patch) => patch,
            Err(error) => {
                log::error!("the App cannot be shown: {error}");
                return;
            }
        };
        let mut events = Vec::new();
        if let Some(patch) = &patch
            && shown.is_some()
        {
            let patch = json!({ "version": snapshot.version, "ops": patch.to_json_patch() });
            events.push(("patch", patch.to_string()));
        }
        let last = *lines.borrow_and_update();
        let wanted = Wanted {
            app,
            work: None,
            level: log::Level::Trace,
            since: UNIX_EPOCH,
            after: Some(line),
            limit: usize::MAX,
        };
        let said = if last > line { logs::find(&wanted) } else { Vec::new() };
        let skipped = said.len().saturating_sub(LINES);
        for line in &said[skipped..] {
            events.push(("log", serde_json::to_string(&LogView::from(&**line)).unwrap_or_default()));
        }
        line = last.max(said.last().map_or(0, |line| line.seq));
        if patch.is_some() || !events.is_empty() {
            hub.show(patch.is_some().then(|| tracker.value().clone()), events, skipped as u64);
        }
        shown = Some(snapshot.version);
        // Looking takes a tenth of the App's thread at most, and half of this one.
        let rest = FRAME.max(snapshot.took * 10).max(began.elapsed());
        tokio::time::sleep(rest).await;
        let linger = if hub.streams() > 0 { REFRESH } else { LINGER };
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            _ = lines.changed() => {}
            () = tokio::time::sleep(linger) => {}
        }
    }
}

async fn over(changes: &mut watch::Receiver<u64>) {
    while changes.changed().await.is_ok() {}
}

/// Counted for as long as it is open.
struct Stream {
    hub: Arc<Hub>,
    last: watch::Receiver<u64>,
    seen: Option<u64>,
    /// What is still to be sent of a thing that is sent in pieces.
    pieces: VecDeque<Bytes>,
}

impl Stream {
    fn open(hub: &Arc<Hub>, seen: Option<u64>) -> Option<Self> {
        let take = |open: usize| (open < STREAMS).then_some(open + 1);
        hub.streams.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).ok()?;
        hub.joined.notify_one();
        Some(Self { hub: hub.clone(), last: hub.last.subscribe(), seen, pieces: VecDeque::new() })
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(piece) = self.pieces.pop_front() {
                return Some(piece);
            }
            self.last.mark_unchanged();
            let (next, current) = {
                let inner = self.hub.lock();
                (inner.next_for(self.seen), inner.current.clone())
            };
            match (next, current) {
                (Next::Bytes(bytes, seen), _) => {
                    self.seen = Some(seen);
                    return Some(bytes);
                }
                (Next::Anew { missed, at }, Some(current)) => {
                    let missed = missed.map(|events| {
                        format!("id: {at}\nevent: missed\ndata: {}\n\n", json!({ "events": events }))
                    });
                    let head = format!("{}id: {at}\nevent: snapshot\ndata: ", missed.unwrap_or_default());
                    self.pieces.extend([head.into(), current.json(), Bytes::from_static(b"\n\n")]);
                    self.seen = Some(at);
                }
                _ => tokio::select! {
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
        .content_type("text/event-stream")
        .streaming(events))
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Hub {
        fn next(&self, seen: Option<u64>) -> Next {
            self.lock().next_for(seen)
        }
    }

    fn hub() -> Hub {
        let hub = Hub::new();
        hub.show(Some(Value::U64(0)), Vec::new(), 0);
        hub
    }

    fn start(hub: &Hub) -> u64 {
        match hub.next(None) {
            Next::Anew { missed: None, at } => at,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_client_gets_everything_once_and_in_order() {
        let hub = hub();
        let at = start(&hub);
        assert_eq!(hub.next(Some(at)), Next::Wait);
        hub.show(None, vec![("log", "a".into()), ("log", "b".into())], 0);
        let Next::Bytes(bytes, seen) = hub.next(Some(at)) else { panic!("it is there") };
        let text = format!("id: {}\nevent: log\ndata: a\n\nid: {}\nevent: log\ndata: b\n\n", at + 1, at + 2);
        assert_eq!((&bytes[..], seen), (text.as_bytes(), at + 2));
        // Where it was when it comes back.
        assert!(matches!(hub.next(Some(at + 1)), Next::Bytes(_, seen) if seen == at + 2));
    }

    #[test]
    fn one_that_is_too_slow_is_told_what_it_missed_and_the_ring_stays_bounded() {
        let hub = hub();
        let at = start(&hub);
        for _ in 0..3 * EVENTS {
            hub.show(None, vec![("log", "x".repeat(2000))], 0);
        }
        let last = at + 3 * EVENTS as u64;
        assert_eq!(hub.next(Some(at)), Next::Anew { missed: Some(3 * EVENTS as u64), at: last });
        let inner = hub.lock();
        assert!(inner.bytes <= BYTES && inner.events.len() <= EVENTS, "{} bytes", inner.bytes);
    }

    #[test]
    fn lines_that_were_left_out_count_as_missed() {
        let hub = hub();
        let at = start(&hub);
        hub.show(None, vec![("log", "last".into())], 7);
        assert_eq!(hub.next(Some(at)), Next::Anew { missed: Some(8), at: at + 8 });
    }

    #[test]
    fn the_events_of_another_life_are_not_taken_for_those_of_this_one() {
        let hub = hub();
        let at = start(&hub);
        assert_eq!(hub.next(Some(at + 1000)), Next::Anew { missed: None, at });
        assert!(matches!(hub.next(Some(3)), Next::Anew { missed: Some(_), .. }));
    }
}
