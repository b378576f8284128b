//! Cost of a journal: each measure beside the same App without one, or beside bare syncs of the same disk, in one run.
//!
//! `cargo bench --bench durability` prints a table; `-- NAME` selects the measures whose name contains NAME. Give another
//! disk by the variable `FLOWRIGHT_BENCH_DIR`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use flowright::prelude::*;
use flowright::{Config, JournalSync};

/// The time since the start of the program, in nanoseconds.
fn now() -> u64 {
    static START: Mutex<Option<Instant>> = Mutex::new(None);
    let start = *START.lock().expect("no panic").get_or_insert_with(Instant::now);
    u64::try_from(start.elapsed().as_nanos()).expect("less than 500 years")
}

/// Latencies of one case, in nanoseconds.
static SAMPLES: Mutex<Vec<u64>> = Mutex::new(Vec::new());

fn sample(since: u64) {
    SAMPLES.lock().expect("no panic").push(now() - since);
}

struct Percentiles {
    p50: u64,
    p99: u64,
}

fn percentiles() -> Percentiles {
    let mut samples = std::mem::take(&mut *SAMPLES.lock().expect("no panic"));
    // The first tenth warms up.
    samples.drain(..samples.len() / 10);
    samples.sort_unstable();
    let at = |percent: usize| samples[(samples.len() * percent / 100).min(samples.len() - 1)];
    Percentiles { p50: at(50), p99: at(99) }
}

// ---- publish to react ----

#[derive(Default, Serialize, Deserialize)]
struct Publisher {
    at: u64,
    step: u64,
}

impl Work for Publisher {
    type Input = u64;

    async fn run(&mut self, steps: u64, cx: &mut WorkContext<Self>) -> Result<()> {
        for step in 1..=steps {
            cx.sleep(self, Duration::from_micros(300)).await?;
            (self.step, self.at) = (step, now());
            cx.publish(self);
        }
        Ok(())
    }
}

#[derive(Serialize, Children)]
struct Reacting {
    publisher: WorkRef<Publisher>,
    steps: u64,
    seen: u64,
}

impl Flow for Reacting {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        if self.publisher.step > self.seen {
            sample(self.publisher.at);
            self.seen = self.publisher.step;
        }
        self.publisher.run(self.steps).finished()?;
        cx.stop("done");
        Ok(())
    }
}

// ---- runs ----

/// The time of the last request.
static REQUESTED: AtomicU64 = AtomicU64::new(0);

#[derive(Default, Serialize, Deserialize)]
struct Null;

impl Work for Null {
    type Input = u64;

    async fn run(&mut self, _: u64, _: &mut WorkContext<Self>) -> Result<()> {
        sample(REQUESTED.load(Ordering::Relaxed));
        Ok(())
    }
}

#[derive(Serialize, Children)]
struct Chain {
    null: WorkRef<Null>,
    links: u64,
    requested: u64,
    done: u64,
}

impl Flow for Chain {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        while self.done < self.links {
            if self.requested == self.done {
                REQUESTED.store(now(), Ordering::Relaxed);
                self.requested += 1;
            }
            self.null.run(self.done).finished()?;
            self.done += 1;
        }
        cx.stop("done");
        Ok(())
    }
}

#[derive(Default, Serialize, Deserialize)]
struct Worker;

impl Work for Worker {
    /// The number of the run, and how long it takes in milliseconds.
    type Input = (u64, u64);

    async fn run(&mut self, (_, takes): (u64, u64), cx: &mut WorkContext<Self>) -> Result<()> {
        if takes > 0 {
            cx.sleep(self, Duration::from_millis(takes)).await?;
        }
        Ok(())
    }
}

#[derive(Serialize, Children)]
struct Crew {
    workers: Vec<WorkRef<Worker>>,
    runs: u64,
    takes: u64,
    done: Vec<u64>,
}

impl Flow for Crew {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        for (worker, done) in self.workers.iter().zip(&mut self.done) {
            while *done < self.runs && worker.run((*done, self.takes)).finished().is_ok() {
                *done += 1;
            }
        }
        if self.done.iter().all(|done| *done == self.runs) {
            cx.stop("done");
        }
        Ok(())
    }
}

fn crew(workers: usize, runs: u64, takes: u64) -> Crew {
    let worker = || WorkRef::new(Worker).placed(Placement::Pool);
    let done = vec![0; workers];
    Crew { workers: (0..workers).map(|_| worker()).collect(), runs, takes, done }
}

// ---- bytes written ----

/// Publishes states of 4 KiB, each of which differs from the one before as a whole.
#[derive(Default, Serialize, Deserialize)]
struct Writer {
    text: String,
}

/// The size of a published change, in bytes.
const CHANGE: u64 = 4096;

impl Work for Writer {
    /// The number of publishes, and whether each is awaited on disk.
    type Input = (u64, bool);

