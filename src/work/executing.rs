//! The Work that is executing on this thread.
//!
//! A thread-local tells code without a context who is calling: log lines get the path and run of their Work, and a Work
//! that would wait for its own mailbox is told so.

use std::any::TypeId;
use std::cell::RefCell;
use std::future::poll_fn;
use std::mem::{self, ManuallyDrop};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use super::caller::{AnswerTo, Caller, StreamCaller};
use super::cycles::task_waker::TaskWaker;
use super::cycles::{AskId, SlowAsk};
use super::dead_letters::{DeadLetters, SenderId};
use super::run_markers::mark;
use super::streamed::Streamed;
use crate::id::{ActorPath, AppId};
use crate::runtime;

/// A Work while its code executes.
pub(super) struct ExecutingWork {
    app: AppId,
    path: ActorPath,
    run: Option<u64>,
    /// The number of the Work as a sender of messages, once it has sent one.
    sender: Option<SenderId>,
    /// True while a handler or `on_stop` executes: no message is taken from the mailbox meanwhile.
    is_handling: bool,
    /// The caller of the ask whose handler executes.
    caller: Option<Box<dyn Caller>>,
    /// Number of futures of the Work that take messages from its mailbox when polled.
    serving: usize,
    /// Futures of the Work that wait for its mailbox to be served.
    want_service: Vec<Arc<Service>>,
    /// The waker with which the Work is polled.
    task: Option<Arc<TaskWaker>>,
    /// The slow ask that the Work awaits while it takes no messages, and whether this poll has polled it.
    slow: Weak<SlowAsk>,
    has_polled_slow: bool,
}

/// Request of a Work's own future, which makes progress only if the Work serves its mailbox.
struct Service {
    is_refused: AtomicBool,
    waker: Waker,
}

impl ExecutingWork {
    pub(super) fn new(app: AppId, path: ActorPath) -> Self {
        Self {
            app,
            path,
            run: None,
            sender: None,
            is_handling: false,
            caller: None,
            serving: 0,
            want_service: Vec::new(),
            task: None,
            slow: Weak::new(),
            has_polled_slow: false,
        }
    }
}

thread_local! {
    /// The Work that is executing. A thread has one at its end only if code of the Work ends the process, by `process::exit`.
    /// It is not dropped then: to tell the caller of a handler that there is no reply wakes tasks, which takes thread-locals
    /// that are gone by then, and would abort the process.
    static EXECUTING: ManuallyDrop<RefCell<Option<Box<ExecutingWork>>>> =
        const { ManuallyDrop::new(RefCell::new(None)) };
}

/// Calls `look` with the Work that is executing on this thread, if there is one.
fn with_work<R>(look: impl FnOnce(&mut ExecutingWork) -> R) -> Option<R> {
    // Inaccessible when a destructor of a thread logs.
    EXECUTING.try_with(|executing| executing.borrow_mut().as_deref_mut().map(look)).ok().flatten()
}

/// Polls code of a Work, which is the executing one of this thread meanwhile. `poll` must not panic.
pub(super) fn poll_as<R>(work: &mut Option<Box<ExecutingWork>>, poll: impl FnOnce() -> R) -> R {
    let before = EXECUTING.with(|executing| executing.replace(work.take()));
    let polled = poll();
    *work = EXECUTING.with(|executing| executing.replace(before));
    answer_who_wants_service(work.as_deref_mut());
    polled
}

/// Sets the waker with which a Work is polled, while its code does not execute.
pub(super) fn set_task(work: &mut Option<Box<ExecutingWork>>, task: &Arc<TaskWaker>) {
    if let Some(work) = work {
        work.task = Some(task.clone());
    }
}

