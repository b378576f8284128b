//! Threads for blocking work: large transfers, and reading from disk.

use std::collections::VecDeque;

use parking_lot::Mutex;

use crate::fence;

/// Maximum number of jobs that run at once; more are queued. One transfer alone can saturate the memory bus.
const AT_ONCE: usize = 4;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    threads: usize,
}

static JOBS: Mutex<Jobs> = Mutex::new(Jobs { waiting: VecDeque::new(), threads: 0 });

/// Runs `job` on one of [`AT_ONCE`] threads, as soon as one is free. The job is dropped if no thread can be started
/// and none is running.
pub(super) fn run(job: impl FnOnce() + Send + 'static) {
    let mut jobs = JOBS.lock();
    jobs.waiting.push_back(Box::new(job));
    if jobs.threads == AT_ONCE {
        return;
    }
    jobs.threads += 1;
    drop(jobs);
    if std::thread::Builder::new().name("flowright-pull".to_owned()).spawn(work).is_err() {
        let mut jobs = JOBS.lock();
        jobs.threads -= 1;
        if jobs.threads == 0 {
            let dropped = std::mem::take(&mut jobs.waiting);
            drop(jobs);
            drop(dropped);
        }
    }
}

/// Runs queued jobs until the queue is empty; then the thread ends.
fn work() {
    loop {
        let job = {
            let mut jobs = JOBS.lock();
            match jobs.waiting.pop_front() {
                Some(job) => job,
                None => {
                    jobs.threads -= 1;
                    return;
                }
            }
        };
        // A panic drops the job's end of its channel, by which the waiting task learns that it failed.
        let _ = fence::call(job);
    }
}
