//! A head with a journal that is killed again and again while its Works run on nodes and in processes of their own,
//! which are killed and suspended as well. The processes record what they do, and [`check`] judges the record.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use flowright::prelude::*;
use libtest_mimic::Failed;

use crate::plan::Rng;
use crate::process::{LIMIT, Process, VARIABLE, signal};

/// The name of the program.
pub(crate) const PROGRAM: &str = "brood";
/// Environment variable with the directory of a run.
const DIRECTORY: &str = "FLOWRIGHT_CHAOS_BROOD";
/// Number of Works with processes of their own.
const IN_PROCESSES: usize = 3;
/// The nodes, each of which has one Work.
const NODES: [&str; 2] = ["n", "m"];
/// Number of Works, of runs of each, and of steps of a run.
const WORKS: usize = IN_PROCESSES + NODES.len();
const RUNS: u64 = 40;
const STEPS: u64 = 20;
/// Number of faults, after which the App ends in peace: a Work whose node is not known to the head is awaited for the
/// grace period before it starts again, which a head that is killed again and again does not live for.
const FAULTS: usize = 20;
/// The step after which a run waits until its state is durable.
const COMMITTED: u64 = 10;
/// Part of the line of a head that is served.
const SERVED: &str = "View it in your browser";
/// First character of a line of the record.
const BEGIN: char = '>';
/// The grace period, longer than any absence of a head on a busy machine.
const GRACE: &str = "node_grace_ms = 10000\nheartbeat_ms = 500\n";

/// One line of the record.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    /// Time on the machine's monotonic clock, in microseconds.
    at: u64,
    process: u32,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    /// An incarnation of the Work begins.
    Start(String),
    /// A run begins.
    Begin(String, u64),
    /// The Work has published this number of steps.
    Step(String, u64),
    /// The Work was told that the state with this number of steps is durable.
    Durable(String, u64),
    /// A run is about to succeed.
    End(String, u64),
    /// The process is killed or suspended by the conductor.
    Hit,
}

impl Line {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let (at, process) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let kind = words.next()?;
        let path = words.next().unwrap_or_default().to_owned();
        let number = words.next().and_then(|number| number.parse().ok());
        let what = match (kind, number) {
            ("hit", _) => What::Hit,
            ("start", _) => What::Start(path),
            ("begin", Some(number)) => What::Begin(path, number),
            ("step", Some(number)) => What::Step(path, number),
            ("durable", Some(number)) => What::Durable(path, number),
            ("end", Some(number)) => What::End(path, number),
            _ => return None,
        };
        Some(Self { at, process, what })
    }

    fn path(&self) -> Option<&str> {
        match &self.what {
            What::Start(path)
            | What::Begin(path, _)
            | What::Step(path, _)
            | What::Durable(path, _)
            | What::End(path, _) => Some(path),
            What::Hit => None,
        }
    }
}

/// Appends a line to the record, by one write. One that is cut off by a kill has no newline before the next begins.
fn note(directory: &Path, process: u32, what: &str) {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let micros = time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000;
    let line = format!("{BEGIN}{micros} {process} {what}\n");
    let file = OpenOptions::new().create(true).append(true).open(directory.join("record"));
    file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the record can be written");
}

fn read(directory: &Path) -> Vec<Line> {
    let text = std::fs::read_to_string(directory.join("record")).unwrap_or_default();
    let parse = |line| Line::parse(line).unwrap_or_else(|| panic!("{line:?} is no line of a record"));
    let whole = text.split(BEGIN).filter_map(|part| part.strip_suffix('\n'));
    let mut lines: Vec<_> = whole.map(parse).collect();
    // The sort is stable: lines of the same microsecond keep their order.
    lines.sort_by_key(|line: &Line| line.at);
    lines
}

