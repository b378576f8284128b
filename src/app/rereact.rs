//! Recorded reactions, compared with those of the program as it is now. Nothing is started or changed.

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::{Duration, SystemTime};

use thiserror::Error;

use super::driver::{Decision, Differing, Reactions, Rehearsal, Unknown};
use super::error::AppError;
use super::history::{At, AtRange};
use super::launch::App;
use super::watchdog::{Stuck, Watchdog};
use crate::fence;
use crate::id::{ActorPath, AppId};
use crate::journal::{HistoryEntry, HistoryFilter, JournalError, Moment, Reader};
use crate::payload::never_wait_here;
use crate::runtime;

/// Number of groups that are read at a time.
const AT_ONCE: usize = 256;

/// The interval at which it is looked whether a Flow returns.
const PATIENCE: Duration = Duration::from_secs(1);

/// Error returned when reactions cannot be compared.
#[derive(Debug, Error)]
pub(crate) enum NoRehearsal {
    #[error(transparent)]
    App(#[from] AppError),
    #[error("the journal begins after the range; `journal history` shows from which position it can be read")]
    TooEarly,
    #[error("{0}; nothing of the journal is changed")]
    Stuck(Stuck),
    /// A change does not fit the data before it.
    #[error("the journal is damaged: {0}; see `journal check`")]
    Damaged(String),
}

impl From<JournalError> for NoRehearsal {
    fn from(error: JournalError) -> Self {
        Self::App(AppError::Journal(error.into()))
    }
}

/// The result of one reaction.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Comparison {
    Equal,
    Different(Differing),
    /// What the Flow saw is not known: states of one commit were recorded together, or a Work has left with its last
    /// run.
    Unrecorded,
    /// The program cannot read the record.
    Unreadable(String),
}

/// A reaction that was carried out again.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rereaction {
    pub(crate) position: u64,
    pub(crate) wall: SystemTime,
    pub(crate) flow: ActorPath,
    pub(crate) comparison: Comparison,
}

/// The range of positions that was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reenacted {
    pub(crate) from: u64,
    pub(crate) to: u64,
}

enum Event {
    Reaction(Rereaction),
    End(Result<Reenacted, NoRehearsal>),
}

impl App {
    /// Calls `react` of this program for each recorded reaction in a range, on a thread of its own, and compares what
    /// it asks for with what was recorded. No Work is started, and the journal stays as it is.
    ///
    /// # Errors
    /// [`NoRehearsal`] if the journal cannot be read, the root cannot be made, or a Flow does not return.
    pub(crate) fn rereact(
        self,
        directory: &Path,
        range: AtRange,
        mut on_reaction: impl FnMut(Rereaction),
    ) -> Result<Reenacted, NoRehearsal> {
        let directory = directory.to_owned();
        let (watchdog, _gave_up) = Watchdog::start(self.config.grace()).map_err(AppError::Thread)?;
        let (sender, events) = mpsc::channel();
        let watched = watchdog.clone();
        let spawned = std::thread::Builder::new().name("flowright".to_owned()).spawn(move || {
            let compared = self.compare(&directory, range, watched, &sender);
            // The receiver waits for the end, unless it has given up.
            let _ = sender.send(Event::End(compared));
        });
        spawned.map_err(AppError::Thread)?;
        let result = loop {
            match events.recv_timeout(PATIENCE) {
                Ok(Event::Reaction(reaction)) => on_reaction(reaction),
                Ok(Event::End(result)) => break result,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    if let Some(stuck) = watchdog.stuck() {
                        break Err(NoRehearsal::Stuck(stuck));
                    }
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    break Err(AppError::Internal("its thread panicked".to_owned()).into());
                }
            }
        };
        watchdog.end();
        result
    }

    fn compare(
        self,
        directory: &Path,
        range: AtRange,
        watchdog: Watchdog,
        events: &mpsc::Sender<Event>,
    ) -> Result<Reenacted, NoRehearsal> {
        let mut reader = Reader::open(directory)?;
        let Reenacted { from, to } = positions(&mut reader, range)?;
        let (Moment { position, .. }, live) = reader.live_at(Some(from.saturating_sub(1)))?;
        let starts = reader.starts()?.into_iter().map(|start| start.position + 1);
        let mut reactions = Reactions::new(live, starts);
        never_wait_here();
        let app = AppId::next();
        let runtime = self.new_runtime(Arc::default(), (app, 0), None);
        runtime::belong(runtime.clone());
        let _running = runtime.start();
        let Self { make, config, moves, .. } = self;
        let root = fence::call(make).map_err(|panic| AppError::Constructor(panic.to_string()))?;
        let mut rehearsal = Rehearsal::new(root, watchdog, app, config, moves);
        let mut next = position + 1;
        while next <= to {
            let filter =
                HistoryFilter { from: Some(next), to: Some(to), limit: AT_ONCE, ..HistoryFilter::default() };
            let entries = reader.history(&filter)?;
            let Some(last) = entries.last().and_then(|entry| entry.transactions.last()) else { break };
            next = last.position + 1;
            for entry in &entries {
                compare_group(&mut reactions, &mut rehearsal, entry, from, events)?;
            }
        }
        Ok(Reenacted { from, to })
    }
}

