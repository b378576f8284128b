//! Messages of Works on a link: each type to each Work has a channel, whose credit says how many may be on their way.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError};

use bytes::BufMut;
use tokio::sync::{Semaphore, SemaphorePermit, TryAcquireError};

use super::super::protocol::{Control, FIRST_CREDIT, begin_ask, begin_tell, write_control};
use super::{BadPeer, Link, NotPushed};
use crate::id::ActorPath;
use crate::payload;
use crate::wire;
use crate::work::{Closed, Letter, Outcome, Refused, WorkKind};

/// The way for messages of one type to one Work.
pub(in crate::remote) struct Channel {
    number: u32,
    pub(super) credit: Semaphore,
    /// How many were sent and have not found their place yet.
    under_way: AtomicU32,
}

impl Link {
    /// The channel for messages of this type to the Work at `path`.
    pub(in crate::remote) fn channel(
        &self,
        path: &ActorPath,
        kind: &WorkKind,
        message: &'static str,
    ) -> Result<Arc<Channel>, String> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(&(path.clone(), message)) {
            return Ok(channel.clone());
        }
        if !kind.messages().contains(&message) {
            return Err(format!(
                "`{}` does not say that it takes `{message}` from other processes: have \
                 `fn messages(messages: &mut Messages<Self>)` in its `impl Work` call `messages.accept::<…>()`",
                kind.name()
            ));
        }
        let mut by_number = self.by_number.lock().unwrap_or_else(PoisonError::into_inner);
        let number = u32::try_from(by_number.len()).map_err(|_| "there are too many channels".to_owned())?;
        let credit = Semaphore::new(FIRST_CREDIT as usize);
        let channel = Arc::new(Channel { number, credit, under_way: AtomicU32::new(0) });
        by_number.push(channel.clone());
        channels.insert((path.clone(), message), channel.clone());
        let message = message.to_owned();
        self.control(&Control::Open { channel: number, path: path.clone(), message });
        Ok(channel)
    }

    /// Sends it unless that would have to wait: for credit, and, `if_there_is_room`, for room in the session.
    pub(in crate::remote) fn try_send(
        &self,
        channel: &Channel,
        letter: Box<dyn Letter>,
        if_there_is_room: bool,
    ) -> Result<(), Refused<Box<dyn Letter>>> {
        match channel.credit.try_acquire() {
            Ok(permit) => self.post(channel, permit, letter, if_there_is_room),
            Err(TryAcquireError::NoPermits) => Err(Refused::Full(letter)),
            Err(TryAcquireError::Closed) => Err(Refused::Closed(letter, Closed::NodeLost)),
        }
    }

    pub(in crate::remote) async fn send(
        &self,
        channel: &Channel,
        letter: Box<dyn Letter>,
    ) -> Result<(), Refused<Box<dyn Letter>>> {
        let Ok(permit) = channel.credit.acquire().await else {
            return Err(Refused::Closed(letter, Closed::NodeLost));
        };
        if !self.room().await {
            return Err(Refused::Closed(letter, Closed::NodeLost));
        }
        self.post(channel, permit, letter, false)
    }

    fn post(
        &self,
        channel: &Channel,
        permit: SemaphorePermit<'_>,
        letter: Box<dyn Letter>,
        if_there_is_room: bool,
    ) -> Result<(), Refused<Box<dyn Letter>>> {
        wire::with_buffer(|message| {
            // Before the lock: it is anybody's code that writes it.
            let (written, holds) = payload::collect(|| letter.write(message));
            if let Err(error) = written {
                return Err(Refused::Unsendable(letter, error.to_string()));
            }
            let cause = letter.cause();
            let carries = match holds.is_empty() && cause.is_none() {
                true => None,
                false => match self.carries(&holds, &cause) {
                    Ok(carries) => Some(carries),
                    Err(_) => return Err(Refused::Closed(letter, Closed::NodeLost)),
                },
            };
            let question = letter.is_question().then(|| self.next_question.fetch_add(1, Ordering::Relaxed));
            let mut state = self.lock();
            if state.over {
                return Err(Refused::Closed(letter, Closed::NodeLost));
            }
            if if_there_is_room && !state.session.has_room() {
                drop(state);
                if let Some(Control::Carries { payloads, .. }) = carries {
                    let counted = payloads.into_iter().filter(|carried| carried.counted);
                    counted.for_each(|carried| self.pins.release(carried.id, 1));
                }
                return Err(Refused::Full(letter));
            }
            let carried = match carries {
                None => Ok(()),
                Some(carries) => state.session.push(|out| Ok::<_, NotPushed>(write_control(out, &carries)?)),
            };
            let pushed = carried.and_then(|()| {
                state.session.push(|out| {
                    match question {
                        Some(question) => begin_ask(out, channel.number, question),
                        None => begin_tell(out, channel.number),
                    }
                    out.put_slice(message);
                    Ok::<_, NotPushed>(())
                })
            });
            if let Err(error) = pushed {
                return Err(Refused::Unsendable(letter, error.to_string()));
            }
            permit.forget();
            channel.under_way.fetch_add(1, Ordering::Relaxed);
            if let Some(question) = question {
                state.questions.insert(question, letter);
            }
            self.flush(state, question.is_some());
            Ok(())
        })
    }

    /// Another process has answered.
    pub(in crate::remote) fn settle(&self, question: u64, outcome: Outcome<'_>) {
        let letter = self.lock().questions.remove(&question);
        // One that is not known was answered twice, which harms nobody.
        if let Some(letter) = letter {
            letter.settle(outcome);
        }
    }

    pub(in crate::remote) fn more_credit(&self, channel: u32, more: u32) -> Result<(), BadPeer> {
        let channels = self.by_number.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = channels
            .get(channel as usize)
            .ok_or_else(|| BadPeer::Other(format!("credit for channel {channel}, which was never opened")))?;
        if channel.credit.available_permits() + more as usize > Semaphore::MAX_PERMITS / 2 {
            return Err(BadPeer::Other("more credit than there can be".to_owned()));
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
}
