//! The causes of a run, as far as the journal tells them.
//!
//! A transaction has what the Flows saw in a cycle and what they decided then. The causes of a request are therefore the
//! other events of its transaction, and what led to one of these is the request of the run that made it.
//!
//! # Guarantees
//! - The history is read backwards, in parts, and no part is kept: memory does not grow with the history.
//! - The requests of a chain are at falling positions, so that each chain ends, whatever a journal contains.
//! - A chain that is continued by a [`Cursor`] has the same runs as one that is read at once.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::events::{Event, Retelling, What};
use super::paging::{MOST, PART_BYTES};
use crate::flow::{Fact, RowError};
use crate::id::ActorPath;
use crate::journal::{Change, HistoryFilter, HistoryPart, RecordedTransaction, Table};

/// Number of groups that are read at a time.
const PART: usize = 512;

/// Largest number of causes of a request that are told; those that are most likely are.
const CAUSES: usize = 100;

/// A run, and what led to its request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Because {
    pub(crate) path: ActorPath,
    pub(crate) run: u64,
    /// The request. `None` if the history does not go back to it.
    pub(crate) request: Option<Event>,
    /// Other events of the same transaction before the request; the last one is followed.
    pub(crate) causes: Vec<Event>,
    /// The number of other events that are left out.
    pub(crate) left_out: usize,
}

/// Runs, each of which led to the one before it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Chain {
    pub(crate) items: Vec<Because>,
    /// The position at which the chain continues, if it is not complete.
    pub(crate) next: Option<Cursor>,
}

/// The run that a chain is looking for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cursor {
    path: ActorPath,
    search: Search,
    /// The last position that is read.
    to: u64,
    /// The position before which the run was requested.
    before: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Search {
    /// The run that the chain begins with, which may not exist.
    First { run: u64 },
    /// A run that has ended at or before the position.
    Run { run: u64 },
    /// The request of a run, by its place in the queue of its Work.
    Request { run: u64, place: u64 },
    /// The run that was in progress at the position.
    InProgress,
}

/// Error returned for a text that is no cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("use the value of `next` of the page before")]
pub(crate) struct NoCursor;

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, search, to, before } = self;
        match search {
            Search::First { run } => write!(f, "first-{run}")?,
            Search::Run { run } => write!(f, "run-{run}")?,
            Search::Request { run, place } => write!(f, "request-{run}-{place}")?,
            Search::InProgress => f.write_str("progress")?,
        }
        write!(f, "-{to}-{before}-{}", path.as_str())
    }
}

impl FromStr for Cursor {
    type Err = NoCursor;

    fn from_str(text: &str) -> Result<Self, NoCursor> {
        let mut rest = text;
        let mut next = || {
            let (part, after) = rest.split_once('-').ok_or(NoCursor)?;
            rest = after;
            Ok(part)
        };
        let kind = next()?;
        let mut number = || next()?.parse::<u64>().map_err(|_| NoCursor);
        let search = match kind {
            "first" => Search::First { run: number()? },
            "run" => Search::Run { run: number()? },
            "request" => Search::Request { run: number()?, place: number()? },
            "progress" => Search::InProgress,
            _ => return Err(NoCursor),
        };
        let (to, before) = (number()?, number()?);
        Ok(Self { path: ActorPath::from(rest), search, to, before })
    }
}

/// Collects a chain from parts of the history: [`next`](Self::next) says which part is read, and [`add`](Self::add) takes
/// it, until there is no next.
pub(crate) struct Tracing {
    /// The number of runs after which the chain is cut.
    limit: usize,
    /// True if not more than a part of the history is to be read at once.
    is_short: bool,
    read: usize,
    task: Task,
    chain: Chain,
}

enum Task {
    Search(Cursor),
    /// Reads the transaction before that of a request, whose rows tell which of its events are new.
    Context {
        path: ActorPath,
        run: u64,
        place: u64,
        position: u64,
    },
    /// Reads the transaction of a request.
    Causes {
        path: ActorPath,
        run: u64,
        place: u64,
        position: u64,
        retelling: Box<Retelling>,
    },
    Done,
}

