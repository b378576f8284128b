//! Nodes, and Apps that accept them.

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{Config, Placement};

use crate::held::children_of;
use crate::lab::{Lab, Stranger, Suite, Task};
use crate::process::LIMIT;
pub(crate) use crate::process::{Process, VARIABLE, signal};

pub(crate) fn run(program: &str) -> ExitCode {
    match program {
        "suite" => App::new(|| {
            let on_node = |name: &str| {
                let placement = name.parse().expect("the placement is valid");
                WorkRef::from(Lab::default()).placed(placement)
            };
            Suite::new(on_node("n"), on_node("thread"), |suite, _| {
                suite.a.run(Task::Serve);
                Ok(())
            })
        })
        .main(),
        "pair" => App::new(|| {
            let pooled = lab("m/pool".parse().expect("the placement is valid"));
            Suite::new(lab(node("n")), pooled, |suite, _| {
                suite.b.run(Task::Serve);
                if !suite.b.is_running() {
                    return Ok(());
                }
                let a = suite.a.run(Task::Send(suite.b.addr(), 100)).finished()?;
                log::warn!("the sum is {}", a.sum.unwrap_or_default());
                Ok(())
            })
        })
        .main(),
        // A program whose `a` is restarted when it fails.
        "ring" => App::new(crate::deadlocks::ring).main(),
        "restarts" => App::new(|| {
            let restart = Restart::on_failure().max(5).backoff(Duration::ZERO..Duration::ZERO);
            Suite::new(lab(Placement::Process).restart(restart), lab(Placement::Thread), |suite, _| {
                suite.a.run(Task::Serve);
                Ok(())
            })
        })
        .main(),
        #[cfg(feature = "journal")]
        "hands" => crate::adopted::hands().main(),
        #[cfg(feature = "journal")]
        "shelves" => crate::payloads::adopted::shelves().main(),
        "snares" => crate::fences::snares().main(),
        "crowd" => crate::addresses::crowd().main(),
        "family" => App::new(crate::groups::family).process(crate::groups::around).main(),
        // A program whose nodes give each other up late.
        "patient" => App::new(serve).config(times(500, 600_000)).main(),
        "gpus" => crate::gpus::program_with_two(),
        "files" => crate::files::program(),
        "finds" => App::new(crate::finds::kinds).main(),
        "fleet" => crate::fleet::program_with_a_fleet().main(),
        "line" => crate::replaced::line().main(),
        "payloads" => crate::payloads::program(),
        "outputs" => crate::outputs::program(),
        "kinds" => App::new(crate::services::kinds).main(),
        "rolling" => App::new(crate::services::rolling).main(),
        "vault" => App::new(crate::local_messages::vault).main(),
        "queue" => crate::waiting::queue().main(),
        "steps" => crate::steps::program(),
        "stranger" => App::new(Stranger::default).main(),
        other => panic!("there is no program {other}"),
    }
}

/// A command that runs this binary as another program.
pub(crate) fn program(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("the path of the test binary is known"));
    command.env(VARIABLE, name).env_remove("FLOWRIGHT_TOKEN");
    command
}

/// Starts an App that accepts nodes and starts this binary for Works with processes of their own. Its heartbeat and
/// grace period are long enough for a busy machine.
pub(crate) fn start(make: impl FnOnce() -> Suite + Send + 'static) -> TestApp {
    start_with(times(500, 30_000), make)
}

/// A configuration with this heartbeat interval and grace period, in milliseconds.
pub(crate) fn times(heartbeat: u64, grace: u64) -> Config {
    Config::new().heartbeat(Duration::from_millis(heartbeat)).node_grace(Duration::from_millis(grace))
}

pub(crate) fn start_with(config: Config, make: impl FnOnce() -> Suite + Send + 'static) -> TestApp {
    start_at("127.0.0.1:0", config, make)
}

/// Starts an App that listens at this address.
pub(crate) fn start_at(
    listen: &str,
    config: Config,
    make: impl FnOnce() -> Suite + Send + 'static,
) -> TestApp {
    start_tolerant(app_at(listen, config, make))
}

fn app_at(listen: &str, config: Config, make: impl FnOnce() -> Suite + Send + 'static) -> App {
    App::new(make).listen(listen).process(|| Ok(program("suite"))).config(config)
}

/// Starts an App as [`start`] does, with what `adapt` adds.
pub(crate) fn start_app_with(
    make: impl FnOnce() -> Suite + Send + 'static,
    adapt: impl FnOnce(App) -> App,
) -> TestApp {
    start_tolerant(adapt(app_at("127.0.0.1:0", times(500, 30_000), make)))
}

/// Starts an App in which a `Task` of the lab may ask for a panic.
fn start_tolerant(app: App) -> TestApp {
    TestApp::start_app(app).limit(LIMIT).expect_panic("it panics").expect_panic("the handler panics")
}

