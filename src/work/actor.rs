//! The lifecycle of one incarnation.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Poll, Waker};

use futures::FutureExt;
use futures::task::AtomicWaker;

use super::Work;
use super::context::{BUDGET, Identity, WorkContext, is_stop};
use super::gpus::Gpus;
use super::mailbox::{Mail, Mailbox, Receiver};
use super::outbox::{Outbox, Report};
use super::returned_error::ReturnedError;
use super::run::RunOrder;
use super::run_markers::mark;
use super::status::{Failure, Reason};
use crate::drive;
use crate::error::{self, Error};
use crate::fence::{self, Fenced, Panic};
use crate::id::{ActorPath, AppId};
use crate::payload::{PayloadError, PayloadGuards};
use crate::printable::chain;
use crate::state::{Tracker, Value};
use crate::trace::{Span, What};
use crate::wire;

/// Parameters of an incarnation. Boxed when passed on, because a future reserves space for its arguments.
pub(crate) struct IncarnationSpec<W: Work> {
    pub(crate) app: AppId,
    pub(crate) path: ActorPath,
    pub(crate) state: Value,
    pub(crate) holds: PayloadGuards,
    pub(crate) max_state_bytes: usize,
    pub(crate) mailbox: Arc<Mailbox<W>>,
    pub(crate) incarnation: u64,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) abort: Arc<Abort>,
    pub(crate) gpus: Gpus,
}

/// Ends an incarnation by force, the next time that it awaits.
#[derive(Default)]
pub(crate) struct Abort {
    raised: AtomicBool,
    waker: AtomicWaker,
    /// Forwards the request to the process of the incarnation, if that is another.
    away: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Abort {
    pub(crate) fn raise(&self) {
        self.raised.store(true, Ordering::Release);
        self.waker.wake();
        if let Some(away) = self.away.get() {
            away();
        }
    }

    /// Sets the callback that forwards the request to another process.
    pub(crate) fn tell(&self, tell: impl Fn() + Send + Sync + 'static) {
        // Set once: an incarnation lives in one process.
        let _ = self.away.set(Box::new(tell));
    }

    pub(super) fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Acquire)
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Speaker>> = const { RefCell::new(None) };
}

/// The Work that is executing on this thread.
struct Speaker {
    app: AppId,
    path: ActorPath,
    run: Option<u64>,
    /// True while a handler or `on_stop` executes: no message is taken from the mailbox meanwhile.
    is_handling: bool,
    /// Number of futures of the Work that take messages from its mailbox when polled.
    serving: usize,
    /// Futures of the Work that wait for its mailbox to be served.
    want_service: Vec<Arc<Service>>,
}

/// Request of a Work's own future, which makes progress only if the Work serves its mailbox.
struct Service {
    is_refused: AtomicBool,
    waker: Waker,
}

/// Returns the App and path of the Work that is executing on this thread, and the number of its current run.
pub(crate) fn current_run() -> Option<(AppId, ActorPath, Option<u64>)> {
    let look = |current: &RefCell<Option<Speaker>>| {
        let current = current.borrow();
        current.as_ref().map(|speaker| (speaker.app, speaker.path.clone(), speaker.run))
    };
    // Inaccessible when a destructor of a thread logs.
    CURRENT.try_with(look).ok().flatten()
}

/// Tells waiting futures of the Work whether its mailbox is served, after a poll that left the Work waiting.
fn answer_who_wants_service(speaker: Option<&mut Speaker>) {
    let Some(speaker) = speaker.filter(|speaker| !speaker.want_service.is_empty()) else { return };
    for service in speaker.want_service.drain(..) {
        service.is_refused.store(speaker.serving == 0, Ordering::Release);
        service.waker.wake_by_ref();
    }
}

/// Returns true if code of the Work at this path is executing on this thread.
pub(super) fn is_running(app: AppId, path: &ActorPath) -> bool {
    let is_it = |current: &RefCell<Option<Speaker>>| {
        current.borrow().as_ref().is_some_and(|speaker| speaker.app == app && speaker.path == *path)
    };
    CURRENT.try_with(is_it).unwrap_or(false)
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
        CURRENT.with_borrow_mut(|current| match current {
            Some(speaker) if speaker.app == app && speaker.path == *path => {
                if speaker.is_handling {
                    return Poll::Ready(false);
                }
                let service =
                    Arc::new(Service { is_refused: AtomicBool::new(false), waker: cx.waker().clone() });
                speaker.want_service.push(service.clone());
                wanted = Some(service);
                Poll::Pending
            }
            _ => Poll::Ready(true),
        })
    })
    .await
}

/// Guard of a future that takes messages from the mailbox of the executing Work.
pub(super) struct Serving(());

impl Serving {
    pub(super) fn begin() -> Self {
        change(|speaker| speaker.serving += 1);
        Self(())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        change(|speaker| speaker.serving = speaker.serving.saturating_sub(1));
    }
}

/// Updates the record of the executing Work. There is none when an incarnation is dropped after being ended by force.
fn change(change: impl FnOnce(&mut Speaker)) {
    let _ = CURRENT.try_with(|current| {
        if let Some(speaker) = &mut *current.borrow_mut() {
            change(speaker);
        }
    });
}

