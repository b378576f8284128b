//! The ring buffer of events, shared by all clients, and the lookup of the next event for each.

use std::collections::VecDeque;
use std::fmt::Display;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::json;
use tokio::sync::{Notify, watch};

use crate::http::pieces::PIECE;
use crate::state::{StateError, Tracker};

/// The capacity of the ring buffer, in events and in bytes.
const EVENTS: usize = 4096;
const BYTES: usize = 4 << 20;

/// The limit on the bytes of all snapshots that clients are still reading. Beyond it the oldest are evicted, which ends
/// the streams of their clients. The newest is kept whatever its size.
const SNAPSHOTS: usize = 64 << 20;

/// The minimum size of a snapshot that later clients share. They do so as long as all events since are kept and are
/// smaller than the snapshot.
const SHARED: usize = 64 << 10;

pub(in crate::http) struct Hub {
    pub(super) inner: Mutex<Inner>,
    /// The number of the last event.
    pub(super) last: watch::Sender<u64>,
    pub(super) streams: AtomicUsize,
    pub(super) joined: Notify,
}

pub(super) struct Inner {
    /// The number of the next event. It starts at the current time in microseconds, so that no client mistakes another
    /// run of the App for this one.
    next: u64,
    events: VecDeque<(u64, Bytes)>,
    bytes: usize,
    current: Option<Current>,
    /// The snapshots that clients are still reading, the oldest first.
    snapshots: Vec<Weak<Everything>>,
}

/// The document as clients currently see it.
struct Current {
    tracker: Tracker,
    /// Its JSON, serialised on first use after a change.
    json: Option<Arc<Everything>>,
}

/// A snapshot, shared by all clients that start with it.
#[derive(Debug)]
pub(super) struct Everything {
    at: u64,
    length: usize,
    /// `None` once the snapshot has been evicted.
    json: Mutex<Option<Bytes>>,
}

impl Everything {
    fn new(at: u64, json: Bytes) -> Self {
        Self { at, length: json.len(), json: Mutex::new(Some(json)) }
    }

    fn give_up(&self) {
        let json = self.json.lock().take();
        drop(json);
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.json.lock().is_none()
    }

    /// Returns the next piece from `offset` on, empty at the end; `None` when the snapshot has been evicted.
    pub(super) fn piece(&self, offset: usize) -> Option<Bytes> {
        self.json.lock().as_ref().map(|json| json.slice(offset..json.len().min(offset + PIECE)))
    }
}

/// The data that a client is sent next.
#[derive(Debug)]
pub(super) enum Next {
    Wait,
    Bytes(Bytes, u64),
    /// A part of the next event, which ends at this offset.
    Part(Bytes, usize),
    /// The rest of a partly sent event has been overwritten.
    Lost,
    /// A snapshot of the document as it is after event `at`, and the number of events that the client missed.
    Anew {
        missed: Option<u64>,
        at: u64,
        everything: Arc<Everything>,
    },
}

impl Hub {
    pub(in crate::http) fn new() -> Self {
        let micros = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let next = u64::try_from(micros).unwrap_or(u64::MAX >> 1);
        Self {
            inner: Mutex::new(Inner {
                next,
                events: VecDeque::new(),
                bytes: 0,
                current: None,
                snapshots: Vec::new(),
            }),
            last: watch::Sender::new(0),
            streams: AtomicUsize::new(0),
            joined: Notify::new(),
        }
    }

    pub(super) fn streams(&self) -> usize {
        self.streams.load(Ordering::Acquire)
    }

    /// Publishes the document at `version` and the lines logged since the last call. `skipped` is the number of log
    /// lines left out, which count as missed events.
    pub(super) fn show(
        &self,
        document: &impl Serialize,
        version: u64,
        lines: &[String],
        skipped: u64,
    ) -> Result<(), StateError> {
        let mut inner = self.inner.lock();
        inner.next += skipped;
        let known = inner.current.is_some();
        let current = inner.current.get_or_insert_with(Current::new);
        if let Some(patch) = current.tracker.update(document)? {
            current.json = None;
            if known {
                let change = json!({ "version": version, "ops": patch.to_json_patch() });
                inner.push("patch", change);
            } else {
                // The number changes for clients that wait for the first snapshot.
                inner.next += 1;
            }
        }
        for line in lines {
            inner.push("log", line);
        }
        let last = inner.next - 1;
        drop(inner);
        self.last.send_if_modified(|known| std::mem::replace(known, last) != last);
        Ok(())
    }

    /// Forgets the document and all events, once no client is left.
    pub(super) fn clear(&self) {
        let mut inner = self.inner.lock();
        inner.current = None;
        inner.events.clear();
        inner.bytes = 0;
    }
}

