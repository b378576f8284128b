//! Messages that are lost without anybody being told: logged and counted.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::id::ActorPath;

static LOST: AtomicU64 = AtomicU64::new(0);

/// How many messages were lost in this process.
pub(in crate::remote) fn messages_lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// Counts messages for the Work at `path` that no handler saw and whose senders were not told.
pub(in crate::remote) fn count_lost(path: &ActorPath, count: usize, why: &str) {
    if count == 0 {
        return;
    }
    LOST.fetch_add(count as u64, Ordering::Relaxed);
    let (messages, are) = if count == 1 { ("message", "is") } else { ("messages", "are") };
    log::warn!("{count} {messages} for work `{path}` {are} lost: {why}");
}