/// Returns true if a handler of the Work that is executing on this thread is in progress.
pub(super) fn is_handling() -> bool {
    CURRENT.with_borrow(|current| current.as_ref().is_some_and(|speaker| speaker.is_handling))
}

/// Returns the path of the Work whose handler is executing on this thread.
pub(super) fn handler_under_way() -> Option<ActorPath> {
    let look = |current: &RefCell<Option<Speaker>>| {
        let current = current.borrow();
        current.as_ref().filter(|speaker| speaker.is_handling).map(|speaker| speaker.path.clone())
    };
    CURRENT.try_with(look).ok().flatten()
}

/// Guard of a handler in progress. The `run` that serves the handler may drop it before its end.
pub(super) struct Handling(());

impl Handling {
    pub(super) fn begin() -> Self {
        change(|speaker| speaker.is_handling = true);
        Self(())
    }

    /// Calls code of the `run` that serves this handler, which is not part of the handler.
    pub(super) fn suspended<R>(code: impl FnOnce() -> R) -> R {
        let was_handling = is_handling();
        change(|speaker| speaker.is_handling = false);
        let result = code();
        change(|speaker| speaker.is_handling = was_handling);
        result
    }
}

impl Drop for Handling {
    fn drop(&mut self) {
        change(|speaker| speaker.is_handling = false);
    }
}

/// Sets the run to which log lines and output belong from now on.
fn set_run(run: Option<u64>) {
    mark(run);
    CURRENT.with_borrow_mut(|current| {
        if let Some(speaker) = current {
            speaker.run = run;
        }
    });
}

/// Runs an incarnation to its end and reports that end, unless the incarnation was aborted: then its outbox is not read
/// any more.
pub(crate) async fn live<W: Work>(spec: Box<IncarnationSpec<W>>) {
    let mut speaker = Some(Speaker {
        app: spec.app,
        path: spec.path.clone(),
        run: None,
        is_handling: false,
        serving: 0,
        want_service: Vec::new(),
    });
    let app = spec.app;
    let outbox = spec.outbox.clone();
    let abort = spec.abort.clone();
    let end = {
        // Boxed, so that the memory and values of the Work are freed before the end is reported. Fenced, because
        // dropping the future drops values of the user.
        let mut body = Fenced::new(Box::pin(AssertUnwindSafe(body(spec)).catch_unwind()));
        poll_fn(|cx| {
            if abort.is_raised() {
                return Poll::Ready(None);
            }
            abort.waker.register(cx.waker());
            if abort.is_raised() {
                return Poll::Ready(None);
            }
            let before = (CURRENT.replace(speaker.take()), drive::enter(Some(app)));
            let polled = body.as_mut().poll(cx).map(Some);
            speaker = CURRENT.replace(before.0);
            drive::enter(before.1);
            answer_who_wants_service(speaker.as_mut());
            polled
        })
        .await
    };
    match end {
        None => {}
        Some(Ok(report)) => outbox.report(report),
        Some(Err(panic)) => outbox.report(Report::Died { failure: panic_failure(&Panic::new(panic)) }),
    }
}

async fn body<W: Work>(spec: Box<IncarnationSpec<W>>) -> Report {
    let IncarnationSpec {
        app,
        path,
        state,
        holds,
        max_state_bytes,
        mailbox,
        incarnation,
        outbox,
        abort,
        gpus,
    } = *spec;
    // A panic in a handler drops this value while it unwinds.
    let mut work: Fenced<W> = match state.decode() {
        Ok(work) => Fenced::new(work),
        Err(error) => return Report::Died { failure: failure(&ReturnedError::new(error), "its state") },
    };
    // The decoded Work has payload handles of its own now.
    drop(holds);
    let tracker = Tracker::resume(state, max_state_bytes);
    let mut cx = WorkContext::new(
        Identity { app, path, gpus },
        Receiver::new(mailbox, incarnation),
        outbox,
        abort,
        tracker,
    );
    let report = work_through(&mut *work, &mut cx).await;
    match work.discard() {
        Ok(()) => report,
        Err(panic) => died_at_its_end(report, &panic),
    }
}

/// Adds a panic in the `Drop` of the Work to the report of its end.
fn died_at_its_end(report: Report, panic: &Panic) -> Report {
    let Failure { reason, message, .. } = panic_failure(panic);
    let also = |failure: Option<Failure>| match failure {
        Some(first) => {
            let message = format!("{} (and its `Drop` panicked: {message})", first.message);
            Failure { message, ..first }
        }
        None => Failure::new(reason, format!("its `Drop` panicked: {message}")),
    };
    match report {
        Report::Stopped { failure } => Report::Stopped { failure: Some(also(failure)) },
        Report::Died { failure } => Report::Died { failure: also(Some(failure)) },
        other => other,
    }
}

