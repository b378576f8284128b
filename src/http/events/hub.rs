//! What was written last for all clients, and the place of each in it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::{Notify, watch};

use crate::state::Value;

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
    pub(super) current: Option<Arc<Current>>,
}

/// All there is to see.
pub(super) struct Current {
    document: Value,
    /// Written when somebody needs it.
    json: OnceLock<Bytes>,
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

    /// Shows what there is now, and the events that led to it.
    pub(super) fn show(&self, document: Option<Value>, events: Vec<(&'static str, String)>, skipped: u64) {
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
    pub(super) fn clear(&self) {
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

    pub(super) fn next_for(&self, seen: Option<u64>) -> Next {
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
    pub(super) fn json(&self) -> Bytes {
        self.json.get_or_init(|| Bytes::from(self.document.to_json().to_string())).clone()
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