impl Tracing {
    /// Begins with a run of a Work.
    pub(crate) fn new(path: ActorPath, run: u64, limit: usize, is_short: bool) -> Self {
        let (search, to) = (Search::First { run }, u64::MAX);
        Self::from(Cursor { path, search, to, before: to }, limit, is_short)
    }

    /// Continues a chain that was cut.
    pub(crate) fn from(cursor: Cursor, limit: usize, is_short: bool) -> Self {
        Self { limit, is_short, read: 0, task: Task::Search(cursor), chain: Chain::default() }
    }

    /// Returns the part of the history to read next.
    pub(crate) fn next(&self) -> Option<HistoryFilter> {
        let filter = HistoryFilter { bytes: PART_BYTES, newest_first: true, ..HistoryFilter::default() };
        Some(match &self.task {
            Task::Search(Cursor { path, to, .. }) => HistoryFilter {
                path: Some(path.clone()),
                to: Some(*to),
                limit: PART,
                rows_only: true,
                ..filter
            },
            Task::Context { position, .. } => HistoryFilter { to: Some(position - 1), limit: 1, ..filter },
            Task::Causes { position, .. } => {
                HistoryFilter { from: Some(*position), to: Some(*position), ..filter }
            }
            Task::Done => return None,
        })
    }

    /// Takes the part that was read.
    pub(crate) fn add(&mut self, part: HistoryPart) {
        match std::mem::replace(&mut self.task, Task::Done) {
            Task::Search(cursor) => self.search(cursor, &part),
            Task::Context { path, run, place, position } => {
                let mut retelling = Box::<Retelling>::default();
                for transaction in part.entries.iter().flat_map(|entry| &entry.transactions) {
                    retelling.tell(transaction);
                }
                self.task = Task::Causes { path, run, place, position, retelling };
            }
            Task::Causes { path, run, place, position, mut retelling } => {
                let mut transactions = part.entries.iter().flat_map(|entry| &entry.transactions);
                if let Some(found) = transactions.find(|found| found.position == position) {
                    self.explain(&path, (run, place), found, &mut retelling);
                }
            }
            Task::Done => {}
        }
    }

    pub(crate) fn finish(self) -> Chain {
        self.chain
    }

    /// Looks for the run or its request in a part.
    fn search(&mut self, mut cursor: Cursor, part: &HistoryPart) {
        self.read += PART;
        let transactions = part.entries.iter().flat_map(|entry| entry.transactions.iter().rev());
        for transaction in transactions {
            let is_seen_only = transaction.position >= cursor.before;
            let facts = Facts::of(transaction, &cursor.path, is_seen_only);
            let found = match cursor.search {
                Search::First { run } | Search::Run { run } => {
                    facts.runs.iter().flatten().find(|(other, _)| *other == run).copied()
                }
                Search::InProgress => match facts.runs.last() {
                    // The Work had no run then.
                    Some(None) => return,
                    last => last.copied().flatten(),
                },
                Search::Request { .. } => None,
            };
            if let Some((run, place)) = found {
                cursor.search = Search::Request { run, place };
            }
            if let Search::Request { run, place } = cursor.search
                && transaction.position < cursor.before
                && facts.requested.contains(&place)
            {
                let (path, position) = (cursor.path, transaction.position);
                self.task = if position > 1 {
                    Task::Context { path, run, place, position }
                } else {
                    Task::Causes { path, run, place, position, retelling: Box::default() }
                };
                return;
            }
        }
        match (part.next, cursor.search) {
            (Some(to), _) => self.continue_with(Cursor { to, ..cursor }),
            // The history does not go back to the request.
            (None, Search::Request { run, .. } | Search::Run { run }) => {
                let path = cursor.path;
                self.chain.items.push(Because { path, run, request: None, causes: Vec::new(), left_out: 0 });
            }
            (None, Search::First { .. } | Search::InProgress) => {}
        }
    }

