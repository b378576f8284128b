//! Numbers of the incarnations of an App.

use std::sync::atomic::{AtomicU64, Ordering};

use super::fencing_token::FencingToken;

/// Source of the numbers of incarnations, which ascend and never repeat, also over the heads of an App with a journal.
#[derive(Default)]
pub(crate) struct Incarnations {
    epoch: u64,
    last: AtomicU64,
}

impl Incarnations {
    /// Creates the source of a head with this epoch, which is 0 without a journal.
    pub(crate) fn new(epoch: u64) -> Self {
        Self { epoch, last: AtomicU64::new(0) }
    }

    /// Returns the token of the next incarnation.
    pub(crate) fn next(&self) -> FencingToken {
        FencingToken { epoch: self.epoch, incarnation: self.last.fetch_add(1, Ordering::Relaxed) + 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every number of a later epoch is larger than those of the epochs before.
    #[test]
    fn numbers_ascend_over_epochs() {
        let mut last = 0;
        for epoch in [0, 1, 2, 1000, 1 << 20] {
            let numbers = Incarnations::new(epoch);
            for _ in 0..3 {
                let next = numbers.next().number();
                assert!(next > last, "{next} after {last}");
                last = next;
            }
        }
    }
}
