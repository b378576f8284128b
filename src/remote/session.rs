//! The conversation of two processes over a series of connections: pure. The time is given, as what has passed
//! since some start.
//!
//! # Guarantees
//! - Messages arrive in order and exactly once, as long as the session is not lost: what was not acknowledged is sent
//!   again on the next connection, and what arrives twice is dropped.
//! - What is not acknowledged is bounded for those who ask [`Session::has_room`] before they send.
//! - A peer that says nothing for three heartbeats has no connection any more; one of which nothing was heard for the
//!   grace period is lost, for ever.
//!
//! Messages gather in one buffer, which is sent, kept until it is acknowledged, and sent again as a whole: no message
//! costs an allocation of its own. The scheme is TCP's, with messages for bytes.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use thiserror::Error;

use crate::printable::{LONGEST_REASON, brief};
use crate::wire::{Frame, put_data};
use crate::work::Traffic;

/// The least that one write is worth: a buffer of this size is closed and the next one begun.
const SEGMENT: usize = 128 * 1024;

/// So many bytes that have gathered are written at once.
const MANY: usize = 32 * 1024;

/// Room for the first messages of a buffer, so that it does not grow by each.
const FEW: usize = 1024;

/// So many messages, or bytes, are acknowledged at once where nothing else is to be said.
const ACK_MESSAGES: u64 = 64;
const ACK_BYTES: usize = 64 * 1024;

/// A message that comes after so long a silence is written at once, whatever it is.
const QUIET: Duration = Duration::from_micros(100);

/// How long and how much.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SessionSettings {
    /// Something is said at least so often.
    pub(crate) heartbeat: Duration,
    /// How long the other process may be out of reach.
    pub(crate) grace: Duration,
    /// Bytes that may wait for their acknowledgement before senders wait.
    pub(crate) max_unacknowledged: usize,
    /// The largest frame, in bytes.
    pub(crate) max_frame: usize,
}

impl Default for SessionSettings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(1),
            grace: Duration::from_secs(10),
            max_unacknowledged: 8 << 20,
            max_frame: 16 << 20,
        }
    }
}

impl SessionSettings {
    /// How long a connection may say nothing.
    pub(crate) fn silence(&self) -> Duration {
        (self.heartbeat * 3).min(self.grace)
    }
}

/// The message is larger than a frame may be.
#[derive(Debug, Error)]
#[error("it has {length} bytes, and at most {limit} are sent at once; large values travel as a `Payload`")]
pub(crate) struct TooLarge {
    length: usize,
    limit: usize,
}

/// The peer broke the protocol, or has ended the session. It cannot go on.
#[derive(Debug, Error)]
pub(crate) enum SessionError {
    #[error("message {seq} came and {expected} was expected")]
    Gap { seq: u64, expected: u64 },
    #[error("message {received} was acknowledged, and only {sent} were sent")]
    NeverSent { received: u64, sent: u64 },
    #[error("it wants message {} again, and had acknowledged {acknowledged}", received + 1)]
    NotKept { received: u64, acknowledged: u64 },
    #[error("a greeting came in the middle of a session")]
    Greeting,
    #[error("a value was asked for in the middle of a session")]
    Pull,
    #[error("the session was given up")]
    Lost,
    #[error("{0}")]
    Ended(String),
}

/// What time has brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expired {
    /// The connection says nothing any more; it is to be closed.
    Connection,
    /// The peer is lost.
    Session,
}

pub(crate) struct Session {
    settings: SessionSettings,
    connected: bool,
    lost: bool,
    /// When something was heard from the peer.
    last_received: Duration,
    /// When something was said.
    last_sent: Duration,
    /// The last message that was pushed, the last one that was ever sent, and the last one that the peer has
    /// acknowledged.
    pushed: u64,
    sent: u64,
    acknowledged: u64,
    /// What was sent and not acknowledged; those before `cursor` on this connection.
    segments: VecDeque<Segment>,
    cursor: usize,
    kept_bytes: usize,
    open: BytesMut,
    /// Where in it the last message begins.
    last: usize,
    /// The last message that arrived, and the last one that was acknowledged to the peer.
    received: u64,
    ack_said: u64,
    unacked_bytes: usize,
    /// Whether a message has arrived since one was last written at once.
    arrived: bool,
    traffic: Traffic,
}

struct Segment {
    last: u64,
    bytes: Bytes,
}

/// What was appended by a push, all of which is taken back unless it is whole: also when what writes it, which may be
/// anybody's code, panics.
struct Appended<'a> {
    open: &'a mut BytesMut,
    before: usize,
    whole: bool,
}

impl Drop for Appended<'_> {
    fn drop(&mut self) {
        if !self.whole {
            self.open.truncate(self.before);
        }
    }
}

