//! The lifecycle of one incarnation.

use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures::FutureExt;

use super::Work;
use super::abort::Abort;
use super::context::{BUDGET, Identity, WorkContext, is_stop};
use super::cycles::task_waker::TaskWaker;
use super::cycles::{AskCycles, AskId, SlowAsk, WaitRegister};
use super::end::End;
use super::executing::{ExecutingWork, Handling, poll_as, set_run, set_task, take_slow_ask};
use super::fencing_token::FencingToken;
use super::gpus::Gpus;
use super::mailbox::{Mail, Mailbox, Receiver};
use super::outbox::{Outbox, Report};
use super::probe::Probes;
use super::returned_error::ReturnedError;
use super::run::RunOrder;
use super::status::{Failure, Reason};
#[cfg(feature = "journal")]
use crate::crash_evidence::CrashEvidence;
use crate::error::{self, Error};
use crate::fence::{self, Fenced, Panic};
use crate::id::ActorPath;
use crate::payload::{PayloadError, PayloadGuards};
use crate::printable::chain;
use crate::runtime::{self, Runtime};
use crate::state::{Tracker, Value};
use crate::trace::{Span, What};
use crate::wire;

/// Parameters of an incarnation. Boxed when passed on, because a future reserves space for its arguments.
pub(crate) struct IncarnationSpec<W: Work> {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) path: ActorPath,
    pub(crate) state: Value,
    pub(crate) holds: PayloadGuards,
    pub(crate) max_state_bytes: usize,
    pub(crate) mailbox: Arc<Mailbox<W>>,
    pub(crate) incarnation: u64,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) abort: Arc<Abort>,
    pub(crate) gpus: Gpus,
    pub(crate) token: FencingToken,
}

/// Runs an incarnation to its end and reports that end, unless the incarnation was aborted: then its outbox is not read
/// any more.
pub(crate) async fn live<W: Work>(spec: Box<IncarnationSpec<W>>) {
    let mut executing = Some(Box::new(ExecutingWork::new(spec.runtime.app(), spec.path.clone())));
    let outbox = spec.outbox.clone();
    let abort = spec.abort.clone();
    let mut task: Option<(Arc<TaskWaker>, Waker)> = None;
    // True once the task was another one: futures may have kept wakers of that, which are not counted.
    let mut has_moved = false;
    #[cfg(feature = "journal")]
    let evidence = spec.runtime.part::<CrashEvidence>().map(|evidence| (evidence, spec.path.clone()));
    let end = {
        let waits = Waits { mailbox: spec.mailbox.clone(), incarnation: spec.incarnation };
        // Boxed, so that the memory and values of the Work are freed before the end is reported. Fenced, because
        // dropping the future drops values of the user.
        let mut body = Fenced::new(Box::pin(AssertUnwindSafe(body(spec)).catch_unwind()));
        poll_fn(|cx| {
            if abort.is_raised() {
                return Poll::Ready(None);
            }
            if task.as_ref().is_none_or(|(task, _)| !task.task().will_wake(cx.waker())) {
                has_moved |= task.is_some();
                // Kept until it is raised, which ends this future.
                abort.register(cx.waker());
                if abort.is_raised() {
                    return Poll::Ready(None);
                }
                let counted = TaskWaker::new(cx.waker());
                set_task(&mut executing, &counted);
                task = Some((counted.clone(), Waker::from(counted)));
            }
            let Some((counted, waker)) = &task else { return Poll::Pending };
            counted.begin_poll();
            let cx = &mut Context::from_waker(waker);
            let mut poll = || poll_as(&mut executing, || body.as_mut().poll(cx).map(Some));
            #[cfg(feature = "journal")]
            let polled = match &evidence {
                Some((evidence, path)) => evidence.during(|| format!("work `{path}`"), poll),
                None => poll(),
            };
            #[cfg(not(feature = "journal"))]
            let polled = poll();
            if polled.is_pending()
                && !has_moved
                && let Some((slow, path, handles)) = take_slow_ask(&mut executing)
            {
                waits.judge(&slow, path, handles, counted);
            }
            polled
        })
        .await
    };
    // The caller of a handler that did not end is told before the end of the incarnation is reported.
    drop(executing);
    match end {
        None => {}
        Some(Ok(report)) => outbox.report(report),
        Some(Err(panic)) => outbox.report(Report::Died { failure: panic_failure(&Panic::new(panic)) }),
    }
}

