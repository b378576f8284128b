//! The journal of an App: a file that has the last state of each actor and what led to it.
//!
//! The journal is given a [`Transaction`] for each cycle of the driver. It numbers the transactions (their *position*,
//! from 1), commits what has gathered as one group on a thread of its own, and reports the last position that is durable.
//!
//! # Guarantees
//! - A transaction is recorded whole or not at all, and never without those before it: what is read is a prefix.
//! - A position that was reported as durable is read again after any end of the process, and with
//!   [`Sync::Disk`] after a loss of power.
//! - Nothing is written while nothing is appended.
//! - One process holds a journal at a time.
//! - Damage is reported and never read as data: each row has a checksum, the live rows as a whole have one, and the last
//!   durable position is noted outside of the file.
//!
//! # Parts
//! - [`Journal`]: the thread, group commit, and the reactions to a full or failing disk.
//! - [`Store`](store::Store): what the thread needs of a place to keep transactions; [`sqlite`] keeps them in a file.
//! - [`values`]: values of payloads, which are recorded with the transactions that refer to them.
//! - [`tools`]: what a command line does with a journal that no App holds.

mod crash_loop;
mod encoding;
mod error;
mod group;
#[cfg(feature = "cli")]
mod live;
mod lock;
mod log_encoding;
mod queue;
mod sqlite;
mod store;
mod tools;
mod values;

#[cfg(test)]
mod backlog_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod value_tests;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub(crate) use self::crash_loop::{CrashLoop, CrashNotes};
pub(crate) use self::error::JournalError;
pub(crate) use self::queue::{Condition, Figures, Incomplete, Journal};
pub(crate) use self::tools::{Check, Reader, Repaired, check, drop_path, fork, repair};
pub(crate) use self::values::{NewValue, Recorded, StoredValue, ValueKey, Values};
use crate::id::ActorPath;
use crate::state::{Patch, Value};

/// The kind of a row of the live data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Table {
    /// The App itself: one row, of the root.
    App,
    /// One row for each Flow.
    Flow,
    /// One row for each Work.
    Work,
    /// The runs of a Work that have not ended, by place.
    Run,
    /// The statuses of the inputs of a Work, by run key.
    Input,
    /// The inputs themselves, if they are small, by run key.
    Given,
    /// The last statuses of a Work, in a ring.
    Status,
    /// The last attempts at runs of a Work, in a ring.
    Attempt,
    /// The remembered steps of runs of a Work.
    Step,
}

impl Table {
    const ALL: [Self; 9] = [
        Self::App,
        Self::Flow,
        Self::Work,
        Self::Run,
        Self::Input,
        Self::Given,
        Self::Status,
        Self::Attempt,
        Self::Step,
    ];

    /// Returns the name of the table in files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Flow => "flow",
            Self::Work => "work",
            Self::Run => "run",
            Self::Input => "input",
            Self::Given => "given",
            Self::Status => "status",
            Self::Attempt => "attempt",
            Self::Step => "step",
        }
    }

    fn named(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.name().as_bytes() == name)
    }
}

/// A change of the live data.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Change {
    /// Sets a row.
    Put { path: ActorPath, table: Table, key: Vec<u8>, value: Vec<u8> },
    /// Deletes a row, if there is one.
    Delete { path: ActorPath, table: Table, key: Vec<u8> },
    /// Sets the state of an actor.
    State { path: ActorPath, state: Value },
    /// Changes the state of an actor, which has one.
    Patch { path: ActorPath, patch: Patch },
    /// Removes all rows and the state of an actor that has left the App; not those of the actors below it.
    Left { path: ActorPath },
}

impl Change {
    /// Returns the path of the actor that has changed.
    pub(crate) fn path(&self) -> &ActorPath {
        match self {
            Self::Put { path, .. }
            | Self::Delete { path, .. }
            | Self::State { path, .. }
            | Self::Patch { path, .. }
            | Self::Left { path } => path,
        }
    }
}

/// The changes of one cycle of the driver.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Transaction {
    /// Time since the start of the App, continued over restarts.
    pub(crate) at: Duration,
    pub(crate) wall: SystemTime,
    pub(crate) changes: Vec<Change>,
    /// The reactions of the cycle; `None` if no Flow reacted.
    pub(crate) reacted: Option<Reacted>,
}

/// The reactions of one cycle, with the border between the changes that the Flows saw and those that they made.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Reacted {
    /// The number of changes that were made before the first reaction.
    pub(crate) seen: usize,
    /// The reactions in their order. A Flow may be there several times.
    pub(crate) reactions: Vec<Reaction>,
}

/// One reaction of a Flow.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reaction {
    pub(crate) flow: ActorPath,
    /// Time since the start of the App, as the Flow saw it.
    pub(crate) at: Duration,
    /// The number of the reaction of the Flow in its process, from 1.
    pub(crate) number: u64,
    /// `None` if the Flow returned normally and the App goes on.
    pub(crate) end: Option<ReactionEnd>,
}

impl Reaction {
    /// Creates a reaction that returns normally.
    pub(crate) fn new(flow: ActorPath, at: Duration, number: u64) -> Self {
        Self { flow, at, number, end: None }
    }
}

/// The unusual end of a reaction, with its message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ReactionEnd {
    /// The reaction failed.
    #[serde(rename = "f")]
    Failed(String),
    /// The Flow has asked the App to end.
    #[serde(rename = "s")]
    Stops(String),
}

