//! The causes of a run, as far as the journal tells them.
//!
//! A transaction has what the Flows saw in a cycle and what they decided then. The causes of a request are therefore the
//! other events of its transaction, and what led to one of these is the request of the run that made it.

use std::collections::{HashMap, HashSet};

use super::events::{Event, Retelling, What};
use crate::flow::Fact;
use crate::id::ActorPath;
use crate::journal::{Change, HistoryEntry, HistoryFilter, JournalError, Table};

/// The number of runs after which a chain of causes ends.
const LONGEST: usize = 100;

/// Number of groups that are read at a time.
const PART: usize = 256;

/// A run, and what led to its request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Because {
    pub(crate) path: ActorPath,
    pub(crate) run: u64,
    /// The request. `None` if the history does not go back to it.
    pub(crate) request: Option<Event>,
    /// Other events of the same transaction before the request; the last one is followed.
    pub(crate) causes: Vec<Event>,
}

/// A reading of the history.
type Read<'a> = dyn FnMut(&HistoryFilter) -> Result<Vec<HistoryEntry>, JournalError> + 'a;

/// A requested run.
#[derive(Debug, Clone, Copy)]
struct Requested {
    /// The position of the request.
    position: u64,
    /// The position from which the run was in progress, and the one at which it had ended.
    from: Option<u64>,
    ended: Option<u64>,
}

/// The requested runs of all Works.
#[derive(Default)]
struct Index {
    places: HashMap<(ActorPath, u64), Requested>,
    /// The place of each run.
    runs: HashMap<(ActorPath, u64), u64>,
    /// The runs of each Work in the order of their numbers.
    last: HashMap<ActorPath, Vec<u64>>,
    flows: HashSet<ActorPath>,
}

impl Index {
    fn run(&mut self, path: &ActorPath, run: u64, place: u64) {
        if self.runs.insert((path.clone(), run), place).is_none() {
            self.last.entry(path.clone()).or_default().push(run);
        }
    }

    /// Adds a change. Changes that cannot be read are none of runs.
    fn add(&mut self, position: u64, change: &Change) {
        let (path, table, key, value) = match change {
            Change::Put { path, table, key, value } => (path, *table, key, Some(value)),
            Change::Delete { path, table, key } => (path, *table, key, None),
            _ => return,
        };
        if table == Table::Flow {
            self.flows.insert(path.clone());
        }
        if !matches!(table, Table::Run | Table::Work | Table::Attempt) {
            return;
        }
        match Fact::from_row(table, key, value.map(Vec::as_slice)) {
            Ok(Some(Fact::Requested { place, .. })) => {
                let requested = Requested { position, from: None, ended: None };
                self.places.insert((path.clone(), place), requested);
            }
            Ok(Some(Fact::Ended { place })) => {
                if let Some(requested) = self.places.get_mut(&(path.clone(), place)) {
                    requested.ended = Some(position);
                }
            }
            Ok(Some(Fact::Work(work))) => {
                let Some(run) = work.run_in_progress() else { return };
                self.run(path, run.run, run.place);
                if let Some(requested) = self.places.get_mut(&(path.clone(), run.place)) {
                    requested.from.get_or_insert(position);
                }
            }
            _ => {}
        }
    }

    /// Returns the run of a Work that was in progress at a position.
    fn in_progress(&self, path: &ActorPath, position: u64) -> Option<u64> {
        let runs = self.last.get(path)?;
        runs.iter().rev().copied().find(|run| {
            let place = self.runs.get(&(path.clone(), *run)).copied();
            let requested = place.and_then(|place| self.places.get(&(path.clone(), place)));
            requested.is_some_and(|requested| {
                requested.from.is_some_and(|from| from <= position)
                    && requested.ended.is_none_or(|ended| ended >= position)
            })
        })
    }
}

/// Returns the run and the runs that led to it, as far as the history goes back. Empty if the run is not part of the
/// history.
///
/// # Errors
/// [`JournalError`] if the history cannot be read.
pub(crate) fn why(path: &ActorPath, run: u64, read: &mut Read<'_>) -> Result<Vec<Because>, JournalError> {
    let mut index = Index::default();
    let mut from = 0;
    loop {
        let filter = HistoryFilter { from: Some(from), limit: PART, ..HistoryFilter::default() };
        let entries = read(&filter)?;
        let is_last = entries.len() < PART;
        for transaction in entries.iter().flat_map(|entry| &entry.transactions) {
            from = transaction.position + 1;
            transaction.changes.iter().for_each(|change| index.add(transaction.position, change));
        }
        if is_last {
            break;
        }
    }
    let (mut chain, mut next) = (Vec::new(), Some((path.clone(), run)));
    while let Some((path, run)) = next.take() {
        let is_known = index.runs.get(&(path.clone(), run)).copied();
        let requested = is_known.and_then(|place| index.places.get(&(path.clone(), place)));
        let Some(requested) = requested.copied() else {
            if is_known.is_some() {
                chain.push(Because { path, run, request: None, causes: Vec::new() });
            }
            break;
        };
        let events = events_at(requested.position, read)?;
        let is_request =
            |event: &&Event| event.path == path && matches!(event.what, What::RunRequested { .. });
        let request = events.iter().find(is_request).cloned();
        // The own fields of Flows are changed by the reaction that requests.
        let is_cause = |event: &Event| {
            let is_own = matches!(event.what, What::StateChanged { .. }) && index.flows.contains(&event.path);
            weight(&event.what) > 0 && !is_own
        };
        let mut causes: Vec<_> = events.into_iter().filter(is_cause).collect();
        causes.sort_by_key(|event| weight(&event.what));
        if chain.len() < LONGEST {
            next = causes.last().and_then(|cause| {
                let led_by = match &cause.what {
                    What::RunEnded { run, .. } => *run,
                    What::StateChanged { .. } => index.in_progress(&cause.path, requested.position),
                    _ => None,
                };
                led_by.map(|led_by| (cause.path.clone(), led_by))
            });
        }
        // A run cannot be its own cause; a damaged record may say so.
        let is_repeated = |(path, run): &(ActorPath, u64)| {
            chain.iter().any(|earlier: &Because| earlier.path == *path && earlier.run == *run)
        };
        next = next.filter(|next| !is_repeated(next) && *next != (path.clone(), run));
        chain.push(Because { path, run, request, causes });
    }
    Ok(chain)
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

/// Returns the events of the transaction at a position.
fn events_at(position: u64, read: &mut Read<'_>) -> Result<Vec<Event>, JournalError> {
    let mut retelling = Retelling::default();
    if position > 1 {
        let filter = HistoryFilter {
            to: Some(position - 1),
            limit: 1,
            newest_first: true,
            ..HistoryFilter::default()
        };
        for transaction in read(&filter)?.iter().flat_map(|entry| &entry.transactions) {
            retelling.tell(transaction);
        }
    }
    let filter = HistoryFilter { from: Some(position), to: Some(position), ..HistoryFilter::default() };
    let entries = read(&filter)?;
    let found = entries.iter().flat_map(|entry| &entry.transactions).find(|found| found.position == position);
    Ok(found.map(|transaction| retelling.tell(transaction)).unwrap_or_default())
}
