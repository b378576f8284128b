//! Messages that arrive from another process, on their way to the Works they are for.
//!
//! A channel has messages of one type; those of all types for one Work go through one delivery queue, so that none overtakes
//! another that waits for room. All of it stays on the thread of the bridge.
//!
//! A message is for one incarnation. One that has ended, or takes no more, has its messages given back; one that the head
//! has told the sender of and not launched here yet is waited for. The head takes messages for a Work whatever its
//! incarnation, and sends them on.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::{self, Rc};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use bytes::{Bytes, BytesMut};
use futures::future::{BoxFuture, LocalBoxFuture};
use tokio::sync::Notify;
use tokio::task::spawn_local;

use super::bridge::Bridge;
use super::link::{BadPeer, Inbound, Link};
use super::protocol::{Control, FIRST_CREDIT, Packet, Unanswered};
use super::routing::count_lost;
use super::transfers::tell_nested;
use crate::id::{ActorPath, IdMap};
use crate::payload::PayloadGuards;
use crate::trace::Cause;
use crate::wire::CodecError;
use crate::work::{
    AnyMailbox, Arrived, Origin, Outcome, Received, RemoteMessages, Reply, count_abandoned, find_address,
};

/// The largest number of messages that may be on their way through one channel.
const LARGEST_WINDOW: u32 = 4096;

/// The channels that a peer may have open: one for each pair of an incarnation and a type of message.
const CHANNELS: usize = 1 << 20;

/// The incarnation that a message is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    pub(super) incarnation: u64,
    /// Whether the head is to send it on, wherever the Work is.
    pub(super) relayed: bool,
}

/// Where a message that has arrived goes.
pub(super) enum Destination {
    /// To an incarnation here, which has this number in its mailbox.
    Incarnation(Arc<dyn AnyMailbox>, u64),
    /// To wherever the Work is.
    Anywhere(Arc<dyn AnyMailbox>),
    /// The incarnation has not been launched here yet: wait for this and look again.
    NotYet(BoxFuture<'static, ()>),
    /// Back.
    Gone,
}

pub(super) struct Inbox {
    bridge: Arc<Bridge>,
    link: Arc<Link>,
    lanes: Vec<Option<Rc<Channel>>>,
    gates: HashMap<ActorPath, rc::Weak<RefCell<DeliveryQueue>>>,
    /// What the next message comes with.
    carried: Along,
    questions: Questions,
}

/// A question that has come.
#[derive(Clone)]
struct Question {
    number: u64,
    /// Whether nobody waits for the answer any more.
    is_abandoned: Arc<AtomicBool>,
}

impl Question {
    fn is_abandoned(&self) -> bool {
        self.is_abandoned.load(Ordering::Acquire)
    }
}

/// The questions of a session that were not answered yet, and the Works that they are for.
#[derive(Default)]
struct Questions {
    open: IdMap<u64, (Weak<AtomicBool>, ActorPath)>,
    /// Those that were answered are forgotten once there are so many.
    look_at: usize,
}

impl Questions {
    fn came(&mut self, number: u64, path: &ActorPath) -> Question {
        if self.open.len() >= self.look_at {
            self.open.retain(|_, (is_abandoned, _)| is_abandoned.strong_count() > 0);
            self.look_at = 2 * self.open.len() + 64;
        }
        let is_abandoned = Arc::new(AtomicBool::new(false));
        self.open.insert(number, (Arc::downgrade(&is_abandoned), path.clone()));
        Question { number, is_abandoned }
    }

    /// Gives the Work that has the question, if it was not answered.
    fn abandon(&mut self, number: u64) -> Option<ActorPath> {
        let (is_abandoned, path) = self.open.remove(&number)?;
        is_abandoned.upgrade()?.store(true, Ordering::Release);
        Some(path)
    }

