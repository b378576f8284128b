//! A link: one session with another process, and the messages between Works that it carries. Only the files of
//! `link/` see its fields.
//!
//! # Guarantees
//! - Messages of one channel arrive once and in the order in which they were sent, as long as the session lives.
//! - Messages in flight are bounded: per channel by the credit that the other end has granted, and per session by the
//!   limit on unacknowledged bytes in its settings. Senders wait for both.
//! - When the session is lost, every ask that waits for its answer fails, and every stream that is read here ends with an
//!   error.

mod connection_io;
mod messages;
mod nested_questions;
mod pins;
mod replies;
mod streams;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

pub(super) use self::messages::Channel;
use self::messages::{Announced, Channels};
use self::nested_questions::NestedQuestions;
use self::pins::Pins;
use self::replies::Replies;
use self::streams::Reading;
use super::begun::{BegunMark, BegunWriter};
use super::protocol::{
    Carried, Control, NodeCard, Packet, PacketError, write_control, write_credit, write_returned_question,
};
use super::session::{Session, SessionError, SessionSettings, TooLarge};
use super::write_turn::Outlet;
use crate::id::{IdMap, unique};
use crate::payload::PayloadGuards;
use crate::trace::Cause;
use crate::transport::DirectWriter;
use crate::wire::CodecError;
use crate::work::{AnyEnvelope, CloseReason, NoReply, Outcome, Stamp, Traffic};

/// Amount of credit that is worth a write of its own.
const MUCH_CREDIT: u32 = 128;

pub(crate) struct Link {
    peer: NodeCard,
    start: Instant,
    state: Mutex<LinkState>,
    /// Wakes the writer task when there is something to write.
    wake: Notify,
    /// Wakes senders when the session has room again.
    room: Notify,
    channels: Mutex<Channels>,
    /// The streams that are read here. Locked before `state`.
    reading: Mutex<Reading>,
    /// True once everything that the end of the session returns to senders has been returned.
    is_ended: AtomicBool,
    next_question: AtomicU64,
    /// Number of the session, unique in this process.
    number: u64,
    pins: Pins,
    nested: NestedQuestions,
    /// True once the peer has announced that it is about to end.
    is_leaving: AtomicBool,
    references: Weak<dyn SendReferences>,
    /// The mark of the questions that this process has begun, or the peer.
    begun: OnceLock<Begun>,
}

/// The mark of the questions of a head that the process of a Work has begun.
enum Begun {
    Here(BegunWriter),
    There(Arc<BegunMark>),
}

struct LinkState {
    session: Session,
    /// The senders that the peer was told of.
    senders: Announced,
    outlet: Outlet<DirectWriter>,
    questions: IdMap<u64, (Box<dyn AnyEnvelope>, Arc<Channel>)>,
    replies: Replies,
    /// True once the peer has requested more than it acknowledges.
    is_overasked: bool,
    over: bool,
    /// The reason given when the session was ended by this process.
    ended: Option<String>,
    /// The reason for which this process leaves as soon as everything has been sent.
    leaving: Option<String>,
}

/// The reason why a connection, or the whole session, is over.
#[derive(Debug)]
pub(super) enum End {
    /// The connection is broken; the session continues with the next one.
    Broken(String),
    /// The session is over: the peer has ended it, or has violated the protocol.
    Over(String),
}

/// The receiver of the packets of a link.
pub(super) trait Inbound {
    fn packet(&mut self, packet: Packet<'_>) -> Result<(), BadPeer>;
}

/// The side of a session that accounts for the references in its messages.
pub(super) trait SendReferences: Send + Sync {
    /// Pins the values of `holds` for the session, and returns the descriptions that accompany the references.
    fn send(&self, link: &Link, holds: &PayloadGuards) -> Vec<Carried>;
}

/// The incarnation that the messages of a channel are addressed to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    pub(super) incarnation: u64,
    /// True if the head is to forward the messages to wherever the Work runs.
    pub(super) relayed: bool,
    /// True for the messages that go before others.
    pub(super) first: bool,
}

