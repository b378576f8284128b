//! What a Work's code can do.

use std::error::Error as StdError;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::future::maybe_done;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Work;
use super::actor::{Abort, Handling, Serving, is_handling};
use super::address::WorkAddr;
use super::gpus::Gpus;
use super::mailbox::{Mail, Receiver};
use super::message::Envelope;
use super::outbox::{Outbox, Report};
use super::run::{Command, RunOrder};
use crate::error::Error;
use crate::fence;
use crate::id::{ActorPath, AppId};
use crate::payload::{self, Artifact, ArtifactError, Files, Payload, PayloadError};
use crate::state::{StateError, Tracker};
use crate::trace::{Cause, Span, What};

/// The Work was asked to stop. Passed on by `?`, it ends the run or hook in good order, also inside an error of the
/// user's own that has it as its source or is transparent to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped;

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the Work was asked to stop")
    }
}

impl StdError for Stopped {
    /// The `Request`, which remains in the chain of an error that is transparent to this one.
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&Request)
    }
}

/// The source of [`Stopped`]. An error that is transparent to another forwards `source` to it, and so leaves the other
/// itself out of its chain; this is what such a chain of a [`Stopped`] is recognised by.
#[derive(Debug, thiserror::Error)]
#[error("by its Flow, by an operator, or because the App ends")]
struct Request;

/// Whether an error is a [`Stopped`] that was passed on.
pub(super) fn is_stop(error: &Error) -> bool {
    let is_passed_on = || error.chain().any(|error| error.is::<Stopped>() || error.is::<Request>());
    // `source` is code of the user's.
    fence::call(is_passed_on).unwrap_or(false)
}

/// Who an incarnation is.
pub(crate) struct Identity {
    pub(crate) app: AppId,
    pub(crate) path: ActorPath,
    pub(crate) gpus: Gpus,
}

/// What a Work's `run`, handlers and hooks do with the world: publish, sleep, take turns with the mailbox, make
/// payloads.
pub struct WorkContext<W: Work> {
    identity: Identity,
    receiver: Receiver<W>,
    outbox: Arc<Outbox>,
    abort: Arc<Abort>,
    tracker: Tracker,
    /// Whether the state as last published refers to payloads.
    holds: bool,
    attempt: u32,
    pub(super) current: Option<u64>,
    pub(super) asked: AskEnvelope,
    /// Boxed: hardly ever there.
    trouble: Option<Box<StateError>>,
}

/// What the Flow has asked for that was not done yet.
#[derive(Default)]
pub(super) struct AskEnvelope {
    pub(super) stop: bool,
    pub(super) cancel: bool,
    pub(super) run: Option<RunOrder>,
    /// Whether `on_stop` has begun. It waits as long as it asks to, and leaves the mailbox alone.
    pub(super) leaving: bool,
}