    /// The Works that have questions.
    fn abandon_all(&mut self) -> HashSet<ActorPath> {
        let numbers: Vec<_> = self.open.keys().copied().collect();
        numbers.into_iter().filter_map(|number| self.abandon(number)).collect()
    }
}

/// What a message refers to, and what has led to it.
#[derive(Default)]
struct Along {
    holds: PayloadGuards,
    cause: Cause,
}

impl Inbox {
    pub(super) fn new(bridge: Arc<Bridge>, link: Arc<Link>) -> Self {
        Self {
            bridge,
            link,
            lanes: Vec::new(),
            gates: HashMap::new(),
            carried: Along::default(),
            questions: Questions::default(),
        }
    }

    fn open(
        &mut self,
        channel: u32,
        path: ActorPath,
        message: String,
        target: Target,
    ) -> Result<(), BadPeer> {
        if path.as_str().len() > ActorPath::LONGEST_FROM_AFAR {
            return Err(BadPeer::Other("a channel was opened to a path that is too long".to_owned()));
        }
        let index = channel as usize;
        if index >= CHANNELS || index > self.lanes.len() {
            return Err(BadPeer::Other(format!("channel {channel} was opened out of order")));
        }
        if index == self.lanes.len() {
            self.lanes.push(None);
        }
        if self.lanes[index].is_some() {
            return Err(BadPeer::Other(format!("channel {channel} was opened twice")));
        }
        let capacity = find_address(self.bridge.app(), &path).map_or(0, |mailbox| mailbox.capacity());
        let window = u32::try_from(capacity).unwrap_or(u32::MAX).clamp(FIRST_CREDIT, LARGEST_WINDOW);
        if window > FIRST_CREDIT {
            self.link.credit(channel, window - FIRST_CREDIT);
        }
        let gate = match self.gates.get(&path).and_then(rc::Weak::upgrade) {
            Some(gate) => gate,
            None => {
                // Those of Works to which no channel leads any more.
                if self.gates.len() >= 2 * self.lanes.len() + 16 {
                    self.gates.retain(|_, gate| gate.strong_count() > 0);
                }
                let gate = Rc::default();
                self.gates.insert(path.clone(), Rc::downgrade(&gate));
                gate
            }
        };
        self.lanes[index] = Some(Rc::new(Channel {
            gate,
            link: self.link.clone(),
            bridge: self.bridge.clone(),
            origin: Arc::new(Sender { link: self.link.clone(), channel, path }),
            message,
            target,
            window,
            way_in: RefCell::default(),
            is_recalled: Cell::new(false),
            recalled: Notify::new(),
            owed: Cell::default(),
            outstanding: Cell::default(),
        }));
        Ok(())
    }

    /// Nobody waits for answers of this Work any more.
    fn drop_abandoned(&self, path: &ActorPath) {
        if let Some(mailbox) = find_address(self.bridge.app(), path) {
            mailbox.drop_abandoned();
        }
    }

    fn lane(&self, channel: u32) -> Result<&Rc<Channel>, BadPeer> {
        self.lanes
            .get(channel as usize)
            .and_then(Option::as_ref)
            .ok_or_else(|| BadPeer::Other(format!("a message came on channel {channel}, which is not open")))
    }

