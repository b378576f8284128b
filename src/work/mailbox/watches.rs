//! The watches of the incarnation that receives.
//!
//! They are answered when it reports its end, and at the latest when it is given up or another incarnation begins to
//! receive.

use super::super::Work;
use super::super::envelope::{AnyEnvelope, BoxedEnvelope, NoReply, Outcome};
use super::super::watch::{End, EndKind, WATCH, Watch};
use super::{Inner, Mailbox, Refused};

/// Limit on the watches of one incarnation.
const MOST_WATCHES: usize = 1 << 16;

/// Watches of one incarnation. Boxed where there are any, to keep other mailboxes small.
pub(super) type Watches<W> = Option<Box<WatchList<W>>>;

pub(super) struct WatchList<W>(Vec<Watch<W>>);

impl<W> Default for WatchList<W> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<W: Work> Mailbox<W> {
    /// Keeps a watch for the incarnation that receives here, without waiting for room.
    ///
    /// # Errors
    /// Returns the watch if no incarnation receives here, or another one than `incarnation`, or if it has ended.
    pub(in crate::work) fn keep_watch(
        &self,
        mut watch: Box<Watch<W>>,
        incarnation: Option<u64>,
    ) -> Result<(), Box<Watch<W>>> {
        let mut inner = self.inner.lock();
        let is_another = incarnation.is_some_and(|incarnation| incarnation != inner.incarnation);
        if !inner.queue.is_here() || inner.is_over || is_another {
            return Err(watch);
        }
        let WatchList(watches) = &mut **inner.watches.get_or_insert_default();
        if watches.len() >= MOST_WATCHES {
            drop(inner);
            let why = format!("it has {MOST_WATCHES} watches, and takes no more");
            watch.settle(Outcome::Unanswered(NoReply::Unreadable(why)));
            return Ok(());
        }
        watch.keep();
        watches.push(*watch);
        Ok(())
    }

    /// Sends a watch to the incarnation of the Work, wherever that is.
    pub(in crate::work) async fn watch(
        &self,
        watch: Box<Watch<W>>,
    ) -> Result<(), Refused<Box<dyn AnyEnvelope>>> {
        match self.keep_watch(watch, None) {
            Ok(()) => Ok(()),
            Err(watch) => self.send(watch).await.map(drop),
        }
    }

    /// Answers the watches of an incarnation that ends.
    pub(in crate::work) fn ended(&self, incarnation: u64, end: &End) {
        let mut inner = self.inner.lock();
        if inner.incarnation != incarnation {
            return;
        }
        inner.is_over = true;
        let watches = inner.watches.take();
        drop(inner);
        answer(watches, end);
    }

    /// Takes the watches out that wait in the queue of an incarnation that begins to receive.
    pub(super) fn keep_waiting_watches(inner: &mut Inner<W>) {
        let is_watch = |envelope: &BoxedEnvelope<W>| AnyEnvelope::name(&**envelope) == WATCH;
        for envelope in inner.queue.take(is_watch) {
            if let Ok(mut watch) = AnyEnvelope::into_any(envelope).downcast::<Watch<W>>() {
                watch.keep();
                inner.watches.get_or_insert_default().0.push(*watch);
            }
        }
    }

    /// Answers the watches of an incarnation that was given up, and whose thread may block; `None` stands for the last
    /// one that has received here.
    pub(crate) fn given_up(&self, incarnation: Option<u64>) {
        let incarnation = incarnation.unwrap_or_else(|| self.incarnation());
        self.ended(incarnation, &End::of(EndKind::Killed));
    }

    /// Drops watches whose watchers have given up.
    pub(super) fn drop_abandoned_watches(inner: &mut Inner<W>) -> Vec<Watch<W>> {
        let Some(WatchList(watches)) = inner.watches.as_deref_mut() else { return Vec::new() };
        let abandoned = watches.extract_if(.., |watch| watch.is_abandoned()).collect();
        if watches.is_empty() {
            inner.watches = None;
        }
        abandoned
    }
}

/// Answers watches, outside of the lock of the mailbox.
pub(super) fn answer<W: Work>(watches: Watches<W>, end: &End) {
    for watch in watches.into_iter().flat_map(|watches| watches.0) {
        Box::new(watch).answer(end);
    }
}
