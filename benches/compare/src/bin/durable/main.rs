//! Durable steps and runs beside DBOS on its SQLite, where it is installed, and beside bare syncs of the same disk.
//!
//! `cargo run --release --bin durable [ROUNDS]` prints one table: medians of the rounds, in each of which the systems
//! take turns, each as a process of its own. `FLOWRIGHT_BENCH_DIR` gives another disk than that of the temporary
//! directory.

mod dbos;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use flowright::prelude::*;
use flowright::{Config, JournalSync, Placement};
use serde::{Deserialize, Serialize};

const STEPS: u64 = 2000;
const LINKS: u64 = 1000;
const WORKS: usize = 64;
const STEPS_OF_EACH: u64 = 100;
const SYNCS: u64 = 500;

/// Figures of one round; times in microseconds, and rates per second.
#[derive(Default, Serialize, Deserialize)]
pub struct Figures {
    /// One step after the other in one run.
    step_p50_us: f64,
    step_p99_us: f64,
    steps: f64,
    /// Actions whose intent is durable before they begin, one after the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    once: Option<f64>,
    /// Runs without a step, each requested when the one before has succeeded.
    chain: f64,
    /// Steps of 64 Works or workflows at once.
    parallel: f64,
    /// Settings of SQLite that DBOS has.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    journal_mode: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    synchronous: String,
}

/// The times of steps.
static TIMES: Mutex<Vec<Duration>> = Mutex::new(Vec::new());

#[derive(Default, Serialize, Deserialize)]
struct Stepping;

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Task {
    Steps(u64),
    Once(u64),
    /// Nothing; the number makes each input another one.
    Null(u64),
}

impl Work for Stepping {
    type Input = Task;

    async fn run(&mut self, task: Task, cx: &mut WorkContext<Self>) -> Result<()> {
        match task {
            Task::Steps(count) => {
                let mut times = Vec::new();
                for number in 0..count {
                    let began = Instant::now();
                    cx.step("null", &number, async move { Ok(number) }).await?;
                    times.push(began.elapsed());
                }
                TIMES.lock().expect("no panic").append(&mut times);
            }
            Task::Once(count) => {
                for number in 0..count {
                    cx.once(&format!("null {number}"), async move |_| Ok(number)).await?;
                }
            }
            Task::Null(_) => {}
        }
        Ok(())
    }
}

/// Runs these tasks in each of the Works, one after the other.
#[derive(Serialize, Children)]
struct Bench {
    works: Vec<WorkRef<Stepping>>,
    #[serde(skip)]
    tasks: Vec<Task>,
    done: Vec<usize>,
}

impl Flow for Bench {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        for (work, done) in self.works.iter_mut().zip(&mut self.done) {
            while *done < self.tasks.len() && work.run(self.tasks[*done].clone()).finished().is_ok() {
                *done += 1;
            }
        }
        if self.done.iter().all(|done| *done == self.tasks.len()) {
            cx.stop("done");
        }
        Ok(())
    }
}

/// A directory on the disk that is measured. Deleted on drop.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let above = std::env::var_os("FLOWRIGHT_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let path = above.join(format!("flowright-durable-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs an App to its end. Returns the time from its first reaction on.
fn run(sync: JournalSync, name: &str, works: usize, tasks: Vec<Task>) -> Duration {
    let directory = Directory::new(name);
    let make = move || Bench {
        works: (0..works).map(|_| WorkRef::new(Stepping).placed(Placement::Pool)).collect(),
        tasks,
        done: vec![0; works],
    };
    let config = Config::new().journal(&directory.0).journal_sync(sync);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let app = App::new(make).config(config).spawn().await.expect("it starts");
        let began = Instant::now();
        app.wait().await.result.expect("it ends well");
        began.elapsed()
    })
}