    fn shut(&mut self, channel: u32, recall: bool) -> Result<(), BadPeer> {
        let lane = self.lane(channel)?.clone();
        self.lanes[channel as usize] = None;
        if recall {
            lane.is_recalled.set(true);
            lane.recalled.notify_one();
        }
        let waits = lane.gate.borrow().waits;
        if waits {
            let gate = lane.gate.clone();
            gate.borrow_mut().backlog.push_back((lane, Waiting::Shut { recall }));
        } else {
            lane.shut(recall);
        }
        Ok(())
    }
}

impl Inbound for Inbox {
    fn packet(&mut self, packet: Packet<'_>) -> Result<(), BadPeer> {
        let carried = std::mem::take(&mut self.carried);
        match packet {
            Packet::Tell { channel, body } => {
                self.lane(channel)?.receive(Post { body, question: None, carried })
            }
            Packet::Ask { channel, question, body } => {
                let lane = self.lane(channel)?.clone();
                let question = self.questions.came(question, &lane.origin.path);
                lane.receive(Post { body, question: Some(question), carried })
            }
            Packet::Answer { question, body } => {
                self.link.settle(question, Outcome::Answered(body, carried.holds));
                Ok(())
            }
            Packet::Credit { channel, more } => self.link.more_credit(channel, more),
            // What it refers to is held until it has been read.
            Packet::Returned { channel, body } => self.link.returned(channel, body, carried.cause),
            Packet::ReturnedQuestion { question } => {
                self.link.returned_question(question);
                Ok(())
            }
            Packet::Control(control) => match *control {
                Control::Open { channel, path, message, incarnation, relayed } => {
                    self.open(channel, path, message, Target { incarnation, relayed })
                }
                Control::Shut { channel, recall } => self.shut(channel, recall),
                Control::Drained { channel } => self.link.channel_drained(channel),
                Control::Abandoned { question } => {
                    // One that is not known was answered before, which harms nobody.
                    if let Some(path) = self.questions.abandon(question) {
                        self.drop_abandoned(&path);
                    }
                    Ok(())
                }
                Control::Unanswered { question, why } => {
                    self.link.settle(
                        question,
                        match why {
                            Unanswered::Refused(why) => Outcome::Refused(why),
                            Unanswered::Failed => Outcome::Failed,
                            Unanswered::NodeLost => Outcome::NodeLost,
                            Unanswered::Unreadable(why) => Outcome::Unreadable(why),
                            Unanswered::ReplyNotSent(why) => Outcome::ReplyNotSent(why),
                        },
                    );
                    Ok(())
                }
                Control::Carries { payloads, trace } => {
                    self.carried = Along { holds: self.bridge.arrived(&self.link, payloads), cause: trace };
                    Ok(())
                }
                Control::Release { id, count } => {
                    self.link.pins().release(id, count);
                    Ok(())
                }
                Control::Hold { id } => {
                    self.bridge.hold(&self.link, id);
                    Ok(())
                }
                Control::Held { id, there } => {
                    self.bridge.held(&self.link, id, there);
                    Ok(())
                }
                Control::MoveLeases => {
                    self.bridge.move_ties(&self.link);
                    Ok(())
                }
                Control::WhatRefers { id, from } => {
                    tell_nested(&self.link, id, from);
                    Ok(())
                }
                Control::Refers { id, there, more } => {
                    self.link.nested().answered(&self.link, id, there.then_some(&carried.holds), more);
                    Ok(())
                }
                other => self
                    .bridge
                    .peer_handler()?
                    .control(&self.link, other, carried.holds)
                    .map_err(BadPeer::Other),
            },
        }
    }
}

impl Drop for Inbox {
    /// The session is over: nobody waits for the answers to what came by it.
    fn drop(&mut self) {
        for path in self.questions.abandon_all() {
            self.drop_abandoned(&path);
        }
    }
}

/// A message that has come.
struct Post<'a> {
    body: &'a [u8],
    question: Option<Question>,
    /// What it refers to, until it is read.
    carried: Along,
}

/// Something that waits behind a message.
enum Waiting {
    Message { body: Bytes, question: Option<Question>, carried: Along },
    Shut { recall: bool },
}

/// The messages on their way into one Work.
#[derive(Default)]
struct DeliveryQueue {
    /// What has come behind a message that waits for room.
    backlog: VecDeque<(Rc<Channel>, Waiting)>,
    waits: bool,
    /// The last incarnation of whose messages one was given back: those behind it are given back as well, or they would
    /// overtake it.
    refused: u64,
}

/// Puts in one after the other what has gathered behind a message that waits.
async fn drain(mut lane: Rc<Channel>, mut waits: LocalBoxFuture<'static, bool>) {
    loop {
        if waits.await {
            lane.refuse();
        }
        lane.done();
        waits = loop {
            let next = {
                let mut gate = lane.gate.borrow_mut();
                let next = gate.backlog.pop_front();
                gate.waits = next.is_some();
                next
            };
            let Some((next, waiting)) = next else { return };
            lane = next;
            match waiting {
                Waiting::Shut { recall } => lane.shut(recall),
                Waiting::Message { body, question, carried } => {
                    if let Some(waits) = lane.deliver(&body, question, carried) {
                        break waits;
                    }
                }
            }
        };
    }
}

