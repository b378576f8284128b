//! Handles by which a Flow holds its Works.

use std::any::type_name;
use std::cell::{OnceCell, RefCell};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Serialize, Serializer};

use super::check::Check;
use super::children::{AnyWork, ChildGroup, Found, Kinds, Node, Route, Walk};
use super::error::FlowError;
use super::ledger::{Ledger, Requested};
use super::policy::{Journaled, Policy};
use super::reaction::Pending;
use super::record::{Place, Record, SharedRecord};
use super::restoring::{Prepared, Restoring};
use super::scope;
use super::settings::WorkSettings;
use super::shape::{ChildName, Shape};
use crate::error::Error;
use crate::fence::Fenced;
use crate::id::ActorPath;
use crate::payload;
use crate::state::{StateError, Tracker};
use crate::wire;
use crate::work::{
    DEFAULT_MAILBOX, HandledBy, Input, OutputError, Placement, Resources, RunKey, SendError, Stage, Status,
    Work, WorkAddr, WorkType,
};

/// A Flow's handle to one of its Works: its last published state and its statuses, and the methods to run, stop and
/// message it.
///
/// A `WorkRef` dereferences to the last published state of the Work, so that its fields are read directly. The state
/// does not change during a reaction. Private fields (`#[serde(skip)]`) have their defaults and no meaning there. Fields
/// never conflict with the methods here, but a method of the Work that has the name of one (`status`, `path`, `start`,
/// `stop`, `run` and so on) is hidden by it: call such a method on [`state`](Self::state).
///
/// ```
/// # use flowright::prelude::*;
/// # use std::time::Duration;
/// #[derive(Default, Serialize, Deserialize)]
/// struct Train {
///     loss: f64,
/// }
/// # impl Work for Train {
/// #     type Input = u32;
/// #     async fn run(&mut self, _: u32, _: &mut WorkContext<Self>) -> Result<()> { Ok(()) }
/// # }
///
/// let train = WorkRef::new(Train { loss: f64::MAX })
///     .restart(Restart::on_failure().max(3))
///     .timeout(Duration::from_secs(3600));
/// assert_eq!(train.loss, f64::MAX);
/// ```
pub struct WorkRef<W: Work> {
    view: View<W>,
    pub(super) policy: Arc<Policy>,
    /// Absent unless the Flow has chosen a placement.
    pub(super) placement: Option<Placement>,
    pub(super) needs: Option<Resources>,
    pub(super) runs_for: Option<Duration>,
    pub(super) mailbox: usize,
    record: Option<SharedRecord>,
    /// Set when a run was requested before the Work joined the tree; the flag becomes true when the Work joins.
    joined: OnceCell<Arc<AtomicBool>>,
    name: ChildName,
}

/// Typed copy of the last published state, decoded on first access.
struct View<W> {
    current: OnceCell<Fenced<W>>,
    /// The previous copy, shown if the newer state cannot be decoded.
    earlier: RefCell<Option<Fenced<W>>>,
}

impl<W: Work> WorkRef<W> {
    /// Creates a Work with this initial state. It joins the App when it is in a field of a Flow that is part of the
    /// App.
    pub fn new(work: W) -> Self {
        scope::with(|scope| scope.tree_changed = true);
        Self {
            view: View { current: OnceCell::from(Fenced::new(work)), earlier: RefCell::new(None) },
            policy: Policy::shared(),
            placement: None,
            needs: None,
            runs_for: None,
            mailbox: DEFAULT_MAILBOX,
            record: None,
            joined: OnceCell::new(),
            name: ChildName::Open,
        }
    }

    /// Creates a Work with these settings.
    pub(super) fn with_settings(work: W, settings: WorkSettings) -> Self {
        let mut made = Self::new(work);
        let WorkSettings { policy, placement, needs, runs_for, mailbox } = settings;
        (made.policy, made.placement, made.mailbox) = (policy, placement, mailbox);
        (made.needs, made.runs_for) = (needs, runs_for);
        made
    }

