//! The agent: the part of a node that hosts Works for a head.
//!
//! # Guarantees
//! - States and reports of a Work are sent to the head in order; states conflate as long as the session has no room.
//! - When the session with the head is lost, all Works end before anything else is done, since the head has given them
//!   up or is about to. If the head has a journal and is started again, they go on instead: nothing that was sent and
//!   may not be durable is lost, and nothing more is sent until that head has taken them over.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::spawn_local;
use tokio::time::sleep;

use super::backoff::jitter;
use super::bridge::{Bridge, Destination, PeerHandler, Whereabouts};
use super::incarnation_log::IncarnationLog;
use super::lifetime::Lifetime;
use super::link::{Link, Target};
use super::protocol::{Control, Hello, Location, Refusal, Role, Source};
use super::references::{hold_at_owners, lease_replica};
use super::routing::{Forwarder, Subscriptions};
use super::topics;
use super::uplink::Uplink;
use crate::id::{ActorPath, IdMap, WorkId};
use crate::payload::{Hex, PayloadGuard, PayloadGuards, PayloadId, Want};
use crate::recorder;
use crate::runtime::Runtime;
use crate::state::Patch;
use crate::trace::Cause;
use crate::work::logs::shorten;
use crate::work::{
    Abort, AnyMailbox, AskCycles, Bind, CloseReason, Command, DeadLetters, Directory, Failure, FastPath,
    FencingToken, Found, Gpus, HeadOfWaits, Host, Input, KnownStep, LaunchSpec, LoadReport, LocalHost,
    Locator, Outbox, Place, Placement, Published, REPORT_INTERVAL, ReadyQueue, Reason, Report, Resources,
    Router, RunOrder, Steps, TopicCounts, TopicUplink, Topics, Update, WaitReport, WorkType, check_node_name,
};

/// Time limit for telling the head goodbye.
const FAREWELL: Duration = Duration::from_secs(1);

/// The registered types of Works, by name.
pub(crate) type Kinds = std::collections::BTreeMap<&'static str, &'static WorkType>;

pub(super) struct Agent {
    me: Weak<Agent>,
    runtime: Arc<Runtime>,
    directory: Arc<Directory>,
    cycles: Arc<AskCycles>,
    topics: Arc<Topics>,
    bridge: Arc<Bridge>,
    head: Arc<Uplink>,
    /// True if the head has a journal, so that another head can take over the Works.
    is_recorded: bool,
    kinds: Kinds,
    /// True in the process of a single Work.
    is_process: bool,
    ready_queue: Arc<ReadyQueue>,
    /// The number of the last incarnation that was launched here. The numbers ascend within one node.
    launched: watch::Sender<u64>,
    /// Notified once nothing of the App runs here any more, after this node has announced that it leaves.
    pub(super) may_leave: Notify,
    /// Notified once nothing in the App needs this process any more, when it is about to end.
    pub(super) may_end: Notify,
    /// The reason for which the head sends this node away, once it does.
    sent_away: watch::Sender<Option<String>>,
    lifetime: Arc<Lifetime>,
    state: Mutex<AgentState>,
}

struct AgentState {
    host: LocalHost,
    incarnations: IdMap<u64, Hosted>,
    /// Incarnations that have ended, until the head has acknowledged all their reports.
    ended: IdMap<u64, Ended>,
    /// The Works whose locations this node has subscribed to at the head.
    subscriptions: HashMap<ActorPath, Subscription>,
    /// Works whose messages go by way of the head, and of which this process had an address before.
    relayed: HashMap<ActorPath, Arc<AtomicBool>>,
    /// Values that were pinned for heads that were replaced, each with the epoch of its head.
    kept_values: Vec<(u64, Arc<PayloadGuard>)>,
    over: Option<String>,
    /// The time of the last load report, and the round trip time to the head, measured by its acknowledgement.
    told: Option<Instant>,
    round_trip: Option<Duration>,
    /// Pending requests for the whereabouts of values.
    looking: HashMap<PayloadId, Vec<oneshot::Sender<Whereabouts>>>,
    /// Questions to the head about paths.
    look_ups: IdMap<u64, LookUp>,
    next_look_up: u64,
}

/// A question to the head about a path.
struct LookUp {
    path: ActorPath,
    asker: oneshot::Sender<Found>,
}

/// A subscription to the location of a Work at the head.
#[derive(Default)]
struct Subscription {
    /// Number of forwarders that have subscribed, usually one.
    count: usize,
    forwarders: Vec<Weak<Forwarder>>,
    location: Option<Location<Source>>,
    /// The mailbox of the Work, kept here while messages wait in it, since there may be no address of it any more.
    mailbox: Option<Arc<dyn AnyMailbox>>,
}

struct Hosted {
    /// Number of the incarnation in its mailbox.
    mailbox_incarnation: u64,
    /// The values that the state last sent to the head refers to.
    refers: Arc<Mutex<Vec<PayloadId>>>,
    path: ActorPath,
    mailbox: Arc<dyn AnyMailbox>,
    outbox: Arc<Outbox>,
    abort: Arc<Abort>,
    /// Steps that are known of a run that is about to be ordered, with its number.
    known: (u64, Steps),
    /// Kept if the head has a journal.
    log: Option<SharedLog>,
    kind: &'static WorkType,
    gpus: Vec<u32>,
}

