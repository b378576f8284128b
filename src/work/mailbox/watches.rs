//! The watches of the incarnation that receives, and the streams and subscriptions that end with it.
//!
//! All are told when it reports its end, and at the latest when it is given up or another incarnation begins to
//! receive.

use std::sync::{Arc, Weak};

use super::super::Work;
use super::super::end::{End, EndKind};
use super::super::envelope::{AnyEnvelope, BoxedEnvelope, NoReply, Outcome};
use super::super::stream_ends::OfIncarnation;
use super::super::watch::{WATCH, Watch};
use super::{Inner, Mailbox, Refused};

/// Limit on the watches of one incarnation.
const MOST_WATCHES: usize = 1 << 16;

/// Number of streams and subscriptions that are kept without a look at those that are over.
const FEW_OTHERS: usize = 8;

/// Watches of one incarnation, and what ends with it. Boxed where there are any, to keep other mailboxes small.
pub(super) type Watches<W> = Option<Box<WatchList<W>>>;

pub(super) struct WatchList<W> {
    watches: Vec<Watch<W>>,
    others: Vec<Weak<dyn OfIncarnation>>,
    /// Length of `others` at which those that are over are removed.
    look_at: usize,
}

impl<W> Default for WatchList<W> {
    fn default() -> Self {
        Self { watches: Vec::new(), others: Vec::new(), look_at: 0 }
    }
}

impl<W> WatchList<W> {
    fn forget_others_that_are_over(&mut self) {
        self.others.retain(|other| other.strong_count() > 0);
        self.look_at = 2 * self.others.len() + FEW_OTHERS;
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
        let WatchList { watches, .. } = &mut **inner.watches.get_or_insert_default();
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

    /// Has a stream or subscription told when its incarnation ends.
    pub(in crate::work) fn keep_with_incarnation(&self, ends: &Arc<dyn OfIncarnation>, incarnation: u64) {
        let mut inner = self.inner.lock();
        if inner.is_over || inner.incarnation != incarnation {
            drop(inner);
            return ends.incarnation_ended(&End::of(EndKind::Killed));
        }
        let list = inner.watches.get_or_insert_default();
        if list.others.len() >= list.look_at {
            list.forget_others_that_are_over();
        }
        list.others.push(Arc::downgrade(ends));
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
                inner.watches.get_or_insert_default().watches.push(*watch);
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
        let Some(list) = inner.watches.as_deref_mut() else { return Vec::new() };
        let abandoned = list.watches.extract_if(.., |watch| watch.is_abandoned()).collect();
        if list.watches.is_empty() {
            list.forget_others_that_are_over();
            if list.others.is_empty() {
                inner.watches = None;
            }
        }
        abandoned
    }
}

/// Answers watches and ends the others, outside of the lock of the mailbox.
pub(super) fn answer<W: Work>(watches: Watches<W>, end: &End) {
    let Some(list) = watches else { return };
    let WatchList { watches, others, .. } = *list;
    others.iter().filter_map(Weak::upgrade).for_each(|other| other.incarnation_ended(end));
    for watch in watches {
        Box::new(watch).answer(end);
    }
}
