//! SIGKILL at random moments: in start-up, in recovery, and while the program works.
//!
//! `FLOWRIGHT_KILLS` is the number of kills, `FLOWRIGHT_KILLS_SEED` the first of the two seeds.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use libtest_mimic::Failed;
use serde_json::{Value as Json, json};

use crate::checker::{Checker, FORGOTTEN, Hold, OPERATED, REPEATED, Source};
use crate::follower::follow;
use crate::http::{Answer, Api};
use crate::process::{LIMIT, Process, VARIABLE};
use crate::{plant, record};

/// Default number of kills of all seeds together.
const KILLS: u64 = 100;
/// Number of programs that are killed at the same time: most of their lives is waiting.
const SEEDS: u64 = 2;
/// Time limit for an answer.
const ANSWER: Duration = Duration::from_secs(20);

/// Returns the seeds and the number of kills of each.
pub(crate) fn seeds() -> Vec<(u64, u64)> {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(
            text.parse::<u64>()
                .unwrap_or_else(|_| panic!("{name} has to be a whole number, and is `{text}`")),
        )
    };
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let first = number("FLOWRIGHT_KILLS_SEED").unwrap_or(time.as_micros() as u64 % 1_000_000);
    let kills = number("FLOWRIGHT_KILLS").unwrap_or(KILLS);
    (first..first + SEEDS).map(|seed| (seed, kills.div_ceil(SEEDS))).collect()
}

/// A generator of random numbers (SplitMix64).
struct Rng(u64);

impl Rng {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) % limit
    }

    fn between(&mut self, least: u64, limit: u64) -> u64 {
        least + self.below(limit - least)
    }
}

/// When a process is killed.
#[derive(Debug, Clone, Copy)]
enum Kill {
    /// After this time, or when the App is served.
    InStart(Duration),
    /// This long after the App was served.
    InWork(Duration),
}

/// One program that is killed again and again.
struct Stage {
    directory: PathBuf,
    /// The same in all lives, so that a client does not have to read it from the output.
    address: (Ipv4Addr, u16),
    checker: Mutex<Checker>,
    last_position: u64,
    /// The time that the last App took until it was served.
    start_time: Duration,
    served: u64,
}