type SharedLog = Arc<Mutex<IncarnationLog>>;

/// An incarnation that has ended.
struct Ended {
    path: ActorPath,
    work: String,
    log: SharedLog,
}

impl Agent {
    /// Creates the agent of a node, or of the process of a single Work, which is not a node of its own.
    pub(super) fn new(
        runtime: Arc<Runtime>,
        kinds: Kinds,
        (pool, lifetime): (usize, Arc<Lifetime>),
        is_process: bool,
        bridge: Arc<Bridge>,
        head: Arc<Link>,
    ) -> Arc<Self> {
        let is_recorded = bridge.outlives_head();
        let directory = Directory::of(&runtime);
        let cycles = runtime.part().unwrap_or_default();
        let topics = Topics::of(&runtime);
        let mut host = LocalHost::new(runtime.clone(), pool);
        host.share_current();
        let state = AgentState {
            host,
            incarnations: IdMap::default(),
            ended: IdMap::default(),
            subscriptions: HashMap::new(),
            relayed: HashMap::new(),
            kept_values: Vec::new(),
            over: None,
            told: None,
            round_trip: None,
            looking: HashMap::new(),
            look_ups: IdMap::default(),
            next_look_up: 1,
        };
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            runtime,
            directory,
            cycles,
            topics,
            bridge,
            head: Uplink::new(head),
            is_recorded,
            kinds,
            is_process,
            may_leave: Notify::new(),
            may_end: Notify::new(),
            sent_away: watch::Sender::new(None),
            lifetime,
            ready_queue: Arc::default(),
            launched: watch::Sender::new(0),
            state: Mutex::new(state),
        })
    }

    /// Returns the reason why the App is over, once the head has announced it.
    pub(super) fn why_over(&self) -> Option<String> {
        self.state.lock().over.clone()
    }

    /// Waits until the head sends this node away, and returns the reason. Cancel safe.
    pub(super) async fn sent_away(&self) -> String {
        let mut sent_away = self.sent_away.subscribe();
        // The sender is part of this agent.
        let why = sent_away.wait_for(Option::is_some).await;
        why.ok().and_then(|why| why.clone()).unwrap_or_default()
    }

    pub(super) async fn send_updates(self: Arc<Self>) {
        let head = self.head.link();
        loop {
            let rung = poll_fn(|cx| self.ready_queue.poll(cx)).await;
            for WorkId(incarnation) in rung {
                if !head.room().await {
                    return;
                }
                self.send_update(incarnation);
            }
        }
    }

    /// Sends what an incarnation has published and reported, unless no head has taken it over.
    fn send_update(&self, incarnation: u64) {
        let hosted = {
            let state = self.state.lock();
            let hosted = state.incarnations.get(&incarnation);
            hosted.map(|hosted| (hosted.outbox.clone(), hosted.refers.clone(), hosted.log.clone()))
        };
        let Some((outbox, refers, log)) = hosted else { return };
        if log.as_ref().is_some_and(|log| log.lock().is_paused) {
            // Sent when it is resumed.
            return;
        }
        if outbox.has(is_end) {
            // Before the head learns of it: messages that are forwarded from here on are for the next
            // incarnation.
            self.leave(incarnation);
        }
        // Serialised with the fast path, so that updates taken there in the meantime do not overtake these.
        let (over, holds) = outbox.hand_over(|update| {
            let over = is_end(&update.reports);
            let Update { patch, holds, reports, cause: trace, .. } = update;
            let mut log = log.as_ref().map(|log| log.lock());
            let before = log.as_mut().and_then(|log| log.sent(patch.as_ref(), holds.as_ref(), &reports));
            // Announced only when they differ, since the head keeps the values that were announced last.
            let said = holds.as_ref().filter(|holds| differ(&mut refers.lock(), holds));
            let refers = said.is_some();
            let said = said.cloned().unwrap_or_default();
            if patch.is_some() || refers || !reports.is_empty() {
                write_update(&self.head.link(), incarnation, (patch, refers, &said), reports, trace);
            }
            (over, (holds, before))
        });
        // Outside the hand-over, since dropping the guards may free values.
        drop(holds);
        // Dropped without the lock: the last share of the mailbox may end its subscription, which takes the
        // lock.
        let ended = if over { self.remove(incarnation) } else { None };
        if let Some(hosted) = ended {
            log::log!(self.level(), "work `{}` has ended here", hosted.path);
        }
    }

    fn log_of(&self, incarnation: u64) -> Option<SharedLog> {
        self.state.lock().incarnations.get(&incarnation)?.log.clone()
    }

    /// Removes an incarnation that has ended. Its reports are kept until they are acknowledged.
    fn remove(&self, incarnation: u64) -> Option<Hosted> {
        let mut state = self.state.lock();
        let hosted = state.incarnations.remove(&incarnation)?;
        if let Some(log) = hosted.log.clone().filter(|log| !log.lock().is_acknowledged()) {
            let (path, work) = (hosted.path.clone(), hosted.kind.name().to_owned());
            state.ended.insert(incarnation, Ended { path, work, log });
        }
        Some(hosted)
    }

    /// Drops reports that are durable at the head.
    fn acknowledge(&self, incarnation: u64, reports: u64) {
        let mut state = self.state.lock();
        if let Some(hosted) = state.incarnations.get(&incarnation) {
            hosted.log.iter().for_each(|log| log.lock().acknowledge(reports));
            return;
        }
        let is_done = state.ended.get(&incarnation).is_some_and(|ended| {
            let mut log = ended.log.lock();
            log.acknowledge(reports);
            log.is_acknowledged()
        });
        let done = if is_done { state.ended.remove(&incarnation) } else { None };
        drop(state);
        drop(done);
    }

    // ---- a head that is started again ----

    /// Returns the dead letters of this process.
    pub(super) fn dead_letters(&self) -> Arc<DeadLetters> {
        DeadLetters::of(&self.runtime)
    }

    /// Returns true in the process of a single Work.
    pub(super) fn is_process(&self) -> bool {
        self.is_process
    }

    /// Returns true if another head can take over the Works.
    pub(super) fn is_recorded(&self) -> bool {
        self.is_recorded
    }

    /// Holds back the updates of all Works, because there is no head, and keeps the values that it has held.
    pub(super) fn pause(&self) {
        let kept = self.head.link().pins().take_set_aside();
        let epoch = self.bridge.epoch();
        let mut state = self.state.lock();
        state.kept_values.extend(kept.into_iter().map(|value| (epoch, value)));
        let logs = state.incarnations.values().filter_map(|hosted| hosted.log.as_ref());
        logs.chain(state.ended.values().map(|ended| &ended.log)).for_each(|log| log.lock().is_paused = true);
    }

    /// Begins a session with a head: describes the incarnations that are hosted here, and subscribes again. `grace` is
    /// the time in which other nodes may join that head.
    pub(super) fn offer(&self, link: &Arc<Link>, grace: Duration) {
        self.head.replace(link.clone());
        let (mut kept, mut failed) = (Vec::new(), Vec::new());
        let forgotten = {
            let mut state = self.state.lock();
            (state.told, state.round_trip) = (None, None);
            for (incarnation, hosted) in &state.incarnations {
                let (path, work) = (hosted.path.clone(), hosted.kind.name().to_owned());
                kept.extend(
                    hosted.log.clone().map(|log| (*incarnation, path, work, log, hosted.gpus.clone())),
                );
            }
            for (incarnation, Ended { path, work, log }) in &state.ended {
                kept.push((*incarnation, path.clone(), work.clone(), log.clone(), Vec::new()));
            }
            std::mem::take(&mut state.looking)
        };
        drop(forgotten);
        kept.sort_unstable_by_key(|(incarnation, ..)| *incarnation);
        for (incarnation, path, work, log, gpus) in kept {
            let log = log.lock();
            let hosts = Control::Hosts {
                incarnation,
                path: path.clone(),
                work,
                last_run: log.last_run(),
                acknowledged: log.acknowledged(),
                state: log.state().clone(),
                gpus,
            };
            if let Err(why) = link.try_control(log.holds(), &hosts) {
                log::error!("work `{path}` cannot be described to the head, and is ended: {why}");
                failed.push(incarnation);
            }
        }
        link.control(&Control::HostsAll);
        failed.into_iter().for_each(|incarnation| self.kill(incarnation));
        self.look_up_again(link);
        self.topics.declare_again();
        self.subscribe_again(link);
        hold_at_owners(&self.bridge);
        if !self.state.lock().kept_values.is_empty() {
            self.release_kept_values(grace);
        }
    }

    /// Releases the values that were kept for the heads before this one, once all nodes have joined this one or are
    /// given up by it, and all processes hold what they refer to.
    fn release_kept_values(&self, grace: Duration) {
        let (me, epoch) = (self.me.clone(), self.bridge.epoch());
        spawn_local(async move {
            sleep(grace * 2).await;
            let Some(agent) = me.upgrade() else { return };
            let released: Vec<_> =
                agent.state.lock().kept_values.extract_if(.., |(kept, _)| *kept < epoch).collect();
            // Not under the lock, since dropping the last reference to a value sends messages.
            drop(released);
        });
    }

    /// Asks the head that has replaced the one before about the paths that were not answered.
    fn look_up_again(&self, link: &Arc<Link>) {
        for (number, look_up) in &self.state.lock().look_ups {
            link.control(&Control::LookUp { number: *number, path: look_up.path.clone() });
        }
    }

    fn subscribe_again(&self, link: &Arc<Link>) {
        let mut forwarders = Vec::new();
        let mut state = self.state.lock();
        for (path, subscription) in &mut state.subscriptions {
            subscription.location = None;
            forwarders.extend(subscription.forwarders.iter().filter_map(Weak::upgrade));
            if subscription.count > 0 {
                link.control(&Control::Locate { path: path.clone() });
            }
        }
        drop(state);
        forwarders.iter().for_each(|forwarder| forwarder.follow_anew());
    }

    /// Goes on with an incarnation that the head has taken over: sends the reports that may not be durable again. The head
    /// waits for this update, even if it is empty, before it counts the state that it was offered.
    fn resume(&self, incarnation: u64) {
        let log = {
            let state = self.state.lock();
            let hosted = state.incarnations.get(&incarnation).and_then(|hosted| hosted.log.as_ref());
            hosted.or_else(|| state.ended.get(&incarnation).map(|ended| &ended.log)).cloned()
        };
        if let Some(log) = log {
            let mut log = log.lock();
            let nothing = PayloadGuards::default();
            write_update(
                &self.head.link(),
                incarnation,
                (None, false, &nothing),
                log.reports(),
                Cause::default(),
            );
            log.is_paused = false;
        }
        self.send_update(incarnation);
    }

    /// Keeps a step that is known of a run, until the run is ordered.
    fn know(&self, incarnation: u64, run: u64, step: KnownStep) -> Result<(), String> {
        let mut state = self.state.lock();
        let Some(hosted) = state.incarnations.get_mut(&incarnation) else { return Ok(()) };
        if hosted.known.0 != run {
            hosted.known = (run, Steps::default());
        }
        hosted
            .known
            .1
            .insert(step)
            .map(drop)
            .map_err(|limit| format!("the head sent more than {limit} of one run"))
    }

    /// Returns the steps that are known of a run.
    fn take_known(&self, incarnation: u64, run: u64) -> Steps {
        let mut state = self.state.lock();
        let hosted = state.incarnations.get_mut(&incarnation);
        let (of, steps) = hosted.map(|hosted| std::mem::take(&mut hosted.known)).unwrap_or_default();
        if of == run { steps } else { Steps::default() }
    }

    /// Sends load reports and newly recorded metrics to the head at intervals.
    pub(super) async fn send_load_reports(self: Arc<Self>) {
        let mut told = recorder::Carried::default();
        let mut told_topics = Vec::new();
        let mut interval = jitter(REPORT_INTERVAL);
        let head = self.head.link();
        while head.room().await {
            let topics = self.topics.reports();
            if topics != told_topics {
                head.control(&Control::TopicReports { topics: topics.clone() });
                told_topics = topics;
            }
            let families = told.update(recorder::families());
            if !families.is_empty() {
                head.control(&Control::Recorded { families });
            }
            let round_trip = {
                let mut state = self.state.lock();
                state.told = Some(Instant::now());
                state.round_trip
            };
            let round_trip_us = round_trip.map(|took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
            head.control(&Control::LoadReport { load_report: LoadReport::of(&self.runtime), round_trip_us });
            // All nodes of a head that was started again begin at the same moment.
            sleep(std::mem::replace(&mut interval, REPORT_INTERVAL)).await;
        }
    }

    fn launch(&self, launch: Launch, holds: PayloadGuards) -> Result<(), String> {
        let Launch {
            incarnation,
            path,
            work,
            pooled,
            state: value,
            max_state_bytes,
            mailbox: capacity,
            gpus,
            token,
        } = launch;
        let kind = self
            .kinds
            .get(work.as_str())
            .ok_or_else(|| format!("this program has no Work of type `{work}`"))?;
        log::log!(self.level(), "work `{path}` runs here");
        // Reuses the mailbox that local addresses lead to: messages that wait in it are for the Work, not for one
        // incarnation.
        let mailbox = match self.directory.mailbox_at(&path, kind) {
            Ok(Some(mailbox)) => mailbox,
            other => {
                let mailbox = kind.mailbox(1);
                self.directory.remember(&path, &mailbox);
                if let Err(replaced) = other {
                    replaced.close(CloseReason::Unknown);
                }
                mailbox
            }
        };
        mailbox.set_capacity(usize::try_from(capacity).unwrap_or(usize::MAX));
        let outbox = Outbox::new(WorkId(incarnation), self.ready_queue.clone());
        let log =
            self.is_recorded.then(|| Arc::new(Mutex::new(IncarnationLog::new(value.clone(), holds.clone()))));
        let express = Express { head: self.head.clone(), log: log.clone() };
        let outbox = Arc::new(outbox.with_express(Arc::new(express)));
        let abort = Arc::new(Abort::default());
        let refers = Arc::new(Mutex::new(holds.iter().map(|hold| hold.id()).collect()));
        let what = LaunchSpec {
            kind,
            path: path.clone(),
            state: value,
            holds,
            max_state_bytes: usize::try_from(max_state_bytes).unwrap_or(usize::MAX),
            mailbox: mailbox.clone(),
            outbox: outbox.clone(),
            abort: abort.clone(),
            gpus: Gpus::given(gpus.clone()),
            token,
        };
        let placement = if pooled { Placement::Pool } else { Placement::Thread };
        let mut state = self.state.lock();
        let launched = state.host.launch(&placement, Resources::default(), what);
        let mailbox_incarnation = mailbox.incarnation();
        let known = Default::default();
        let hosted =
            Hosted { mailbox_incarnation, refers, path, mailbox, outbox, abort, known, log, kind, gpus };
        state.incarnations.insert(incarnation, hosted);
        state.host.flush();
        drop(state);
        self.launched.send_replace(incarnation);
        launched.map_err(|error| error.to_string())
    }

    /// Makes the mailbox of an incarnation accept no more messages for it.
    fn leave(&self, incarnation: u64) {
        let hosted = {
            let state = self.state.lock();
            let hosted = state.incarnations.get(&incarnation);
            hosted.map(|hosted| (hosted.path.clone(), hosted.mailbox.clone(), hosted.mailbox_incarnation))
        };
        if let Some((path, mailbox, number)) = hosted {
            self.left(&path, &mailbox, number);
        }
    }

    /// Closes incarnation `number` of a mailbox, which then follows the Work to its next location.
    fn left(&self, path: &ActorPath, mailbox: &Arc<dyn AnyMailbox>, number: u64) {
        mailbox.leave(Some(number));
        if mailbox.depth() > 0 {
            self.keep_mailbox(path, mailbox.clone());
        }
        mailbox.want();
    }

    /// Keeps a mailbox alive in which messages wait, since there may be no other reference to it.
    fn keep_mailbox(&self, path: &ActorPath, mailbox: Arc<dyn AnyMailbox>) {
        let before = {
            let mut state = self.state.lock();
            state.subscriptions.entry(path.clone()).or_default().mailbox.replace(mailbox)
        };
        drop(before);
    }

    fn located(&self, path: &ActorPath, location: Location<Source>) {
        let (forwarders, mailbox) = {
            let mut state = self.state.lock();
            let Some(subscription) = state.subscriptions.get_mut(path) else { return };
            subscription.location = Some(location.clone());
            (subscription.forwarders.clone(), subscription.mailbox.take())
        };
        for forwarder in forwarders.iter().filter_map(Weak::upgrade) {
            forwarder.follow(&location);
        }
        // Messages that are being forwarded keep the mailbox alive themselves.
        if let Some(mailbox) =
            mailbox.filter(|mailbox| mailbox.depth() > 0 && !matches!(mailbox.place(), Place::At(_)))
        {
            self.keep_mailbox(path, mailbox);
        }
    }

    fn command(&self, incarnation: u64, command: Command) {
        let hosted = match self.state.lock().incarnations.get(&incarnation) {
            Some(hosted) => (hosted.mailbox.clone(), hosted.outbox.clone(), hosted.log.clone()),
            // An incarnation that has ended has reported so, and the head will learn of it.
            None => return,
        };
        let (mailbox, outbox, log) = hosted;
        match command {
            Command::Run(order) => {
                let run = order.run;
                log.iter().for_each(|log| log.lock().ordered(run));
                let cause = order.cause.clone();
                if mailbox.run(order) {
                    cause.within(|| outbox.report(Report::RunStarted { run }));
                }
            }
            command => mailbox.command(command),
        }
    }

    /// Pulls the bytes of a value and keeps them as a replica until the head releases it.
    fn keep(&self, id: PayloadId, hash: Hex<32>, length: u64, carried: PayloadGuards) {
        let head = self.head.link();
        tokio::spawn(async move {
            let Some(hold) = carried.iter().find(|hold| hold.id() == id) else { return };
            let what = format!("a copy of payload {id}");
            let want = Want { id, hash: hash.0, length, type_name: "", what };
            // A successful pull is reported to the head in `pulled`.
            if let Err(error) = hold.entry().load_bytes(want).await {
                head.control(&Control::Copied { id, failed: Some(error.to_string()) });
            }
        });
    }

    fn kill(&self, incarnation: u64) {
        let (killed, ended) = {
            let mut state = self.state.lock();
            (state.incarnations.remove(&incarnation), state.ended.remove(&incarnation))
        };
        drop(ended);
        if let Some(hosted) = killed {
            hosted.abort.raise();
            hosted.mailbox.given_up(Some(hosted.mailbox_incarnation));
            self.left(&hosted.path, &hosted.mailbox, hosted.mailbox_incarnation);
        }
    }

    /// Closes the mailbox of an incarnation for the reason `why`, until the Work has a location again.
    fn close(&self, incarnation: u64, why: CloseReason) {
        let hosted = {
            let state = self.state.lock();
            let hosted = state.incarnations.get(&incarnation);
            hosted.map(|hosted| (hosted.mailbox.clone(), hosted.mailbox_incarnation))
        };
        let Some((mailbox, number)) = hosted else { return };
        if mailbox.incarnation() == number {
            mailbox.leave(Some(number));
            mailbox.close(why);
            mailbox.want();
        }
    }

    /// Ends the session with a goodbye, for which the head waits before it ends.
    fn leave_head(&self) {
        let head = self.head.link();
        head.leave("the App is over");
        spawn_local(async move {
            // The head may have gone without reading it.
            sleep(FAREWELL).await;
            head.end();
        });
    }

    /// Ends all Works.
    pub(super) fn end(&self) {
        self.topics.end();
        let mut state = self.state.lock();
        let incarnations = std::mem::take(&mut state.incarnations);
        let ended = std::mem::take(&mut state.ended);
        let kept_values = std::mem::take(&mut state.kept_values);
        let subscriptions = std::mem::take(&mut state.subscriptions);
        let look_ups = std::mem::take(&mut state.look_ups);
        drop(state);
        drop((ended, kept_values, look_ups));
        for hosted in incarnations.into_values() {
            log::log!(self.level(), "work `{}` is ended: the head is gone, or this node leaves", hosted.path);
            hosted.abort.raise();
            hosted.mailbox.given_up(Some(hosted.mailbox_incarnation));
            // Other nodes may still have a head that knows the next location of the Work.
            hosted.mailbox.leave(Some(hosted.mailbox_incarnation));
            hosted.mailbox.close(CloseReason::NodeLost);
        }
        for subscription in subscriptions.into_values() {
            for forwarder in subscription.forwarders.iter().filter_map(Weak::upgrade) {
                if let Some(mailbox) = forwarder.mailbox() {
                    mailbox.close(CloseReason::NodeLost);
                }
            }
        }
    }
}

