//! The topics of an App in this process, and their way to the other processes.

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::error::{TopicError, TopicRefusal};
use super::statistics::{REPORTED_TOPICS, Statistics, TopicCounts, TopicReport, TopicStatus};
use super::table::{MOST_TOPICS, Table};
use crate::id::{ActorPath, IdMap};
use crate::payload::PayloadGuards;
use crate::runtime::Runtime;
use crate::trace::Cause;
use crate::wire::CodecError;

/// Reason why the head cannot be asked.
pub(super) const GONE: &str = "the head is out of reach, or the App has ended";

/// Number of subscriptions of the Works of one process.
const MOST_SUBSCRIPTIONS: usize = 1 << 16;

/// A message that is published, on its way to other processes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Published {
    pub(crate) topic: String,
    /// Type of the message.
    pub(crate) message: String,
    pub(crate) body: Bytes,
    /// The Work that has published it; absent for code outside of Works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sender: Option<ActorPath>,
    #[serde(default, skip_serializing_if = "Cause::is_none")]
    pub(crate) trace: Cause,
}

/// The ways of the head to the other processes.
pub(crate) trait TopicRoutes: Send + Sync {
    /// Sends a message to a process. Returns false if there is no room for it, or no such process.
    ///
    /// # Errors
    /// The reason why it can never be sent.
    fn publish(&self, process: u64, message: &Published, holds: &PayloadGuards) -> Result<bool, String>;
}

/// The way of another process to the head.
pub(crate) trait TopicUplink: Send + Sync {
    /// Tells the head that this process uses a topic, and whether it subscribes. Answered by [`Topics::answered`].
    fn declare(&self, number: u64, topic: &str, message: &str, subscribes: bool);

    /// Tells the head that this process does not use a topic any more.
    fn leave(&self, topic: &str, counts: TopicCounts);

    /// Sends a message to the head, as [`TopicRoutes::publish`] does.
    ///
    /// # Errors
    /// The reason why it can never be sent.
    fn publish(&self, message: &Published, holds: &PayloadGuards) -> Result<bool, String>;
}

/// A topic in this process, whatever the type of its messages.
pub(super) trait AnyTopic: Send + Sync {
    /// Returns the type of the messages.
    fn message(&self) -> &'static str;

    fn has_subscribers(&self) -> bool;

    /// Hands a message from another process to the subscribers.
    fn receive(&self, published: &Published);

    /// Notes that the head does not let this process use the topic.
    fn refuse(&self, refusal: TopicRefusal);

    fn report(&self) -> TopicReport;

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

/// The topics of an App in this process; a part of its runtime.
#[derive(Default)]
pub(crate) struct Topics {
    state: Mutex<State>,
    subscriptions: AtomicUsize,
}

#[derive(Default)]
struct State {
    /// The topics that this process uses.
    used: HashMap<Arc<str>, Used>,
    role: Role,
}

struct Used {
    topic: Weak<dyn AnyTopic>,
    message: &'static str,
    /// True if the last declaration to the head says that there are subscribers.
    subscribes: bool,
    /// Number of the last declaration to the head.
    number: u64,
    /// True once the head has answered the last declaration.
    is_answered: bool,
}

enum Role {
    Head { table: Table, statistics: Statistics, routes: Option<Weak<dyn TopicRoutes>> },
    Member { head: Weak<dyn TopicUplink>, waiting: IdMap<u64, Asked>, next: u64 },
}

/// A declaration that the head has not answered.
struct Asked {
    topic: Arc<str>,
    answer: oneshot::Sender<Option<TopicRefusal>>,
}

impl Default for Role {
    fn default() -> Self {
        Self::Head { table: Table::default(), statistics: Statistics::default(), routes: None }
    }
}

/// The answer of the head to a declaration.
pub(super) type Answer = oneshot::Receiver<Option<TopicRefusal>>;

fn unreachable(topic: &str) -> TopicError {
    TopicError::Unreachable { topic: topic.to_owned(), why: GONE.to_owned() }
}

/// Sends a message to these processes. Returns the number of those that have no room for it.
///
/// # Errors
/// The reason why it cannot be sent to one of them.
fn send(
    routes: &dyn TopicRoutes,
    targets: Vec<Option<u64>>,
    published: &Published,
    holds: &PayloadGuards,
) -> Result<u64, String> {
    let mut dropped = 0;
    for process in targets.into_iter().flatten() {
        dropped += u64::from(!routes.publish(process, published, holds)?);
    }
    Ok(dropped)
}

/// Result of a declaration.
enum Declared {
    /// The head knows it.
    Known,
    Asked(Answer),
    Refused(TopicRefusal),
    /// The head is gone.
    Unreachable,
}

impl State {
    /// Tells the head of a topic that is used, unless it knows. If `waits`, the answer is awaited.
    fn declare(&mut self, name: &Arc<str>, subscribes: bool, waits: bool) -> Declared {
        let Some(used) = self.used.get_mut(name) else { return Declared::Known };
        if used.is_answered && used.subscribes == subscribes {
            return Declared::Known;
        }
        used.subscribes = subscribes;
        match &mut self.role {
            Role::Head { table, .. } => {
                used.is_answered = true;
                let noted = table.note(None, name, used.message, subscribes);
                noted.map_or_else(Declared::Refused, |()| Declared::Known)
            }
            Role::Member { head, waiting, next } => {
                let Some(head) = head.upgrade() else { return Declared::Unreachable };
                let number = *next;
                *next += 1;
                (used.number, used.is_answered) = (number, false);
                // Under the lock, so that the head gets declarations in order.
                head.declare(number, name, used.message, subscribes);
                if !waits {
                    return Declared::Known;
                }
                let (answer, answered) = oneshot::channel();
                waiting.insert(number, Asked { topic: name.clone(), answer });
                Declared::Asked(answered)
            }
        }
    }
}

impl Topics {
    /// Returns those of an App. A runtime without them has none.
    pub(crate) fn of(runtime: &Runtime) -> Arc<Self> {
        runtime.part().unwrap_or_default()
    }

