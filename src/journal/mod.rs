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

use std::time::{Duration, SystemTime};

use crate::id::ActorPath;
use crate::state::{Patch, Value};

/// The kind of a row of the live data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
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

/// A change of the live data.
#[derive(Debug, Clone)]
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

/// The changes of one cycle of the driver.
#[derive(Debug, Clone)]
pub(crate) struct Transaction {
    /// Time since the start of the App, continued over restarts.
    pub(crate) at: Duration,
    pub(crate) wall: SystemTime,
    pub(crate) changes: Vec<Change>,
}

/// How safe a commit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Sync {
    /// Written, so that the end of the process loses nothing.
    Process,
    /// Written and synced, so that a loss of power loses nothing.
    #[default]
    Disk,
}