impl Inner {
    fn push(&mut self, name: &str, data: impl Display) {
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

    /// Returns the data after event `seen`, when the first `within` bytes of the next event have been sent.
    pub(super) fn next_for(&mut self, seen: Option<u64>, within: usize) -> Next {
        let last = self.next - 1;
        if self.current.is_none() {
            return if within > 0 { Next::Lost } else { Next::Wait };
        }
        let Some(seen) = seen.filter(|seen| *seen <= last) else {
            let everything = self.everything();
            return Next::Anew { missed: None, at: everything.at, everything };
        };
        if seen == last {
            return Next::Wait;
        }
        let start = self.events.partition_point(|(id, _)| *id <= seen);
        let mut kept = self.events.range(start..).zip(seen + 1..);
        let first = match kept.next() {
            // In pieces, since each connection copies what it is handed.
            Some(((id, event), next))
                if *id == next && event.len() > PIECE && within + PIECE < event.len() =>
            {
                let upto = within + PIECE;
                return Next::Part(event.slice(within..upto), upto);
            }
            Some(((id, event), next)) if *id == next && within > 0 => {
                return Next::Bytes(event.slice(within.min(event.len())..), next);
            }
            _ if within > 0 => return Next::Lost,
            Some(((id, event), next)) if *id == next => event,
            _ => {
                let everything = self.everything();
                return Next::Anew { missed: Some(everything.at - seen), at: everything.at, everything };
            }
        };
        // A single event is shared by all clients, not copied.
        let (mut upto, mut piece) = (seen + 1, Vec::new());
        for ((id, event), next) in kept {
            if *id != next || first.len() + piece.len() + event.len() > PIECE {
                break;
            }
            piece.extend_from_slice(event);
            upto = next;
        }
        let bytes = if piece.is_empty() { first.clone() } else { [&first[..], &piece].concat().into() };
        Next::Bytes(bytes, upto)
    }

    /// Returns the newest snapshot if it can still be shared, else a new one.
    fn everything(&mut self) -> Arc<Everything> {
        let mut snapshots: Vec<_> = self.snapshots.iter().filter_map(Weak::upgrade).collect();
        snapshots.retain(|snapshot| !snapshot.is_given_up());
        let known = self.current.as_ref().and_then(|current| current.json.clone());
        if let Some(known) = known.or_else(|| snapshots.last().cloned()).filter(|known| self.leads_on(known))
        {
            return known;
        }
        let last = self.next - 1;
        let Some(current) = &mut self.current else { return Arc::new(Everything::new(last, Bytes::new())) };
        let json = Bytes::from(current.tracker.value().to_json().to_string());
        let new = Arc::new(Everything::new(last, json));
        current.json = Some(new.clone());
        let mut taken = new.length + snapshots.iter().map(|snapshot| snapshot.length).sum::<usize>();
        snapshots.retain(|snapshot| {
            let stays = taken <= SNAPSHOTS;
            if !stays {
                snapshot.give_up();
                taken -= snapshot.length;
            }
            stays
        });
        self.snapshots = snapshots.iter().chain([&new]).map(Arc::downgrade).collect();
        new
    }

    /// Returns true when all events since the snapshot are kept and are smaller than a new snapshot.
    fn leads_on(&self, snapshot: &Everything) -> bool {
        let last = self.next - 1;
        if snapshot.is_given_up() {
            return false;
        }
        if snapshot.at == last {
            return true;
        }
        let start = self.events.partition_point(|(id, _)| *id <= snapshot.at);
        let mut since = self.events.range(start..).peekable();
        let is_whole = since.peek().is_some_and(|(id, _)| *id == snapshot.at + 1)
            && last - snapshot.at == (self.events.len() - start) as u64;
        snapshot.length >= SHARED
            && is_whole
            && since.map(|(_, event)| event.len()).sum::<usize>() < snapshot.length
    }
}

impl Current {
    fn new() -> Self {
        Self { tracker: Tracker::new(usize::MAX), json: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Hub {
        fn next(&self, seen: Option<u64>) -> Next {
            self.inner.lock().next_for(seen, 0)
        }
    }

    fn hub() -> Hub {
        let hub = Hub::new();
        show(&hub, &[], 0);
        hub
    }

    fn show(hub: &Hub, lines: &[&str], skipped: u64) {
        let lines: Vec<_> = lines.iter().map(|&line| line.to_owned()).collect();
        hub.show(&json!({ "a": 1 }), 1, &lines, skipped).expect("the document is JSON");
    }

    fn start(hub: &Hub) -> u64 {
        match hub.next(None) {
            Next::Anew { missed: None, at, everything } => {
                assert_eq!(&everything.piece(0).unwrap()[..], br#"{"a":1}"#);
                at
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_client_gets_everything_once_and_in_order() {
        let hub = hub();
        let at = start(&hub);
        assert!(matches!(hub.next(Some(at)), Next::Wait));
        show(&hub, &["a", "b"], 0);
        let Next::Bytes(bytes, seen) = hub.next(Some(at)) else { panic!("events are pending") };
        let text = format!("id: {}\nevent: log\ndata: a\n\nid: {}\nevent: log\ndata: b\n\n", at + 1, at + 2);
        assert_eq!((&bytes[..], seen), (text.as_bytes(), at + 2));
        // A client that reconnects resumes after the event it names.
        assert!(matches!(hub.next(Some(at + 1)), Next::Bytes(_, seen) if seen == at + 2));
    }

    #[test]
    fn one_that_is_too_slow_is_told_what_it_missed_and_the_ring_stays_bounded() {
        let hub = hub();
        let at = start(&hub);
        for _ in 0..3 * EVENTS {
            show(&hub, &[&"x".repeat(2000)], 0);
        }
        let last = at + 3 * EVENTS as u64;
        let next = hub.next(Some(at));
        assert!(
            matches!(next, Next::Anew { missed, at, .. } if missed == Some(3 * EVENTS as u64) && at == last)
        );
        let inner = hub.inner.lock();
        assert!(inner.bytes <= BYTES && inner.events.len() <= EVENTS, "{} bytes", inner.bytes);
    }

    #[test]
    fn a_change_is_one_patch_and_what_does_not_change_is_none() {
        let hub = hub();
        let at = start(&hub);
        show(&hub, &[], 0);
        assert!(matches!(hub.next(Some(at)), Next::Wait));
        hub.show(&json!({ "a": 2 }), 7, &[], 0).expect("the document is JSON");
        let Next::Bytes(bytes, _) = hub.next(Some(at)) else { panic!("events are pending") };
        let change = json!({ "version": 7, "ops": [{ "op": "replace", "path": "/a", "value": 2 }] });
        assert_eq!(bytes, format!("id: {}\nevent: patch\ndata: {change}\n\n", at + 1));
    }

    fn big(hub: &Hub, number: usize) {
        let document = json!({ "a": number, "text": "x".repeat(SNAPSHOTS / 4) });
        hub.show(&document, 1, &[], 0).expect("the document is JSON");
    }

    fn begin(hub: &Hub) -> Arc<Everything> {
        match hub.next(None) {
            Next::Anew { everything, .. } => everything,
            other => panic!("{other:?}"),
        }
    }

    /// An event larger than a piece is sent in several, and lost once the ring buffer has overwritten it.
    #[test]
    fn a_large_event_comes_in_pieces() {
        let hub = hub();
        let at = start(&hub);
        let text = "x".repeat(5 * PIECE);
        show(&hub, &[&text], 0);
        let (mut whole, mut within) = (Vec::new(), 0);
        let seen = loop {
            match hub.inner.lock().next_for(Some(at), within) {
                Next::Part(bytes, upto) => {
                    assert!(bytes.len() <= PIECE && upto > within);
                    whole.extend_from_slice(&bytes);
                    within = upto;
                }
                Next::Bytes(bytes, seen) => {
                    whole.extend_from_slice(&bytes);
                    break seen;
                }
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(seen, at + 1);
        assert_eq!(whole, format!("id: {seen}\nevent: log\ndata: {text}\n\n").into_bytes());
        for _ in 0..EVENTS {
            show(&hub, &["later"], 0);
        }
        assert!(matches!(hub.inner.lock().next_for(Some(at), within), Next::Lost));
    }

    /// Clients share a large snapshot, and the changes since follow it.
    #[test]
    fn a_large_snapshot_is_shared_with_those_who_come_later() {
        let hub = Hub::new();
        big(&hub, 1);
        let first = begin(&hub);
        big(&hub, 2);
        let later = begin(&hub);
        assert!(Arc::ptr_eq(&first, &later));
        assert!(matches!(hub.next(Some(later.at)), Next::Bytes(_, seen) if seen == later.at + 1));
        // A gap in the events prevents sharing.
        hub.inner.lock().next += 1;
        big(&hub, 3);
        let newest = begin(&hub);
        assert_eq!(newest.at, first.at + 3);
        assert!(matches!(hub.next(Some(newest.at)), Next::Wait));
    }

    /// Snapshots that are not read to the end stay within the limit: the oldest are evicted.
    #[test]
    fn snapshots_that_are_not_read_are_bounded() {
        let hub = Hub::new();
        let mut held = Vec::new();
        for number in 0..20 {
            // A gap in the events, so that each client needs a snapshot of its own.
            hub.inner.lock().next += 1;
            big(&hub, number);
            held.push(begin(&hub));
        }
        let taken: usize = held.iter().filter_map(|one| one.json.lock().as_ref().map(Bytes::len)).sum();
        assert!(taken <= SNAPSHOTS, "{taken}");
        assert!(held[0].piece(0).is_none(), "the oldest is evicted");
        assert!(!held[19].is_given_up(), "the newest is kept");
    }

    #[test]
    fn lines_that_were_left_out_count_as_missed() {
        let hub = hub();
        let at = start(&hub);
        show(&hub, &["last"], 7);
        assert!(matches!(hub.next(Some(at)), Next::Anew { missed: Some(8), at: then, .. } if then == at + 8));
    }

    #[test]
    fn the_events_of_another_life_are_not_taken_for_those_of_this_one() {
        let hub = hub();
        let at = start(&hub);
        assert!(matches!(hub.next(Some(at + 1000)), Next::Anew { missed: None, .. }));
        assert!(matches!(hub.next(Some(3)), Next::Anew { missed: Some(_), .. }));
    }
}