/// The address at which nodes join; the unspecified address is replaced by the loopback one.
pub(crate) fn joining(app: &TestApp) -> String {
    app.status().listening.expect("the head accepts nodes").replace("0.0.0.0", "127.0.0.1")
}

/// A Flow that runs `Serve` on the node `n`; the other Work is in this process.
pub(crate) fn serve() -> Suite {
    Suite::new(lab(node("n")), lab(Placement::Thread), |suite, _| {
        suite.a.run(Task::Serve);
        Ok(())
    })
}

/// Waits until `a` is pending with a message that contains `part`.
#[track_caller]
pub(crate) fn waits_with(app: &TestApp, part: &str) {
    app.wait_for_work("a", |a| {
        a.status.stage == Stage::Pending
            && a.status.message.as_deref().is_some_and(|message| message.contains(part))
    });
}

/// An address at which no process listens, on a loopback address of this process's own: on 127.0.0.1 another process
/// may get the port meanwhile.
pub(crate) fn free_address() -> String {
    let [_, first, second, third] = std::process::id().to_be_bytes();
    let own = std::net::Ipv4Addr::new(127, 1 + first % 128, second, third);
    let free = std::net::TcpListener::bind((own, 0)).and_then(|free| free.local_addr());
    free.expect("there is a free port").to_string()
}

/// Polls until `is_so` is true.
#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "it has to come, and has not: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Starts a head as a process, at this address: `a` is on the node `n`.
pub(crate) fn head(address: &str, arguments: &[&str]) -> Process {
    let mut command = program("suite");
    command.args(["--open-ui=false", "--without-server", "--listen", address]).args(arguments);
    Process::start(command)
}

impl Process {
    /// Starts a node that joins at `address`.
    pub(crate) fn node(address: &str, name: &str) -> Self {
        Self::node_with(address, name, &[])
    }

    pub(crate) fn node_with(address: &str, name: &str, arguments: &[&str]) -> Self {
        Self::node_of("suite", address, name, arguments)
    }

    pub(crate) fn node_of(program_name: &str, address: &str, name: &str, arguments: &[&str]) -> Self {
        let mut command = program(program_name);
        command.args(["node", "--join", address, "--name", name]).args(arguments);
        Self::start(command)
    }
}

/// The first child process of another process.
pub(crate) fn child_of(process: &Process) -> u32 {
    let mut child = None;
    until("a process that it starts", || {
        child = children_of(process.id()).first().copied();
        child.is_some()
    });
    child.expect("the loop above has set it")
}

/// Waits until a process has ended.
pub(crate) fn until_gone(process: u32) {
    until("its end", || has_ended(process));
}

/// Returns true if a process has ended, also if it was not reaped and is still listed.
pub(crate) fn has_ended(process: u32) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    text.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with('Z'))
}

/// Runs a test with the two Works in each pair of places: in this process, in processes of their own, and on nodes.
/// Starts the nodes `m` and `n` where they are needed.
pub(crate) fn wherever_it_runs(test: impl Fn(&dyn Fn(Make) -> Lodged)) {
    wherever_it_runs_with(|app| app, test);
}

/// Runs a test as [`wherever_it_runs`] does, with what `adapt` adds to each App.
pub(crate) fn wherever_it_runs_with(adapt: impl Fn(App) -> App, test: impl Fn(&dyn Fn(Make) -> Lodged)) {
    for (a, b) in [
        ("thread", "pool"),
        ("process", "process"),
        ("m", "n"),
        ("m/pool", "m/pool"),
        ("thread", "n/pool"),
        ("process", "n"),
    ] {
        test(&|make: Make| {
            let places =
                [a.parse().expect("the placement is valid"), b.parse().expect("the placement is valid")];
            let app = start_app_with(move || make(places), &adapt);
            let address = joining(&app);
            let wanted = |name: &str| [a, b].iter().any(|place| place.trim_end_matches("/pool") == name);
            let nodes = ["m", "n"].into_iter().filter(|name| wanted(name));
            let nodes = nodes.map(|name| Process::node(&address, name)).collect();
            Lodged { app, nodes, places: (a, b) }
        });
    }
}

/// A function that makes the Flow, with its Works placed there.
pub(crate) type Make = Box<dyn FnOnce([Placement; 2]) -> Suite + Send>;

/// An App and its nodes.
pub(crate) struct Lodged {
    pub(crate) app: TestApp,
    #[expect(dead_code, reason = "they live as long as this")]
    pub(crate) nodes: Vec<Process>,
    /// Text for failed assertions.
    pub(crate) places: (&'static str, &'static str),
}

pub(crate) fn lab(placement: Placement) -> WorkRef<Lab> {
    WorkRef::from(Lab::default()).placed(placement)
}

pub(crate) fn node(name: &str) -> Placement {
    Placement::Node(flowright::Selector::name(name))
}