    fn continue_with(&mut self, cursor: Cursor) {
        if self.chain.items.len() >= self.limit || self.is_short && self.read >= MOST {
            self.chain.next = Some(cursor);
        } else {
            self.task = Task::Search(cursor);
        }
    }

    /// Adds a run with the causes of its request, which is one of several of its Work if their places differ.
    fn explain(
        &mut self,
        path: &ActorPath,
        (run, place): (u64, u64),
        transaction: &RecordedTransaction,
        retelling: &mut Retelling,
    ) {
        let position = transaction.position;
        let events = retelling.tell(transaction);
        let is_request = |event: &&Event| {
            let is_of_place = matches!(event.what, What::RunRequested { place: other, .. } if other == place);
            event.path == *path && is_of_place
        };
        let request = events.iter().find(is_request).cloned();
        // Reactions change the own fields of their Flows.
        let reactions = transaction.reacted.iter().flat_map(|reacted| &reacted.reactions);
        let mut flows: HashSet<&ActorPath> = reactions.map(|reaction| &reaction.flow).collect();
        flows.extend(transaction.changes.iter().filter_map(|change| match change {
            Change::Put { path, table: Table::Flow, .. } => Some(path),
            _ => None,
        }));
        let is_cause = |event: &Event| {
            let is_own = matches!(event.what, What::StateChanged { .. }) && flows.contains(&event.path);
            weight(&event.what) > 0 && !is_own
        };
        let mut causes: Vec<_> = events.into_iter().filter(is_cause).collect();
        causes.sort_by_key(|event| weight(&event.what));
        let left_out = causes.len().saturating_sub(CAUSES);
        causes.drain(..left_out);
        let led_by = causes.last().and_then(|cause| {
            let search = match &cause.what {
                What::RunEnded { run, .. } => Search::Run { run: (*run)? },
                What::StateChanged { .. } => Search::InProgress,
                _ => return None,
            };
            Some(Cursor { path: cause.path.clone(), search, to: position, before: position })
        });
        self.chain.items.push(Because { path: path.clone(), run, request, causes, left_out });
        if let Some(cursor) = led_by {
            self.continue_with(cursor);
        }
    }
}

/// The facts of a transaction about the runs of one Work.
#[derive(Default)]
struct Facts {
    /// The runs in progress one after the other, with their places; `None` where the Work has none.
    runs: Vec<Option<(u64, u64)>>,
    /// The places of runs that were requested.
    requested: Vec<u64>,
}

impl Facts {
    /// Reads the changes of a Work, or only those that the Flows saw. Changes that cannot be read are none of runs.
    fn of(transaction: &RecordedTransaction, path: &ActorPath, is_seen_only: bool) -> Self {
        let mut facts = Self::default();
        let seen = transaction.reacted.as_ref().filter(|_| is_seen_only).map(|reacted| reacted.seen);
        let changes = transaction.changes.iter().take(seen.unwrap_or(usize::MAX));
        for change in changes.filter(|change| change.path() == path) {
            match fact(change) {
                Ok(Some(Fact::Requested { place, .. })) => facts.requested.push(place),
                Ok(Some(Fact::Work(work))) => {
                    facts.runs.push(work.run_in_progress().map(|run| (run.run, run.place)));
                }
                _ => {}
            }
        }
        facts
    }
}

fn fact(change: &Change) -> Result<Option<Fact>, RowError> {
    let (table, key, value) = match change {
        Change::Put { table, key, value, .. } => (*table, key, Some(&value[..])),
        Change::Delete { table, key, .. } => (*table, key, None),
        _ => return Ok(None),
    };
    if matches!(table, Table::Run | Table::Work) { Fact::from_row(table, key, value) } else { Ok(None) }
}

/// Returns how likely an event is the cause of a request in the same transaction; 0 if it cannot be.
fn weight(what: &What) -> u8 {
    match what {
        What::RunEnded { .. } => 7,
        What::StateChanged { .. } => 6,
        What::Scheduled { .. } => 5,
        What::Released => 4,
        What::Began { .. } => 3,
        What::Stage { .. } => 2,
        What::Joined | What::Left => 1,
        _ => 0,
    }
}
