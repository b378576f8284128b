//! The context that a Work's code gets in `run`, handlers and hooks.

use std::any::Any;
use std::error::Error as StdError;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use futures::future::maybe_done;
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Work;
use super::abort::Abort;
use super::address::WorkAddr;
use super::deferred::{self, Deferred, ReplySender};
use super::end::End;
use super::envelope::BoxedEnvelope;
use super::executing::{Handling, Serving, caller_waits, is_handling, poll_caller_gone, take_stream_caller};
use super::fencing_token::FencingToken;
use super::gpus::Gpus;
use super::mailbox::{Mail, Receiver};
use super::message::{HandledBy, Message};
use super::message_counts::OpenStream;
use super::outbox::{Outbox, Report};
use super::run::{Command, RunOrder};
use super::run_steps::RunSteps;
use super::steps::{KnownStep, Steps};
use super::streamed::{self, StreamSender, Streamed};
use super::timers::{Timer, Timers};
use super::watch::Watch;
use crate::error::{self, Error};
use crate::fence::{self, Fenced};
use crate::id::ActorPath;
use crate::payload::{self, Artifact, ArtifactError, Files, Payload, PayloadError, PayloadGuards, Store};
use crate::runtime::Runtime;
use crate::state::{Patch, StateError, Tracker};
use crate::trace::{Span, What};

/// A change of the state, with the guards of its payloads if these have changed.
pub(super) type StateChange = (Patch, Option<PayloadGuards>);

/// Error returned when the Work was asked to stop. Passed on by `?`, it ends the run or hook as stopped and not as
/// failed, even inside an error of the user that has it as its source or is transparent to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped;

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the Work was asked to stop")
    }
}

impl StdError for Stopped {
    /// Returns `Request`, which remains in the chain of an error that is transparent to this one.
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&Request)
    }
}

/// The source of [`Stopped`]. A transparent error forwards `source` to the inner error and so omits the inner error
/// itself from its chain; a transparent [`Stopped`] is recognised by this type instead.
#[derive(Debug, thiserror::Error)]
#[error("by its Flow, by an operator, or because the App ends")]
struct Request;

/// Returns true if an error is a [`Stopped`] that was passed on.
pub(super) fn is_stop(error: &Error) -> bool {
    let is_passed_on = || error::find::<Stopped>(error).is_some() || error::find::<Request>(error).is_some();
    // `source` is a user's code.
    fence::call(is_passed_on).unwrap_or(false)
}

/// Identity and devices of an incarnation.
pub(crate) struct Identity {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) path: ActorPath,
    pub(crate) gpus: Gpus,
    pub(crate) token: FencingToken,
}

/// The context of a Work's `run`, handlers and hooks: publishes the state, serves the mailbox, sleeps, and creates
/// payloads.
///
/// ```
/// # use flowright::prelude::*;
/// #[derive(Default, Serialize, Deserialize)]
/// struct Train {
///     epoch: u32,
///     weights: Option<Payload<Vec<f32>>>,
/// }
///
/// impl Work for Train {
///     type Input = u32;
///
///     async fn run(&mut self, epochs: u32, cx: &mut WorkContext<Self>) -> Result<()> {
///         let mut weights = vec![0.0; 1000];
///         while self.epoch < epochs {
///             weights.iter_mut().for_each(|weight| *weight += 0.1);
///             self.epoch += 1;
///             cx.publish(self); // the Flow reacts to the new epoch
///             cx.turn(self).await?; // serves messages; `?` ends the run here when the Work is asked to stop
///         }
///         self.weights = Some(cx.payload(weights)?);
///         Ok(())
///     }
/// }
/// # #[derive(Default, Serialize, Children)]
/// # struct Root { train: WorkRef<Train> }
/// # impl Flow for Root {
/// #     fn react(&mut self, cx: &mut FlowContext) -> Reaction {
/// #         assert!(self.train.run(3).finished()?.weights.is_some());
/// #         cx.stop("done");
/// #         Ok(())
/// #     }
/// # }
/// # flowright::testing::TestApp::start(Root::default).wait_for_exit().result.unwrap();
/// ```
pub struct WorkContext<W: Work> {
    identity: Identity,
    /// Behind a lock, because steps that wait at the same time all take commands.
    inbox: Mutex<Inbox<W>>,
    outbox: Arc<Outbox>,
    abort: Arc<Abort>,
    tracker: Tracker,
    /// True if the last published state refers to payloads.
    holds: bool,
    attempt: u32,
    pub(super) current: Option<u64>,
    /// Made when it is needed, to keep idle Works small.
    steps: OnceLock<Box<RunSteps>>,
    /// Made when it is needed, as well.
    timers: Option<Box<Timers>>,
    /// Error of a publish, reported when the Work takes turns. Boxed because it is rare.
    trouble: Option<Box<StateError>>,
}