    async fn run(&mut self, (publishes, is_awaited): (u64, bool), cx: &mut WorkContext<Self>) -> Result<()> {
        let mut random = 1_u64;
        for _ in 0..publishes {
            self.text.clear();
            while self.text.len() < CHANGE as usize {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                self.text.push_str(&format!("{:08x}", random >> 32));
            }
            if is_awaited {
                cx.commit(self).await?;
            } else {
                cx.publish(self);
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }
}

#[derive(Serialize, Children)]
struct Writers {
    writers: Vec<WorkRef<Writer>>,
    input: (u64, bool),
}

impl Flow for Writers {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        for writer in &self.writers {
            writer.run(self.input);
        }
        for writer in &self.writers {
            writer.run(self.input).finished()?;
        }
        cx.stop("done");
        Ok(())
    }
}

/// Returns the number of bytes that this process has passed to `write` and its like.
fn written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").expect("Linux");
    let line = io.lines().find_map(|line| line.strip_prefix("wchar: ")).expect("a count of bytes");
    line.parse().expect("a number")
}

// ---- recovery ----

/// A Work whose runs are remembered.
trait Numbered: Work + Default {
    /// The input of a run.
    fn input(run: u64) -> Self::Input;
}

impl Numbered for Worker {
    fn input(run: u64) -> (u64, u64) {
        (run, 0)
    }
}

/// Defines the Work as later versions of the program have it.
macro_rules! later_version {
    ($name:ident, $input:ident, $make:expr) => {
        #[derive(Default, Serialize, Deserialize)]
        struct $name;

        impl Work for $name {
            type Input = $input;

            async fn run(&mut self, _: $input, _: &mut WorkContext<Self>) -> Result<()> {
                Ok(())
            }
        }

        impl Numbered for $name {
            fn input(run: u64) -> $input {
                let make: fn(u64) -> $input = $make;
                make(run)
            }
        }
    };
}

/// Encoded as the input of [`Worker`] is.
#[derive(Serialize, Deserialize)]
struct Same(u64, u64);

/// Reads the input of [`Worker`], and is encoded otherwise.
#[derive(Serialize, Deserialize)]
struct Longer(u64, u64, #[serde(default)] u64);

later_version!(SameWorker, Same, |run| Same(run, 0));
later_version!(LongerWorker, Longer, |run| Longer(run, 0, 0));

#[derive(Serialize, Children)]
struct Remembering<W: Numbered> {
    worker: WorkRef<W>,
    runs: u64,
    /// Runs that have succeeded.
    done: u64,
}

impl<W: Numbered> Flow for Remembering<W> {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        if self.worker.successes() >= self.runs {
            sample(STARTED.load(Ordering::Relaxed));
            cx.stop("done");
            return Ok(());
        }
        if self.worker.successes() >= self.done {
            for run in self.done..(self.done + 1000).min(self.runs) {
                self.worker.run(W::input(run));
            }
            self.done = (self.done + 1000).min(self.runs);
        }
        Ok(())
    }
}

static STARTED: AtomicU64 = AtomicU64::new(0);

#[derive(Serialize, Children)]
struct Crowd {
    works: Vec<WorkRef<Null>>,
}

impl Flow for Crowd {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        sample(STARTED.load(Ordering::Relaxed));
        cx.stop("done");
        Ok(())
    }
}

// ---- measuring ----

/// Runs an App to its end and returns how long it took.
fn run<F: Flow>(
    make: impl FnOnce() -> F + Send + 'static,
    journal: Option<(&Path, JournalSync)>,
) -> Duration {
    let mut config = Config::new();
    if let Some((directory, sync)) = journal {
        config = config.journal(directory).journal_sync(sync);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        STARTED.store(now(), Ordering::Relaxed);
        let app = App::new(make).config(config).spawn().await.expect("it starts");
        let began = Instant::now();
        app.wait().await.result.expect("it ends well");
        began.elapsed()
    })
}

struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let above = std::env::var_os("FLOWRIGHT_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let name =
            format!("flowright-bench-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = above.join(name);
        std::fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }

    fn disk(&self) -> Option<(&Path, JournalSync)> {
        Some((&self.0, JournalSync::Disk))
    }

    fn process(&self) -> Option<(&Path, JournalSync)> {
        Some((&self.0, JournalSync::Process))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Returns the median time of a write of 4 KiB and `fdatasync`, into a file whose space is there, in nanoseconds.
fn sync_time() -> u64 {
    let directory = Directory::new();
    let file = File::create(directory.0.join("file")).expect("a file");
    file.write_all_at(&vec![1; 4 << 20], 0).expect("room");
    file.sync_all().expect("a disk");
    let mut times: Vec<u64> = (0..500_u64)
        .map(|number| {
            let began = now();
            file.write_all_at(&[2; 4096], number % 1024 * 4096).expect("room");
            file.sync_data().expect("a disk");
            now() - began
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

fn show(measure: &str, with: String, without: String, ratio: f64, reach: &str) {
    println!("| {measure:<42} | {with:>14} | {without:>14} | {ratio:>6.2} | {reach:<7} |");
}

fn micros(nanos: u64) -> String {
    format!("{:.1} µs", nanos as f64 / 1000.0)
}

fn rate(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

fn main() {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with("--")).unwrap_or_default();
    let is_wanted = |name: &str| name.contains(&filter);
    println!(
        "| {:<42} | {:>14} | {:>14} | {:>6} | {:<7} |",
        "measure", "journal", "beside", "ratio", "reach"
    );
    println!("| {:-<42} | {:->14} | {:->14} | {:->6} | {:-<7} |", "", "", "", "", "");
    let sync = sync_time();
    show("one fdatasync of the same disk, p50", micros(sync), String::new(), 1.0, "");
    if is_wanted("publish-react") {
        let steps = 5000;
        let flow = move || Reacting { publisher: WorkRef::default(), steps, seen: 0 };
        run(flow, None);
        let without = percentiles();
        run(flow, Directory::new().disk());
        let with = percentiles();
        let ratio = |with: u64, without: u64| with as f64 / without as f64;
        let name = "publish to react, p50 (without a journal)";
        show(name, micros(with.p50), micros(without.p50), ratio(with.p50, without.p50), "<= 1.05");
        let name = "publish to react, p99 (without a journal)";
        show(name, micros(with.p99), micros(without.p99), ratio(with.p99, without.p99), "<= 1.2");
    }
    if is_wanted("chain") {
        let links = 4000;
        let flow = move || Chain { null: WorkRef::default(), links, requested: 0, done: 0 };
        run(flow, None);
        let without = percentiles();
        let directory = Directory::new();
        let took = run(flow, directory.disk());
        let with = percentiles();
        let name = "request to body, p50 (sync + no journal)";
        let beside = sync + without.p50;
        show(name, micros(with.p50), micros(beside), with.p50 as f64 / beside as f64, "<= 1.6");
        let (chain, syncs) = (rate(links, took), 1e9 / sync as f64);
        let name = "chain of null runs (serial syncs)";
        show(name, format!("{chain:.0}/s"), format!("{syncs:.0}/s"), chain / syncs, ">= 0.7");
    }
    if is_wanted("crew") {
        for (takes, runs, name, reach) in [
            (0, 400, "null runs of 64 Works (no journal)", ">= 0.5"),
            (1, 400, "runs of 1 ms of 64 Works (no journal)", ">= 0.95"),
        ] {
            let flow = move || crew(64, runs, takes);
            let without = rate(64 * runs, run(flow, None));
            let with = rate(64 * runs, run(flow, Directory::new().disk()));
            show(name, format!("{with:.0}/s"), format!("{without:.0}/s"), with / without, reach);
        }
        SAMPLES.lock().expect("no panic").clear();
    }
    if is_wanted("written") {
        for (writers, publishes, is_awaited, name) in [
            (1, 8000, true, "written per byte, 1 Work that awaits each"),
            (64, 400, true, "written per byte, 64 Works that await each"),
            (64, 400, false, "written per byte, 64 Works that do not wait"),
        ] {
            let works = move || (0..writers).map(|_| WorkRef::new(Writer::default()).placed(Placement::Pool));
            let flow = move || Writers { writers: works().collect(), input: (publishes, is_awaited) };
            let (before, directory) = (written(), Directory::new());
            run(flow, directory.disk());
            let (wrote, published) = (written() - before, writers * publishes * CHANGE);
            let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
            show(name, mib(wrote), mib(published), wrote as f64 / published as f64, "<= 2.5");
        }
    }
    if is_wanted("recovery") {
        let directory = Directory::new();
        let runs = 1_000_000;
        fn remembering<W: Numbered>(runs: u64, directory: &Directory) -> u64 {
            SAMPLES.lock().expect("no panic").clear();
            run(move || Remembering { worker: WorkRef::<W>::default(), runs, done: 0 }, directory.process());
            SAMPLES.lock().expect("no panic").remove(0)
        }
        remembering::<Worker>(runs, &directory);
        let show_recovery = |name, took: u64, limit: &str| {
            show(name, format!("{:.2} s", took as f64 / 1e9), "2 s".to_owned(), took as f64 / 2e9, limit);
        };
        let took = remembering::<Worker>(runs, &directory);
        show_recovery("recovery of 1,000,000 remembered runs (2 s)", took, "<= 1");
        let took = remembering::<SameWorker>(runs, &directory);
        show_recovery("the same, in another build", took, "");
        let took = remembering::<SameWorker>(runs, &directory);
        show_recovery("the same, once more", took, "<= 1");
        let took = remembering::<LongerWorker>(runs, &directory);
        show_recovery("the same, with another type of input", took, "");
        SAMPLES.lock().expect("no panic").clear();
        let directory = Directory::new();
        let work = || WorkRef::new(Null).placed(Placement::Pool);
        let flow = move || Crowd { works: (0..100_000).map(|_| work()).collect() };
        run(flow, directory.process());
        SAMPLES.lock().expect("no panic").clear();
        run(flow, directory.process());
        let took = SAMPLES.lock().expect("no panic").remove(0);
        let name = "recovery of 100,000 Works (3 s)";
        show(name, format!("{:.2} s", took as f64 / 1e9), "3 s".to_owned(), took as f64 / 3e9, "<= 1");
    }
}
