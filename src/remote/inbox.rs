//! Messages that arrive from another process, on their way to the Works they are for.
//!
//! A channel has messages of one type; those of all types for one Work go through one gate, so that none overtakes
//! another that waits for room.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::task::spawn_local;

use super::bridge::Bridge;
use super::link::{BadPeer, Inbound, Link};
use super::protocol::{Control, FIRST_CREDIT, Packet, Unanswered};
use crate::id::ActorPath;
use crate::work::{Closed, Intake, Outcome, Received, Reply, find_address};

/// The largest number of messages that may be on their way through one channel.
const LARGEST_WINDOW: u32 = 4096;

/// The channels that a peer may open: one for each pair of a Work and a type of message.
const CHANNELS: usize = 1 << 20;

pub(super) struct Inbox {
    bridge: Arc<Bridge>,
    link: Arc<Link>,
    lanes: Vec<Arc<Lane>>,
    gates: HashMap<ActorPath, Arc<Gate>>,
}

impl Inbox {
    pub(super) fn new(bridge: Arc<Bridge>, link: Arc<Link>) -> Self {
        Self { bridge, link, lanes: Vec::new(), gates: HashMap::new() }
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
        self.lanes.push(Arc::new(Lane {
            gate,
            number: channel,
            link: self.link.clone(),
            bridge: self.bridge.clone(),
            path,
            message,
            window,
            state: Mutex::default(),
        }));
        Ok(())
    }

    fn lane(&self, channel: u32) -> Result<&Arc<Lane>, BadPeer> {
        self.lanes.get(channel as usize).ok_or_else(|| {
            BadPeer::Other(format!("a message came on channel {channel}, which was never opened"))
        })
    }
}

impl Inbound for Inbox {
    fn packet(&mut self, packet: Packet) -> Result<(), BadPeer> {
        match packet {
            Packet::Tell { channel, body } => self.lane(channel)?.receive(body, None),
            Packet::Ask { channel, question, body } => self.lane(channel)?.receive(body, Some(question)),
            Packet::Answer { question, body } => {
                self.link.settle(question, Outcome::Answered(body));
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
                other => self.bridge.site()?.control(&self.link, other).map_err(BadPeer::Other),
            },
        }
    }
}

/// The way into one Work.
#[derive(Default)]
struct Gate(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    /// Messages behind one that waits for room.
    backlog: VecDeque<(Arc<Lane>, Bytes, Option<u64>)>,
    waits: bool,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts in one after the other what has gathered behind a message that waits.
async fn drain(mut lane: Arc<Lane>, mut waits: BoxFuture<'static, ()>) {
    loop {
        waits.await;
        lane.done();
        waits = loop {
            let next = {
                let mut waiting = lane.gate.lock();
                let next = waiting.backlog.pop_front();
                waiting.waits = next.is_some();
                next
            };
            let Some((next, body, question)) = next else { return };
            lane = next;
            if let Some(waits) = lane.deliver(&body, question) {
                break waits;
            }
        };
    }
}

/// The end of one channel.
struct Lane {
    gate: Arc<Gate>,
    number: u32,
    link: Arc<Link>,
    bridge: Arc<Bridge>,
    path: ActorPath,
    message: String,
    window: u32,
    state: Mutex<LaneState>,
}

#[derive(Default)]
struct LaneState {
    intake: Option<Arc<dyn Intake>>,
    /// Messages that have found their place and for which no credit was given yet.
    owed: u32,
    /// Messages for which no credit was given yet.
    outstanding: u32,
}

impl Lane {
    fn lock(&self) -> MutexGuard<'_, LaneState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn receive(self: &Arc<Self>, body: Bytes, question: Option<u64>) -> Result<(), BadPeer> {
        {
            let mut state = self.lock();
            state.outstanding += 1;
            if state.outstanding > self.window {
                return Err(BadPeer::Other("more messages came than there was credit for".to_owned()));
            }
        }
        {
            let mut waiting = self.gate.lock();
            if waiting.waits {
                waiting.backlog.push_back((self.clone(), body, question));
                return Ok(());
            }
        }
        if let Some(waits) = self.deliver(&body, question) {
            self.gate.lock().waits = true;
            spawn_local(drain(self.clone(), waits));
        }
        Ok(())
    }

    /// Gives the message to its Work; what to wait for when there is no room.
    fn deliver(self: &Arc<Self>, body: &[u8], question: Option<u64>) -> Option<BoxFuture<'static, ()>> {
        let mut answer = question.map(|question| Answer { link: self.link.clone(), question, open: true });
        let intake = self.lock().intake.clone();
        let intake = match intake.map_or_else(|| self.resolve(), Ok) {
            Ok(intake) => intake,
            Err(outcome) => {
                match answer.take() {
                    Some(answer) => Box::new(answer).send(outcome),
                    None => log::warn!("a message for work `{}` is lost: {}", self.path, in_words(&outcome)),
                }
                self.done();
                return None;
            }
        };
        let is_question = answer.is_some();
        match intake.receive(body, answer.map(|answer| Box::new(answer) as Box<dyn Reply>)) {
            Received::Taken => {}
            Received::Waits(waits) => return Some(waits),
            Received::Refused(why) => {
                // Another may have come to live under this path.
                self.lock().intake = None;
                if !is_question {
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

    fn resolve(&self) -> Result<Arc<dyn Intake>, Outcome> {
        let Some(mailbox) = find_address(self.bridge.app(), &self.path) else {
            return Err(Outcome::Refused(Closed::Unknown));
        };
        let intake = mailbox.intake(&self.message).ok_or_else(|| {
            Outcome::Unreadable(format!("work `{}` does not take `{}`", self.path, self.message))
        })?;
        self.lock().intake = Some(intake.clone());
        Ok(intake)
    }

    /// One message has found its place. Credit is given for many at once.
    fn done(&self) {
        let give = {
            let mut state = self.lock();
            state.owed += 1;
            if state.owed < self.window / 4 {
                return;
            }
            state.outstanding -= state.owed;
            std::mem::take(&mut state.owed)
        };
        self.link.credit(self.number, give);
    }
}

fn in_words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Refused(Closed::Unknown) => "there is no such Work here".to_owned(),
        Outcome::Refused(_) => "the Work is not running".to_owned(),
        Outcome::Unreadable(why) => why.clone(),
        Outcome::Answered(_) | Outcome::Failed | Outcome::NodeLost => "its Work has failed".to_owned(),
    }
}

/// The way back for the answer to one question.
struct Answer {
    link: Arc<Link>,
    question: u64,
    open: bool,
}

impl Reply for Answer {
    fn send(mut self: Box<Self>, outcome: Outcome) {
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
