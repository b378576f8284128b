//! The manager: carries out what the planner decides, and tells it what the engines and the App say.
//!
//! # Guarantees
//! - It sleeps until the demand, a node or an engine changes, or a time is reached: nothing is polled but the lists of
//!   engines that cannot tell of changes, one call per engine and interval, with jitter.
//! - Calls to an engine do not hold up the others, nor the planner.
//! - When the App ends in good order, all its allocations have been ended, or the engine could not be reached in time,
//!   which is logged with their names.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::{BoxFuture, LocalBoxFuture};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::engine::{Checked, Engine, EngineError, Listed, Request};
use super::key::Key;
use super::limits::Limits;
use super::planner::{GroupView, PlanAction, Planner};
use crate::work::{Demand, NodeRoom};

/// Time for which changes are gathered before they are planned.
const GATHER: Duration = Duration::from_millis(50);

/// Time limit for ending all allocations at the end of the App.
const FAREWELL: Duration = Duration::from_secs(15);

/// Difference from which a time limit counts as changed; engines round, and nodes start later than their allocations.
const CHANGED: Duration = Duration::from_secs(90);

/// Number of lines of the output of a failed allocation that are shown.
const EXPLAINED: usize = 20;

/// The App, as a fleet sees it.
pub(crate) trait FleetHost: Send + Sync {
    /// Returns the nodes of the App, without the head and the processes of single Works.
    fn nodes(&self) -> Vec<NodeRoom>;

    /// Returns the numbers of Works that wait for a node, by what they need.
    fn demand(&self) -> BTreeMap<Demand, usize>;

    /// Sends a node away; with `if_idle` only if it has no Work. Returns false if it stays.
    fn drain(&self, node: &str, why: &str, if_idle: bool) -> bool;

    /// Changes the time at which the allocation of a node ends.
    fn set_deadline(&self, node: &str, deadline: std::time::Instant);

    /// Resolves when the demand or the nodes have changed since the last call. Cancel safe.
    fn changed(&self) -> BoxFuture<'_, ()>;

    /// Takes the reasons why Works wait, as far as the groups have to do with it. `is_changed` is true if the groups have
    /// changed in another way than by the time that has passed.
    fn explain(&self, reasons: BTreeMap<Demand, String>, is_changed: bool);
}

/// One group: its limits, its engine, and what is requested there.
pub(crate) struct GroupPlan {
    pub(crate) name: String,
    pub(crate) limits: Limits,
    pub(crate) request: Request,
    pub(crate) engine: Arc<dyn Engine>,
    /// Groups with the same list are asked for together. The name of the engine, and what distinguishes two of a kind.
    pub(crate) list: String,
}

/// Starts the task that runs a fleet, on the thread that is to run it.
pub(crate) type Task = Box<dyn FnOnce() -> LocalBoxFuture<'static, ()> + Send>;

/// A fleet that runs. Dropping it does not end the allocations.
#[derive(Clone)]
pub(crate) struct Fleet {
    orders: mpsc::UnboundedSender<Order>,
    views: Arc<Mutex<Vec<GroupView>>>,
    requests: Arc<BTreeMap<String, Requests>>,
}

/// The engine of a group, and what is requested of it.
struct Requests {
    engine: Arc<dyn Engine>,
    request: Request,
}

/// A command of people for a fleet.
enum Order {
    Pause { group: String, done: oneshot::Sender<bool> },
    Resume { group: String, done: oneshot::Sender<bool> },
    End { key: Key, done: oneshot::Sender<bool> },
    Stop { done: oneshot::Sender<()> },
}

impl Fleet {
    /// Creates a fleet, and the task that runs it, which is to be spawned on a thread with a runtime.
    pub(crate) fn new(host: Arc<dyn FleetHost>, groups: Vec<GroupPlan>, seed: u64) -> (Self, Task) {
        let (orders, ordered) = mpsc::unbounded_channel();
        let planner =
            Planner::new(groups.iter().map(|group| (group.name.clone(), group.limits.clone())), seed);
        let views = Arc::new(Mutex::new(planner.views(Duration::ZERO)));
        let requests =
            |group: &GroupPlan| Requests { engine: group.engine.clone(), request: group.request.clone() };
        let requests = groups.iter().map(|group| (group.name.clone(), requests(group)));
        let fleet = Self { orders, views: views.clone(), requests: Arc::new(requests.collect()) };
        let run = move || Manager::new(host, groups, planner, views).run(ordered).boxed_local();
        (fleet, Box::new(run))
    }

