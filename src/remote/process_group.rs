//! Process group of a Work's process, which ends with it.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, getpgrp, getpid, getppid, kill_current_process_group, kill_process_group,
};
use tokio::io::unix::AsyncFd;
use tokio::process::Child;

/// The process group that a child of this process leads, with all that it has started and that has not left the group.
/// Dropping this ends every process in it.
///
/// It has to be dropped before the exit status of the child is taken: until then no other process, and no other group, can have
/// the same id.
pub(super) struct ProcessGroup {
    leader: Pid,
    /// A descriptor of the child, by which its end is noticed without taking its status; `None` where the system has none.
    ended: Option<AsyncFd<OwnedFd>>,
}

impl ProcessGroup {
    /// That of a child which was started as the leader of a group and has not been waited for.
    pub(super) fn of(child: &Child) -> Option<Self> {
        let leader = i32::try_from(child.id()?).ok().and_then(Pid::from_raw)?;
        Some(Self { leader, ended: watch(leader) })
    }

    /// Waits until the child has ended.
    ///
    /// # Cancel safety
    /// It may be cancelled, and called again.
    pub(super) async fn leader_ended(&self, child: &mut Child) {
        match &self.ended {
            // It becomes readable once the process has ended, which never fails.
            Some(ended) => drop(ended.readable().await),
            // For a moment, the id is free then before the group is ended.
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
    reason = "what replaces it is newer than the tokio that this builds with; an `OwnedFd` stays the same"
)]
fn watch(process: Pid) -> Option<AsyncFd<OwnedFd>> {
    let descriptor = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty()).ok()?;
    AsyncFd::new(descriptor).ok()
}

#[cfg(not(target_os = "linux"))]
fn watch(_: Pid) -> Option<AsyncFd<OwnedFd>> {
    None
}

/// How long a head that is about to end may take from the end of its connections to its own.
const LAST_STEPS: Duration = Duration::from_secs(5);

/// The parent of this process, as it is when this is made.
#[derive(Clone, Copy)]
pub(crate) struct Parent(Option<Pid>);

impl Parent {
    pub(crate) fn current() -> Self {
        Self(getppid())
    }

    /// Ends the process group of this process, itself included, where the head that has started it is gone and cannot do so.
    ///
    /// A head that lives notices that the process has ended, and how. It is the parent of the leader of the group.
    pub(crate) fn end_group_of_orphan(self) {
        let limit = Instant::now() + LAST_STEPS;
        while getppid() == self.0 && getpid() == getpgrp() {
            if Instant::now() > limit {
                return;
            }
            // The connections of a process are closed a moment before it has ended.
            std::thread::sleep(Duration::from_millis(1));
        }
        if let Err(error) = kill_current_process_group(Signal::KILL) {
            log::debug!("processes that the Work has started may still run: {error}");
        }
    }
}
