//! Running as PID 1, the first process of a container.
//!
//! PID 1 becomes the parent of every orphaned process and has to reap it, or it remains a zombie. The runtime and
//! users' code wait for child processes of their own and would miss a status that is reaped elsewhere. PID 1 therefore
//! does nothing but reap: it starts the program again as its only child, as `tini` does, forwards signals to it, and
//! exits with its exit code.

use std::io::{self, stdin};
use std::os::unix::process::CommandExt;
use std::process::{Child, ExitCode};

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpgrp, kill_process, wait};
use rustix::termios::{tcgetpgrp, tcsetpgrp};
use tokio::signal::unix::{SignalKind, signal};

use super::signals::Signals;
use crate::program::this_program;

/// The exit code of a process killed by a signal, less the number of the signal, as in shells.
const BY_SIGNAL: i32 = 128;

/// Runs the program as a child when this process is PID 1, and returns its exit code; `None` otherwise.
pub(crate) fn run_as_init() -> Option<ExitCode> {
    if std::process::id() != 1 {
        return None;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let code = runtime.and_then(|runtime| runtime.block_on(supervise()));
    match code {
        Ok(code) => Some(ExitCode::from(code)),
        Err(error) => {
            eprintln!(
                "warning: this is PID 1, and processes that lose their parents will not be reaped: {error}"
            );
            None
        }
    }
}

async fn supervise() -> io::Result<u8> {
    // Installed before the child starts, so that its end is not missed.
    let mut ended = signal(SignalKind::child())?;
    let mut ends = Signals::catch()?;
    let others = [
        (SignalKind::quit(), Signal::QUIT),
        (SignalKind::user_defined1(), Signal::USR1),
        (SignalKind::user_defined2(), Signal::USR2),
    ];
    let [mut quit, mut first, mut second] = {
        let [quit, first, second] = others.map(|(kind, _)| signal(kind));
        [quit?, first?, second?]
    };
    let program = start()?;
    let pid = Pid::from_child(&program);
    loop {
        let passed_on = tokio::select! {
            _ = ended.recv() => {
                if let Some(code) = reap(pid)? {
                    return Ok(code);
                }
                continue;
            }
            name = ends.next() => match name {
                "Ctrl-C" => Signal::INT,
                "SIGHUP" => Signal::HUP,
                _ => Signal::TERM,
            },
            _ = quit.recv() => Signal::QUIT,
            _ = first.recv() => Signal::USR1,
            _ = second.recv() => Signal::USR2,
        };
        // The child may just have ended.
        let _ = kill_process(pid, passed_on);
    }
}

/// Starts the program again in a process group of its own and gives that group the terminal, so that Ctrl-C signals the
/// program once.
fn start() -> io::Result<Child> {
    let program = this_program()?.args(std::env::args_os().skip(1)).process_group(0).spawn()?;
    if tcgetpgrp(stdin()).is_ok_and(|group| group == getpgrp())
        && let Err(error) = tcsetpgrp(stdin(), Pid::from_child(&program))
    {
        eprintln!("warning: Ctrl-C of this terminal does not reach the App: {error}");
    }
    Ok(program)
}

/// Reaps all children that have ended. Returns the exit code of the program once it has.
fn reap(program: Pid) -> io::Result<Option<u8>> {
    let mut code = None;
    while let Some((pid, status)) = wait(WaitOptions::NOHANG)? {
        if pid == program {
            code = Some(exit_code(status));
            // `wait` fails when there is no child left.
            break;
        }
    }
    Ok(code)
}

fn exit_code(status: WaitStatus) -> u8 {
    let by_signal = || status.terminating_signal().map(|signal| BY_SIGNAL + signal);
    let code = status.exit_status().or_else(by_signal).unwrap_or(1);
    u8::try_from(code & 0xff).unwrap_or(1)
}
