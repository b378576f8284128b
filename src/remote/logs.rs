//! What is logged on a node reaches the head, with the path of the Work that logged it.
//!
//! Logging never waits: what comes faster than it can be sent is dropped, and how much that was is said.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use log::{Level, Log, Metadata, Record};
use tokio::sync::Notify;

use super::link::Link;
use super::protocol::Control;
use crate::id::ActorPath;
use crate::work::current_work;

/// Lines that wait to be sent.
const WAITING: usize = 1024;

/// The longest text that is sent of one line, in bytes.
const LONGEST: usize = 8 * 1024;

struct Line {
    path: Option<ActorPath>,
    level: Level,
    target: String,
    text: String,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Line>,
    dropped: u64,
    /// Whether there is a head to send to.
    open: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    filled: Notify,
}

fn shared() -> &'static Arc<Shared> {
    static SHARED: OnceLock<Arc<Shared>> = OnceLock::new();
    SHARED.get_or_init(Arc::default)
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Logs as `inner` does, and to the head.
pub(crate) fn forwarding(inner: impl Log) -> impl Log {
    Forwarding(inner)
}

struct Forwarding<L>(L);

impl<L: Log> Log for Forwarding<L> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        self.0.log(record);
        // What the runtime itself has to say here is for whoever looks here.
        let path = current_work();
        if path.is_none() && record.target().starts_with("flowright") {
            return;
        }
        let mut queue = shared().lock();
        if !queue.open {
            return;
        }
        if queue.lines.len() >= WAITING {
            queue.dropped += 1;
            return;
        }
        let mut text = record.args().to_string();
        if let Some(end) = (0..=LONGEST.min(text.len())).rev().find(|end| text.is_char_boundary(*end)) {
            text.truncate(end);
        }
        queue.lines.push_back(Line { path, level: record.level(), target: record.target().to_owned(), text });
        drop(queue);
        shared().filled.notify_one();
    }

    fn flush(&self) {
        self.0.flush();
    }
}

/// Sends what is logged, for as long as the session lives.
pub(super) async fn send_logs(head: Arc<Link>) {
    shared().lock().open = true;
    loop {
        if !head.room().await {
            break;
        }
        let (line, dropped) = {
            let mut queue = shared().lock();
            (queue.lines.pop_front(), std::mem::take(&mut queue.dropped))
        };
        if dropped > 0 {
            let text =
                format!("{dropped} lines were logged faster than they could be sent, and are only there");
            let target = "flowright".to_owned();
            head.control(&Control::Log { path: None, level: Level::Warn, target, text });
        }
        match line {
            Some(Line { path, level, target, text }) => {
                head.control(&Control::Log { path, level, target, text });
            }
            None => shared().filled.notified().await,
        }
    }
    let mut queue = shared().lock();
    queue.open = false;
    queue.lines.clear();
}