/// Durability of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Sync {
    /// Written, so that the end of the process loses nothing.
    Process,
    /// Written and synced, so that a loss of power loses nothing.
    #[default]
    Disk,
}

/// The settings of a journal.
#[derive(Debug, Clone)]
pub(crate) struct JournalSettings {
    pub(crate) sync: Sync,
    /// Retention of the history; zero turns it off.
    pub(crate) history_age: Duration,
    /// The size up to which history is kept, in bytes; 0 turns it off.
    pub(crate) history_bytes: u64,
    /// The values of payloads that are recorded.
    pub(crate) payloads: Recorded,
}

impl Default for JournalSettings {
    fn default() -> Self {
        Self {
            sync: Sync::Disk,
            history_age: Duration::from_secs(7 * 24 * 60 * 60),
            history_bytes: 1 << 30,
            payloads: Recorded::Small,
        }
    }
}

impl JournalSettings {
    fn has_history(&self) -> bool {
        self.history_bytes > 0 && !self.history_age.is_zero()
    }
}

/// The live data: the rows and the state of each actor, by path.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Live {
    pub(crate) actors: BTreeMap<ActorPath, LiveActor>,
}

/// The live data of one actor.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct LiveActor {
    pub(crate) state: Option<Value>,
    pub(crate) rows: BTreeMap<Table, TableRows>,
}

/// Keys and values, ordered by key.
pub(crate) type TableRows = Vec<(Bytes, Bytes)>;

/// A position, and when its transaction was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) position: u64,
    /// Time since the start of the App, continued over restarts.
    pub(crate) at: Duration,
    pub(crate) wall: SystemTime,
}

/// An opening of the journal by an App.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) epoch: u64,
    pub(crate) wall: SystemTime,
    /// The last position at that time.
    pub(crate) position: u64,
    /// The version of the program.
    pub(crate) program: String,
    /// True if [`Journal::mark_progress`] was called.
    pub(crate) has_progressed: bool,
    /// True if it ended by [`Journal::close`] with `clean`.
    pub(crate) is_clean: bool,
}

/// Content of a journal when it was opened.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) live: Live,
    /// The last position, with the times of its transaction. Position 0 in a new journal.
    pub(crate) last: Moment,
    /// The number of this opening, from 1. It is on disk, whatever the mode of syncing.
    pub(crate) epoch: u64,
    /// The random identity of the App.
    pub(crate) app: [u8; 16],
    /// True if the last opening ended by [`Journal::close`] with `clean`, or there was none.
    pub(crate) was_clean: bool,
    /// The last openings before this one, oldest first, [`RECENT`] at most.
    pub(crate) starts: Vec<Start>,
    /// The recorded values of payloads that are undamaged.
    pub(crate) values: Vec<StoredValue>,
}

/// The number of openings that a journal remembers.
pub(crate) const RECENT: usize = 16;

/// Selection of history.
#[derive(Debug, Clone, Default)]
pub(crate) struct HistoryFilter {
    /// Changes of this actor only.
    pub(crate) path: Option<ActorPath>,
    /// Positions from this one.
    pub(crate) from: Option<u64>,
    /// Positions up to this one, inclusive.
    pub(crate) to: Option<u64>,
    /// The largest number of groups to read, 0 for all: the oldest of the selection, or the newest if `newest_first`.
    /// Groups without a change of `path` count as well.
    pub(crate) limit: usize,
    /// The number of encoded bytes after which the reading ends, with a whole group; 0 for no limit.
    pub(crate) bytes: u64,
    pub(crate) newest_first: bool,
    /// True if states are left out, which takes less time.
    pub(crate) rows_only: bool,
}

/// The part of a selection of history that was read.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct HistoryPart {
    pub(crate) entries: Vec<HistoryEntry>,
    /// The position from which, or with `newest_first` up to which, the rest of the selection is read. `None` if all of it
    /// was.
    pub(crate) next: Option<u64>,
}

/// The rows that are read of a moment of the past. States always are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Extent {
    #[default]
    All,
    /// Rows of these tables only: what is remembered of runs may be a large part of the live data.
    Tables(&'static [Table]),
}

impl Extent {
    fn has(self, table: Table) -> bool {
        match self {
            Self::All => true,
            Self::Tables(tables) => tables.contains(&table),
        }
    }
}

/// A group of transactions in the history.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HistoryEntry {
    /// The position of the first of the transactions; the others follow.
    pub(crate) first: u64,
    pub(crate) transactions: Vec<RecordedTransaction>,
}

/// A transaction in the history.
///
/// The changes that a group makes to one state are merged: the merged change is at the last transaction of the group that
/// changed the state, and is a whole state if the journal had a reason to record it as one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RecordedTransaction {
    pub(crate) position: u64,
    pub(crate) at: Duration,
    pub(crate) wall: SystemTime,
    pub(crate) changes: Vec<Change>,
    /// Actors whose states changed, where the change is part of a later transaction of the group, or of those changes of
    /// this one that were made by reactions.
    pub(crate) merged: Vec<ActorPath>,
    /// The reactions, of which `seen` counts in `changes`.
    pub(crate) reacted: Option<Reacted>,
    /// The number of actors in `merged` whose states changed before the reactions.
    pub(crate) merged_seen: usize,
}