/// Returns what is wrong in a record of an App that has ended:
/// - a process that is not the last one of its Work does nothing once the next one has started;
/// - a process starts one incarnation, and begins no run twice: it is adopted with what it does;
/// - a Work gets another process only after its process was hit: the death of a head alone starts nothing again;
/// - a run begins after all runs before it have succeeded, never after a later one, and again after its end only in
///   another process;
/// - the steps of a process are counted without a gap, and none begins before a state that was said to be durable;
/// - each run of each Work succeeds.
fn check(lines: &[Line], runs: u64) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut works: BTreeMap<&str, Vec<&Line>> = BTreeMap::new();
    for line in lines {
        if let Some(path) = line.path() {
            works.entry(path).or_default().push(line);
        }
    }
    let hits: Vec<_> = lines.iter().filter(|line| line.what == What::Hit).map(|line| line.process).collect();
    for (path, lines) in works {
        let mut wrong_here = |line: &Line, why: &str| wrong.push(format!("{path}: {why}: {line:?}"));
        let (mut processes, mut begun, mut ended): (Vec<u32>, BTreeSet<(u32, u64)>, BTreeSet<u64>) =
            Default::default();
        let (mut highest, mut durable) = (0, 0);
        let mut steps: BTreeMap<u32, u64> = BTreeMap::new();
        for line in lines {
            match &line.what {
                What::Start(_) if processes.contains(&line.process) => {
                    wrong_here(line, "its process starts a second incarnation");
                }
                What::Start(_) => {
                    if processes.last().is_some_and(|last| !hits.contains(last)) {
                        wrong_here(line, "another process starts, and the one before was not hit");
                    }
                    processes.push(line.process);
                }
                _ if processes.last() != Some(&line.process) => {
                    wrong_here(line, "it does something in a process that is not the last one");
                }
                What::Begin(_, number) => {
                    if !begun.insert((line.process, *number)) {
                        wrong_here(line, "a process begins a run twice");
                    }
                    if *number < highest
                        || *number > highest + 1
                        || *number > 1 && !ended.contains(&(number - 1))
                    {
                        wrong_here(line, "a run begins out of its turn");
                    }
                    highest = highest.max(*number);
                }
                What::Durable(_, number) => durable = *number,
                What::Step(_, number) => {
                    if *number <= durable {
                        wrong_here(line, "a durable state was lost");
                    }
                    if steps.insert(line.process, *number).is_some_and(|before| before + 1 != *number) {
                        wrong_here(line, "its state was lost or changed in its process");
                    }
                }
                What::End(_, number) => {
                    if !begun.contains(&(line.process, *number)) {
                        wrong_here(line, "a run ends that has not begun");
                    }
                    ended.insert(*number);
                }
                What::Hit => {}
            }
        }
        let missing: Vec<_> = (1..=runs).filter(|number| !ended.contains(number)).collect();
        if !missing.is_empty() {
            wrong.push(format!("{path}: these runs have not ended: {missing:?}"));
        }
    }
    wrong
}

/// A Work that counts steps in runs, and records all of it.
#[derive(Default, Serialize, Deserialize)]
struct Cub {
    steps: u64,
}

fn directory() -> PathBuf {
    std::env::var_os(DIRECTORY).expect("the conductor has set it").into()
}

fn tell(what: std::fmt::Arguments<'_>) {
    note(&directory(), std::process::id(), &what.to_string());
}

impl Work for Cub {
    type Input = u64;

    async fn on_start(&mut self, cx: &mut WorkContext<Self>) -> Result<()> {
        tell(format_args!("start {}", cx.path()));
        Ok(())
    }

    async fn run(&mut self, number: u64, cx: &mut WorkContext<Self>) -> Result<()> {
        tell(format_args!("begin {} {number}", cx.path()));
        for step in 1..=STEPS {
            self.steps += 1;
            tell(format_args!("step {} {}", cx.path(), self.steps));
            cx.publish(self);
            if step == COMMITTED {
                cx.commit(self).await?;
                tell(format_args!("durable {} {}", cx.path(), self.steps));
            }
            cx.sleep(self, Duration::from_millis(5)).await?;
        }
        tell(format_args!("end {} {number}", cx.path()));
        Ok(())
    }
}

#[derive(Serialize, Children)]
struct Brood {
    cubs: Vec<WorkRef<Cub>>,
}

impl Flow for Brood {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        let are_done = self
            .cubs
            .iter()
            .filter(|cub| (1..=RUNS).all(|number| cub.run(number).finished().is_ok()))
            .count();
        if are_done == WORKS {
            cx.stop("all runs have succeeded");
        }
        Ok(())
    }
}

pub(crate) fn program() -> ExitCode {
    let restart = || Restart::on_failure().max(1000).backoff(Duration::ZERO..Duration::ZERO);
    let cub = move |placement| WorkRef::new(Cub::default()).placed(placement).restart(restart());
    App::new(move || {
        let processes = (0..IN_PROCESSES).map(|_| Placement::Process);
        let nodes = NODES.iter().map(|node| node.parse().expect("the placement is valid"));
        Brood { cubs: processes.chain(nodes).map(cub).collect() }
    })
    .main()
}

/// A fault, and the time until the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    KillHead {
        back_after: Duration,
    },
    StopHead {
        lasts: Duration,
    },
    KillProcess {
        work: usize,
    },
    StopProcess {
        work: usize,
        lasts: Duration,
    },
    /// The head and a process are killed at once.
    KillBoth {
        work: usize,
        back_after: Duration,
    },
}

fn fault(rng: &mut Rng) -> Fault {
    let work = rng.below(WORKS as u64) as usize;
    match rng.below(10) {
        0..4 => Fault::KillHead { back_after: rng.millis(0, 1_500) },
        4 => Fault::StopHead { lasts: rng.millis(50, 1_500) },
        5..7 => Fault::KillProcess { work },
        7..9 => Fault::StopProcess { work, lasts: rng.millis(50, 2_000) },
        _ => Fault::KillBoth { work, back_after: rng.millis(0, 1_500) },
    }
}