/// Executes hooks, runs and handlers of the Work until it stops or fails.
async fn work_through<W: Work>(work: &mut W, cx: &mut WorkContext<W>) -> Report {
    let result = Box::pin(work.on_start(cx)).await;
    let is_interrupted = cx.asked.stop && result.as_ref().is_err_and(is_stop);
    if result.is_ok() || is_interrupted {
        cx.publish(work);
    }
    let result = match cx.take_trouble() {
        Some(error) => Err(error.into()),
        None if is_interrupted => return Report::Stopped { failure: None },
        None => result,
    };
    if let Err(error) = result {
        return Report::Died { failure: failure(&ReturnedError::new(error), "`on_start`") };
    }

    let mut served = 0_usize;
    while !cx.asked.stop {
        if let Some(order) = cx.asked.run.take() {
            // Boxed, like the hooks, to keep the future of an idle Work small.
            if let Some(failure) = Box::pin(run(work, cx, order)).await {
                return Report::Died { failure };
            }
            continue;
        }
        match cx.next().await {
            Mail::Command(command) => cx.obey(command),
            Mail::Message(envelope) => {
                envelope.deliver(work, cx).await;
                if let Some(error) = cx.take_trouble() {
                    return Report::Died { failure: failure(&ReturnedError::new(error), "a handler") };
                }
                served += 1;
                if served.is_multiple_of(BUDGET) {
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    cx.asked.leaving = true;
    let handling = Handling::begin();
    let result = Box::pin(work.on_stop(cx)).await;
    drop(handling);
    cx.publish(work);
    let result = match cx.take_trouble() {
        Some(error) => Err(error.into()),
        None if result.as_ref().is_err_and(is_stop) => Ok(()),
        None => result,
    };
    Report::Stopped { failure: result.err().map(|error| failure(&ReturnedError::new(error), "`on_stop`")) }
}

/// Executes one run and reports its end. Returns a failure if it ends the incarnation as well.
async fn run<W: Work>(work: &mut W, cx: &mut WorkContext<W>, order: RunOrder) -> Option<Failure> {
    cx.begin(&order);
    let run = order.run;
    set_run(Some(run));
    let what = What::Run { run, attempt: order.attempt };
    let span = Span::start(what, cx.path().as_str(), std::slice::from_ref(&order.cause));
    if !order.announced {
        span.within(|| cx.outbox().report(Report::RunStarted { run }));
    }
    let input = wire::decode(&order.input.bytes);
    // The Flow keeps the payloads of the input alive until the run ends; this process must not keep them longer.
    drop(order);
    let result = match input {
        Ok(input) => span.around(work.run(input, cx)).await,
        Err(error) => Err(Error::from(error).context("the run's input cannot be read back")),
    };
    span.within(|| cx.publish(work));
    let result = match cx.take_trouble() {
        Some(error) => Err(error.into()),
        None => result,
    };
    let asked_to_leave = cx.asked.stop || cx.asked.cancel;
    let report = match result {
        Ok(()) => Report::RunSucceeded { run },
        Err(error) if asked_to_leave && is_stop(&error) => Report::RunStopped { run },
        Err(error) => {
            let error = ReturnedError::new(error);
            let mut failure = failure(&error, "");
            let hook = AssertUnwindSafe(span.around(work.on_error(&error, cx))).catch_unwind().await;
            let second = match hook {
                Ok(Ok(())) => None,
                Ok(Err(second)) if (cx.asked.stop || cx.asked.cancel) && is_stop(&second) => None,
                Ok(Err(second)) => Some(format!("failed: {}", described(&second))),
                Err(panic) => {
                    let second = panic_failure(&Panic::new(panic));
                    let message =
                        format!("{} (and `on_error` panicked: {})", failure.message, second.message);
                    span.failed(&message);
                    return Some(Failure { message, ..second });
                }
            };
            if let Some(second) = second {
                failure.message = format!("{} (and `on_error` {second})", failure.message);
            }
            span.within(|| cx.publish(work));
            span.failed(&failure.message);
            // If the state cannot be published, that is part of the failure reported here.
            let _ = cx.take_trouble();
            Report::RunFailed { run, failure }
        }
    };
    cx.current = None;
    set_run(None);
    cx.asked.cancel = false;
    span.within(|| cx.outbox().report(report));
    None
}

fn failure(error: &ReturnedError, place: &str) -> Failure {
    // The error is a value of the user, whose code may panic.
    let reason = fence::call(|| error::find(error).map_or(Reason::UserError, payload_reason));
    let (reason, text) = (reason.unwrap_or(Reason::UserError), described(error));
    let message = if place.is_empty() { text } else { format!("{place} failed: {text}") };
    Failure { reason, message, error: Some(error.clone()) }
}

/// Returns the error with all of its causes as text.
fn described(error: &Error) -> String {
    fence::text(|| format!("{error:#}"))
}

fn panic_failure(panic: &Panic) -> Failure {
    if let Some(error) = panic.downcast_ref::<PayloadError>() {
        return Failure::new(payload_reason(error), chain(error));
    }
    Failure::new(Reason::Panic, panic.to_string())
}

fn payload_reason(error: &PayloadError) -> Reason {
    match error {
        PayloadError::Lost { .. } | PayloadError::Corrupt { .. } => Reason::PayloadLost,
        _ => Reason::UserError,
    }
}
