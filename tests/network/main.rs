//! A head and a node with a network of their own, which loses packets, is cut, and is slow; and other faults of a
//! machine: its clock, its disk, its memory.
//!
//! Each test creates and removes network namespaces: that takes root, `ip`, `tc` and `iptables`. A full disk and a
//! small memory take root as well, a PID namespace root and `unshare`, a wrong clock `faketime`. So these tests need
//! `--features network-tests`.

mod clocks;
mod container;
mod disk;
#[path = "../hangup/mod.rs"]
mod hangup;
#[path = "../remote/lab.rs"]
#[allow(dead_code, reason = "the other tests need more of it")]
mod lab;
mod memory;
#[path = "../remote/process.rs"]
#[allow(dead_code, reason = "the other tests need more of it")]
mod process;
#[path = "../remote/proxy.rs"]
#[allow(dead_code, reason = "the other tests need more of it")]
mod proxy;
#[path = "../remote/tokens.rs"]
#[allow(dead_code, reason = "the other tests need more of it")]
mod tokens;
mod wires;

use std::process::{Command, ExitCode};
use std::time::Duration;

use flowright::prelude::*;
use flowright::{Config, Selector};
use libtest_mimic::{Arguments, Trial};

use self::lab::{Lab, Suite, Task, clock};
use self::process::{LIMIT, Process, VARIABLE};

const NUMBERS: u32 = 20_000;

/// `b`, which is on the head, sends numbers to `a` on the node, and asks it for their sum again when the clock of the
/// head was set.
fn suite(grace: Duration) -> ExitCode {
    let config = Config::new().heartbeat(Duration::from_millis(200)).node_grace(grace);
    let make = || {
        let a = WorkRef::from(Lab::default()).placed(Placement::Node(Selector::name("n")));
        let b = WorkRef::from(Lab::default()).restart(Restart::on_failure().max(1000));
        let began = clock();
        let mut said = Vec::new();
        Suite::new(a, b, move |suite, cx| {
            let mut say = |now: String| {
                if said.last() != Some(&now) {
                    println!("{now}");
                    said.push(now);
                }
            };
            cx.wake_in(Duration::from_millis(100));
            let set_by = hours(clock(), began);
            say(format!("the clock here was set by {set_by:+} hours"));
            suite.a.run(Task::Serve);
            if suite.a.is_running() {
                let apart = hours(suite.a.clock, clock());
                say(format!("`a` serves, attempt {}, {apart:+} hours from here", suite.a.status().attempt));
                suite.b.run(Task::Send(suite.a.addr(), NUMBERS));
                if set_by != 0 {
                    suite.b.run(Task::Send(suite.a.addr(), 0));
                }
            }
            if let Some(sum) = suite.b.sum
                && suite.a.received.len() >= NUMBERS as usize
            {
                let in_order = suite.a.received.iter().copied().eq(0..NUMBERS);
                say(format!("the sum is {sum}, in order: {in_order}"));
            }
            Ok(())
        })
    };
    App::new(make).config(config).main()
}

/// The difference of two times in seconds.
fn hours(one: u64, other: u64) -> i64 {
    (one.abs_diff(other) + 1800) as i64 / 3600 * if one < other { -1 } else { 1 }
}

/// Starts this binary as the program [`suite`].
pub(crate) fn program(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("the path of the test binary is known"));
    command.args(arguments).env(VARIABLE, name).env("FLOWRIGHT_TOKEN", "a secret of some length");
    command
}

fn run(program: &str, arguments: &[&str]) {
    let done = Command::new(program).args(arguments).output();
    let done = done.unwrap_or_else(|error| panic!("{program} is needed for these tests, and root: {error}"));
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{program} {arguments:?} (these tests need root): {said}");
}

fn all_arrive(head: &mut Process) {
    let sum: u64 = (0..u64::from(NUMBERS)).sum();
    head.expect(&format!("the sum is {sum}, in order: true"));
    let is_again = head.seen.iter().any(|line| line.contains("attempt 2"));
    assert!(!is_again, "nothing was started again: {:#?}", head.seen);
}

fn main() -> ExitCode {
    match std::env::var(VARIABLE).as_deref() {
        Ok("way") => return wires::long_way(),
        Ok("container") => return container::parents(),
        Ok("patient") => return suite(Duration::from_secs(60)),
        Ok(_) => return suite(Duration::from_secs(4)),
        Err(_) => {}
    }
    hangup::handle_hangup();
    let tests =
        [wires::TESTS, clocks::TESTS, container::TESTS, disk::TESTS, memory::TESTS].concat().into_iter();
    let trials = tests.map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}