impl Session {
    /// Not connected yet; the grace period begins.
    pub(crate) fn new(settings: SessionSettings, now: Duration) -> Self {
        Self {
            settings,
            connected: false,
            lost: false,
            last_received: now,
            last_sent: now,
            pushed: 0,
            sent: 0,
            acknowledged: 0,
            segments: VecDeque::new(),
            cursor: 0,
            kept_bytes: 0,
            open: BytesMut::new(),
            last: 0,
            received: 0,
            ack_said: 0,
            unacked_bytes: 0,
            arrived: false,
            traffic: Traffic::default(),
        }
    }

    /// Appends one message, which `write` writes in place.
    ///
    /// # Errors
    /// Those of `write`, and [`TooLarge`]; nothing is appended then.
    pub(crate) fn push<E: From<TooLarge>>(
        &mut self,
        write: impl FnOnce(&mut BytesMut) -> Result<(), E>,
    ) -> Result<(), E> {
        let before = self.open.len();
        if before == 0 {
            self.open.reserve(FEW);
        }
        let mut appended = Appended { before, open: &mut self.open, whole: false };
        put_data(appended.open, self.pushed + 1, write)?;
        let length = appended.open.len() - before;
        if length > self.settings.max_frame {
            return Err(TooLarge { length, limit: self.settings.max_frame }.into());
        }
        appended.whole = true;
        drop(appended);
        self.pushed += 1;
        self.last = before;
        if self.open.len() >= SEGMENT {
            self.close_segment();
        }
        Ok(())
    }

    fn close_segment(&mut self) {
        if !self.open.is_empty() {
            let bytes = self.open.split().freeze();
            self.kept_bytes += bytes.len();
            self.segments.push_back(Segment { last: self.pushed, bytes });
        }
    }

    /// Takes out what was never given to be written to a connection, so that the peer cannot have it; frames, in order. The
    /// session is of no use afterwards.
    pub(crate) fn take_unsent(&mut self) -> Vec<Bytes> {
        self.close_segment();
        let sent = self.sent;
        let unsent = std::mem::take(&mut self.segments).into_iter().filter(|segment| segment.last > sent);
        self.kept_bytes = 0;
        self.cursor = 0;
        unsent.map(|segment| segment.bytes).collect()
    }

    /// Whether there is room for what can wait.
    pub(crate) fn has_room(&self) -> bool {
        self.unacknowledged() < self.settings.max_unacknowledged
    }

    /// When something was heard from the peer.
    pub(crate) fn last_received(&self) -> Duration {
        self.last_received
    }

    /// The bytes that are kept until they are acknowledged.
    pub(crate) fn unacknowledged(&self) -> usize {
        self.kept_bytes + self.open.len()
    }

    /// The last message that was pushed.
    pub(crate) fn pushed(&self) -> u64 {
        self.pushed
    }

    /// The last message that the peer has acknowledged.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Bytes that may wait for their acknowledgement before senders wait.
    pub(crate) fn room(&self) -> usize {
        self.settings.max_unacknowledged
    }

