//! What the cases share: one clock for all processes, percentiles, child processes, what the kernel counts.

use std::io::BufRead;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// Says to a node which App it is a node of; a child inherits what its parent was told.
pub const APP: &str = "COMPARE_REMOTE_APP";

/// Set for a child that is to end when its standard input does: with its parent, however that ends.
const ENDS_WITH_PARENT: &str = "COMPARE_REMOTE_ENDS_WITH_PARENT";

/// Has this process end with its parent, where that was asked for.
pub fn end_with_parent() {
    if std::env::var_os(ENDS_WITH_PARENT).is_some() {
        std::thread::spawn(|| {
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            std::process::exit(1);
        });
    }
}

/// Keeps this thread, and all that it starts, to one core.
pub fn keep_to(core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).expect("there are two cores");
}

/// Nanoseconds since the machine was started: the same clock in all processes, which nobody sets.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).expect("it began at zero") * 1_000_000_000 + now.tv_nsec as u64
}

/// The value below which this share of the (sorted) values lies.
pub fn percentile(sorted: &[u64], share: f64) -> u64 {
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

/// The p50 and the p99 of nanoseconds, in microseconds.
pub fn p50_p99_us(mut times: Vec<u64>) -> [f64; 2] {
    times.sort_unstable();
    [0.5, 0.99].map(|share| percentile(&times, share) as f64 / 1e3)
}

/// This program again.
pub fn this(app: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a program knows its file"));
    command.args(arguments).env(APP, app);
    command
}

/// A child that does not outlive the case.
pub struct Killed(pub Child);

impl Killed {
    pub fn start(command: &mut Command) -> Self {
        Self(command.env(ENDS_WITH_PARENT, "").stdin(Stdio::piped()).spawn().expect("it starts"))
    }

    /// The same, and the first line that it prints.
    pub fn start_and_hear(command: &mut Command) -> (Self, String) {
        let mut child = Self::start(command.stdout(Stdio::piped()));
        let mut line = String::new();
        let out = child.0.stdout.take().expect("it is piped");
        std::io::BufReader::new(out).read_line(&mut line).expect("it says where");
        (child, line.trim().to_owned())
    }

    /// Joins the App that listens there.
    pub fn node(app: &str, join: &str, name: &str) -> Self {
        let mut command = this(app, &["node", "--join", join, "--name", name, "--log-level", "error"]);
        Self::start(command.stdout(Stdio::null()))
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.0);
        kill_process(pid, signal).expect("it lives");
    }

    pub fn usage(&self) -> Usage {
        Usage::of(self.0.id())
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a process has used so far.
pub struct Usage {
    pub cpu_seconds: f64,
    pub resident_mib: f64,
}

impl Usage {
    pub fn here() -> Self {
        Self::of(std::process::id())
    }

    fn of(pid: u32) -> Self {
        let read =
            |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).expect("Linux's /proc");
        let status = read("status");
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        let kib: f64 = resident.split_whitespace().next().and_then(|kib| kib.parse().ok()).expect("KiB");
        let stat = read("stat");
        // Behind the name of the program, which may be anything: user and system time are the 12th and the 13th.
        let (_, fields) = stat.rsplit_once(')').expect("a name");
        let ticks: u64 = fields.split_whitespace().skip(11).take(2).flat_map(str::parse::<u64>).sum();
        Self {
            cpu_seconds: ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
            resident_mib: kib / 1024.0,
        }
    }
}

/// What a case prints: the parent reads these lines.
pub fn figure(measure: &str, value: f64) {
    println!("{measure} {value}");
}