/// The end of one channel.
struct Channel {
    gate: Rc<RefCell<DeliveryQueue>>,
    link: Arc<Link>,
    bridge: Arc<Bridge>,
    origin: Arc<Sender>,
    message: String,
    target: Target,
    window: u32,
    way_in: RefCell<Option<WayIn>>,
    /// Whether the sender wants back what no handler has begun.
    is_recalled: Cell<bool>,
    recalled: Notify,
    /// Messages that have found their place and for which no credit was given yet.
    owed: Cell<u32>,
    /// Messages for which no credit was given yet.
    outstanding: Cell<u32>,
}

impl Channel {
    fn receive(self: &Rc<Self>, post: Post<'_>) -> Result<(), BadPeer> {
        self.outstanding.set(self.outstanding.get() + 1);
        if self.outstanding.get() > self.window {
            return Err(BadPeer::Other("more messages came than there was credit for".to_owned()));
        }
        let Post { body, question, carried } = post;
        {
            let mut gate = self.gate.borrow_mut();
            if gate.waits {
                let body = Bytes::copy_from_slice(body);
                gate.backlog.push_back((self.clone(), Waiting::Message { body, question, carried }));
                return Ok(());
            }
        }
        if let Some(waits) = self.deliver(body, question, carried) {
            self.gate.borrow_mut().waits = true;
            spawn_local(drain(self.clone(), waits));
        }
        Ok(())
    }