/// Returns the slow ask that the last poll of a Work has polled, with the path of the Work and the question that it handles.
pub(super) fn take_slow_ask(
    work: &mut Option<Box<ExecutingWork>>,
) -> Option<(Arc<SlowAsk>, &ActorPath, Option<AskId>)> {
    let work = work.as_mut()?;
    if !mem::take(&mut work.has_polled_slow) {
        return None;
    }
    Some((work.slow.upgrade()?, &work.path, work.caller.as_ref().and_then(|caller| caller.ask())))
}

/// Notes that an ask is polled that has waited for a while. Returns the waker of the task of the Work that executes, if its
/// own code polls the ask while it takes no messages, and awaits no other such ask.
pub(super) fn polls_slow_ask(slow: &Arc<SlowAsk>, waker: &Waker) -> Option<Waker> {
    let task = with_work(|work| {
        let task = work.task.as_ref().filter(|task| task.is(waker))?;
        if !work.is_handling && work.serving > 0 {
            return None;
        }
        if work.slow.upgrade().is_some_and(|other| !Arc::ptr_eq(&other, slow)) {
            return None;
        }
        work.slow = Arc::downgrade(slow);
        work.has_polled_slow = true;
        Some(task.task().clone())
    });
    let task = task.flatten();
    match &task {
        Some(task) => slow.polled_by(task),
        None => slow.polled_elsewhere(),
    }
    task
}

/// Returns the path of the Work that is executing on this thread, and the number of its current run.
pub(crate) fn current_run() -> Option<(ActorPath, Option<u64>)> {
    with_work(|work| (work.path.clone(), work.run))
}

/// Returns the number of the Work that is executing on this thread, as the sender of a message.
pub(super) fn current_sender() -> SenderId {
    let sender = with_work(|work| work.sender.ok_or_else(|| work.path.clone()));
    match sender {
        None => SenderId::OUTSIDE,
        Some(Ok(sender)) => sender,
        Some(Err(path)) => {
            let Ok(runtime) = runtime::current() else { return SenderId::UNKNOWN };
            let sender = DeadLetters::of(&runtime).sender(&path);
            change(|work| work.sender = Some(sender));
            sender
        }
    }
}

/// Tells waiting futures of the Work whether its mailbox is served, after a poll that left the Work waiting.
fn answer_who_wants_service(work: Option<&mut ExecutingWork>) {
    let Some(work) = work.filter(|work| !work.want_service.is_empty()) else { return };
    for service in work.want_service.drain(..) {
        service.is_refused.store(work.serving == 0, Ordering::Release);
        service.waker.wake_by_ref();
    }
}

/// Returns true if code of the Work at this path is executing on this thread.
pub(super) fn is_running(app: AppId, path: &ActorPath) -> bool {
    with_work(|work| work.app == app && work.path == *path).unwrap_or(false)
}

/// Returns whether the mailbox of the Work at this path is served while the caller waits. If the caller is that Work
/// itself, this is false in a handler and in `on_stop`, and elsewhere depends on whether a future such as `cx.serve`
/// executes around or beside the caller. For any other Work it is true at once.
pub(super) async fn is_served(app: AppId, path: &ActorPath) -> bool {
    let mut wanted: Option<Arc<Service>> = None;
    poll_fn(|cx| {
        if let Some(service) = wanted.take() {
            return Poll::Ready(!service.is_refused.load(Ordering::Acquire));
        }
        let ask = |work: &mut ExecutingWork| {
            if work.app != app || work.path != *path {
                return Poll::Ready(true);
            }
            if work.is_handling {
                return Poll::Ready(false);
            }
            let service = Arc::new(Service { is_refused: AtomicBool::new(false), waker: cx.waker().clone() });
            work.want_service.push(service.clone());
            wanted = Some(service);
            Poll::Pending
        };
        with_work(ask).unwrap_or(Poll::Ready(true))
    })
    .await
}

/// Guard of a future that takes messages from the mailbox of the executing Work.
pub(super) struct Serving(());

impl Serving {
    pub(super) fn begin() -> Self {
        change(|work| work.serving += 1);
        Self(())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        change(|work| work.serving = work.serving.saturating_sub(1));
    }
}