/// The user of channels, which gets the messages back that were not handled.
pub(super) trait ChannelUser: Send + Sync {
    /// Takes back a message that no handler has begun.
    fn returned(&self, envelope: Box<dyn AnyEnvelope>);
    /// Takes back the body of a `tell` of the type `message` that no handler has begun.
    fn returned_bytes(&self, message: &'static str, body: &[u8], stamp: Stamp);
    /// Records that the other end has drained one of the channels.
    fn channel_drained(&self);
    /// Holds back new messages because the session is about to end: messages that it returns must precede them.
    fn stop(&self);
    /// Handles the loss of the session.
    fn lost(&self);
}

/// Error for a peer that violated the protocol.
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
    /// Creates a session with `peer`. `references` describes the references that messages carry.
    pub(super) fn new(
        peer: NodeCard,
        references: &Arc<impl SendReferences + 'static>,
        settings: SessionSettings,
    ) -> Self {
        Self {
            peer,
            start: Instant::now(),
            state: Mutex::new(LinkState {
                session: Session::new(settings, Duration::ZERO),
                senders: Announced::default(),
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
            reading: Mutex::default(),
            is_ended: AtomicBool::new(false),
            next_question: AtomicU64::new(1),
            number: unique(),
            pins: Pins::default(),
            nested: NestedQuestions::default(),
            is_leaving: AtomicBool::new(false),
            references: Arc::downgrade(references) as _,
            begun: OnceLock::new(),
        }
    }

    /// Has the questions of the peer marked that handlers of this process begin.
    pub(super) fn mark_begun(&self, mark: BegunWriter) {
        let _ = self.begun.set(Begun::Here(mark));
    }

    /// Sets the mark by which the peer tells which questions its handlers have begun.
    pub(super) fn set_mark(&self, mark: Arc<BegunMark>) {
        let _ = self.begun.set(Begun::There(mark));
    }

    /// Marks a question of the peer whose handler begins.
    pub(super) fn begin(&self, question: u64) {
        if let Some(Begun::Here(mark)) = self.begun.get() {
            mark.begin(question);
        }
    }

    pub(crate) fn peer(&self) -> &NodeCard {
        &self.peer
    }

    /// Returns the number of the session, unique in this process.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Returns the values that are pinned for the peer.
    pub(super) fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Returns the pending questions to the peer about the values to which other values refer.
    pub(super) fn nested(&self) -> &NestedQuestions {
        &self.nested
    }

    /// Returns `true` when the peer is about to end, and must not be relied upon to keep a value alive.
    pub(super) fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Acquire)
    }

    pub(super) fn set_leaving(&self) {
        self.is_leaving.store(true, Ordering::Release);
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Returns the number of the last message that arrived.
    pub(super) fn received(&self) -> u64 {
        self.state.lock().session.received()
    }

    /// Returns the time since a frame of the peer last arrived.
    pub(super) fn silent_for(&self) -> Duration {
        let now = self.now();
        now.saturating_sub(self.state.lock().session.last_received())
    }

    /// Returns the counters of messages and bytes.
    pub(super) fn traffic(&self) -> Traffic {
        self.state.lock().session.traffic()
    }

    pub(super) fn is_connected(&self) -> bool {
        self.state.lock().session.is_connected()
    }

    /// Returns `true` when a message that is sent now is written at once, by the thread that sends it.
    pub(super) fn is_free(&self) -> bool {
        let state = self.state.lock();
        !state.over && state.session.has_room() && state.outlet.is_free(&state.session, self.now())
    }

    pub(super) fn is_ended(&self) -> bool {
        self.is_ended.load(Ordering::Acquire)
    }

    pub(super) fn is_over(&self) -> bool {
        self.state.lock().over
    }

    /// Sends the message that `write` writes; `urgent` if an asker waits for it.
    fn push(
        &self,
        urgent: bool,
        write: impl FnOnce(&mut BytesMut) -> Result<(), NotPushed>,
    ) -> Result<(), NotPushed> {
        let mut state = self.state.lock();
        if state.over {
            return Err(NotPushed::Over);
        }
        state.session.push(write)?;
        self.flush(state, urgent);
        Ok(())
    }

    /// Sends the message that `write` writes, which refers to the values of `holds`.
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
        let mut state = self.state.lock();
        if state.over {
            return Err(NotPushed::Over);
        }
        // Both under one lock, so that no other message comes between them.
        state.session.push(|out| Ok::<_, NotPushed>(write_control(out, &carries)?))?;
        let pushed = state.session.push(write);
        self.flush(state, urgent);
        pushed
    }

    /// Pins the values of `holds` and returns the control message that announces them and the cause of the message that
    /// follows. If it cannot be sent, the values stay pinned until the session ends.
    fn carries(&self, holds: &PayloadGuards, cause: &Cause) -> Result<Control, NotPushed> {
        let references = self.references.upgrade().ok_or(NotPushed::Over)?;
        Ok(Control::Carries { payloads: references.send(self, holds), trace: cause.clone() })
    }

    /// Sends a control message that refers to the values of `holds`.
    pub(super) fn control_with(&self, holds: &PayloadGuards, control: &Control) {
        match self.push_with(holds, false, |out| Ok(write_control(out, control)?)) {
            Ok(()) | Err(NotPushed::Over) => {}
            Err(error) => log::error!("cannot send a control message to node `{}`: {error}", self.peer.name),
        }
    }

    /// Sends a control message. It does not wait for room: the number of control messages is bounded by their subjects.
    pub(super) fn control(&self, control: &Control) {
        match self.push(false, |out| Ok(write_control(out, control)?)) {
            Ok(()) | Err(NotPushed::Over) => {}
            Err(error) => log::error!("cannot send a control message to node `{}`: {error}", self.peer.name),
        }
    }

