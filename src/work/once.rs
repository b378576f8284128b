//! Steps of a run: what is carried out once and remembered until the run succeeds.

use std::future::{Future, IntoFuture, poll_fn};
use std::marker::PhantomData;
use std::pin::pin;
use std::task::Poll;

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::outbox::Report;
use super::run::Input;
use super::run_steps::{Claim, Found};
use super::steps::{KnownStep, MAX_STEP_NAME, StepId, StepOutcome, StepValue, new_key};
use super::{StepError, Work, WorkContext};
use crate::error::Result;
use crate::wire::CodecError;

/// Policy of [`once`](WorkContext::once) for the case that an attempt before has intended the action and has not recorded
/// its outcome, so that the action may have been carried out or not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum InDoubt {
    /// Carries the action out again, with the same key, by which its recipient recognises the repetition. The default.
    #[default]
    Repeat,
    /// Fails with [`StepError::InDoubt`], for actions whose recipient takes no key.
    Fail,
}

/// An action that is carried out once; returned by [`WorkContext::once`]. Does nothing until it is awaited.
#[must_use = "does nothing until it is awaited"]
pub struct Once<'a, W: Work, T, F> {
    cx: &'a WorkContext<W>,
    name: &'a str,
    action: F,
    in_doubt: InDoubt,
    value: PhantomData<fn() -> T>,
}

impl<W: Work, T, F> std::fmt::Debug for Once<'_, W, T, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Once")
            .field("name", &self.name)
            .field("in_doubt", &self.in_doubt)
            .finish_non_exhaustive()
    }
}

impl<W: Work, T, F> Once<'_, W, T, F> {
    /// Sets what to do when it is in doubt whether an attempt before has carried the action out; by default it is carried
    /// out again with the same key.
    pub fn in_doubt(self, in_doubt: InDoubt) -> Self {
        Self { in_doubt, ..self }
    }
}

impl<'a, W, T, F> IntoFuture for Once<'a, W, T, F>
where
    W: Work,
    T: Serialize + DeserializeOwned + 'a,
    F: AsyncFnOnce(String) -> Result<T> + 'a,
{
    type Output = Result<T>;
    type IntoFuture = LocalBoxFuture<'a, Result<T>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { cx, name, action, in_doubt, .. } = self;
        cx.act_once(name, action, in_doubt).boxed_local()
    }
}

