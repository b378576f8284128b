//! The process group of a Work's process, which ends with that process.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, getpgrp, getpid, getppid, kill_current_process_group, kill_process_group,
};
use tokio::io::unix::AsyncFd;
use tokio::process::Child;

/// The process group of which a child is the leader: all processes that the child has started and that have not left
/// the group. Dropping the value kills every process in it.
///
/// The value has to be dropped before the child is reaped: until then, no other process or group can have the same id.
pub(super) struct ProcessGroup {
    leader: Pid,
    /// The pidfd of the child, which reports its end without reaping it; `None` if the system has none.
    ended: Option<AsyncFd<OwnedFd>>,
}

impl ProcessGroup {
    /// Returns the group of a child that was started as a group leader and has not been reaped.
    pub(super) fn of(child: &Child) -> Option<Self> {
        let leader = i32::try_from(child.id()?).ok().and_then(Pid::from_raw)?;
        Some(Self { leader, ended: watch(leader) })
    }

    /// Waits until the child has ended.
    ///
    /// # Cancel safety
    /// The future may be dropped, and the method called again.
    pub(super) async fn leader_ended(&self, child: &mut Child) {
        match &self.ended {
            // Becomes readable once the process has ended; this cannot fail.
            Some(ended) => drop(ended.readable().await),
            // This reaps the child: its id is free for a moment before the group is killed.
            None => drop(child.wait().await),
        }
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        match kill_process_group(self.leader, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => log::warn!("processes that a Work has started may still run: {error}"),
        }
    }
}

#[cfg(target_os = "linux")]
#[allow(
    deprecated,
    reason = "the replacement is newer than the oldest supported tokio; an `OwnedFd` stays the same"
)]
fn watch(process: Pid) -> Option<AsyncFd<OwnedFd>> {
    let descriptor = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty()).ok()?;
    AsyncFd::new(descriptor).ok()
}

#[cfg(not(target_os = "linux"))]
fn watch(_: Pid) -> Option<AsyncFd<OwnedFd>> {
    None
}

/// Time that the process of a head may live on after its connections have closed.
const LAST_STEPS: Duration = Duration::from_secs(5);

/// The parent of this process at the time of construction.
#[derive(Clone, Copy)]
pub(crate) struct Parent(Option<Pid>);

impl Parent {
    pub(crate) fn current() -> Self {
        Self(getppid())
    }

    /// Kills the process group of this process, itself included, if the head that has started it is gone and cannot do
    /// so.
    ///
    /// A live head notices the end of the process, and reports how it ended. The head is the parent of the group
    /// leader.
    pub(crate) fn end_group_of_orphan(self) {
        let limit = Instant::now() + LAST_STEPS;
        while getppid() == self.0 && getpid() == getpgrp() {
            if Instant::now() > limit {
                return;
            }
            // The connections of a process close a moment before it has ended.
            std::thread::sleep(Duration::from_millis(1));
        }
        if let Err(error) = kill_current_process_group(Signal::KILL) {
            log::debug!("processes that the Work has started may still run: {error}");
        }
    }
}