    /// Creates a Work that was recorded.
    fn restored(name: &ActorPath, work: Fenced<W>, settings: WorkSettings) -> Self {
        let WorkSettings { policy, placement, needs, runs_for, mailbox } = settings;
        Self {
            view: View { current: OnceCell::from(work), earlier: RefCell::new(None) },
            policy,
            placement,
            needs,
            runs_for,
            mailbox,
            record: None,
            joined: OnceCell::new(),
            name: ChildName::Restored(name.clone()),
        }
    }

    /// Returns the last published state of the Work, to which the `WorkRef` also dereferences. On it, methods of the Work
    /// can be called that have the name of a method of `WorkRef`.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// #[derive(Default, Serialize, Deserialize)]
    /// struct Train {
    ///     epoch: u32,
    /// }
    ///
    /// impl Train {
    ///     fn status(&self) -> String {
    ///         format!("epoch {}", self.epoch)
    ///     }
    /// }
    /// # impl Work for Train {
    /// #     type Input = u32;
    /// #     async fn run(&mut self, _: u32, _: &mut WorkContext<Self>) -> Result<()> { Ok(()) }
    /// # }
    ///
    /// let train = WorkRef::new(Train { epoch: 3 });
    /// assert_eq!(train.state().status(), "epoch 3");
    /// assert_eq!(train.status().stage, Stage::NotStarted);
    /// ```
    pub fn state(&self) -> &W {
        self
    }