impl<W: Work> WorkContext<W> {
    /// Carries `action` out once in the run in progress, and remembers its value: a later call with this name and equal
    /// arguments returns the value and does not poll `action`. That holds **until the run succeeds**, whatever happens in
    /// between: for the attempt after a failure or a restart of the Work, on another node when the first is lost, and,
    /// with a journal, after the end of the whole App. The value is durable before this returns.
    ///
    /// A run that fails for good or is stopped keeps its steps, and so the same input continues with them when it is
    /// requested or [rerun](crate::WorkRef::rerun) later. They are forgotten when the run succeeds, and when its input is
    /// forgotten ([`forget`](crate::WorkRef::forget), [`remember`](crate::WorkRef::remember)).
    ///
    /// The arguments identify the step together with its name, and are compared like inputs of runs: pass everything on
    /// which the value depends. Two calls with the same name and arguments are the same step; if they are made at the
    /// same time, the second waits for the first. `action` may use the context and borrow the Work:
    ///
    /// ```
    /// use flowright::prelude::*;
    ///
    /// #[derive(Default, Serialize, Deserialize)]
    /// struct Search {
    ///     best: f64,
    ///     tried: u32,
    /// }
    ///
    /// impl Search {
    ///     async fn evaluate(&mut self, rate: f64) -> Result<f64> {
    ///         self.tried += 1;
    ///         Ok(1.0 - rate)
    ///     }
    /// }
    ///
    /// impl Work for Search {
    ///     type Input = Vec<f64>;
    ///
    ///     async fn run(&mut self, rates: Vec<f64>, cx: &mut WorkContext<Self>) -> Result<()> {
    ///         for rate in rates {
    ///             let score = cx.step("evaluate", &rate, self.evaluate(rate)).await?;
    ///             self.best = self.best.max(score);
    ///         }
    ///         let weights = cx.step("weights", &(), async { Ok(cx.payload(vec![self.best; 1_000])?) }).await?;
    ///         assert_eq!(weights.value().await?.len(), 1_000);
    ///         Ok(())
    ///     }
    /// }
    /// # #[derive(Default, Serialize, Children)]
    /// # struct Root { search: WorkRef<Search> }
    /// # impl Flow for Root {
    /// #     fn react(&mut self, cx: &mut FlowContext) -> Reaction {
    /// #         let search = self.search.run(vec![0.5, 0.1, 0.5]).finished()?;
    /// #         assert_eq!((search.best, search.tried), (0.9, 2));
    /// #         cx.stop("done");
    /// #         Ok(())
    /// #     }
    /// # }
    /// # flowright::testing::TestApp::start(Root::default).wait_for_exit().result.unwrap();
    /// ```
    ///
    /// Only the value is remembered. What `action` changes in the Work's fields is not repeated when the value is known:
    /// an attempt starts from the fields that were published last.
    ///
    /// The value is returned as it is remembered, encoded and decoded again. It may have up to 1 MiB; return a
    /// [`Payload`](crate::Payload) for more. Payloads in it are kept alive as long as it is remembered. A run remembers up
    /// to 10,000 steps with 64 MiB in total.
    ///
    /// Messages are not served meanwhile. In a handler, the step belongs to the run in progress.
    ///
    /// # Cancel safety
    /// A future that is dropped drops `action`, and nothing is remembered unless it had ended. Several steps may be
    /// awaited at once, as with `tokio::try_join!`.
    ///
    /// # Errors
    /// - An error of `action`, as it is. It is not remembered: the next call carries `action` out again.
    /// - [`Stopped`](crate::Stopped) at once when the Work is asked to stop; `action` is dropped then.
    /// - [`StepError`], if there is no run, the name, the value or the number of steps exceeds a limit, or the value
    ///   cannot be encoded, or be decoded as `T`.
    pub fn step<'a, T, A, F>(
        &'a self,
        name: &'a str,
        args: &A,
        action: F,
    ) -> impl Future<Output = Result<T>> + use<'a, W, T, A, F>
    where
        T: Serialize + DeserializeOwned,
        A: Serialize + ?Sized,
        F: Future<Output = Result<T>>,
    {
        // Here, so that the future does not borrow the arguments.
        let id = id_of(name, args);
        async move {
            let id = id.map_err(|error| StepError::Args { name: name.to_owned(), error })?;
            let claim = match self.find_step(id, name).await? {
                Sought::Known { outcome: StepOutcome::Done { value }, barrier, claim } => {
                    self.until_durable(barrier).await?;
                    drop(claim);
                    return Ok(value.decode(name)?);
                }
                // A step has no intent.
                Sought::Known { claim, .. } | Sought::New(claim) => claim,
            };
            let value = self.wait(self.act(id, action)).await??;
            self.remember(id, name, &value, claim).await
        }
    }

    /// Carries out an action that has effects outside of the App, such as a payment, as close to once as its recipient
    /// allows: records the intent, then acts, then records the value, each durable before the next (with a journal; see
    /// [`step`](Self::step) for how long it is remembered, and for limits). When the value is known, it is returned and
    /// `action` is not called.
    ///
    /// `action` is given a key, a text of 32 random hexadecimal digits, that is the same in every attempt of this run and
    /// belongs to this name only. An attempt that finds the intent of an earlier one without a value cannot know whether
    /// the action took effect: it calls `action` again with the same key, and a recipient that takes *idempotency keys*
    /// ignores the repetition. For others, [`in_doubt`](Once::in_doubt) makes it an error:
    ///
    /// ```
    /// use flowright::InDoubt;
    /// use flowright::prelude::*;
    ///
    /// # async fn charge(_amount: u32, _key: &str) -> Result<u64> { Ok(7) }
    /// # async fn send_mail(_receipt: u64) -> Result<()> { Ok(()) }
    /// # #[derive(Default, Serialize, Deserialize)]
    /// # struct Sell;
    /// # impl Work for Sell {
    /// #     type Input = u32;
    /// async fn run(&mut self, amount: u32, cx: &mut WorkContext<Self>) -> Result<()> {
    ///     let receipt = cx.once("charge", async |key| charge(amount, &key).await).await?;
    ///     cx.once("mail", async |_| send_mail(receipt).await).in_doubt(InDoubt::Fail).await?;
    ///     Ok(())
    /// }
    /// # }
    /// # #[derive(Default, Serialize, Children)]
    /// # struct Root { sell: WorkRef<Sell> }
    /// # impl Flow for Root {
    /// #     fn react(&mut self, cx: &mut FlowContext) -> Reaction {
    /// #         self.sell.run(10).finished()?;
    /// #         cx.stop("done");
    /// #         Ok(())
    /// #     }
    /// # }
    /// # flowright::testing::TestApp::start(Root::default).wait_for_exit().result.unwrap();
    /// ```
    ///
    /// Two calls with the same name in a run are the same action; a loop puts the item into the name. A request to stop
    /// does not interrupt `action`, so that it is not left in doubt without need; it must end within the grace period.
    ///
    /// # Cancel safety
    /// A future that is dropped before `action` has ended leaves the intent, and the action in doubt.
    ///
    /// # Errors
    /// - An error of `action`, as it is. It leaves the action in doubt, because the effect may have taken place.
    /// - [`Stopped`](crate::Stopped) when the Work is asked to stop while nothing is under way.
    /// - [`StepError`] as for `step`, and [`StepError::InDoubt`] after [`InDoubt::Fail`].
    pub fn once<'a, T, F>(&'a self, name: &'a str, action: F) -> Once<'a, W, T, F>
    where
        T: Serialize + DeserializeOwned,
        F: AsyncFnOnce(String) -> Result<T>,
    {
        Once { cx: self, name, action, in_doubt: InDoubt::default(), value: PhantomData }
    }

    async fn act_once<T, F>(&self, name: &str, action: F, in_doubt: InDoubt) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        F: AsyncFnOnce(String) -> Result<T>,
    {
        let id = StepId::of_once(name);
        let (key, barrier, claim) = match self.find_step(id, name).await? {
            Sought::Known { outcome: StepOutcome::Done { value }, barrier, claim } => {
                self.until_durable(barrier).await?;
                drop(claim);
                return Ok(value.decode(name)?);
            }
            Sought::Known { outcome: StepOutcome::Intended { key }, .. } if in_doubt == InDoubt::Fail => {
                return Err(StepError::InDoubt { name: name.to_owned(), key }.into());
            }
            Sought::Known { outcome: StepOutcome::Intended { key }, barrier, claim } => (key, barrier, claim),
            Sought::New(claim) => {
                let key = new_key();
                let barrier = self.report_step(id, name, StepOutcome::Intended { key: key.clone() })?;
                (key, barrier, claim)
            }
        };
        self.until_durable(barrier).await?;
        let value = self.act(id, action(key)).await?;
        self.remember(id, name, &value, claim).await
    }

    /// Looks for a step of the run in progress, and claims it; waits while its action is in progress.
    async fn find_step(&self, id: StepId, name: &str) -> Result<Sought<'_>> {
        if self.current.is_none() {
            return Err(StepError::NoRun { name: name.to_owned() }.into());
        }
        if name.len() > MAX_STEP_NAME {
            return Err(StepError::NameTooLong { length: name.len(), limit: MAX_STEP_NAME }.into());
        }
        let found = poll_fn(|_| {
            Poll::Ready(Ok(match self.steps().find(id) {
                Found::Claimed => return Poll::Pending,
                Found::Known { outcome, barrier, claim } => Sought::Known { outcome, barrier, claim },
                Found::New(claim) => Sought::New(claim),
                Found::Nested => return Poll::Ready(Err(StepError::Nested { name: name.to_owned() })),
                Found::Full(limit) => {
                    let (name, limit) = (name.to_owned(), limit.to_string());
                    return Poll::Ready(Err(StepError::TooMany { name, limit }));
                }
            }))
        });
        Ok(self.wait(found).await??)
    }

    /// Carries out the action of a step.
    async fn act<F: Future>(&self, id: StepId, action: F) -> F::Output {
        let mut action = pin!(action);
        poll_fn(|cx| self.steps().polling(id, || action.as_mut().poll(cx))).await
    }

    /// Remembers the value of a step, and returns it as it is remembered once it is durable.
    async fn remember<T>(&self, id: StepId, name: &str, value: &T, claim: Claim<'_>) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
    {
        let value = StepValue::new(name, value)?;
        let returned = value.decode(name)?;
        let barrier = self.report_step(id, name, StepOutcome::Done { value })?;
        drop(claim);
        self.until_durable(barrier).await?;
        Ok(returned)
    }

    /// Remembers a step and reports it. Returns the barrier behind it.
    fn report_step(&self, id: StepId, name: &str, outcome: StepOutcome) -> Result<u64> {
        let run = self.current.ok_or_else(|| StepError::NoRun { name: name.to_owned() })?;
        let step = KnownStep { id, name: name.to_owned(), outcome };
        let remembered = self.steps().remember(step.clone());
        let barrier = remembered.map_err(|limit| {
            let (name, limit) = (name.to_owned(), limit.to_string());
            StepError::TooMany { name, limit }
        })?;
        self.report_before(barrier, Some(Report::Stepped { run, step }));
        Ok(barrier)
    }
}

