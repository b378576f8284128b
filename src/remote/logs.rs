//! Forwards the lines that are logged on a node to the head, with the path of the Work that logged them.
//!
//! Logging never waits: lines that are logged faster than they can be sent are dropped, and their number is logged.

use std::collections::VecDeque;
use std::sync::Arc;

use log::{Level, Log, Metadata, Record};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::link::Link;
use super::protocol::Control;
use crate::id::ActorPath;
use crate::runtime;
use crate::work::current_run;
use crate::work::logs::shorten;

/// Capacity of the queue, in lines.
const WAITING: usize = 1024;

struct Line {
    path: Option<ActorPath>,
    run: Option<u64>,
    level: Level,
    target: String,
    text: String,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Line>,
    dropped: u64,
    /// True while there is a head to send to.
    open: bool,
}

/// The lines of a node that wait to be sent to the head of its App, as a part of its [`Runtime`](crate::runtime::Runtime).
#[derive(Default)]
pub(super) struct LinesForHead {
    queue: Mutex<Queue>,
    filled: Notify,
}

/// Returns a logger that logs to `inner` and to the head; with `instead`, it logs to `inner` only while there is no
/// head.
pub(crate) fn forwarding(inner: impl Log, instead: bool) -> impl Log {
    Forwarding { inner, instead }
}

struct Forwarding<L> {
    inner: L,
    instead: bool,
}

impl<L: Log> Log for Forwarding<L> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.inner.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        if !self.instead {
            self.inner.log(record);
        }
        // Messages of the runtime itself concern the operator of this node.
        let (path, run) = current_run().unzip();
        if path.is_none() && record.target().starts_with("flowright") {
            if self.instead {
                self.inner.log(record);
            }
            return;
        }
        let lines = runtime::current().ok().and_then(|runtime| runtime.part::<LinesForHead>());
        let open = lines.as_ref().map(|lines| (lines, lines.queue.lock())).filter(|(_, queue)| queue.open);
        let Some((lines, mut queue)) = open else {
            if self.instead {
                self.inner.log(record);
            }
            return;
        };
        if queue.lines.len() >= WAITING {
            queue.dropped += 1;
            return;
        }
        let mut text = record.args().to_string();
        shorten(&mut text);
        let target = record.target().to_owned();
        queue.lines.push_back(Line { path, run: run.flatten(), level: record.level(), target, text });
        drop(queue);
        lines.filled.notify_one();
    }

    fn flush(&self) {
        self.inner.flush();
    }
}

/// Closes the queue on drop, also when the sending task is aborted: lines of one session with a head must not reach the
/// next head.
struct Open(Arc<LinesForHead>);

impl Open {
    fn new(lines: Arc<LinesForHead>) -> Self {
        lines.queue.lock().open = true;
        Self(lines)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut queue = self.0.queue.lock();
        queue.open = false;
        queue.lines.clear();
        queue.dropped = 0;
    }
}

/// Sends the logged lines as long as the session lives.
pub(super) async fn send_logs(lines: Arc<LinesForHead>, head: Arc<Link>) {
    let _open = Open::new(lines.clone());
    loop {
        if !head.room().await {
            break;
        }
        let (line, dropped) = {
            let mut queue = lines.queue.lock();
            (queue.lines.pop_front(), std::mem::take(&mut queue.dropped))
        };
        if dropped > 0 {
            let text =
                format!("{dropped} lines were logged faster than they could be sent, and are missing here");
            let target = "flowright".to_owned();
            head.control(&Control::Log { path: None, run: None, level: Level::Warn, target, text });
        }
        match line {
            Some(Line { path, run, level, target, text }) => {
                head.control(&Control::Log { path, run, level, target, text });
            }
            None => lines.filled.notified().await,
        }
    }
}