    /// Requests a run with this input: one run per distinct input, unless [`cache_calls`](Self::cache_calls) is off.
    /// Nothing happens if the input was requested before; an input that is new or was stopped is queued, and a stopped
    /// Work starts again.
    ///
    /// Inputs are compared by value: the order of a map's entries does not count, at any depth; the order of a sequence
    /// does. `0.0` equals `-0.0`, and all NaNs are equal, so that an input with a NaN does not run endlessly. Serde
    /// serialises a `HashSet` as a sequence whose order varies: use a `BTreeSet` in inputs. A
    /// [`Payload`](crate::Payload) is compared by its content.
    ///
    /// Ignore the returned [`Run`] to execute runs in parallel, and use `.finished()?` to execute them one after the
    /// other. In the reaction that adds the Work to the tree no run is requested yet: the Flow reacts again when the
    /// Work has joined.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// # #[derive(Default, Serialize, Deserialize)]
    /// # struct Train;
    /// # impl Work for Train {
    /// #     type Input = u32;
    /// #     async fn run(&mut self, _: u32, _: &mut WorkContext<Self>) -> Result<()> { Ok(()) }
    /// # }
    /// # #[derive(Serialize, Children)]
    /// # struct Root { train: WorkRef<Train> }
    /// # impl Flow for Root {
    /// #     fn react(&mut self, cx: &mut FlowContext) -> Reaction {
    /// for size in [16, 32] {
    ///     self.train.run(size); // both are queued, in this order
    /// }
    /// self.train.run(64).finished()?; // nothing below is reached before this run has succeeded
    /// # cx.stop("done");
    /// #         Ok(())
    /// #     }
    /// # }
    /// # let root = || Root { train: WorkRef::new(Train).on_error(OnError::Capture) };
    /// # flowright::testing::TestApp::start(root).wait_for_exit().result.unwrap();
    /// ```
    ///
    /// # Errors
    /// The Flow fails with [`FlowError::Input`] if the input cannot be serialised, with [`FlowError::Foreign`] if the
    /// Work belongs to another Flow, and with [`FlowError::Unattached`] if the Work is not in a field where it can join
    /// the App.
    pub fn run(&self, input: W::Input) -> Run<'_, W> {
        self.run_known(&input)
    }

    /// As [`run`](Self::run), with an input that the caller keeps.
    pub(super) fn run_known(&self, given: &W::Input) -> Run<'_, W> {
        if self.record.is_none() {
            let joined = self.joined.get_or_init(Arc::default).clone();
            let in_reaction = scope::with(|scope| {
                scope.tree_changed = true;
                scope.early.push((type_name::<W>(), joined));
            });
            if in_reaction.is_some() {
                return Run { work: self, key: None, finished: false };
            }
        }
        // Serialised before the record is locked, because the input may read this very Work.
        let input = Input::new(given);
        let mut may_be_reordered = false;
        let asked = self.command("run", |record| {
            let (key, input) =
                input.map_err(|source| FlowError::Input { path: record.path.to_string(), source })?;
            let now = scope::with(|scope| scope.now).expect("a command has a scope");
            may_be_reordered =
                input.may_be_reordered() && record.ledger.is_new(key) && record.ledger.compares_order();
            let requested = record.ledger.request(key, input, now);
            if requested == Requested::Full {
                log::debug!("work `{}`: the queue of runs is full; the Flow asks again later", record.path);
            }
            if let Some(many) = record.ledger.tell_of_many_inputs() {
                log::warn!(
                    "work `{}` remembers the outcomes of {many} inputs, which takes memory; limit their number or their age with \
                     `.remember(…)`",
                    record.path
                );
            }
            Ok((key, requested == Requested::Finished))
        });
        if let Some((key, _)) = asked.filter(|_| may_be_reordered) {
            self.compare_order(key, given);
        }
        let (key, finished) = asked.map_or((None, false), |(key, finished)| (Some(key), finished));
        Run { work: self, key, finished }
    }

    /// Warns when a new input differs from another one only in the order of a sequence, as inputs with a `HashSet` do.
    fn compare_order(&self, key: RunKey, input: &W::Input) {
        let (Some(record), Some(unordered)) = (&self.record, Input::unordered(input)) else { return };
        let mut record = record.lock();
        if record.ledger.is_reordered(key, unordered) {
            log::warn!(
                "work `{}` runs inputs separately that differ only in the order of a sequence; if the sequence is a `HashSet`, \
                 whose order varies, use a `BTreeSet`",
                record.path
            );
        }
    }

    /// Runs this input once more, whatever its last outcome; does nothing if the input waits or runs. A rerun that finds
    /// the queue of runs full is dropped with a warning in the log.
    pub fn rerun(&self, input: W::Input) {
        self.with_input("rerun", &input, |record, key, input| {
            let now = scope::with(|scope| scope.now).expect("a command has a scope");
            if record.ledger.rerun(key, input, now) == Requested::Full {
                log::warn!("work `{}`: a rerun was dropped, the queue of runs is full", record.path);
            }
        });
    }

    /// Forgets the outcome of one input, so that the next `run` with it runs. Drops a waiting run of the input.
    pub fn forget(&self, input: &W::Input) {
        self.with_input("forget a run of", input, |record, key, _| {
            let now = scope::with(|scope| scope.now).expect("a command has a scope");
            record.ledger.forget(key, now);
        });
    }

    /// Starts the Work without a run if it is stopped or has failed. A Work that an operator has stopped stays stopped;
    /// see [`release`](Self::release).
    pub fn start(&self) {
        self.timed("start", |ledger, now| ledger.start(now));
    }

    /// Asks the Work to stop: its run ends when it next takes turns, `on_stop` is called, and the messages in its
    /// mailbox are refused. A later `run` with an input that has not succeeded, or [`start`](Self::start), starts the
    /// Work again.
    pub fn stop(&self) {
        self.timed("stop", |ledger, now| ledger.stop(now));
    }

    /// Lifts an operator's stop, which was given by a command, over HTTP or on the page, and starts the Work. Until
    /// then, or until an operator starts it, [`run`](Self::run), [`start`](Self::start), [`rerun`](Self::rerun) and
    /// [`restart_now`](Self::restart_now) have no effect.
    pub fn release(&self) {
        self.timed("release", |ledger, now| {
            if ledger.held().is_some() {
                ledger.release();
                ledger.start(now);
            }
        });
    }

    /// Returns true if an operator has stopped the Work, which then stays stopped whatever its Flow requests.
    pub fn is_held(&self) -> bool {
        self.read(|ledger| ledger.held().is_some())
    }

    /// Ends this incarnation and starts another from the last published state; a run in progress starts again.
    pub fn restart_now(&self) {
        self.timed("restart", |ledger, now| ledger.restart(now));
    }

    /// Sends a message without a reply if the mailbox has room. `react` never waits; a Work that has to wait for room
    /// or for a reply uses [`addr`](Self::addr).
    ///
    /// # Errors
    /// [`SendError`] with the message; [`SendError::Full`] if there is no room.
    pub fn try_tell<M: HandledBy<W>>(&self, message: M) -> Result<(), SendError<M>> {
        self.addr().try_tell(message)
    }

    /// Returns the Work's address. In the reaction that adds the Work to the tree the address is not usable yet.
    pub fn addr(&self) -> WorkAddr<W> {
        self.address().unwrap_or_else(WorkAddr::nowhere)
    }

    fn address(&self) -> Option<WorkAddr<W>> {
        let record = self.record.as_ref()?.lock();
        Some(WorkAddr::new(record.app, record.path.clone(), record.mailbox_of::<W>()?))
    }

    /// Returns the path from the root of the App, or `None` before the Work has joined the App.
    pub fn path(&self) -> Option<ActorPath> {
        self.record.as_ref().map(|record| record.lock().path.clone())
    }

    /// Returns the status of the run in progress, or else the last status.
    pub fn status(&self) -> Status {
        self.read(|ledger| ledger.status())
    }

    /// Returns the last statuses of all runs, oldest first; at most 64.
    pub fn statuses(&self) -> Vec<Status> {
        self.read(|ledger| ledger.history().cloned().collect())
    }

    /// Returns the number of runs that have succeeded.
    pub fn successes(&self) -> u64 {
        self.read(Ledger::successes)
    }

    /// Returns true if a run was ever requested.
    pub fn has_started(&self) -> bool {
        self.status().stage != Stage::NotStarted
    }

    /// Returns true if the last run succeeded.
    pub fn has_succeeded(&self) -> bool {
        self.status().stage == Stage::Succeeded
    }

    /// Returns true if the last run failed.
    pub fn has_failed(&self) -> bool {
        self.status().stage == Stage::Failed
    }

    /// Returns true if the Work, or its last run, was stopped.
    pub fn has_stopped(&self) -> bool {
        self.status().stage == Stage::Stopped
    }

    /// Returns true while a run is in progress.
    pub fn is_running(&self) -> bool {
        self.status().stage == Stage::Running
    }

    /// Returns true while the last requested run waits for its turn, for its Work to start, or for a restart.
    pub fn is_pending(&self) -> bool {
        self.status().stage == Stage::Pending
    }

    pub(super) fn read<R: Default>(&self, look: impl FnOnce(&Ledger) -> R) -> R {
        self.record.as_ref().map(|record| look(&record.lock().ledger)).unwrap_or_default()
    }

    fn timed(&self, verb: &'static str, act: impl FnOnce(&mut Ledger, super::ledger::Moment)) {
        self.command(verb, |record| {
            let now = scope::with(|scope| scope.now).expect("a command has a scope");
            act(&mut record.ledger, now);
            Ok(())
        });
    }

    fn with_input(&self, verb: &'static str, input: &W::Input, act: impl FnOnce(&mut Record, RunKey, Input)) {
        let input = Input::new(input);
        self.command(verb, |record| {
            let (key, input) =
                input.map_err(|source| FlowError::Input { path: record.path.to_string(), source })?;
            act(record, key, input);
            Ok(())
        });
    }

    /// Changes the record of the Work on behalf of the reacting Flow. An error fails that Flow.
    fn command<R>(
        &self,
        verb: &'static str,
        act: impl FnOnce(&mut Record) -> Result<R, FlowError>,
    ) -> Option<R> {
        let Some(record) = &self.record else {
            scope::problem(FlowError::Unattached { type_name: type_name::<W>() });
            return None;
        };
        let mut record = record.lock();
        let owner = record.owner;
        let (id, path) = (record.id, record.path.clone());
        let foreign = scope::with(|scope| {
            scope.touched.push(id);
            (scope.flow != owner).then(|| scope.path.clone())
        });
        let result = match foreign {
            Some(None) => act(&mut record),
            Some(Some(flow)) => Err(FlowError::Foreign {
                flow: flow.to_string(),
                verb,
                work: path.to_string(),
                owner: record.owner_path.to_string(),
            }),
            None => Err(FlowError::Unattached { type_name: type_name::<W>() }),
        };
        drop(record);
        result.map_err(scope::problem).ok()
    }

    fn published(&self) -> Result<Fenced<W>, StateError> {
        let record = self.record.as_ref().expect("the state is only decoded for a Work with a record");
        record.lock().state.decode().map(Fenced::new)
    }
}

