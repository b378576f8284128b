//! The ways that messages take to Works in other processes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::BytesMut;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::Notify;

use super::bridge::Bridge;
use super::link::{Channel, Link};
use super::protocol::{Control, NodeCard};
use crate::id::ActorPath;
use crate::work::{
    AnyMailbox, Closed, Command, Failure, Letter, Outbox, Outcome, Reason, Received, Refused, Reply, Report,
    Route, WorkKind, find_address,
};

type Sent = Result<(), Refused<Box<dyn Letter>>>;

/// The way to a Work whose process is known.
pub(super) struct Way {
    link: Arc<Link>,
    path: ActorPath,
    kind: &'static WorkKind,
    /// The incarnation that commands are for, where this is the head, and what it speaks through.
    incarnation: Option<(u64, Arc<Outbox>)>,
    /// One for each type of message; there are few.
    channels: Mutex<Vec<(&'static str, Arc<Channel>)>>,
}

impl Way {
    pub(super) fn new(
        link: Arc<Link>,
        path: ActorPath,
        kind: &'static WorkKind,
        incarnation: Option<(u64, Arc<Outbox>)>,
    ) -> Self {
        Self { link, path, kind, incarnation, channels: Mutex::default() }
    }

    pub(super) fn is_over(&self) -> bool {
        self.link.is_over()
    }

    fn channels(&self) -> MutexGuard<'_, Vec<(&'static str, Arc<Channel>)>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn channel(&self, message: &'static str) -> Result<Arc<Channel>, String> {
        let mut channels = self.channels();
        if let Some((_, channel)) = channels.iter().find(|(name, _)| *name == message) {
            return Ok(channel.clone());
        }
        let channel = self.link.channel(&self.path, self.kind, message)?;
        channels.push((message, channel.clone()));
        Ok(channel)
    }
}

impl Way {
    /// Sends what was taken before it was known that it goes this way. It is in memory as it is, so that there is room.
    fn send_kept(&self, letter: Box<dyn Letter>) -> Sent {
        self.post(letter, false)
    }

    fn post(&self, letter: Box<dyn Letter>, if_there_is_room: bool) -> Sent {
        match self.channel(letter.name()) {
            Ok(channel) => self.link.try_send(&channel, letter, if_there_is_room),
            Err(why) => Err(Refused::Unsendable(letter, why)),
        }
    }
}

impl Route for Way {
    fn try_send(&self, letter: Box<dyn Letter>) -> Sent {
        self.post(letter, true)
    }

    fn send<'a>(&'a self, letter: Box<dyn Letter>) -> BoxFuture<'a, Sent> {
        async move {
            match self.channel(letter.name()) {
                Ok(channel) => self.link.send(&channel, letter).await,
                Err(why) => Err(Refused::Unsendable(letter, why)),
            }
        }
        .boxed()
    }

    fn command(&self, command: Command) {
        let Some((incarnation, outbox)) = &self.incarnation else { return };
        let incarnation = *incarnation;
        match command {
            Command::Run(order) => {
                let (run, attempt, input) = (order.run, order.attempt, order.input.bytes.clone());
                let ordered = Control::Run { incarnation, run, attempt, input, trace: order.cause.clone() };
                if let Err(why) = self.link.try_control(order.input.holds(), &ordered) {
                    let message = format!("the input cannot be sent to the process of the Work: {why}");
                    let failure = Failure { reason: Reason::UserError, message };
                    outbox.report(Report::RunFailed { run, failure });
                }
            }
            Command::Cancel { run } => self.link.control(&Control::Cancel { incarnation, run }),
            Command::Stop => self.link.control(&Control::Stop { incarnation }),
        }
    }

    fn close(&self, why: Closed) {
        if let Some((incarnation, _)) = self.incarnation {
            self.link.control(&Control::Close { incarnation, why });
        }
    }

    fn depth(&self) -> usize {
        self.channels().iter().map(|(_, channel)| channel.under_way()).sum()
    }
}

/// What becomes of a message for a Work that may not be there yet.
enum Step {
    Done(Sent),
    Go(Arc<Way>, Box<dyn Letter>),
    Wait(Box<dyn Letter>),
}

impl Step {
    fn now(self) -> Sent {
        match self {
            Self::Done(sent) => sent,
            Self::Go(way, letter) => way.try_send(letter),
            Self::Wait(letter) => Err(Refused::Full(letter)),
        }
    }
}

/// Takes a step each time that something has `changed`, until the message is sent or refused.
async fn send_in_steps(
    changed: &Notify,
    mut letter: Box<dyn Letter>,
    step: impl Fn(Box<dyn Letter>) -> Step,
) -> Sent {
    loop {
        let change = changed.notified();
        match step(letter) {
            Step::Done(sent) => return sent,
            Step::Go(way, letter) => return way.send(letter).await,
            Step::Wait(back) => {
                letter = back;
                change.await;
            }
        }
    }
}

