//! Identity of a process on its machine, by which another process of that machine can prove that it has ended.
//!
//! # Guarantees
//! - [`ProcessId::has_ended`] is a proof. A refused or reset connection proves nothing about the process behind it, and
//!   neither does a process that this one is not allowed to inspect.

use std::fs;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

/// Interval at which a process that cannot be watched is checked for its end.
const CHECK: Duration = Duration::from_millis(200);

/// Identity of a process: machine, process id and start time, because process ids are reused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    /// Boot id of the kernel and PID namespace, in which alone `pid` identifies the process.
    machine: String,
    pid: u32,
    /// Start time in clock ticks since boot, as in `/proc/PID/stat`.
    started: u64,
}

impl ProcessId {
    /// Returns the identity of this process; `None` if the system does not provide it.
    pub(super) fn own() -> Option<Self> {
        Self::of(std::process::id())
    }

    /// Returns the identity of the process that has this id now; `None` if there is none, or the system does not provide
    /// it.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let Stat { started, .. } = Stat::of(pid)?;
        Some(Self { machine: machine()?.to_owned(), pid, started })
    }

    /// Returns true if it belongs to this machine as it has run since its start, and to this PID namespace.
    pub(super) fn is_of_this_machine(&self) -> bool {
        machine() == Some(&self.machine)
    }

    /// Returns the process id if no other process can have it: the process has not ended, or its id is unused.
    pub(super) fn unused_by_others(&self) -> Option<Pid> {
        let is_its_own = match Stat::of(self.pid) {
            Some(stat) => stat.started == self.started,
            None => true,
        };
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        pid.filter(|_| is_its_own && self.is_of_this_machine())
    }

    /// Waits until the process has provably ended.
    ///
    /// # Cancel safety
    /// The future may be dropped, and the method called again.
    pub(super) async fn end(&self) {
        if self.is_of_this_machine()
            && let Some(ended) = i32::try_from(self.pid).ok().and_then(Pid::from_raw).and_then(watch)
            && !self.has_ended()
        {
            // It is watched since before the check, so that this is the process and no other.
            let _ = ended.readable().await;
            return;
        }
        while !self.has_ended() {
            tokio::time::sleep(CHECK).await;
        }
    }

    /// Returns `true` if the process has provably ended: it belongs to this machine and PID namespace, and its id is
    /// unused, or is that of a process that has ended or has another start time.
    pub(super) fn has_ended(&self) -> bool {
        if !self.is_of_this_machine() {
            return false;
        }
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return false };
        if test_kill_process(pid) == Err(Errno::SRCH) {
            return true;
        }
        // A process that is hidden from this user is no proof.
        Stat::of(self.pid).is_some_and(|stat| stat.has_ended() || stat.started != self.started)
    }
}

/// Returns what becomes readable when the process with this id ends; `None` if the system has no such thing, or there is
/// no such process.
#[cfg(target_os = "linux")]
#[allow(
    deprecated,
    reason = "the replacement is newer than the oldest supported tokio; an `OwnedFd` stays the same"
)]
pub(super) fn watch(process: Pid) -> Option<AsyncFd<OwnedFd>> {
    let descriptor = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty()).ok()?;
    AsyncFd::new(descriptor).ok()
}

#[cfg(not(target_os = "linux"))]
pub(super) fn watch(_: Pid) -> Option<AsyncFd<OwnedFd>> {
    None
}

/// Returns boot id and PID namespace of this process.
fn machine() -> Option<&'static String> {
    static MACHINE: OnceLock<Option<String>> = OnceLock::new();
    let machine = MACHINE.get_or_init(|| {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
        Some(format!("{} {}", boot.trim(), namespace.display()))
    });
    machine.as_ref()
}

/// Returns `true` if the process is stopped by a signal (SIGSTOP, SIGTSTP) or by a debugger.
pub(super) fn is_stopped(pid: u32) -> bool {
    Stat::of(pid).is_some_and(|stat| matches!(stat.state, 'T' | 't'))
}

/// The fields of `/proc/PID/stat` that are used here.
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
        // The program name may contain spaces and parentheses.
        let fields: Vec<_> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        Some(Self {
            state: fields.first()?.chars().next()?,
            threads: fields.get(17)?.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
        })
    }

    /// Returns `true` for a zombie without other threads: the first thread of a process may end before the others.
    fn has_ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X') && self.threads <= 1
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    const STAT: &str = "71 (a (b) c) S 1 71 71 0 -1 4194560 900 0 0 0 250 50 0 0 20 0 9 0 9000 1000 200 1844";

    /// A process is a zombie until its parent reaps it, and gone afterwards: both count as ended.
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

    /// A stopped process is distinguished from a running one.
    #[test]
    fn stopped_child_is_stopped() {
        let mut child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
        assert!(!is_stopped(child.id()));
        let pid = Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        let limit = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !is_stopped(child.id()) {
            assert!(std::time::Instant::now() < limit, "a stopped child does not count as stopped");
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_stopped(child.id()));
    }

    /// A process of another machine, or of another PID namespace, is not judged by its id.
    #[test]
    fn process_elsewhere_is_not_judged() {
        let own = ProcessId::own().unwrap();
        assert!(!ProcessId { machine: "another".to_owned(), pid: u32::MAX, ..own.clone() }.has_ended());
        assert!(!ProcessId { pid: u32::MAX, ..own.clone() }.has_ended());
        // Its id belongs to another process now.
        assert!(ProcessId { started: own.started + 1, ..own }.has_ended());
    }

    /// A zombie whose other threads still run is alive.
    #[test]
    fn zombie_with_threads_is_alive() {
        assert_eq!(Stat::read(STAT).unwrap().started, 9000);
        assert!(!Stat::read(STAT).unwrap().has_ended());
        assert!(!Stat::read(&STAT.replace(" S ", " Z ")).unwrap().has_ended());
        assert!(Stat::read(&STAT.replace(" S ", " Z ").replace("20 0 9", "20 0 1")).unwrap().has_ended());
        assert!(Stat::read("no such thing").is_none());
    }
}
