//! The sources of a value, asked one after another.
//!
//! # Guarantees
//! - Those of [`Candidates`], which decides which source is asked next.
//! - Attempts at unreachable sources back off exponentially.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::backoff::jitter;
use super::super::bridge::Bridge;
use super::super::protocol::Source;
use super::ask::NotGiven;
use super::candidates::{Candidates, NextAttempt};
use crate::payload::{FetchError, Want};

/// Bounds of the wait between attempts at a source.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The sources of a value, and the time since which they have sent nothing.
pub(super) struct Sources {
    bridge: Arc<Bridge>,
    want: Want,
    candidates: Candidates,
    last: Instant,
    pause: Duration,
}

impl Sources {
    pub(super) fn new(bridge: Arc<Bridge>, sources: Vec<Source>, want: Want) -> Self {
        let candidates = Candidates::new(sources);
        Self { bridge, want, candidates, last: Instant::now(), pause: FIRST_PAUSE }
    }

    /// Asks one source after another until one of them has given the value.
    pub(super) async fn until_given<T>(
        &mut self,
        mut ask: impl AsyncFnMut(&Arc<Bridge>, &Source, &Want) -> Result<T, NotGiven>,
    ) -> Result<T, FetchError> {
        loop {
            let Some(source) = self.candidates.first() else {
                self.ask_the_head().await?;
                continue;
            };
            match ask(&self.bridge, source, &self.want).await {
                Ok(given) => return Ok(given),
                Err(why) => self.failed(why).await?,
            }
        }
    }

    /// Records that bytes have arrived, which resets the back-off.
    pub(super) fn progress(&mut self) {
        self.last = Instant::now();
        self.pause = FIRST_PAUSE;
    }

    /// Handles the failure of the first source, with a pause if all were tried.
    async fn failed(&mut self, why: NotGiven) -> Result<(), FetchError> {
        let is_late = self.last.elapsed() >= self.bridge.settings().grace;
        match self.candidates.failed(why, is_late)? {
            NextAttempt::Ask => Ok(()),
            NextAttempt::AskHead => self.ask_the_head().await,
            NextAttempt::Pause => {
                if let Some(answer) = self.bridge.whereabouts(self.want.id, self.candidates.ids()).await {
                    self.candidates.drop_gone(&answer.gone);
                }
                if self.candidates.first().is_none() {
                    return self.ask_the_head().await;
                }
                tokio::time::sleep(jitter(self.pause)).await;
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                Ok(())
            }
        }
    }

    /// Drops a source that has sent bytes other than those of the value. Returns `true` if no source is left.
    pub(super) fn distrust(&mut self, source: u64) -> bool {
        let Some(Source { name, .. }) = self.candidates.distrust(source) else { return false };
        log::warn!(
            "node `{name}` sent bytes that do not match the hash of {}; it is not asked again",
            self.want.what
        );
        self.candidates.first().is_none()
    }

    /// Asks the head for sources that are unknown here.
    pub(super) async fn ask_the_head(&mut self) -> Result<(), FetchError> {
        let answer = self.bridge.whereabouts(self.want.id, self.candidates.all_ids()).await;
        self.candidates.found(answer, self.bridge.me().id)
    }
}
