//! The process group of a Work's process, which ends with that process, whichever head has started it.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, getpgrp, getpid, getppid, kill_current_process_group, kill_process_group,
};
use tokio::io::unix::AsyncFd;
use tokio::process::Child;

use super::process_id::{ProcessId, watch};

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
        kill_group(self.leader);
    }
}

/// The process group of a process that an earlier head has started. It is left alone when the value is dropped, since a
/// head may fail to start, and another one follow.
pub(super) struct KeptGroup(ProcessId);

impl KeptGroup {
    /// Returns the group whose leader is this process; `None` if the process has ended. Its id may belong to a group of
    /// others then.
    pub(super) fn of(leader: ProcessId) -> Option<Self> {
        (!leader.has_ended()).then_some(Self(leader))
    }

    /// Waits until the leader has ended.
    ///
    /// # Cancel safety
    /// The future may be dropped, and the method called again.
    pub(super) async fn leader_ended(&self) {
        self.0.end().await;
    }

    /// Kills every process in the group, unless its id may belong to another group by now.
    pub(super) fn kill(self) {
        // As long as the group has a process, no other process or group can have its id.
        if let Some(leader) = self.0.unused_by_others() {
            kill_group(leader);
        }
    }
}

fn kill_group(leader: Pid) {
    match kill_process_group(leader, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(error) => log::warn!("processes that a Work has started may still run: {error}"),
    }
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