impl<W: Work> Deref for WorkRef<W> {
    type Target = W;

    fn deref(&self) -> &W {
        self.view.current.get_or_init(|| match self.published() {
            Ok(work) => {
                // The previous copy must not keep payloads alive that the Work has replaced.
                self.view.earlier.take();
                work
            }
            Err(source) => {
                let path = self.path().map(|path| path.to_string()).unwrap_or_default();
                scope::problem(FlowError::Unreadable { path, source });
                self.view.earlier.take().expect("the previous copy is kept until the newer one is decoded")
            }
        })
    }
}

impl<W: Work + Default> Default for WorkRef<W> {
    fn default() -> Self {
        Self::new(W::default())
    }
}

impl<W: Work> From<W> for WorkRef<W> {
    fn from(work: W) -> Self {
        Self::new(work)
    }
}

impl<W: Work> fmt::Debug for WorkRef<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path();
        f.debug_struct("WorkRef")
            .field("work", &type_name::<W>())
            .field("path", &path)
            .finish_non_exhaustive()
    }
}

/// Serialises the last published state.
impl<W: Work> Serialize for WorkRef<W> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.record {
            Some(record) => record.lock().state.serialize(serializer),
            None => (**self).serialize(serializer),
        }
    }
}

impl<W: Work> Drop for WorkRef<W> {
    fn drop(&mut self) {
        if self.record.is_some() {
            scope::with(|scope| scope.tree_changed = true);
        }
    }
}