    /// Sets the ways to the other processes, in the process of the head.
    pub(crate) fn set_routes(&self, to: Weak<dyn TopicRoutes>) {
        if let Role::Head { routes, .. } = &mut self.state.lock().role {
            *routes = Some(to);
        }
    }

    /// Sets the way to the head, in another process.
    pub(crate) fn set_uplink(&self, head: Weak<dyn TopicUplink>) {
        self.state.lock().role = Role::Member { head, waiting: IdMap::default(), next: 1 };
    }

    // ---- topics that this process uses ----

    /// Returns the topic of this name, made by `make` if there is none in this process, and what the head says to it.
    ///
    /// # Errors
    /// [`TopicError`], also if the topic in this process is another one than `make` would make.
    pub(super) fn open<T: AnyTopic + 'static>(
        &self,
        name: &str,
        message: &'static str,
        make: impl FnOnce(Arc<str>) -> Arc<T>,
    ) -> Result<(Arc<T>, Option<Answer>), TopicError> {
        let name: Arc<str> = name.into();
        let mut state = self.state.lock();
        let found = state.used.get(&name).and_then(|used| used.topic.upgrade());
        let topic = match found {
            Some(found) => {
                let is_of = found.message();
                match found.into_any().downcast::<T>() {
                    Ok(topic) => topic,
                    Err(other) => {
                        // Not dropped under the lock, since the last owner of a topic closes it.
                        drop(state);
                        drop(other);
                        return Err(TopicRefusal::OtherType(is_of.to_owned()).into_error(&name, message));
                    }
                }
            }
            None => {
                if state.used.len() >= MOST_TOPICS && !state.used.contains_key(&name) {
                    return Err(TopicRefusal::TooMany(MOST_TOPICS as u64).into_error(&name, message));
                }
                let topic = make(name.clone());
                let weak: Weak<T> = Arc::downgrade(&topic);
                let used = Used { topic: weak, message, subscribes: false, number: 0, is_answered: false };
                state.used.insert(name.clone(), used);
                topic
            }
        };
        let subscribes = topic.has_subscribers();
        let declared = state.declare(&name, subscribes, true);
        if let Declared::Refused(_) = declared {
            state.used.remove(&name);
        }
        drop(state);
        match declared {
            Declared::Known => Ok((topic, None)),
            Declared::Asked(answer) => Ok((topic, Some(answer))),
            Declared::Refused(refusal) => Err(refusal.into_error(&name, message)),
            Declared::Unreachable => Err(unreachable(&name)),
        }
    }

