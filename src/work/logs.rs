//! The last log lines of each Work of an App, with their run and node.
//!
//! # Guarantees
//! - Logging never waits for a reader.
//! - Memory is bounded: in lines and bytes for each Work, and in the number of Works of an App.
//! - An App shows its own lines, and those of threads that belong to no App.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use log::{Level, Log, Metadata, Record};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::executing::current_run;
use crate::id::ActorPath;
use crate::runtime::{self, Runtime};

/// Longest text of a stored line, in bytes; a longer text is truncated.
pub(crate) const LONGEST_LINE: usize = 8 * 1024;

/// Limits of the lines stored for one Work.
const LINES: usize = 1000;
const BYTES: usize = 256 * 1024;

/// Largest number of Works of an App with stored lines; the least recent is evicted.
const WORKS: usize = 1024;

/// A log line.
#[derive(Debug)]
pub(crate) struct Line {
    /// Sequence number, which grows from line to line of the process.
    pub(crate) seq: u64,
    pub(crate) time: SystemTime,
    pub(crate) level: Level,
    /// Path of the Work that logged the line.
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

/// The last log lines of an App, as a part of its [`Runtime`]: those of its Works by path, and those that its threads log
/// outside of a Work.
#[derive(Default)]
pub(crate) struct AppLog(Mutex<Ring>);

type Ring = HashMap<Option<ActorPath>, Kept>;

/// Additional consumer of all lines.
type Sink = Box<dyn Fn(&Line) + Send + Sync>;

/// Lines and numbers of the logger, which the process has once.
struct ProcessLog {
    /// Number of the last line of any App or of the process.
    seq: AtomicU64,
    /// Lines of threads that belong to no App, which all Apps show.
    log: AppLog,
    last: watch::Sender<u64>,
    sink: Mutex<Option<Sink>>,
}

/// Global because a process has one logger, which the facade `log` keeps in a global, too.
static PROCESS: LazyLock<ProcessLog> = LazyLock::new(|| ProcessLog {
    seq: AtomicU64::new(0),
    log: AppLog::default(),
    last: watch::Sender::new(0),
    sink: Mutex::new(None),
});

/// Truncates a text to [`LONGEST_LINE`] bytes, at a character boundary.
pub(crate) fn shorten(text: &mut String) {
    if let Some(end) = (0..=LONGEST_LINE.min(text.len())).rev().find(|end| text.is_char_boundary(*end)) {
        text.truncate(end);
    }
}

/// Sets the sink, which gets all lines of this process from now on.
pub(crate) fn also_to(sink: impl Fn(&Line) + Send + Sync + 'static) {
    *PROCESS.sink.lock() = Some(Box::new(sink));
}

impl AppLog {
    /// Returns the log of an App. That of a runtime without one is empty.
    pub(crate) fn of(runtime: &Runtime) -> Arc<Self> {
        runtime.part().unwrap_or_default()
    }

    /// Stores a line and passes it to the sink.
    pub(crate) fn keep(&self, said: Said<'_>) {
        let Said { level, work, run, node, target, mut text } = said;
        shorten(&mut text);
        let target = target.to_owned();
        let mut ring = self.0.lock();
        // Under the lock, so that a reader that has it finds all lines up to the last number.
        let seq = PROCESS.seq.fetch_add(1, Ordering::Relaxed) + 1;
        let line = Arc::new(Line { seq, time: SystemTime::now(), level, work, run, node, target, text });
        push(&mut ring, line.clone());
        drop(ring);
        if let Some(sink) = &*PROCESS.sink.lock() {
            sink(&line);
        }
        // Lines of several Apps may come here in another order than that of their numbers.
        PROCESS.last.send_if_modified(|last| {
            let is_newer = *last < seq;
            *last = seq.max(*last);
            is_newer
        });
    }

