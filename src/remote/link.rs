//! One session with another process, and the messages between Works that go over it. Its connections are in the module
//! `traffic`.
//!
//! # Guarantees
//! - Messages of one channel arrive in the order in which they were sent, once, as long as the session lives.
//! - What is on its way to a Work is bounded: a channel has as many messages under way as the other end has given
//!   credit for, and a session as many bytes as its settings say. Senders wait for both.
//! - When the session is lost, every question that waits for its answer is told so.

mod messages;
mod replies;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::Notify;
use tokio::time::Instant;

pub(super) use self::messages::Channel;
use self::messages::Channels;
use self::replies::Replies;
use super::bridge::Bridge;
use super::protocol::{
    Control, NodeCard, Packet, PacketError, Unanswered, write_control, write_credit, write_returned_question,
};
use super::references::Pins;
use super::session::{Session, SessionError, SessionSettings, TooLarge};
use super::transfers::NestedQuestions;
use super::write_turn::Outlet;
use crate::id::{IdMap, unique};
use crate::payload::PayloadGuards;
use crate::trace::Cause;
use crate::transport::DirectWriter;
use crate::wire::CodecError;
use crate::work::{AnyEnvelope, Outcome, Traffic};

/// Credit for so many messages is worth a write of its own.
const MUCH_CREDIT: u32 = 128;

pub(crate) struct Link {
    peer: NodeCard,
    pub(super) start: Instant,
    state: Mutex<State>,
    /// There is something to write.
    pub(super) wake: Notify,
    /// There is room again for what can wait.
    pub(super) room: Notify,
    channels: Mutex<Channels>,
    /// Whether all that comes back at the end of the session has come back.
    is_ended: AtomicBool,
    next_question: AtomicU64,
    /// Another one than that of any other session of this process.
    number: u64,
    pins: Pins,
    nested: NestedQuestions,
    /// Whether the peer has said that it is about to end.
    is_leaving: AtomicBool,
    bridge: Weak<Bridge>,
}

pub(super) struct State {
    pub(super) session: Session,
    pub(super) outlet: Outlet<DirectWriter>,
    questions: IdMap<u64, (Box<dyn AnyEnvelope>, Arc<Channel>)>,
    replies: Replies,
    /// Whether the peer asked for more than it takes.
    pub(super) is_overasked: bool,
    pub(super) over: bool,
    /// Why it was ended here, when that was before its time.
    ended: Option<String>,
    /// Why this process leaves, once all that it has to say has been sent.
    pub(super) leaving: Option<String>,
}

/// Why a connection, or the whole session, is over.
#[derive(Debug)]
pub(super) enum End {
    /// The connection; the session goes on with the next one.
    Broken(String),
    /// The session: the peer has said so, or has broken the protocol.
    Over(String),
}

/// What the messages of a link come to.
pub(super) trait Inbound {
    fn packet(&mut self, packet: Packet<'_>) -> Result<(), BadPeer>;
}

/// A peer broke the protocol.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadPeer {
    #[error(transparent)]
    Packet(#[from] PacketError),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("{0}")]
    Other(String),
}

#[derive(Debug, thiserror::Error)]
enum NotPushed {
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    #[error(transparent)]
    Codec(#[from] CodecError),
    #[error("the session is over")]
    Over,
}

impl Link {
    pub(super) fn new(peer: NodeCard, bridge: &Arc<Bridge>, settings: SessionSettings) -> Self {
        Self {
            peer,
            start: Instant::now(),
            state: Mutex::new(State {
                session: Session::new(settings, Duration::ZERO),
                outlet: Outlet::new(),
                questions: IdMap::default(),
                replies: Replies::default(),
                is_overasked: false,
                over: false,
                ended: None,
                leaving: None,
            }),
            wake: Notify::new(),
            room: Notify::new(),
            channels: Mutex::default(),
            is_ended: AtomicBool::new(false),
            next_question: AtomicU64::new(1),
            number: unique(),
            pins: Pins::default(),
            nested: NestedQuestions::default(),
            is_leaving: AtomicBool::new(false),
            bridge: Arc::downgrade(bridge),
        }
    }

    pub(crate) fn peer(&self) -> &NodeCard {
        &self.peer
    }

    /// Its own, among the sessions of this process.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The values that are pinned for the peer.
    pub(super) fn pins(&self) -> &Pins {
        &self.pins
    }

    /// The peer was asked which values these refer to.
    pub(super) fn nested(&self) -> &NestedQuestions {
        &self.nested
    }

