//! Messages of Works on a link. Each type of message to each incarnation of a Work has a channel, whose credit limits
//! the messages in flight.
//!
//! A channel is opened by its first message, and *shut* when no more messages will follow. Its number is reused once
//! the other end has *drained* it: every message that arrived on the channel was begun, refused or returned.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use bytes::{BufMut, Bytes};
use tokio::sync::{Semaphore, SemaphorePermit, TryAcquireError};

use super::super::lost_messages::{lose, refuse_without_address};
use super::super::protocol::{
    Carried, Control, FIRST_CREDIT, Packet, begin_ask, begin_ask_for_stream, begin_returned, begin_tell,
    write_control,
};
use super::super::session::Session;
use super::{BadPeer, ChannelUser, Link, LinkState, NotPushed, Target};
use crate::id::ActorPath;
use crate::payload::{self, PayloadGuards};
use crate::runtime;
use crate::trace::Cause;
use crate::wire::{self, CodecError, Frame};
use crate::work::{
    AnyEnvelope, DeadLetterReason, DeadLetters, Lost, Outcome, Recent, Refused, SENDERS, SenderId, Stamp,
    report_abandoned,
};

/// The channel for messages of one type to one incarnation of a Work. Those that go before others have another one.
pub(in crate::remote) struct Channel {
    number: u32,
    message: &'static str,
    /// True if its messages go before others.
    is_first: bool,
    path: ActorPath,
    user: Weak<dyn ChannelUser>,
    credit: Semaphore,
    /// The number of messages that were sent and for which the other end has not returned credit yet.
    under_way: AtomicU32,
    /// True once the other end was told that no more messages follow. Changed under the lock of the session.
    is_shut: AtomicBool,
}

/// The channels of a link by their numbers.
#[derive(Default)]
pub(super) struct Channels {
    by_number: Vec<Option<Arc<Channel>>>,
    free: Vec<u32>,
}

impl Channels {
    fn get(&self, number: u32) -> Option<&Arc<Channel>> {
        self.by_number.get(number as usize)?.as_ref()
    }
}

/// The numbers of the senders that the peer was told of. It keeps as many of them as are kept here.
pub(super) struct Announced {
    numbers: Recent<()>,
    last: SenderId,
}

impl Default for Announced {
    fn default() -> Self {
        Self { numbers: Recent::new(SENDERS), last: SenderId::OUTSIDE }
    }
}

impl Announced {
    /// Tells the peer of a sender if it does not know it. Returns the number to send.
    fn announce(&mut self, sender: SenderId, session: &mut Session) -> u32 {
        if sender == self.last || !sender.is_work() || self.numbers.get(sender.0).is_some() {
            return sender.0;
        }
        let path = runtime::current().ok().and_then(|runtime| DeadLetters::of(&runtime).path_of(sender));
        let Some(path) = path else { return SenderId::UNKNOWN.0 };
        let control = Control::Sender { number: sender.0, path };
        if session.push(|out| Ok::<_, NotPushed>(write_control(out, &control)?)).is_err() {
            return SenderId::UNKNOWN.0;
        }
        self.numbers.insert(sender.0, ());
        self.last = sender;
        sender.0
    }
}

impl Link {
    /// Opens a channel for messages of this type to an incarnation of a Work.
    ///
    /// # Errors
    /// A message when all channel numbers are in use.
    pub(in crate::remote) fn open_channel(
        &self,
        user: Weak<dyn ChannelUser>,
        path: &ActorPath,
        target: Target,
        message: &'static str,
    ) -> Result<Arc<Channel>, String> {
        let mut channels = self.channels.lock();
        let number = match channels.free.pop() {
            Some(number) => number,
            None => {
                let number = u32::try_from(channels.by_number.len());
                channels.by_number.push(None);
                number.map_err(|_| "all channel numbers of the session are in use".to_owned())?
            }
        };
        let channel = Arc::new(Channel {
            number,
            message,
            is_first: target.first,
            path: path.clone(),
            user,
            credit: Semaphore::new(FIRST_CREDIT as usize),
            under_way: AtomicU32::new(0),
            is_shut: AtomicBool::new(false),
        });
        channels.by_number[number as usize] = Some(channel.clone());
        // Under the lock, so that the other end learns of channel numbers in the order in which they are assigned.
        self.control(&Control::Open {
            channel: number,
            path: path.clone(),
            message: message.to_owned(),
            incarnation: target.incarnation,
            relayed: target.relayed,
            first: target.first,
        });
        Ok(channel)
    }

