//! Messages that arrive from another process, on their way to the Works they are for.
//!
//! A channel has messages of one type; those of all types for one Work go through one gate, so that none overtakes
//! another that waits for room. All of it stays on the thread of the bridge.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::task::spawn_local;

use super::bridge::Bridge;
use super::link::{BadPeer, Inbound, Link};
use super::protocol::{Control, FIRST_CREDIT, Packet, Unanswered};
use crate::id::ActorPath;
use crate::payload::Holds;
use crate::trace::Cause;
use crate::work::{Closed, Intake, Outcome, Received, Reply, find_address};

/// The largest number of messages that may be on their way through one channel.
const LARGEST_WINDOW: u32 = 4096;

/// The channels that a peer may open: one for each pair of a Work and a type of message.
const CHANNELS: usize = 1 << 20;

pub(super) struct Inbox {
    bridge: Arc<Bridge>,
    link: Arc<Link>,
    lanes: Vec<Rc<Lane>>,
    gates: HashMap<ActorPath, Rc<RefCell<Gate>>>,
    /// What the next message comes with.
    carried: Along,
}

/// What a message refers to, and what has led to it.
#[derive(Default)]
struct Along {
    holds: Holds,
    cause: Cause,
}

impl Inbox {
    pub(super) fn new(bridge: Arc<Bridge>, link: Arc<Link>) -> Self {
        Self { bridge, link, lanes: Vec::new(), gates: HashMap::new(), carried: Along::default() }
    }

    fn open(&mut self, channel: u32, path: ActorPath, message: String) -> Result<(), BadPeer> {
        if channel as usize != self.lanes.len() || self.lanes.len() >= CHANNELS {
            return Err(BadPeer::Other(format!("channel {channel} was opened out of order")));
        }
        let capacity = find_address(self.bridge.app(), &path).map_or(0, |mailbox| mailbox.capacity());
        let window = u32::try_from(capacity).unwrap_or(u32::MAX).clamp(FIRST_CREDIT, LARGEST_WINDOW);
        if window > FIRST_CREDIT {
            self.link.credit(channel, window - FIRST_CREDIT);
        }
        let gate = self.gates.entry(path.clone()).or_default().clone();
        self.lanes.push(Rc::new(Lane {
            gate,
            number: channel,
            link: self.link.clone(),
            bridge: self.bridge.clone(),
            path,
            message,
            window,
            intake: RefCell::default(),
            owed: Cell::default(),
            outstanding: Cell::default(),
        }));
        Ok(())
    }

    fn lane(&self, channel: u32) -> Result<&Rc<Lane>, BadPeer> {
        self.lanes.get(channel as usize).ok_or_else(|| {
            BadPeer::Other(format!("a message came on channel {channel}, which was never opened"))
        })
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
                self.lane(channel)?.receive(Post { body, question: Some(question), carried })
            }
            Packet::Answer { question, body } => {
                self.link.settle(question, Outcome::Answered(body, carried.holds));
                Ok(())
            }
            Packet::Credit { channel, more } => self.link.more_credit(channel, more),
            Packet::Control(control) => match *control {
                Control::Open { channel, path, message } => self.open(channel, path, message),
                Control::Unanswered { question, why } => {
                    self.link.settle(
                        question,
                        match why {
                            Unanswered::Refused(why) => Outcome::Refused(why),
                            Unanswered::Failed => Outcome::Failed,
                            Unanswered::NodeLost => Outcome::NodeLost,
                            Unanswered::Unreadable(why) => Outcome::Unreadable(why),
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
                other => {
                    self.bridge.site()?.control(&self.link, other, carried.holds).map_err(BadPeer::Other)
                }
            },
        }
    }
}

/// A message that has come.
struct Post<'a> {
    body: &'a [u8],
    question: Option<u64>,
    /// What it refers to, until it is read.
    carried: Along,
}

/// One that waits behind another.
struct Waiting {
    body: Bytes,
    question: Option<u64>,
    carried: Along,
}

impl Post<'_> {
    fn into_waiting(self) -> Waiting {
        let Self { body, question, carried } = self;
        Waiting { body: Bytes::copy_from_slice(body), question, carried }
    }
}

/// The way into one Work.
#[derive(Default)]
struct Gate {
    /// Messages behind one that waits for room.
    backlog: VecDeque<(Rc<Lane>, Waiting)>,
    waits: bool,
}