    /// Gives the message to its Work; what to wait for when that is not possible yet.
    fn deliver(
        self: &Rc<Self>,
        body: &[u8],
        question: Option<Question>,
        carried: Along,
    ) -> Option<LocalBoxFuture<'static, bool>> {
        if question.as_ref().is_some_and(Question::is_abandoned) {
            count_abandoned(1);
            self.done();
            return None;
        }
        let waits = self.hand_over(body, question, carried);
        if waits.is_none() {
            self.done();
        }
        waits
    }

    fn hand_over(
        self: &Rc<Self>,
        body: &[u8],
        question: Option<Question>,
        carried: Along,
    ) -> Option<LocalBoxFuture<'static, bool>> {
        if self.gate.borrow().refused >= self.target.incarnation {
            self.give_back(body, question, carried);
            return None;
        }
        if self.way_in.borrow().is_none()
            && let Err(unresolved) = self.resolve()
        {
            match unresolved {
                Unresolved::NotYet(launched) => {
                    let (lane, body) = (self.clone(), Bytes::copy_from_slice(body));
                    return Some(Box::pin(async move {
                        tokio::select! {
                            () = launched => {}
                            () = lane.recalled.notified() => {}
                        }
                        match lane.hand_over(&body, question, carried) {
                            Some(waits) => waits.await,
                            None => false,
                        }
                    }));
                }
                Unresolved::Gone => {
                    // What was recalled is given back as a whole in any case.
                    if !self.is_recalled.get() {
                        self.refuse();
                    }
                    self.give_back(body, question, carried);
                }
                Unresolved::NotTaken => {
                    let why = format!("work `{}` does not take `{}`", self.origin.path, self.message);
                    match question {
                        Some(question) => self.link.answer(question.number, Outcome::Unreadable(why)),
                        None => count_lost(&self.origin.path, 1, &why),
                    }
                }
            }
            return None;
        }
        let is_question = question.is_some();
        let reply = question.map(|question| {
            Box::new(Answer { link: self.link.clone(), question, open: true }) as Box<dyn Reply>
        });
        let received = match &*self.way_in.borrow() {
            Some(WayIn { intake, incarnation }) => {
                let origin = self.origin.clone();
                intake.receive(Arrived { body, cause: carried.cause, reply, origin }, *incarnation)
            }
            None => unreachable!("found just now"),
        };
        match received {
            Received::Taken => {}
            // What the message refers to is its own by now.
            Received::Waits(waits) => return Some(waits),
            Received::Moved => self.refuse(),
            Received::Unreadable(error) => {
                if !is_question {
                    count_lost(&self.origin.path, 1, &error.to_string());
                }
            }
        }
        None
    }

    fn resolve(&self) -> Result<(), Unresolved> {
        let peer_handler = self.bridge.peer_handler().map_err(|_| Unresolved::Gone)?;
        let (mailbox, incarnation) = match peer_handler.destination(&self.origin.path, self.target) {
            Destination::Incarnation(mailbox, incarnation) => (mailbox, Some(incarnation)),
            Destination::Anywhere(mailbox) => (mailbox, None),
            Destination::NotYet(launched) if !self.is_recalled.get() => {
                return Err(Unresolved::NotYet(launched));
            }
            Destination::NotYet(_) | Destination::Gone => return Err(Unresolved::Gone),
        };
        let intake = mailbox.intake(&self.message).ok_or(Unresolved::NotTaken)?;
        *self.way_in.borrow_mut() = Some(WayIn { intake, incarnation });
        Ok(())
    }

    /// A message was given back: so is what comes behind it for the same incarnation.
    fn refuse(&self) {
        let mut gate = self.gate.borrow_mut();
        gate.refused = gate.refused.max(self.target.incarnation);
        *self.way_in.borrow_mut() = None;
    }

    fn give_back(&self, body: &[u8], question: Option<Question>, carried: Along) {
        match question {
            Some(question) => self.link.answer(question.number, Outcome::Moved),
            None => {
                let Sender { channel, path, .. } = &*self.origin;
                self.link.give_back_bytes(*channel, path, body, &carried.holds, &carried.cause);
            }
        }
    }

    /// No more messages come.
    fn shut(&self, recall: bool) {
        if recall
            && let Ok(peer_handler) = self.bridge.peer_handler()
            && let Destination::Incarnation(mailbox, _) =
                peer_handler.destination(&self.origin.path, self.target)
        {
            mailbox.give_back(self.link.number());
        }
        // The way in belongs to a mailbox, which is not to be kept for the sake of what waits here.
        *self.way_in.borrow_mut() = None;
    }

    /// One message has found its place. Credit is given for many at once.
    fn done(&self) {
        self.owed.set(self.owed.get() + 1);
        if self.owed.get() >= self.window / 4 {
            let give = self.owed.take();
            self.outstanding.set(self.outstanding.get() - give);
            self.link.credit(self.origin.channel, give);
        }
    }
}

/// The way into a mailbox for messages of one type.
struct WayIn {
    intake: Arc<dyn RemoteMessages>,
    /// The number in the mailbox of the incarnation that takes them, where it has to be a certain one.
    incarnation: Option<u64>,
}

/// Why a message cannot be delivered.
enum Unresolved {
    NotYet(BoxFuture<'static, ()>),
    Gone,
    NotTaken,
}

/// The sender of the messages of one channel. Each message that came on it has a share of this until it is begun, refused
/// or given back; with the last share the channel is drained.
struct Sender {
    link: Arc<Link>,
    channel: u32,
    path: ActorPath,
}

impl Origin for Sender {
    fn session(&self) -> u64 {
        self.link.number()
    }

    fn give_back(&self, write: &mut dyn FnMut(&mut BytesMut) -> Result<(), CodecError>, cause: Cause) {
        self.link.give_back(self.channel, &self.path, write, &cause);
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.link.control(&Control::Drained { channel: self.channel });
    }
}

/// The way back for the answer to one question.
struct Answer {
    link: Arc<Link>,
    question: Question,
    open: bool,
}

impl Reply for Answer {
    fn send(mut self: Box<Self>, outcome: Outcome<'_>) {
        self.open = false;
        self.link.answer(self.question.number, outcome);
    }

    fn is_abandoned(&self) -> bool {
        self.question.is_abandoned()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if self.open && !self.question.is_abandoned() {
            self.link.answer(self.question.number, Outcome::Failed);
        }
    }
}
