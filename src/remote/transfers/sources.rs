//! The sources of a value, tried one after another.
//!
//! # Guarantees
//! - An unreachable source is retried until the grace period is over; a source that does not have the value is not
//!   asked again.
//! - When no source is left, the head is asked for further ones, and whether the value is lost.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::bridge::Bridge;
use super::super::references::Source;
use super::ask::NotGiven;
use crate::payload::{FetchError, Want};

/// Bounds of the wait between attempts at a source.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The processes that may have a value, and the outcome of asking them.
pub(super) struct Sources {
    bridge: Arc<Bridge>,
    want: Want,
    left: Vec<Source>,
    asked: HashSet<u64>,
    failures: Vec<String>,
    /// Number of consecutive sources that were unreachable; reset once all were tried.
    tried: usize,
    last: Instant,
    pause: Duration,
}

impl Sources {
    pub(super) fn new(bridge: Arc<Bridge>, sources: Vec<Source>, want: Want) -> Self {
        let asked = sources.iter().map(|source| source.id).collect();
        Self {
            bridge,
            want,
            left: sources,
            asked,
            failures: Vec::new(),
            tried: 0,
            last: Instant::now(),
            pause: FIRST_PAUSE,
        }
    }

    /// Asks one source after another until one of them has given the value.
    pub(super) async fn until_given<T>(
        &mut self,
        mut ask: impl AsyncFnMut(&Arc<Bridge>, &Source, &Want) -> Result<T, NotGiven>,
    ) -> Result<T, FetchError> {
        loop {
            let Some(source) = self.left.first() else {
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

    /// Handles the failure of the first source and moves on to the next one, after a pause if all were tried.
    async fn failed(&mut self, why: NotGiven) -> Result<(), FetchError> {
        let source = self.left.remove(0);
        match why {
            NotGiven::Never(error) => return Err(error),
            NotGiven::HasItNot(why) => self.failures.push(format!("node `{}`: {why}", source.name)),
            NotGiven::Unreachable(why) if self.last.elapsed() >= self.bridge.settings().grace => {
                self.failures.push(format!("node `{}`: {why}", source.name));
            }
            // The connection alone may have failed.
            NotGiven::Unreachable(_) => {
                self.left.push(source);
                self.tried += 1;
                if self.tried >= self.left.len() {
                    self.tried = 0;
                    self.drop_lost().await;
                    tokio::time::sleep(self.pause).await;
                    self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
        if self.left.is_empty() { self.ask_the_head().await } else { Ok(()) }
    }

    /// Drops a source that has sent bytes other than those of the value. Returns `true` if no source is left.
    pub(super) fn distrust(&mut self, source: u64) -> bool {
        let Some(at) = self.left.iter().position(|left| left.id == source) else { return false };
        let Source { name, .. } = self.left.remove(at);
        log::warn!(
            "node `{name}` sent bytes that do not match the hash of {}; it is not asked again",
            self.want.what
        );
        self.failures.push(format!("node `{name}` sent bytes that do not match the hash of the value"));
        self.left.is_empty()
    }

    /// Drops sources that the head knows to be lost.
    async fn drop_lost(&mut self) {
        if let Some(answer) = self.bridge.whereabouts(self.want.id).await {
            self.left.retain(|source| answer.sources.iter().any(|known| known.id == source.id));
        }
    }

    /// Asks the head for sources that are unknown here.
    pub(super) async fn ask_the_head(&mut self) -> Result<(), FetchError> {
        let answer = self.bridge.whereabouts(self.want.id).await;
        let (sources, lost) = answer.map_or((Vec::new(), None), |answer| (answer.sources, answer.lost));
        let me = self.bridge.me().id;
        self.left
            .extend(sources.into_iter().filter(|source| source.id != me && self.asked.insert(source.id)));
        if !self.left.is_empty() {
            return Ok(());
        }
        let failures = self.failures.join("; ");
        Err(FetchError::Lost(match (lost, failures.is_empty()) {
            (Some(lost), true) => lost,
            (Some(lost), false) => format!("{lost} ({failures})"),
            (None, false) => format!("no source could send it: {failures}"),
            (None, true) => "no process is known to have it".to_owned(),
        }))
    }
}