    /// The last message that arrived; a new connection begins with telling it to the peer.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connected
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost
    }

    /// A connection is there, and the peer has said which message was the last that arrived there. All after it are
    /// sent (again).
    ///
    /// # Errors
    /// [`SessionError`] when the peer can have no such message, or wants one that is not kept any more.
    pub(crate) fn connect(&mut self, peer_received: u64, now: Duration) -> Result<(), SessionError> {
        if self.lost {
            return Err(SessionError::Lost);
        }
        if peer_received < self.acknowledged {
            let acknowledged = self.acknowledged;
            return Err(SessionError::NotKept { received: peer_received, acknowledged });
        }
        self.acknowledge(peer_received)?;
        self.connected = true;
        self.cursor = 0;
        self.last_received = now;
        self.last_sent = now;
        // What is received from now on is told anew.
        self.ack_said = self.received;
        self.unacked_bytes = 0;
        self.arrived = false;
        Ok(())
    }

    /// The connection is gone.
    pub(crate) fn disconnect(&mut self, _now: Duration) {
        self.connected = false;
        self.cursor = 0;
    }

    /// The next bytes to write to the connection; to be called until there are none.
    pub(crate) fn transmit(&mut self, now: Duration) -> Option<Bytes> {
        if !self.connected || self.lost {
            return None;
        }
        let owed = self.received - self.ack_said;
        let next = self.segments.get(self.cursor);
        if next.is_none() && self.open.is_empty() {
            let heartbeat = now.saturating_sub(self.last_sent) >= self.settings.heartbeat;
            if !heartbeat && !self.owes() {
                return None;
            }
            self.last_sent = now;
            let mut out = BytesMut::new();
            self.put_ack(&mut out);
            return Some(out.freeze());
        }
        self.last_sent = now;
        let segment = match next {
            Some(segment) => segment,
            None => {
                if owed > 0 {
                    // Goes with the messages, in their buffer. Sent again later it says nothing that is not so.
                    let mut open = std::mem::take(&mut self.open);
                    self.put_ack(&mut open);
                    self.open = open;
                }
                self.close_segment();
                self.segments.back().expect("closed just now")
            }
        };
        self.traffic.sent_bytes += segment.bytes.len() as u64;
        if segment.last > self.sent {
            self.traffic.sent_messages += segment.last - self.sent;
            self.sent = segment.last;
        } else {
            self.traffic.resent += 1;
        }
        self.cursor += 1;
        Some(segment.bytes.clone())
    }

    /// The next bytes, for whoever has just pushed a message and would write them itself: a wake-up less for a message,
    /// and a write for each, which costs ten times what many in one do. So this gives some only
    /// - for a question or an answer, when a message has arrived since the last time: whoever asks one thing after the
    ///   other gets there, and of many at once the first only;
    /// - for anything after some silence;
    /// - when so much has gathered that it is worth a write: the other side begins with it while this one goes on.
    ///
    /// Nothing before the connection, or while older messages wait to be written. What it does not give is there for
    /// [`transmit`](Self::transmit).
    pub(crate) fn transmit_at_once(&mut self, urgent: bool, now: impl FnOnce() -> Duration) -> Option<Bytes> {
        if !self.connected || self.lost || self.cursor < self.segments.len() || self.open.is_empty() {
            return None;
        }
        if self.open.len() >= MANY {
            return self.transmit(now());
        }
        // Those before it wait for whoever writes many.
        if !urgent && self.last > 0 {
            return None;
        }
        let now = now();
        if !(urgent && self.arrived || self.is_silent(now)) {
            return None;
        }
        self.arrived = false;
        self.transmit(now)
    }

    fn is_silent(&self, now: Duration) -> bool {
        now.saturating_sub(self.last_sent) >= QUIET
    }

    /// Whether a message that is pushed now is written at once, whatever it is.
    pub(crate) fn is_quiet(&self, now: Duration) -> bool {
        let nothing_waits = self.cursor == self.segments.len() && self.open.is_empty();
        self.connected && !self.lost && nothing_waits && self.is_silent(now)
    }

    /// Whether an acknowledgement is worth a write of its own.
    pub(crate) fn owes(&self) -> bool {
        self.received - self.ack_said >= ACK_MESSAGES || self.unacked_bytes >= ACK_BYTES
    }

    pub(crate) fn traffic(&self) -> Traffic {
        self.traffic
    }

    fn put_ack(&mut self, out: &mut BytesMut) {
        Frame::Ack { received: self.received }.put(out);
        self.ack_said = self.received;
        self.unacked_bytes = 0;
    }

    /// A frame has come: the message in it, if it is one that had not arrived before.
    ///
    /// # Errors
    /// [`SessionError`] when the peer broke the protocol or said goodbye.
    pub(crate) fn receive<'a>(
        &mut self,
        frame: Frame<'a>,
        now: Duration,
    ) -> Result<Option<&'a [u8]>, SessionError> {
        if self.lost {
            return Err(SessionError::Lost);
        }
        self.last_received = now;
        match frame {
            Frame::Data { seq, body } => {
                let expected = self.received + 1;
                if seq > expected {
                    return Err(SessionError::Gap { seq, expected });
                }
                if seq < expected {
                    return Ok(None);
                }
                self.received = seq;
                self.unacked_bytes += body.len();
                self.arrived = true;
                self.traffic.received_messages += 1;
                self.traffic.received_bytes += body.len() as u64;
                Ok(Some(body))
            }
            // One that is older than the last comes with messages that are sent again.
            Frame::Ack { received } => self.acknowledge(received.max(self.acknowledged)).map(|()| None),
            Frame::Bye(reason) => {
                Err(SessionError::Ended(brief(&String::from_utf8_lossy(reason), LONGEST_REASON)))
            }
            Frame::Hello(_) => Err(SessionError::Greeting),
            Frame::Request(_) | Frame::Response(_) => Err(SessionError::Pull),
        }
    }

    fn acknowledge(&mut self, received: u64) -> Result<(), SessionError> {
        if received > self.sent {
            return Err(SessionError::NeverSent { received, sent: self.sent });
        }
        self.acknowledged = received;
        while self.segments.front().is_some_and(|segment| segment.last <= received) {
            let segment = self.segments.pop_front().expect("looked at just now");
            self.kept_bytes -= segment.bytes.len();
            self.cursor = self.cursor.saturating_sub(1);
        }
        Ok(())
    }

    /// Time has passed.
    pub(crate) fn on_time(&mut self, now: Duration) -> Option<Expired> {
        if self.lost {
            return None;
        }
        let silent = now.saturating_sub(self.last_received);
        if silent >= self.settings.grace {
            self.lost = true;
            self.connected = false;
            return Some(Expired::Session);
        }
        if self.connected && silent >= self.settings.silence() {
            self.disconnect(now);
            return Some(Expired::Connection);
        }
        None
    }

    /// When [`on_time`](Self::on_time) and [`transmit`](Self::transmit) are to be called at the latest.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        if self.lost {
            return None;
        }
        let lost = self.last_received + self.settings.grace;
        if !self.connected {
            return Some(lost);
        }
        Some(
            lost.min(self.last_received + self.settings.silence())
                .min(self.last_sent + self.settings.heartbeat),
        )
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "session_schedules.rs"]
mod schedules;
