//! One allocation of a group, as the planner knows it.

use std::time::Duration;

use super::breaker::PROVED;
use super::engine::ListedStage;
use crate::work::NodeRoom;

/// The stage of an allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its request has not been answered yet.
    Requested,
    /// The answer to its request was lost; the engine's list will tell.
    Unknown,
    /// It waits at the engine.
    Queued,
    /// It runs, and its node has not joined yet.
    Starting,
    /// Its node has joined.
    Joined,
    /// Its node was told to leave.
    Leaving,
    /// Its node has joined and is gone, and the engine has not said yet that the allocation has ended.
    Gone,
    /// The engine was told to end it.
    Ending,
}

impl Stage {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Unknown => "unknown",
            Self::Queued => "queued",
            Self::Starting => "starting",
            Self::Joined => "joined",
            Self::Leaving => "leaving",
            Self::Gone => "gone",
            Self::Ending => "ending",
        }
    }

    /// Returns true while the allocation waits at the engine, or may do so.
    pub(super) fn is_waiting(self) -> bool {
        matches!(self, Self::Requested | Self::Unknown | Self::Queued)
    }

    /// Returns true for allocations that are nodes, or will be.
    pub(super) fn is_usable(self) -> bool {
        self.is_waiting() || matches!(self, Self::Starting | Self::Joined)
    }
}

/// An allocation that has not ended, as far as is known.
#[derive(Debug)]
pub(super) struct Allocation {
    pub(super) stage: Stage,
    /// The time at which the stage began.
    pub(super) since: Duration,
    /// The time of the request.
    pub(super) requested: Duration,
    /// The time from which a list would show the allocation if the engine has it: that of the answer to the request.
    pub(super) answered: Option<Duration>,
    /// The number of lists that began after the answer and did not show it.
    pub(super) unseen: u32,
    /// The identifier at the engine.
    pub(super) id: Option<String>,
    /// The reason of the engine for which it waits.
    pub(super) words: String,
    /// The machines that it runs on.
    pub(super) at: Option<String>,
    /// The time at which the engine ends it.
    pub(super) ends_at: Option<Duration>,
    /// The time at which its node has joined first, and the time at which it was last in the App.
    pub(super) joined: Option<(Duration, Duration)>,
    /// True while its node is in the App.
    pub(super) is_present: bool,
    /// The time since which nothing needs it.
    pub(super) unneeded_since: Option<Duration>,
    /// The number of Works on its node.
    pub(super) works: usize,
    /// The time since which its node has no Work.
    pub(super) idle_since: Option<Duration>,
    /// The time for which its node had no Work before that.
    pub(super) idle: Duration,
    /// The time at which the engine was last told to end it.
    pub(super) end_told: Option<Duration>,
    /// True if its end is no failure, since it was wanted.
    pub(super) is_end_wanted: bool,
    /// True if an earlier head has requested it: its node may have Works, which return with it.
    pub(super) is_adopted: bool,
}

impl Allocation {
    pub(super) fn new(now: Duration) -> Self {
        Self {
            stage: Stage::Requested,
            since: now,
            requested: now,
            answered: None,
            unseen: 0,
            id: None,
            words: String::new(),
            at: None,
            ends_at: None,
            joined: None,
            is_present: false,
            unneeded_since: None,
            works: 0,
            idle_since: None,
            idle: Duration::ZERO,
            end_told: None,
            is_end_wanted: false,
            is_adopted: false,
        }
    }

    /// An allocation that was requested by an earlier head, or whose request was given up as lost.
    pub(super) fn adopted(now: Duration) -> Self {
        Self { stage: Stage::Unknown, answered: Some(now), is_adopted: true, ..Self::new(now) }
    }

    pub(super) fn enter(&mut self, stage: Stage, now: Duration) {
        if self.stage != stage {
            (self.stage, self.since) = (stage, now);
        }
    }

    /// Takes over that its node is in the App.
    pub(super) fn node_is_here(&mut self, node: &NodeRoom, now: Duration) {
        (self.works, self.is_present) = (node.works, true);
        self.joined = Some((self.joined.map_or(now, |(first, _)| first), now));
        self.answered.get_or_insert(now);
        if self.ends_at.is_none() {
            self.ends_at = node.ends_in.map(|ends_in| now + ends_in);
        }
        match self.stage {
            Stage::Leaving | Stage::Ending => {}
            _ if node.is_leaving => self.enter(Stage::Leaving, now),
            _ => self.enter(Stage::Joined, now),
        }
        let is_idle = self.stage == Stage::Joined && self.works == 0;
        match is_idle {
            true => drop(self.idle_since.get_or_insert(now)),
            false => self.idle = self.idle_time(now),
        }
        self.idle_since = self.idle_since.filter(|_| is_idle);
    }

    /// Takes over that its node is not in the App.
    pub(super) fn node_is_away(&mut self, now: Duration) {
        self.idle = self.idle_time(now);
        (self.works, self.is_present, self.idle_since) = (0, false, None);
        if self.stage == Stage::Joined {
            self.enter(Stage::Gone, now);
        }
    }

    /// Returns the time for which its node had no Work.
    pub(super) fn idle_time(&self, now: Duration) -> Duration {
        self.idle + self.idle_since.map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }

    /// Returns true once its node has lived for long enough.
    pub(super) fn is_proved(&self) -> bool {
        self.joined.is_some_and(|(first, last)| first + PROVED <= last)
    }

    /// Takes over what the engine says of an allocation that has not ended.
    pub(super) fn listed(&mut self, stage: &ListedStage, now: Duration) {
        self.unseen = 0;
        self.answered.get_or_insert(now);
        match stage {
            ListedStage::Queued { why } => {
                self.words.clone_from(why);
                if self.stage.is_waiting() || self.stage == Stage::Starting {
                    self.enter(Stage::Queued, now);
                }
            }
            ListedStage::Running { at } => {
                self.words.clear();
                self.at = Some(at.clone()).filter(|at| !at.is_empty());
                if self.stage.is_waiting() {
                    self.enter(Stage::Starting, now);
                }
            }
            ListedStage::Ended { .. } => {}
        }
    }
}