    /// Whether the peer is about to end, so that it must not be what keeps a value alive.
    pub(super) fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Acquire)
    }

    pub(super) fn set_leaving(&self) {
        self.is_leaving.store(true, Ordering::Release);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// The last message that arrived.
    pub(super) fn received(&self) -> u64 {
        self.lock().session.received()
    }

    /// How long ago something was heard from the peer.
    pub(super) fn silent_for(&self) -> Duration {
        let now = self.now();
        now.saturating_sub(self.lock().session.last_received())
    }

    /// What the session has carried.
    pub(super) fn traffic(&self) -> Traffic {
        self.lock().session.traffic()
    }

    pub(super) fn is_connected(&self) -> bool {
        self.lock().session.is_connected()
    }

    /// Whether what is sent now is written at once, by the thread that sends it.
    pub(super) fn is_free(&self) -> bool {
        let state = self.lock();
        !state.over && state.session.has_room() && state.outlet.is_free(&state.session, self.now())
    }

    pub(super) fn is_ended(&self) -> bool {
        self.is_ended.load(Ordering::Acquire)
    }

    pub(super) fn is_over(&self) -> bool {
        self.lock().over
    }

    /// Sends what `write` writes; it is urgent where somebody waits for it.
    fn push(
        &self,
        urgent: bool,
        write: impl FnOnce(&mut BytesMut) -> Result<(), NotPushed>,
    ) -> Result<(), NotPushed> {
        let mut state = self.lock();
        if state.over {
            return Err(NotPushed::Over);
        }
        state.session.push(write)?;
        self.flush(state, urgent);
        Ok(())
    }

    /// Sends what `write` writes, which refers to these values.
    fn push_with(
        &self,
        holds: &PayloadGuards,
        urgent: bool,
        write: impl FnOnce(&mut BytesMut) -> Result<(), NotPushed>,
    ) -> Result<(), NotPushed> {
        if holds.is_empty() {
            return self.push(urgent, write);
        }
        let carries = self.carries(holds, &Cause::default())?;
        let mut state = self.lock();
        if state.over {
            return Err(NotPushed::Over);
        }
        // Both or none, so that nothing comes between them.
        state.session.push(|out| Ok::<_, NotPushed>(write_control(out, &carries)?))?;
        let pushed = state.session.push(write);
        self.flush(state, urgent);
        pushed
    }

    /// Pins these values, and says so, and what has led to the message. Where that cannot be sent they stay pinned until
    /// the end of the session.
    fn carries(&self, holds: &PayloadGuards, cause: &Cause) -> Result<Control, NotPushed> {
        let bridge = self.bridge.upgrade().ok_or(NotPushed::Over)?;
        Ok(Control::Carries { payloads: bridge.carry(self, holds), trace: cause.clone() })
    }

    /// Sends a message of the runtime's own that refers to these values.
    pub(super) fn control_with(&self, holds: &PayloadGuards, control: &Control) {
        match self.push_with(holds, false, |out| Ok(write_control(out, control)?)) {
            Ok(()) | Err(NotPushed::Over) => {}
            Err(error) => log::error!("nothing can be told to node `{}`: {error}", self.peer.name),
        }
    }

    /// Sends a message of the runtime's own. These do not wait for room: their number is bounded by what they are about.
    pub(super) fn control(&self, control: &Control) {
        match self.push(false, |out| Ok(write_control(out, control)?)) {
            Ok(()) | Err(NotPushed::Over) => {}
            Err(error) => log::error!("nothing can be told to node `{}`: {error}", self.peer.name),
        }
    }

    /// Answers what the peer has asked. A peer that leaves more answers unacknowledged than the session has room for gets no more of
    /// them, and its session is ended: it decides how much it asks, so that nothing else would bound what is kept for it.
    pub(super) fn reply(&self, control: &Control) {
        self.reply_with(&PayloadGuards::default(), control);
    }

    /// The same, for an answer that refers to these values.
    pub(super) fn reply_with(&self, holds: &PayloadGuards, control: &Control) {
        if self.lock().is_overasked {
            return;
        }
        let carries = match holds.is_empty() {
            true => None,
            false => match self.carries(holds, &Cause::default()) {
                Ok(carries) => Some(carries),
                Err(_) => return,
            },
        };
        let mut state = self.lock();
        if state.over || state.is_overasked {
            return;
        }
        let acknowledged = state.session.acknowledged();
        if state.replies.unread(acknowledged) >= state.session.room() {
            state.is_overasked = true;
            return;
        }
        let mut bytes = 0;
        let mut pushed = Ok(());
        for control in carries.iter().chain([control]) {
            pushed = pushed.and_then(|()| {
                state.session.push(|out| {
                    let before = out.len();
                    write_control(out, control)?;
                    bytes += out.len() - before;
                    Ok::<_, NotPushed>(())
                })
            });
        }
        match pushed {
            Ok(()) => {
                let number = state.session.pushed();
                state.replies.push(number, bytes);
                self.flush(state, false);
            }
            Err(error) => {
                drop(state);
                log::error!("nothing can be told to node `{}`: {error}", self.peer.name);
            }
        }
    }

    /// The same, for what can be too large: why it cannot be sent. When the session is over that is told otherwise.
    pub(super) fn try_control(&self, holds: &PayloadGuards, control: &Control) -> Result<(), String> {
        match self.push_with(holds, false, |out| Ok(write_control(out, control)?)) {
            Ok(()) | Err(NotPushed::Over) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    pub(super) fn credit(&self, channel: u32, more: u32) {
        // Whoever sends so much is likely to wait for it.
        let _ = self.push(more >= MUCH_CREDIT, |out| {
            write_credit(out, channel, more);
            Ok(())
        });
    }

    pub(super) fn answer(&self, question: u64, outcome: Outcome<'_>) {
        let why = match outcome {
            Outcome::Answered(bytes, holds) => {
                let sent = self.push_with(&holds, true, |out| {
                    super::protocol::write_answer(out, question, bytes);
                    Ok(())
                });
                match sent {
                    Ok(()) | Err(NotPushed::Over) => return,
                    Err(error @ (NotPushed::TooLarge(_) | NotPushed::Codec(_))) => {
                        Unanswered::ReplyNotSent(error.to_string())
                    }
                }
            }
            Outcome::Refused(why) => Unanswered::Refused(why),
            Outcome::Failed => Unanswered::Failed,
            Outcome::NodeLost => Unanswered::NodeLost,
            Outcome::Unreadable(why) => Unanswered::Unreadable(why),
            Outcome::ReplyNotSent(why) => Unanswered::ReplyNotSent(why),
            Outcome::Moved => {
                let _ = self.push(false, |out| {
                    write_returned_question(out, question);
                    Ok(())
                });
                return;
            }
        };
        self.control(&Control::Unanswered { question, why });
    }

    /// Whether there is room for what can wait.
    pub(super) fn has_room(&self) -> bool {
        let state = self.lock();
        !state.over && state.session.has_room()
    }

    /// Waits until there is room for what can wait; `false` when the session is over.
    pub(super) async fn room(&self) -> bool {
        loop {
            let room = self.room.notified();
            {
                let state = self.lock();
                if state.over {
                    return false;
                }
                if state.session.has_room() {
                    return true;
                }
            }
            room.await;
        }
    }

    /// Waits until everything has arrived at the peer, or the session is over.
    pub(super) async fn drained(&self) {
        loop {
            let room = self.room.notified();
            {
                let state = self.lock();
                if state.over || state.session.unacknowledged() == 0 {
                    return;
                }
            }
            room.await;
        }
    }

    /// Says goodbye once everything has been sent, which ends the session.
    pub(super) fn leave(&self, why: &str) {
        self.lock().leaving = Some(why.to_owned());
        self.wake.notify_one();
    }

    /// Ends the session before its time.
    pub(super) fn give_up(&self, why: &str) {
        self.lock().ended.get_or_insert_with(|| why.to_owned());
        self.end();
    }

    /// Why it was ended before its time, if it was.
    pub(super) fn given_up(&self) -> Option<String> {
        self.lock().ended.clone()
    }

    /// Ends the session for ever. What was never written to a connection comes back to its senders; whoever waits for an
    /// answer or for room is told.
    pub(super) fn end(&self) {
        // What is sent from here on waits behind what comes back.
        self.close_channels().iter().for_each(|channel| channel.stop());
        let unsent = {
            let mut state = self.lock();
            state.over = true;
            state.session.take_unsent()
        };
        let channels = self.close_channels();
        channels.iter().for_each(|channel| channel.stop());
        self.come_back(&unsent);
        let questions = std::mem::take(&mut self.lock().questions);
        self.room.notify_waiters();
        self.wake.notify_one();
        self.pins.clear();
        self.nested.clear();
        for (envelope, _) in questions.into_values() {
            envelope.settle(Outcome::NodeLost);
        }
        // Last, since messages go elsewhere from here on.
        self.is_ended.store(true, Ordering::Release);
        channels.iter().for_each(|channel| channel.lost());
    }
}
