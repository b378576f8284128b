//! Resources of a process, which must be the same after a fault as before.

use std::time::{Duration, Instant};

/// Time limit for the release of resources.
const LIMIT: Duration = crate::process::LIMIT;

/// Memory that an allocator may keep after it was freed.
const SLACK: usize = 32 << 20;

/// Threads, descriptors and memory of a process at one time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held {
    process: u32,
    threads: usize,
    descriptors: usize,
    /// Resident memory, in bytes.
    memory: usize,
}

impl Held {
    pub(crate) fn here() -> Self {
        Self::by(std::process::id())
    }

    pub(crate) fn by(process: u32) -> Self {
        let count =
            |what: &str| std::fs::read_dir(format!("/proc/{process}/{what}")).map_or(0, Iterator::count);
        let statm = std::fs::read_to_string(format!("/proc/{process}/statm")).unwrap_or_default();
        let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok());
        Self {
            process,
            threads: count("task"),
            descriptors: count("fd"),
            memory: pages.unwrap_or_default() * 4096,
        }
    }

    /// The number of open files and connections.
    pub(crate) fn descriptors(&self) -> usize {
        self.descriptors
    }

    /// Resident memory, in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.memory
    }

    /// Accepts any amount of memory.
    pub(crate) fn whatever_memory(self) -> Self {
        Self { memory: usize::MAX - SLACK, ..self }
    }

    /// Waits until the process holds no more than this.
    #[track_caller]
    pub(crate) fn is_back(&self) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let now = Self::by(self.process);
            let is_back = now.threads <= self.threads
                && now.descriptors <= self.descriptors
                && now.memory <= self.memory + SLACK;
            if is_back {
                return;
            }
            assert!(Instant::now() < deadline, "it held {self:?}, and holds {now:?}:\n{}", self.in_detail());
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    /// The descriptors and threads by name.
    fn in_detail(&self) -> String {
        let entries = |what: &str| std::fs::read_dir(format!("/proc/{}/{what}", self.process)).into_iter();
        let descriptors = entries("fd").flatten().flatten();
        let descriptors = descriptors
            .filter_map(|entry| Some(std::fs::read_link(entry.path()).ok()?.display().to_string()));
        let threads = entries("task").flatten().flatten();
        let threads = threads.filter_map(|entry| std::fs::read_to_string(entry.path().join("comm")).ok());
        let mut all: Vec<_> = descriptors.chain(threads).map(|line| line.trim().to_owned()).collect();
        all.sort();
        all.join("\n")
    }
}

/// Waits until no thread of this process has this name.
#[track_caller]
pub(crate) fn wait_for_the_end_of(thread: &str) {
    let deadline = Instant::now() + LIMIT;
    let is_one = |entry: std::fs::DirEntry| {
        std::fs::read_to_string(entry.path().join("comm")).is_ok_and(|name| name.trim() == thread)
    };
    while std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten().any(is_one) {
        assert!(Instant::now() < deadline, "`{thread}` is still there");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// The child processes of a process, also those that have ended and were not reaped.
pub(crate) fn children_of(process: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let children = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    children
        .flat_map(|text| text.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<_>>())
        .collect()
}
