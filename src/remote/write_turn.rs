//! Arbitration between the threads that write to the connection of a session. Pure.
//!
//! The writer task writes messages that have gathered. A thread that pushes a message may also write it at once, if no
//! other thread is writing; [`Session::transmit_at_once`] documents when that is worth it.
//!
//! # Guarantees
//! - At most one thread writes at a time, and after a partial write the rest is written before anything else.
//! - A thread that still writes to a connection that is gone does not affect the next connection.
//! - Whenever there is something to write, a thread is writing or the writer task has been woken.

use std::time::Duration;

use bytes::Bytes;

use super::session::Session;

pub(super) struct Outlet<W> {
    /// Number of the connection, which distinguishes it from earlier ones.
    connection: u64,
    /// The writer for threads that write at once, if the connection supports that.
    writer: Option<W>,
    taken: bool,
    /// True if the writer task found the turn taken and waits.
    awaited: bool,
    /// The rest of a partial write, which is written first.
    rest: Bytes,
}

/// The right, and the duty, to write these bytes now.
pub(super) struct Turn<W> {
    pub(super) writer: W,
    pub(super) bytes: Bytes,
    connection: u64,
}

/// The next action of the writer task.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NextWrite {
    /// Write these bytes, then call [`Outlet::written`].
    Write(Bytes),
    /// Wait to be woken: another thread is writing.
    Taken,
    /// Wait to be woken, or for the next deadline of the session.
    Nothing,
}

impl<W: Clone> Outlet<W> {
    pub(super) fn new() -> Self {
        Self { connection: 0, writer: None, taken: false, awaited: false, rest: Bytes::new() }
    }

    /// Starts on a new connection.
    pub(super) fn open(&mut self, writer: Option<W>) {
        *self = Self { connection: self.connection + 1, writer, ..Self::new() };
    }

    /// Records that the connection is gone.
    pub(super) fn close(&mut self) {
        self.open(None);
    }

    /// Returns `true` if a thread that pushes a message now gets a turn, urgent or not.
    pub(super) fn is_free(&self, session: &Session, now: Duration) -> bool {
        !self.taken && self.rest.is_empty() && self.writer.is_some() && session.is_quiet(now)
    }

    /// Returns a turn for the thread that has just pushed a message. Without a turn, the caller must wake the writer
    /// task.
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

    /// Ends a turn in which `written` bytes were written. Returns `true` if the writer task must be woken.
    #[must_use]
    pub(super) fn done(&mut self, turn: &Turn<W>, written: usize) -> bool {
        if turn.connection != self.connection {
            return false;
        }
        self.taken = false;
        self.rest = turn.bytes.slice(written.min(turn.bytes.len())..);
        std::mem::take(&mut self.awaited) || !self.rest.is_empty()
    }

    /// Returns the next action of the writer task.
    pub(super) fn next(&mut self, session: &mut Session, now: Duration) -> NextWrite {
        if self.taken {
            self.awaited = true;
            return NextWrite::Taken;
        }
        let bytes = match std::mem::take(&mut self.rest) {
            rest if rest.is_empty() => session.transmit(now),
            rest => Some(rest),
        };
        match bytes {
            Some(bytes) => {
                self.taken = true;
                NextWrite::Write(bytes)
            }
            None => NextWrite::Nothing,
        }
    }

    /// Records that the writer task has written everything that it was given.
    pub(super) fn written(&mut self) {
        self.taken = false;
    }
}

#[cfg(test)]
#[path = "write_turn_tests.rs"]
mod tests;
