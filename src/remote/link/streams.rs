//! Streamed replies on a link: the streams that are read here, and the items that are sent to the peer.
//!
//! A stream is the answer to a question, and has its number. Its items ride on the session as all messages do, so that
//! they survive a broken connection, and are bounded by the credit of its reader. Nothing of it waits in this process
//! between the session and the reader: a slow reader holds back its own sender only.

use std::sync::{Arc, Weak};

use super::super::protocol::{Control, write_item, write_item_credit};
use super::{BadPeer, Link, NotPushed};
use crate::id::IdMap;
use crate::payload::PayloadGuards;
use crate::work::{ItemRefused, NoReply, Outcome, StreamEnd, StreamSink, StreamSource, TooMuchCredit};

/// The streams that are read here, by the numbers of their questions; `None` while one is being opened.
pub(super) type Reading = IdMap<u64, Option<Arc<dyn StreamSink>>>;

impl Link {
    /// Sends an item of a stream, which refers to the values of `holds`. It does not wait for room: a sender does.
    ///
    /// # Errors
    /// [`ItemRefused`].
    pub(in crate::remote) fn item(
        &self,
        question: u64,
        bytes: &[u8],
        holds: &PayloadGuards,
    ) -> Result<(), ItemRefused> {
        let pushed = self.push_with(holds, false, |out| {
            write_item(out, question, bytes);
            Ok(())
        });
        match pushed {
            Ok(()) => Ok(()),
            Err(NotPushed::Over) => Err(ItemRefused::Closed),
            Err(error @ (NotPushed::TooLarge(_) | NotPushed::Codec(_))) => {
                Err(ItemRefused::NotSent(error.to_string()))
            }
        }
    }

    /// Opens the stream that the peer answers a question with.
    ///
    /// # Errors
    /// [`BadPeer`] if the question asked for no stream.
    pub(in crate::remote) fn stream_opened(self: &Arc<Self>, question: u64) -> Result<(), BadPeer> {
        let asked = self.state.lock().questions.remove(&question);
        // The reader may have gone meanwhile, of which the peer was told.
        let Some((envelope, _)) = asked else { return Ok(()) };
        if envelope.window().is_none() {
            envelope.settle(Outcome::Unanswered(NoReply::NodeLost));
            return Err(BadPeer::Other(format!("question {question}, which asked for no stream, got one")));
        }
        // Known before the reader is told: it may give up at once.
        self.reading.lock().insert(question, None);
        let source = Arc::new(StreamFromPeer { link: Arc::downgrade(self), question });
        let Some(sink) = envelope.open_stream(source) else {
            self.leave_stream(question);
            return Ok(());
        };
        let is_read = {
            let mut reading = self.reading.lock();
            // Under the lock, since the end of the session takes the streams out.
            let entry = reading.get_mut(&question).filter(|_| !self.is_over());
            entry.map(|entry| *entry = Some(sink.clone())).is_some()
        };
        if !is_read {
            sink.end(StreamEnd::NodeLost);
        }
        Ok(())
    }

    /// Passes an item on to its reader.
    ///
    /// # Errors
    /// [`BadPeer`] if the peer had no credit for it.
    pub(in crate::remote) fn item_arrived(
        &self,
        question: u64,
        bytes: &[u8],
        holds: PayloadGuards,
    ) -> Result<(), BadPeer> {
        let sink = self.reading.lock().get(&question).cloned().flatten();
        // The reader may have gone while the item was on its way.
        let Some(sink) = sink else { return Ok(()) };
        match sink.item(bytes, holds) {
            Ok(()) => {}
            Err(ItemRefused::Overrun) => {
                let why = "peer sent more items of a stream than it had credit for";
                return Err(BadPeer::Other(why.to_owned()));
            }
            Err(ItemRefused::Closed) => self.leave_stream(question),
            Err(ItemRefused::NotSent(why)) => {
                sink.end(StreamEnd::NotSent(why));
                self.leave_stream(question);
            }
        }
        Ok(())
    }

    /// Tells the reader of a stream that no more items follow.
    pub(in crate::remote) fn stream_ended(&self, question: u64, end: StreamEnd) {
        let sink = self.reading.lock().remove(&question).flatten();
        if let Some(sink) = sink {
            sink.end(end);
        }
    }

    /// Tells the peer that nobody reads the stream any more, unless it has ended.
    fn leave_stream(&self, question: u64) {
        let was_open = self.reading.lock().remove(&question).is_some();
        if was_open {
            self.control(&Control::Abandoned { question });
        }
    }

    /// Tells the readers of all streams that the process of their senders is lost.
    pub(super) fn lose_streams(&self) {
        let lost = std::mem::take(&mut *self.reading.lock());
        lost.into_values().flatten().for_each(|sink| sink.end(StreamEnd::NodeLost));
    }
}

/// The direction of the sender of a stream, which is in the process of the peer or beyond it.
struct StreamFromPeer {
    link: Weak<Link>,
    question: u64,
}

impl StreamSource for StreamFromPeer {
    fn grant(&self, more: u32) -> Result<(), TooMuchCredit> {
        if let Some(link) = self.link.upgrade() {
            // The sender probably waits for it. A session that is over needs no credit.
            let _ = link.push(true, |out| {
                write_item_credit(out, self.question, more);
                Ok(())
            });
        }
        Ok(())
    }

    fn leave(&self) {
        if let Some(link) = self.link.upgrade() {
            link.leave_stream(self.question);
        }
    }
}
