//! Check that this program can take over the App in a journal. It starts and changes nothing.

use std::path::Path;
use std::sync::Arc;

use super::config::OnMismatch;
use super::driver::{
    Adapted, Recovery, Renewed, UnreadInputs, adapt, forget_children, moved, moved_inputs, read_inputs,
};
use super::error::AppError;
use super::launch::App;
use crate::fence;
use crate::flow::{AnyFlow, Node, Position, Rekeyed, Restored, Visitor, Walk};
use crate::id::{ActorPath, AppId};
use crate::journal::{Reader, Table, drop_path};
use crate::payload::never_wait_here;
use crate::printable::chain;
use crate::runtime;
use crate::work::WorkType;

/// Findings of this program in a journal.
#[derive(Debug, Clone, Default)]
pub(crate) struct TakeOver {
    /// The numbers of recorded Works and Flows.
    pub(crate) works: usize,
    pub(crate) flows: usize,
    /// Fields that the program has and the record lacks, as `path: field`.
    pub(crate) added: Vec<String>,
    /// Recorded fields that the program does not have any more.
    pub(crate) removed: Vec<String>,
    /// Fields that are read by an alias, with their recorded names.
    pub(crate) renamed: Vec<String>,
    /// Recorded Works and Flows that the program does not have.
    pub(crate) parked: Vec<ActorPath>,
    /// Works with remembered inputs that have other keys in this program.
    pub(crate) rekeyed: Vec<String>,
    /// The remembered inputs that this program cannot read.
    pub(crate) unread: Option<String>,
    /// Why the program cannot take over.
    pub(crate) refusals: Vec<String>,
    /// Parts of the record that begin anew with `--on-mismatch park` and `fresh`; `None` if they are of no help.
    pub(crate) renewed: Option<Vec<Renewed>>,
}

impl App {
    /// Reads the journal in a directory with this program: makes the root by its constructor and restores it, on a thread
    /// of its own. No Flow reacts, and no Work runs.
    ///
    /// # Errors
    /// [`AppError`] if the journal cannot be read, or the root cannot be made.
    pub(crate) fn take_over(self, directory: &Path) -> Result<TakeOver, AppError> {
        self.complete_args()?;
        let directory = directory.to_owned();
        let thread = std::thread::Builder::new().name("flowright".to_owned());
        let spawned = thread.spawn(move || self.read_journal(&directory)).map_err(AppError::Thread)?;
        spawned.join().unwrap_or_else(|_| Err(AppError::Internal("its thread panicked".to_owned())))
    }

    fn read_journal(self, directory: &Path) -> Result<TakeOver, AppError> {
        let (moment, mut live) = Reader::open(directory)
            .and_then(|mut reader| reader.live_at(None))
            .map_err(|error| AppError::Journal(error.into()))?;
        never_wait_here();
        let runtime = self.new_runtime(Arc::default(), (AppId::next(), 0), None);
        runtime::belong(runtime.clone());
        let _running = runtime.start();
        let mut root = fence::call(self.make).map_err(|panic| AppError::Constructor(panic.to_string()))?;
        let refusals = root.problems().iter().map(|problem| chain(problem)).collect();
        let mut found = TakeOver { refusals, ..TakeOver::default() };
        let of_table = |table| live.actors.values().filter(|actor| actor.rows.contains_key(&table)).count();
        (found.works, found.flows) = (of_table(Table::Work), of_table(Table::Flow));
        let moved = match moved(&mut live, &self.moves) {
            Ok(moved) => moved.paths,
            Err(AppError::Unrestorable(problems)) => {
                found.refusals.extend(problems.problems().iter().cloned());
                return Ok(found);
            }
            Err(error) => return Err(error),
        };
        let mut adapted = |on_mismatch| {
            adapt(live.clone(), &moved, on_mismatch, moment.position, |recovery| {
                if recovery.is_empty() { Ok(Restored::default()) } else { root.restore(recovery.tree()) }
            })
        };
        let named = |path: &ActorPath, field: &str| format!("{path}: {field}");
        match adapted(OnMismatch::Refuse) {
            Ok(Adapted { restored, mut recovery, .. }) => {
                read_all_inputs(&mut *root, &mut recovery, &mut found);
                let removed = restored.removed_fields.iter();
                found.removed = removed.map(|removed| named(&removed.path, &removed.field)).collect();
                for new in &restored.new_fields {
                    match &new.recorded {
                        None => found.added.push(named(&new.path, &new.field)),
                        Some(recorded) => {
                            let field = format!("{recorded} -> {}", new.field);
                            found.renamed.push(named(&new.path, &field));
                        }
                    }
                }
                found.parked = restored.unused;
            }
            Err(AppError::Unrestorable(problems)) => {
                found.refusals.extend(problems.problems().iter().cloned());
                found.renewed = adapted(OnMismatch::Park).ok().map(|adapted| adapted.renewed);
            }
            Err(error) => return Err(error),
        }
        Ok(found)
    }
}

/// Finds the remembered inputs that have other keys in this program, and those that it cannot read.
fn read_all_inputs(root: &mut dyn AnyFlow, recovery: &mut Recovery, found: &mut TakeOver) {
    let mut works = RestoredWorks(Vec::new());
    if let Err(panic) = fence::call(|| root.walk_children(&mut Walk::new("", &mut works))) {
        found.refusals.push(format!("a collection of children panicked: {panic}"));
    }
    let mut unread = UnreadInputs::default();
    for (path, kind) in works.0 {
        let Some(mut image) = recovery.images.remove(&path) else { continue };
        let given = recovery.given.remove(&path).unwrap_or_default();
        let Some(Rekeyed { inputs, why, .. }) = read_inputs(kind, &mut image, &given) else { continue };
        if inputs.moved > 0 {
            found.rekeyed.push(format!("{path}: {}", moved_inputs(&inputs)));
        }
        unread.add(&path, inputs, why);
    }
    found.unread = unread.describe();
}

/// The Works that were restored, with their types.
struct RestoredWorks(Vec<(ActorPath, &'static WorkType)>);

impl Visitor for RestoredWorks {
    fn field(&mut self, _: &str) {}

    fn child(&mut self, position: Position<'_>, node: Node<'_>) {
        match node {
            Node::Work(work) => {
                self.0.extend(work.restored_name().map(|name| (name.clone(), work.kind())));
            }
            Node::Flow(flow) => flow.walk_children(&mut Walk::new(position.path, self)),
        }
    }
}

/// Deletes what is recorded of an actor and of all actors below it, and returns their paths.
///
/// # Errors
/// [`AppError::Journal`] if the journal cannot be read or written; nothing is deleted then.
pub(crate) fn drop_from_journal(directory: &Path, path: &ActorPath) -> Result<Vec<ActorPath>, AppError> {
    drop_path(directory, path, |live| forget_children(live, path).map_err(|error| chain(&error)))
        .map_err(|error| AppError::Journal(error.into()))
}