impl<W: Work> AnyWork for WorkRef<W> {
    fn record(&self) -> Option<&SharedRecord> {
        self.record.as_ref()
    }

    fn attach(&mut self, place: Place, placement: Option<Placement>) -> Result<SharedRecord, FlowError> {
        let path = place.path.to_string();
        let limit = place.max_state_bytes;
        let mut tracker = Tracker::new(limit);
        let (result, holds) = payload::collect(|| tracker.update(&**self));
        result.map_err(|source| FlowError::InitialState { path, source })?;
        let state = tracker.value().clone();
        let ledger = Ledger::new(self.policy.clone());
        let placement = placement.unwrap_or_else(|| self.own_placement());
        let mut record = Record::new::<W>(
            place,
            placement,
            self.needs.unwrap_or_default(),
            ledger,
            self.mailbox,
            state,
            holds,
        );
        record.runs_for = self.runs_for;
        let record = Arc::new(Mutex::new(record));
        self.record = Some(record.clone());
        self.name = ChildName::Open;
        if let Some(joined) = self.joined.get() {
            joined.store(true, Ordering::Relaxed);
        }
        Ok(record)
    }

    fn refresh(&mut self) {
        if let Some(work) = self.view.current.take() {
            self.view.earlier.replace(Some(work));
        }
        // A previous copy that is not accessed again must not keep payloads alive.
        let other_holds =
            self.record.as_ref().is_some_and(|record| std::mem::take(&mut record.lock().other_holds));
        if other_holds
            && self.view.earlier.borrow().is_some()
            && let Ok(work) = self.published()
        {
            self.view.earlier.take();
            let _ = self.view.current.set(work);
        }
    }

    fn settings(&self) -> WorkSettings {
        WorkSettings {
            policy: self.policy.clone(),
            placement: self.placement,
            needs: self.needs,
            runs_for: self.runs_for,
            mailbox: self.mailbox,
        }
    }