    /// Returns the groups with their allocations.
    pub(crate) fn views(&self) -> Vec<GroupView> {
        self.views.lock().clone()
    }

    /// Requests nothing more for a group. Returns false if there is no such group.
    pub(crate) async fn pause(&self, group: &str) -> bool {
        let group = group.to_owned();
        self.order(|done| Order::Pause { group, done }).await.unwrap_or(false)
    }

    /// Goes on with a group that somebody, a refusal or failures have paused. Returns false if there is no such group.
    pub(crate) async fn resume(&self, group: &str) -> bool {
        let group = group.to_owned();
        self.order(|done| Order::Resume { group, done }).await.unwrap_or(false)
    }

    /// Ends an allocation: its node moves what is on it first. Returns false if there is no such allocation.
    pub(crate) async fn end(&self, key: &str) -> bool {
        let Ok(key) = key.parse() else { return false };
        self.order(|done| Order::End { key, done }).await.unwrap_or(false)
    }

    /// Returns the last lines of the output of an allocation; `None` if its group is unknown.
    pub(crate) async fn output(&self, key: &str, lines: usize) -> Option<Result<String, EngineError>> {
        let key: Key = key.parse().ok()?;
        let Requests { engine, .. } = self.requests.get(key.group())?;
        Some(engine.output(&key, lines).await)
    }

    /// Returns what a group would request, and what its engine says to that; `None` if there is no such group. Nothing is
    /// started.
    pub(crate) async fn check(&self, group: &str) -> Option<Result<Checked, EngineError>> {
        let Requests { engine, request } = self.requests.get(group)?;
        Some(engine.check(request).await)
    }

    /// Ends all allocations, for the end of the App.
    pub(crate) async fn stop(&self) {
        let _ = self.order(|done| Order::Stop { done }).await;
    }

    async fn order<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Option<T> {
        let (done, answer) = oneshot::channel();
        self.orders.send(order(done)).ok()?;
        answer.await.ok()
    }
}

/// An answer of an engine.
enum Answer {
    Submitted(Vec<(Key, Result<(), EngineError>)>),
    Listed { list: usize, asked: Duration, answer: Result<Vec<Listed>, EngineError> },
    Ended { group: String, answer: Result<(), EngineError> },
    Output { key: Key, output: Result<String, EngineError> },
}

/// The list of an engine, with the groups that it serves.
struct List {
    engine: Arc<dyn Engine>,
    groups: Vec<String>,
    is_asked: bool,
    next: Instant,
}

struct Manager {
    host: Arc<dyn FleetHost>,
    planner: Planner,
    groups: BTreeMap<String, GroupPlan>,
    lists: Vec<List>,
    answers: FuturesUnordered<LocalBoxFuture<'static, Answer>>,
    views: Arc<Mutex<Vec<GroupView>>>,
    began: Instant,
}

