//! Signals that end a process.
//!
//! # Guarantees
//! - SIGHUP ends an App and a node as SIGTERM does, unless it was ignored when the program started, as under `nohup`.
//! - The process of a Work ignores these signals, whoever sends them: its head stops the Work.

use std::future::pending;
use std::io;
use std::time::Duration;

use nix::sys::signal::{self as system, SigSet};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals within this time of the first count as the same one: `timeout` signals a process and its group, and a
/// service manager may signal all processes and then the main one.
pub(crate) const ONE_SIGNAL: Duration = Duration::from_millis(250);

/// Handlers for SIGINT, SIGTERM and SIGHUP, installed on creation.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// `None` when SIGHUP is ignored, or when that is unknown.
    hangup: Option<Signal>,
}

impl Signals {
    pub(crate) fn catch() -> io::Result<Self> {
        let hangup = match is_ignored(system::Signal::SIGHUP) {
            Some(false) => Some(signal(SignalKind::hangup())?),
            Some(true) | None => None,
        };
        let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        Ok(Self { interrupt, terminate, hangup })
    }

    /// Waits for the next signal and returns its name. Cancel safe.
    pub(crate) async fn next(&mut self) -> &'static str {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => "Ctrl-C",
            _ = self.terminate.recv() => "SIGTERM",
            _ = hangup => "SIGHUP",
        }
    }
}

/// Installs the handlers on a new runtime, which has to run for signals to be received.
pub(crate) fn catch() -> io::Result<(Runtime, Signals)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let signals = {
        let _within = runtime.enter();
        Signals::catch()?
    };
    Ok((runtime, signals))
}

/// Unblocks the signals that a head blocks when it starts the process of a Work. Called once their handlers are
/// installed.
pub(crate) fn unblock() {
    let ends: SigSet = [system::SIGINT, system::SIGTERM, system::SIGHUP].into_iter().collect();
    if let Err(error) = ends.thread_unblock() {
        log::debug!("SIGINT, SIGTERM and SIGHUP stay blocked: {error}");
    }
}

/// Returns true when this process ignores a signal; `None` when the system does not say.
fn is_ignored(signal: system::Signal) -> Option<bool> {
    ignores(&std::fs::read_to_string("/proc/self/status").ok()?, signal)
}

fn ignores(status: &str, signal: system::Signal) -> Option<bool> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    let mask = u64::from_str_radix(mask.trim(), 16).ok()?;
    Some(mask >> (signal as i32 - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mask of ignored signals has the first signal in its lowest bit.
    #[test]
    fn ignored_signals_are_read_from_the_status() {
        let status = |mask: &str| format!("Name:\ta\nSigIgn:\t{mask}\nSigCgt:\tffffffffffffffff\n");
        assert_eq!(ignores(&status("0000000000000001"), system::SIGHUP), Some(true));
        assert_eq!(ignores(&status("0000000000001000"), system::SIGHUP), Some(false));
        assert_eq!(ignores(&status("0000000000001000"), system::SIGPIPE), Some(true));
        assert_eq!(ignores(&status("nonsense"), system::SIGHUP), None);
        assert_eq!(ignores("", system::SIGHUP), None);
    }
}
