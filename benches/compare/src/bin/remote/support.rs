//! Code shared by the cases: one clock for all processes, percentiles, child processes, resource usage.

use std::io::BufRead;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// Environment variable that tells a node which App it belongs to; child processes inherit it.
pub const APP: &str = "COMPARE_REMOTE_APP";

/// Environment variable of a child that must exit when its standard input closes, which happens when its parent
/// exits, even if it is killed.
const ENDS_WITH_PARENT: &str = "COMPARE_REMOTE_ENDS_WITH_PARENT";

/// Makes this process exit with its parent, if the parent requested that.
pub fn end_with_parent() {
    if std::env::var_os(ENDS_WITH_PARENT).is_some() {
        std::thread::spawn(|| {
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            std::process::exit(1);
        });
    }
}

/// Pins this thread, and all threads and processes that it starts, to one core.
pub fn keep_to(core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).expect("there are two cores");
}

/// Returns the nanoseconds since boot: a monotonic clock that all processes share.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).expect("it began at zero") * 1_000_000_000 + now.tv_nsec as u64
}

/// Returns the percentile `share` (0 to 1) of sorted values.
pub fn percentile(sorted: &[u64], share: f64) -> u64 {
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

/// Returns the p50 and p99 of nanoseconds, in microseconds.
pub fn p50_p99_us(mut times: Vec<u64>) -> [f64; 2] {
    times.sort_unstable();
    [0.5, 0.99].map(|share| percentile(&times, share) as f64 / 1e3)
}

/// Returns a command that starts this program.
pub fn this(app: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a program knows its file"));
    command.args(arguments).env(APP, app);
    command
}

/// A child process, killed on drop.
pub struct Killed(pub Child);

impl Killed {
    pub fn start(command: &mut Command) -> Self {
        Self(command.env(ENDS_WITH_PARENT, "").stdin(Stdio::piped()).spawn().expect("it starts"))
    }

    /// Starts the child and returns the first line that it prints.
    pub fn start_and_hear(command: &mut Command) -> (Self, String) {
        let mut child = Self::start(command.stdout(Stdio::piped()));
        let mut line = String::new();
        let out = child.0.stdout.take().expect("it is piped");
        std::io::BufReader::new(out).read_line(&mut line).expect("it says where");
        (child, line.trim().to_owned())
    }

    /// Starts a node that joins the App at the address `join`.
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

/// Resources that a process has used so far.
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
        // The name of the program may contain spaces, so fields are counted after it: user and system time are the
        // 12th and the 13th.
        let (_, fields) = stat.rsplit_once(')').expect("a name");
        let ticks: u64 = fields.split_whitespace().skip(11).take(2).flat_map(str::parse::<u64>).sum();
        Self {
            cpu_seconds: ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
            resident_mib: kib / 1024.0,
        }
    }
}

/// Prints a figure of the case, for the parent to read.
pub fn figure(measure: &str, value: f64) {
    println!("{measure} {value}");
}
