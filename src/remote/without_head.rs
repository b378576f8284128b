//! The limit on the time for which a node may be without a head, so that nodes which nobody watches end by themselves.
//!
//! # Guarantees
//! - The time counts from the start of the process until a head has taken the node in, and from the last frame that was
//!   received of a head that is lost, whether it is dialed again, awaited with its journal, or given up.
//! - A head that is connected is there, until it has been silent for as long as the session allows.

use std::future::pending;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::link::Link;
use crate::duration::write_duration;

/// Time in which a process that was suspended reads what has arrived meanwhile.
const CATCH_UP: Duration = Duration::from_millis(500);

/// The limit on the time without a head, and the time since when there is none.
pub(super) struct WithoutHead {
    limit: Option<Duration>,
    since: Instant,
}

impl WithoutHead {
    /// Begins to count.
    pub(super) fn new(limit: Option<Duration>) -> Self {
        Self { limit, since: Instant::now() }
    }

    /// Records that the session with a head is over, from which something was received last a while ago.
    pub(super) fn last_heard(&mut self, head: &Link) {
        let now = Instant::now();
        self.since = now.checked_sub(head.silent_for()).unwrap_or(now);
    }

    /// Completes when there was no head for too long. Returns the reason for which the node ends. Cancel safe.
    pub(super) async fn too_long(&self) -> String {
        let Some(limit) = self.limit else { return pending().await };
        sleep(limit.saturating_sub(self.since.elapsed())).await;
        reason(limit)
    }

    /// Completes when nothing was received from a head for too long; a head that is connected may be silent for `silence`.
    /// Returns the reason for which the node ends. Cancel safe.
    pub(super) async fn silent_too_long(&self, head: &Link, silence: Duration) -> String {
        let Some(limit) = self.limit else { return pending().await };
        let left = || {
            let limit = if head.is_connected() { limit.max(silence) } else { limit };
            limit.saturating_sub(head.silent_for())
        };
        loop {
            // The head may be lost meanwhile, for which the limit is shorter.
            sleep(left().min(limit)).await;
            if left().is_zero() {
                sleep(CATCH_UP).await;
                if left().is_zero() {
                    return reason(limit);
                }
            }
        }
    }
}

fn reason(limit: Duration) -> String {
    format!("it has had no head for {}, the limit of --without-head", write_duration(limit))
}
