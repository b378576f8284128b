//! The settings of a service.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::rollouts::Bounds;
use crate::flow::policy::{Overlap, RecordedOverlap};
use crate::flow::settings::WorkSettings;
use crate::work::DEFAULT_MAILBOX;

/// The number of replicas of a service: one number, or a range within which the load decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replicas {
    pub(super) least: usize,
    pub(super) most: usize,
}

impl From<usize> for Replicas {
    fn from(count: usize) -> Self {
        Self { least: count.max(1), most: count.max(1) }
    }
}

impl From<RangeInclusive<usize>> for Replicas {
    fn from(range: RangeInclusive<usize>) -> Self {
        let least = (*range.start()).max(1);
        Self { least, most: (*range.end()).max(least) }
    }
}

/// The settings of a service as they are recorded. One that a record lacks has its default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct ServiceSettings {
    pub(super) least: usize,
    pub(super) most: usize,
    pub(super) max_extra: Option<usize>,
    pub(super) ready_within: Duration,
    pub(super) drain: Duration,
    #[serde(with = "RecordedOverlap")]
    pub(super) overlap: Overlap,
    /// Largest number of messages that a replica has at a time.
    pub(super) in_flight: usize,
    /// Largest number of messages that wait.
    pub(super) queue: usize,
    /// Number of messages for each replica beyond which there are to be more.
    pub(super) target: Option<usize>,
    pub(super) cool_down: Duration,
    /// Settings of each replica.
    pub(super) work: WorkSettings,
}

impl Default for ServiceSettings {
    fn default() -> Self {
        Self {
            least: 1,
            most: 1,
            max_extra: None,
            ready_within: Duration::from_secs(60),
            drain: Duration::from_secs(30),
            overlap: Overlap::Latest,
            in_flight: 1,
            queue: DEFAULT_MAILBOX,
            target: None,
            cool_down: Duration::from_secs(60),
            work: WorkSettings::default(),
        }
    }
}

impl ServiceSettings {
    pub(super) fn bounds(&self) -> Bounds {
        let most = self.most.max(self.least);
        Bounds {
            least: self.least,
            most,
            max_extra: self.max_extra.unwrap_or(most).max(1),
            ready_within: self.ready_within,
            drain: self.drain,
        }
    }

    /// Returns the number of messages for each replica beyond which there are to be more replicas.
    pub(super) fn target(&self) -> usize {
        self.target.unwrap_or_else(|| self.in_flight.saturating_mul(2)).max(1)
    }
}
