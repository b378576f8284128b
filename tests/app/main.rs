//! Whole Apps: inside other programs, over HTTP, and as processes with a command line.
//!
//! The processes are this test binary, started again with [`programs::VARIABLE`] set. The `main` of an App reads the
//! arguments of its process, which must not be those of a test harness; so this binary has its own `main`.

mod arguments;
mod clients;
mod commands;
mod elsewhere;
mod embedded;
mod http;
mod journal;
#[path = "../json_patch/mod.rs"]
mod json_patch;
mod numbers;
mod own_args;
mod process;
mod programs;
mod services;
mod spawned;
mod support;
mod terminal;
mod together;

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
    if let Ok(program) = std::env::var(programs::VARIABLE) {
        return programs::run(&program);
    }
    let tests = [
        arguments::TESTS,
        clients::TESTS,
        commands::TESTS,
        elsewhere::TESTS,
        embedded::TESTS,
        http::actions::TESTS,
        http::events::TESTS,
        http::logs::TESTS,
        http::server::TESTS,
        http::shown::TESTS,
        journal::TESTS,
        numbers::TESTS,
        own_args::TESTS,
        process::TESTS,
        services::TESTS,
        spawned::TESTS,
        terminal::TESTS,
        together::TESTS,
    ];
    let all = tests.concat();
    let trials = all.into_iter().map(|(name, test)| {
        Trial::test(name.trim_start_matches("app::"), move || {
            test();
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}
