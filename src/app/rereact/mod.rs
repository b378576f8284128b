//! Recorded reactions, repeated with the program as it is now: what does it ask for on what was seen then?
//!
//! # Guarantees
//! - Nothing is started, sent or recorded; only constructors, `react`, `strategy` and the code that reads and writes
//!   states are called.
//! - A difference is reported only where all that the reaction could see is recorded. Other reactions are counted.
//! - Whatever a journal contains, nothing panics.

mod comparison;
mod course;
mod decision;
mod span;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::SystemTime;

use thiserror::Error;

use self::course::Course;
pub(crate) use self::decision::Decision;
use self::decision::Unreadable;
pub(crate) use self::span::Span;
pub(crate) use super::driver::Missing;
use super::driver::{Cycle, Repeater};
use super::error::AppError;
use super::hosts::{Elsewhere, Hosts};
use super::launch::App;
use super::watchdog::Watchdog;
use crate::fence;
use crate::id::{ActorPath, AppId};
use crate::journal::{JournalError, Reader};
use crate::payload::never_wait_here;
use crate::runtime;
use crate::state::StateError;
use crate::work::{Directory, LocalHost, start_system};

/// Number of reactions that differ and wait to be shown.
const WAITING: usize = 64;

/// The result of repeating recorded reactions.
#[derive(Debug, Default)]
pub(crate) struct Rereacted {
    /// The first and the last position that were read; `None` if the history has none of them.
    pub(crate) positions: Option<(u64, u64)>,
    /// Number of reactions.
    pub(crate) reactions: u64,
    /// Number of reactions that ask for something else now.
    pub(crate) differing: u64,
    /// Numbers of reactions that are not recorded in full, by what is missing.
    pub(crate) missing: BTreeMap<Missing, u64>,
}

/// A reaction that asks for something else now than it did then. The reactions of a Flow in one transaction count as one.
#[derive(Debug)]
pub(crate) struct Differing {
    pub(crate) position: u64,
    pub(crate) wall: SystemTime,
    pub(crate) flow: ActorPath,
    /// The number of the reaction of the Flow in its process, from 1.
    pub(crate) number: u64,
    pub(crate) then: Vec<Decision>,
    pub(crate) now: Vec<Decision>,
}

/// Error returned when recorded reactions cannot be repeated.
#[derive(Debug, Error)]
pub(crate) enum RereactError {
    #[error(transparent)]
    App(#[from] AppError),
    #[error(
        "the journal has no history; it is recorded unless `--journal-history` or `--journal-history-days` is 0"
    )]
    NoHistory,
    #[error(
        "the journal begins after that time; leave out the begin of the range to take all that the journal has"
    )]
    TooEarly,
    #[error(
        "this program cannot read what is recorded at position {position}, as `journal check` would say of it; begin the range \
         behind what an older program has recorded, such as with `--at {}..`", position + 1
    )]
    At { position: u64, source: AppError },
    #[error("the changes at position {position} cannot be read")]
    Unreadable { position: u64, source: Unreadable },
    #[error("the changes at position {position} do not fit the state before; the journal is damaged")]
    Damaged { position: u64, source: StateError },
}

impl From<JournalError> for RereactError {
    fn from(error: JournalError) -> Self {
        Self::App(AppError::Journal(error.into()))
    }
}

impl App {
    /// Repeats the recorded reactions in a journal with the Flows of this program, on a thread of its own, and compares what
    /// they ask for. Calls `show` with each reaction that differs, in their order, until it returns false.
    ///
    /// # Errors
    /// [`RereactError`] if the journal cannot be read, or not with this program, or the root cannot be made.
    pub(crate) fn rereact(
        self,
        directory: &Path,
        span: Span,
        show: &mut dyn FnMut(Differing) -> bool,
    ) -> Result<Rereacted, RereactError> {
        self.complete_args()?;
        let directory = directory.to_owned();
        let (differs, differing) = sync_channel(WAITING);
        let thread = std::thread::Builder::new().name("flowright".to_owned());
        let spawned =
            thread.spawn(move || self.repeat(&directory, span, differs)).map_err(AppError::Thread)?;
        while let Ok(one) = differing.recv()
            && show(one)
        {}
        drop(differing);
        let broken = |_| Err(AppError::Internal("its thread panicked".to_owned()).into());
        spawned.join().unwrap_or_else(broken)
    }

    fn repeat(
        self,
        directory: &Path,
        span: Span,
        differs: SyncSender<Differing>,
    ) -> Result<Rereacted, RereactError> {
        let mut reader = Reader::open(directory)?;
        never_wait_here();
        let addresses = Arc::new(Directory::default());
        // Addresses in inputs name the App.
        let app = AppId::recorded(reader.app()?);
        let runtime = self.new_runtime(addresses.clone(), (app, 0), None);
        runtime::belong(runtime.clone());
        let _running = runtime.start();
        let (watchdog, _gave_up) = Watchdog::start(self.config.grace()).map_err(AppError::Thread)?;
        let watched = watchdog.clone();
        // Flows may spawn tasks, which never execute.
        let system = start_system(&runtime);
        let result = system.block_on(async move {
            let Self { make, config, moves, .. } = self;
            #[cfg(feature = "remote")]
            let elsewhere = Elsewhere::new(runtime.clone(), None);
            #[cfg(not(feature = "remote"))]
            let elsewhere = Elsewhere::default();
            let hosts = Hosts::new(LocalHost::inline(runtime.clone()), elsewhere);
            let root = fence::call(make).map_err(|panic| AppError::Constructor(panic.to_string()))?;
            let values = reader.values()?;
            let mut repeater = Repeater::new(root, config, hosts, runtime, watchdog, moves, values)?;
            // What the program cannot take over is refused, whatever the range is.
            let (_, live) = reader.live_at(None)?;
            let nothing = BTreeSet::new();
            repeater.repeat(Cycle { live, unknown: &nothing, reactions: &[], walls: &[] })?;
            Course::begin(&mut reader, span, differs)?.follow(&mut repeater)
        });
        watched.end();
        addresses.end();
        result
    }
}