/// Returns `true` if one of the reports is the end of an incarnation.
fn is_end(reports: &[Report]) -> bool {
    reports.iter().any(|report| matches!(report, Report::Stopped { .. } | Report::Died { .. }))
}

/// Replaces the recorded references of a state. Returns `true` if they differ from those before.
fn differ(before: &mut Vec<PayloadId>, holds: &PayloadGuards) -> bool {
    let now: Vec<_> = holds.iter().map(|hold| hold.id()).collect();
    let was = std::mem::replace(before, now);
    was != *before
}

/// Sends a publish and the reports behind it, which the head takes at once, so that the end of a run is recorded with its
/// last state. Each step is a message of its own, which keeps messages small and carries the payloads of the step.
fn write_update(
    head: &Link,
    incarnation: u64,
    (patch, refers, said): (Option<Patch>, bool, &PayloadGuards),
    reports: Vec<Report>,
    trace: Cause,
) {
    let mut reports = reports.into_iter().peekable();
    let (mut patch, mut refers) = (patch, refers);
    loop {
        let is_step = |report: &Report| matches!(report, Report::Stepped { .. });
        let mut gathered = Vec::new();
        while let Some(report) = reports.next_if(|report| !is_step(report)) {
            gathered.push(report);
        }
        let step = reports.next();
        if step.is_none() || patch.is_some() || refers || !gathered.is_empty() {
            let said = if refers { said.clone() } else { PayloadGuards::default() };
            let (patch, refers) = (patch.take(), std::mem::take(&mut refers));
            let (reports, trace, more) = (gathered, trace.clone(), step.is_some());
            head.control_with(&said, &Control::Update { incarnation, patch, refers, reports, more, trace });
        }
        let Some(Report::Stepped { run, step }) = step else { return };
        let more = reports.peek().is_some();
        head.control_with(&step.holds(), &Control::Stepped { incarnation, run, step, more });
        if !more {
            return;
        }
    }
}

