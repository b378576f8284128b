//! A probe in the place of a Work.

use std::any::type_name;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use parking_lot::Mutex;

use super::DEFAULT_LIMIT;
use crate::app::App;
use crate::id::ActorPath;
use crate::state::Value;
use crate::wire;
use crate::work::{
    Handle, IntoReply, Message, Placement, ProbeEvent, ProbeOrder, ProbeOrders, Question, ReplyOf,
    ReplyValue, SingleReply, Work,
};

/// Stands in for the Work at a path: what the App sends that Work comes to the test, which answers in its place and decides how
/// its runs end. The other Works and the Flows are those of the program. (The probes of Akka's test kit, and of elfo.)
///
/// ```
/// # use flowright::prelude::*;
/// use flowright::testing::{Probe, TestApp};
///
/// # #[derive(Debug, PartialEq, Serialize, Deserialize)]
/// # struct Predict(f64);
/// # #[derive(Default, Serialize, Deserialize)]
/// # struct Model { accuracy: f64 }
/// # impl Work for Model {
/// #     type Input = u32;
/// # }
/// # impl Handle<Predict> for Model {
/// #     type Reply = f64;
/// #     async fn handle(&mut self, _: Predict, _: &mut WorkContext<Self>) -> f64 { unreachable!("a probe is in its place") }
/// # }
/// # #[derive(Default, Serialize, Deserialize)]
/// # struct Client { answer: f64 }
/// # impl Work for Client {
/// #     type Input = WorkAddr<Model>;
/// #     async fn run(&mut self, model: WorkAddr<Model>, _: &mut WorkContext<Self>) -> Result<()> {
/// #         self.answer = model.ask(Predict(2.0)).await?;
/// #         Ok(())
/// #     }
/// # }
/// # #[derive(Default, Serialize, Children)]
/// # struct Root { model: WorkRef<Model>, client: WorkRef<Client> }
/// # impl Flow for Root {
/// #     fn react(&mut self, cx: &mut FlowContext) -> Reaction {
/// #         self.client.run(self.model.addr());
/// #         if self.model.accuracy > 0.9 {
/// #             self.model.run(7).finished()?;
/// #             cx.stop("trained");
/// #         }
/// #         Ok(())
/// #     }
/// # }
/// let mut app = App::new(Root::default);
/// let model = Probe::<Model>::in_place_of(&mut app, "model");
/// let app = TestApp::start_app(app);
///
/// let question = model.expect::<Predict>(); // the client has asked the model
/// assert_eq!(question.message, Predict(2.0));
/// question.reply.send(0.5);
/// app.wait_for_state("client.answer", |answer: &f64| *answer == 0.5);
///
/// model.publish(&Model { accuracy: 0.95 }); // the Flow reacts to it
/// assert_eq!(model.expect_run(), 7);
/// model.succeed();
/// app.wait_for_exit().result.unwrap();
/// ```
///
/// Its methods block the thread of the test, and panic, with what came instead, when an expectation does not hold.
pub struct Probe<W: Work> {
    path: ActorPath,
    orders: Arc<ProbeOrders>,
    events: Mutex<Receiver<ProbeEvent<W>>>,
    limit: Duration,
}

impl<W: Work> Probe<W> {
    /// Puts a probe in the place of the Work at `path` of an App that has not started. That Work is placed on a thread of the
    /// App's process, wherever the program places it.
    pub fn in_place_of(app: &mut App, path: &str) -> Self {
        app.config.place.insert(path.to_owned(), Placement::Thread);
        let path = ActorPath::from(path);
        let (orders, events) = app.probes.get_or_insert_default().add::<W>(path.clone());
        Self { path, orders, events: Mutex::new(events), limit: DEFAULT_LIMIT }
    }

    /// Sets the limit of each wait; [`DEFAULT_LIMIT`] by default.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Waits for the next message or run, which must be a message of type `M`, and returns it. Its caller waits until the
    /// test has sent a reply, and gets [`AskError::Failed`](crate::AskError::Failed) when the test drops the question.
    ///
    /// # Panics
    /// If a message of another type or a run comes first, or nothing within the limit.
    #[track_caller]
    pub fn expect<M: Message>(&self) -> Question<M, <ReplyOf<W, M> as ReplyValue>::Item>
    where
        W: Handle<M>,
        <W as Handle<M>>::Reply: SingleReply + IntoReply,
    {
        let wanted = format!("a message `{}`", type_name::<M>());
        self.next(&wanted).into_question::<M>().unwrap_or_else(|other| self.other(&wanted, &other))
    }

    /// Waits for the next message or run, which must be a run, and returns its input. The run lasts until the test ends it by
    /// [`succeed`](Self::succeed) or [`fail`](Self::fail), or the App stops it.
    ///
    /// # Panics
    /// If a message comes first, nothing within the limit, or the input cannot be read back.
    #[track_caller]
    pub fn expect_run(&self) -> W::Input {
        match self.next("a run") {
            ProbeEvent::Run(input) => wire::decode(&input).unwrap_or_else(|error| {
                panic!("the input of a run of `{}` cannot be read: {error}", self.path)
            }),
            other => self.other("a run", &other),
        }
    }

    /// Asserts that no message and no run has come that the test has not taken.
    ///
    /// # Panics
    /// If one has.
    #[track_caller]
    pub fn expect_nothing_so_far(&self) {
        if let Ok(event) = self.events.lock().try_recv() {
            self.other("nothing", &event)
        }
    }

    /// Ends the run that [`expect_run`](Self::expect_run) has returned with success.
    pub fn succeed(&self) {
        self.orders.give(ProbeOrder::EndRun(None));
    }

    /// Ends the run with a failure, as a `run` that returns this error.
    pub fn fail(&self, error: impl Into<String>) {
        self.orders.give(ProbeOrder::EndRun(Some(error.into())));
    }

    /// Publishes a state of the Work.
    ///
    /// # Panics
    /// If the state cannot be serialised.
    #[track_caller]
    pub fn publish(&self, state: &W) {
        match Value::of(state) {
            Ok(state) => self.orders.give(ProbeOrder::Publish(state)),
            Err(error) => panic!("the state of `{}` cannot be published: {error}", self.path),
        }
    }

    #[track_caller]
    fn next(&self, wanted: &str) -> ProbeEvent<W> {
        let next = self.events.lock().recv_timeout(self.limit);
        next.unwrap_or_else(|error| match error {
            RecvTimeoutError::Timeout => {
                panic!("`{}` was to get {wanted}, and got nothing within {:?}", self.path, self.limit)
            }
            RecvTimeoutError::Disconnected => {
                panic!("`{}` was to get {wanted}, but the App has ended", self.path)
            }
        })
    }

    #[track_caller]
    fn other(&self, wanted: &str, event: &ProbeEvent<W>) -> ! {
        panic!("`{}` was to get {wanted}, but got {}", self.path, event.describe())
    }
}
