//! The places of this process: a thread for one Work, or one of a few threads for many.

use std::panic::{AssertUnwindSafe, catch_unwind};

use actix_rt::{Arbiter, ArbiterHandle};
use futures::future::LocalBoxFuture;

use super::{Host, HostError, Ingredients, Placement, Resources};
use crate::id::ActorPath;

/// What can be sent to the thread where it is to live: an incarnation, or something else that stays there.
pub(crate) type Task = Box<dyn FnOnce() -> LocalBoxFuture<'static, ()> + Send>;

/// Hosts Works in this process, on arbiters of the current actix System.
pub(crate) struct LocalHost {
    pool: Vec<PoolThread>,
    pool_size: usize,
    next: usize,
    inline: bool,
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
        Self { pool: Vec::new(), pool_size: pool_size.max(1), next: 0, inline: false }
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
        catch_unwind(AssertUnwindSafe(Arbiter::new))
            .map_err(|_| HostError::NoThread { path: path.to_string() })
    }
}

impl Host for LocalHost {
    fn launch(&mut self, placement: &Placement, _: Resources, what: Ingredients) -> Result<(), HostError> {
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
                Self::arbiter(path)?.spawn_fn(move || {
                    actix_rt::spawn(async move {
                        task().await;
                        Arbiter::current().stop();
                    });
                });
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
