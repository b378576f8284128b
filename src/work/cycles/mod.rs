//! Cycles of asks: Works each of which waits for the answer of the next, so that none of them can go on.
//!
//! # What counts as waiting
//! A Work waits for an ask when the code of its handler, hook or `run` awaits it, the Work takes no messages meanwhile,
//! and nothing else can make that code go on. The last condition is decided by counting wakers: the future of a Work is
//! polled with a [waker of its own](task_waker::TaskWaker), of which every other future that is pending must have kept a
//! clone. An ask that has waited for [`SLOW`] registers with the waker below it, which is not counted. If no counted
//! clone is left after a poll, and none was used since it began, the Work awaits this ask only. So a Work does not wait,
//! in this sense, when it awaits an ask in `select!` or `join!` beside anything else, within a timeout of its own, or in
//! another task, nor when it serves its mailbox around or beside it. A clone that something keeps without need hides a
//! wait, and never makes one up.
//!
//! # What counts as a cycle
//! Each Work of a cycle waits, and has the question of the one before: its handler has begun it and has not deferred the
//! reply, or it waits in the mailbox. All of these are observed by the code of that Work, between two of its polls.
//!
//! 1. Each process reports its waits to the head, which finds cycles of reported waits ([`graph`]).
//! 2. The head asks each Work of a cycle whether its wait still stands, and whether the Work has the question of the one
//!    before. A wait has an id that no other has, and a Work that waits does nothing. So if all answers are yes, then all
//!    waits of the cycle stood at the moment at which the head began to ask: between the report of each and its answer.
//!    At that moment no question of the cycle was answered or deferred, for none is when the later answers are given.
//! 3. From that moment on, no Work of the cycle can go on before its ask ends, and only a timeout ends one. The head fails
//!    the ask whose timeout would pass first. Without it, that ask, and no other, would have failed with
//!    [`AskError::Timeout`](crate::AskError::Timeout): the cycle is told sooner, and nothing else changes.
//!
//! # Guarantees
//! - An ask fails with [`AskError::Deadlock`](crate::AskError::Deadlock) only if there was such a cycle, and one for each
//!   cycle.
//! - A cycle that stands is found, from about [`SLOW`] after its last ask; if a question of it arrives later, within a few
//!   times as long. Not found, and ended by a timeout as before, are cycles through a question that waits outside of the
//!   mailbox of its Work (in front of a full one, or for a replica of a service), through a batch, of more than
//!   [`LONGEST`](graph::LONGEST) Works, and while the head is out of reach.
//! - An ask that is answered within [`SLOW`] costs an id. A slow one costs a few messages, ever more rarely: five times
//!   within 30 s.
//!
//! The idea to confirm a candidate by a second look is that of Ho and Ramamoorthy (1982). With ids that are never used
//! again, and with waits that end in one way, it is sound.

mod ask_cycles;
mod graph;
mod slow_ask;
pub(super) mod task_waker;

use std::cell::Cell;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub(crate) use self::ask_cycles::AskCycles;
#[cfg(feature = "remote")]
pub(crate) use self::ask_cycles::{HeadOfWaits, WaitsElsewhere};
pub(super) use self::slow_ask::{SlowAsk, WaitRegister};
use crate::id::{ActorPath, unique};

/// Time after which an ask counts as slow.
pub(super) const SLOW: Duration = Duration::from_millis(100);

/// Factor between the times at which a slow ask is looked at again.
pub(super) const SLOWER: u32 = 3;

/// Number of an ask, which no other ask of the App has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct AskId(u64);

thread_local! {
    /// Ids of asks: each thread counts from a random number.
    static LAST: Cell<u64> = const { Cell::new(0) };
}

impl AskId {
    /// Id of an ask that no Work awaits.
    pub(crate) const NONE: Self = Self(0);

    /// Returns the id of the next ask.
    pub(super) fn next() -> Self {
        let last = LAST.get();
        let next = if last == 0 { unique() } else { last.wrapping_add(1).max(1) };
        LAST.set(next);
        Self(next)
    }

    #[cfg(feature = "remote")]
    pub(crate) fn number(self) -> u64 {
        self.0
    }

    /// Returns the id with this number.
    #[cfg(any(feature = "remote", test))]
    pub(crate) fn numbered(number: u64) -> Self {
        Self(number)
    }

    /// Returns the id, unless no Work awaits the ask.
    pub(crate) fn known(self) -> Option<Self> {
        (self != Self::NONE).then_some(self)
    }
}

/// Message about a wait, to the head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WaitReport {
    /// A Work waits for an ask.
    Waits {
        ask: AskId,
        work: ActorPath,
        /// The path of the asked Work or service.
        asked: ActorPath,
        /// The question that the Work is handling.
        handles: Option<AskId>,
        /// The rest of the timeout, in microseconds.
        remaining_us: u64,
    },
    /// Answers [`WaitOrder::Check`].
    Checked { round: u64, ask: AskId, stands: bool },
    /// The Work does not wait for the ask any more.
    Ended { ask: AskId },
}

/// Message about a wait, from the head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WaitOrder {
    /// Asks whether a wait stands, and whether its Work has the question `asker`.
    Check { round: u64, ask: AskId, asker: AskId },
    /// Fails an ask. The cycle begins and ends with the Work that has asked.
    Fail { ask: AskId, cycle: Vec<ActorPath> },
}