/// Finds out whether the Work of an incarnation waits for a slow ask.
struct Waits<W: Work> {
    mailbox: Arc<Mailbox<W>>,
    incarnation: u64,
}

impl<W: Work> Waits<W> {
    /// Finds out what is due of an ask that the Work at `path` has polled while it takes no messages and handles the
    /// question `handles`. `task` is the waker with which it was polled, and after which it is pending.
    fn judge(&self, slow: &Arc<SlowAsk>, path: &ActorPath, handles: Option<AskId>, task: &Arc<TaskWaker>) {
        let Some(due) = slow.take_due() else { return };
        let Some(cycles) = runtime::of_thread().and_then(|runtime| runtime.part::<AskCycles>()) else {
            return;
        };
        let register: Arc<dyn WaitRegister> = cycles;
        let waits = self.mailbox.keeps_all_wakers(task, OWN_WAKERS);
        if due.report {
            slow.report(&register, waits, path, handles);
        }
        if let Some((round, asker)) = due.check {
            let has_question =
                || handles == Some(asker) || self.mailbox.has_question(asker, self.incarnation);
            slow.checked(round, waits && has_question());
        }
    }
}

/// Number of references to the waker of a Work that [`live`] keeps: two of its own, and one of the executing Work.
const OWN_WAKERS: usize = 3;

async fn body<W: Work>(spec: Box<IncarnationSpec<W>>) -> Report {
    let IncarnationSpec {
        runtime,
        path,
        state,
        holds,
        max_state_bytes,
        mailbox,
        incarnation,
        outbox,
        abort,
        gpus,
        token,
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
        Identity { runtime, path, gpus, token },
        Receiver::new(mailbox, incarnation),
        outbox,
        abort,
        tracker,
    );
    let probe = cx.part::<Probes>().and_then(|probes| probes.find::<W>(cx.path()));
    let report = match probe {
        None => work_through(&mut *work, &mut cx).await,
        Some(probe) => Box::pin(probe.live(&mut *work, &mut cx)).await,
    };
    cx.ended(&End::reported(&report));
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
    let is_interrupted = cx.asked().stop && result.as_ref().is_err_and(is_stop);
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
    while !cx.asked().stop {
        if let Some(order) = cx.asked().run.take() {
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

    cx.asked().leaving = true;
    let handling = Handling::begin(None);
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
async fn run<W: Work>(work: &mut W, cx: &mut WorkContext<W>, mut order: Box<RunOrder>) -> Option<Failure> {
    cx.begin(&mut order);
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
    // Sent with the end of the run, so that a process that is killed leaves both or neither.
    let mut change = cx.change(work);
    let result = match cx.take_trouble() {
        Some(error) => Err(error.into()),
        None => result,
    };
    let asked_to_leave = cx.asked().stop || cx.asked().cancel;
    let report = match result {
        Ok(()) => {
            span.within(|| cx.report_output(run));
            Report::RunSucceeded { run }
        }
        Err(error) if asked_to_leave && is_stop(&error) => Report::RunStopped { run },
        Err(error) => {
            span.within(|| cx.send(change.take()));
            let error = ReturnedError::new(error);
            let mut failure = failure(&error, "");
            let hook = AssertUnwindSafe(span.around(work.on_error(&error, cx))).catch_unwind().await;
            let second = match hook {
                Ok(Ok(())) => None,
                Ok(Err(second)) if (cx.asked().stop || cx.asked().cancel) && is_stop(&second) => None,
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
            change = cx.change(work);
            span.failed(&failure.message);
            // If the state cannot be published, that is part of the failure reported here.
            let _ = cx.take_trouble();
            Report::RunFailed { run, failure }
        }
    };
    cx.end();
    set_run(None);
    span.within(|| cx.send_with(change, report));
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
