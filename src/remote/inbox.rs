//! The inbox: delivers messages that arrive from another process to the Works that they are for.
//!
//! A channel carries messages of one type. The messages of all types for one Work pass through one delivery queue, so
//! that none overtakes another that waits for room; those that go first have a queue of their own. All of this stays on the thread of the bridge.
//!
//! A message is addressed to one incarnation. If the incarnation has ended or accepts no more messages, the message is
//! returned. If the head has announced the incarnation to the sender but has not launched it here yet, the message
//! waits. The head accepts messages for a Work whatever the incarnation, and forwards them.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::{self, Rc};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::future::{BoxFuture, LocalBoxFuture};
use tokio::sync::Notify;
use tokio::task::spawn_local;

use super::bridge::{Bridge, Destination};
use super::link::{BadPeer, Inbound, Link, Target};
use super::lost_messages::lose;
use super::protocol::{Control, FIRST_CREDIT, Packet};
use super::questions::{Answer, InboundQuestion, Questions};
use super::references::{arrived, held, hold, move_ties};
use super::transfers::tell_nested;
use crate::id::ActorPath;
use crate::payload::PayloadGuards;
use crate::runtime;
use crate::trace::Cause;
use crate::wire::CodecError;
use crate::work::{
    Arrived, DeadLetterReason, DeadLetters, Lost, NoReply, Origin, Outcome, Received, Recent, RemoteMessages,
    Reply, SENDERS, SenderId, Stamp, report_abandoned,
};

/// Upper limit of the window of a channel, which is the number of its messages in flight.
const LARGEST_WINDOW: u32 = 4096;

/// Limit on the channels that a peer may have open, one for each pair of an incarnation and a type of message.
const CHANNELS: usize = 1 << 20;

pub(super) struct Inbox {
    bridge: Arc<Bridge>,
    link: Arc<Link>,
    lanes: Vec<Option<Rc<InboundChannel>>>,
    /// The delivery queues of Works: that of the messages that go first (`true`), and that of the others.
    gates: HashMap<(ActorPath, bool), rc::Weak<RefCell<DeliveryQueue>>>,
    /// The values and the cause that belong to the next message.
    carried: Along,
    /// The senders that the peer has told of, by its number.
    senders: Recent<SenderId>,
    questions: Questions,
}

/// The values that a message refers to, its cause and its sender.
struct Along {
    holds: PayloadGuards,
    cause: Cause,
    sender: SenderId,
}

impl Default for Along {
    fn default() -> Self {
        Self { holds: PayloadGuards::default(), cause: Cause::default(), sender: SenderId::OUTSIDE }
    }
}

