//! Batches: messages of one type that one call of a handler gets together.
//!
//! # Guarantees
//! - A batch has at most [`Batch::of`] messages, in the order of the mailbox, and one caller is answered for each.
//! - Batches change no order: a batch ends where the next message in the mailbox has another type.
//! - A batch waits for more messages no longer than [`Batch::within`] after its first one was taken, and not at all once
//!   the Work has a command to obey.
//! - Messages whose callers give up while the batch gathers are not handled.

use std::future::Future;

use super::batch::Batch;
use super::message::{Handle, Message};
use super::{Work, WorkContext};

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