    /// Shuts a channel. With `recall` the other end returns the messages that no handler has begun.
    pub(in crate::remote) fn shut(&self, channel: &Channel, recall: bool) {
        channel.credit.close();
        let mut state = self.state.lock();
        if channel.is_shut.swap(true, Ordering::Relaxed) || state.over {
            return;
        }
        let shut = Control::Shut { channel: channel.number, recall };
        let pushed = state.session.push(|out| Ok::<_, NotPushed>(write_control(out, &shut)?));
        self.flush(state, false);
        if let Err(error) = pushed {
            log::error!("cannot send a control message to node `{}`: {error}", self.peer.name);
        }
    }

    /// Frees the number of a channel that the other end has drained.
    pub(in crate::remote) fn channel_drained(&self, number: u32) -> Result<(), BadPeer> {
        let channel = {
            let mut channels = self.channels.lock();
            let is_shut = channels.get(number).is_some_and(|channel| channel.is_shut.load(Ordering::Relaxed));
            if !is_shut {
                let why = format!("channel {number} was drained but had not been shut");
                return Err(BadPeer::Other(why));
            }
            channels.free.push(number);
            channels.by_number[number as usize].take()
        };
        if let Some(user) = channel.and_then(|channel| channel.user.upgrade()) {
            user.channel_drained();
        }
        Ok(())
    }

    /// Closes the credit of all channels because the session is over, and returns the channels.
    pub(super) fn close_channels(&self) -> Vec<Arc<Channel>> {
        let channels: Vec<_> = self.channels.lock().by_number.iter().flatten().cloned().collect();
        channels.iter().for_each(|channel| channel.credit.close());
        channels
    }

    /// Sends a message unless it would have to wait for credit or for room in the session.
    pub(in crate::remote) fn try_send(
        &self,
        channel: &Arc<Channel>,
        envelope: Box<dyn AnyEnvelope>,
    ) -> Result<(), Refused<Box<dyn AnyEnvelope>>> {
        match channel.credit.try_acquire() {
            Ok(permit) => self.post(channel, permit, envelope, true),
            Err(TryAcquireError::NoPermits) => Err(Refused::Full(envelope)),
            Err(TryAcquireError::Closed) => Err(Refused::Moved(envelope)),
        }
    }

    pub(in crate::remote) async fn send(
        &self,
        channel: &Arc<Channel>,
        envelope: Box<dyn AnyEnvelope>,
    ) -> Result<(), Refused<Box<dyn AnyEnvelope>>> {
        let Ok(permit) = channel.credit.acquire().await else {
            return Err(Refused::Moved(envelope));
        };
        if !self.room().await {
            return Err(Refused::Moved(envelope));
        }
        self.post(channel, permit, envelope, false)
    }

    fn post(
        &self,
        channel: &Arc<Channel>,
        permit: SemaphorePermit<'_>,
        envelope: Box<dyn AnyEnvelope>,
        if_there_is_room: bool,
    ) -> Result<(), Refused<Box<dyn AnyEnvelope>>> {
        wire::with_buffer(|message| {
            // Before the lock is taken, because user code may serialise the message.
            let (written, holds) = payload::collect(|| envelope.write(message));
            if let Err(error) = written {
                return Err(Refused::Unsendable(envelope, error.to_string()));
            }
            let cause = envelope.cause();
            let carries = match holds.is_empty() && cause.is_none() {
                true => None,
                false => match self.carries(&holds, &cause) {
                    Ok(carries) => Some(carries),
                    Err(_) => return Err(Refused::Moved(envelope)),
                },
            };
            let question = envelope.is_question().then(|| self.next_question.fetch_add(1, Ordering::Relaxed));
            let (window, ask) = (envelope.window(), envelope.ask());
            let mut state = self.state.lock();
            // Under the lock, because `withdraw_abandoned` looks for abandoned questions under it.
            if envelope.is_abandoned() {
                drop(state);
                if let Some(Control::Carries { payloads, .. }) = carries {
                    self.unpin(payloads);
                }
                report_abandoned(&channel.path, [envelope.lost()]);
                return Ok(());
            }
            let is_shut = state.over || channel.is_shut.load(Ordering::Relaxed);
            if is_shut || if_there_is_room && !state.session.has_room() {
                drop(state);
                if let Some(Control::Carries { payloads, .. }) = carries {
                    self.unpin(payloads);
                }
                return Err(if is_shut { Refused::Moved(envelope) } else { Refused::Full(envelope) });
            }
            let LinkState { session, senders, .. } = &mut *state;
            let sender = senders.announce(envelope.sender(), session);
            let carried = match carries {
                None => Ok(()),
                Some(carries) => state.session.push(|out| Ok::<_, NotPushed>(write_control(out, &carries)?)),
            };
            let pushed = carried.and_then(|()| {
                state.session.push(|out| {
                    match (question, window) {
                        (Some(question), Some(window)) => {
                            begin_ask_for_stream(out, channel.number, sender, question, window, ask);
                        }
                        (Some(question), None) => begin_ask(out, channel.number, sender, question, ask),
                        (None, _) => begin_tell(out, channel.number, sender),
                    }
                    out.put_slice(message);
                    Ok::<_, NotPushed>(())
                })
            });
            if let Err(error) = pushed {
                return Err(Refused::Unsendable(envelope, error.to_string()));
            }
            permit.forget();
            channel.under_way.fetch_add(1, Ordering::Relaxed);
            if let Some(question) = question {
                state.questions.insert(question, (envelope, channel.clone()));
            }
            self.flush(state, question.is_some());
            Ok(())
        })
    }

