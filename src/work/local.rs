//! The places of this process: a thread for one Work, or one of a few threads for many.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use actix_rt::{Arbiter, ArbiterHandle};
use futures::future::LocalBoxFuture;
use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::task::LocalSet;

use super::{Host, HostError, LaunchSpec, Placement, Resources};
use crate::id::ActorPath;

/// What can be sent to the thread where it is to live: an incarnation, or something else that stays there.
pub(crate) type Task = Box<dyn FnOnce() -> LocalBoxFuture<'static, ()> + Send>;

/// Hosts Works in this process: those of the pool on arbiters of the current actix System, others on threads of their own.
pub(crate) struct LocalHost {
    pool: Vec<PoolThread>,
    pool_size: usize,
    next: usize,
    inline: bool,
    /// Closed with this host, which ends the threads that are still there.
    alive: watch::Sender<()>,
}

struct PoolThread {
    arbiter: ArbiterHandle,
    /// Whether this host started the thread and stops it. A shared one carries more than this host's Works.
    is_own: bool,
    /// Sent as one, since to start many Works is common and each message to the thread may have to wake it.
    launched: Vec<Task>,
}

impl LocalHost {
    /// `pool_size` threads for pooled Works, started when the first one needs them.
    pub(crate) fn new(pool_size: usize) -> Self {
        let alive = watch::Sender::new(());
        Self { pool: Vec::new(), pool_size: pool_size.max(1), next: 0, inline: false, alive }
    }

    /// All Works on the calling thread, whatever their placement: one clock for everything.
    pub(crate) fn inline() -> Self {
        let mut host = Self::new(1);
        host.inline = true;
        host
    }

    /// Makes `arbiter` the first thread of the pool. It stays the caller's: dropping this host does not stop it.
    pub(crate) fn share(&mut self, arbiter: ArbiterHandle) {
        self.pool.insert(0, PoolThread { arbiter, is_own: false, launched: Vec::new() });
    }

    /// The same with the arbiter of the calling thread.
    pub(crate) fn share_current(&mut self) {
        self.share(Arbiter::current());
    }

    fn arbiter(path: &ActorPath) -> Result<Arbiter, HostError> {
        let started = catch_unwind(AssertUnwindSafe(Arbiter::try_new));
        let started = started.unwrap_or_else(|_| Err(io::Error::other("no actix System runs here")));
        started.map_err(|error| HostError::no_thread(path, &error))
    }

    /// Starts a thread that ends with the task. It is no arbiter: the System keeps something of each of those for ever.
    fn start_thread(&self, task: Task) -> io::Result<()> {
        // Before the thread, so that what goes wrong is told to the caller.
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let mut alive = self.alive.subscribe();
        std::thread::Builder::new().name("flowright-work".to_owned()).spawn(move || {
            let done = async {
                tokio::select! {
                    biased;
                    () = task() => {}
                    // Nothing is ever sent.
                    _ = alive.changed() => {}
                }
            };
            LocalSet::new().block_on(&runtime, done);
            // A call that blocks on another thread of this runtime is not waited for.
            runtime.shutdown_background();
        })?;
        Ok(())
    }
}

impl Host for LocalHost {
    fn launch(&mut self, placement: &Placement, _: Resources, what: LaunchSpec) -> Result<(), HostError> {
        let path = what.path.clone();
        let path = &path;
        let task = what.into_task();
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
                    let arbiter = Self::arbiter(path)?.handle();
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
