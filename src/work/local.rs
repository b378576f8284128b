//! The host for Works of this process: a thread for one Work, or a pool of threads for many.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use actix_rt::{Arbiter, ArbiterHandle, System, SystemRunner};
use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::task::LocalSet;

use super::work_type::{LaunchSpec, Task};
use super::{Host, HostError, Placement, Resources};
use crate::runtime::{self, Runtime};

/// Host for Works in this process: those of the pool run on arbiters of the current actix System, others on threads of
/// their own. All threads that it starts belong to its App.
pub(crate) struct LocalHost {
    runtime: Arc<Runtime>,
    pool: Vec<PoolThread>,
    pool_size: usize,
    next: usize,
    inline: bool,
    /// Closed when this host is dropped, which ends the remaining threads.
    alive: watch::Sender<()>,
}

struct PoolThread {
    arbiter: ArbiterHandle,
    /// True if this host started the thread and stops it. A shared thread also runs actors of others.
    is_own: bool,
    /// Tasks gathered for one message to the thread, because starting many Works is common and each message may have to
    /// wake the thread.
    launched: Vec<Task>,
}

impl LocalHost {
    /// Creates a host with at most `pool_size` pool threads, which are started on demand.
    pub(crate) fn new(runtime: Arc<Runtime>, pool_size: usize) -> Self {
        let alive = watch::Sender::new(());
        Self { runtime, pool: Vec::new(), pool_size: pool_size.max(1), next: 0, inline: false, alive }
    }

    /// Creates a host that runs all Works on the calling thread, whatever their placement, so that a test controls one
    /// clock.
    pub(crate) fn inline(runtime: Arc<Runtime>) -> Self {
        let mut host = Self::new(runtime, 1);
        host.inline = true;
        host
    }

    /// Makes `arbiter` the first thread of the pool. The caller still owns it: dropping this host does not stop it.
    pub(crate) fn share(&mut self, arbiter: ArbiterHandle) {
        self.pool.insert(0, PoolThread { arbiter, is_own: false, launched: Vec::new() });
    }

    /// Makes the arbiter of the calling thread the first thread of the pool.
    pub(crate) fn share_current(&mut self) {
        self.share(Arbiter::current());
    }

    /// Starts a thread that ends with the task. Not an arbiter, because the actix System keeps an entry of every
    /// arbiter.
    ///
    /// # Errors
    /// The error of the system, if the runtime or the thread could not be created.
    fn start_thread(&self, task: Task) -> io::Result<()> {
        // Built before the thread starts, so that an error reaches the caller.
        let runtime = tokio_runtime(&self.runtime)?;
        let of = self.runtime.clone();
        let mut alive = self.alive.subscribe();
        std::thread::Builder::new().name("flowright-work".to_owned()).spawn(move || {
            runtime::belong(of);
            let done = async {
                tokio::select! {
                    biased;
                    () = task() => {}
                    // Completes only when the sender is dropped: nothing is ever sent.
                    _ = alive.changed() => {}
                }
            };
            LocalSet::new().block_on(&runtime, done);
            // Does not wait for blocking calls on other threads of this runtime.
            runtime.shutdown_background();
        })?;
        Ok(())
    }
}

/// Creates a tokio runtime for one thread. The threads for blocking calls that it starts belong to the App.
fn tokio_runtime(of: &Arc<Runtime>) -> io::Result<tokio::runtime::Runtime> {
    let of = of.clone();
    Builder::new_current_thread().enable_all().on_thread_start(move || runtime::belong(of.clone())).build()
}

/// Starts an arbiter of the current actix System, whose thread belongs to the App.
///
/// # Errors
/// The error of the system if the thread or its tokio runtime could not be created.
pub(crate) fn start_arbiter(of: &Arc<Runtime>) -> io::Result<Arbiter> {
    let tokio = of.clone();
    let start = || Arbiter::try_with_tokio_rt(move || tokio_runtime(&tokio));
    let started = catch_unwind(AssertUnwindSafe(start));
    let arbiter = started.unwrap_or_else(|_| Err(io::Error::other("no actix System runs here")))?;
    let of = of.clone();
    arbiter.spawn_fn(move || runtime::belong(of));
    Ok(arbiter)
}

/// Creates the actix System of a thread that belongs to the App.
pub(crate) fn start_system(of: &Arc<Runtime>) -> SystemRunner {
    let of = of.clone();
    System::with_tokio_rt(move || tokio_runtime(&of).expect("the system provides a runtime for one thread"))
}

impl Host for LocalHost {
    fn launch(&mut self, placement: &Placement, _: Resources, what: LaunchSpec) -> Result<(), HostError> {
        let path = what.path.clone();
        let path = &path;
        let task = what.into_task(self.runtime.clone());
        match placement {
            Placement::Thread | Placement::Pool if self.inline => {
                actix_rt::spawn(task());
            }
            Placement::Process | Placement::Node(_) => {
                let why = "this App runs on one thread, for tests".to_owned();
                return Err(HostError::NoProcess { path: path.to_string(), why });
            }
            Placement::Thread => {
                self.start_thread(task).map_err(|error| HostError::no_thread(path, &error))?;
            }
            Placement::Pool => {
                if self.pool.len() < self.pool_size {
                    let started = start_arbiter(&self.runtime);
                    let arbiter = started.map_err(|error| HostError::no_thread(path, &error))?.handle();
                    self.pool.push(PoolThread { arbiter, is_own: true, launched: Vec::new() });
                }
                let threads = self.pool.len();
                self.pool[self.next % threads].launched.push(task);
                self.next = self.next.wrapping_add(1);
            }
        }
        Ok(())
    }

    fn flush(&mut self) {
        for PoolThread { arbiter, launched, .. } in &mut self.pool {
            if launched.is_empty() {
                continue;
            }
            let tasks = std::mem::take(launched);
            arbiter.spawn_fn(move || {
                for task in tasks {
                    actix_rt::spawn(task());
                }
            });
        }
    }
}

impl Drop for LocalHost {
    fn drop(&mut self) {
        for thread in self.pool.iter().filter(|thread| thread.is_own) {
            thread.arbiter.stop();
        }
    }
}
