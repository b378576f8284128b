//! Threads for blocking work: large transfers, and reading from disk.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::fence;
use crate::runtime::{self, Runtime};

/// Maximum number of jobs of an App that run at once; more are queued. One transfer alone can saturate the memory bus.
const AT_ONCE: usize = 4;

type Job = Box<dyn FnOnce() + Send>;

/// The jobs of an App, whose threads belong to it.
pub(super) struct Jobs {
    runtime: Weak<Runtime>,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Job>,
    threads: usize,
}

impl Jobs {
    pub(super) fn new(runtime: Weak<Runtime>) -> Arc<Self> {
        Arc::new(Self { runtime, queue: Mutex::default() })
    }

    /// Runs `job` on one of [`AT_ONCE`] threads, as soon as one is free. The job is dropped if no thread can be started
    /// and none is running.
    pub(super) fn run(self: &Arc<Self>, job: impl FnOnce() + Send + 'static) {
        let mut queue = self.queue.lock();
        queue.waiting.push_back(Box::new(job));
        if queue.threads == AT_ONCE {
            return;
        }
        queue.threads += 1;
        drop(queue);
        let jobs = self.clone();
        let thread = std::thread::Builder::new().name("flowright-pull".to_owned());
        if thread.spawn(move || jobs.work()).is_err() {
            let mut queue = self.queue.lock();
            queue.threads -= 1;
            if queue.threads == 0 {
                let dropped = std::mem::take(&mut queue.waiting);
                drop(queue);
                drop(dropped);
            }
        }
    }

    /// Runs queued jobs until the queue is empty; then the thread ends.
    fn work(&self) {
        if let Some(runtime) = self.runtime.upgrade() {
            runtime::belong(runtime);
        }
        loop {
            let job = {
                let mut queue = self.queue.lock();
                match queue.waiting.pop_front() {
                    Some(job) => job,
                    None => {
                        queue.threads -= 1;
                        return;
                    }
                }
            };
            // A panic drops the job's end of its channel, by which the waiting task learns that it failed.
            let _ = fence::call(job);
        }
    }
}
