//! Whose turn it is to write to the connection of a session: pure.
//!
//! One task writes what has gathered. Whoever pushes a message may also write it at once, from another thread, when
//! nobody else writes; see [`Session::transmit_at_once`] for when that is worth it.
//!
//! # Guarantees
//! - No two write at a time, and what a connection has not taken of something is written before anything else.
//! - Whoever still writes to a connection that is gone changes nothing about the next one.
//! - Whenever there is something to write, somebody writes, or the task has been woken to.

use std::time::Duration;

use bytes::Bytes;

use super::session::Session;

pub(super) struct Outlet<W> {
    /// Counts them, to tell one from the next.
    connection: u64,
    /// For those who write at once, where the connection allows it.
    writer: Option<W>,
    taken: bool,
    /// Whether the task found it taken and waits.
    awaited: bool,
    /// What is to be written first.
    rest: Bytes,
}

/// The right, and the duty, to write these bytes now.
pub(super) struct Turn<W> {
    pub(super) writer: W,
    pub(super) bytes: Bytes,
    connection: u64,
}

/// What the task that writes is to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Write this, and say when it is written.
    Write(Bytes),
    /// Wait to be woken: somebody else writes.
    Taken,
    /// Wait to be woken, or for what the session's deadlines bring.
    Nothing,
}

impl<W: Clone> Outlet<W> {
    pub(super) fn new() -> Self {
        Self { connection: 0, writer: None, taken: false, awaited: false, rest: Bytes::new() }
    }

    /// There is another connection.
    pub(super) fn open(&mut self, writer: Option<W>) {
        *self = Self { connection: self.connection + 1, writer, ..Self::new() };
    }

    /// The connection is gone.
    pub(super) fn close(&mut self) {
        self.open(None);
    }

    /// Whether whoever pushes a message now gets a turn, whatever the message.
    pub(super) fn is_free(&self, session: &Session, now: Duration) -> bool {
        !self.taken && self.rest.is_empty() && self.writer.is_some() && session.is_quiet(now)
    }

    /// A turn for whoever has just pushed a message; without one it wakes the task.
    pub(super) fn at_once(
        &mut self,
        session: &mut Session,
        urgent: bool,
        now: impl FnOnce() -> Duration,
    ) -> Option<Turn<W>> {
        if self.taken || !self.rest.is_empty() {
            return None;
        }
        let writer = self.writer.as_ref()?;
        let bytes = session.transmit_at_once(urgent, now)?;
        self.taken = true;
        Some(Turn { writer: writer.clone(), bytes, connection: self.connection })
    }

    /// So many of its bytes were written. Whether the task is to be woken.
    #[must_use]
    pub(super) fn done(&mut self, turn: &Turn<W>, written: usize) -> bool {
        if turn.connection != self.connection {
            return false;
        }
        self.taken = false;
        self.rest = turn.bytes.slice(written.min(turn.bytes.len())..);
        std::mem::take(&mut self.awaited) || !self.rest.is_empty()
    }

    /// For the task that writes.
    pub(super) fn next(&mut self, session: &mut Session, now: Duration) -> Next {
        if self.taken {
            self.awaited = true;
            return Next::Taken;
        }
        let bytes = match std::mem::take(&mut self.rest) {
            rest if rest.is_empty() => session.transmit(now),
            rest => Some(rest),
        };
        match bytes {
            Some(bytes) => {
                self.taken = true;
                Next::Write(bytes)
            }
            None => Next::Nothing,
        }
    }

    /// The task has written all of what it was given.
    pub(super) fn written(&mut self) {
        self.taken = false;
    }
}

#[cfg(test)]
#[path = "write_turn_tests.rs"]
mod tests;