    /// Tells the head whether a topic of this process has subscribers, if that has changed. Returns its answer if `waits`.
    ///
    /// # Errors
    /// [`TopicError`].
    pub(super) fn declare(
        &self,
        name: &Arc<str>,
        topic: &dyn AnyTopic,
        waits: bool,
    ) -> Result<Option<Answer>, TopicError> {
        let mut state = self.state.lock();
        // Looked at under the lock, so that what the head is told last is true.
        match state.declare(name, topic.has_subscribers(), waits) {
            Declared::Known => Ok(None),
            Declared::Asked(answer) => Ok(Some(answer)),
            Declared::Refused(refusal) => Err(refusal.into_error(name, topic.message())),
            Declared::Unreachable => Err(unreachable(name)),
        }
    }

    /// Handles the end of a topic in this process, which nothing refers to any more.
    pub(super) fn closed(&self, name: &Arc<str>, topic: *const (), counts: TopicCounts) {
        let mut state = self.state.lock();
        if !state.used.get(name).is_some_and(|used| std::ptr::addr_eq(used.topic.as_ptr(), topic)) {
            // It was opened again meanwhile.
            return;
        }
        state.used.remove(name);
        match &mut state.role {
            Role::Head { table, statistics, .. } => {
                table.leave(None, name);
                statistics.left(None, name, counts);
                statistics.retain(|topic| table.has(topic));
            }
            Role::Member { head, .. } => {
                if let Some(head) = head.upgrade() {
                    head.leave(name, counts);
                }
            }
        }
    }

    /// Counts a subscription.
    ///
    /// # Errors
    /// [`TopicError::TooManySubscriptions`].
    pub(super) fn begin_subscription(&self, topic: &str) -> Result<(), TopicError> {
        if self.subscriptions.fetch_add(1, Ordering::Relaxed) < MOST_SUBSCRIPTIONS {
            return Ok(());
        }
        self.end_subscription();
        let limit = MOST_SUBSCRIPTIONS as u64;
        Err(TopicError::TooManySubscriptions { topic: topic.to_owned(), limit })
    }

    pub(super) fn end_subscription(&self) {
        self.subscriptions.fetch_sub(1, Ordering::Relaxed);
    }

    // ---- messages ----

    /// Sends a message to the subscribers in other processes. It is encoded once, and only if there are any. Returns the
    /// number of processes that have no room for it.
    ///
    /// # Errors
    /// The reason why it cannot be sent.
    pub(super) fn publish(
        &self,
        name: &str,
        encode: impl FnOnce() -> (Result<Published, CodecError>, PayloadGuards),
    ) -> Result<u64, String> {
        let (routes, targets) = match &self.state.lock().role {
            Role::Head { table, routes, .. } => (Ok(routes.clone()), table.targets(name, None)),
            Role::Member { head, .. } => (Err(head.clone()), Vec::new()),
        };
        match routes {
            Ok(routes) => {
                let Some(routes) = routes.and_then(|routes| routes.upgrade()) else { return Ok(0) };
                if targets.is_empty() {
                    return Ok(0);
                }
                let (published, holds) = encode();
                let published = published.map_err(|error| error.to_string())?;
                send(&*routes, targets, &published, &holds)
            }
            Err(head) => {
                let Some(head) = head.upgrade() else { return Ok(0) };
                let (published, holds) = encode();
                let published = published.map_err(|error| error.to_string())?;
                head.publish(&published, &holds).map(|is_sent| u64::from(!is_sent))
            }
        }
    }

    /// Hands a message that the head has sent to the subscribers of this process.
    pub(crate) fn arrived(&self, published: &Published) {
        let topic = {
            let state = self.state.lock();
            state.used.get(published.topic.as_str()).and_then(|used| used.topic.upgrade())
        };
        if let Some(topic) = topic.filter(|topic| topic.message() == published.message) {
            topic.receive(published);
        }
    }

    // ---- at the head ----

    /// Notes that another process uses a topic, and whether it subscribes. Returns the refusal, if it may not.
    pub(crate) fn declared(
        &self,
        process: u64,
        topic: &str,
        message: &str,
        subscribes: bool,
    ) -> Option<TopicRefusal> {
        match &mut self.state.lock().role {
            Role::Head { table, .. } => table.note(Some(process), topic, message, subscribes).err(),
            Role::Member { .. } => None,
        }
    }

    /// Notes that another process does not use a topic any more.
    pub(crate) fn left(&self, process: u64, topic: &str, counts: TopicCounts) {
        if let Role::Head { table, statistics, .. } = &mut self.state.lock().role {
            statistics.left(Some(process), topic, counts);
            table.leave(Some(process), topic);
            statistics.retain(|topic| table.has(topic));
        }
    }