    /// Releases the pins of a message that is not sent after all.
    fn unpin(&self, payloads: Vec<Carried>) {
        let counted = payloads.into_iter().filter(|carried| carried.counted);
        counted.for_each(|carried| self.pins.release(carried.id, 1));
    }

    /// Tells the peer which questions have lost their asker, and forgets them.
    pub(in crate::remote) fn withdraw_abandoned(&self) {
        let withdrawn: Vec<_> = {
            let mut state = self.state.lock();
            let abandoned = |(question, (envelope, _)): (&u64, &(Box<dyn AnyEnvelope>, Arc<Channel>))| {
                envelope.is_abandoned().then_some(*question)
            };
            let numbers: Vec<_> = state.questions.iter().filter_map(abandoned).collect();
            numbers
                .into_iter()
                .filter_map(|number| Some((number, state.questions.remove(&number)?)))
                .collect()
        };
        for (question, _) in &withdrawn {
            self.control(&Control::Abandoned { question: *question });
        }
    }

    /// Returns a `tell` that arrived on this channel to the peer.
    pub(in crate::remote) fn give_back(
        &self,
        channel: u32,
        path: &ActorPath,
        write: &mut dyn FnMut(&mut bytes::BytesMut) -> Result<(), CodecError>,
        cause: &Cause,
        lost: Lost<'_>,
    ) {
        wire::with_buffer(|message| {
            let (written, holds) = payload::collect(|| write(message));
            match written {
                Ok(()) => self.give_back_bytes(channel, path, message, &holds, cause, lost),
                Err(error) => lose(path, DeadLetterReason::Unsendable, &error.to_string(), lost),
            }
        });
    }

    /// Returns a `tell` that was not decoded, and that refers to the values of `holds`.
    pub(in crate::remote) fn give_back_bytes(
        &self,
        channel: u32,
        path: &ActorPath,
        message: &[u8],
        holds: &PayloadGuards,
        cause: &Cause,
        lost: Lost<'_>,
    ) {
        let sender = {
            let mut state = self.state.lock();
            let LinkState { session, senders, over, .. } = &mut *state;
            if *over { SenderId::UNKNOWN.0 } else { senders.announce(lost.sender(), session) }
        };
        let pushed = self.push_after(holds, cause, |out| {
            begin_returned(out, channel, sender);
            out.put_slice(message);
            Ok(())
        });
        match pushed {
            Ok(()) => {}
            Err(NotPushed::Over) => {
                lose(path, DeadLetterReason::NodeLost, "the process that sent it is lost", lost);
            }
            Err(error) => lose(path, DeadLetterReason::Unsendable, &error.to_string(), lost),
        }
    }

    /// Pushes the message that `write` writes, after a control message with the values that it refers to and its cause.
    fn push_after(
        &self,
        holds: &PayloadGuards,
        cause: &Cause,
        write: impl FnOnce(&mut bytes::BytesMut) -> Result<(), NotPushed>,
    ) -> Result<(), NotPushed> {
        if holds.is_empty() && cause.is_none() {
            return self.push(false, write);
        }
        let carries = self.carries(holds, cause)?;
        let mut state = self.state.lock();
        if state.over {
            return Err(NotPushed::Over);
        }
        state.session.push(|out| Ok::<_, NotPushed>(write_control(out, &carries)?))?;
        let pushed = state.session.push(write);
        self.flush(state, false);
        pushed
    }

    /// Handles a `tell` that the peer has returned on a channel.
    pub(in crate::remote) fn returned(
        &self,
        number: u32,
        body: &[u8],
        cause: Cause,
        sender: SenderId,
    ) -> Result<(), BadPeer> {
        let channel = self.channels.lock().get(number).cloned();
        let Some(channel) = channel else {
            let why = format!("a message came back on channel {number}, which was never opened");
            return Err(BadPeer::Other(why));
        };
        channel.come_back(body, cause, sender);
        Ok(())
    }