/// The way in of a Work: its mailbox, and the commands taken from it.
struct Inbox<W: Work> {
    receiver: Receiver<W>,
    asked: FlowRequests,
}

/// Requests of the Flow that have not been carried out yet.
#[derive(Default)]
pub(super) struct FlowRequests {
    pub(super) stop: bool,
    pub(super) cancel: bool,
    pub(super) run: Option<Box<RunOrder>>,
    /// True once `on_stop` has begun, which may wait in spite of the stop and does not serve the mailbox.
    pub(super) leaving: bool,
}

impl FlowRequests {
    /// Returns true if the run or the incarnation is to end, and has not begun to.
    fn asks_to_leave(&self) -> bool {
        (self.stop || self.cancel) && !self.leaving
    }
}

/// Most messages that are served before other tasks of the thread get their turn.
pub(super) const BUDGET: usize = 256;

impl<W: Work> WorkContext<W> {
    pub(super) fn new(
        identity: Identity,
        receiver: Receiver<W>,
        outbox: Arc<Outbox>,
        abort: Arc<Abort>,
        tracker: Tracker,
    ) -> Self {
        Self {
            identity,
            inbox: Mutex::new(Inbox { receiver, asked: FlowRequests::default() }),
            outbox,
            abort,
            tracker,
            holds: true,
            attempt: 0,
            current: None,
            steps: OnceLock::new(),
            timers: None,
            trouble: None,
        }
    }

    /// Returns the indices of the graphics processors assigned to this Work, as many as its
    /// [`Resources::gpus`](crate::Resources); no other Work of this machine has them at the same time.
    ///
    /// The indices refer to the devices visible to this process. A Work with a process of its own sees only its own
    /// devices (`CUDA_VISIBLE_DEVICES`, `ROCR_VISIBLE_DEVICES` and `ONEAPI_DEVICE_SELECTOR` are set for it), so that
    /// its indices begin at 0. The list is empty for a Work that needs no graphics processors, and on a head without
    /// known devices.
    pub fn gpus(&self) -> &[u32] {
        self.identity.gpus.indices()
    }

    /// Publishes the difference between the Work's state and the state published last. Costs a serialisation and
    /// comparison of the state; never blocks.
    ///
    /// Fields changed between two publishes arrive together. Under load a Flow may skip intermediate states (they
    /// conflate), but it never sees an older state after a newer one and always sees the last one. Send a message where
    /// every value must arrive.
    ///
    /// A state that cannot be serialised or exceeds the App's limit is not published and fails the Work: the next call
    /// that takes turns returns [`Stopped`], and the run ends as failed with the error of the state.
    pub fn publish(&mut self, work: &W) {
        let change = self.change(work);
        self.send(change);
    }

    /// Returns the change of the state since the last call, which is not sent.
    pub(super) fn change(&mut self, work: &W) -> Option<StateChange> {
        let (result, holds) = payload::collect(|| self.tracker.update(work));
        match result {
            Ok(Some(patch)) => {
                let has_holds = !holds.is_empty();
                let changed = has_holds || self.holds;
                self.holds = has_holds;
                Some((patch, changed.then_some(holds)))
            }
            Ok(None) => None,
            Err(error) => {
                self.trouble = Some(Box::new(error));
                None
            }
        }
    }

    /// Publishes a change of the state.
    pub(super) fn send(&self, change: Option<StateChange>) {
        if let Some((patch, holds)) = change {
            let span = Span::below_current(What::Publish, self.identity.path.as_str());
            span.within(|| self.outbox.publish(patch, holds));
        }
    }

    /// Publishes a change of the state together with a report: the Flow and the journal never see one without the other.
    pub(super) fn send_with(&self, change: Option<StateChange>, report: Report) {
        match change {
            Some((patch, holds)) => {
                let span = Span::below_current(What::Publish, self.identity.path.as_str());
                span.within(|| self.outbox.publish_with(patch, holds, report));
            }
            None => self.outbox.report(report),
        }
    }