impl Inbox {
    pub(super) fn new(bridge: Arc<Bridge>, link: Arc<Link>) -> Self {
        Self {
            bridge,
            link,
            lanes: Vec::new(),
            gates: HashMap::new(),
            carried: Along::default(),
            senders: Recent::new(SENDERS),
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
            return Err(BadPeer::Other("peer opened a channel to a path that is too long".to_owned()));
        }
        let index = channel as usize;
        if index >= CHANNELS || index > self.lanes.len() {
            return Err(BadPeer::Other(format!("peer opened channel {channel} out of order")));
        }
        if index == self.lanes.len() {
            self.lanes.push(None);
        }
        if self.lanes[index].is_some() {
            return Err(BadPeer::Other(format!("peer opened channel {channel} twice")));
        }
        let capacity = self.bridge.find_address(&path).map_or(0, |mailbox| mailbox.capacity());
        let window = u32::try_from(capacity).unwrap_or(u32::MAX).clamp(FIRST_CREDIT, LARGEST_WINDOW);
        if window > FIRST_CREDIT {
            self.link.credit(channel, window - FIRST_CREDIT);
        }
        let gate = match self.gates.get(&(path.clone(), target.first)).and_then(rc::Weak::upgrade) {
            Some(gate) => gate,
            None => {
                // Removes the entries of Works to which no channel leads any more.
                if self.gates.len() >= 2 * self.lanes.len() + 16 {
                    self.gates.retain(|_, gate| gate.strong_count() > 0);
                }
                let gate = Rc::default();
                self.gates.insert((path.clone(), target.first), Rc::downgrade(&gate));
                gate
            }
        };
        self.lanes[index] = Some(Rc::new(InboundChannel {
            gate,
            link: self.link.clone(),
            bridge: self.bridge.clone(),
            origin: Arc::new(Sender { link: self.link.clone(), channel, path, message }),
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

    /// Records the path of a Work that the peer calls by `number`.
    fn announced(&mut self, number: u32, path: &ActorPath) -> Result<(), BadPeer> {
        if path.as_str().len() > ActorPath::LONGEST_FROM_AFAR || !SenderId(number).is_work() {
            return Err(BadPeer::Other(format!("peer told of a sender that cannot be ({number})")));
        }
        if let Ok(runtime) = runtime::current() {
            self.senders.insert(number, DeadLetters::of(&runtime).sender(path));
        }
        Ok(())
    }

    /// Returns what came along with a message, whose sender has this number at the peer.
    fn sent_by(&self, number: u32, carried: Along) -> Along {
        let sender = match SenderId(number) {
            SenderId::OUTSIDE => SenderId::OUTSIDE,
            _ => self.senders.get(number).copied().unwrap_or(SenderId::UNKNOWN),
        };
        Along { sender, ..carried }
    }

    /// Removes abandoned questions from the mailbox of a Work.
    fn drop_abandoned(&self, path: &ActorPath) {
        if let Some(mailbox) = self.bridge.find_address(path) {
            mailbox.drop_abandoned();
        }
    }

    fn lane(&self, channel: u32) -> Result<&Rc<InboundChannel>, BadPeer> {
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
            gate.borrow_mut().backlog.push_back((lane, WaitingPost::Shut { recall }));
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
            Packet::Tell { channel, sender, body } => {
                let carried = self.sent_by(sender, carried);
                self.lane(channel)?.receive(Post { body, question: None, carried })
            }
            Packet::Ask { channel, sender, question, ask, body } => {
                let carried = self.sent_by(sender, carried);
                let lane = self.lane(channel)?.clone();
                let question = self.questions.came(question, ask, &lane.origin.path);
                lane.receive(Post { body, question: Some(question), carried })
            }
            Packet::AskForStream { channel, sender, question, window, ask, body } => {
                let carried = self.sent_by(sender, carried);
                let lane = self.lane(channel)?.clone();
                let question = self.questions.came_for_stream(question, ask, window, &lane.origin.path)?;
                lane.receive(Post { body, question: Some(question), carried })
            }
            Packet::Item { question, body } => self.link.item_arrived(question, body, carried.holds),
            Packet::ItemCredit { question, more } => self.questions.grant(question, more),
            Packet::Answer { question, body } => {
                self.link.settle(question, Outcome::Answered(body, carried.holds));
                Ok(())
            }
            Packet::Credit { channel, more } => self.link.more_credit(channel, more),
            // Holds the values that the message refers to until it has been decoded.
            Packet::Returned { channel, sender, body } => {
                let Along { cause, sender, holds: _held } = self.sent_by(sender, carried);
                self.link.returned(channel, body, cause, sender)
            }
            Packet::ReturnedQuestion { question } => {
                self.link.returned_question(question);
                Ok(())
            }
            Packet::Control(control) => match *control {
                Control::Open { channel, path, message, incarnation, relayed, first } => {
                    self.open(channel, path, message, Target { incarnation, relayed, first })
                }
                Control::Shut { channel, recall } => self.shut(channel, recall),
                Control::Drained { channel } => self.link.channel_drained(channel),
                Control::Abandoned { question } => {
                    // An unknown question was answered before, which is harmless.
                    if let Some(path) = self.questions.abandon(question) {
                        self.drop_abandoned(&path);
                    }
                    Ok(())
                }
                Control::Unanswered { question, why } => {
                    self.link.settle(question, Outcome::Unanswered(why));
                    Ok(())
                }
                Control::Deferred { question } => {
                    self.link.deferred(question);
                    Ok(())
                }
                Control::StreamOpened { question } => self.link.stream_opened(question),
                Control::StreamEnd { question, end } => {
                    self.link.stream_ended(question, end);
                    Ok(())
                }
                Control::Carries { payloads, trace } => {
                    let holds = arrived(&self.bridge, &self.link, payloads);
                    self.carried = Along { holds, cause: trace, ..Along::default() };
                    Ok(())
                }
                Control::Sender { number, path } => {
                    // What was carried belongs to the next message.
                    self.carried = carried;
                    self.announced(number, &path)
                }
                Control::Release { id, count } => {
                    self.link.pins().release(id, count);
                    Ok(())
                }
                Control::Hold { id } => {
                    hold(&self.bridge, &self.link, id);
                    Ok(())
                }
                Control::Held { id, there } => {
                    held(&self.bridge, &self.link, id, there);
                    Ok(())
                }
                Control::MoveLeases => {
                    move_ties(&self.bridge, &self.link);
                    Ok(())
                }
                Control::WhatRefers { id, from } => {
                    tell_nested(&self.bridge.store(), &self.link, id, from);
                    Ok(())
                }
                Control::Refers { id, there, more } => {
                    let nested = there.then_some(&carried.holds);
                    if let Some(from) = self.link.nested().answered(id, nested, more) {
                        self.link.control(&Control::WhatRefers { id, from });
                    }
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
    /// Abandons all questions of the session, because nothing can be answered once it is over.
    fn drop(&mut self) {
        for path in self.questions.abandon_all() {
            self.drop_abandoned(&path);
        }
    }
}

/// A message that has arrived.
struct Post<'a> {
    body: &'a [u8],
    question: Option<InboundQuestion>,
    /// The values that it refers to, held until it is decoded, and its cause.
    carried: Along,
}

/// An entry of a backlog, behind a message that waits.
enum WaitingPost {
    Message { body: Bytes, question: Option<InboundQuestion>, carried: Along },
    Shut { recall: bool },
}

/// The queue of messages that are being delivered to one Work.
#[derive(Default)]
struct DeliveryQueue {
    /// Messages that arrived after one that waits for room.
    backlog: VecDeque<(Rc<InboundChannel>, WaitingPost)>,
    waits: bool,
    /// The last incarnation for which a message was returned. Later messages for it are returned as well, since they
    /// would otherwise overtake the first one.
    refused: u64,
}

/// Waits for the message at the head of the queue, then delivers its backlog one by one.
async fn drain(mut lane: Rc<InboundChannel>, mut waits: LocalBoxFuture<'static, bool>) {
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
                WaitingPost::Shut { recall } => lane.shut(recall),
                WaitingPost::Message { body, question, carried } => {
                    if let Some(waits) = lane.deliver(&body, question, carried) {
                        break waits;
                    }
                }
            }
        };
    }
}

/// The receiving end of one channel.
struct InboundChannel {
    gate: Rc<RefCell<DeliveryQueue>>,
    link: Arc<Link>,
    bridge: Arc<Bridge>,
    origin: Arc<Sender>,
    target: Target,
    window: u32,
    way_in: RefCell<Option<WayIn>>,
    /// True if the sender wants the messages back that no handler has begun.
    is_recalled: Cell<bool>,
    recalled: Notify,
    /// Number of messages that were delivered and for which no credit has been granted yet.
    owed: Cell<u32>,
    /// Number of messages that have arrived and for which no credit has been granted yet.
    outstanding: Cell<u32>,
}

impl InboundChannel {
    fn receive(self: &Rc<Self>, post: Post<'_>) -> Result<(), BadPeer> {
        self.outstanding.set(self.outstanding.get() + 1);
        if self.outstanding.get() > self.window {
            return Err(BadPeer::Other("peer sent more messages than it had credit for".to_owned()));
        }
        let Post { body, question, carried } = post;
        {
            let mut gate = self.gate.borrow_mut();
            if gate.waits {
                let body = Bytes::copy_from_slice(body);
                gate.backlog.push_back((self.clone(), WaitingPost::Message { body, question, carried }));
                return Ok(());
            }
        }
        if let Some(waits) = self.deliver(body, question, carried) {
            self.gate.borrow_mut().waits = true;
            spawn_local(drain(self.clone(), waits));
        }
        Ok(())
    }

    /// Delivers the message to its Work. Returns a future if it has to wait, which completes when the message is
    /// delivered; the future returns `true` if later messages for the incarnation must be returned.
    fn deliver(
        self: &Rc<Self>,
        body: &[u8],
        question: Option<InboundQuestion>,
        carried: Along,
    ) -> Option<LocalBoxFuture<'static, bool>> {
        if question.as_ref().is_some_and(InboundQuestion::is_abandoned) {
            report_abandoned(&self.origin.path, [Lost::new(&self.origin.message, carried.sender)]);
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
        question: Option<InboundQuestion>,
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
                    // Recalled messages are all returned in any case.
                    if !self.is_recalled.get() {
                        self.refuse();
                    }
                    self.give_back(body, question, carried);
                }
                Unresolved::NotTaken => {
                    let why =
                        format!("work `{}` does not accept `{}`", self.origin.path, self.origin.message);
                    match question {
                        Some(question) => {
                            let why = NoReply::Unreadable(why);
                            self.link.answer(question.number(), Outcome::Unanswered(why))
                        }
                        None => {
                            let lost = Lost::new(&self.origin.message, carried.sender);
                            lose(&self.origin.path, DeadLetterReason::Unsendable, &why, lost);
                        }
                    }
                }
            }
            return None;
        }
        let (is_question, sender) = (question.is_some(), carried.sender);
        let reply =
            question.map(|question| Box::new(Answer::new(self.link.clone(), question)) as Box<dyn Reply>);
        let received = match &*self.way_in.borrow() {
            Some(WayIn { intake, incarnation }) => {
                let origin = self.origin.clone();
                {
                    let stamp = Stamp { cause: carried.cause, sender, is_first: self.target.first };
                    intake.receive(Arrived { body, stamp, reply, origin }, *incarnation)
                }
            }
            None => unreachable!("found just now"),
        };
        match received {
            Received::Taken => {}
            // The decoded message holds the values that it refers to by now.
            Received::Waits(waits) => return Some(waits),
            Received::Moved => self.refuse(),
            Received::Unreadable(error) => {
                if !is_question {
                    let lost = Lost::new(&self.origin.message, sender);
                    lose(&self.origin.path, DeadLetterReason::Unsendable, &error.to_string(), lost);
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
        let intake = mailbox.intake(&self.origin.message).ok_or(Unresolved::NotTaken)?;
        *self.way_in.borrow_mut() = Some(WayIn { intake, incarnation });
        Ok(())
    }

    /// Makes later messages for the same incarnation be returned, after one was.
    fn refuse(&self) {
        let mut gate = self.gate.borrow_mut();
        gate.refused = gate.refused.max(self.target.incarnation);
        *self.way_in.borrow_mut() = None;
    }

    fn give_back(&self, body: &[u8], question: Option<InboundQuestion>, carried: Along) {
        match question {
            Some(question) => self.link.answer(question.number(), Outcome::Moved),
            None => {
                let Sender { channel, path, .. } = &*self.origin;
                let lost = Lost::new(&self.origin.message, carried.sender);
                self.link.give_back_bytes(*channel, path, body, &carried.holds, &carried.cause, lost);
            }
        }
    }

    /// Handles the shutting of the channel by its sender.
    fn shut(&self, recall: bool) {
        if recall
            && let Ok(peer_handler) = self.bridge.peer_handler()
            && let Destination::Incarnation(mailbox, _) =
                peer_handler.destination(&self.origin.path, self.target)
        {
            mailbox.give_back(self.link.number());
        }
        // The way in holds the mailbox, which messages that wait here must not keep alive.
        *self.way_in.borrow_mut() = None;
    }

    /// Counts one delivered message, and grants credit for many at once.
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
    /// The number in the mailbox of the incarnation that takes the messages, if it must be a certain one.
    incarnation: Option<u64>,
}

/// The reason why a message cannot be delivered.
enum Unresolved {
    NotYet(BoxFuture<'static, ()>),
    Gone,
    NotTaken,
}

/// The sender of the messages of one channel. Each message that arrived on the channel shares it until the message is
/// begun, refused or returned; when the last share is dropped, the channel is drained.
struct Sender {
    link: Arc<Link>,
    channel: u32,
    path: ActorPath,
    /// Name of the type of the messages.
    message: String,
}

impl Origin for Sender {
    fn session(&self) -> u64 {
        self.link.number()
    }

    fn give_back(
        &self,
        write: &mut dyn FnMut(&mut BytesMut) -> Result<(), CodecError>,
        cause: Cause,
        sender: SenderId,
    ) {
        self.link.give_back(self.channel, &self.path, write, &cause, Lost::new(&self.message, sender));
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.link.control(&Control::Drained { channel: self.channel });
    }
}
