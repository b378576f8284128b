//! Identity of a process on its machine, which lets another process of that machine prove that it has ended.
//!
//! # Guarantees
//! - [`ProcessId::has_ended`] is a proof: a connection that is refused or reset says nothing about the process behind
//!   it, and neither does a process that this one is not allowed to look at.

use std::fs;
use std::sync::OnceLock;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};

/// Identity of a process: where process ids mean the same, its id, and when it started, since ids are used again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    /// Boot id of the kernel and PID namespace: only there is `pid` this process.
    machine: String,
    pid: u32,
    /// Start time in clock ticks since the boot, as `/proc/PID/stat` has it.
    started: u64,
}

impl ProcessId {
    /// That of this process; `None` where the system does not tell.
    pub(super) fn own() -> Option<Self> {
        let pid = std::process::id();
        let Stat { started, .. } = Stat::of(pid)?;
        Some(Self { machine: machine()?.to_owned(), pid, started })
    }

    /// Whether it is proved that the process has ended: it is of this machine and this PID namespace, and no process
    /// has its id, or one that has ended or started at another time.
    pub(super) fn has_ended(&self) -> bool {
        if machine() != Some(&self.machine) {
            return false;
        }
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return false };
        if test_kill_process(pid) == Err(Errno::SRCH) {
            return true;
        }
        // It may be hidden from this user, which is no proof.
        Stat::of(self.pid).is_some_and(|stat| stat.has_ended() || stat.started != self.started)
    }
}

/// Boot id and PID namespace of this process.
fn machine() -> Option<&'static String> {
    static MACHINE: OnceLock<Option<String>> = OnceLock::new();
    let machine = MACHINE.get_or_init(|| {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
        Some(format!("{} {}", boot.trim(), namespace.display()))
    });
    machine.as_ref()
}

/// Whether the process was stopped by a signal (SIGSTOP, SIGTSTP), or by a debugger.
pub(super) fn is_stopped(pid: u32) -> bool {
    Stat::of(pid).is_some_and(|stat| matches!(stat.state, 'T' | 't'))
}

/// What `/proc/PID/stat` says of a process.
struct Stat {
    state: char,
    threads: u32,
    started: u64,
}

impl Stat {
    fn of(pid: u32) -> Option<Self> {
        Self::read(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn read(text: &str) -> Option<Self> {
        // The name of the program may contain spaces and parentheses.
        let fields: Vec<_> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        Some(Self {
            state: fields.first()?.chars().next()?,
            threads: fields.get(17)?.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
        })
    }

    /// Whether it is a zombie of which no thread is left: the first thread of a process may end before the others.
    fn has_ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X') && self.threads <= 1
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    const STAT: &str = "71 (a (b) c) S 1 71 71 0 -1 4194560 900 0 0 0 250 50 0 0 20 0 9 0 9000 1000 200 1844";

    /// A process is a zombie until its parent has asked for its end, and gone afterwards: both are its end.
    #[test]
    fn child_that_was_killed_has_ended() {
        let mut child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
        let own = ProcessId::own().unwrap();
        let started = Stat::of(child.id()).unwrap().started;
        let id = ProcessId { pid: child.id(), started, ..own.clone() };
        assert!(!own.has_ended());
        assert!(!id.has_ended());
        child.kill().unwrap();
        let limit = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !id.has_ended() {
            assert!(std::time::Instant::now() < limit, "the zombie of a killed process counts as alive");
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(id.has_ended());
    }

    /// A process that was stopped is told from one that runs.
    #[test]
    fn stopped_child_is_stopped() {
        let mut child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
        assert!(!is_stopped(child.id()));
        let pid = Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        let limit = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !is_stopped(child.id()) {
            assert!(std::time::Instant::now() < limit, "it is not seen to have stopped");
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_stopped(child.id()));
    }

    /// An id says nothing about a process of another machine, or of another PID namespace of this one.
    #[test]
    fn process_elsewhere_is_not_judged() {
        let own = ProcessId::own().unwrap();
        assert!(!ProcessId { machine: "another".to_owned(), pid: u32::MAX, ..own.clone() }.has_ended());
        assert!(!ProcessId { pid: u32::MAX, ..own.clone() }.has_ended());
        // Another process has the id of one that has ended.
        assert!(ProcessId { started: own.started + 1, ..own }.has_ended());
    }

    /// A zombie whose other threads run on is alive.
    #[test]
    fn zombie_with_threads_is_alive() {
        assert_eq!(Stat::read(STAT).unwrap().started, 9000);
        assert!(!Stat::read(STAT).unwrap().has_ended());
        assert!(!Stat::read(&STAT.replace(" S ", " Z ")).unwrap().has_ended());
        assert!(Stat::read(&STAT.replace(" S ", " Z ").replace("20 0 9", "20 0 1")).unwrap().has_ended());
        assert!(Stat::read("no such thing").is_none());
    }
}