/// The App of a run.
struct Den {
    directory: PathBuf,
    /// The address at which the head listens for nodes.
    address: String,
    head: Option<Process>,
    /// True once a head was killed that may not have been served. The next one is, so that Works are not given up.
    was_young: bool,
    nodes: Vec<Process>,
    /// Suspended processes, and when they go on.
    stopped: Vec<(Instant, u32)>,
}

impl Den {
    fn new(directory: &Path) -> Self {
        // An address of this process's own, so that nobody else takes the port while the head is down.
        let [_, first, second, third] = std::process::id().to_be_bytes();
        let own = Ipv4Addr::new(127, 1 + first % 120, second, third.max(1));
        let free = TcpListener::bind((own, 0)).and_then(|free| free.local_addr());
        let address = free.expect("there is a free port").to_string();
        let mut den = Self {
            directory: directory.to_owned(),
            address,
            head: None,
            was_young: false,
            nodes: Vec::new(),
            stopped: Vec::new(),
        };
        den.start();
        den.nodes = NODES.iter().map(|name| den.node(name)).collect();
        den
    }

    fn command(&self) -> Command {
        let mut command =
            Command::new(std::env::current_exe().expect("the path of the test binary is known"));
        command.env(VARIABLE, PROGRAM).env(DIRECTORY, &self.directory);
        command.env("FLOWRIGHT_TOKEN", "the token of an App of the tests");
        command
    }

    fn node(&self, name: &str) -> Process {
        let mut command = self.command();
        command.args(["node", "--join", &self.address, "--name", name]);
        Process::start(command)
    }

    fn start(&mut self) {
        let mut command = self.command();
        command.args(["--open-ui=false", "--port", "0", "--listen", &self.address]);
        command.arg("--config").arg(self.directory.join("config.toml"));
        command.arg("--journal").arg(self.directory.join("journal"));
        self.head = Some(Process::start(command));
    }

    fn has_ended(&mut self) -> bool {
        self.head.as_mut().is_some_and(Process::has_ended)
    }

    /// The last process of a Work, if it is there.
    fn process(&self, work: usize) -> Option<u32> {
        let path = format!("cubs.{work}");
        let lines = read(&self.directory);
        let mut starts =
            lines.iter().filter(|line| matches!(&line.what, What::Start(started) if *started == path));
        let process = starts.next_back()?.process;
        Path::new(&format!("/proc/{process}")).exists().then_some(process)
    }

    fn hit(&self, process: u32, name: &str) {
        // Before the signal, after which the next process may start.
        note(&self.directory, process, "hit");
        // The process may have ended by itself just now.
        let _ = Command::new("kill").args(["-s", name, &process.to_string()]).output();
    }

    fn kill_head(&mut self) {
        if let Some(mut head) = self.head.take() {
            self.was_young ^= true;
            if !self.was_young && !head.has_ended() {
                // It may be suspended.
                head.signal("CONT");
                head.expect(SERVED);
            }
            head.signal("KILL");
        }
    }

