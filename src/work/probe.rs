//! Stand-ins for Works in tests: messages and runs of a Work go to the test, which decides what the Work does.
//!
//! # Guarantees
//! - The code of the Work itself is not called: neither hooks nor `run` nor handlers.
//! - The test gets messages and runs in the order in which the Work would have begun them. A message that it drops
//!   unanswered counts as one whose handler has failed.

use std::any::{Any, TypeId};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::caller::AnswerTo;
use super::deferred::ReplySender;
use super::envelope::{BoxedEnvelope, Envelope};
use super::executing::set_run;
use super::mailbox::Mail;
use super::message::{Handle, ItemOf, Message};
use super::outbox::Report;
use super::status::{Failure, Reason};
use super::{Work, WorkContext};
use crate::id::ActorPath;
use crate::state::{StateError, Value};

/// The probes of an App, by the paths of the Works in whose place they are; a part of its runtime.
#[derive(Default)]
pub(crate) struct Probes(Mutex<HashMap<ActorPath, Arc<dyn Any + Send + Sync>>>);

/// The end of a probe in the App.
pub(super) struct ProbeEnd<W> {
    events: Mutex<Sender<ProbeEvent<W>>>,
    orders: Arc<ProbeOrders>,
}

/// The way of the test's orders to its probe.
#[derive(Default)]
pub(crate) struct ProbeOrders {
    waiting: Mutex<VecDeque<ProbeOrder>>,
    given: Notify,
}

/// A message or a run of the Work.
pub(crate) enum ProbeEvent<W> {
    Message(BoxedEnvelope<W>),
    /// The encoded input of a run that has begun.
    Run(Bytes),
}

/// An order of the test.
pub(crate) enum ProbeOrder {
    Publish(Value),
    /// End the run, with a failure if there is one.
    EndRun(Option<String>),
}

/// A message that a probe has got, with the way to its caller.
#[derive(Debug)]
pub struct Question<M, R: 'static> {
    /// The message.
    pub message: M,
    /// The way to the caller, who waits until a reply is sent; unused for a message that was told.
    pub reply: ReplySender<R>,
}

impl Probes {
    /// Puts a probe in the place of the Work at `path`. The events end when the App is gone.
    pub(crate) fn add<W: Work>(&self, path: ActorPath) -> (Arc<ProbeOrders>, Receiver<ProbeEvent<W>>) {
        let (events, received) = channel();
        let orders = Arc::new(ProbeOrders::default());
        let end = ProbeEnd { events: Mutex::new(events), orders: orders.clone() };
        self.0.lock().insert(path, Arc::new(end));
        (orders, received)
    }

    /// Returns the probe in the place of this Work.
    pub(super) fn find<W: Work>(&self, path: &ActorPath) -> Option<Arc<ProbeEnd<W>>> {
        self.0.lock().get(path).cloned()?.downcast().ok()
    }
}

impl<W> ProbeEvent<W> {
    /// Returns a description, for a test that has expected something else.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Message(envelope) => format!("a message `{}`", envelope.name()),
            Self::Run(_) => "a run".to_owned(),
        }
    }
}

impl<W: Work> ProbeEvent<W> {
    /// Returns the message if it is an `M`.
    ///
    /// # Errors
    /// The event, if it is another.
    pub(crate) fn into_question<M: Message>(self) -> Result<Question<M, ItemOf<W, M>>, Self>
    where
        W: Handle<M>,
    {
        match self {
            Self::Message(envelope) if envelope.message_type() == TypeId::of::<M>() => {
                let envelope = Envelope::<W, M>::of_type(envelope);
                let envelope = envelope.unwrap_or_else(|| unreachable!("a probe does not subscribe"));
                let (message, caller) = envelope.begin();
                let caller = caller.map(|caller| -> Box<dyn AnswerTo<ItemOf<W, M>>> { caller });
                Ok(Question { message, reply: ReplySender::to(caller) })
            }
            other => Err(other),
        }
    }
}

impl ProbeOrders {
    pub(crate) fn give(&self, order: ProbeOrder) {
        self.waiting.lock().push_back(order);
        self.given.notify_one();
    }

    /// Returns the next order of the test. Cancel safe.
    async fn next(&self) -> ProbeOrder {
        loop {
            if let Some(order) = self.waiting.lock().pop_front() {
                return order;
            }
            self.given.notified().await;
        }
    }
}

impl<W: Work> ProbeEnd<W> {
    fn show(&self, event: ProbeEvent<W>) {
        // The test may have dropped its probe: messages fail then.
        let _ = self.events.lock().send(event);
    }

    /// Lives in the place of an incarnation until it is asked to stop.
    pub(super) async fn live(&self, work: &mut W, cx: &mut WorkContext<W>) -> Report {
        let mut running = None;
        loop {
            if let Some(run) = running
                && (cx.asked().cancel || cx.asked().stop)
            {
                running = None;
                end_run(work, cx, Report::RunStopped { run });
            }
            if cx.asked().stop {
                return Report::Stopped { failure: None };
            }
            if running.is_none()
                && let Some(mut order) = cx.asked().run.take()
            {
                cx.begin(&mut order);
                set_run(Some(order.run));
                if !order.announced {
                    cx.outbox().report(Report::RunStarted { run: order.run });
                }
                running = Some(order.run);
                self.show(ProbeEvent::Run(order.input.bytes.clone()));
            }
            tokio::select! {
                biased;
                order = self.orders.next() => match (order, running) {
                    (ProbeOrder::Publish(state), _) => {
                        if let Err(error) = replace(work, &state) {
                            return Report::Died { failure: Failure::new(Reason::UserError, error.to_string()) };
                        }
                        cx.publish(work);
                    }
                    (ProbeOrder::EndRun(failure), Some(run)) => {
                        running = None;
                        let failure = failure.map(|why| Failure::new(Reason::UserError, why));
                        let report = match failure {
                            None => Report::RunSucceeded { run },
                            Some(failure) => Report::RunFailed { run, failure },
                        };
                        end_run(work, cx, report);
                    }
                    (ProbeOrder::EndRun(_), None) => {}
                },
                mail = cx.next() => match mail {
                    Mail::Command(command) => cx.obey(command),
                    Mail::Message(envelope) => self.show(ProbeEvent::Message(envelope)),
                },
            }
        }
    }
}

fn replace<W: Work>(work: &mut W, state: &Value) -> Result<(), StateError> {
    *work = state.decode()?;
    Ok(())
}

fn end_run<W: Work>(work: &W, cx: &mut WorkContext<W>, report: Report) {
    let change = cx.change(work);
    cx.end();
    set_run(None);
    cx.send_with(change, report);
}
