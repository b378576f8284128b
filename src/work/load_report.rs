//! Load of a process, and the memory and disk space of the payloads in it.
//!
//! A node reports to its head every two seconds, together with its heartbeat; a head measures itself on request.

use std::fs;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::message_counts::MessageCounts;
use crate::payload::{PayloadCounts, PayloadUsage, Store};
use crate::runtime::Runtime;

/// Interval at which a node reports its load to its head.
pub(crate) const REPORT_INTERVAL: Duration = Duration::from_secs(2);

/// Shortest interval between measurements: the system counts in hundredths of a second.
const LEAST: Duration = Duration::from_secs(1);

/// Unit of process times in `/proc`, in ticks per second, on every architecture of Linux today.
const TICKS: f64 = 100.0;

/// Load of a process, as reported by its system.
///
/// ```
/// use flowright::NodeLoad;
///
/// # fn show(load: NodeLoad) {
/// println!("{:.2} processors and {} MiB", load.cpus, load.memory >> 20);
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NodeLoad {
    /// Number of processors that the process keeps busy.
    pub cpus: f64,
    /// Resident memory of the process, in bytes, rounded up to MiB.
    pub memory: u64,
    /// Load average of the machine over the last minute, in threads.
    pub average: f64,
}

/// Metrics of a process that its head collects.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct LoadReport {
    /// `None` where the system does not report it.
    pub(crate) load: Option<NodeLoad>,
    pub(crate) payloads: PayloadUsage,
    pub(crate) counts: PayloadCounts,
    /// Messages that no handler saw and whose senders were not notified.
    pub(crate) messages_lost: u64,
    /// Asks dropped before a handler had begun because their caller had given up.
    #[serde(default)]
    pub(crate) questions_abandoned: u64,
    /// Asks that failed because Works waited for each other.
    #[serde(default)]
    pub(crate) deadlocks: u64,
    /// Streamed replies that Works are sending.
    #[serde(default)]
    pub(crate) streams_open: u64,
}

impl LoadReport {
    /// Measures this process, with the values of one App in it.
    pub(crate) fn of(runtime: &Runtime) -> Self {
        let (store, counts) = (Store::of(runtime), MessageCounts::of(runtime));
        Self {
            load: load(),
            payloads: store.usage(),
            counts: store.counts(),
            messages_lost: counts.lost(),
            questions_abandoned: counts.abandoned(),
            deadlocks: counts.deadlocks(),
            streams_open: counts.streams(),
        }
    }

    /// Adds the report of another process on the same machine.
    pub(crate) fn plus(self, other: &Self) -> Self {
        let load = match (self.load, other.load) {
            (Some(a), Some(b)) => Some(NodeLoad {
                cpus: a.cpus + b.cpus,
                memory: a.memory.saturating_add(b.memory),
                average: a.average,
            }),
            (known, None) | (None, known) => known,
        };
        let (a, b) = (self.payloads, other.payloads);
        let payloads =
            PayloadUsage { memory: a.memory.saturating_add(b.memory), disk: a.disk.saturating_add(b.disk) };
        let (a, b) = (self.counts, other.counts);
        let counts = PayloadCounts {
            hits: a.hits.saturating_add(b.hits),
            pulls: a.pulls.saturating_add(b.pulls),
            spills: a.spills.saturating_add(b.spills),
        };
        let messages_lost = self.messages_lost.saturating_add(other.messages_lost);
        let questions_abandoned = self.questions_abandoned.saturating_add(other.questions_abandoned);
        let deadlocks = self.deadlocks.saturating_add(other.deadlocks);
        let streams_open = self.streams_open.saturating_add(other.streams_open);
        Self { load, payloads, counts, messages_lost, questions_abandoned, deadlocks, streams_open }
    }
}

/// The last measurement, which the next is compared with.
struct Measured {
    looked: Option<Instant>,
    times: Option<Times>,
    load: Option<NodeLoad>,
}

fn load() -> Option<NodeLoad> {
    static MEASURED: Mutex<Measured> = Mutex::new(Measured { looked: None, times: None, load: None });
    let mut measured = MEASURED.lock();
    if measured.looked.is_none_or(|looked| looked.elapsed() >= LEAST) {
        measured.looked = Some(Instant::now());
        measured.load = look(&mut measured.times);
    }
    measured.load
}

fn look(before: &mut Option<Times>) -> Option<NodeLoad> {
    let read = |file| fs::read_to_string(file).ok();
    let now = Times::read(&read("/proc/self/stat")?, &read("/proc/uptime")?)?;
    let cpus = now.since(before.replace(now));
    let memory = resident(&read("/proc/self/status")?)?;
    let average = read("/proc/loadavg")?.split(' ').next()?.parse().ok()?;
    Some(NodeLoad { cpus, memory, average })
}

/// Times of a process, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Times {
    /// Processor time of all threads.
    used: f64,
    /// Time since the machine started: now, and when the process started.
    now: f64,
    began: f64,
}

impl Times {
    fn read(stat: &str, uptime: &str) -> Option<Self> {
        // The name of the program may contain spaces and parentheses.
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let ticks = |place: usize| fields.get(place)?.parse::<f64>().ok();
        let used = (ticks(11)? + ticks(12)?) / TICKS;
        let now = uptime.split_ascii_whitespace().next()?.parse().ok()?;
        Some(Self { used, now, began: ticks(19)? / TICKS })
    }

    /// Returns the number of processors kept busy since `before` or, without it, since the process started.
    fn since(&self, before: Option<Self>) -> f64 {
        let (used, then) = before.map_or((0.0, self.began), |before| (before.used, before.now));
        let busy = (self.used - used).max(0.0) / (self.now - then).max(1.0 / TICKS);
        // Rounded to hundredths, because each change is sent and shown.
        (busy * 100.0).round() / 100.0
    }
}

/// Returns the resident memory in bytes, rounded up to MiB so that an idle process does not change.
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib.div_ceil(1024) << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "71 (a (b) c) S 1 71 71 0 -1 4194560 900 0 0 0 250 50 0 0 20 0 9 0 9000 1000 200 1844";

    #[test]
    fn the_busy_processors_are_those_since_the_look_before() {
        let first = Times::read(STAT, "100.00 180.50\n").unwrap();
        assert_eq!(first, Times { used: 3.0, now: 100.0, began: 90.0 });
        assert_eq!(first.since(None), 0.3);
        let then = Times { used: 6.0, now: 102.0, ..first };
        assert_eq!(then.since(Some(first)), 1.5);
        // Two measurements at the same instant.
        assert_eq!(then.since(Some(then)), 0.0);
        assert_eq!(Times::read("no such thing", "1 1"), None);
    }

    #[test]
    fn memory_is_told_in_whole_mebibytes() {
        assert_eq!(resident("Name:\tx\nVmRSS:\t    1025 kB\nThreads:\t1\n"), Some(2 << 20));
        assert_eq!(resident("VmRSS:\tmuch\n"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_uses_memory() {
        assert!(LoadReport::of(&Runtime::new(crate::id::AppId::next())).load.unwrap().memory > 0);
    }
}
