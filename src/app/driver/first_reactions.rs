//! The first reactions of a recovered App, to what its Flows have seen before: they should request no run whose input the
//! journal does not know. One that does makes each start run something once more.
//!
//! # Guarantees
//! - A Work is named only where nothing explains a new input: the build of the program is the one that has recorded the
//!   App, the Flows had reacted to all that is recorded, everything recorded is part of the tree as it was, and the Flow
//!   neither consumes an occurrence of a schedule nor has asked to be woken, so that it does not depend on the time.
//! - Each Work is named once in a start.
//! - After the first cycle it costs nothing.

use std::collections::{BTreeSet, HashSet};

use super::Driver;
use crate::flow::{FlowContext, Scope, encoded};
use crate::id::{ActorPath, FlowId};
use crate::journal::{Change, LiveActor, Table};
use crate::program::build_mark;

/// The key of the row of the App with the mark of the build that has recorded it last.
const BUILD: &[u8] = b"build";
/// The key of the row of the App that is there if updates are recorded to which no Flow has reacted.
const UNSEEN: &[u8] = b"unseen";

/// The first reactions of Flows.
#[derive(Debug, Default)]
pub(super) struct FirstReactions {
    /// True while nothing is known that a Flow has not seen before.
    is_unchanged: bool,
    reacted: HashSet<FlowId>,
    /// True once it is recorded that Flows have not reacted to everything.
    has_unseen: bool,
    /// The Works that were asked for a run with an unknown input.
    pub(super) unstable: BTreeSet<ActorPath>,
}

impl FirstReactions {
    /// Reads what the record of the App itself, if there is one, says of its last process. Returns the changes of this one.
    pub(super) fn recovered(&mut self, app: Option<&LiveActor>) -> Vec<Change> {
        let rows = app.and_then(|app| app.rows.get(&Table::App)).map(Vec::as_slice).unwrap_or_default();
        let row = |name: &[u8]| rows.iter().find(|(key, _)| key == name).map(|(_, value)| value);
        let build = build_mark().map(|build| encoded(&build));
        let is_same = build.as_ref().is_some_and(|build| row(BUILD).is_some_and(|value| value == build));
        self.is_unchanged = is_same && row(UNSEEN).is_none();
        let (path, table) = (ActorPath::root(), Table::App);
        let mut changes = Vec::new();
        if let (false, Some(value)) = (is_same, build) {
            changes.push(Change::Put { path: path.clone(), table, key: BUILD.to_vec(), value });
        }
        if row(UNSEEN).is_some() {
            changes.push(Change::Delete { path, table, key: UNSEEN.to_vec() });
        }
        changes
    }

    /// Notes that Flows see something new.
    pub(super) fn changed(&mut self) {
        self.is_unchanged = false;
    }

    /// Notes that an update is recorded to which no Flow reacts any more. Returns the change that says so, once.
    pub(super) fn unseen(&mut self) -> Option<Change> {
        let is_first = !std::mem::replace(&mut self.has_unseen, true);
        let (path, table, key) = (ActorPath::root(), Table::App, UNSEEN.to_vec());
        is_first.then(|| Change::Put { path, table, key, value: encoded(&true) })
    }
}

impl Driver {
    /// Returns the encoded schedules of a Flow that is about to react for the first time and sees nothing new.
    pub(super) fn before_first_reaction(&mut self, id: FlowId, cx: &FlowContext) -> Option<Vec<u8>> {
        let first = &mut self.resumed.first;
        if !first.is_unchanged || !first.reacted.insert(id) {
            return None;
        }
        if self.tree.flow(id).is_none_or(|entry| entry.wake_at.is_some()) {
            // What it decides depends on the time, and may be seen by the Flows that react after it.
            first.changed();
            return None;
        }
        Some(encoded(&cx.schedules.rows()))
    }

    /// Warns of Works that a Flow, whose schedules were `before`, has asked for a run with an unknown input in its first
    /// reaction.
    pub(super) fn after_first_reaction(
        &mut self,
        path: &ActorPath,
        before: &[u8],
        cx: &FlowContext,
        scope: &Scope,
    ) {
        if cx.wake_in.is_some() || encoded(&cx.schedules.rows()) != before {
            return self.resumed.first.changed();
        }
        for id in &scope.touched {
            let Some(shared) = self.tree.work(*id) else { continue };
            let mut record = shared.lock();
            if record.ledger.take_unknown_request() && self.resumed.first.unstable.insert(record.path.clone())
            {
                log::warn!(
                    "flow `{path}` has requested a run of work `{}` with an input that it had not requested before, although \
                     nothing that is recorded has changed: it may do so at each start. Take inputs from the state of Flows and \
                     Works, or from what starts the App, and not from the clock or a random number; `cx.schedule` and \
                     `cx.wake_in` are remembered",
                    record.path
                );
            }
        }
    }
}
