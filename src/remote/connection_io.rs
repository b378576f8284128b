//! What goes over the connections of a link: reading, writing, and noticing that nothing comes.

use std::time::Duration;

use bytes::BytesMut;
use tokio::time::{Instant, sleep, sleep_until};

use super::link::{BadPeer, End, Inbound, Link, State};
use super::protocol::Packet;
use super::session::Expired;
use super::write_turn::Next;
use crate::transport::{Connection, FrameReader, FrameWriter, TransportError};
use crate::wire::Frame;

/// So many frames are taken in before others on the thread get their turn.
const FRAMES_AT_ONCE: usize = 512;

/// How long a peer that broke the protocol is told so.
const FAREWELL: Duration = Duration::from_millis(500);

/// Later than any deadline.
const FAR: Duration = Duration::from_secs(24 * 3600);

impl Link {
    /// Sees to it that what was pushed is written: by the task that writes, or right here when that is worth it.
    pub(super) fn flush(&self, mut state: std::sync::MutexGuard<'_, State>, urgent: bool) {
        let State { session, outlet, .. } = &mut *state;
        let Some(turn) = outlet.at_once(session, urgent, || self.now()) else {
            drop(state);
            self.wake.notify_one();
            return;
        };
        drop(state);
        // What is wrong with a connection is found by the task as well, which then tries the same.
        let written = turn.writer.try_write(&turn.bytes).unwrap_or(0);
        if self.lock().outlet.done(&turn, written) {
            self.wake.notify_one();
        }
    }

    /// Goes on with the session on this connection until either is over. Dropping the future closes the connection.
    pub(super) async fn converse(
        &self,
        connection: Connection,
        peer_received: u64,
        inbound: &mut dyn Inbound,
    ) -> End {
        let (mut reader, writer) = connection.split();
        {
            let mut state = self.lock();
            if let Err(error) = state.session.connect(peer_received, self.now()) {
                return End::Over(error.to_string());
            }
            state.outlet.open(writer.direct());
        }
        let mut write = std::pin::pin!(self.write(writer));
        let end = tokio::select! {
            biased;
            end = self.read(&mut reader, inbound) => match end {
                // It is told why, unless it has said so itself or does not listen.
                // Nobody is there to be told, and what runs here must not wait for that.
                End::Over(why) if self.lock().session.is_lost() => End::Over(why),
                End::Over(why) => {
                    self.leave(&why);
                    let leaving = async {
                        write.await;
                        reader.drain_to_eof().await;
                    };
                    let _ = tokio::time::timeout(FAREWELL, leaving).await;
                    End::Over(why)
                }
                broken => broken,
            },
            end = &mut write => end,
        };
        self.disconnect();
        end
    }

    /// The connection is gone; also called when the future of [`converse`](Self::converse) was dropped.
    pub(super) fn disconnect(&self) {
        let now = self.now();
        let mut state = self.lock();
        state.session.disconnect(now);
        state.outlet.close();
    }

    async fn read(&self, reader: &mut FrameReader, inbound: &mut dyn Inbound) -> End {
        loop {
            let now = self.now();
            // What lies in the socket of a process that was stopped for long is from before: the peer may have given it
            // up meanwhile. The greeting of the next connection tells, before anything of it is taken in.
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
                // Senders on this thread must get their turn as well.
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

    /// Takes in one frame; whether an acknowledgement is owed.
    fn frame(&self, frame: Frame<'_>, now: Duration, inbound: &mut dyn Inbound) -> Result<bool, BadPeer> {
        let is_ack = matches!(frame, Frame::Ack { .. });
        let (body, owes) = {
            let mut state = self.lock();
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
            if self.lock().is_overasked {
                let why = "it asks for more than it takes: it has not acknowledged the answers that it has";
                return Err(BadPeer::Other(why.to_owned()));
            }
        }
        Ok(owes)
    }

    async fn write(&self, mut writer: FrameWriter) -> End {
        // Deadlines mostly move on: the timer is set anew when it has fired, not for every message.
        let mut timer = Box::pin(sleep(FAR));
        loop {
            let (next, deadline, leaving) = {
                let mut state = self.lock();
                if state.over {
                    return End::Over("the session was ended here".to_owned());
                }
                let State { session, outlet, leaving, .. } = &mut *state;
                let next = outlet.next(session, self.now());
                let leaving = if next == Next::Nothing { leaving.take() } else { None };
                if leaving.is_some() {
                    outlet.close();
                }
                (next, session.next_deadline(), leaving)
            };
            if let Some(why) = leaving {
                return leave(writer, why).await;
            }
            match next {
                Next::Write(bytes) => {
                    if let Err(error) = writer.write(&bytes).await {
                        return broken(error);
                    }
                    self.lock().outlet.written();
                    // What is written without waiting must not keep others from their turn.
                    tokio::task::consume_budget().await;
                }
                Next::Taken => self.wake.notified().await,
                Next::Nothing => {
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

    /// Ends the connection, or the session, when nothing has come for too long.
    fn on_time(&self, now: Duration) -> Option<End> {
        match self.lock().session.on_time(now)? {
            Expired::Connection => Some(End::Broken("nothing came for too long".to_owned())),
            Expired::Session => Some(End::Over("nothing was heard from it for the grace period".to_owned())),
        }
    }

    /// Waits, without a connection, until the session is lost.
    pub(super) async fn lost(&self) {
        loop {
            let deadline = {
                let state = self.lock();
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

/// Says goodbye, and that nothing more comes.
async fn leave(mut writer: FrameWriter, why: String) -> End {
    let mut bye = BytesMut::new();
    Frame::Bye(why.as_bytes()).put(&mut bye);
    // The peer will notice in any case.
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