    /// Handles a question that the peer has returned.
    pub(in crate::remote) fn returned_question(&self, question: u64) {
        let asked = self.state.lock().questions.remove(&question);
        // An unknown question was answered before, which is harmless.
        if let Some((envelope, channel)) = asked {
            channel.letter_back(envelope);
        }
    }

    /// Reports the `tell`s among messages that were written to a connection and not acknowledged.
    pub(super) fn report_lost(&self, unacknowledged: &[Bytes]) {
        for segment in unacknowledged {
            let mut rest = &segment[..];
            while let Ok(Some((frame, length))) = Frame::first(rest, usize::MAX) {
                rest = &rest[length..];
                let Frame::Data { body, .. } = frame else { continue };
                let Ok(Packet::Tell { channel, sender, .. }) = Packet::read(body) else { continue };
                let channel = self.channels.lock().get(channel).cloned();
                if let Some(channel) = channel {
                    let lost = Lost::new(channel.message, SenderId(sender));
                    let why = "the process to which it was on its way is lost";
                    lose(&channel.path, DeadLetterReason::NodeLost, why, lost);
                }
            }
        }
    }

    /// Returns messages that were never written to a connection to their senders.
    pub(super) fn come_back(&self, unsent: &[Bytes]) {
        for segment in unsent {
            let mut rest = &segment[..];
            let mut cause = Cause::default();
            while let Ok(Some((frame, length))) = Frame::first(rest, usize::MAX) {
                rest = &rest[length..];
                let Frame::Data { body, .. } = frame else { continue };
                match Packet::read(body) {
                    Ok(Packet::Control(control)) => {
                        if let Control::Carries { trace, .. } = *control {
                            cause = trace;
                        }
                        continue;
                    }
                    Ok(Packet::Tell { channel, sender, body }) => {
                        let channel = self.channels.lock().get(channel).cloned();
                        if let Some(channel) = channel {
                            channel.come_back(body, std::mem::take(&mut cause), SenderId(sender));
                        }
                    }
                    Ok(Packet::Ask { question, .. } | Packet::AskForStream { question, .. }) => {
                        self.returned_question(question);
                    }
                    Ok(_) | Err(_) => {}
                }
                cause = Cause::default();
            }
        }
    }

    /// Completes a question with the answer of the peer.
    pub(in crate::remote) fn settle(&self, question: u64, outcome: Outcome<'_>) {
        let asked = self.state.lock().questions.remove(&question);
        // An unknown question was answered twice, which is harmless.
        if let Some((envelope, _)) = asked {
            envelope.settle(outcome);
        }
    }

    /// Notes that the handler of a question has returned and answers later.
    pub(in crate::remote) fn deferred(&self, question: u64) {
        let mut state = self.state.lock();
        let place = state.questions.get_mut(&question).and_then(|(envelope, _)| envelope.deferred());
        drop(state);
        // Outside of the lock, since the next message may go along this link.
        drop(place);
    }

    pub(in crate::remote) fn more_credit(&self, channel: u32, more: u32) -> Result<(), BadPeer> {
        let channels = self.channels.lock();
        let channel = channels
            .get(channel)
            .ok_or_else(|| BadPeer::Other(format!("credit for channel {channel}, which was never opened")))?;
        if channel.credit.available_permits() + more as usize > Semaphore::MAX_PERMITS / 2 {
            return Err(BadPeer::Other("more credit than a channel can have".to_owned()));
        }
        let _ = channel.under_way.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |under_way| {
            Some(under_way.saturating_sub(more))
        });
        channel.credit.add_permits(more as usize);
        Ok(())
    }
}

impl Channel {
    pub(in crate::remote) fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed) as usize
    }

    /// Returns a `tell` to its sender.
    fn come_back(&self, body: &[u8], cause: Cause, sender: SenderId) {
        let stamp = Stamp { cause, sender, is_first: self.is_first };
        match self.user.upgrade() {
            Some(user) => user.returned_bytes(self.message, body, stamp),
            None => {
                let why = "no address of the Work is left in this process";
                lose(&self.path, DeadLetterReason::NoAddress, why, Lost::new(self.message, sender));
            }
        }
    }

    /// Returns a question to its sender.
    fn letter_back(&self, envelope: Box<dyn AnyEnvelope>) {
        match self.user.upgrade() {
            Some(user) => user.returned(envelope),
            None => refuse_without_address(&self.path, envelope),
        }
    }

    /// Reports to the user that the session is about to end.
    pub(super) fn stop(&self) {
        if let Some(user) = self.user.upgrade() {
            user.stop();
        }
    }

    /// Reports to the user that the session is over.
    pub(super) fn lost(&self) {
        if let Some(user) = self.user.upgrade() {
            user.lost();
        }
    }
}
