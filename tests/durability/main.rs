//! Apps that survive the death of their processes: killed, stopped, started as another version, started twice, and with
//! a full disk.
//!
//! The processes are this test binary, started again with [`process::VARIABLE`] set. The checkers share no code with the
//! crate, and read no journal.

mod belt;
mod breaker;
mod changes;
mod checker;
mod clocks;
mod crashes;
mod disks;
mod editions;
mod ends;
mod errand;
mod follower;
mod formats;
mod hoard;
#[path = "../chaos/http.rs"]
#[allow(dead_code, reason = "the other tests need more of it")]
mod http;
mod inputs;
mod journaled;
#[path = "../json_patch/mod.rs"]
mod json_patch;
mod kills;
mod laps;
mod locks;
mod numbers;
mod plan;
mod plant;
#[path = "../remote/process.rs"]
#[allow(dead_code, reason = "the other tests need more of it")]
mod process;
mod record;
mod rereact;
mod services;
mod values;
mod whims;

use std::path::Path;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

/// Lists tests as `module::function`. A test that is in no list is dead code, for which the compiler warns.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        pub(crate) const TESTS: &[(&str, fn())] = &[$((concat!(module_path!(), "::", stringify!($name)), $name)),*];
    };
}
pub(crate) use tests;

/// The arguments of an App with a journal in this directory.
pub(crate) fn journal(directory: &Path) -> [String; 2] {
    ["--journal".to_owned(), directory.display().to_string()]
}

fn main() -> ExitCode {
    if let Ok(program) = std::env::var(process::VARIABLE) {
        return match program.as_str() {
            "belt" | belt::SLOW => belt::main(),
            breaker::IN_FLOW | breaker::IN_WORK => breaker::main(),
            "plant" => plant::main(),
            "vault" => values::main(),
            "hoard" => hoard::main(),
            "errand" => errand::main(0, false),
            "errand_that_waits" => errand::main(0, true),
            "errand_that_fails_twice" => errand::main(2, false),
            edition => editions::run(edition)
                .or_else(|| inputs::run(edition))
                .or_else(|| clocks::run(edition))
                .or_else(|| journaled::run(edition))
                .or_else(|| laps::run(edition))
                .or_else(|| numbers::run(edition))
                .or_else(|| rereact::run(edition))
                .or_else(|| services::run(edition))
                .or_else(|| whims::run(edition))
                .unwrap_or_else(|| panic!("there is no program {edition}")),
        };
    }
    if let [_, command, name, directory] = &std::env::args().collect::<Vec<_>>()[..]
        && command == disks::CONDUCT
    {
        return disks::conduct(name, Path::new(directory));
    }
    let tests = [
        changes::TESTS,
        checker::tests::TESTS,
        clocks::TESTS,
        crashes::TESTS,
        disks::TESTS,
        ends::TESTS,
        formats::TESTS,
        inputs::TESTS,
        journaled::TESTS,
        laps::TESTS,
        locks::TESTS,
        numbers::TESTS,
        record::TESTS,
        rereact::TESTS,
        services::TESTS,
        values::TESTS,
    ]
    .concat();
    let mut trials: Vec<_> = tests
        .into_iter()
        .map(|(name, test)| {
            Trial::test(name.trim_start_matches("durability::"), move || {
                test();
                Ok(())
            })
        })
        .collect();
    trials.extend(disks::trials());
    trials.extend(
        kills::seeds().into_iter().map(|(seed, kills)| {
            Trial::test(format!("kills::seed_{seed}"), move || kills::kill(seed, kills))
        }),
    );
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
