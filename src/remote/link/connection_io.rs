//! I/O on the connections of a link: reading, writing, and detecting a silent peer.

use std::time::Duration;

use bytes::BytesMut;
use parking_lot::MutexGuard;
use tokio::time::{Instant, sleep, sleep_until};

use super::super::protocol::Packet;
use super::super::session::Expired;
use super::super::write_turn::NextWrite;
use super::{BadPeer, End, Inbound, Link, LinkState};
use crate::transport::{Connection, FrameReader, FrameWriter, TransportError};
use crate::wire::Frame;

/// Number of frames to process before other tasks of the thread get their turn.
const FRAMES_AT_ONCE: usize = 512;

/// Time limit for sending the reason for the end of a session to the peer.
const FAREWELL: Duration = Duration::from_millis(500);

/// Timer setting that is later than any deadline.
const FAR: Duration = Duration::from_secs(24 * 3600);

impl Link {
    /// Has the pushed messages written: by the writer task, or by this thread if that is worth it.
    pub(super) fn flush(&self, mut state: MutexGuard<'_, LinkState>, urgent: bool) {
        let LinkState { session, outlet, .. } = &mut *state;
        let Some(turn) = outlet.at_once(session, urgent, || self.now()) else {
            drop(state);
            self.wake.notify_one();
            return;
        };
        drop(state);
        // An error is ignored here: the writer task encounters the same error when it writes the rest.
        let written = turn.writer.try_write(&turn.bytes).unwrap_or(0);
        if self.state.lock().outlet.done(&turn, written) {
            self.wake.notify_one();
        }
    }

    /// Carries on the session over this connection until either is over. Dropping the future closes the connection.
    pub(in crate::remote) async fn converse(
        &self,
        connection: Connection,
        peer_received: u64,
        inbound: &mut dyn Inbound,
    ) -> End {
        let (mut reader, writer) = connection.split();
        {
            let mut state = self.state.lock();
            if let Err(error) = state.session.connect(peer_received, self.now()) {
                return End::Over(error.to_string());
            }
            state.outlet.open(writer.direct());
        }
        let mut write = std::pin::pin!(self.write(writer));
        let end = tokio::select! {
            biased;
            end = self.read(&mut reader, inbound) => match end {
                // A lost peer cannot receive the reason, and the Works here must not wait for it. In all other cases
                // the peer is told, unless it does not read.
                End::Over(why) if self.state.lock().session.is_lost() => End::Over(why),
                End::Over(why) => {
                    self.leave(&why);
                    let goodbye = async {
                        write.await;
                    };
                    reader.close_gracefully(FAREWELL, goodbye).await;
                    End::Over(why)
                }
                broken => broken,
            },
            end = &mut write => end,
        };
        self.disconnect();
        end
    }

    /// Records that the connection is gone; also called when the future of [`converse`](Self::converse) was dropped.
    pub(in crate::remote) fn disconnect(&self) {
        let now = self.now();
        let mut state = self.state.lock();
        state.session.disconnect(now);
        state.outlet.close();
    }

    async fn read(&self, reader: &mut FrameReader, inbound: &mut dyn Inbound) -> End {
        loop {
            let now = self.now();
            // After a process was suspended for long, its socket contains outdated frames of a peer that may have given
            // it up. They must not be processed: the greeting on the next connection tells whether the session goes on.
            if let Some(end) = self.on_time(now) {
                return end;
            }
            let mut owes = false;
            let mut taken = 0;
            while taken < FRAMES_AT_ONCE {
                match reader.next() {
                    Ok(Some(frame)) => match self.frame(frame, now, inbound) {
                        Ok(owed) => owes |= owed,
                        Err(error) => return End::Over(error.to_string()),
                    },
                    Ok(None) => break,
                    Err(error) => return broken(error),
                }
                taken += 1;
            }
            if owes {
                self.wake.notify_one();
            }
            if taken == FRAMES_AT_ONCE {
                // Other tasks of this thread, such as senders, must get their turn.
                tokio::task::yield_now().await;
                continue;
            }
            match reader.fill().await {
                Ok(true) => {}
                Ok(false) => return End::Broken("it was closed".to_owned()),
                Err(error) => return broken(error),
            }
        }
    }

