//! The end of the allocation in which a node runs, and the time before it at which the node begins to leave.
//!
//! # Guarantees
//! - The end is told as the time that is left at the moment of each greeting, so that clocks of machines need not agree.
//! - The head can move the end, also that of a node that has begun without one.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{sleep_until, timeout};

use super::protocol::NodeCard;

/// Time for leaving before the end of an allocation, unless that is short.
const DRAIN_BEFORE: Duration = Duration::from_secs(300);

/// The end of a node, if it is known.
#[derive(Debug)]
pub(crate) struct Lifetime {
    ends: watch::Sender<Option<Instant>>,
    drain_before: Duration,
}

impl Lifetime {
    /// Creates a lifetime that ends `lifetime` after `start`. The node begins to leave `drain_before` its end; by default
    /// five minutes before, or a quarter of the lifetime if that is less.
    pub(crate) fn new(start: Instant, lifetime: Option<Duration>, drain_before: Option<Duration>) -> Self {
        let default = lifetime.map_or(DRAIN_BEFORE, |lifetime| DRAIN_BEFORE.min(lifetime / 4));
        // An end that is too far away to be expressed does not come.
        let ends = lifetime.and_then(|lifetime| start.checked_add(lifetime));
        Self { ends: watch::Sender::new(ends), drain_before: drain_before.unwrap_or(default) }
    }

    /// Sets the end to the moment when this much time has passed from now.
    pub(super) fn set(&self, ends_in: Option<Duration>) {
        self.ends.send_replace(ends_in.and_then(|left| Instant::now().checked_add(left)));
    }

    /// Returns the time that is left.
    pub(super) fn left(&self) -> Option<Duration> {
        self.ends.borrow().map(|ends| ends.saturating_duration_since(Instant::now()))
    }

    /// Returns a card that says how much time is left now.
    pub(super) fn on(&self, card: NodeCard) -> NodeCard {
        NodeCard {
            ends_in_ms: self.left().map(milliseconds),
            drain_before_ms: milliseconds(self.drain_before),
            ..card
        }
    }

    /// Completes when the node is to leave, because its end is near. Cancel safe.
    pub(super) async fn draws_to_a_close(&self) {
        let mut ends = self.ends.subscribe();
        loop {
            let end = *ends.borrow_and_update();
            let changed = async {
                // The sender lives as long as this lifetime.
                let _ = ends.changed().await;
            };
            let Some(end) = end else {
                changed.await;
                continue;
            };
            let now = Instant::now();
            let until_then = end.saturating_duration_since(now).saturating_sub(self.drain_before);
            if until_then.is_zero() {
                return;
            }
            if timeout(until_then, changed).await.is_err() {
                return;
            }
        }
    }

    /// Completes at the end. Cancel safe.
    pub(super) async fn is_over(&self) {
        let end = *self.ends.borrow();
        match end {
            Some(end) => sleep_until(end.into()).await,
            None => std::future::pending().await,
        }
    }
}

/// Returns a duration in whole milliseconds, for messages.
pub(super) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn short_lifetime_has_a_quarter_for_leaving() {
        let drain_before = |lifetime, given| Lifetime::new(Instant::now(), lifetime, given).drain_before;
        assert_eq!(drain_before(Some(4 * MINUTE), None), MINUTE);
        assert_eq!(drain_before(Some(240 * MINUTE), None), 5 * MINUTE);
        assert_eq!(drain_before(None, None), 5 * MINUTE);
        assert_eq!(drain_before(Some(240 * MINUTE), Some(MINUTE)), MINUTE);
    }

    #[tokio::test]
    async fn end_that_is_moved_changes_when_the_node_leaves() {
        let lifetime = Lifetime::new(Instant::now(), Some(60 * MINUTE), Some(MINUTE));
        let mut close = std::pin::pin!(lifetime.draws_to_a_close());
        assert!(timeout(Duration::from_millis(20), &mut close).await.is_err());
        lifetime.set(None);
        assert_eq!(lifetime.left(), None);
        assert!(timeout(Duration::from_millis(20), &mut close).await.is_err());
        lifetime.set(Some(MINUTE / 2));
        close.await;
        assert!(lifetime.left().is_some_and(|left| left <= MINUTE / 2));
    }

    #[tokio::test]
    async fn endless_lifetime_does_not_end() {
        let lifetime = Lifetime::new(Instant::now(), Some(Duration::MAX), None);
        assert_eq!(lifetime.left(), None);
        assert!(timeout(Duration::from_millis(20), lifetime.draws_to_a_close()).await.is_err());
    }
}
