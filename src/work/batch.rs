//! Batches: messages of one type that one call of a handler gets together.
//!
//! # Guarantees
//! - A batch has at most [`Batch::of`] messages, in the order of the mailbox, and one caller is answered for each.
//! - Batches change no order: a batch ends where the next message in the mailbox has another type.
//! - A batch waits for more messages no longer than [`Batch::within`] after its first one was taken, and not at all once
//!   the Work has a command to obey.
//! - Messages whose callers give up while the batch gathers are not handled.

use std::any::TypeId;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use super::envelope::{AnyEnvelope, Envelope};
use super::message::{Handle, Message};
use super::message_counts::count_abandoned;
use super::{Work, WorkContext};

/// Bounds of the batches that a [`HandleBatch`] gets: the number of messages, and the time to wait for them.
///
/// By default up to 32 messages that gather within 5 ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    messages: usize,
    within: Duration,
}

impl Batch {
    /// Returns bounds of up to this many messages, at least 1, that gather within 5 ms.
    #[must_use]
    pub const fn of(messages: usize) -> Self {
        Self { messages: if messages == 0 { 1 } else { messages }, within: Duration::from_millis(5) }
    }

    /// Sets the longest time to wait for more messages after the first one. With [`Duration::ZERO`], a batch has those
    /// that already wait in the mailbox.
    #[must_use]
    pub const fn within(self, within: Duration) -> Self {
        Self { within, ..self }
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self::of(32)
    }
}

/// A handler for messages of type `M` that gets several of them at a time, as a model does that predicts for many inputs
/// at once (adaptive batching; Crankshaw et al., "Clipper", 2017).
///
/// A Work that has it also has a [`Handle<M>`]: each caller sends one message and gets one reply. In
/// [`Work::messages`] the type is declared as any other.
///
/// ```
/// # use flowright::prelude::*;
/// # use flowright::{Batch, HandleBatch, Messages};
/// # use flowright::testing::TestApp;
/// #[derive(Serialize, Deserialize)]
/// struct Predict(f64);
///
/// #[derive(Default, Serialize, Deserialize)]
/// struct Server;
///
/// impl Work for Server {
///     type Input = ();
///
///     fn messages(messages: &mut Messages<Self>) {
///         messages.accept::<Predict>();
///     }
/// }
///
/// impl HandleBatch<Predict> for Server {
///     type Reply = std::result::Result<f64, String>;
///
///     fn batch(&self) -> Batch {
///         Batch::of(16).within(Duration::from_millis(2))
///     }
///
///     async fn handle_batch(&mut self, batch: Vec<Predict>, _cx: &mut WorkContext<Self>) -> Vec<Self::Reply> {
///         // A bad message fails only its own caller.
///         let predict = |Predict(x)| if x.is_nan() { Err("not a number".to_owned()) } else { Ok(2.0 * x) };
///         batch.into_iter().map(predict).collect()
///     }
/// }
///
/// let app = TestApp::start_app(App::of_work(Server::default));
/// app.wait_for_stage("work", Stage::Running);
/// let server = app.work::<Server>("work");
/// let (good, bad) = app.block_on(async { tokio::join!(server.ask(Predict(1.5)), server.ask(Predict(f64::NAN))) });
/// assert_eq!(good.unwrap(), Ok(3.0));
/// assert!(bad.unwrap().is_err());
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no handler for the message `{M}`",
    label = "this Work does not handle it",
    note = "write `impl Handle<{M}> for {Self} {{ type Reply = …; async fn handle(…) -> … }}`"
)]
pub trait HandleBatch<M: Message>: Work {
    /// The reply to each message: a `Result` where one of them can fail by itself.
    type Reply: Message;

    /// Returns the bounds of the next batch. Called when the first message of it has been taken out of the mailbox.
    fn batch(&self) -> Batch {
        Batch::default()
    }

    /// Handles the messages of a batch, in the order in which they arrived, and returns their replies in the same order.
    /// The batch has at least one message; those of a `tell` are part of it, and their replies are dropped.
    ///
    /// If the number of replies is not that of the messages, it is unknown whose they are: the error is logged, and each
    /// caller gets [`AskError::Failed`](crate::AskError::Failed). After a panic, and if the incarnation is ended by
    /// force, all callers get it as well.
    ///
    /// While a batch gathers and is handled, no other message of the Work is. [`WorkContext::caller_waits`] is true here,
    /// and [`WorkContext::defer`] has no effect: the replies are those that are returned.
    fn handle_batch(
        &mut self,
        batch: Vec<M>,
        cx: &mut WorkContext<Self>,
    ) -> impl Future<Output = Vec<Self::Reply>>;
}

impl<W: HandleBatch<M>, M: Message> Handle<M> for W {
    type Reply = <W as HandleBatch<M>>::Reply;

    async fn handle(&mut self, message: M, cx: &mut WorkContext<Self>) -> Self::Reply {
        let mut replies = self.handle_batch(vec![message], cx).await;
        assert_eq!(replies.len(), 1, "`handle_batch` returns one reply for one message");
        replies.remove(0)
    }

    fn batch_bounds(&self) -> Option<Batch> {
        Some(self.batch())
    }

    async fn handle_all(&mut self, batch: Vec<M>, cx: &mut WorkContext<Self>) -> Vec<Self::Reply> {
        self.handle_batch(batch, cx).await
    }
}

/// Takes the messages out of the mailbox that are to be handled together with `first`, and returns all whose callers
/// still wait.
pub(super) async fn gather<W: Handle<M>, M: Message>(
    first: Box<Envelope<W, M>>,
    bounds: Batch,
    cx: &mut WorkContext<W>,
) -> Vec<Box<Envelope<W, M>>> {
    let mut batch = vec![first];
    let message = TypeId::of::<M>();
    let mut time = pin!(None);
    while batch.len() < bounds.messages {
        let next = poll_fn(|task| {
            if let Poll::Ready(next) = cx.receiver().poll_same(message, task) {
                return Poll::Ready(next);
            }
            if bounds.within.is_zero() {
                return Poll::Ready(None);
            }
            if time.is_none() {
                time.set(Some(tokio::time::sleep(bounds.within)));
            }
            time.as_mut().as_pin_mut().map_or(Poll::Ready(None), |time| time.poll(task).map(|()| None))
        });
        let Some(next) = next.await else { break };
        batch.push(Envelope::of_type(next));
    }
    let gathered = batch.len();
    batch.retain(|envelope| !envelope.is_abandoned());
    count_abandoned(gathered - batch.len());
    batch
}