impl Manager {
    fn new(
        host: Arc<dyn FleetHost>,
        groups: Vec<GroupPlan>,
        planner: Planner,
        views: Arc<Mutex<Vec<GroupView>>>,
    ) -> Self {
        let began = Instant::now();
        let mut lists: BTreeMap<String, List> = BTreeMap::new();
        for group in &groups {
            let engine = group.engine.clone();
            let list = lists.entry(group.list.clone());
            let list =
                list.or_insert_with(|| List { engine, groups: Vec::new(), is_asked: false, next: began });
            list.groups.push(group.name.clone());
        }
        Self {
            host,
            planner,
            groups: groups.into_iter().map(|group| (group.name.clone(), group)).collect(),
            lists: lists.into_values().collect(),
            answers: FuturesUnordered::new(),
            views,
            began,
        }
    }

    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        loop {
            self.plan();
            let host = self.host.clone();
            let next = self.next();
            let engines: Vec<_> = self.lists.iter().map(|list| list.engine.clone()).collect();
            let changed = futures::future::select_all(engines.iter().map(|engine| engine.changed()));
            tokio::select! {
                () = host.changed() => sleep(GATHER).await,
                Some(answer) = self.answers.next() => self.answered(answer),
                ((), list, _) = changed => self.lists[list].next = Instant::now(),
                () = sleep_until(next) => {}
                order = orders.recv() => match order {
                    Some(Order::Pause { group, done }) => {
                        let _ = done.send(self.planner.pause(&group, "somebody has paused it"));
                    }
                    Some(Order::Resume { group, done }) => {
                        let _ = done.send(self.planner.resume(&group));
                    }
                    Some(Order::End { key, done }) => {
                        let action = self.planner.end(self.now(), &key);
                        let is_there = action.is_some();
                        action.into_iter().for_each(|action| self.carry_out(action));
                        let _ = done.send(is_there);
                    }
                    Some(Order::Stop { done }) => {
                        self.stop().await;
                        let _ = done.send(());
                        return;
                    }
                    None => return,
                }
            }
        }
    }

    fn now(&self) -> Duration {
        // From a second on, so that nothing is at the moment zero.
        Duration::from_secs(1) + self.began.elapsed()
    }

    /// Returns the time at which something is due.
    fn next(&self) -> Instant {
        let far = Instant::now() + Duration::from_secs(3600);
        let now = self.now();
        let planned = self.planner.next(now).map_or(far, |at| Instant::now() + at.saturating_sub(now));
        let lists = self.lists.iter().filter(|list| self.is_wanted(list)).map(|list| list.next);
        lists.chain([planned]).min().unwrap_or(far)
    }

    fn is_wanted(&self, list: &List) -> bool {
        !list.is_asked && list.groups.iter().any(|group| self.planner.wants_list(group))
    }

    fn plan(&mut self) {
        self.ask_for_lists();
        let (now, demand, nodes) = (self.now(), self.host.demand(), self.host.nodes());
        for action in self.planner.plan(now, &demand, &nodes) {
            self.carry_out(action);
        }
        let after = self.planner.views(now);
        let before = std::mem::replace(&mut *self.views.lock(), after.clone());
        let is_changed =
            before.len() != after.len() || before.iter().zip(&after).any(|(a, b)| !a.shows_as(b));
        self.host.explain(self.planner.reasons().clone(), is_changed);
    }

    fn ask_for_lists(&mut self) {
        let now = self.now();
        for index in 0..self.lists.len() {
            if !self.is_wanted(&self.lists[index]) || self.lists[index].next > Instant::now() {
                continue;
            }
            let share = f64::from(self.began.elapsed().subsec_nanos()) / 1e9;
            let list = &mut self.lists[index];
            list.is_asked = true;
            list.next = Instant::now() + list.engine.interval().mul_f64(0.9 + 0.2 * share);
            let engine = list.engine.clone();
            let ask = async move { Answer::Listed { list: index, asked: now, answer: engine.list().await } };
            self.answers.push(ask.boxed_local());
        }
    }

    fn carry_out(&mut self, action: PlanAction) {
        match action {
            PlanAction::Submit { group, keys } => {
                let plan = &self.groups[&group];
                log::info!("fleet: group `{group}` requests {} by engine {}", names(&keys), plan.list);
                let (engine, request) = (plan.engine.clone(), plan.request.clone());
                let submit = async move {
                    let answers = engine.submit(&request, &keys).await;
                    Answer::Submitted(keys.into_iter().zip(answers).collect())
                };
                self.answers.push(submit.boxed_local());
            }
            PlanAction::Drain { key, why, if_idle } => {
                if !self.host.drain(key.as_str(), &why, if_idle) {
                    self.planner.stays(self.now(), &key);
                }
            }
            PlanAction::End { group, keys } => {
                log::info!("fleet: {} of group `{group}` are ended", names(&keys));
                let engine = self.groups[&group].engine.clone();
                let end = async move { Answer::Ended { answer: engine.end(&keys).await, group } };
                self.answers.push(end.boxed_local());
            }
            PlanAction::Explain { key } => {
                let engine = self.groups[key.group()].engine.clone();
                let read =
                    async move { Answer::Output { output: engine.output(&key, EXPLAINED).await, key } };
                self.answers.push(read.boxed_local());
            }
        }
    }

    fn answered(&mut self, answer: Answer) {
        let now = self.now();
        match answer {
            Answer::Submitted(answers) => {
                for (key, answer) in answers {
                    if let Err(error) = &answer {
                        log::warn!("fleet: an allocation of group `{}`: {error}", key.group());
                    }
                    self.planner.answered(now, &key, answer);
                    self.ask_soon(key.group());
                }
            }
            Answer::Listed { list, asked, answer } => {
                if let Err(error) = &answer {
                    log::warn!("fleet: the allocations cannot be listed: {error}");
                }
                self.lists[list].is_asked = false;
                self.set_deadlines(answer.as_deref().unwrap_or_default());
                self.planner.listed((now, SystemTime::now()), asked, &self.lists[list].groups, answer);
            }
            Answer::Ended { group, answer } => match answer {
                Ok(()) => self.ask_soon(&group),
                Err(error) => {
                    log::warn!("fleet: allocations of group `{group}` cannot be ended yet: {error}")
                }
            },
            Answer::Output { key, output } => {
                let output = output.unwrap_or_else(|error| error.to_string());
                if !output.is_empty() {
                    log::warn!("fleet: the last lines of {key}:\n{output}");
                    self.planner.explained(&key, &output);
                }
            }
        }
    }

    /// Tells the head of time limits that the engine has changed.
    fn set_deadlines(&self, list: &[Listed]) {
        let nodes = self.host.nodes();
        let known: BTreeMap<&str, Option<Duration>> =
            nodes.iter().map(|node| (node.name.as_str(), node.ends_in)).collect();
        for listed in list {
            let left = listed.ends_at.map(|at| at.duration_since(SystemTime::now()).unwrap_or_default());
            if let (Some(left), Some(known)) = (left, known.get(listed.key.as_str()))
                && known.is_none_or(|known| known.abs_diff(left) > CHANGED)
            {
                self.host.set_deadline(listed.key.as_str(), std::time::Instant::now() + left);
            }
        }
    }

    /// Has the list of a group be asked for within a second, since it has changed.
    fn ask_soon(&mut self, group: &str) {
        let lists = self.lists.iter_mut().filter(|list| list.groups.iter().any(|name| name == group));
        lists.for_each(|list| list.next = list.next.min(Instant::now() + Duration::from_secs(1)));
    }

    /// Ends all allocations.
    async fn stop(&mut self) {
        let ended = async {
            // Requests whose answers are still on their way would leave allocations behind.
            while let Some(answer) = self.answers.next().await {
                if let Answer::Submitted(answers) = answer {
                    let now = self.now();
                    answers.into_iter().for_each(|(key, answer)| self.planner.answered(now, &key, answer));
                }
            }
            let all = self.planner.all();
            let ends = all.iter().map(|(group, keys)| {
                let engine = &self.groups[group].engine;
                async move { engine.end(keys).await.map_err(|error| (names(keys), error)) }
            });
            for (keys, error) in futures::future::join_all(ends).await.into_iter().filter_map(Result::err) {
                log::error!(
                    "fleet: {keys} could not be ended, and end by themselves without a head: {error}"
                );
            }
        };
        if timeout(FAREWELL, ended).await.is_err() {
            let left: Vec<_> = self.planner.all().into_values().flatten().collect();
            log::error!(
                "fleet: {} may not have been ended in time, and end by themselves without a head",
                names(&left)
            );
        }
    }
}

fn names(keys: &[Key]) -> String {
    keys.iter().map(Key::as_str).collect::<Vec<_>>().join(", ")
}
