//! A node's side: hosts Works for a head.
//!
//! # Guarantees
//! - What a Work publishes and reports goes to the head in order; states conflate for as long as there is no room.
//! - When the session with the head is lost, all Works end at once, before anything else is done: the head has given
//!   them up by then, or will.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::oneshot;

use super::bridge::{Bridge, Site, Whereabouts};
use super::link::Link;
use super::protocol::{Control, Hello, Role};
use super::references::tie_copy;
use super::vitals::{self, Vitals};
use super::ways::DistantWay;
use crate::id::{ActorPath, IdMap, WorkId};
use crate::payload::{self, Hex, Hold, Holds, PayloadId, Want};
use crate::recorder;
use crate::trace::Cause;
use crate::work::{
    Abort, AnyMailbox, Command, Doorbell, Express, Failure, Host, Ingredients, Input, LocalHost, News,
    Outbox, Placement, Reason, Report, Resources, Route, Router, RunOrder, WorkKind, remember_address,
};

/// The types of Work that there are, by name.
pub(crate) type Kinds = std::collections::BTreeMap<&'static str, &'static WorkKind>;

pub(super) struct Agent {
    bridge: Arc<Bridge>,
    head: Arc<Link>,
    kinds: Kinds,
    /// Whether it is the process of one Work, which lives no longer than its head.
    is_process: bool,
    doorbell: Arc<Doorbell>,
    state: Mutex<State>,
}

