//! The futures of an ask, and of opening a stream.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};

use super::cycles::{AskId, SLOW, SLOWER, SlowAsk};
use super::executing::{handler_under_way, polls_slow_ask};
use super::message::AskError;
use super::message_counts::count_deadlock;
use super::stream_window::{DEFAULT_STREAM_WINDOW, LARGEST_WINDOW};
use crate::id::ActorPath;

/// Default timeout of [`WorkAddr::ask`](crate::WorkAddr::ask): 30 s.
pub const DEFAULT_ASK_TIMEOUT: Duration = Duration::from_secs(30);

/// The way to a Work.
pub(super) trait LeadsAway: Send + Sync {
    /// Returns true if it leads to another process.
    fn leads_away(&self) -> bool;
}

pin_project! {
    /// Future of the reply to a message, made by [`WorkAddr::ask`](crate::WorkAddr::ask), or of the stream that is the
    /// reply, made by [`WorkAddr::stream`](crate::WorkAddr::stream). The message is sent when the future is polled first.
    ///
    /// # Cancel safety
    /// If the future is dropped, or its timeout passes, the message is withdrawn from wherever it waits, unless a handler
    /// has begun it.
    #[must_use = "the message is sent only when the future is awaited"]
    pub struct Ask<'a, F> {
        ask: AskId,
        path: &'a ActorPath,
        way: Option<&'a dyn LeadsAway>,
        timeout: Duration,
        #[pin]
        exchange: F,
        #[pin]
        timer: Option<Sleep>,
        is_polled: bool,
        // Present once the ask has waited for a while.
        slow: Option<Box<Slow>>,
    }
}

/// An ask that has waited for a while.
struct Slow {
    /// The end of the timeout.
    until: Instant,
    /// Time from one look for a cycle to the next.
    pause: Duration,
    /// Present if a Work may await the ask.
    ask: Option<Arc<SlowAsk>>,
}

impl Slow {
    /// Returns the time of the next look for a cycle, or the end of the timeout.
    fn next(&self, now: Instant) -> Instant {
        now.checked_add(self.pause).map_or(self.until, |next| next.min(self.until))
    }
}

/// Returns the end of a timeout that begins now.
fn until(now: Instant, timeout: Duration) -> Instant {
    // A century stands for ever.
    const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    now + timeout.min(LONGEST)
}

impl<'a, F> Ask<'a, F> {
    /// Makes the future of an ask from the exchange of message and reply, which may take for ever.
    pub(super) fn new(ask: AskId, path: &'a ActorPath, way: Option<&'a dyn LeadsAway>, exchange: F) -> Self {
        let timeout = DEFAULT_ASK_TIMEOUT;
        Self { ask, path, way, timeout, exchange, timer: None, is_polled: false, slow: None }
    }

    /// Sets the time after which the ask fails with [`AskError::Timeout`], in place of [`DEFAULT_ASK_TIMEOUT`]. It
    /// includes the wait for room in the mailbox, and begins when the future is polled first.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use flowright::prelude::*;
    /// # use flowright::AskError;
    /// # #[derive(Serialize, Deserialize)]
    /// # struct Predict(f64);
    /// # #[derive(Default, Serialize, Deserialize)]
    /// # struct Server;
    /// # impl Work for Server {
    /// #     type Input = ();
    /// #     async fn run(&mut self, (): (), _: &mut WorkContext<Self>) -> Result<()> { Ok(()) }
    /// # }
    /// # impl Handle<Predict> for Server {
    /// #     type Reply = f64;
    /// #     async fn handle(&mut self, m: Predict, _: &mut WorkContext<Self>) -> f64 { m.0 }
    /// # }
    /// # async fn predict(server: WorkAddr<Server>) -> Result<Option<f64>> {
    /// match server.ask(Predict(1.0)).timeout(Duration::from_secs(2)).await {
    ///     Ok(prediction) => Ok(Some(prediction)),
    ///     Err(AskError::Timeout { .. }) => Ok(None),
    ///     Err(error) => Err(error.into()),
    /// }
    /// # }
    /// ```
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

pin_project! {
    /// The part of the future of [`WorkAddr::stream`](crate::WorkAddr::stream) that opens the stream.
    #[must_use = "the message is sent only when the future is awaited"]
    pub struct Opening<F> {
        window: Arc<AtomicU32>,
        #[pin]
        exchange: F,
    }
}

impl<F> Opening<F> {
    /// Makes the future of a stream from the exchange that opens it, which reads the window when it is polled first.
    pub(super) fn new(exchange: impl FnOnce(Arc<AtomicU32>) -> F) -> Self {
        let window = Arc::new(AtomicU32::new(DEFAULT_STREAM_WINDOW));
        Self { exchange: exchange(window.clone()), window }
    }
}

impl<F: Future> Future for Opening<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().exchange.poll(cx)
    }
}

