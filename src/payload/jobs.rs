//! Threads for what blocks: large pulls, and what is read from disk.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::fence;

/// So many at once; others wait their turn. Each of them fills the machine's memory bus as it is.
const AT_ONCE: usize = 4;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    threads: usize,
}

static JOBS: Mutex<Jobs> = Mutex::new(Jobs { waiting: VecDeque::new(), threads: 0 });

fn lock() -> MutexGuard<'static, Jobs> {
    JOBS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `job` on a thread as soon as one of few is free. Without any thread at all it is dropped.
pub(super) fn run(job: impl FnOnce() + Send + 'static) {
    let mut jobs = lock();
    jobs.waiting.push_back(Box::new(job));
    if jobs.threads == AT_ONCE {
        return;
    }
    jobs.threads += 1;
    drop(jobs);
    if std::thread::Builder::new().name("flowright-pull".to_owned()).spawn(work).is_err() {
        let mut jobs = lock();
        jobs.threads -= 1;
        if jobs.threads == 0 {
            let dropped = std::mem::take(&mut jobs.waiting);
            drop(jobs);
            drop(dropped);
        }
    }
}

/// Lives while there is something to do.
fn work() {
    loop {
        let job = {
            let mut jobs = lock();
            match jobs.waiting.pop_front() {
                Some(job) => job,
                None => {
                    jobs.threads -= 1;
                    return;
                }
            }
        };
        // Whoever waits for it finds its end of the channel dropped.
        let _ = fence::call(job);
    }
}