struct State {
    host: LocalHost,
    incarnations: IdMap<u64, Hosted>,
    mailboxes: HashMap<ActorPath, (Arc<dyn AnyMailbox>, &'static str)>,
    ways: HashMap<ActorPath, Arc<DistantWay>>,
    over: Option<String>,
    /// When the head was told how this process is, and how long its answer to that took.
    told: Option<Instant>,
    round_trip: Option<Duration>,
    /// Those who want to know where a value is.
    looking: HashMap<PayloadId, Vec<oneshot::Sender<Whereabouts>>>,
}

struct Hosted {
    /// What the state that was sent last refers to.
    refers: Arc<Mutex<Vec<PayloadId>>>,
    path: ActorPath,
    mailbox: Arc<dyn AnyMailbox>,
    outbox: Arc<Outbox>,
    abort: Arc<Abort>,
}

impl Agent {
    /// The process of one Work is no node of its own.
    pub(super) fn new(
        kinds: Kinds,
        pool: usize,
        is_process: bool,
        bridge: Arc<Bridge>,
        head: Arc<Link>,
    ) -> Self {
        let mut host = LocalHost::new(pool);
        host.share_current();
        let state = State {
            host,
            incarnations: IdMap::default(),
            mailboxes: HashMap::new(),
            ways: HashMap::new(),
            over: None,
            told: None,
            round_trip: None,
            looking: HashMap::new(),
        };
        Self { bridge, head, kinds, is_process, doorbell: Arc::default(), state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the App is over, once the head has said so.
    pub(super) fn why_over(&self) -> Option<String> {
        self.lock().over.clone()
    }

    pub(super) async fn send_news(self: Arc<Self>) {
        loop {
            let rung = poll_fn(|cx| self.doorbell.poll(cx)).await;
            for WorkId(incarnation) in rung {
                if !self.head.room().await {
                    return;
                }
                let hosted = {
                    let state = self.lock();
                    let hosted = state.incarnations.get(&incarnation);
                    hosted.map(|hosted| (hosted.outbox.clone(), hosted.refers.clone()))
                };
                let Some((outbox, refers)) = hosted else { continue };
                // Those that are taken at once meanwhile must not get there first.
                let (over, holds) = outbox.hand_over(|news| {
                    let over = is_end(&news.reports);
                    let News { patch, holds, reports, cause: trace, .. } = news;
                    // The head keeps what it was told to keep.
                    let said = holds.as_ref().filter(|holds| differ(&mut lock(&refers), holds));
                    let refers = said.is_some();
                    let said = said.cloned().unwrap_or_default();
                    self.head
                        .control_with(&said, &Control::News { incarnation, patch, refers, reports, trace });
                    (over, holds)
                });
                // Values may be freed by this.
                drop(holds);
                if over && let Some(hosted) = self.lock().incarnations.remove(&incarnation) {
                    log::log!(self.level(), "work `{}` is over here", hosted.path);
                }
            }
        }
    }

    /// Tells the head how this process is, and what was recorded in it, now and then.
    pub(super) async fn send_vitals(self: Arc<Self>) {
        let mut told = recorder::Carried::default();
        while self.head.room().await {
            let families = told.update(recorder::families());
            if !families.is_empty() {
                self.head.control(&Control::Recorded { families });
            }
            let round_trip = {
                let mut state = self.lock();
                state.told = Some(Instant::now());
                state.round_trip
            };
            let round_trip_us = round_trip.map(|took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
            self.head.control(&Control::Vitals { vitals: Vitals::here(), round_trip_us });
            tokio::time::sleep(vitals::EVERY).await;
        }
    }

    fn launch(&self, launch: Launch, holds: Holds) -> Result<(), String> {
        let Launch { incarnation, path, work, pooled, state: value, max_state_bytes, mailbox: capacity } =
            launch;
        let kind = self.kinds.get(work.as_str()).ok_or_else(|| format!("there is no Work `{work}` here"))?;
        log::log!(self.level(), "work `{path}` runs here");
        let mut state = self.lock();
        // Messages that wait are for the Work, not for one life of it.
        let mailbox = match state.mailboxes.get(&path) {
            Some((mailbox, name)) if *name == kind.name() => mailbox.clone(),
            _ => {
                let mailbox = kind.mailbox(usize::try_from(capacity).unwrap_or(usize::MAX));
                state.mailboxes.insert(path.clone(), (mailbox.clone(), kind.name()));
                mailbox
            }
        };
        remember_address(self.bridge.app(), &path, &mailbox);
        let outbox = Outbox::new(WorkId(incarnation), self.doorbell.clone());
        let outbox = Arc::new(outbox.with_express(self.head.clone()));
        let abort = Arc::new(Abort::default());
        let hosted = Hosted {
            refers: Arc::new(Mutex::new(holds.iter().map(|hold| hold.id()).collect())),
            path: path.clone(),
            mailbox: mailbox.clone(),
            outbox: outbox.clone(),
            abort: abort.clone(),
        };
        state.incarnations.insert(incarnation, hosted);
        let what = Ingredients {
            kind,
            app: self.bridge.app(),
            path,
            state: value,
            holds,
            max_state_bytes: usize::try_from(max_state_bytes).unwrap_or(usize::MAX),
            mailbox,
            outbox,
            abort,
        };
        let placement = if pooled { Placement::Pool } else { Placement::Thread };
        let launched = state.host.launch(&placement, Resources::default(), what);
        state.host.flush();
        launched.map_err(|error| error.to_string())
    }

    fn command(&self, incarnation: u64, command: Command) {
        let hosted = match self.lock().incarnations.get(&incarnation) {
            Some(hosted) => (hosted.mailbox.clone(), hosted.outbox.clone()),
            // One that is over has reported so; the head will know.
            None => return,
        };
        let (mailbox, outbox) = hosted;
        match command {
            Command::Run(order) => {
                let run = order.run;
                let cause = order.cause.clone();
                if mailbox.run(order) {
                    cause.within(|| outbox.report(Report::RunStarted { run }));
                }
            }
            command => mailbox.command(command),
        }
    }

    /// Pulls the bytes of a value, which are then kept until the head says that they are not wanted.
    fn keep(&self, id: PayloadId, hash: Hex<32>, length: u64, carried: Holds) {
        let head = self.head.clone();
        tokio::spawn(async move {
            let Some(hold) = carried.iter().find(|hold| hold.id() == id) else { return };
            let what = format!("a copy of payload {id}");
            let want = Want { id, hash: hash.0, length, type_name: "", what };
            // Once it is here the head is told, as of any pull.
            if let Err(error) = hold.entry().load_bytes(want).await {
                head.control(&Control::Copied { id, failed: Some(error.to_string()) });
            }
        });
    }

    fn kill(&self, incarnation: u64) {
        if let Some(hosted) = self.lock().incarnations.remove(&incarnation) {
            hosted.abort.raise();
        }
    }

    /// Ends all Works.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        let incarnations = std::mem::take(&mut state.incarnations);
        let mailboxes = std::mem::take(&mut state.mailboxes);
        state.ways.clear();
        drop(state);
        for hosted in incarnations.into_values() {
            log::log!(self.level(), "work `{}` is ended: the head is gone, or this node leaves", hosted.path);
            hosted.abort.raise();
        }
        for (mailbox, _) in mailboxes.into_values() {
            mailbox.close(crate::work::Closed::NodeLost);
        }
    }
}

/// Whether they tell of the end of an incarnation.
fn is_end(reports: &[Report]) -> bool {
    reports.iter().any(|report| matches!(report, Report::Stopped { .. } | Report::Died { .. }))
}

/// The news of a Work on its way to the head.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes note of what is referred to now; whether that is something else than before.
fn differ(before: &mut Vec<PayloadId>, holds: &Holds) -> bool {
    let now: Vec<_> = holds.iter().map(|hold| hold.id()).collect();
    let was = std::mem::replace(before, now);
    was != *before
}

impl Express for Link {
    fn take(&self, WorkId(incarnation): WorkId, news: &mut News) -> bool {
        // More than telling it has to be done about an end.
        // So it has to be about what a state refers to.
        if is_end(&news.reports) || news.holds.is_some() || !self.is_free() {
            return false;
        }
        let (patch, reports) = (news.patch.take(), std::mem::take(&mut news.reports));
        let trace = std::mem::take(&mut news.cause);
        self.control(&Control::News { incarnation, patch, refers: false, reports, trace });
        true
    }
}

struct Launch {
    incarnation: u64,
    path: ActorPath,
    work: String,
    pooled: bool,
    state: crate::state::Value,
    max_state_bytes: u64,
    mailbox: u64,
}

impl Site for Agent {
    fn admit(&self, hello: &Hello) -> Result<(), String> {
        match hello.role {
            Role::Peer => Ok(()),
            Role::Node | Role::Watcher | Role::Puller | Role::Drive => {
                Err("this is a node and not the head; join the head".to_owned())
            }
        }
    }

    fn joined(&self, link: &Arc<Link>, role: Role) {
        if role == Role::Node && self.is_process {
            log::debug!("joined the App at the head, as the process of one Work");
        } else if role == Role::Node {
            log::info!("joined the App at the head, as node `{}`", self.bridge.me().name);
        } else {
            log::debug!("node `{}` sends messages here", link.peer().name);
        }
    }

    fn control(&self, link: &Arc<Link>, control: Control, carried: Holds) -> Result<(), String> {
        if !Arc::ptr_eq(link, &self.head) {
            return Err(format!("only the head says {}", control.name()));
        }
        match control {
            Control::Launch { incarnation, path, work, pooled, state, max_state_bytes, mailbox } => {
                let launch = Launch { incarnation, path, work, pooled, state, max_state_bytes, mailbox };
                if let Err(message) = self.launch(launch, carried) {
                    self.lock().incarnations.remove(&incarnation);
                    let failure = Failure { reason: Reason::UserError, message };
                    let reports = vec![Report::Died { failure }];
                    let trace = Cause::default();
                    let news = Control::News { incarnation, patch: None, refers: false, reports, trace };
                    self.head.control(&news);
                }
            }
            Control::Run { incarnation, run, attempt, input, trace: cause } => {
                let input = Input::arrived(input, carried);
                self.command(
                    incarnation,
                    Command::Run(RunOrder { run, attempt, input, announced: false, cause }),
                );
            }
            Control::Cancel { incarnation, run } => self.command(incarnation, Command::Cancel { run }),
            Control::Stop { incarnation } => self.command(incarnation, Command::Stop),
            Control::Kill { incarnation } => self.kill(incarnation),
            Control::Close { incarnation, why } => {
                let mailbox = self.lock().incarnations.get(&incarnation).map(|hosted| hosted.mailbox.clone());
                if let Some(mailbox) = mailbox {
                    let lost = mailbox.close(why);
                    if lost > 0 {
                        log::warn!("{lost} messages that waited for a Work which was stopped are lost");
                    }
                }
            }
            Control::Located { path, place } => {
                let way = self.lock().ways.get(&path).cloned();
                if let Some(way) = way {
                    way.located(place);
                }
            }
            Control::There { id, sources, lost } => {
                for asker in self.lock().looking.remove(&id).unwrap_or_default() {
                    let _ = asker.send(Whereabouts { sources: sources.clone(), lost: lost.clone() });
                }
            }
            Control::Keep { id, hash, length } => self.keep(id, hash, length, carried),
            Control::Discard { id } => payload::discard(id),
            Control::Heard => {
                let mut state = self.lock();
                if let Some(told) = state.told.take() {
                    state.round_trip = Some(told.elapsed());
                }
            }
            Control::End { why } => {
                self.lock().over = Some(why);
                self.head.end();
            }
            other => return Err(format!("a head does not say {}", other.name())),
        }
        Ok(())
    }

    fn disconnected(&self, _: &Arc<Link>, role: Role, why: &str) {
        if role != Role::Node || self.lock().over.is_some() {
            return;
        }
        let level = if self.is_process { log::Level::Debug } else { log::Level::Warn };
        log::log!(level, "the connection to the head broke ({why}); trying to reach it again");
    }

    fn connected_again(&self, _: &Arc<Link>, role: Role) {
        if role == Role::Node {
            log::log!(self.level(), "connected to the head again; nothing was lost");
        }
    }

    fn lost(&self, _: &Arc<Link>, _: Role, _: &str) {}

    fn head(&self) -> Option<&Arc<Link>> {
        Some(&self.head)
    }

    fn link_to(&self, process: u64) -> Option<Arc<Link>> {
        (process == self.head.peer().id).then(|| self.head.clone())
    }

    fn reference(&self, hold: &Arc<Hold>) {
        // A copy that was kept for others is tied to the head no more since something here refers to it again.
        if hold.entry().is_here() && hold.entry().elsewhere().is_some() {
            tie_copy(&self.head, hold);
        }
    }

    fn pulled(&self, id: PayloadId) {
        // Before the head is told: what it lists is held.
        let Some(hold) = payload::find(id) else { return };
        tie_copy(&self.head, &hold);
        self.head.control(&Control::Copied { id, failed: None });
    }

    fn whereabouts(&self, id: PayloadId) -> BoxFuture<'static, Option<Whereabouts>> {
        let (asker, answer) = oneshot::channel();
        let first = {
            let mut state = self.lock();
            let askers = state.looking.entry(id).or_default();
            askers.push(asker);
            askers.len() == 1
        };
        if first {
            self.head.control(&Control::Where { id });
        }
        answer.map(Result::ok).boxed()
    }
}

impl Agent {
    /// For what the head says as well where this is one of its own processes.
    fn level(&self) -> log::Level {
        if self.is_process { log::Level::Debug } else { log::Level::Info }
    }
}

impl Router for Agent {
    fn route(&self, path: &ActorPath, kind: &'static WorkKind) -> Arc<dyn Route> {
        let mut state = self.lock();
        let way = state.ways.entry(path.clone()).or_insert_with(|| {
            let (bridge, head) = (Arc::downgrade(&self.bridge), self.head.clone());
            Arc::new(DistantWay::new(bridge, head, path.clone(), kind))
        });
        way.clone()
    }
}