impl<F> Ask<'_, Opening<F>> {
    /// Sets the window of a stream, in items, in place of [`DEFAULT_STREAM_WINDOW`]: at most so many items are on their way
    /// or wait to be read, and the sender waits for the reader meanwhile. From 1 to 4,096.
    ///
    /// With a small window the sender does not run ahead; with a large one the items of a fast sender arrive in fewer
    /// writes.
    pub fn window(self, items: u32) -> Self {
        self.exchange.window.store(items.clamp(1, LARGEST_WINDOW), Ordering::Relaxed);
        self
    }
}

impl<R, M, F: Future<Output = Result<R, AskError<M>>>> Future for Ask<'_, F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let slow = this.slow.as_ref().and_then(|slow| slow.ask.as_ref());
        // Not counted among the things that may wake the Work.
        let task = slow.and_then(|slow| polls_slow_ask(slow, cx.waker()));
        let cx = &mut Context::from_waker(task.as_ref().unwrap_or(cx.waker()));
        if let Poll::Ready(reply) = this.exchange.poll(cx) {
            return Poll::Ready(reply);
        }
        if let Some(cycle) = slow.and_then(|slow| slow.cycle()) {
            let cycle: Vec<_> = cycle.iter().map(ToString::to_string).collect();
            let error = AskError::Deadlock { path: this.path.to_string(), cycle };
            count_deadlock();
            log::warn!("{error}");
            return Poll::Ready(Err(error));
        }
        if this.timer.is_none() {
            // Setting a timer costs as much as the whole exchange with a Work on the same thread, which has replied by
            // the next time this task is polled. So the first wait sets no timer but yields once to the other tasks of
            // this thread, unless the reply comes from another process.
            if !std::mem::replace(this.is_polled, true) && !this.way.is_some_and(LeadsAway::leads_away) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            this.timer.set(Some(tokio::time::sleep(SLOW.min(*this.timeout))));
        }
        let Some(mut timer) = this.timer.as_pin_mut() else { return Poll::Pending };
        loop {
            ready!(timer.as_mut().poll(cx));
            let now = Instant::now();
            match this.slow {
                // The timer was that of a look for a cycle.
                None if *this.timeout > SLOW => {
                    let until = until(timer.deadline(), *this.timeout - SLOW);
                    let ask = this.ask.known().map(|ask| SlowAsk::new(ask, this.path.clone(), until));
                    *this.slow = Some(Box::new(Slow { until, pause: SLOW, ask }));
                }
                Some(slow) if now < slow.until => {}
                _ => break,
            }
            if let Some(slow) = this.slow {
                if let Some(ask) = &slow.ask {
                    ask.look();
                    // Polled with the waker of its task from now on.
                    cx.waker().wake_by_ref();
                }
                slow.pause = slow.pause.saturating_mul(SLOWER);
                timer.as_mut().reset(slow.next(now));
            }
        }
        let asker = handler_under_way().map(|path| path.to_string());
        let path = this.path.to_string();
        Poll::Ready(Err(AskError::Timeout { path, after: *this.timeout, asker }))
    }
}

impl<F> fmt::Debug for Ask<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ask").field("work", self.path).field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn};

    use super::*;

    /// A question that is held up on its way is in the mailbox of its Work only later, so that a cycle through it does not
    /// stand at the first looks: the next one follows within a few times as long.
    #[tokio::test(start_paused = true)]
    async fn slow_ask_is_looked_at_again_within_a_few_times_as_long() {
        const STEP: Duration = Duration::from_millis(50);
        let path = ActorPath::from("works.a");
        let exchange = pending::<Result<(), AskError<()>>>();
        let mut ask = Box::pin(Ask::new(AskId::next(), &path, None, exchange).timeout(DEFAULT_ASK_TIMEOUT));
        let mut looks = Vec::new();
        let began = Instant::now();
        while poll_fn(|cx| Poll::Ready(ask.as_mut().poll(cx))).await.is_pending() {
            let slow = ask.slow.as_ref().and_then(|slow| slow.ask.as_ref());
            if slow.and_then(|slow| slow.take_due()).is_some_and(|due| due.report) {
                looks.push(began.elapsed());
            }
            tokio::time::advance(STEP).await;
        }
        looks.push(began.elapsed());
        assert!(looks[0] <= SLOW + 2 * STEP, "{looks:?}");
        assert!(looks.windows(2).all(|pair| pair[1] <= pair[0] * 4 + 2 * STEP), "{looks:?}");
        assert!(looks.len() <= 7, "it costs messages: {looks:?}");
    }
}