    fn set_program_name(&mut self, name: ActorPath) {
        self.name = ChildName::Program(name);
    }

    fn restored_name(&self) -> Option<&ActorPath> {
        self.name.restored()
    }

    #[cfg(all(feature = "cli", feature = "journal"))]
    fn kind(&self) -> &'static WorkType {
        WorkType::of::<W>()
    }
}

impl<W: Work> ChildGroup for WorkRef<W> {
    fn kinds(kinds: &mut Kinds) {
        kinds.add(WorkType::of::<W>());
    }

    fn walk(&mut self, walk: &mut Walk<'_>) {
        walk.child(Node::Work(self));
    }

    fn holds(&self, route: Route<'_>) -> bool {
        self.record.as_ref().is_some_and(|record| route.ends_at(record.lock().path.as_str()))
    }

    fn find(&mut self, route: Route<'_>) -> Option<Found<'_>> {
        if self.holds(route) { Some(Found(Node::Work(self))) } else { None }
    }

    fn shape(&self) -> Option<Shape> {
        let name = match &self.record {
            Some(record) => Some(record.lock().path.clone()),
            None => self.name.known().cloned(),
        };
        name.map(Shape::Child)
    }

    fn prepare(&self, shape: &Shape, restoring: &mut Restoring<'_>) -> Option<Prepared<Self>> {
        if self.policy.journaled != Journaled::All {
            let name = restoring.child(shape, "a Work")?.clone();
            if self.name.known() == Some(&name) {
                // The constructed state is that of the program as it is now.
                restoring.work_image(&name)?;
                return Some(Box::new(move |field| field.name = ChildName::Restored(name)));
            }
        }
        let restored = Self::rebuild(shape, restoring)?;
        // The previous one discards its Work by itself.
        Some(Box::new(move |field| *field = restored))
    }

    fn rebuild(shape: &Shape, restoring: &mut Restoring<'_>) -> Option<Self> {
        let name = restoring.child(shape, "a Work")?;
        let (work, settings) = restoring.work(name)?;
        Some(Self::restored(name, work, settings))
    }

    fn check(_: &mut Check) {}
}

/// Handle to a requested run.
pub struct Run<'a, W: Work> {
    work: &'a WorkRef<W>,
    key: Option<RunKey>,
    finished: bool,
}

