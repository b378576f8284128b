//! The session: reliable, ordered messages between two processes over a series of connections. Pure; the current time
//! is an argument, as the duration since some fixed start.
//!
//! # Guarantees
//! - Messages arrive in order and exactly once as long as the session is not lost: unacknowledged messages are
//!   retransmitted on the next connection, and duplicates are dropped.
//! - Unacknowledged bytes are bounded for senders that check [`Session::has_room`] before they push.
//! - A connection on which the peer is silent for three heartbeat intervals is closed. A peer that is silent for the
//!   grace period is lost for good.
//!
//! Messages gather in one buffer, the segment, which is written, kept until it is acknowledged, and retransmitted as a
//! whole, so that no message costs an allocation of its own. The scheme is that of TCP, with messages in place of
//! bytes.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use thiserror::Error;

use crate::printable::{LONGEST_REASON, brief};
use crate::wire::{Frame, put_data};
use crate::work::Traffic;

/// Size in bytes at which a segment is closed and the next one begun.
const SEGMENT: usize = 128 * 1024;

/// Number of gathered bytes that are worth a write at once.
const MANY: usize = 32 * 1024;

/// Initial capacity of a segment in bytes, so that the first messages do not each grow it.
const FEW: usize = 1024;

/// Number of messages, or bytes, after which an acknowledgement is sent alone when there is no message to carry it.
const ACK_MESSAGES: u64 = 64;
const ACK_BYTES: usize = 64 * 1024;

/// Silence after which a message is written at once, even one that is not urgent.
const QUIET: Duration = Duration::from_micros(100);

/// Timeouts and limits of a session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SessionSettings {
    /// Heartbeat interval: the longest time without a write to the connection.
    pub(crate) heartbeat: Duration,
    /// Grace period: how long the peer may be unreachable before the session is lost.
    pub(crate) grace: Duration,
    /// Number of unacknowledged bytes from which on senders wait.
    pub(crate) max_unacknowledged: usize,
    /// Largest frame, in bytes.
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
    /// Returns how long the peer may be silent before the connection is closed.
    pub(crate) fn silence(&self) -> Duration {
        (self.heartbeat * 3).min(self.grace)
    }
}

/// Error returned when a message is larger than the largest frame.
#[derive(Debug, Error)]
#[error("the message has {length} bytes, and the limit is {limit} bytes; send large values as a `Payload`")]
pub(crate) struct TooLarge {
    length: usize,
    limit: usize,
}

/// Error that ends the session: the peer violated the protocol or ended the session, or the session was lost.
#[derive(Debug, Error)]
pub(crate) enum SessionError {
    #[error("message {seq} arrived out of order: expected {expected}")]
    Gap { seq: u64, expected: u64 },
    #[error("peer acknowledged message {received}, but only {sent} were sent")]
    NeverSent { received: u64, sent: u64 },
    #[error("peer requested retransmission of message {}, but it had acknowledged {acknowledged}", received + 1)]
    NotKept { received: u64, acknowledged: u64 },
    #[error("peer sent a greeting in the middle of a session")]
    Greeting,
    #[error("peer requested a value on the connection of a session")]
    Pull,
    #[error("the session was given up")]
    Lost,
    #[error("{0}")]
    Ended(String),
}

/// Timeout reported by [`Session::on_time`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expired {
    /// The peer is silent; the connection is to be closed.
    Connection,
    /// The grace period has passed; the peer is lost.
    Session,
}

pub(crate) struct Session {
    settings: SessionSettings,
    connected: bool,
    lost: bool,
    /// Time at which a frame of the peer last arrived.
    last_received: Duration,
    /// Time of the last write.
    last_sent: Duration,
    /// Numbers of the last message that was pushed, the last one that was ever written, and the last one that the peer
    /// has acknowledged.
    pushed: u64,
    sent: u64,
    acknowledged: u64,
    /// Segments that are not acknowledged. Segments before `cursor` have been written to the current connection.
    segments: VecDeque<Segment>,
    cursor: usize,
    kept_bytes: usize,
    open: BytesMut,
    /// Offset in `open` at which the last message begins.
    last: usize,
    /// Numbers of the last message that arrived, and of the last one that was acknowledged to the peer.
    received: u64,
    ack_said: u64,
    unacked_bytes: usize,
    /// True if a message has arrived since a message was last written at once.
    arrived: bool,
    traffic: Traffic,
}

struct Segment {
    last: u64,
    bytes: Bytes,
}