    /// Returns the stored lines of the App and of the process that match the query, oldest first.
    pub(crate) fn find(&self, wanted: &Wanted<'_>) -> Vec<Arc<Line>> {
        let own = self.0.lock();
        let of_process = PROCESS.log.0.lock();
        // Both are locked: a line with a lower number than one that is found here cannot be stored afterwards.
        find(&[&own, &of_process], wanted)
    }
}

fn push(ring: &mut Ring, line: Arc<Line>) {
    if ring.len() >= WORKS && !ring.contains_key(&line.work) {
        // Evicts the Work that has not logged for the longest time.
        let last = |kept: &Kept| kept.lines.back().map_or(0, |line| line.seq);
        let oldest = ring.iter().min_by_key(|(_, kept)| last(kept)).map(|(work, _)| work.clone());
        oldest.and_then(|oldest| ring.remove(&oldest));
    }
    let kept = ring.entry(line.work.clone()).or_default();
    kept.bytes += line.text.len();
    kept.lines.push_back(line);
    while kept.lines.len() > LINES || kept.bytes > BYTES {
        let Some(gone) = kept.lines.pop_front() else { break };
        kept.bytes -= gone.text.len();
    }
}

/// Returns matching lines, oldest first, at most `limit`: the first ones after `after`, or else the last ones.
fn find(rings: &[&Ring], wanted: &Wanted<'_>) -> Vec<Arc<Line>> {
    let mut found = Vec::new();
    for (work, kept) in rings.iter().flat_map(|ring| ring.iter()) {
        if wanted.work.is_some_and(|path| work.as_ref().is_none_or(|work| work.as_str() != path)) {
            continue;
        }
        let start = kept.lines.partition_point(|line| line.seq <= wanted.after.unwrap_or(0));
        let lines = kept.lines.range(start..);
        found.extend(lines.filter(|line| line.level <= wanted.level && line.time >= wanted.since).cloned());
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

/// Query of stored lines.
pub(crate) struct Wanted<'a> {
    /// Only lines of this Work.
    pub(crate) work: Option<&'a str>,
    /// Least severe level.
    pub(crate) level: Level,
    pub(crate) since: SystemTime,
    /// Returns the first lines after this number; without a number, the last lines.
    pub(crate) after: Option<u64>,
    pub(crate) limit: usize,
}

/// Returns a receiver for the number of the last line of this process.
pub(crate) fn last() -> watch::Receiver<u64> {
    PROCESS.last.subscribe()
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
        let (work, run) = current_run().unzip();
        let text = record.args().to_string();
        let level = record.level();
        let said = Said { level, work, run: run.flatten(), node: None, target: record.target(), text };
        match runtime::of_thread() {
            Some(runtime) => AppLog::of(&runtime).keep(said),
            None => PROCESS.log.keep(said),
        }
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
            work: work.map(ActorPath::from),
            run: None,
            node: None,
            target: String::new(),
            text: text.to_owned(),
        })
    }

    fn wanted(work: Option<&'static str>, after: Option<u64>, limit: usize) -> Wanted<'static> {
        let since = SystemTime::UNIX_EPOCH;
        Wanted { work, level: Level::Info, since, after, limit }
    }

    fn numbers(lines: &[Arc<Line>]) -> Vec<u64> {
        lines.iter().map(|line| line.seq).collect()
    }

    #[test]
    fn lines_come_in_order_by_work_by_level_and_page_by_page() {
        let mut ring = Ring::default();
        for seq in 1..=9 {
            push(&mut ring, line(seq, [None, Some("a"), Some("b")][seq as usize % 3], "x"));
        }
        assert_eq!(numbers(&find(&[&ring], &wanted(None, None, 100))), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(numbers(&find(&[&ring], &wanted(None, None, 2))), [8, 9]);
        assert_eq!(numbers(&find(&[&ring], &wanted(None, Some(4), 2))), [5, 6]);
        assert_eq!(numbers(&find(&[&ring], &wanted(Some("a"), None, 100))), [1, 4, 7]);
        let errors = Wanted { level: Level::Error, ..wanted(Some("b"), None, 100) };
        assert_eq!(numbers(&find(&[&ring], &errors)), [5]);
    }

    #[test]
    fn a_work_that_says_much_keeps_its_last_lines_and_leaves_those_of_others() {
        let mut ring = Ring::default();
        push(&mut ring, line(1, Some("quiet"), "kept"));
        for seq in 2..5000 {
            push(&mut ring, line(seq, Some("loud"), &"x".repeat(1000)));
        }
        assert_eq!(numbers(&find(&[&ring], &wanted(Some("quiet"), None, 10))), [1]);
        let loud = find(&[&ring], &wanted(Some("loud"), None, usize::MAX));
        assert_eq!((loud.len(), loud.last().unwrap().seq), (BYTES / 1000, 4999));
        for work in 0..2 * WORKS {
            push(&mut ring, line(5000 + work as u64, Some(&work.to_string()), "x"));
        }
        assert_eq!(ring.len(), WORKS);
    }

    /// The lines of one App are not shown by another; numbers are those of the process.
    #[test]
    fn lines_of_another_app_are_not_found() {
        let [first, second] = [AppLog::default(), AppLog::default()];
        let keep = |log: &AppLog, text: &str| {
            let (level, work, text) = (Level::Info, Some(ActorPath::from("a")), text.to_owned());
            log.keep(Said { level, work, run: None, node: None, target: "", text });
        };
        for (log, text) in [(&first, "1"), (&second, "2"), (&first, "3")] {
            keep(log, text);
        }
        let found = |log: &AppLog| {
            let found = log.find(&wanted(Some("a"), None, 100));
            found.iter().map(|line| (line.text.clone(), line.seq)).collect::<Vec<_>>()
        };
        let (of_first, of_second) = (found(&first), found(&second));
        assert_eq!(of_first.iter().map(|(text, _)| text.as_str()).collect::<String>(), "13");
        assert_eq!(of_second.iter().map(|(text, _)| text.as_str()).collect::<String>(), "2");
        assert!(of_first[0].1 < of_second[0].1 && of_second[0].1 < of_first[1].1);
        assert!(*last().borrow() >= of_first[1].1);
    }

    #[test]
    fn a_long_line_is_cut_between_two_characters() {
        let mut text = "ä".repeat(LONGEST_LINE);
        text.insert(0, 'x');
        shorten(&mut text);
        assert_eq!(text.len(), LONGEST_LINE - 1);
    }
}
