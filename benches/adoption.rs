//! Time in which a head that was killed and started again takes over its Works: 100 Works on three nodes, each process
//! of its own on this machine.
//!
//! `cargo bench --bench adoption` prints a table; `-- ROUNDS` gives the number of times that the head is killed [10].
//! Give another disk by the variable `FLOWRIGHT_BENCH_DIR`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use flowright::prelude::*;
use flowright::{Config, Selector};

const WORKS: usize = 100;
const NODES: usize = 3;

/// Environment variable with the directory of the log, which makes a process one of the App.
const DIRECTORY: &str = "FLOWRIGHT_BENCH_ADOPTION";

/// Time limit for every event.
const LIMIT: Duration = Duration::from_secs(60);

/// Appends a line to the log, which has the starts of Works and runs.
fn note(line: &str) -> Result<()> {
    let path = Path::new(&std::env::var(DIRECTORY)?).join("log");
    let mut log = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
    log.write_all(format!("{line}\n").as_bytes())?;
    Ok(())
}

/// A Work that publishes 20 times a second.
#[derive(Default, Serialize, Deserialize)]
struct Counter {
    count: u64,
}

impl Work for Counter {
    type Input = ();

    async fn on_start(&mut self, _: &mut WorkContext<Self>) -> Result<()> {
        note("start")
    }

    async fn run(&mut self, _: (), cx: &mut WorkContext<Self>) -> Result<()> {
        note("run")?;
        loop {
            cx.sleep(self, Duration::from_millis(50)).await?;
            self.count += 1;
            cx.publish(self);
        }
    }
}

#[derive(Serialize, Children)]
struct Counters {
    counters: Vec<WorkRef<Counter>>,
}

impl Flow for Counters {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        for counter in &mut self.counters {
            counter.run(());
        }
        Ok(())
    }
}

fn app() -> App {
    App::new(|| {
        let counter = |number: usize| {
            let node = Placement::Node(Selector::name(&format!("n{}", number % NODES)));
            WorkRef::new(Counter::default()).placed(node)
        };
        Counters { counters: (0..WORKS).map(counter).collect() }
    })
    .config(Config::new().node_grace(Duration::from_secs(60)))
}

/// A process of the App, with the lines of its log and when each was read. Killed on drop.
struct Process {
    child: Child,
    lines: Receiver<(Instant, String)>,
}

impl Process {
    fn start(directory: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("a path"));
        command.args(arguments).env(DIRECTORY, directory).stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command.stderr(Stdio::piped()).spawn().expect("it starts");
        let (sender, lines) = channel();
        let log = BufReader::new(child.stderr.take().expect("a pipe"));
        std::thread::spawn(move || {
            for line in log.lines().map_while(std::result::Result::ok) {
                // The receiver may be gone.
                let _ = sender.send((Instant::now(), line));
            }
        });
        Self { child, lines }
    }

    /// Waits for a line that contains `part`. Returns it, and when it was read.
    fn wait_for(&self, part: &str) -> (Instant, String) {
        loop {
            let (at, line) =
                self.lines.recv_timeout(LIMIT).unwrap_or_else(|_| panic!("no line with {part:?}"));
            if line.contains(part) {
                return (at, line);
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns how often each line is in the log.
fn counts(directory: &Path) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    let log = std::fs::read_to_string(directory.join("log")).unwrap_or_default();
    log.lines().for_each(|line| *counts.entry(line.to_owned()).or_default() += 1);
    counts
}

struct Round {
    /// From the start of the process to the moment at which it listens.
    listening: Duration,
    /// From then to the line that says that the last node's Works are adopted.
    adopted: Duration,
    works: usize,
}

/// Kills the head and starts it again.
fn round(head: &mut Process, start: impl Fn() -> Process) -> Round {
    head.child.kill().expect("it runs");
    head.child.wait().expect("it is a child");
    let began = Instant::now();
    *head = start();
    let (listening, _) = head.wait_for("nodes join at");
    let (mut works, mut last) = (0, listening);
    for _ in 0..NODES {
        let (at, line) = head.wait_for("adopted ");
        let number =
            line.split("adopted ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<usize>().ok());
        works += number.expect("the line has the number of Works");
        last = last.max(at);
    }
    Round { listening: listening - began, adopted: last - listening, works }
}

fn measure(rounds: usize) {
    let above = std::env::var_os("FLOWRIGHT_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let directory = above.join(format!("flowright-adoption-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let journal = directory.join("journal");
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let address = free.to_string();
    let journal = journal.to_str().expect("the path is text");
    let start = || {
        let arguments = ["--open-ui=false", "--without-server", "--listen", &address, "--journal", journal];
        Process::start(&directory, &arguments)
    };
    let mut head = start();
    let names: Vec<_> = (0..NODES).map(|number| format!("n{number}")).collect();
    let join = |name: &String| Process::start(&directory, &["node", "--join", &address, "--name", name]);
    let _nodes: Vec<_> = names.iter().map(join).collect();
    let began = Instant::now();
    while counts(&directory).get("run").is_none_or(|runs| *runs < WORKS) {
        assert!(began.elapsed() < LIMIT, "not all runs begin: {:?}", counts(&directory));
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut all: Vec<_> = (0..rounds).map(|_| round(&mut head, start)).collect();
    let (runs, starts, adopted) =
        (counts(&directory)["run"], counts(&directory)["start"], all.iter().map(|round| round.works).min());
    drop(head);
    let _ = std::fs::remove_dir_all(&directory);
    println!("{WORKS} Works on {NODES} nodes; the head was killed and started again {rounds} times.\n");
    println!(
        "| {:<52} | {:>9} | {:>9} | {:>9} | {:<7} |",
        "measure", "median", "smallest", "largest", "reach"
    );
    println!("| {:-<52} | {:->9} | {:->9} | {:->9} | {:-<7} |", "", "", "", "", "");
    for (measure, of, reach) in [
        ("start of the process to listening, ms", (|round| round.listening) as fn(&Round) -> Duration, ""),
        ("listening to the last adoption, ms", |round| round.adopted, "<= 100"),
    ] {
        all.sort_by_key(of);
        let at = |index: usize| format!("{:.1}", of(&all[index]).as_secs_f64() * 1e3);
        println!(
            "| {measure:<52} | {:>9} | {:>9} | {:>9} | {reach:<7} |",
            at(rounds / 2),
            at(0),
            at(rounds - 1)
        );
    }
    for (measure, number, reach) in [
        ("Works adopted each time, at least", adopted.unwrap_or_default(), "100"),
        ("incarnations started again", starts - WORKS, "0"),
        ("runs started again", runs - WORKS, "0"),
    ] {
        println!("| {measure:<52} | {number:>9} | {:>9} | {:>9} | {reach:<7} |", "", "");
    }
}

fn main() -> ExitCode {
    if std::env::var_os(DIRECTORY).is_some() {
        return app().main();
    }
    let rounds = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(10);
    measure(std::cmp::max(rounds, 1));
    ExitCode::SUCCESS
}