/// The way to a Work whose process has been started and has not joined yet: keeps what is sent until then.
pub(super) struct WayToCome {
    state: Mutex<Coming>,
    capacity: usize,
    changed: Notify,
}

enum Coming {
    Kept { commands: Vec<Command>, letters: Vec<Box<dyn Letter>>, closed: Option<Closed> },
    There(Arc<Way>),
}

impl WayToCome {
    pub(super) fn new(capacity: usize) -> Self {
        let state = Mutex::new(Coming::Kept { commands: Vec::new(), letters: Vec::new(), closed: None });
        Self { state, capacity, changed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Coming> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends on what was kept, and what comes from now on.
    pub(super) fn lead_to(&self, way: &Arc<Way>) {
        let mut state = self.lock();
        let kept = std::mem::replace(&mut *state, Coming::There(way.clone()));
        // Whoever sends meanwhile waits for the lock, so that the order stays.
        if let Coming::Kept { commands, letters, closed } = kept {
            commands.into_iter().for_each(|command| way.command(command));
            for letter in letters {
                if let Err(
                    Refused::Full(letter) | Refused::Closed(letter, _) | Refused::Unsendable(letter, _),
                ) = way.send_kept(letter)
                {
                    letter.settle(Outcome::Refused(Closed::NotStarted));
                }
            }
            if let Some(why) = closed {
                way.close(why);
            }
        }
        drop(state);
        self.changed.notify_waiters();
    }

    fn step(&self, letter: Box<dyn Letter>) -> Step {
        match &mut *self.lock() {
            Coming::There(way) => Step::Go(way.clone(), letter),
            Coming::Kept { closed: Some(why), .. } => Step::Done(Err(Refused::Closed(letter, *why))),
            Coming::Kept { letters, .. } if letters.len() < self.capacity.min(WAITING) => {
                letters.push(letter);
                Step::Done(Ok(()))
            }
            Coming::Kept { .. } => Step::Wait(letter),
        }
    }
}

impl Drop for WayToCome {
    fn drop(&mut self) {
        if let Coming::Kept { letters, .. } = &mut *self.lock() {
            for letter in std::mem::take(letters) {
                letter.settle(Outcome::Refused(Closed::NodeLost));
            }
        }
    }
}

impl Route for WayToCome {
    fn try_send(&self, letter: Box<dyn Letter>) -> Sent {
        self.step(letter).now()
    }

    fn send<'a>(&'a self, letter: Box<dyn Letter>) -> BoxFuture<'a, Sent> {
        send_in_steps(&self.changed, letter, |letter| self.step(letter)).boxed()
    }

    fn command(&self, command: Command) {
        match &mut *self.lock() {
            Coming::There(way) => way.command(command),
            Coming::Kept { commands, .. } => commands.push(command),
        }
    }

    fn close(&self, why: Closed) {
        let refused = match &mut *self.lock() {
            Coming::There(way) => {
                way.close(why);
                Vec::new()
            }
            Coming::Kept { letters, closed, .. } => {
                *closed = Some(why);
                std::mem::take(letters)
            }
        };
        for letter in refused {
            letter.settle(Outcome::Refused(why));
        }
        self.changed.notify_waiters();
    }

    fn depth(&self) -> usize {
        match &*self.lock() {
            Coming::There(way) => way.depth(),
            Coming::Kept { letters, .. } => letters.len(),
        }
    }
}

/// Messages that wait until it is known where their Work is; those that ask for room find none beyond this.
const WAITING: usize = 64;

/// The way to a Work of which only the path is known. Where it leads is asked of the head when it is first used, and
/// again when the node is lost.
pub(super) struct DistantWay {
    bridge: Weak<Bridge>,
    head: Arc<Link>,
    path: ActorPath,
    kind: &'static WorkKind,
    state: Mutex<Whereabouts>,
    known: Notify,
}

enum Whereabouts {
    Unknown,
    Asked(VecDeque<Box<dyn Letter>>),
    There(Arc<Way>),
    Here(Arc<dyn AnyMailbox>),
}