    /// Takes the numbers that a process of `node` reports.
    pub(crate) fn reported(&self, process: u64, node: &str, reports: Vec<TopicReport>) {
        if let Role::Head { statistics, .. } = &mut self.state.lock().role {
            statistics.reported(process, node, reports);
        }
    }

    /// Forgets a process that is lost.
    pub(crate) fn lost(&self, process: u64) {
        if let Role::Head { table, statistics, .. } = &mut self.state.lock().role {
            statistics.lost(process);
            table.lost(Some(process));
            statistics.retain(|topic| table.has(topic));
        }
    }

    /// Hands a message of another process to the subscribers of this one, and sends it to the other processes that have
    /// some. One of a process that may not use the topic is dropped.
    pub(crate) fn relay(&self, from: u64, published: &Published, holds: &PayloadGuards) {
        let (routes, mut targets) = match &self.state.lock().role {
            Role::Head { table, routes, .. }
                if table.is_used(Some(from), &published.topic, &published.message) =>
            {
                (routes.clone(), table.targets(&published.topic, Some(from)))
            }
            _ => return,
        };
        let is_for_here = targets.contains(&None);
        targets.retain(Option::is_some);
        if let Some(routes) = routes.and_then(|routes| routes.upgrade()) {
            let dropped = send(&*routes, targets, published, holds).unwrap_or_else(|why| {
                log::error!("a message to topic `{}` cannot be passed on: {why}", published.topic);
                1
            });
            if dropped > 0
                && let Role::Head { statistics, .. } = &mut self.state.lock().role
            {
                statistics.add(&published.topic, TopicCounts { dropped, ..TopicCounts::default() });
            }
        }
        if is_for_here {
            self.arrived(published);
        }
    }

    /// Returns the topics of the App; `node` is the name of this process.
    pub(crate) fn status(&self, node: &str) -> Vec<TopicStatus> {
        let own = self.reports();
        match &self.state.lock().role {
            Role::Head { statistics, .. } => statistics.sums(node, &own),
            Role::Member { .. } => Vec::new(),
        }
    }

    // ---- in another process than that of the head ----

    /// Takes the answer of the head to a declaration.
    pub(crate) fn answered(&self, number: u64, refusal: Option<TopicRefusal>) {
        let mut state = self.state.lock();
        let Role::Member { waiting, .. } = &mut state.role else { return };
        let asked = waiting.remove(&number);
        let used = state.used.values_mut().find(|used| used.number == number);
        let topic = used.and_then(|used| {
            used.is_answered = refusal.is_none();
            used.topic.upgrade()
        });
        drop(state);
        if let (Some(topic), Some(refusal)) = (topic, &refusal) {
            topic.refuse(refusal.clone());
        }
        if let Some(asked) = asked {
            let _ = asked.answer.send(refusal);
        }
    }

    /// Tells a head that has replaced the one before of all topics that this process uses.
    pub(crate) fn declare_again(&self) {
        let mut topics = Vec::new();
        {
            let mut state = self.state.lock();
            let State { used, role: Role::Member { head, waiting, next } } = &mut *state else { return };
            let Some(head) = head.upgrade() else { return };
            for (name, used) in &mut *used {
                let Some(topic) = used.topic.upgrade() else { continue };
                used.subscribes = topic.has_subscribers();
                topics.push(topic);
                (used.number, used.is_answered) = (*next, false);
                *next += 1;
                head.declare(used.number, name, used.message, used.subscribes);
            }
            for (number, asked) in waiting {
                if let Some(used) = used.get(&asked.topic) {
                    head.declare(*number, &asked.topic, used.message, used.subscribes);
                }
            }
        }
        // Not dropped under the lock, since the last owner of a topic closes it.
        drop(topics);
    }

    /// Returns the numbers of the topics that this process uses.
    pub(crate) fn reports(&self) -> Vec<TopicReport> {
        let topics: Vec<_> = {
            let state = self.state.lock();
            state.used.values().filter_map(|used| used.topic.upgrade()).collect()
        };
        let mut reports: Vec<_> = topics.iter().map(|topic| topic.report()).collect();
        reports.sort_by(|a, b| a.topic.cmp(&b.topic));
        reports.truncate(REPORTED_TOPICS);
        reports
    }

    /// Fails what waits for the head, because the App has ended here.
    pub(crate) fn end(&self) {
        if let Role::Member { waiting, .. } = &mut self.state.lock().role {
            waiting.clear();
        }
    }
}