    /// Serves up to 256 waiting messages, then yields to other tasks of this thread.
    ///
    /// In a handler it only yields: handlers do not nest. Messages that are handled in batches are waited for as anywhere:
    /// a batch that is not full takes up to its [`Batch::within`](crate::Batch::within).
    ///
    /// # Cancel safety
    /// A future that is dropped while a handler executes drops the handler; its caller gets
    /// [`AskError::Failed`](crate::AskError::Failed).
    ///
    /// # Errors
    /// [`Stopped`] when the Work is asked to stop. In `on_stop` it only yields and never returns an error.
    pub async fn turn(&mut self, work: &mut W) -> Result<(), Stopped> {
        if self.asked().leaving || is_handling() {
            tokio::task::yield_now().await;
            if !self.asked().leaving {
                self.hear();
            }
            return self.check();
        }
        let _serving = Serving::begin();
        for _ in 0..BUDGET {
            let mail = poll_fn(|cx| Poll::Ready(self.receiver().poll(cx))).await;
            match mail {
                Poll::Ready(mail) => {
                    if let Some(envelope) = self.accept(mail) {
                        envelope.deliver(work, self).await;
                    }
                }
                Poll::Pending => break,
            }
            self.check()?;
        }
        tokio::task::yield_now().await;
        self.check()
    }

    /// Waits for `duration` and serves messages meanwhile.
    ///
    /// In a handler it only waits, and other messages wait for the end of that handler: handlers do not nest.
    ///
    /// # Cancel safety
    /// As for [`turn`](Self::turn).
    ///
    /// # Errors
    /// [`Stopped`] at once when the Work is asked to stop. In `on_stop` it only waits, within the grace period.
    pub async fn sleep(&mut self, work: &mut W, duration: Duration) -> Result<(), Stopped> {
        self.serve(work, tokio::time::sleep(duration)).await
    }

