//! What was written last for all clients, and the place of each in it.

use std::collections::VecDeque;
use std::fmt::Display;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::Serialize;
use serde_json::json;
use tokio::sync::{Notify, watch};

use crate::state::{StateError, Tracker};

/// What is kept for clients that lag behind.
const EVENTS: usize = 4096;
const BYTES: usize = 4 << 20;

/// As much of it as is sent in one piece.
const PIECE: usize = 64 * 1024;

pub(in crate::http) struct Hub {
    inner: Mutex<Inner>,
    /// The number of the last event.
    pub(super) last: watch::Sender<u64>,
    pub(super) streams: AtomicUsize,
    pub(super) joined: Notify,
}

pub(super) struct Inner {
    /// The next event's number. It begins with the time, so that no client takes another life of the App for this one.
    next: u64,
    events: VecDeque<(u64, Bytes)>,
    bytes: usize,
    current: Option<Current>,
}

/// All there is to see.
struct Current {
    tracker: Tracker,
    /// Written when somebody needs it.
    json: Option<Bytes>,
}

/// What a client is sent next.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    Wait,
    Bytes(Bytes, u64),
    /// So many events were missed; everything as it is now, which is the case after this event.
    Anew {
        missed: Option<u64>,
        at: u64,
        everything: Bytes,
    },
}

impl Hub {
    pub(in crate::http) fn new() -> Self {
        let micros = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let next = u64::try_from(micros).unwrap_or(u64::MAX >> 1);
        Self {
            inner: Mutex::new(Inner { next, events: VecDeque::new(), bytes: 0, current: None }),
            last: watch::Sender::new(0),
            streams: AtomicUsize::new(0),
            joined: Notify::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn streams(&self) -> usize {
        self.streams.load(Ordering::Acquire)
    }

    /// Shows what there is now, at `version`, and the lines that were logged meanwhile, without so many that were skipped.
    pub(super) fn show(
        &self,
        document: &impl Serialize,
        version: u64,
        lines: &[String],
        skipped: u64,
    ) -> Result<(), StateError> {
        let mut inner = self.lock();
        inner.next += skipped;
        let known = inner.current.is_some();
        let current = inner.current.get_or_insert_with(Current::new);
        if let Some(patch) = current.tracker.update(document)? {
            current.json = None;
            if known {
                let change = json!({ "version": version, "ops": patch.to_json_patch() });
                inner.push("patch", change);
            } else {
                // Whoever has waited for it.
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

    /// Forgets what there was; nobody looks.
    pub(super) fn clear(&self) {
        let mut inner = self.lock();
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

    pub(super) fn next_for(&mut self, seen: Option<u64>) -> Next {
        let last = self.next - 1;
        let Some(current) = &mut self.current else { return Next::Wait };
        let Some(seen) = seen.filter(|seen| *seen <= last) else {
            return Next::Anew { missed: None, at: last, everything: current.json() };
        };
        if seen == last {
            return Next::Wait;
        }
        let start = self.events.partition_point(|(id, _)| *id <= seen);
        let mut kept = self.events.range(start..).zip(seen + 1..);
        let first = match kept.next() {
            Some(((id, event), next)) if *id == next => event,
            _ => return Next::Anew { missed: Some(last - seen), at: last, everything: current.json() },
        };
        // One alone is the same bytes for all clients.
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
}

impl Current {
    fn new() -> Self {
        Self { tracker: Tracker::new(usize::MAX), json: None }
    }

    fn json(&mut self) -> Bytes {
        let write = || Bytes::from(self.tracker.value().to_json().to_string());
        self.json.get_or_insert_with(write).clone()
    }
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
        show(&hub, &[], 0);
        hub
    }

    fn show(hub: &Hub, lines: &[&str], skipped: u64) {
        let lines: Vec<_> = lines.iter().map(|&line| line.to_owned()).collect();
        hub.show(&json!({ "a": 1 }), 1, &lines, skipped).expect("it is JSON");
    }

    fn start(hub: &Hub) -> u64 {
        match hub.next(None) {
            Next::Anew { missed: None, at, everything } => {
                assert_eq!(&everything[..], br#"{"a":1}"#);
                at
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_client_gets_everything_once_and_in_order() {
        let hub = hub();
        let at = start(&hub);
        assert_eq!(hub.next(Some(at)), Next::Wait);
        show(&hub, &["a", "b"], 0);
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
            show(&hub, &[&"x".repeat(2000)], 0);
        }
        let last = at + 3 * EVENTS as u64;
        let next = hub.next(Some(at));
        assert!(
            matches!(next, Next::Anew { missed, at, .. } if missed == Some(3 * EVENTS as u64) && at == last)
        );
        let inner = hub.lock();
        assert!(inner.bytes <= BYTES && inner.events.len() <= EVENTS, "{} bytes", inner.bytes);
    }

    #[test]
    fn a_change_is_one_patch_and_what_does_not_change_is_none() {
        let hub = hub();
        let at = start(&hub);
        show(&hub, &[], 0);
        assert_eq!(hub.next(Some(at)), Next::Wait);
        hub.show(&json!({ "a": 2 }), 7, &[], 0).expect("it is JSON");
        let Next::Bytes(bytes, _) = hub.next(Some(at)) else { panic!("it is there") };
        let change = json!({ "version": 7, "ops": [{ "op": "replace", "path": "/a", "value": 2 }] });
        assert_eq!(bytes, format!("id: {}\nevent: patch\ndata: {change}\n\n", at + 1));
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