    /// Processes one frame. Returns `true` if an acknowledgement is owed.
    fn frame(&self, frame: Frame<'_>, now: Duration, inbound: &mut dyn Inbound) -> Result<bool, BadPeer> {
        let is_ack = matches!(frame, Frame::Ack { .. });
        let (body, owes) = {
            let mut state = self.state.lock();
            let body = state.session.receive(frame, now)?;
            let owes = state.session.owes();
            if is_ack && state.session.has_room() {
                drop(state);
                self.room.notify_waiters();
            }
            (body, owes)
        };
        if let Some(body) = body {
            inbound.packet(Packet::read(body)?)?;
            if self.state.lock().is_overasked {
                let why = "peer has left too many replies to its requests unacknowledged";
                return Err(BadPeer::Other(why.to_owned()));
            }
        }
        Ok(owes)
    }

    async fn write(&self, mut writer: FrameWriter) -> End {
        // Deadlines mostly move later: the timer is reset when it has fired, not for every message.
        let mut timer = Box::pin(sleep(FAR));
        loop {
            let (next, deadline, leaving) = {
                let mut state = self.state.lock();
                if state.over {
                    return End::Over("the session was ended here".to_owned());
                }
                let LinkState { session, outlet, leaving, .. } = &mut *state;
                let next = outlet.next(session, self.now());
                let leaving = if next == NextWrite::Nothing { leaving.take() } else { None };
                if leaving.is_some() {
                    outlet.close();
                }
                (next, session.next_deadline(), leaving)
            };
            if let Some(why) = leaving {
                return leave(writer, why).await;
            }
            match next {
                NextWrite::Write(bytes) => {
                    if let Err(error) = writer.write(&bytes).await {
                        return broken(error);
                    }
                    self.state.lock().outlet.written();
                    // Writes that complete without waiting must not starve other tasks.
                    tokio::task::consume_budget().await;
                }
                NextWrite::Taken => self.wake.notified().await,
                NextWrite::Nothing => {
                    let deadline = deadline.map(|deadline| self.start + deadline);
                    if let Some(deadline) = deadline
                        && (timer.is_elapsed() || deadline < timer.deadline())
                    {
                        timer.as_mut().reset(deadline);
                    }
                    tokio::select! {
                        biased;
                        () = self.wake.notified() => {}
                        () = timer.as_mut(), if deadline.is_some() => {
                            if let Some(end) = self.on_time(self.now()) {
                                return end;
                            }
                        }
                    }
                }
            }
        }
    }

    /// Ends the connection, or the session, when the peer has been silent for too long.
    fn on_time(&self, now: Duration) -> Option<End> {
        match self.state.lock().session.on_time(now)? {
            Expired::Connection => Some(End::Broken("the peer was silent for too long".to_owned())),
            Expired::Session => Some(End::Over("no heartbeat within the grace period".to_owned())),
        }
    }

    /// Waits, without a connection, until the session is lost.
    pub(in crate::remote) async fn lost(&self) {
        loop {
            let deadline = {
                let state = self.state.lock();
                if state.over || state.session.is_lost() {
                    return;
                }
                state.session.next_deadline()
            };
            tokio::select! {
                () = self.wake.notified() => {}
                () = until(deadline.map(|at| self.start + at)) => { self.on_time(self.now()); }
            }
        }
    }
}

/// Sends the goodbye and closes the connection.
async fn leave(mut writer: FrameWriter, why: String) -> End {
    let mut bye = BytesMut::new();
    Frame::Bye(why.as_bytes()).put(&mut bye);
    // An error is harmless: the peer notices the end of the connection in any case.
    let _ = writer.write(&bye).await;
    writer.close().await;
    End::Over(why)
}

fn broken(error: TransportError) -> End {
    End::Broken(error.to_string())
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