/// Returns the identity of the step with this name and these arguments.
fn id_of<A: Serialize + ?Sized>(name: &str, args: &A) -> Result<StepId, CodecError> {
    Input::new(&args).map(|(key, _)| StepId::of_step(name, key.to_bytes()))
}

/// A step that was looked for.
enum Sought<'a> {
    Known {
        outcome: StepOutcome,
        /// Barrier behind which the outcome is durable.
        barrier: u64,
        claim: Claim<'a>,
    },
    New(Claim<'a>),
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// The name, the arguments and the kind of a step each make another step; the order of the entries of a map does
    /// not.
    #[test]
    fn step_is_identified_by_name_and_arguments() {
        let ids = [
            id_of("a", &1).unwrap(),
            id_of("a", &2).unwrap(),
            id_of("b", &1).unwrap(),
            id_of("a", &()).unwrap(),
            StepId::of_once("a"),
            StepId::of_once("b"),
        ];
        for (i, a) in ids.iter().enumerate() {
            for (j, b) in ids.iter().enumerate() {
                assert_eq!(a == b, i == j, "{i} {j}");
            }
        }
        let maps: [HashMap<u8, u8>; 2] =
            [(0..50).map(|n| (n, n)).collect(), (0..50).rev().map(|n| (n, n)).collect()];
        assert_eq!(id_of("a", &maps[0]).unwrap(), id_of("a", &maps[1]).unwrap());
    }
}