/// Updates the record of the executing Work. There is none when an incarnation is dropped after being ended by force.
fn change(change: impl FnOnce(&mut ExecutingWork)) {
    let _ = with_work(change);
}

/// Returns true if a handler of the Work that is executing on this thread is in progress.
pub(super) fn is_handling() -> bool {
    with_work(|work| work.is_handling).unwrap_or(false)
}

/// Returns the path of the Work whose handler is executing on this thread.
pub(super) fn handler_under_way() -> Option<ActorPath> {
    with_work(|work| work.is_handling.then(|| work.path.clone())).flatten()
}

/// Returns true unless the handler that is executing on this thread is that of an ask whose caller has given up.
pub(super) fn caller_waits() -> bool {
    with_work(|work| work.caller.as_ref().is_none_or(|caller| !caller.is_gone())).unwrap_or(true)
}

/// Polls for the moment at which the caller of the handler that is executing on this thread gives up.
pub(super) fn poll_caller_gone(cx: &mut Context<'_>) -> Poll<()> {
    let caller = with_work(|work| work.caller.take()).flatten();
    let Some(mut caller) = caller else { return Poll::Pending };
    // Polled outside of the record: the waker that is replaced may be the last owner of a task of the user.
    let gone = caller.poll_gone(cx);
    change(|work| work.caller = Some(caller));
    gone
}

/// Takes the caller of the handler that is executing on this thread, if that caller awaits a `V`.
pub(super) fn take_caller<V: 'static>() -> Option<Box<dyn AnswerTo<V>>> {
    take_caller_that_awaits(TypeId::of::<V>())
}

/// Takes the caller of the handler that is executing on this thread, if that caller awaits a stream of `V`s.
pub(super) fn take_stream_caller<V: 'static>() -> Option<Box<dyn StreamCaller<V>>> {
    take_caller_that_awaits(TypeId::of::<Streamed<V>>())
}

/// Takes the caller if it awaits this type, as a `C`.
fn take_caller_that_awaits<C: 'static>(awaited: TypeId) -> Option<C> {
    let awaits = |caller: &mut Box<dyn Caller>| caller.awaits() == awaited;
    let caller = with_work(|work| work.caller.take_if(awaits)).flatten()?;
    caller.into_answer_to().downcast::<C>().map(|caller| *caller).ok()
}

/// Guard of a handler in progress. The `run` that serves the handler may drop it before its end: then its caller is
/// told that the handler failed.
pub(super) struct Handling(());

impl Handling {
    /// Begins a handler, with the caller if its message is an ask.
    pub(super) fn begin(caller: Option<Box<dyn Caller>>) -> Self {
        change(|work| (work.is_handling, work.caller) = (true, caller));
        Self(())
    }

    /// Ends a handler that has returned. Returns the caller, which awaits the reply unless the handler has deferred it.
    pub(super) fn end(self) -> Option<Box<dyn Caller>> {
        mem::forget(self);
        Self::take()
    }

    /// Notes that no handler is in progress. Returns the caller of the one that was.
    fn take() -> Option<Box<dyn Caller>> {
        let end = |work: &mut ExecutingWork| {
            work.is_handling = false;
            work.caller.take()
        };
        with_work(end).flatten()
    }

    /// Calls code of the `run` that serves this handler, which is not part of the handler.
    pub(super) fn suspended<R>(code: impl FnOnce() -> R) -> R {
        let was_handling = is_handling();
        change(|work| work.is_handling = false);
        let result = code();
        change(|work| work.is_handling = was_handling);
        result
    }
}

impl Drop for Handling {
    fn drop(&mut self) {
        // Dropped outside of the record: a caller that is told wakes its task.
        drop(Self::take());
    }
}

/// Sets the run to which log lines and output belong from now on.
pub(super) fn set_run(run: Option<u64>) {
    mark(run);
    change(|work| work.run = run);
}
