//! The questions that have arrived in a session, and the ways back to their askers: answers, and streams.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::task::AtomicWaker;
use parking_lot::Mutex;

use super::link::{BadPeer, Link};
use super::protocol::Control;
use crate::id::{ActorPath, IdMap};
use crate::payload::PayloadGuards;
use crate::work::{
    AskId, Credit, ItemRefused, LARGEST_WINDOW, NoReply, Outcome, Reply, StreamEnd, StreamSink, StreamSource,
};

/// A question that has arrived.
#[derive(Clone)]
pub(super) struct InboundQuestion {
    number: u64,
    /// The id of the ask, if a Work may await it.
    ask: Option<AskId>,
    /// The window of the asker, if it awaits a stream.
    window: Option<u32>,
    asker: Arc<Asker>,
}

impl InboundQuestion {
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.asker.is_gone.load(Ordering::Acquire)
    }
}

/// The asker of a question, in the process at the other end.
#[derive(Default)]
struct Asker {
    /// Set when the asker no longer waits for the answer.
    is_gone: AtomicBool,
    /// The task that waits for the asker to give up.
    waiter: AtomicWaker,
    /// The stream that is sent to the asker, while it is open.
    stream: Mutex<Option<OutboundStream>>,
}

/// A stream that is sent to another process.
struct OutboundStream {
    /// The number of items that the asker has granted and that were not sent yet.
    credit: Credit,
    /// The direction of the sender, which may be in a third process.
    source: Arc<dyn StreamSource>,
}

impl Asker {
    /// Records that the asker waits no more.
    fn leave(&self) {
        self.is_gone.store(true, Ordering::Release);
        self.waiter.wake();
        let stream = self.stream.lock().take();
        if let Some(OutboundStream { source, .. }) = stream {
            source.leave();
        }
    }
}

/// The unanswered questions of a session, with the paths of the Works that they are for.
#[derive(Default)]
pub(super) struct Questions {
    open: IdMap<u64, (Weak<Asker>, ActorPath)>,
    /// Size of `open` at which answered questions are removed.
    look_at: usize,
}

impl Questions {
    /// Records a question that has arrived.
    pub(super) fn came(&mut self, number: u64, ask: Option<AskId>, path: &ActorPath) -> InboundQuestion {
        if self.open.len() >= self.look_at {
            self.open.retain(|_, (asker, _)| asker.strong_count() > 0);
            self.look_at = 2 * self.open.len() + 64;
        }
        let asker = Arc::<Asker>::default();
        self.open.insert(number, (Arc::downgrade(&asker), path.clone()));
        InboundQuestion { number, ask, window: None, asker }
    }

    /// Records a question whose answer is to be a stream.
    ///
    /// # Errors
    /// [`BadPeer`] for a window that no stream can have.
    pub(super) fn came_for_stream(
        &mut self,
        number: u64,
        ask: Option<AskId>,
        window: u32,
        path: &ActorPath,
    ) -> Result<InboundQuestion, BadPeer> {
        if !(1..=LARGEST_WINDOW).contains(&window) {
            let why =
                format!("peer asked for a stream with a window of {window} items, not 1 to {LARGEST_WINDOW}");
            return Err(BadPeer::Other(why));
        }
        Ok(InboundQuestion { window: Some(window), ..self.came(number, ask, path) })
    }

    /// Passes credit on to the sender of a stream.
    ///
    /// # Errors
    /// [`BadPeer`] if it exceeds the window.
    pub(super) fn grant(&mut self, number: u64, more: u32) -> Result<(), BadPeer> {
        // The stream may have ended while the credit was on its way.
        let Some(asker) = self.open.get(&number).and_then(|(asker, _)| asker.upgrade()) else {
            return Ok(());
        };
        let source = {
            let mut stream = asker.stream.lock();
            let Some(OutboundStream { credit, source }) = &mut *stream else { return Ok(()) };
            if credit.grant(more).is_err() {
                return Err(BadPeer::Other(
                    "peer granted more credit than the window of a stream".to_owned(),
                ));
            }
            source.clone()
        };
        // Never more than was granted here.
        let _ = source.grant(more);
        Ok(())
    }

    /// Marks a question as abandoned. Returns the path of its Work if it was still unanswered.
    pub(super) fn abandon(&mut self, number: u64) -> Option<ActorPath> {
        let (asker, path) = self.open.remove(&number)?;
        asker.upgrade()?.leave();
        Some(path)
    }

    /// Abandons all questions. Returns the paths of the Works that have unanswered ones.
    pub(super) fn abandon_all(&mut self) -> HashSet<ActorPath> {
        let numbers: Vec<_> = self.open.keys().copied().collect();
        numbers.into_iter().filter_map(|number| self.abandon(number)).collect()
    }
}

