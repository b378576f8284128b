//! Works in other processes: the same behaviour wherever they run, and the consequences of failing processes.
//!
//! Nodes and processes are this test binary, started again with [`support::VARIABLE`] set; so it has its own `main`.
//! Each test runs in a process of its own as well; see [`apart`].

mod addresses;
#[cfg(feature = "journal")]
mod adopted;
mod advertised;
mod apart;
mod certificates;
mod connections;
mod dead_letters;
mod deadlocks;
mod faults;
mod fences;
mod files;
mod finds;
mod fleet;
mod gpus;
mod groups;
#[path = "../hangup/mod.rs"]
mod hangup;
mod held;
mod http_caller;
mod lab;
mod leaks;
mod leaving;
mod local_messages;
mod outputs;
mod payloads;
mod peers;
mod places;
mod priority;
mod process;
mod processes;
mod proxy;
mod replaced;
mod services;
mod steps;
mod strangers;
mod streams;
mod support;
mod tokens;
mod topics;
#[cfg(feature = "journal")]
mod twins;
mod waiting;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

/// Lists tests as `module::function`. A test that is in no list is dead code, for which the compiler warns.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        pub(crate) const TESTS: &[(&str, fn())] = &[$((concat!(module_path!(), "::", stringify!($name)), $name)),*];
    };
}
pub(crate) use tests;

fn main() -> ExitCode {
    if let Ok(program) = std::env::var(support::VARIABLE) {
        return support::run(&program);
    }
    hangup::handle_hangup();
    let all = [
        addresses::TESTS,
        #[cfg(feature = "journal")]
        adopted::TESTS,
        advertised::TESTS,
        certificates::TESTS,
        connections::TESTS,
        dead_letters::TESTS,
        deadlocks::TESTS,
        faults::TESTS,
        fences::TESTS,
        files::TESTS,
        finds::TESTS,
        fleet::TESTS,
        #[cfg(feature = "journal")]
        fleet::WITH_JOURNAL,
        gpus::TESTS,
        groups::TESTS,
        leaks::TESTS,
        leaving::TESTS,
        #[cfg(feature = "journal")]
        leaving::recorded::TESTS,
        local_messages::TESTS,
        outputs::TESTS,
        #[cfg(feature = "journal")]
        payloads::adopted::TESTS,
        payloads::breaks::TESTS,
        payloads::departures::TESTS,
        payloads::lives::TESTS,
        payloads::reads::TESTS,
        payloads::room::TESTS,
        peers::TESTS,
        places::TESTS,
        priority::TESTS,
        processes::TESTS,
        replaced::TESTS,
        services::TESTS,
        steps::TESTS,
        strangers::TESTS,
        streams::TESTS,
        topics::TESTS,
        waiting::TESTS,
        #[cfg(feature = "journal")]
        twins::TESTS,
    ]
    .concat()
    .into_iter();
    let mut all = all.map(|(name, test)| (name.trim_start_matches("remote::"), test));
    if let Ok(wanted) = std::env::var(apart::VARIABLE) {
        let (_, test) = all.find(|(name, _)| *name == wanted).expect("the name is that of a test");
        return apart::run(test);
    }
    let trials = all.map(|(name, _)| Trial::test(name, move || apart::start(name)));
    let mut arguments = Arguments::from_args();
    // Each test starts processes of its own.
    arguments.test_threads.get_or_insert(2);
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}