    /// Sends a reply to a request of the peer. A peer that leaves more bytes of replies unacknowledged than the session
    /// has room for gets no more of them, and its session is ended: nothing else bounds the replies that are kept for a
    /// peer that keeps asking.
    pub(super) fn reply(&self, control: &Control) {
        self.reply_with(&PayloadGuards::default(), control);
    }

    /// Sends a reply that refers to the values of `holds`; see [`reply`](Self::reply).
    pub(super) fn reply_with(&self, holds: &PayloadGuards, control: &Control) {
        if self.state.lock().is_overasked {
            return;
        }
        let carries = match holds.is_empty() {
            true => None,
            false => match self.carries(holds, &Cause::default()) {
                Ok(carries) => Some(carries),
                Err(_) => return,
            },
        };
        let mut state = self.state.lock();
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
                log::error!("cannot send a control message to node `{}`: {error}", self.peer.name);
            }
        }
    }

    /// Sends a control message that may be too large. A session that is over counts as success, since its end is
    /// reported elsewhere.
    ///
    /// # Errors
    /// The reason why the message cannot be sent.
    pub(super) fn try_control(&self, holds: &PayloadGuards, control: &Control) -> Result<(), String> {
        match self.push_with(holds, false, |out| Ok(write_control(out, control)?)) {
            Ok(()) | Err(NotPushed::Over) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    pub(super) fn credit(&self, channel: u32, more: u32) {
        // A sender of so many messages probably waits for credit.
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
                        NoReply::ReplyNotSent(error.to_string())
                    }
                }
            }
            Outcome::Unanswered(why) => why,
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

    /// Returns `true` while the session is alive and senders need not wait.
    pub(super) fn has_room(&self) -> bool {
        let state = self.state.lock();
        !state.over && state.session.has_room()
    }

    /// Returns `true` while less than half of the session's room is used, for messages whose senders never wait.
    pub(super) fn has_much_room(&self) -> bool {
        let state = self.state.lock();
        !state.over && state.session.unacknowledged() < state.session.room() / 2
    }

    /// Waits until senders need not wait any more; returns `false` when the session is over.
    pub(super) async fn room(&self) -> bool {
        loop {
            let room = self.room.notified();
            {
                let state = self.state.lock();
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

    /// Waits until the peer has acknowledged everything, or the session is over.
    pub(super) async fn drained(&self) {
        loop {
            let room = self.room.notified();
            {
                let state = self.state.lock();
                if state.over || state.session.unacknowledged() == 0 {
                    return;
                }
            }
            room.await;
        }
    }

    /// Says goodbye once everything has been sent, which ends the session.
    pub(super) fn leave(&self, why: &str) {
        self.state.lock().leaving = Some(why.to_owned());
        self.wake.notify_one();
    }

    /// Ends the session early, for the reason `why`.
    pub(super) fn give_up(&self, why: &str) {
        self.state.lock().ended.get_or_insert_with(|| why.to_owned());
        self.end();
    }

    /// Returns the reason why this process ended the session early, if it did.
    pub(super) fn given_up(&self) -> Option<String> {
        self.state.lock().ended.clone()
    }

    /// Ends the session for good. Messages that were never written to a connection are returned to their senders; those
    /// that were, and that the peer has not acknowledged, are dead letters. Tasks that wait for an answer or for room are
    /// woken.
    pub(super) fn end(&self) {
        // Messages sent from here on queue behind those that are returned.
        self.close_channels().iter().for_each(|channel| channel.stop());
        let (unacknowledged, unsent) = {
            let mut state = self.state.lock();
            state.over = true;
            state.session.take_rest()
        };
        let channels = self.close_channels();
        channels.iter().for_each(|channel| channel.stop());
        self.report_lost(&unacknowledged);
        self.come_back(&unsent);
        let questions = std::mem::take(&mut self.state.lock().questions);
        self.room.notify_waiters();
        self.wake.notify_one();
        self.pins.clear();
        self.nested.clear();
        let begun = match self.begun.get() {
            Some(Begun::There(mark)) => mark.last(),
            Some(Begun::Here(_)) | None => None,
        };
        let mut questions: Vec<_> = questions.into_iter().collect();
        // Those that go to another process do so in their order.
        questions.sort_unstable_by_key(|(number, _)| *number);
        for (number, (envelope, _)) in questions {
            let is_begun = begun.is_none_or(|begun| number <= begun);
            let why = if is_begun { NoReply::NodeLost } else { NoReply::Refused(CloseReason::NodeLost) };
            envelope.settle(Outcome::Unanswered(why));
        }
        self.lose_streams();
        // Last, since from here on messages take other routes.
        self.is_ended.store(true, Ordering::Release);
        channels.iter().for_each(|channel| channel.lost());
    }
}