/// The fast path for the updates of one incarnation.
struct Express {
    head: Arc<Uplink>,
    log: Option<SharedLog>,
}

impl FastPath for Express {
    fn take(&self, WorkId(incarnation): WorkId, update: &mut Update) -> bool {
        // The end of an incarnation, steps, and a change of the values that a state refers to need the slow path.
        let is_step = |report: &Report| matches!(report, Report::Stepped { .. });
        let is_slow = is_end(&update.reports) || update.reports.iter().any(is_step);
        if is_slow || update.holds.is_some() {
            return false;
        }
        let mut log = self.log.as_ref().map(|log| log.lock());
        let head = self.head.link();
        if log.as_ref().is_some_and(|log| log.is_paused) || !head.is_free() {
            return false;
        }
        if let Some(log) = &mut log {
            let before = log.sent(update.patch.as_ref(), None, &update.reports);
            drop(before);
        }
        let (patch, reports) = (update.patch.take(), std::mem::take(&mut update.reports));
        let trace = std::mem::take(&mut update.cause);
        let (refers, more) = (false, false);
        head.control(&Control::Update { incarnation, patch, refers, reports, more, trace });
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
    gpus: Vec<u32>,
    token: FencingToken,
}

impl PeerHandler for Agent {
    fn admit(&self, hello: &Hello) -> Result<(), Refusal> {
        match hello.role {
            Role::Peer => check_node_name(&hello.node.name).map_err(|why| Refusal::for_good(why.to_string())),
            Role::Node | Role::Watcher | Role::Puller | Role::Drive => {
                Err(Refusal::for_good("this is a node and not the head; join the head".to_owned()))
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
            if self.bridge.is_leaving() {
                link.control(&Control::MoveLeases);
            }
        }
    }

    fn control(&self, link: &Arc<Link>, control: Control, carried: PayloadGuards) -> Result<(), String> {
        if !Arc::ptr_eq(link, &self.head.link()) {
            return Err(format!("only the head may send {}", control.name()));
        }
        match control {
            Control::Launch {
                incarnation,
                path,
                work,
                pooled,
                state,
                max_state_bytes,
                mailbox,
                gpus,
                token,
            } => {
                if incarnation <= *self.launched.borrow() {
                    return Err(format!("incarnation {incarnation} was launched after a later one"));
                }
                let launch =
                    Launch { incarnation, path, work, pooled, state, max_state_bytes, mailbox, gpus, token };
                if let Err(message) = self.launch(launch, carried) {
                    self.launched.send_replace(incarnation);
                    let failure = Failure::new(Reason::UserError, message);
                    let reports = vec![Report::Died { failure }];
                    if let Some(log) = self.log_of(incarnation) {
                        let before = log.lock().sent(None, None, &reports);
                        drop(before);
                    }
                    if let Some(hosted) = self.remove(incarnation) {
                        self.left(&hosted.path, &hosted.mailbox, hosted.mailbox_incarnation);
                    }
                    let (patch, refers, more, trace) = (None, false, false, Cause::default());
                    link.control(&Control::Update { incarnation, patch, refers, reports, more, trace });
                }
            }
            Control::Run { incarnation, run, attempt, input, trace: cause } => {
                let input = Input::arrived(input, carried);
                let steps = self.take_known(incarnation, run);
                let order = Box::new(RunOrder { run, attempt, input, steps, announced: false, cause });
                self.command(incarnation, Command::Run(order));
            }
            Control::Known { incarnation, run, step } => {
                self.know(incarnation, run, step.arrived(carried))?
            }
            Control::Durable { incarnation, barrier } => {
                self.command(incarnation, Command::Durable { barrier });
            }
            Control::Cancel { incarnation, run } => self.command(incarnation, Command::Cancel { run }),
            Control::Stop { incarnation } => self.command(incarnation, Command::Stop),
            Control::Kill { incarnation } => self.kill(incarnation),
            Control::Resume { incarnation } => self.resume(incarnation),
            Control::Acknowledge { incarnation, reports } => self.acknowledge(incarnation, reports),
            Control::Close { incarnation, why } => self.close(incarnation, why),
            Control::ProcessLost { process } => {
                let sessions = self.bridge.peers().into_iter().filter(|link| link.peer().id == process);
                sessions.for_each(|link| link.give_up("the head has given it up"));
            }
            Control::Located { path, location } => self.located(&path, location),
            Control::LookedUp { number, found } => {
                let look_up = self.state.lock().look_ups.remove(&number);
                if let Some(look_up) = look_up {
                    let _ = look_up.asker.send(found);
                }
            }
            Control::Wait(order) => self.cycles.obey(order),
            Control::TopicUsed { number, refused } => self.topics.answered(number, refused),
            // The values that it refers to are held until it was read.
            Control::Published(message) => self.topics.arrived(&message),
            Control::There { id, sources, gone, lost } => {
                let answer = Whereabouts { sources, gone, lost };
                for asker in self.state.lock().looking.remove(&id).unwrap_or_default() {
                    let _ = asker.send(answer.clone());
                }
            }
            Control::Keep { id, hash, length } => self.keep(id, hash, length, carried),
            Control::Discard { id } => self.bridge.store().discard(id),
            Control::LoadReportAck => {
                let mut state = self.state.lock();
                if let Some(told) = state.told.take() {
                    state.round_trip = Some(told.elapsed());
                }
            }
            Control::MayLeave => self.may_leave.notify_one(),
            Control::Drain { .. } if self.is_process => {
                return Err("the head may not send the process of a single Work away".to_owned());
            }
            Control::Lifetime { ends_in_ms } => self.lifetime.set(ends_in_ms.map(Duration::from_millis)),
            // The first reason counts.
            Control::Drain { mut why } => {
                shorten(&mut why);
                let is_first =
                    |known: &mut Option<String>| known.is_none().then(|| *known = Some(why)).is_some();
                self.sent_away.send_if_modified(is_first);
            }
            Control::End { why } => {
                self.state.lock().over = Some(why);
                match self.bridge.is_leaving() {
                    true => self.may_end.notify_one(),
                    false => self.leave_head(),
                }
            }
            other => return Err(format!("the head may not send {}", other.name())),
        }
        Ok(())
    }

    fn destination(&self, _: &ActorPath, target: Target) -> Destination {
        let incarnation = target.incarnation;
        if let Some(hosted) = self.state.lock().incarnations.get(&incarnation) {
            return Destination::Incarnation(hosted.mailbox.clone(), hosted.mailbox_incarnation);
        }
        let mut launched = self.launched.subscribe();
        if *launched.borrow_and_update() >= incarnation {
            return Destination::Gone;
        }
        Destination::NotYet(Box::pin(async move {
            // An error means that the agent is gone; the process is about to exit.
            let _ = launched.wait_for(|last| *last >= incarnation).await;
        }))
    }

    fn disconnected(&self, _: &Arc<Link>, role: Role, why: &str) {
        if role != Role::Node || self.state.lock().over.is_some() {
            return;
        }
        let level = if self.is_process { log::Level::Debug } else { log::Level::Warn };
        let meanwhile = match self.is_recorded {
            true => "; the Works here go on, also if the head is started again with its journal",
            false => "",
        };
        log::log!(level, "the connection to the head broke ({why}); trying to reach it again{meanwhile}");
    }

    fn connected_again(&self, _: &Arc<Link>, role: Role) {
        if role == Role::Node {
            log::log!(self.level(), "connected to the head again; nothing was lost");
        }
    }

    fn lost(&self, _: &Arc<Link>, _: Role, _: &str) {}

    fn head(&self) -> Option<Arc<Link>> {
        Some(self.head.link())
    }

    fn link_to(&self, process: u64) -> Option<Arc<Link>> {
        let head = self.head.link();
        (process == head.peer().id).then_some(head)
    }

    fn reference(&self, hold: &Arc<PayloadGuard>) {
        // A local reference keeps the copy alive from now on, in place of the interest of the head.
        if hold.entry().is_here() && hold.entry().remote_source().is_some() {
            lease_replica(&self.head.link(), hold);
        }
    }

    fn pulled(&self, id: PayloadId) {
        // Before the head is told, since it may rely on copies that were reported.
        let Some(hold) = self.bridge.store().find(id) else { return };
        let head = self.head.link();
        lease_replica(&head, &hold);
        head.control(&Control::Copied { id, failed: None });
    }

    fn whereabouts(&self, id: PayloadId, among: Vec<u64>) -> BoxFuture<'static, Option<Whereabouts>> {
        let (asker, answer) = oneshot::channel();
        let first = {
            let mut state = self.state.lock();
            let askers = state.looking.entry(id).or_default();
            askers.push(asker);
            askers.len() == 1
        };
        // Later askers share the answer. A process that only they know of is not among those said to be gone.
        if first {
            self.head.link().control(&Control::Where { id, among });
        }
        answer.map(Result::ok).boxed()
    }
}

impl Agent {
    /// Returns the level for events that the head logs as well if this is the process of a single Work.
    fn level(&self) -> log::Level {
        if self.is_process { log::Level::Debug } else { log::Level::Info }
    }
}

impl Subscriptions for Agent {
    fn subscribe(&self, forwarder: &Arc<Forwarder>) {
        let path = forwarder.path();
        let known = {
            let mut state = self.state.lock();
            let subscription = state.subscriptions.entry(path.clone()).or_default();
            subscription.count += 1;
            subscription.forwarders.push(Arc::downgrade(forwarder));
            if subscription.count == 1 {
                // Under the lock, so that the head receives `Locate` and `Unlocate` in order.
                self.head.link().control(&Control::Locate { path: path.clone() });
            }
            subscription.location.clone()
        };
        if let Some(location) = known {
            forwarder.follow(&location);
        }
    }

