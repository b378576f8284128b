//! The waker with which the future of a Work is polled.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

/// Waker of the task of one Work, whose clones are counted: each belongs to a future of the Work that something may wake.
pub(in crate::work) struct TaskWaker {
    task: Waker,
    /// True if it was used since the last poll began: the Work may go on without a clone that is left.
    is_woken: AtomicBool,
}

impl TaskWaker {
    pub(in crate::work) fn new(task: &Waker) -> Arc<Self> {
        Arc::new(Self { task: task.clone(), is_woken: AtomicBool::new(false) })
    }

    /// Returns the waker of the task, whose clones are not counted.
    pub(in crate::work) fn task(&self) -> &Waker {
        &self.task
    }

    /// Notes that a poll begins.
    pub(in crate::work) fn begin_poll(&self) {
        self.is_woken.store(false, Ordering::Release);
    }

    /// Returns true if the waker was used since the last poll began.
    pub(in crate::work) fn is_woken(&self) -> bool {
        self.is_woken.load(Ordering::Acquire)
    }

    /// Returns true if `waker` is a clone of this one.
    pub(in crate::work) fn is(self: &Arc<Self>, waker: &Waker) -> bool {
        std::ptr::eq(waker.data(), Arc::as_ptr(self).cast())
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_woken.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Future, poll_fn};
    use std::pin::pin;
    use std::task::{Context, Poll};

    use futures::future::{join, select};
    use tokio::sync::{Notify, mpsc, oneshot};

    use super::*;

    /// Returns the number of clones that a future has kept, which was polled once and is pending.
    fn kept(future: impl Future) -> usize {
        let task = TaskWaker::new(Waker::noop());
        let waker = Waker::from(task.clone());
        let mut future = pin!(future);
        assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        Arc::strong_count(&task) - 2
    }

    /// Every future that something may wake keeps a clone, within combinators too, and one that was polled with the waker
    /// of the task keeps none.
    #[tokio::test]
    async fn pending_futures_keep_clones() {
        let (_sender, receiver) = oneshot::channel::<()>();
        assert_eq!(kept(receiver), 1);
        let (notify, (_tell, mut told)) = (Notify::new(), mpsc::channel::<()>(1));
        assert_eq!(kept(notify.notified()), 1);
        assert_eq!(kept(tokio::time::sleep(std::time::Duration::from_secs(9))), 1);
        assert_eq!(kept(std::future::pending::<()>()), 0);
        let (_sender, mut receiver) = oneshot::channel::<()>();
        let task = Waker::noop();
        let mut uncounted = pin!(poll_fn(|_| pin!(&mut receiver).poll(&mut Context::from_waker(task))));
        assert_eq!(kept(&mut uncounted), 0);
        let told = pin!(told.recv());
        assert_eq!(kept(select(uncounted, told)), 1);
        assert_eq!(kept(join(notify.notified(), notify.notified())), 2);
        let many = futures::future::join_all((0..100).map(|_| notify.notified()));
        assert!(kept(many) >= 1, "those of a set share one");
    }

    /// A clone is known as one, and wakes the task.
    #[test]
    fn clones_wake_the_task() {
        let (task, woken) = futures_waker();
        let counted = TaskWaker::new(&task);
        let waker = Waker::from(counted.clone());
        assert!(counted.is(&waker) && counted.is(&waker.clone()) && !counted.is(&task));
        assert!(!TaskWaker::new(&task).is(&waker));
        counted.begin_poll();
        assert!(!counted.is_woken());
        waker.wake_by_ref();
        assert!(counted.is_woken());
        counted.begin_poll();
        waker.wake();
        assert!(counted.is_woken());
        assert_eq!((woken(), Arc::strong_count(&counted)), (2, 1));
    }

    fn futures_waker() -> (Waker, impl Fn() -> usize) {
        struct Count(std::sync::atomic::AtomicUsize);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }
        let count = Arc::new(Count(Default::default()));
        let woken = count.clone();
        (Waker::from(count), move || woken.0.load(std::sync::atomic::Ordering::Relaxed))
    }

    /// A future that is dropped or has ended keeps nothing.
    #[tokio::test]
    async fn ended_futures_keep_nothing() {
        let task = TaskWaker::new(Waker::noop());
        let waker = Waker::from(task.clone());
        let mut cx = Context::from_waker(&waker);
        let (sender, receiver) = oneshot::channel::<()>();
        let mut receiver = Box::pin(receiver);
        assert!(receiver.as_mut().poll(&mut cx).is_pending());
        sender.send(()).unwrap();
        assert_eq!(receiver.as_mut().poll(&mut cx), Poll::Ready(Ok(())));
        drop(receiver);
        let mut sleep = Box::pin(tokio::time::sleep(std::time::Duration::from_secs(9)));
        assert!(sleep.as_mut().poll(&mut cx).is_pending());
        drop(sleep);
        assert_eq!(Arc::strong_count(&task), 2);
    }
}