/// Puts in one after the other what has gathered behind a message that waits.
async fn drain(mut lane: Rc<Lane>, mut waits: BoxFuture<'static, ()>) {
    loop {
        waits.await;
        lane.done();
        waits = loop {
            let next = {
                let mut gate = lane.gate.borrow_mut();
                let next = gate.backlog.pop_front();
                gate.waits = next.is_some();
                next
            };
            let Some((next, post)) = next else { return };
            lane = next;
            let Waiting { body, question, carried } = post;
            if let Some(waits) = lane.deliver(&body, question, carried.cause) {
                break waits;
            }
        };
    }
}

/// The end of one channel.
struct Lane {
    gate: Rc<RefCell<Gate>>,
    number: u32,
    link: Arc<Link>,
    bridge: Arc<Bridge>,
    path: ActorPath,
    message: String,
    window: u32,
    intake: RefCell<Option<Arc<dyn Intake>>>,
    /// Messages that have found their place and for which no credit was given yet.
    owed: Cell<u32>,
    /// Messages for which no credit was given yet.
    outstanding: Cell<u32>,
}

impl Lane {
    fn receive(self: &Rc<Self>, post: Post<'_>) -> Result<(), BadPeer> {
        self.outstanding.set(self.outstanding.get() + 1);
        if self.outstanding.get() > self.window {
            return Err(BadPeer::Other("more messages came than there was credit for".to_owned()));
        }
        {
            let mut gate = self.gate.borrow_mut();
            if gate.waits {
                gate.backlog.push_back((self.clone(), post.into_waiting()));
                return Ok(());
            }
        }
        let Post { body, question, carried } = post;
        if let Some(waits) = self.deliver(body, question, carried.cause) {
            self.gate.borrow_mut().waits = true;
            spawn_local(drain(self.clone(), waits));
        }
        Ok(())
    }

    /// Gives the message to its Work; what to wait for when there is no room.
    fn deliver(&self, body: &[u8], question: Option<u64>, cause: Cause) -> Option<BoxFuture<'static, ()>> {
        let answer = question.map(|question| Answer { link: self.link.clone(), question, open: true });
        if self.intake.borrow().is_none() {
            match self.resolve() {
                Ok(intake) => *self.intake.borrow_mut() = Some(intake),
                Err(outcome) => {
                    match answer {
                        Some(answer) => Box::new(answer).send(outcome),
                        None => {
                            log::warn!("a message for work `{}` is lost: {}", self.path, in_words(&outcome));
                        }
                    }
                    self.done();
                    return None;
                }
            }
        }
        let received = match &*self.intake.borrow() {
            Some(intake) => {
                intake.receive(body, cause, answer.map(|answer| Box::new(answer) as Box<dyn Reply>))
            }
            None => unreachable!("found just now"),
        };
        match received {
            Received::Taken => {}
            Received::Waits(waits) => return Some(waits),
            Received::Refused(why) => {
                // Another may have come to live under this path.
                *self.intake.borrow_mut() = None;
                if question.is_none() {
                    let why = in_words(&Outcome::Refused(why));
                    log::warn!("a message for work `{}` is lost: {why}", self.path);
                }
            }
            Received::Unreadable(error) => {
                log::warn!("a message for work `{}` is lost: {error}", self.path);
            }
        }
        self.done();
        None
    }

    fn resolve(&self) -> Result<Arc<dyn Intake>, Outcome<'static>> {
        let Some(mailbox) = find_address(self.bridge.app(), &self.path) else {
            return Err(Outcome::Refused(Closed::Unknown));
        };
        mailbox.intake(&self.message).ok_or_else(|| {
            Outcome::Unreadable(format!("work `{}` does not take `{}`", self.path, self.message))
        })
    }

    /// One message has found its place. Credit is given for many at once.
    fn done(&self) {
        self.owed.set(self.owed.get() + 1);
        if self.owed.get() >= self.window / 4 {
            let give = self.owed.take();
            self.outstanding.set(self.outstanding.get() - give);
            self.link.credit(self.number, give);
        }
    }
}

fn in_words(outcome: &Outcome<'_>) -> String {
    match outcome {
        Outcome::Refused(Closed::Unknown) => "there is no such Work here".to_owned(),
        Outcome::Refused(_) => "the Work is not running".to_owned(),
        Outcome::Unreadable(why) => why.clone(),
        Outcome::Answered(..) | Outcome::Failed | Outcome::NodeLost => "its Work has failed".to_owned(),
    }
}

/// The way back for the answer to one question.
struct Answer {
    link: Arc<Link>,
    question: u64,
    open: bool,
}

impl Reply for Answer {
    fn send(mut self: Box<Self>, outcome: Outcome<'_>) {
        self.open = false;
        self.link.answer(self.question, outcome);
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if self.open {
            self.link.answer(self.question, Outcome::Failed);
        }
    }
}
