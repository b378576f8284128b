//! Commands that query and control a running App over its HTTP API.
//!
//! Exit codes: 0 on success, 1 when the command failed (no App, no such Work, refused), and 2 for wrong usage. Results
//! go to stdout, errors to stderr.

mod act;
mod api;
mod args;
mod error;
#[cfg(feature = "remote")]
mod fleet;
mod logs;
mod model;
mod past;
mod show;
mod table;
#[cfg(feature = "top")]
mod top;
mod tree;
mod watch;

use std::process::ExitCode;
use std::sync::OnceLock;

pub(super) use self::args::Client;
use self::error::ClientError;
use crate::printable::{chain, lines};

/// The type of the root of this program's App; set once per process.
static PROGRAM: OnceLock<&'static str> = OnceLock::new();

fn program() -> &'static str {
    PROGRAM.get().copied().unwrap_or_default()
}

/// Runs a command against an App whose root has the type `program`.
pub(super) fn run(command: &Client, program: &'static str) -> ExitCode {
    PROGRAM.get_or_init(|| program);
    let done = match command {
        Client::Status(args) => watch::watched(&args.target, args.watch, show::status),
        Client::State(args) => watch::watched(&args.target, args.watch, |api, json| {
            tree::state(api, args.path.as_deref(), args.at.as_deref(), json)
        }),
        Client::History(args) => watch::once(&args.target, |api, json| past::history(api, args, json)),
        Client::Diff(args) => watch::once(&args.target, |api, json| past::diff(api, args, json)),
        Client::Why(args) => watch::once(&args.target, |api, json| past::why(api, args, json)),
        Client::Graph(target) => watch::once(target, tree::graph),
        Client::Nodes(target) => watch::once(target, show::nodes),
        Client::Payloads(target) => watch::once(target, show::payloads),
        Client::Topics(target) => watch::once(target, show::topics),
        Client::Runs(args) => {
            watch::once(&args.target, |api, json| show::runs(api, &args.work, args.limit, json))
        }
        Client::Logs(args) => logs::logs(args),
        Client::Ask(args) => act::ask(args),
        Client::Stop(args) => act::stop(args),
        Client::Start(args) => act::start(args),
        Client::Restart(args) => act::restart(args),
        Client::Resume(args) => act::resume(args),
        Client::Drain(args) => act::drain(args),
        Client::Rerun(args) => act::rerun(args),
        #[cfg(feature = "remote")]
        Client::Fleet(command) => fleet::run(command),
        #[cfg(feature = "top")]
        Client::Top(target) => top::top(target),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has closed the pipe, as `head` does.
        Err(ClientError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {}", lines(&chain(&error)));
            ExitCode::from(error.exit_code())
        }
    }
}
