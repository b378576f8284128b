//! The last log lines of each Work, with their run and node.
//!
//! # Guarantees
//! - Logging never waits for a reader.
//! - Memory is bounded: in lines and bytes for each Work, and in the number of Works.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

use log::{Level, Log, Metadata, Record};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::executing::current_run;
use crate::id::{ActorPath, AppId};

/// Longest text of a stored line, in bytes; a longer text is truncated.
pub(crate) const LONGEST_LINE: usize = 8 * 1024;

/// Limits of the lines stored for one Work.
const LINES: usize = 1000;
const BYTES: usize = 256 * 1024;

/// Largest number of Works with stored lines; the least recent is evicted.
const WORKS: usize = 1024;

/// A log line.
#[derive(Debug)]
pub(crate) struct Line {
    /// Sequence number, which grows from line to line.
    pub(crate) seq: u64,
    pub(crate) time: SystemTime,
    pub(crate) level: Level,
    /// App of the Work that logged the line; `None` if there is none, as for lines of the process itself.
    pub(crate) app: Option<AppId>,
    pub(crate) work: Option<ActorPath>,
    pub(crate) run: Option<u64>,
    /// `None` for lines of the process with the Flows.
    pub(crate) node: Option<Arc<str>>,
    pub(crate) target: String,
    pub(crate) text: String,
}

/// A log line before it is numbered and stored.
pub(crate) struct Said<'a> {
    pub(crate) level: Level,
    pub(crate) app: Option<AppId>,
    pub(crate) work: Option<ActorPath>,
    pub(crate) run: Option<u64>,
    pub(crate) node: Option<Arc<str>>,
    pub(crate) target: &'a str,
    pub(crate) text: String,
}

#[derive(Default)]
struct Kept {
    lines: VecDeque<Arc<Line>>,
    bytes: usize,
}

type Who = (Option<AppId>, Option<ActorPath>);

struct Ring {
    seq: u64,
    works: HashMap<Who, Kept>,
}

/// Additional consumer of all lines.
type Sink = Box<dyn Fn(&Line) + Send + Sync>;

struct Logs {
    ring: Mutex<Ring>,
    last: watch::Sender<u64>,
    sink: Mutex<Option<Sink>>,
}

static LOGS: std::sync::LazyLock<Logs> = std::sync::LazyLock::new(|| Logs {
    ring: Mutex::new(Ring { seq: 0, works: HashMap::new() }),
    last: watch::Sender::new(0),
    sink: Mutex::new(None),
});

/// Truncates a text to [`LONGEST_LINE`] bytes, at a character boundary.
pub(crate) fn shorten(text: &mut String) {
    if let Some(end) = (0..=LONGEST_LINE.min(text.len())).rev().find(|end| text.is_char_boundary(*end)) {
        text.truncate(end);
    }
}

/// Stores a line and passes it to the sink.
pub(crate) fn keep(said: Said<'_>) {
    let Said { level, app, work, run, node, target, mut text } = said;
    shorten(&mut text);
    let target = target.to_owned();
    let mut ring = LOGS.ring.lock();
    ring.seq += 1;
    let seq = ring.seq;
    let line = Arc::new(Line { seq, time: SystemTime::now(), level, app, work, run, node, target, text });
    ring.push(line.clone());
    drop(ring);
    if let Some(sink) = &*LOGS.sink.lock() {
        sink(&line);
    }
    LOGS.last.send_replace(seq);
}

/// Sets the sink, which gets all lines from now on.
pub(crate) fn also_to(sink: impl Fn(&Line) + Send + Sync + 'static) {
    *LOGS.sink.lock() = Some(Box::new(sink));
}

impl Ring {
    fn push(&mut self, line: Arc<Line>) {
        let who = (line.app, line.work.clone());
        if self.works.len() >= WORKS && !self.works.contains_key(&who) {
            // Evicts the Work that has not logged for the longest time.
            let last = |kept: &Kept| kept.lines.back().map_or(0, |line| line.seq);
            let oldest = self.works.iter().min_by_key(|(_, kept)| last(kept)).map(|(who, _)| who.clone());
            oldest.and_then(|oldest| self.works.remove(&oldest));
        }
        let kept = self.works.entry(who).or_default();
        kept.bytes += line.text.len();
        kept.lines.push_back(line);
        while kept.lines.len() > LINES || kept.bytes > BYTES {
            let Some(gone) = kept.lines.pop_front() else { break };
            kept.bytes -= gone.text.len();
        }
    }

    /// Returns matching lines, oldest first, at most `limit`: the first ones after `after`, or else the last ones.
    fn find(&self, wanted: &Wanted<'_>) -> Vec<Arc<Line>> {
        let mut found = Vec::new();
        for ((app, work), kept) in &self.works {
            let ours = app.is_none_or(|app| app == wanted.app);
            let meant =
                wanted.work.is_none_or(|path| work.as_ref().is_some_and(|work| work.as_str() == path));
            if !ours || !meant {
                continue;
            }
            let start = kept.lines.partition_point(|line| line.seq <= wanted.after.unwrap_or(0));
            let lines = kept.lines.range(start..);
            found.extend(
                lines.filter(|line| line.level <= wanted.level && line.time >= wanted.since).cloned(),
            );
        }
        found.sort_unstable_by_key(|line| line.seq);
        if found.len() > wanted.limit {
            match wanted.after {
                Some(_) => found.truncate(wanted.limit),
                None => drop(found.drain(..found.len() - wanted.limit)),
            }
        }
        found
    }
}