/// The way back for the answer to one question.
pub(super) struct Answer {
    link: Arc<Link>,
    question: InboundQuestion,
    open: bool,
}

impl Answer {
    pub(super) fn new(link: Arc<Link>, question: InboundQuestion) -> Self {
        Self { link, question, open: true }
    }
}

impl Reply for Answer {
    fn send(mut self: Box<Self>, outcome: Outcome<'_>) {
        self.open = false;
        self.link.answer(self.question.number, outcome);
    }

    fn ask(&self) -> Option<AskId> {
        self.question.ask
    }

    fn window(&self) -> Option<u32> {
        self.question.window
    }

    fn begin(&self) {
        self.link.begin(self.question.number);
    }

    fn defer(&self) {
        if !self.question.is_abandoned() {
            self.link.control(&Control::Deferred { question: self.question.number });
        }
    }

    fn open_stream(mut self: Box<Self>, source: Arc<dyn StreamSource>) -> Arc<dyn StreamSink> {
        self.open = false;
        let InboundQuestion { number, window, asker, .. } = self.question.clone();
        let credit = Credit::new(window.unwrap_or_default());
        *asker.stream.lock() = Some(OutboundStream { credit, source });
        if self.question.is_abandoned() {
            // The asker may have gone before the stream was there.
            asker.leave();
        } else {
            self.link.control(&Control::StreamOpened { question: number });
        }
        Arc::new(StreamToPeer { link: self.link.clone(), question: self.question.clone() })
    }

    fn is_abandoned(&self) -> bool {
        self.question.is_abandoned()
    }

    fn poll_abandoned(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.question.asker.waiter.register(cx.waker());
        if self.is_abandoned() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if self.open && !self.question.is_abandoned() {
            self.link.answer(self.question.number, Outcome::Unanswered(NoReply::Failed));
        }
    }
}

/// The way of the items of one stream to the process of their reader.
struct StreamToPeer {
    link: Arc<Link>,
    question: InboundQuestion,
}

impl StreamSink for StreamToPeer {
    fn item(&self, bytes: &[u8], holds: PayloadGuards) -> Result<(), ItemRefused> {
        match &mut *self.question.asker.stream.lock() {
            None => return Err(ItemRefused::Closed),
            Some(OutboundStream { credit, .. }) => {
                if !credit.spend() {
                    return Err(ItemRefused::Overrun);
                }
            }
        }
        self.link.item(self.question.number, bytes, &holds)
    }

    fn end(&self, end: StreamEnd) {
        let stream = self.question.asker.stream.lock().take();
        if stream.is_some() {
            self.link.control(&Control::StreamEnd { question: self.question.number, end });
        }
    }

    fn has_room(&self) -> bool {
        self.link.has_room()
    }

    fn room(&self) -> BoxFuture<'_, bool> {
        self.link.room().boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::TooMuchCredit;

    /// A sender that counts what it is told.
    #[derive(Default)]
    struct Source(Mutex<(u32, u32)>);

    impl StreamSource for Source {
        fn grant(&self, more: u32) -> Result<(), TooMuchCredit> {
            self.0.lock().0 += more;
            Ok(())
        }

        fn leave(&self) {
            self.0.lock().1 += 1;
        }
    }

    fn path() -> ActorPath {
        ActorPath::from("work")
    }

    #[test]
    fn window_that_no_stream_can_have_is_refused() {
        let mut questions = Questions::default();
        for window in [0, LARGEST_WINDOW + 1, u32::MAX] {
            assert!(questions.came_for_stream(1, None, window, &path()).is_err(), "{window}");
        }
        assert!(questions.came_for_stream(1, None, LARGEST_WINDOW, &path()).is_ok());
    }

    /// Credit reaches the sender of an open stream only, and ends the session when it exceeds the window.
    #[test]
    fn credit_beyond_the_window_of_a_stream_is_refused() {
        let mut questions = Questions::default();
        let question = questions.came_for_stream(1, None, 4, &path()).unwrap();
        assert!(questions.grant(1, 1000).is_ok(), "it is not open yet");
        assert!(questions.grant(2, 1000).is_ok(), "there is no such question");
        let source = Arc::<Source>::default();
        let mut credit = Credit::new(4);
        assert!(credit.spend() && credit.spend());
        *question.asker.stream.lock() = Some(OutboundStream { credit, source: source.clone() });
        assert!(questions.grant(1, 2).is_ok());
        assert!(questions.grant(1, 1).is_err());
        assert_eq!(*source.0.lock(), (2, 0));
        assert_eq!(questions.abandon(1), Some(path()));
        assert!(question.is_abandoned());
        assert!(questions.grant(1, 1000).is_ok(), "it is not open any more");
        assert_eq!(*source.0.lock(), (2, 1));
    }
}