impl<'a, W: Work> Run<'a, W> {
    /// Returns the Work once this run has succeeded. Until then `?` ends the reaction, and `react` is called again when
    /// the run may have succeeded. For a failed run whose failure is captured this is pending forever: check
    /// [`status`](Self::status) first, or use [`outcome`](Self::outcome).
    ///
    /// # Errors
    /// [`Pending`] while the run has not succeeded.
    pub fn finished(self) -> Result<&'a W, Pending> {
        if self.finished { Ok(self.work) } else { Err(Pending) }
    }

    /// Returns the outcome of the run, for a Flow that captures failures: the Work if the run succeeded, or else the
    /// status of the run. Until the run has ended, `?` ends the reaction.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// # #[derive(Default, Serialize, Deserialize)]
    /// # struct Train;
    /// # impl Work for Train {
    /// #     type Input = u32;
    /// #     async fn run(&mut self, _: u32, _: &mut WorkContext<Self>) -> Result<()> { Ok(()) }
    /// # }
    /// # #[derive(Serialize, Children)]
    /// # struct Root { train: WorkRef<Train> }
    /// # impl Flow for Root {
    /// #     fn react(&mut self, cx: &mut FlowContext) -> Reaction {
    /// match self.train.run(16).outcome()? {
    ///     Ok(_) => println!("trained"),
    ///     Err(status) => println!("{}: {}", status.stage, status.message.unwrap_or_default()),
    /// }
    /// # cx.stop("done");
    /// #         Ok(())
    /// #     }
    /// # }
    /// # let root = || Root { train: WorkRef::new(Train).on_error(OnError::Capture) };
    /// # flowright::testing::TestApp::start(root).wait_for_exit().result.unwrap();
    /// ```
    ///
    /// # Errors
    /// [`Pending`] while the run has not ended.
    pub fn outcome(self) -> Result<Result<&'a W, Status>, Pending> {
        if self.finished {
            return Ok(Ok(self.work));
        }
        let status = self.status();
        if status.stage.is_terminal() { Ok(Err(status)) } else { Err(Pending) }
    }

    /// Returns the outcome of the run as [`outcome`](Self::outcome) does, or `None` until it has ended, for a Flow that
    /// looks at many runs in one reaction.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// # #[derive(Default, Serialize, Deserialize)]
    /// # struct Train;
    /// # impl Work for Train {
    /// #     type Input = u32;
    /// #     async fn run(&mut self, _: u32, _: &mut WorkContext<Self>) -> Result<()> { Ok(()) }
    /// # }
    /// # #[derive(Serialize, Children)]
    /// # struct Root { train: WorkRef<Train> }
    /// # impl Flow for Root {
    /// #     fn react(&mut self, cx: &mut FlowContext) -> Reaction {
    /// let ended = [16, 32, 64].map(|size| self.train.run(size).poll()).into_iter().flatten().count();
    /// if ended == 3 {
    ///     cx.stop("all sizes have been tried");
    /// }
    /// #         Ok(())
    /// #     }
    /// # }
    /// # let root = || Root { train: WorkRef::new(Train).on_error(OnError::Capture) };
    /// # flowright::testing::TestApp::start(root).wait_for_exit().result.unwrap();
    /// ```
    pub fn poll(self) -> Option<Result<&'a W, Status>> {
        self.outcome().ok()
    }

    /// Returns the output that this run has set by [`WorkContext::output`](crate::WorkContext::output), once it has
    /// succeeded. Until then `?` ends the reaction.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// # #[derive(Default, Serialize, Deserialize)]
    /// # struct Square;
    /// impl Work for Square {
    ///     type Input = u32;
    ///
    ///     async fn run(&mut self, number: u32, cx: &mut WorkContext<Self>) -> Result<()> {
    ///         Ok(cx.output(&(number * number))?)
    ///     }
    /// }
    /// # #[derive(Serialize, Children)]
    /// # struct Root { square: WorkRef<Square> }
    /// # impl Flow for Root {
    /// #     fn react(&mut self, cx: &mut FlowContext) -> Reaction {
    /// let square = self.square.run(12).output::<u32>()?;
    /// assert_eq!(square, 144);
    /// # cx.stop("done");
    /// #         Ok(())
    /// #     }
    /// # }
    /// # let root = || Root { square: WorkRef::default() };
    /// # flowright::testing::TestApp::start(root).wait_for_exit().result.unwrap();
    /// ```
    ///
    /// # Errors
    /// [`Pending`] while the run has not succeeded; [`OutputError::Missing`] if it has set no output, and
    /// [`OutputError::Unreadable`] if that is no `T`, both of which fail the Flow when `?` passes them on.
    pub fn output<T: DeserializeOwned>(self) -> Result<T, Error> {
        let output = self.key.filter(|_| self.finished).ok_or(Pending)?;
        let output = self.work.read(|ledger| ledger.output(output).cloned());
        let work = || self.work.path().map(|path| path.to_string()).unwrap_or_default();
        let Some(output) = output else { return Err(OutputError::Missing { work: work() }.into()) };
        // Executes the user's `Deserialize`, without the lock of the record.
        let decoded = wire::decode(output.bytes());
        let wanted = type_name::<T>();
        Ok(decoded.map_err(|error| OutputError::Unreadable { work: work(), wanted, error })?)
    }

    /// Returns true while the run is in progress and has reported that it is ready, or has succeeded, in an incarnation
    /// that lives.
    pub(super) fn is_ready(&self) -> bool {
        self.key.is_some_and(|key| self.work.read(|ledger| ledger.is_ready(key)))
    }

    /// Returns the status of this run.
    pub fn status(&self) -> Status {
        self.key.map_or_else(Status::default, |key| self.work.read(|ledger| ledger.run_status(key)))
    }
}