    /// Waits, lets suspended processes go on, and starts the head again after its time.
    fn pass(&mut self, time: Duration, mut head_at: Option<Instant>) {
        let until = Instant::now() + time;
        while Instant::now() < until || head_at.is_some() {
            let now = Instant::now();
            self.stopped.retain(|(at, process)| {
                if *at <= now {
                    let _ = Command::new("kill").args(["-s", "CONT", &process.to_string()]).output();
                }
                *at > now
            });
            if head_at.take_if(|at| *at <= now).is_some() {
                self.start();
            }
            for (number, name) in NODES.iter().enumerate() {
                if self.nodes[number].has_ended() && !self.has_ended() {
                    self.nodes[number] = self.node(name);
                }
            }
            if self.has_ended() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn perform(&mut self, fault: Fault, pause: Duration) {
        let mut head_at = None;
        match fault {
            Fault::KillHead { back_after } => {
                self.kill_head();
                head_at = Some(Instant::now() + back_after);
            }
            Fault::StopHead { lasts } => {
                if let Some(head) = &self.head {
                    head.signal("STOP");
                    self.stopped.push((Instant::now() + lasts, head.id()));
                }
            }
            Fault::KillProcess { work } => {
                if let Some(process) = self.process(work) {
                    self.hit(process, "KILL");
                }
            }
            Fault::StopProcess { work, lasts } => {
                if let Some(process) = self.process(work) {
                    self.hit(process, "STOP");
                    self.stopped.push((Instant::now() + lasts, process));
                }
            }
            Fault::KillBoth { work, back_after } => {
                let process = self.process(work);
                self.kill_head();
                if let Some(process) = process {
                    self.hit(process, "KILL");
                }
                head_at = Some(Instant::now() + back_after);
            }
        }
        self.pass(pause, head_at);
    }
}

/// Runs an App under the faults of a seed until all its runs have succeeded, and checks its record.
pub(crate) fn adoption_under_faults(seed: u64) -> Result<(), Failed> {
    let directory = std::env::temp_dir().join(format!("fw-brood-{}-{seed}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    std::fs::write(directory.join("config.toml"), GRACE)?;
    let mut rng = Rng::new(seed ^ 0x62_726f_6f64);
    let mut den = Den::new(&directory);
    let (mut faults, began) = (BTreeMap::new(), Instant::now());
    let deadline = began + LIMIT;
    for _ in 0..FAULTS {
        if den.has_ended() {
            break;
        }
        let fault = fault(&mut rng);
        let name = format!("{fault:?}");
        *faults.entry(name.split(' ').next().unwrap_or_default().to_owned()).or_insert(0) += 1;
        den.perform(fault, rng.millis(50, 900));
    }
    while !den.has_ended() {
        assert!(Instant::now() < deadline, "seed {seed}: the App does not end");
        den.pass(Duration::from_millis(50), None);
    }
    let (code, lines) = den.head.take().expect("a head has ended").end();
    // A node that was not there at the end of the App waits for the next one.
    den.nodes.clear();
    let record = read(&directory);
    let wrong = check(&record, RUNS);
    let starts = record.iter().filter(|line| matches!(line.what, What::Start(_))).count();
    let (took, lines_of_record) = (began.elapsed().as_secs_f64(), record.len());
    println!("seed {seed}, {took:.0} s: {faults:?}, {starts} incarnations, {lines_of_record} lines");
    let processes: BTreeSet<_> =
        record.iter().filter(|line| line.path().is_some()).map(|line| line.process).collect();
    let left: Vec<_> = processes.into_iter().filter(|process| is_ours(*process)).collect();
    if code == Some(0) && wrong.is_empty() && left.is_empty() {
        std::fs::remove_dir_all(&directory)?;
        return Ok(());
    }
    left.iter().for_each(|process| signal(*process, "KILL"));
    let again =
        format!("FLOWRIGHT_CHAOS_SEED={seed} cargo test --features chaos-tests --test chaos adoption_");
    Err(format!(
        "seed {seed}, again by `{again}`: exit code {code:?}, processes left: {left:?}, {wrong:#?}; the record is in {}; \
         the head said {lines:#?}",
        directory.display()
    )
    .into())
}

/// Returns true for a process of this program that has not ended.
fn is_ours(process: u32) -> bool {
    let this = std::fs::read_link("/proc/self/exe");
    let that = std::fs::read_link(format!("/proc/{process}/exe"));
    matches!((this, that), (Ok(this), Ok(that)) if this == that)
}

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("adoption::good_record_is_accepted", good_record_is_accepted),
    ("adoption::each_rule_finds_its_violation", each_rule_finds_its_violation),
];

/// A record of one Work with two runs, whose process is hit in the second.
const GOOD: &[&str] = &[
    "7 start w",
    "7 begin w 1",
    "7 step w 1",
    "7 step w 2",
    "7 durable w 2",
    "7 end w 1",
    "7 begin w 2",
    "7 step w 3",
    "7 hit",
    "8 start w",
    "8 begin w 2",
    "8 step w 3",
    "8 end w 2",
];

fn judged(lines: &[&str]) -> Vec<String> {
    let parse = |(at, line): (usize, &&str)| Line::parse(&format!("{at} {line}")).expect("it is a line");
    check(&lines.iter().enumerate().map(parse).collect::<Vec<_>>(), 2)
}

fn good_record_is_accepted() {
    assert_eq!(judged(GOOD), Vec::<String>::new());
}

fn each_rule_finds_its_violation() {
    let changed = |at: usize, line: &'static str| {
        let mut lines = GOOD.to_vec();
        lines.insert(at, line);
        lines
    };
    for (lines, rule) in [
        (changed(11, "7 step w 4"), "not the last one"),
        (changed(4, "7 start w"), "second incarnation"),
        (changed(4, "7 begin w 1"), "begins a run twice"),
        (changed(13, "8 begin w 1"), "out of its turn"),
        (changed(11, "8 step w 2"), "durable state was lost"),
        (changed(3, "7 step w 9"), "state was lost"),
        (changed(4, "7 end w 2"), "not begun"),
        (GOOD.iter().copied().filter(|line| *line != "7 hit").collect(), "was not hit"),
        (GOOD[..GOOD.len() - 1].to_vec(), "have not ended"),
    ] {
        let wrong = judged(&lines);
        assert!(wrong.iter().any(|wrong| wrong.contains(rule)), "{rule}: {wrong:?} in {lines:?}");
    }
}