impl Stage {
    fn new(seed: u64) -> Self {
        let directory = std::env::temp_dir().join(format!("fw-durability-{}-{seed}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("the directory for temporary files can be written");
        // An address of this process's own, so that nobody else takes the port while the program is down.
        let [_, first, second, third] = std::process::id().to_be_bytes();
        let own = Ipv4Addr::new(127, 1 + first % 120, second, third.max(1));
        let free = TcpListener::bind((own, 0)).and_then(|free| free.local_addr());
        let port = free.expect("there is a free port").port();
        let checker = Mutex::new(Checker::new());
        Self {
            directory,
            address: (own, port),
            checker,
            last_position: 0,
            start_time: Duration::from_secs(1),
            served: 0,
        }
    }

    fn record(&self) -> PathBuf {
        self.directory.join("record")
    }

    fn quiet(&self) -> PathBuf {
        self.directory.join("quiet")
    }

    fn start(&self) -> Process {
        let (host, port) = self.address;
        let mut command =
            Command::new(std::env::current_exe().expect("the path of the test binary is known"));
        command.env(VARIABLE, "plant").env_remove("RUST_LOG");
        command.env(record::VARIABLE, self.record()).env(plant::QUIET, self.quiet());
        command.args(["--open-ui=false", "--host", &host.to_string(), "--port", &port.to_string()]);
        command.args(crate::journal(&self.directory.join("journal")));
        Process::start(command)
    }

    fn checker(&self) -> MutexGuard<'_, Checker> {
        self.checker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn api(&self) -> Api {
        let (api, (host, port)) = (Api::new(), self.address);
        api.set_address(Some(format!("{host}:{port}")));
        api
    }

    /// Sees all that the program shows until the process is dead.
    fn watch(&self, is_dead: &AtomicBool, seen: impl Fn(&Json)) {
        let (host, port) = self.address;
        while !is_dead.load(Ordering::Relaxed) {
            let followed = follow(&format!("{host}:{port}"), |document| {
                self.checker().see(document);
                seen(document);
            });
            if followed.is_err() {
                // It does not listen yet, or no more.
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }

    /// Asks and commands at random until the process is dead.
    fn operate(&self, is_dead: &AtomicBool, mut rng: Rng) {
        let api = self.api();
        while !is_dead.load(Ordering::Relaxed) {
            let answered = match rng.below(20) {
                0 => self.repeat(&api, "rerun", REPEATED, rng.below(1_000)),
                1 => self.repeat(&api, "forget", FORGOTTEN, rng.below(1_000)),
                2 => self.hold(&api, "stop", Hold::Held),
                3 | 4 => self.hold(&api, "start", Hold::Free),
                5..8 => self.status(&api),
                _ => {
                    let paths = [REPEATED, "alone", "captured", FORGOTTEN, "below.chain", "below.beater"];
                    let path = paths[rng.below(paths.len() as u64) as usize];
                    self.runs(&api, path)
                }
            };
            let pause = if answered { rng.between(1, 30) } else { 2 };
            std::thread::sleep(Duration::from_millis(pause));
        }
    }

    fn repeat(&self, api: &Api, action: &str, path: &str, nth: u64) -> bool {
        let Some(input) = self.checker().succeeded_input(path, nth as usize) else { return true };
        let request = self.checker().repeat_is_sent(path, input, record::now());
        match api.post(&format!("api/v1/works/{path}/{action}"), Some(&json!({"input": input})), ANSWER) {
            Answer::Status(202, _) => self.checker().repeat_is_acknowledged(request),
            answer => return self.is_down(&answer),
        }
        true
    }

    fn hold(&self, api: &Api, action: &str, hold: Hold) -> bool {
        self.checker().operator_sends(record::now());
        match api.post(&format!("api/v1/works/{OPERATED}/{action}"), None, ANSWER) {
            Answer::Status(202, _) => self.checker().operator_is_answered(hold),
            answer => return self.is_down(&answer),
        }
        true
    }

    fn status(&self, api: &Api) -> bool {
        // The two answers are of two moments.
        for path in ["state", "status"] {
            let document: Json = match api.get(&format!("api/v1/{path}"), ANSWER) {
                Answer::Status(200, body) => serde_json::from_str(&body).expect("the API answers JSON"),
                answer => return self.is_down(&answer),
            };
            match path {
                "state" => self.checker().see_state(Source::Answers, &document["state"]),
                _ => self.checker().see_works(Source::Answers, &document["works"]),
            }
        }
        true
    }

    fn runs(&self, api: &Api, path: &str) -> bool {
        match api.get(&format!("api/v1/works/{path}/runs?per_page=200"), ANSWER) {
            Answer::Status(200, body) => {
                let page = serde_json::from_str(&body).expect("the API answers JSON");
                self.checker().see_runs(record::now(), path, &page);
                true
            }
            answer => self.is_down(&answer),
        }
    }

    /// Only a dead process, or one that does not run yet, refuses.
    fn is_down(&self, answer: &Answer) -> bool {
        if let Answer::Status(status, body) = answer
            && !matches!(status, 409 | 503)
        {
            self.checker().violation(format!("the API answered {status}: {body}"));
        }
        false
    }

    /// One life, from the start of the process to a SIGKILL.
    fn live(&mut self, kill: Kill, rng: Rng) {
        self.checker().life_begins(record::now());
        let began = Instant::now();
        let process = self.start();
        let id = process.id();
        let is_dead = AtomicBool::new(false);
        let (sender, shown) = std::sync::mpsc::channel();
        let served = std::thread::scope(|scope| {
            let (stage, is_dead) = (&*self, &is_dead);
            let watching = scope.spawn(move || {
                let first = |_: &Json| {
                    // The receiver is gone once it has one.
                    let _ = sender.send(began.elapsed());
                };
                stage.watch(is_dead, first)
            });
            scope.spawn(move || stage.operate(is_dead, rng));
            let served = match kill {
                Kill::InStart(time) => shown.recv_timeout(time).ok(),
                Kill::InWork(time) => {
                    let served = shown.recv_timeout(LIMIT).ok();
                    std::thread::sleep(time);
                    served
                }
            };
            crate::process::signal(id, "KILL");
            is_dead.store(true, Ordering::Relaxed);
            watching.join().expect("the follower does not panic");
            served
        });
        let (code, lines) = process.end();
        if code.is_some() {
            self.checker().violation(format!("the process has ended by itself with {code:?}"));
        }
        match served {
            Some(time) => {
                self.start_time = time;
                self.served += 1;
            }
            None if matches!(kill, Kill::InWork(_)) => {
                self.checker().violation(format!("the App has shown nothing: {lines:#?}"));
            }
            None => {}
        }
        self.check_output(&lines, "unclean");
    }

    /// Checks the log of one life.
    fn check_output(&mut self, lines: &[String], end: &str) {
        for line in lines.iter().filter(|line| line.contains("panicked at") || line.contains("ERROR")) {
            self.checker().violation(format!("the log says {line:?}: {lines:#?}"));
        }
        let Some(line) = lines.iter().find(|line| line.contains("resumed at position")) else { return };
        let position = line.split("position ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
        let position = position.unwrap_or_default();
        if position < self.last_position || !line.contains(&format!("after {}", an(end))) {
            let last = self.last_position;
            self.checker().violation(format!("{line:?}, after a position {last} and {}", an(end)));
        }
        self.last_position = position;
    }

    /// A life without a kill: waits until nothing is left to do, ends the App in good order, and returns the last
    /// document.
    fn live_to_the_end(&mut self, before: &str, rng: Rng) -> Option<Json> {
        self.checker().life_begins(record::now());
        let process = self.start();
        let (is_dead, is_quiet) = (AtomicBool::new(false), AtomicBool::new(self.quiet().exists()));
        let (sender, last) = std::sync::mpsc::channel();
        let document = std::thread::scope(|scope| {
            let (stage, is_dead, is_quiet) = (&*self, &is_dead, &is_quiet);
            scope.spawn(move || {
                stage.watch(is_dead, |document| {
                    if !is_quiet.load(Ordering::Relaxed) && has_done_much(&document["state"]) {
                        is_quiet.store(true, Ordering::Relaxed);
                        std::fs::write(stage.quiet(), "").expect("the directory can be written");
                    }
                    if is_idle(document) {
                        // The receiver is gone once it has one.
                        let _ = sender.send(document.clone());
                    }
                })
            });
            scope.spawn(move || stage.operate(is_quiet, rng));
            let document = last.recv_timeout(LIMIT).ok();
            process.signal(if document.is_some() { "TERM" } else { "KILL" });
            is_dead.store(true, Ordering::Relaxed);
            is_quiet.store(true, Ordering::Relaxed);
            document
        });
        let (code, lines) = process.end();
        if document.is_none() || code != Some(0) {
            self.checker().violation(format!("the App did not end well: {code:?} {lines:#?}"));
        }
        self.check_output(&lines, before);
        document
    }
}

/// Returns true once everything that the program can do has happened.
fn has_done_much(state: &Json) -> bool {
    let reached = |value: &Json, least: u64| value.as_u64() >= Some(least);
    let below = &state["below"];
    reached(&state["wave"], 4)
        && reached(&state["ticks"], 2)
        && reached(&below["link"], 20)
        && reached(&below["repeats"], 1)
}

/// Returns true if nothing waits or runs.
fn is_idle(document: &Json) -> bool {
    let works = document["works"].as_object().into_iter().flatten();
    document["state"]["is_over"] == true
        && works.clone().count() > 0
        && works
            .filter(|(path, _)| *path != OPERATED)
            .all(|(_, work)| work["runs"]["waiting"] == 0 && work["current"].is_null())
}

/// Kills a program `kills` times.
pub(crate) fn kill(seed: u64, kills: u64) -> Result<(), Failed> {
    let again =
        format!("FLOWRIGHT_KILLS_SEED={seed} FLOWRIGHT_KILLS={} cargo test --test durability", kills * SEEDS);
    println!("seed {seed}: again by `{again}`");
    let began = Instant::now();
    let mut rng = Rng(seed);
    let mut stage = Stage::new(seed);
    let mut done = 0;
    while done < kills && stage.checker().violations().is_empty() {
        let kill = match rng.below(10) {
            // The program starts and recovers.
            0..4 => Kill::InStart(stage.start_time.mul_f64(rng.below(1_000) as f64 / 900.0)),
            4..9 => Kill::InWork(Duration::from_micros(rng.below(500_000))),
            _ => Kill::InWork(Duration::from_micros(rng.below(1_500_000))),
        };
        let operator = Rng(rng.below(u64::MAX));
        stage.live(kill, operator);
        done += 1;
    }
    let mut last = Json::Null;
    if stage.checker().violations().is_empty() {
        last = end(&mut stage).unwrap_or_default();
    }
    let lines = record::read(&stage.record());
    let state = &last["state"];
    let (shown, served, position) = (stage.checker().shown, stage.served, stage.last_position);
    println!(
        "seed {seed}, {:.0} s: {done} kills, {served} of them of an App that served; {shown} documents shown, {} lines of \
         bodies, position {position}; wave {}, link {}, {} numbers, {} ticks, {} beats",
        began.elapsed().as_secs_f64(),
        lines.len(),
        state["wave"],
        state["below"]["link"],
        state["asked"],
        state["ticks"],
        state["below"]["beats"],
    );
    let checker = stage.checker();
    if checker.violations().is_empty() {
        let _ = std::fs::remove_dir_all(&stage.directory);
        return Ok(());
    }
    let violations = checker.violations().join("\n- ");
    Err(format!("what it left is in {}; again by `{again}`\n- {violations}", stage.directory.display())
        .into())
}

/// Lets the program finish, and checks the whole of it. Returns the last document.
fn end(stage: &mut Stage) -> Option<Json> {
    let last = stage.live_to_the_end("unclean", Rng(1))?;
    let lines = record::read(&stage.record());
    {
        let mut checker = stage.checker();
        checker.check_end(&last);
        checker.check_record(&lines);
        checker.check_repeats_are_done(&lines);
    }
    // An App that is started again with nothing to do shows the same, and does nothing.
    let same = stage.live_to_the_end("clean", Rng(1))?;
    let mut checker = stage.checker();
    if same["state"] != last["state"] {
        checker
            .violation(format!("after a clean end it shows {}\ninstead of {}", same["state"], last["state"]));
    }
    for (path, work) in last["works"].as_object().into_iter().flatten() {
        if same["works"][path]["runs"] != work["runs"] {
            let (before, after) = (&work["runs"], &same["works"][path]["runs"]);
            checker
                .violation(format!("after a clean end the runs of {path} are {after} instead of {before}"));
        }
    }
    let begun = record::read(&stage.record());
    if let Some(line) = begun[lines.len()..].iter().find(|line| line.what == record::What::Begin) {
        checker.violation(format!("{line:?} when all had ended"));
    }
    Some(last)
}

/// Returns a kind of end with its article.
fn an(end: &str) -> String {
    if end == "clean" { format!("a {end} end") } else { format!("an {end} end") }
}