/// At most this many messages are served before others on the thread get their turn.
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
            receiver,
            outbox,
            abort,
            tracker,
            holds: true,
            attempt: 0,
            current: None,
            asked: AskEnvelope::default(),
            trouble: None,
        }
    }

    /// Indices of the graphics processors that are assigned to this Work, as many as [`Resources::gpus`](crate::Resources) says
    /// that it needs; no other Work of this machine has them meanwhile.
    ///
    /// They count the devices that this process sees. A Work with a process of its own sees no others
    /// (`CUDA_VISIBLE_DEVICES`, `ROCR_VISIBLE_DEVICES` and `ONEAPI_DEVICE_SELECTOR` are set for it), so that its indices begin
    /// at 0. The list is empty for a Work that needs none, and on a head that knows of no devices.
    pub fn gpus(&self) -> &[u32] {
        self.identity.gpus.indices()
    }

    /// Tells the Flow what changed in the Work's state since the last time. Costs what comparing costs; never
    /// blocks.
    ///
    /// Several fields changed in between arrive together. Under load a Flow may skip intermediate values, never
    /// sees an older one after a newer one, and always sees the last. What must not be skipped is a message.
    ///
    /// A state that does not serialise or is above the App's limit is not published and fails the Work: at the
    /// next point where it takes turns, or at the end of the run.
    pub fn publish(&mut self, work: &W) {
        let (result, holds) = payload::collect(|| self.tracker.update(work));
        match result {
            Ok(Some(patch)) => {
                let has_holds = !holds.is_empty();
                let changed = has_holds || self.holds;
                self.holds = has_holds;
                let span = Span::start(What::Publish, self.identity.path.as_str(), &[Cause::current()]);
                span.within(|| self.outbox.publish(patch, changed.then_some(holds)));
            }
            Ok(None) => {}
            Err(error) => self.trouble = Some(Box::new(error)),
        }
    }

    /// Serves the messages that wait, then lets others on this thread have a turn.
    ///
    /// In a handler it only lets others on the thread have a turn: handlers do not nest.
    ///
    /// # Errors
    /// [`Stopped`] when the Work is asked to stop. Not in `on_stop`, where no message is served any more either.
    pub async fn turn(&mut self, work: &mut W) -> Result<(), Stopped> {
        if self.asked.leaving || is_handling() {
            tokio::task::yield_now().await;
            if !self.asked.leaving {
                self.hear();
            }
            return self.check();
        }
        let _serving = Serving::begin();
        for _ in 0..BUDGET {
            let mail = poll_fn(|cx| Poll::Ready(self.receiver.poll(cx))).await;
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
    /// In a handler it only waits, and messages wait behind that handler: handlers do not nest.
    ///
    /// # Errors
    /// [`Stopped`] at once when the Work is asked to stop. In `on_stop` it only waits, within the grace period.
    pub async fn sleep(&mut self, work: &mut W, duration: Duration) -> Result<(), Stopped> {
        self.serve(work, tokio::time::sleep(duration)).await
    }

    /// Waits for `future` and serves messages meanwhile; the future goes on while a handler does.
    ///
    /// In a handler it only waits, and messages wait behind that handler: handlers do not nest. What a Work should do while it
    /// serves belongs into its `run`.
    ///
    /// # Errors
    /// [`Stopped`] at once when the Work is asked to stop; the future is dropped then. In `on_stop` it only waits for the
    /// future, within the grace period.
    pub async fn serve<F: Future>(&mut self, work: &mut W, future: F) -> Result<F::Output, Stopped> {
        if self.asked.leaving {
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
                if let Poll::Ready(mail) = self.receiver.poll(cx) {
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
                // A mailbox that never runs dry must not keep the future waiting for ever.
                let done = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_ready())).await;
                self.check()?;
                if done {
                    return Ok(future.take_output().expect("it has ended"));
                }
                tokio::task::yield_now().await;
            }
        }
    }

    /// Waits for `future`, and serves no messages.
    async fn wait<F: Future>(&mut self, future: F) -> Result<F::Output, Stopped> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            loop {
                if let Err(stopped) = self.check() {
                    return Poll::Ready(Err(stopped));
                }
                match self.receiver.poll_command(cx) {
                    Poll::Ready(command) => self.obey(command),
                    Poll::Pending => return future.as_mut().poll(cx).map(Ok),
                }
            }
        })
        .await
    }

    /// Serves messages until the Work is asked to stop.
    ///
    /// In a handler it only waits until then, and no other message is handled any more: it belongs into `run`.
    ///
    /// # Errors
    /// Always [`Stopped`], in the end; in `on_stop` at once.
    pub async fn serve_forever(&mut self, work: &mut W) -> Result<std::convert::Infallible, Stopped> {
        if self.asked.leaving {
            return Err(Stopped);
        }
        self.serve(work, std::future::pending()).await
    }

    /// Keeps `value` here and gives a small reference to it, which can be part of the state, inputs and messages.
    ///
    /// # Errors
    /// [`PayloadError::Unserialisable`] when the value could never travel.
    pub fn payload<T>(&self, value: T) -> Result<Payload<T>, PayloadError>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        Payload::new(value, self.identity.app, &self.identity.path)
    }

    /// Copies the file or directory at `path` and gives a small reference to it, which can be part of the state, inputs and
    /// messages. What becomes of the files afterwards does not change it.
    ///
    /// [`Files`] says what of a directory is left out: `cx.artifact(Files::at("model").exclude("*.tmp"))`.
    ///
    /// The files are read, and a copy of them is written to disk, on the calling thread: a Work with a thread of its own, as is
    /// the default, holds nobody up by that.
    ///
    /// # Errors
    /// [`ArtifactError`], where something cannot be read, is no file, or leads out of the directory, and where there is no
    /// room on disk.
    pub fn artifact(&self, files: impl Into<Files>) -> Result<Artifact, ArtifactError> {
        Artifact::new(&files.into(), self.identity.app, &self.identity.path)
    }

    /// Whether the Work has been asked to stop, for code that does not take turns.
    pub fn is_stopping(&mut self) -> bool {
        // An incarnation that was given up gets no more commands of its own.
        self.asked.stop |= self.abort.is_raised();
        self.hear();
        self.asked.stop || self.asked.cancel
    }

    /// Takes the commands that wait.
    fn hear(&mut self) {
        while !self.asked.stop
            && let Some(command) = self.receiver.command()
        {
            self.obey(command);
        }
    }

    /// The Work's path from the root of the App.
    pub fn path(&self) -> &ActorPath {
        &self.identity.path
    }

    /// The Work's own address.
    pub fn addr(&self) -> WorkAddr<W> {
        WorkAddr::new(self.identity.app, self.identity.path.clone(), self.receiver.mailbox().clone())
    }

    /// Which try of this run it is, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    pub(super) fn begin(&mut self, order: &RunOrder) {
        self.attempt = order.attempt;
        self.current = Some(order.run);
        self.asked.cancel = false;
    }

    pub(super) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    pub(super) fn take_trouble(&mut self) -> Option<StateError> {
        self.trouble.take().map(|error| *error)
    }

    pub(super) async fn next(&mut self) -> Mail<W> {
        poll_fn(|cx| self.receiver.poll(cx)).await
    }

    fn check(&self) -> Result<(), Stopped> {
        let asked = (self.asked.stop || self.asked.cancel) && !self.asked.leaving;
        if asked || self.trouble.is_some() { Err(Stopped) } else { Ok(()) }
    }

    fn accept(&mut self, mail: Mail<W>) -> Option<Envelope<W>> {
        match mail {
            Mail::Message(envelope) => Some(envelope),
            Mail::Command(command) => {
                self.obey(command);
                None
            }
        }
    }

    pub(super) fn obey(&mut self, command: Command) {
        match command {
            Command::Stop => self.asked.stop = true,
            // One that a busy handler has not let begin does not begin.
            Command::Cancel { run } if self.asked.run.as_ref().is_some_and(|order| order.run == run) => {
                self.asked.run = None;
                self.outbox.report(Report::RunStopped { run });
            }
            Command::Cancel { run } => self.asked.cancel |= self.current == Some(run),
            Command::Run(order) => self.asked.run = Some(order),
        }
    }
}