    /// Waits for `future` and serves messages meanwhile; the future is also polled while a handler waits.
    ///
    /// In a handler it only waits, and other messages wait for the end of that handler: handlers do not nest. Work that
    /// should continue while messages are served belongs in `run`.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// # async fn download() -> Result<u64> { Ok(3) }
    /// #[derive(Default, Serialize, Deserialize)]
    /// struct Fetch {
    ///     bytes: u64,
    /// }
    ///
    /// impl Work for Fetch {
    ///     type Input = ();
    ///
    ///     async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
    ///         // The first `?` is for the stop of the Work, the second for the error of the download.
    ///         self.bytes = cx.serve(self, download()).await??;
    ///         Ok(())
    ///     }
    /// }
    /// # flowright::testing::TestApp::start_app(App::of_work(Fetch::default)).wait_for_exit().result.unwrap();
    /// ```
    ///
    /// # Cancel safety
    /// As for [`turn`](Self::turn); `future` is dropped as well.
    ///
    /// # Errors
    /// [`Stopped`] at once when the Work is asked to stop; the future is dropped then. In `on_stop` it only waits for
    /// the future, within the grace period.
    pub async fn serve<F: Future>(&mut self, work: &mut W, future: F) -> Result<F::Output, Stopped> {
        if self.asked().leaving {
            self.check()?;
            return Ok(future.await);
        }
        if is_handling() {
            return self.wait(future).await;
        }
        let _serving = Serving::begin();
        let mut future = pin!(maybe_done(future));
        let mut served = 0_usize;
        loop {
            self.check()?;
            let mail = poll_fn(|cx| {
                if let Poll::Ready(mail) = self.receiver().poll(cx) {
                    return Poll::Ready(Some(mail));
                }
                future.as_mut().poll(cx).map(|()| None)
            })
            .await;
            let Some(mail) = mail else {
                return Ok(future.take_output().expect("it has just ended"));
            };
            if let Some(envelope) = self.accept(mail) {
                let mut delivery = envelope.deliver(work, self);
                poll_fn(|cx| {
                    let delivered = delivery.as_mut().poll(cx);
                    if delivered.is_pending() {
                        let _ = Handling::suspended(|| future.as_mut().poll(cx));
                    }
                    delivered
                })
                .await;
            }
            served += 1;
            if served.is_multiple_of(BUDGET) {
                // A mailbox that never becomes empty must not starve the future.
                let done = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_ready())).await;
                self.check()?;
                if done {
                    return Ok(future.take_output().expect("it has ended"));
                }
                tokio::task::yield_now().await;
            }
        }
    }

    /// Waits for `future` and obeys commands, but serves no messages. Several futures may wait at the same time.
    pub(super) async fn wait<F: Future>(&self, future: F) -> Result<F::Output, Stopped> {
        let mut future = pin!(future);
        let waiter = self.steps().wait();
        poll_fn(|cx| {
            let waker = waiter.register(cx.waker());
            if let Err(stopped) = self.obey_all(&mut Context::from_waker(&waker)) {
                return Poll::Ready(Err(stopped));
            }
            future.as_mut().poll(cx).map(Ok)
        })
        .await
    }

    /// Obeys the waiting commands, and registers the waker for the next one.
    fn obey_all(&self, cx: &mut Context<'_>) -> Result<(), Stopped> {
        let mut inbox = self.inbox.lock();
        let mut has_obeyed = false;
        let result = loop {
            if inbox.asked.asks_to_leave() || self.trouble.is_some() {
                break Err(Stopped);
            }
            match inbox.receiver.poll_command(cx) {
                // Another incarnation receives: this one is asked to stop again and again.
                Poll::Ready(Command::Stop) if inbox.asked.stop => break Ok(()),
                Poll::Ready(command) => {
                    self.obey_in(&mut inbox.asked, command);
                    has_obeyed = true;
                }
                Poll::Pending => break Ok(()),
            }
        };
        drop(inbox);
        if has_obeyed {
            // The command may be for another future that waits.
            self.steps().wake_all();
        }
        result
    }

    /// Adds reports to the outbox, with a barrier behind them.
    pub(super) fn report_before(&self, barrier: u64, report: Option<Report>) {
        self.outbox.report_all(report.into_iter().chain([Report::Barrier { number: barrier }]));
    }

    /// Waits until everything before a barrier is durable.
    pub(super) async fn until_durable(&self, barrier: u64) -> Result<(), Stopped> {
        let steps = self.steps();
        let durable =
            |_: &mut Context<'_>| if steps.is_durable(barrier) { Poll::Ready(()) } else { Poll::Pending };
        self.wait(poll_fn(durable)).await
    }

    /// Publishes the state, and waits until everything that this Work has published so far is durable: an App that has a
    /// journal, and whose processes all end at this moment, continues from this state or a later one. Without a journal,
    /// and for a Work whose states are not recorded ([`Journaled`](crate::Journaled)), it waits until the App has the
    /// state, which then survives the end of this incarnation.
    ///
    /// A barrier for what is to happen outside of the App, or in other Works, only after the state is safe. Serves no
    /// messages meanwhile.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// # #[derive(Default, Serialize, Deserialize)]
    /// # struct Download { received: u64 }
    /// # fn acknowledge(_upto: u64) {}
    /// # impl Work for Download {
    /// #     type Input = ();
    /// async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
    ///     self.received += 1;
    ///     cx.commit(self).await?;
    ///     acknowledge(self.received); // the sender may forget it now
    ///     Ok(())
    /// }
    /// # }
    /// # flowright::testing::TestApp::start_app(App::of_work(Download::default)).wait_for_exit().result.unwrap();
    /// ```
    ///
    /// # Cancel safety
    /// The state is published, whether or not the future is dropped.
    ///
    /// # Errors
    /// [`Stopped`] when the Work is asked to stop while it waits, or when the state cannot be published: then the run
    /// fails with the error of the state, as after [`publish`](Self::publish). In `on_stop` it waits within the grace
    /// period.
    pub async fn commit(&mut self, work: &W) -> Result<(), Stopped> {
        self.publish(work);
        let barrier = self.steps().next_barrier();
        self.report_before(barrier, None);
        self.until_durable(barrier).await
    }

    /// Returns the fencing token of this incarnation, for systems that refuse a smaller token than they have seen. A
    /// later incarnation of the Work has a greater one.
    pub fn fencing_token(&self) -> FencingToken {
        self.identity.token
    }

    /// Serves messages until the Work is asked to stop.
    ///
    /// In a handler it only waits, and no other message is handled until the Work stops: call it in `run`.
    ///
    /// # Cancel safety
    /// As for [`turn`](Self::turn).
    ///
    /// # Errors
    /// Always [`Stopped`], when the Work is asked to stop; in `on_stop` at once.
    pub async fn serve_forever(&mut self, work: &mut W) -> Result<std::convert::Infallible, Stopped> {
        if self.asked().leaving {
            return Err(Stopped);
        }
        self.serve(work, std::future::pending()).await
    }

    /// Sends `message` to this Work itself after `delay`. It takes its turn in the mailbox as the messages of others do.
    ///
    /// The timer ends with this incarnation: set it in `on_start`, `run` or a handler. No journal records it. The message
    /// needs no entry in [`Work::messages`].
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// # #[derive(Serialize, Deserialize)]
    /// # struct Request(u32);
    /// #[derive(Serialize, Deserialize)]
    /// struct Expire;
    ///
    /// #[derive(Default, Serialize, Deserialize)]
    /// struct Cache {
    ///     answer: Option<u32>,
    /// }
    ///
    /// impl Work for Cache {
    ///     type Input = ();
    /// }
    ///
    /// impl Handle<Request> for Cache {
    ///     type Reply = ();
    ///
    ///     async fn handle(&mut self, request: Request, cx: &mut WorkContext<Self>) {
    ///         self.answer = Some(request.0);
    ///         cx.notify_after(Duration::from_secs(60), Expire);
    ///     }
    /// }
    ///
    /// impl Handle<Expire> for Cache {
    ///     type Reply = ();
    ///
    ///     async fn handle(&mut self, _: Expire, _cx: &mut WorkContext<Self>) {
    ///         self.answer = None;
    ///     }
    /// }
    /// ```
    pub fn notify_after<M: HandledBy<W>>(&mut self, delay: Duration, message: M) -> Timer {
        let (work, message) = (self.addr(), Fenced::new(message));
        self.timers().after(delay, async move {
            let _ = work.notify(message.into_inner()).await;
        })
    }

    /// Sends a clone of `message` to this Work itself every `period`, at least 1 ms, for the first time after one period.
    ///
    /// At most one of these messages waits or is being handled. Ticks that fall into that time are skipped; the others stay
    /// multiples of the period. The timer ends as that of [`notify_after`](Self::notify_after) does.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// #[derive(Clone, Serialize, Deserialize)]
    /// struct Tick;
    ///
    /// #[derive(Default, Serialize, Deserialize)]
    /// struct Clock {
    ///     ticks: u64,
    /// }
    ///
    /// impl Work for Clock {
    ///     type Input = ();
    ///
    ///     async fn on_start(&mut self, cx: &mut WorkContext<Self>) -> Result<()> {
    ///         cx.notify_every(Duration::from_millis(5), Tick);
    ///         Ok(())
    ///     }
    /// }
    ///
    /// impl Handle<Tick> for Clock {
    ///     type Reply = ();
    ///
    ///     async fn handle(&mut self, _: Tick, cx: &mut WorkContext<Self>) {
    ///         self.ticks += 1;
    ///         cx.publish(self);
    ///     }
    /// }
    /// # #[derive(Default, Serialize, Children)]
    /// # struct Root { clock: WorkRef<Clock> }
    /// # impl Flow for Root {
    /// #     fn react(&mut self, cx: &mut FlowContext) -> Reaction {
    /// #         if self.clock.ticks >= 3 {
    /// #             cx.stop("done");
    /// #         }
    /// #         Ok(())
    /// #     }
    /// # }
    /// # flowright::testing::TestApp::start(Root::default).wait_for_exit().result.unwrap();
    /// ```
    pub fn notify_every<M: HandledBy<W> + Clone>(&mut self, period: Duration, message: M) -> Timer {
        let (work, message) = (self.addr(), Arc::new(Mutex::new(Fenced::new(message))));
        self.timers().every(period, move || {
            let (work, message) = (work.clone(), message.clone());
            async move {
                let next = fence::call(|| M::clone(&message.lock()));
                match next {
                    Ok(next) => work.notify(next).await,
                    Err(panic) => {
                        let path = work.path();
                        log::error!(
                            "work `{path}`: a timer ends: the `Clone` of its message panicked: {panic}"
                        );
                        false
                    }
                }
            }
        })
    }

    /// Stores `value` in this process and returns a small reference to it, which can be part of states, inputs and
    /// messages. The value is freed when nothing refers to it any more: keep the returned [`Payload`], or publish it.
    ///
    /// The value is serialised once on the calling thread, for its hash. It is written to disk if the memory budget is used
    /// up.
    ///
    /// # Errors
    /// [`PayloadError::Unserialisable`] if the value cannot be serialised, and [`PayloadError::NoRoom`] if there is room
    /// for it neither in memory nor on disk.
    pub fn payload<T>(&self, value: T) -> Result<Payload<T>, PayloadError>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        Payload::new(value, &Store::of(&self.identity.runtime), &self.identity.path)
    }

    /// Copies the file or directory at `path` and returns a small reference to the copy, which can be part of states,
    /// inputs and messages. Later changes of the files do not affect the copy.
    ///
    /// [`Files`] excludes parts of a directory:
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// # use flowright::{ArtifactError, Files};
    /// # fn f<W: Work>(cx: &mut WorkContext<W>) -> Result<Artifact, ArtifactError> {
    /// cx.artifact(Files::at("model").exclude("*.tmp"))
    /// # }
    /// ```
    ///
    /// Reads the files and writes the copy to disk on the calling thread, which blocks no other Work if this one has a
    /// thread of its own, the default placement.
    ///
    /// # Errors
    /// [`ArtifactError`] if something cannot be read, is not a file or directory, or is a link that leads out of the
    /// directory, and if the disk is full.
    pub fn artifact(&self, files: impl Into<Files>) -> Result<Artifact, ArtifactError> {
        Artifact::new(&files.into(), &Store::of(&self.identity.runtime), &self.identity.path)
    }

    /// Returns true if the Work or its current run was asked to stop, for code that does not take turns, such as a long
    /// computation between two calls of [`turn`](Self::turn).
    pub fn is_stopping(&mut self) -> bool {
        // An incarnation that was given up receives no more commands.
        let is_raised = self.abort.is_raised();
        self.asked().stop |= is_raised;
        self.hear();
        let asked = self.asked();
        asked.stop || asked.cancel
    }

    /// Returns true while somebody waits for the reply of the handler that calls this: false once the timeout of its `ask`
    /// has passed, the future of the `ask` was dropped, the HTTP client has closed its connection, or the process or node
    /// of the caller is lost. A handler can stop work that nobody wants any more.
    ///
    /// The caller of another process is told to be gone by a message, so that this may stay true for a moment, and for up
    /// to the grace period if its node does not answer.
    ///
    /// A `tell` has no caller that could go: for its handler, and outside of handlers, this is always true.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// #[derive(Serialize, Deserialize)]
    /// struct Search(u64);
    ///
    /// # #[derive(Default, Serialize, Deserialize)]
    /// # struct Solver;
    /// # impl Solver { fn is_solution(&self, candidate: u64) -> bool { candidate == 7 } }
    /// # impl Work for Solver { type Input = (); }
    /// impl Handle<Search> for Solver {
    ///     type Reply = Option<u64>;
    ///
    ///     async fn handle(&mut self, Search(limit): Search, cx: &mut WorkContext<Self>) -> Option<u64> {
    ///         (0..limit).take_while(|_| cx.caller_waits()).find(|candidate| self.is_solution(*candidate))
    ///     }
    /// }
    /// ```
    pub fn caller_waits(&self) -> bool {
        caller_waits()
    }

    /// Waits until nobody waits any more for the reply of the handler that calls this, as
    /// [`caller_waits`](Self::caller_waits) tells. In the handler of a `tell`, and outside of handlers, it waits forever.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// # #[derive(Serialize, Deserialize)]
    /// # struct Fetch(String);
    /// # #[derive(Default, Serialize, Deserialize)]
    /// # struct Proxy;
    /// # impl Work for Proxy { type Input = (); }
    /// # async fn download(_: String) -> Vec<u8> { Vec::new() }
    /// impl Handle<Fetch> for Proxy {
    ///     type Reply = Vec<u8>;
    ///
    ///     async fn handle(&mut self, Fetch(url): Fetch, cx: &mut WorkContext<Self>) -> Vec<u8> {
    ///         tokio::select! {
    ///             bytes = download(url) => bytes,
    ///             () = cx.caller_gone() => Vec::new(), // nobody reads it
    ///         }
    ///     }
    /// }
    /// ```
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped.
    pub async fn caller_gone(&self) {
        poll_fn(poll_caller_gone).await;
    }

    /// Defers the reply of the handler that calls this: the handler returns the [`Deferred`], and whoever has the
    /// [`ReplySender`] replies later, from the Work or from another task or thread.
    ///
    /// The handler of a `tell` gets a sender that drops what it sends, and so does one that has deferred its reply before.
    /// From here on the sender, and no longer [`caller_waits`](Self::caller_waits), tells whether the caller still waits.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// # use flowright::{Deferred, Messages, ReplySender};
    /// #[derive(Serialize, Deserialize)]
    /// struct Predict(f64);
    ///
    /// /// Answers questions in batches.
    /// #[derive(Default, Serialize, Deserialize)]
    /// struct Server {
    ///     #[serde(skip)]
    ///     waiting: Vec<(f64, ReplySender<f64>)>,
    /// }
    ///
    /// impl Work for Server {
    ///     type Input = ();
    /// }
    ///
    /// impl Handle<Predict> for Server {
    ///     type Reply = Deferred<f64>;
    ///
    ///     async fn handle(&mut self, Predict(x): Predict, cx: &mut WorkContext<Self>) -> Deferred<f64> {
    ///         let (deferred, reply) = cx.defer();
    ///         self.waiting.push((x, reply));
    ///         if self.waiting.len() == 2 {
    ///             for (x, reply) in self.waiting.drain(..).filter(|(_, reply)| reply.caller_waits()) {
    ///                 reply.send(2.0 * x);
    ///             }
    ///         }
    ///         deferred
    ///     }
    /// }
    /// # #[derive(Default, Serialize, Children)]
    /// # struct Root { server: WorkRef<Server> }
    /// # impl Flow for Root {
    /// #     fn react(&mut self, _: &mut FlowContext) -> Reaction { Ok(()) }
    /// # }
    /// # let app = flowright::testing::TestApp::start(Root::default);
    /// # let server = app.work::<Server>("server");
    /// # app.block_on(async {
    /// let (first, second) = tokio::join!(server.ask(Predict(1.0)), server.ask(Predict(4.0)));
    /// assert_eq!((first.unwrap(), second.unwrap()), (2.0, 8.0));
    /// # });
    /// ```
    pub fn defer<T: Message>(&mut self) -> (Deferred<T>, ReplySender<T>) {
        deferred::defer()
    }

    /// Replies with a stream to the message whose handler calls this: the handler returns the [`Streamed`], and whoever has
    /// the [`StreamSender`] sends the items, from the Work or from another task or thread, and also before the handler
    /// returns.
    ///
    /// The reader decides how many items are sent ahead of it ([`Ask::window`](crate::Ask::window)); the sender waits
    /// meanwhile. A handler that waits keeps all other messages of its Work waiting: move the sender to a task or to `run`
    /// if the stream is long.
    ///
    /// The stream ends with this incarnation at the latest. The handler of a `tell` gets a sender that is closed, because
    /// nobody reads it, and so does one that has made its stream before. From here on the sender, and no longer
    /// [`caller_waits`](Self::caller_waits), tells whether somebody still reads.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// # use flowright::{Messages, StreamSender, Streamed};
    /// # use futures::TryStreamExt;
    /// #[derive(Serialize, Deserialize)]
    /// struct Losses;
    ///
    /// /// Sends the loss of each epoch to all who have asked for them.
    /// #[derive(Default, Serialize, Deserialize)]
    /// struct Train {
    ///     #[serde(skip)]
    ///     readers: Vec<StreamSender<f64>>,
    /// }
    ///
    /// impl Work for Train {
    ///     type Input = u32;
    ///
    ///     async fn run(&mut self, epochs: u32, cx: &mut WorkContext<Self>) -> Result<()> {
    /// #       while self.readers.is_empty() { cx.turn(self).await?; }
    ///         for epoch in 1..=epochs {
    ///             cx.turn(self).await?; // handles messages
    ///             // A reader that is too slow, or has gone, gets no more.
    ///             self.readers.retain_mut(|reader| reader.try_send(1.0 / f64::from(epoch)).is_ok());
    ///         }
    ///         self.readers.drain(..).for_each(StreamSender::finish);
    ///         Ok(())
    ///     }
    /// }
    ///
    /// impl Handle<Losses> for Train {
    ///     type Reply = Streamed<f64>;
    ///
    ///     async fn handle(&mut self, _: Losses, cx: &mut WorkContext<Self>) -> Streamed<f64> {
    ///         let (streamed, sender) = cx.stream();
    ///         self.readers.push(sender);
    ///         streamed
    ///     }
    /// }
    /// # #[derive(Default, Serialize, Children)]
    /// # struct Root { train: WorkRef<Train> }
    /// # impl Flow for Root {
    /// #     fn react(&mut self, _: &mut FlowContext) -> Reaction { self.train.run(4); Ok(()) }
    /// # }
    /// # let app = flowright::testing::TestApp::start(Root::default);
    /// # let train = app.work::<Train>("train");
    /// # app.block_on(async {
    /// let losses: Vec<f64> = train.stream(Losses).await?.try_collect().await?;
    /// assert_eq!(losses, [1.0, 0.5, 1.0 / 3.0, 0.25]);
    /// # Ok::<_, Error>(())
    /// # }).unwrap();
    /// ```
    pub fn stream<T: Message>(&mut self) -> (Streamed<T>, StreamSender<T>) {
        let runtime = &self.identity.runtime;
        let (sender, of_incarnation) = streamed::open(take_stream_caller(), || OpenStream::of(runtime));
        if let Some(stream) = of_incarnation {
            self.receiver().keep_with_incarnation(&stream);
        }
        (Streamed::new(), sender)
    }

    /// Replies with the items of `items` to the message whose handler calls this, as [`stream`](Self::stream) does. A task
    /// of the thread of this Work polls `items` while the Work goes on; it drops them when nobody reads any more, and when
    /// the incarnation ends.
    ///
    /// A panic of `items` ends the stream with [`StreamError::Failed`](crate::StreamError::Failed), which
    /// [`StreamSender::fail`] sends as well. An error that the reader is to get as a value is part of `T`.
    pub fn stream_of<T: Message>(&mut self, items: impl Stream<Item = T> + 'static) -> Streamed<T> {
        let (streamed, sender) = self.stream();
        tokio::task::spawn_local(sender.send_all(items));
        streamed
    }

    /// Obeys the waiting commands.
    fn hear(&mut self) {
        while !self.asked().stop
            && let Some(command) = self.receiver().command()
        {
            self.obey(command);
        }
    }

    /// Returns the part of this type of the App's runtime.
    pub(super) fn part<P: Any + Send + Sync>(&self) -> Option<Arc<P>> {
        self.identity.runtime.part()
    }

    /// Returns the Work's path from the root of the App.
    pub fn path(&self) -> &ActorPath {
        &self.identity.path
    }

    /// Returns the Work's own address.
    pub fn addr(&self) -> WorkAddr<W> {
        WorkAddr::new(
            self.identity.runtime.app(),
            self.identity.path.clone(),
            self.inbox.lock().receiver.mailbox().clone(),
        )
    }

    /// Returns the number of the attempt at the current run, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    pub(super) fn begin(&mut self, order: &mut RunOrder) {
        self.attempt = order.attempt;
        self.current = Some(order.run);
        self.asked().cancel = false;
        self.know(std::mem::take(&mut order.steps));
    }

    /// Ends the current run.
    pub(super) fn end(&mut self) {
        self.current = None;
        self.asked().cancel = false;
        self.know(Steps::default());
    }

    /// Removes and returns the output of the run.
    pub(super) fn take_output(&self) -> Option<KnownStep> {
        self.steps.get()?.take_output()
    }

    /// Replaces the steps that are known of the run.
    fn know(&mut self, steps: Steps) {
        if self.steps.get().is_some() || !steps.is_empty() {
            self.steps().begin(steps);
        }
    }

    /// Answers the watches of this incarnation.
    pub(super) fn ended(&mut self, end: &End) {
        self.receiver().ended(end);
    }

    /// Keeps a watch for this incarnation.
    pub(super) fn keep_watch(&mut self, watch: Box<Watch<W>>) {
        self.receiver().keep_watch(watch);
    }

    /// Returns the requests of the Flow.
    pub(super) fn asked(&mut self) -> &mut FlowRequests {
        &mut self.inbox.get_mut().asked
    }

    pub(super) fn receiver(&mut self) -> &mut Receiver<W> {
        &mut self.inbox.get_mut().receiver
    }

    pub(super) fn runtime(&self) -> &Arc<Runtime> {
        &self.identity.runtime
    }

    pub(super) fn steps(&self) -> &RunSteps {
        self.steps.get_or_init(Box::default)
    }

    fn timers(&mut self) -> &mut Timers {
        self.timers.get_or_insert_default()
    }

    pub(super) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    pub(super) fn take_trouble(&mut self) -> Option<StateError> {
        self.trouble.take().map(|error| *error)
    }

    pub(super) async fn next(&mut self) -> Mail<W> {
        poll_fn(|cx| self.receiver().poll(cx)).await
    }

    fn check(&mut self) -> Result<(), Stopped> {
        let is_asked_to_leave = self.asked().asks_to_leave();
        if is_asked_to_leave || self.trouble.is_some() { Err(Stopped) } else { Ok(()) }
    }

    fn accept(&mut self, mail: Mail<W>) -> Option<BoxedEnvelope<W>> {
        match mail {
            Mail::Message(envelope) => Some(envelope),
            Mail::Command(command) => {
                self.obey(command);
                None
            }
        }
    }

    pub(super) fn obey(&mut self, command: Command) {
        let mut asked = std::mem::take(self.asked());
        self.obey_in(&mut asked, command);
        *self.asked() = asked;
    }

    fn obey_in(&self, asked: &mut FlowRequests, command: Command) {
        match command {
            Command::Stop => asked.stop = true,
            // A run that waits behind a busy handler is removed before it begins.
            Command::Cancel { run } if asked.run.as_ref().is_some_and(|order| order.run == run) => {
                asked.run = None;
                self.outbox.report(Report::RunStopped { run });
            }
            Command::Cancel { run } => asked.cancel |= self.current == Some(run),
            Command::Run(order) => asked.run = Some(order),
            Command::Durable { barrier } => self.steps().durable(barrier),
        }
    }
}