/// Query of stored lines.
pub(crate) struct Wanted<'a> {
    pub(crate) app: AppId,
    /// Only lines of this Work.
    pub(crate) work: Option<&'a str>,
    /// Least severe level.
    pub(crate) level: Level,
    pub(crate) since: SystemTime,
    /// Returns the first lines after this number; without a number, the last lines.
    pub(crate) after: Option<u64>,
    pub(crate) limit: usize,
}

/// Returns the stored lines that match the query, oldest first.
pub(crate) fn find(wanted: &Wanted<'_>) -> Vec<Arc<Line>> {
    LOGS.ring.lock().find(wanted)
}

/// Returns a receiver for the number of the last line.
pub(crate) fn last() -> watch::Receiver<u64> {
    LOGS.last.subscribe()
}

/// Wraps a logger so that its lines are also stored.
pub(crate) fn keeping(inner: impl Log) -> impl Log {
    Keeping(inner)
}

struct Keeping<L>(L);

impl<L: Log> Log for Keeping<L> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        self.0.log(record);
        // The line was stored when it arrived, with the Work that logged it in another process.
        if record.target() == FROM_AFAR {
            return;
        }
        let (app, work, run) = match current_run() {
            Some((app, path, run)) => (Some(app), Some(path), run),
            None => (None, None, None),
        };
        let text = record.args().to_string();
        keep(Said { level: record.level(), app, work, run, node: None, target: record.target(), text });
    }

    fn flush(&self) {
        self.0.flush();
    }
}

/// Target of lines that are shown here but were logged in another process.
pub(crate) const FROM_AFAR: &str = "flowright::afar";

#[cfg(test)]
mod tests {
    use super::*;

    fn line(seq: u64, work: Option<&str>, text: &str) -> Arc<Line> {
        Arc::new(Line {
            seq,
            time: SystemTime::UNIX_EPOCH,
            level: if seq.is_multiple_of(2) { Level::Info } else { Level::Error },
            app: work.map(|_| AppId::NONE),
            work: work.map(ActorPath::from),
            run: None,
            node: None,
            target: String::new(),
            text: text.to_owned(),
        })
    }

    fn wanted(work: Option<&'static str>, after: Option<u64>, limit: usize) -> Wanted<'static> {
        let since = SystemTime::UNIX_EPOCH;
        Wanted { app: AppId::NONE, work, level: Level::Info, since, after, limit }
    }

    fn numbers(lines: &[Arc<Line>]) -> Vec<u64> {
        lines.iter().map(|line| line.seq).collect()
    }

    fn ring() -> Ring {
        Ring { seq: 0, works: HashMap::new() }
    }

    #[test]
    fn lines_come_in_order_by_work_by_level_and_page_by_page() {
        let mut ring = ring();
        for seq in 1..=9 {
            ring.push(line(seq, [None, Some("a"), Some("b")][seq as usize % 3], "x"));
        }
        assert_eq!(numbers(&ring.find(&wanted(None, None, 100))), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(numbers(&ring.find(&wanted(None, None, 2))), [8, 9]);
        assert_eq!(numbers(&ring.find(&wanted(None, Some(4), 2))), [5, 6]);
        assert_eq!(numbers(&ring.find(&wanted(Some("a"), None, 100))), [1, 4, 7]);
        let errors = Wanted { level: Level::Error, ..wanted(Some("b"), None, 100) };
        assert_eq!(numbers(&ring.find(&errors)), [5]);
    }

    #[test]
    fn a_work_that_says_much_keeps_its_last_lines_and_leaves_those_of_others() {
        let mut ring = ring();
        ring.push(line(1, Some("quiet"), "kept"));
        for seq in 2..5000 {
            ring.push(line(seq, Some("loud"), &"x".repeat(1000)));
        }
        assert_eq!(numbers(&ring.find(&wanted(Some("quiet"), None, 10))), [1]);
        let loud = ring.find(&wanted(Some("loud"), None, usize::MAX));
        assert_eq!((loud.len(), loud.last().unwrap().seq), (BYTES / 1000, 4999));
        for work in 0..2 * WORKS {
            ring.push(line(5000 + work as u64, Some(&work.to_string()), "x"));
        }
        assert_eq!(ring.works.len(), WORKS);
    }

    #[test]
    fn a_long_line_is_cut_between_two_characters() {
        let mut text = "ä".repeat(LONGEST_LINE);
        text.insert(0, 'x');
        shorten(&mut text);
        assert_eq!(text.len(), LONGEST_LINE - 1);
    }
}