impl DistantWay {
    pub(super) fn new(
        bridge: Weak<Bridge>,
        head: Arc<Link>,
        path: ActorPath,
        kind: &'static WorkKind,
    ) -> Self {
        let state = Mutex::new(Whereabouts::Unknown);
        Self { bridge, head, path, kind, state, known: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Whereabouts> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The head has answered.
    pub(super) fn located(&self, place: Result<NodeCard, Closed>) {
        let Some(bridge) = self.bridge.upgrade() else { return };
        let mut state = self.lock();
        let Whereabouts::Asked(waiting) = std::mem::replace(&mut *state, Whereabouts::Unknown) else {
            return;
        };
        let found = match place {
            Ok(card) if card.id == bridge.me().id => match find_address(bridge.app(), &self.path) {
                Some(mailbox) => Ok(Whereabouts::Here(mailbox)),
                None => Err(Closed::Unknown),
            },
            Ok(card) => {
                let link =
                    if card.id == self.head.peer().id { self.head.clone() } else { bridge.peer(&card) };
                Ok(Whereabouts::There(Arc::new(Way::new(link, self.path.clone(), self.kind, None))))
            }
            Err(why) => Err(why),
        };
        let mut left = Vec::new();
        for letter in waiting {
            let sent = match &found {
                Ok(Whereabouts::There(way)) => way.send_kept(letter),
                Ok(Whereabouts::Here(mailbox)) => hand_over(mailbox, letter),
                Ok(_) => Err(Refused::Full(letter)),
                Err(why) => Err(Refused::Closed(letter, *why)),
            };
            left.extend(sent.err());
        }
        if let Ok(found) = found {
            *state = found;
        }
        drop(state);
        self.known.notify_waiters();
        for refused in left {
            let (letter, outcome) = match refused {
                Refused::Full(letter) => (letter, Outcome::Refused(Closed::NotStarted)),
                Refused::Closed(letter, why) => (letter, Outcome::Refused(why)),
                Refused::Unsendable(letter, why) => (letter, Outcome::Unreadable(why)),
            };
            if letter.settle(outcome) {
                log::warn!("a message for work `{}` is lost: the Work cannot be reached", self.path);
            }
        }
    }

    /// Forgets a node that is lost.
    fn look_again(state: &mut Whereabouts) {
        if matches!(state, Whereabouts::There(way) if way.is_over()) {
            *state = Whereabouts::Unknown;
        }
    }

    fn ask(&self, state: &mut Whereabouts) {
        *state = Whereabouts::Asked(VecDeque::new());
        self.head.control(&Control::Locate { path: self.path.clone() });
    }

    fn step(&self, letter: Box<dyn Letter>) -> Step {
        let mut state = self.lock();
        Self::look_again(&mut state);
        if self.head.is_over() {
            return Step::Done(Err(Refused::Closed(letter, Closed::NodeLost)));
        }
        if matches!(*state, Whereabouts::Unknown) {
            self.ask(&mut state);
        }
        match &mut *state {
            Whereabouts::There(way) => Step::Go(way.clone(), letter),
            Whereabouts::Here(mailbox) => Step::Done(hand_over(mailbox, letter)),
            Whereabouts::Asked(waiting) if waiting.len() < WAITING => {
                waiting.push_back(letter);
                Step::Done(Ok(()))
            }
            Whereabouts::Asked(_) | Whereabouts::Unknown => Step::Wait(letter),
        }
    }
}

impl Route for DistantWay {
    fn try_send(&self, letter: Box<dyn Letter>) -> Sent {
        self.step(letter).now()
    }

    fn send<'a>(&'a self, letter: Box<dyn Letter>) -> BoxFuture<'a, Sent> {
        send_in_steps(&self.known, letter, |letter| self.step(letter)).boxed()
    }

    // Only the head commands.
    fn command(&self, _: Command) {}

    fn close(&self, _: Closed) {}

    fn depth(&self) -> usize {
        match &*self.lock() {
            Whereabouts::There(way) => way.depth(),
            Whereabouts::Here(mailbox) => mailbox.depth(),
            Whereabouts::Asked(waiting) => waiting.len(),
            Whereabouts::Unknown => 0,
        }
    }
}

/// Gives a message to a Work that has come to live in this very process.
fn hand_over(mailbox: &Arc<dyn AnyMailbox>, letter: Box<dyn Letter>) -> Sent {
    let Some(intake) = mailbox.clone().intake(letter.name()) else {
        let why = format!("the Work does not take `{}` from other processes", letter.name());
        return Err(Refused::Unsendable(letter, why));
    };
    let mut bytes = BytesMut::new();
    if let Err(error) = letter.write(&mut bytes) {
        return Err(Refused::Unsendable(letter, error.to_string()));
    }
    let cause = letter.cause();
    let reply = letter.is_question().then(|| Box::new(Back(Some(letter))) as Box<dyn Reply>);
    if let Received::Waits(waits) = intake.receive(&bytes, cause, reply) {
        tokio::spawn(waits);
    }
    Ok(())
}

/// The way back to somebody in this process.
struct Back(Option<Box<dyn Letter>>);

impl Reply for Back {
    fn send(mut self: Box<Self>, outcome: Outcome<'_>) {
        if let Some(letter) = self.0.take() {
            letter.settle(outcome);
        }
    }
}

impl Drop for Back {
    fn drop(&mut self) {
        if let Some(letter) = self.0.take() {
            letter.settle(Outcome::Failed);
        }
    }
}
