//! Code shared by the cases: runtimes, clocks, the resident set.

use std::future::Future;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

/// Number of messages after which a producer yields, in systems where sending never waits.
pub const CHUNK: u64 = 1_000;

/// Number of asks before the clock starts.
pub const WARM_UP: u64 = 1_000;

/// Creates a current-thread runtime as an application would: with all drivers enabled.
pub fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Creates a multi-thread runtime with two workers.
pub fn two_workers() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// Runs `main` on `runtime` as a spawned task, never as the `block_on` task.
pub fn spawned<F>(runtime: &Runtime, main: F) -> F::Output
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    runtime.block_on(async { tokio::spawn(main).await.expect("the task") })
}

/// Starts a thread with a current-thread runtime, runs `make` there, returns its result, and keeps the runtime
/// running until the process ends.
pub fn on_other_thread<M, F>(make: M) -> F::Output
where
    M: FnOnce() -> F + Send + 'static,
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let (tx, rx) = oneshot::channel();
    std::thread::spawn(move || {
        current_thread().block_on(async move {
            let made = tokio::spawn(make()).await.expect("the task");
            let _ = tx.send(made);
            std::future::pending::<()>().await
        });
    });
    rx.blocking_recv().expect("the other thread")
}

pub fn ns_each(start: Instant, end: Instant, n: u64) -> f64 {
    end.duration_since(start).as_nanos() as f64 / n as f64
}

/// Countdown of an actor to its last message, whose time it reports.
#[derive(Debug)]
pub struct Finish {
    left: u64,
    done: Option<oneshot::Sender<Instant>>,
}

impl Finish {
    pub fn after(n: u64) -> (Self, oneshot::Receiver<Instant>) {
        let (done, rx) = oneshot::channel();
        (Finish { left: n, done: Some(done) }, rx)
    }

    #[inline]
    pub fn one(&mut self) {
        self.left -= 1;
        if self.left == 0
            && let Some(done) = self.done.take()
        {
            let _ = done.send(Instant::now());
        }
    }
}

/// A countdown shared by many actors.
#[derive(Debug)]
pub struct Tally {
    left: AtomicU64,
    done: Mutex<Option<oneshot::Sender<Instant>>>,
}

impl Tally {
    pub fn after(n: u64) -> (std::sync::Arc<Self>, oneshot::Receiver<Instant>) {
        let (done, rx) = oneshot::channel();
        let tally = Tally { left: AtomicU64::new(n), done: Mutex::new(Some(done)) };
        (std::sync::Arc::new(tally), rx)
    }

    #[inline]
    pub fn one(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(done) = self.done.lock().expect("no panic").take()
        {
            let _ = done.send(Instant::now());
        }
    }

    pub fn left(&self) -> u64 {
        self.left.load(Ordering::Acquire)
    }
}

/// Both figures of a spawn case.
pub struct Spawned {
    pub ns: f64,
    pub bytes: f64,
}

impl Spawned {
    pub fn figure(&self, measure: &str) -> Option<f64> {
        match measure {
            "spawn" => Some(self.ns),
            "bytes-per-idle-actor" => Some(self.bytes),
            _ => None,
        }
    }
}

/// Measures the growth of the resident set since [`start`](Self::start).
pub struct Growth(u64);

impl Growth {
    pub fn start() -> Self {
        Growth(resident_kib())
    }

    pub fn bytes_each(&self, n: u64) -> f64 {
        resident_kib().saturating_sub(self.0) as f64 * 1024.0 / n as f64
    }
}

/// Returns the resident set in KiB, the unit of the kernel's figure, so that the page size is not needed.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux's /proc");
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|kib| kib.parse().ok())
        .expect("VmRSS")
}

/// Sorts `values` and returns the median: the middle value, or the mean of the two middle values.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len() % 2 == 1 { values[half] } else { (values[half - 1] + values[half]) / 2.0 }
}