/// Guard of one push: truncates the buffer to its former length on drop unless the message is complete, also when the
/// code that serialises it, which may be the user's, panics.
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
    /// Creates a session without a connection; the grace period begins at `now`.
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
    /// The errors of `write`, and [`TooLarge`]; nothing is appended then.
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

    /// Takes the frames that the peer has not acknowledged, in order: first those that were handed to a connection, then
    /// those that were not, which the peer cannot have received. The session is unusable afterwards.
    pub(crate) fn take_rest(&mut self) -> (Vec<Bytes>, Vec<Bytes>) {
        self.close_segment();
        let sent = self.sent;
        let (unsent, unacknowledged): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.segments).into_iter().partition(|segment| segment.last > sent);
        self.kept_bytes = 0;
        self.cursor = 0;
        let bytes = |segments: VecDeque<Segment>| segments.into_iter().map(|segment| segment.bytes).collect();
        (bytes(unacknowledged), bytes(unsent))
    }

    /// Returns `true` while senders need not wait.
    pub(crate) fn has_room(&self) -> bool {
        self.unacknowledged() < self.settings.max_unacknowledged
    }

    /// Returns the time at which a frame of the peer last arrived.
    pub(crate) fn last_received(&self) -> Duration {
        self.last_received
    }

    /// Returns the number of bytes that are kept until they are acknowledged.
    pub(crate) fn unacknowledged(&self) -> usize {
        self.kept_bytes + self.open.len()
    }

    /// Returns the number of the last message that was pushed.
    pub(crate) fn pushed(&self) -> u64 {
        self.pushed
    }

    /// Returns the number of the last message that the peer has acknowledged.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Returns the number of unacknowledged bytes from which on senders wait.
    pub(crate) fn room(&self) -> usize {
        self.settings.max_unacknowledged
    }

    /// Returns the number of the last message that arrived, which is announced to the peer on each new connection.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connected
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost
    }

    /// Starts a new connection on which the peer has announced `peer_received`, the number of the last message that
    /// arrived there. All later messages are transmitted, some of them again.
    ///
    /// # Errors
    /// [`SessionError`] when no such message was sent, or when the peer had already acknowledged a later one.
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
        // The greeting has acknowledged everything that has arrived until now.
        self.ack_said = self.received;
        self.unacked_bytes = 0;
        self.arrived = false;
        Ok(())
    }

    /// Records that the connection is closed.
    pub(crate) fn disconnect(&mut self, _now: Duration) {
        self.connected = false;
        self.cursor = 0;
    }

    /// Returns the next bytes to write to the connection. The caller repeats the call until it returns `None`.
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
                    // The acknowledgement becomes part of the segment. When it is retransmitted it is out of date, but
                    // still true.
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

    /// Returns the next bytes if the thread that has just pushed a message should write them itself. That saves a
    /// wake-up, but costs one write per message, which is ten times as expensive as many messages in one write. Bytes
    /// are therefore returned only
    /// - for an urgent message (an ask or its answer) when a message has arrived since the last such write: sequential
    ///   asks always qualify, and of many concurrent ones only the first;
    /// - for any message after some silence;
    /// - when so many bytes have gathered that they are worth a write: the peer processes them while this thread goes
    ///   on.
    ///
    /// Returns nothing before the session is connected, or while older segments wait. Bytes that are not returned
    /// remain for [`transmit`](Self::transmit).
    pub(crate) fn transmit_at_once(&mut self, urgent: bool, now: impl FnOnce() -> Duration) -> Option<Bytes> {
        if !self.connected || self.lost || self.cursor < self.segments.len() || self.open.is_empty() {
            return None;
        }
        if self.open.len() >= MANY {
            return self.transmit(now());
        }
        // Earlier messages wait for the writer task, which writes many at a time.
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

    /// Returns `true` when any message that is pushed now is written at once, urgent or not.
    pub(crate) fn is_quiet(&self, now: Duration) -> bool {
        let nothing_waits = self.cursor == self.segments.len() && self.open.is_empty();
        self.connected && !self.lost && nothing_waits && self.is_silent(now)
    }

    /// Returns `true` when an acknowledgement is worth a write of its own.
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

    /// Processes a frame of the peer. Returns the message in it, unless the message is a duplicate.
    ///
    /// # Errors
    /// [`SessionError`] when the peer violated the protocol or ended the session.
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
            // Retransmitted segments contain acknowledgements that are older than the last one.
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

    /// Checks the timeouts at time `now`, and returns the one that has expired.
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

    /// Returns the time by which [`on_time`](Self::on_time) and [`transmit`](Self::transmit) must be called.
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