fn rate(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

/// Measures Flowright once.
fn flowright(sync: JournalSync) -> Figures {
    run(sync, "warm", 1, vec![Task::Steps(STEPS / 10)]);
    TIMES.lock().expect("no panic").clear();
    let steps = rate(STEPS, run(sync, "steps", 1, vec![Task::Steps(STEPS)]));
    let mut times = std::mem::take(&mut *TIMES.lock().expect("no panic"));
    times.sort_unstable();
    let at = |percent: usize| times[times.len() * percent / 100 - 1].as_secs_f64() * 1e6;
    let once = rate(STEPS / 2, run(sync, "once", 1, vec![Task::Once(STEPS / 2)]));
    let chain = rate(LINKS, run(sync, "chain", 1, (0..LINKS).map(Task::Null).collect()));
    let took = run(sync, "parallel", WORKS, vec![Task::Steps(STEPS_OF_EACH)]);
    Figures {
        step_p50_us: at(50),
        step_p99_us: at(99),
        steps,
        once: Some(once),
        chain,
        parallel: rate(WORKS as u64 * STEPS_OF_EACH, took),
        ..Figures::default()
    }
}

/// Measures serial writes of 4 KiB with `fdatasync`, into a file whose space is there.
fn floor() -> Figures {
    let directory = Directory::new("floor");
    let file = File::create(directory.0.join("file")).expect("a file");
    file.write_all_at(&vec![1; 4 << 20], 0).expect("room");
    file.sync_all().expect("a disk");
    let began = Instant::now();
    let mut times: Vec<_> = (0..SYNCS)
        .map(|number| {
            let began = Instant::now();
            file.write_all_at(&[2; 4096], number % 1024 * 4096).expect("room");
            file.sync_data().expect("a disk");
            began.elapsed()
        })
        .collect();
    let steps = rate(SYNCS, began.elapsed());
    times.sort_unstable();
    let at = |percent: usize| times[times.len() * percent / 100 - 1].as_secs_f64() * 1e6;
    Figures { step_p50_us: at(50), step_p99_us: at(99), steps, ..Figures::default() }
}

/// Runs a case in a process of its own.
fn case(name: &str) -> Result<Figures, String> {
    let me = std::env::current_exe().map_err(|error| error.to_string())?;
    figures_of(Command::new(me).args(["case", name]))
}

/// Returns the figures that a process writes as a line of JSON.
fn figures_of(command: &mut Command) -> Result<Figures, String> {
    let output = command.output().map_err(|error| error.to_string())?;
    let lines = String::from_utf8_lossy(&output.stdout);
    let figures = lines.lines().rev().find_map(|line| serde_json::from_str(line).ok());
    figures.ok_or_else(|| {
        let errors = String::from_utf8_lossy(&output.stderr);
        format!("no figures ({}): {}", output.status, errors.lines().last().unwrap_or_default())
    })
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_unstable_by(f64::total_cmp);
    all[all.len() / 2]
}

/// A system, and how to measure it once.
type System = (&'static str, fn() -> Result<Figures, String>);

const SYSTEMS: &[System] = &[
    ("a bare write of 4 KiB with `fdatasync`", || case("floor")),
    ("**Flowright**, `--journal-sync disk`", || case("disk")),
    ("**Flowright**, `--journal-sync process` (no sync)", || case("process")),
    ("DBOS, SQLite as it makes it", || dbos::measure("default")),
    ("DBOS, SQLite set to write-ahead logging", || dbos::measure("wal")),
];

fn load() -> String {
    std::fs::read_to_string("/proc/loadavg").map_or_else(|_| "unknown".to_owned(), |load| load.trim().to_owned())
}

fn print(all: &[Vec<Figures>]) {
    let none = || "–".to_owned();
    println!(
        "| system | one step, p50, us | p99, us | steps/s, one after the other | × `fdatasync` | `once`/s | chain of null runs/s | \
         steps/s of 64 at once |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    let column = |figures: &[Figures], of: fn(&Figures) -> f64| median(figures.iter().map(of).collect());
    let floor = all.first().filter(|floor| !floor.is_empty()).map(|floor| column(floor, |f| f.steps));
    for ((name, _), figures) in SYSTEMS.iter().zip(all).filter(|(_, figures)| !figures.is_empty()) {
        let whole = |of: fn(&Figures) -> f64| match column(figures, of) {
            0.0 => none(),
            figure => format!("{figure:.0}"),
        };
        let steps = column(figures, |f| f.steps);
        println!(
            "| {name} | {} | {} | {} | {} | {} | {} | {} |",
            whole(|f| f.step_p50_us),
            whole(|f| f.step_p99_us),
            whole(|f| f.steps),
            floor.map_or_else(none, |floor| format!("{:.2}", steps / floor)),
            whole(|f| f.once.unwrap_or_default()),
            whole(|f| f.chain),
            whole(|f| f.parallel),
        );
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, name] = &arguments[..]
        && first == "case"
    {
        let figures = match name.as_str() {
            "floor" => floor(),
            "disk" => flowright(JournalSync::Disk),
            _ => flowright(JournalSync::Process),
        };
        println!("{}", serde_json::to_string(&figures).expect("plain numbers"));
        return;
    }
    let rounds = arguments.first().and_then(|rounds| rounds.parse().ok()).unwrap_or(5).max(1);
    let before = load();
    let mut all: Vec<Vec<Figures>> = SYSTEMS.iter().map(|_| Vec::new()).collect();
    let mut absent = Vec::new();
    for round in 1..=rounds {
        for ((name, measure), figures) in SYSTEMS.iter().zip(&mut all) {
            eprintln!("round {round} of {rounds}: {name}");
            match measure() {
                Ok(measured) => figures.push(measured),
                Err(why) if round == 1 => absent.push(format!("{name}: {why}")),
                Err(_) => {}
            }
        }
    }
    print(&all);
    println!("\nMedians of {rounds} rounds. Load before: {before}; after: {}.", load());
    for ((name, _), figures) in SYSTEMS.iter().zip(&all) {
        if let Some(figures) = figures.iter().find(|figures| !figures.journal_mode.is_empty()) {
            println!("{name}: journal_mode={}, synchronous={}.", figures.journal_mode, figures.synchronous);
        }
    }
    absent.iter().for_each(|absent| println!("Not measured: {absent}"));
}

/// Returns the path of a file of this crate.
fn beside(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