/// Compares the reactions of one group.
fn compare_group(
    reactions: &mut Reactions,
    rehearsal: &mut Rehearsal,
    entry: &HistoryEntry,
    from: u64,
    events: &mpsc::Sender<Event>,
) -> Result<(), NoRehearsal> {
    let added = reactions.add(entry, from, |scene| {
        let is_known = scene.then.keys().any(|flow| !scene.unknown.contains_key(flow));
        let rehearsed = if is_known { rehearsal.rehearse(&scene) } else { Ok(Default::default()) };
        let none = Decision::default();
        let mut flows: Vec<_> = scene.then.keys().collect();
        if let Ok(now) = &rehearsed {
            // Flows that only react now.
            flows.extend(now.keys().filter(|flow| !scene.then.contains_key(*flow)));
        }
        for flow in flows {
            let comparison = match (scene.unknown.get(flow), &rehearsed) {
                (Some(Unknown::Unrecorded), _) => Comparison::Unrecorded,
                (Some(Unknown::Unreadable(why)), _) => Comparison::Unreadable(why.clone()),
                (None, Err(problems)) => Comparison::Unreadable(problems.join("; ")),
                (None, Ok(now)) => {
                    let recorded = scene.then.get(flow);
                    let then = recorded.unwrap_or(&none);
                    let differing = Decision::differing(then, now.get(flow).unwrap_or(&none));
                    if differing.is_empty() && recorded.is_none() {
                        continue;
                    }
                    if differing.is_empty() { Comparison::Equal } else { Comparison::Different(differing) }
                }
            };
            let wall = scene.wall.unwrap_or(SystemTime::UNIX_EPOCH);
            let reaction = Rereaction { position: scene.position, wall, flow: flow.clone(), comparison };
            // The receiver may have given up.
            let _ = events.send(Event::Reaction(reaction));
        }
    });
    added.map_err(NoRehearsal::Damaged)
}

/// Returns the positions of a range, as far as the journal has them.
fn positions(reader: &mut Reader, range: AtRange) -> Result<Reenacted, NoRehearsal> {
    let (last, _) = reader.live_at(None)?;
    let oldest = HistoryFilter { limit: 1, ..HistoryFilter::default() };
    let first = reader.history(&oldest)?.first().map_or(last.position + 1, |entry| entry.first);
    let mut position = |at: At, is_from: bool| match at {
        At::Position(position) => Ok::<_, NoRehearsal>(position),
        At::Time(wall) => match reader.position_at(wall)? {
            Some(position) => Ok(position + u64::from(is_from)),
            None if is_from => Ok(first),
            None => Err(NoRehearsal::TooEarly),
        },
    };
    let (from, to) = match range {
        AtRange { from: Some(At::Time(from)), to: Some(At::Time(to)) } if from == to => {
            let at = position(At::Time(from), false)?;
            (at, at)
        }
        AtRange { from, to } => (
            from.map(|at| position(at, true)).transpose()?.unwrap_or(first),
            to.map(|at| position(at, false)).transpose()?.unwrap_or(last.position),
        ),
    };
    if from < first && last.position > 0 || to < first {
        return Err(NoRehearsal::TooEarly);
    }
    if from > last.position {
        let (position, oldest, newest) = (from, first, last.position);
        return Err(JournalError::NoPosition { position, oldest, newest }.into());
    }
    Ok(Reenacted { from, to: to.min(last.position) })
}