    fn unsubscribe(&self, path: &ActorPath) {
        let mut state = self.state.lock();
        let Some(subscription) = state.subscriptions.get_mut(path) else { return };
        subscription.count = subscription.count.saturating_sub(1);
        subscription.forwarders.retain(|forwarder| forwarder.strong_count() > 0);
        if subscription.count == 0 {
            let forgotten = state.subscriptions.remove(path);
            self.head.link().control(&Control::Unlocate { path: path.clone() });
            drop(state);
            drop(forgotten);
        }
    }

    fn keep_relayed(&self, path: &ActorPath, is_relayed: &Arc<AtomicBool>) {
        self.state.lock().relayed.entry(path.clone()).or_insert_with(|| is_relayed.clone());
    }
}

impl TopicUplink for Agent {
    fn declare(&self, number: u64, topic: &str, message: &str, subscribes: bool) {
        let (topic, message) = (topic.to_owned(), message.to_owned());
        self.head.link().control(&Control::UseTopic { number, topic, message, subscribes });
    }

    fn leave(&self, topic: &str, counts: TopicCounts) {
        self.head.link().control(&Control::LeaveTopic { topic: topic.to_owned(), counts });
    }

    fn publish(&self, message: &Published, holds: &PayloadGuards) -> Result<bool, String> {
        topics::publish(&self.head.link(), message, holds)
    }
}

impl HeadOfWaits for Agent {
    fn report(&self, report: WaitReport) {
        self.head.link().control(&Control::WaitReport(report));
    }
}

impl Router for Agent {
    fn locator(&self, path: &ActorPath, kind: &'static WorkType) -> (Arc<dyn Locator>, Bind) {
        let head = self.head.clone();
        let is_relayed = self.state.lock().relayed.get(path).cloned().unwrap_or_default();
        let subscriptions: Weak<dyn Subscriptions> = self.me.clone();
        let is_process = self.is_process;
        let forwarder =
            Forwarder::new(subscriptions, &self.bridge, head, path.clone(), kind, is_process, is_relayed);
        let bound = forwarder.clone();
        (forwarder, Box::new(move |mailbox| bound.bind(mailbox)))
    }

    fn look_up(&self, path: ActorPath) -> BoxFuture<'static, Option<Found>> {
        if path.as_str().len() > ActorPath::LONGEST_FROM_AFAR {
            return ready(Some(Found::Nothing(Vec::new()))).boxed();
        }
        let (asker, answer) = oneshot::channel();
        {
            let mut state = self.state.lock();
            let number = state.next_look_up;
            state.next_look_up += 1;
            state.look_ups.insert(number, LookUp { path: path.clone(), asker });
            // Under the lock, so that a head that is replaced meanwhile is asked, or the one after it.
            self.head.link().control(&Control::LookUp { number, path });
        }
        answer.map(Result::ok).boxed()
    }

    fn work_type(&self, name: &str) -> Option<&'static WorkType> {
        self.kinds.get(name).copied()
    }
}
