//! Events of the history, in words.
//!
//! # Guarantees
//! - Events of one transaction are in causal order: what the Flows saw, then what they decided.
//! - What only shows in the difference to an earlier row, such as the start of a run, is told once the earlier row is
//!   known, or if its time is not before the transaction that was read first.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde_json::Value as Json;

use crate::app::driver::{APP, AppRow, CHILDREN, FACTS, FlowRow, SETTINGS};
use crate::flow::{Fact, RowError, RunEntry, WorkFacts, decoded};
use crate::id::ActorPath;
use crate::journal::{Change, RecordedTransaction, Table};
use crate::state::{FieldChange, Value};
use crate::wire;
use crate::work::{Stage, Status, StepId, StepOutcome};

/// Longest JSON text of an input or a field that is shown, in bytes.
const LONGEST: usize = 4 * 1024;

/// Largest number of characters of a value in the words of an event.
const BRIEF: usize = 80;

/// Something that happened to an actor, or to the App at the path of the root.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    pub(crate) position: u64,
    pub(crate) wall: SystemTime,
    pub(crate) path: ActorPath,
    pub(crate) what: What,
}

impl Event {
    /// Returns the event as JSON: `position`, `time`, `path`, `event`, `text`, and the particulars of the event.
    pub(crate) fn to_json(&self) -> Json {
        let Self { position, wall, path, what } = self;
        let time = DateTime::<Utc>::from(*wall).to_rfc3339_opts(SecondsFormat::Millis, true);
        let text = crate::printable::one_line(&what.to_string()).into_owned();
        let mut json = serde_json::to_value(what).unwrap_or_default();
        if let Json::Object(fields) = &mut json {
            fields.insert("position".to_owned(), (*position).into());
            fields.insert("time".to_owned(), time.into());
            fields.insert("path".to_owned(), path.as_str().into());
            fields.insert("text".to_owned(), text.into());
        }
        json
    }
}

/// The kind of an event.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum What {
    /// The App began with nothing recorded.
    Began {
        root: String,
    },
    /// An App or a tool opened the journal.
    Opened {
        program: String,
        epoch: u64,
    },
    /// An operator stopped the Work.
    Held {
        by: String,
    },
    /// An operator, or the Flow, lifted the operator's stop.
    Released,
    RunStarted {
        run: u64,
        attempt: u32,
        node: Option<String>,
    },
    RunEnded {
        run: Option<u64>,
        attempt: u32,
        stage: Stage,
        reason: Option<String>,
        message: Option<String>,
        input: Option<Json>,
        /// The output of a run that has succeeded, if it is small.
        #[serde(skip_serializing_if = "Option::is_none")]
        output: Option<Json>,
        seconds: Option<f64>,
        node: Option<String>,
    },
    /// A step of a run is done, or is about to be carried out.
    Step {
        name: String,
        #[serde(rename = "done")]
        is_done: bool,
    },
    /// The state was set as a whole, or these fields of it changed.
    StateChanged {
        fields: Vec<Field>,
    },
    /// The stage of a Work changed for another reason than the end of a run.
    Stage {
        stage: Stage,
        message: Option<String>,
    },
    /// A schedule of the Flow occurred.
    Scheduled {
        expression: String,
    },
    Left,
    Joined,
    RunRequested {
        /// Place of the run in the queue of its Work.
        #[serde(skip)]
        place: u64,
        input: Option<Json>,
    },
    /// A requested run was dropped before it began.
    RunDropped,
    InputForgotten,
    /// The remembered inputs of the Work were read as another type of input.
    InputsRead {
        /// The number of those that have another key since.
        moved: u64,
        /// The number of those that cannot be read, and are kept.
        kept: u64,
    },
    /// A row that cannot be decoded.
    Unreadable {
        error: String,
    },
}

/// A field that changed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Field {
    pub(crate) name: String,
    /// The new value, unless the field was removed or only parts of it changed, or it is large.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) value: Option<Json>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) removed: bool,
}

/// Returns the JSON of a value, unless it is large.
fn small(value: &Value) -> Option<Json> {
    (wire::length(value) <= LONGEST).then(|| value.to_json())
}

fn input(bytes: &[u8]) -> Option<Json> {
    if bytes.len() > LONGEST {
        return None;
    }
    wire::decode::<Value>(bytes).ok().map(|value| value.to_json())
}

fn brief(json: &Json) -> String {
    crate::printable::brief(&json.to_string(), BRIEF)
}

impl Field {
    fn new(name: String, change: FieldChange<'_>) -> Self {
        let value = if let FieldChange::To(value) = change { small(value) } else { None };
        Self { name, value, removed: change == FieldChange::Removed }
    }

    fn of_state(state: &Value) -> Vec<Self> {
        let names: Vec<_> = state.field_names().collect();
        let field = |name: &&str| Self {
            name: (*name).to_owned(),
            value: state.field(name).and_then(small),
            removed: false,
        };
        names.iter().map(field).collect()
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = crate::printable::brief(&self.name, BRIEF);
        match &self.value {
            Some(value) => write!(f, "{name} = {}", brief(value)),
            None if self.removed => write!(f, "{name} (removed)"),
            None => write!(f, "{name} (changed)"),
        }
    }
}

impl What {
    /// The order within a transaction.
    fn rank(&self) -> u8 {
        match self {
            Self::Opened { .. } => 0,
            Self::Began { .. } => 1,
            Self::Held { .. } | Self::Released => 2,
            Self::RunStarted { .. } | Self::Step { .. } => 3,
            Self::StateChanged { .. } => 4,
            Self::RunEnded { .. } => 5,
            Self::Stage { .. } => 6,
            Self::Scheduled { .. } => 7,
            Self::Left => 8,
            Self::Joined => 9,
            Self::RunDropped | Self::InputForgotten | Self::InputsRead { .. } => 10,
            Self::RunRequested { .. } => 11,
            Self::Unreadable { .. } => 12,
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let with = |input: &Option<Json>| match input {
            Some(input) => format!(" with {}", brief(input)),
            None => String::new(),
        };
        let on = |node: &Option<String>| node.as_ref().map(|node| format!(" on {node}")).unwrap_or_default();
        match self {
            Self::Began { root } => write!(f, "the App began, with the root {root}"),
            Self::Opened { program, epoch } if program.is_empty() => {
                write!(f, "the journal was opened (epoch {epoch})")
            }
            Self::Opened { program, epoch } => {
                write!(f, "the journal was opened by {program} (epoch {epoch})")
            }
            Self::Held { by } => write!(f, "stopped by {by}, until it is started"),
            Self::Released => f.write_str("the stop of an operator was lifted"),
            Self::RunStarted { run, attempt, node } => {
                write!(f, "run {run} started, attempt {attempt}{}", on(node))
            }
            Self::RunEnded { run, stage, reason, message, input, output, seconds, node, .. } => {
                match run {
                    Some(run) => write!(f, "run {run} {stage}")?,
                    None => write!(f, "a run {stage}")?,
                }
                if let Some(seconds) = seconds {
                    write!(f, " after {:?}", Duration::from_secs_f64(seconds.max(0.0)))?;
                }
                f.write_str(&on(node))?;
                if let Some(input) = input {
                    write!(f, ", input {}", brief(input))?;
                }
                if let Some(output) = output {
                    write!(f, ", output {}", brief(output))?;
                }
                match (reason, message) {
                    (Some(reason), Some(message)) => write!(f, ": {reason}: {message}"),
                    (Some(text), None) | (None, Some(text)) => write!(f, ": {text}"),
                    (None, None) => Ok(()),
                }
            }
            Self::Step { name, is_done: true } => write!(f, "step `{name}` is done"),
            Self::Step { name, is_done: false } => write!(f, "step `{name}` begins"),
            Self::StateChanged { fields } if fields.is_empty() => f.write_str("state changed"),
            Self::StateChanged { fields } => {
                let fields: Vec<_> = fields.iter().map(ToString::to_string).collect();
                write!(f, "state: {}", fields.join(", "))
            }
            Self::Stage { stage, message: Some(message) } => write!(f, "{stage}: {message}"),
            Self::Stage { stage, message: None } => write!(f, "{stage}"),
            Self::Scheduled { expression } => write!(f, "the schedule `{expression}` occurred"),
            Self::Left => f.write_str("left"),
            Self::Joined => f.write_str("joined"),
            Self::RunRequested { input, .. } => write!(f, "run requested{}", with(input)),
            Self::RunDropped => f.write_str("a requested run was dropped before it began"),
            Self::InputForgotten => f.write_str("an input was forgotten"),
            Self::InputsRead { moved, kept: 0 } => {
                write!(f, "the type of input has changed: {moved} remembered inputs have another key")
            }
            Self::InputsRead { moved, kept } => write!(
                f,
                "the type of input has changed: {moved} remembered inputs have another key, and {kept} cannot be read and \
                 are kept"
            ),
            Self::Unreadable { error } => write!(f, "a row cannot be read: {error}"),
        }
    }
}

/// Turns transactions, which are given in their order, into events.
#[derive(Default)]
pub(crate) struct Retelling {
    works: HashMap<ActorPath, WorkFacts>,
    flows: HashMap<ActorPath, FlowRow>,
    /// Actors that are known to be part of the App.
    members: HashSet<ActorPath>,
    /// The time of the last transaction, in milliseconds since 1970.
    before: Option<u64>,
}

fn millis(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// The changes of one actor in a transaction.
#[derive(Default)]
struct OfActor<'t> {
    facts: Vec<Fact>,
    has_settings: bool,
    has_children: bool,
    flow: Option<FlowRow>,
    root: Option<String>,
    state: Option<&'t Change>,
    is_merged: bool,
    has_left: bool,
    errors: Vec<RowError>,
}

impl<'t> OfActor<'t> {
    fn row(&mut self, table: Table, key: &[u8], value: Option<&[u8]>) -> Result<(), RowError> {
        match (table, value) {
            (Table::Work, Some(_)) if key == SETTINGS => self.has_settings = true,
            (Table::Flow, Some(_)) if key == CHILDREN => self.has_children = true,
            (Table::Flow, Some(value)) if key == FACTS => self.flow = Some(decoded(table, value)?),
            (Table::App, Some(value)) if key == APP => {
                self.root = Some(decoded::<AppRow>(table, value)?.root);
            }
            _ => self.facts.extend(Fact::from_row(table, key, value)?),
        }
        Ok(())
    }

    fn change(&mut self, change: &'t Change) {
        let read = match change {
            Change::Put { table, key, value, .. } => self.row(*table, key, Some(value)),
            Change::Delete { table, key, .. } => self.row(*table, key, None),
            Change::State { .. } | Change::Patch { .. } => {
                self.state = Some(change);
                Ok(())
            }
            Change::Left { .. } => {
                *self = Self { has_left: true, ..Self::default() };
                Ok(())
            }
        };
        self.errors.extend(read.err());
    }
}

impl Retelling {
    /// Returns the events of the next transaction.
    pub(crate) fn tell(&mut self, transaction: &RecordedTransaction) -> Vec<Event> {
        // In the order in which the actors are first named.
        let (mut order, mut actors) = (Vec::new(), HashMap::<&ActorPath, OfActor<'_>>::new());
        let paths = transaction.changes.iter().map(Change::path).chain(&transaction.merged);
        for path in paths {
            if !actors.contains_key(path) {
                order.push(path);
                actors.insert(path, OfActor::default());
            }
        }
        for change in &transaction.changes {
            actors.entry(change.path()).or_default().change(change);
        }
        for path in &transaction.merged {
            actors.entry(path).or_default().is_merged = true;
        }
        let mut events = Vec::new();
        for path in order {
            let Some(actor) = actors.remove(path) else { continue };
            let mut told = Vec::new();
            self.actor(path, actor, &mut told);
            let (position, wall) = (transaction.position, transaction.wall);
            let event = |what| Event { position, wall, path: path.clone(), what };
            events.extend(told.into_iter().map(event));
        }
        events.sort_by_key(|event| event.what.rank());
        self.before = Some(millis(transaction.wall));
        events
    }

    /// Returns true for a time that is not before the last transaction.
    fn is_new(&self, millis: u64) -> bool {
        self.before.is_none_or(|before| millis >= before)
    }

    fn actor(&mut self, path: &ActorPath, actor: OfActor<'_>, told: &mut Vec<What>) {
        let OfActor { facts, has_settings, has_children, flow, root, state, is_merged, has_left, errors } =
            actor;
        if has_left {
            self.works.remove(path);
            self.flows.remove(path);
            self.members.remove(path);
            told.push(What::Left);
        }
        told.extend(root.map(|root| What::Began { root }));
        let has_state = state.is_some() || is_merged;
        let was_known = facts.iter().any(|fact| matches!(fact, Fact::Work(work) if !work.is_new()));
        let is_new_work = has_settings && has_state && !was_known;
        let is_new_flow = has_children && flow.is_some() && has_state && !path.is_root();
        let has_joined = (is_new_work || is_new_flow) && !self.members.contains(path);
        if has_settings || has_children || flow.is_some() || has_joined {
            self.members.insert(path.clone());
        }
        if has_joined {
            told.push(What::Joined);
        }
        let fields = match state {
            Some(Change::State { state, .. }) => Field::of_state(state),
            Some(Change::Patch { patch, .. }) => {
                patch.fields().into_iter().map(|(name, change)| Field::new(name, change)).collect()
            }
            _ => Vec::new(),
        };
        if has_state && !has_joined {
            told.push(What::StateChanged { fields });
        }
        if let Some(row) = flow {
            self.flow(path, row, told);
        }
        self.facts(path, facts, told);
        let unreadable = |error: RowError| What::Unreadable { error: crate::printable::chain(&error) };
        told.extend(errors.into_iter().map(unreadable));
    }

    fn flow(&mut self, path: &ActorPath, row: FlowRow, told: &mut Vec<What>) {
        let before = self.flows.get(path);
        for schedule in &row.schedules {
            let (expression, last) = schedule.occurrence();
            let Some(last) = last else { continue };
            let earlier = before.map(|before| {
                before.schedules.iter().any(|earlier| earlier.occurrence() == (expression, Some(last)))
            });
            let is_new = match earlier {
                Some(is_known) => !is_known,
                None => self.is_new(u64::try_from(last).unwrap_or(0)),
            };
            if is_new {
                told.push(What::Scheduled { expression: expression.to_owned() });
            }
        }
        let is_same = match before {
            Some(before) => before.status.stage == row.status.stage && before.status.seq == row.status.seq,
            None => !self.is_new(millis(row.status.time)),
        };
        let has_news = matches!(row.status.stage, Stage::Failed | Stage::Stopped | Stage::Pending);
        let was_failed = before.is_some_and(|before| before.status.stage == Stage::Failed);
        if !is_same && (has_news || was_failed) {
            told.push(stage_of(&row.status));
        }
        self.flows.insert(path.clone(), row);
    }

    fn facts(&mut self, path: &ActorPath, facts: Vec<Fact>, told: &mut Vec<What>) {
        let ended = facts.iter().filter(|fact| matches!(fact, Fact::Ended { .. })).count();
        let attempted = facts.iter().filter(|fact| matches!(fact, Fact::Attempted { .. })).count();
        let requested: Vec<u64> = facts
            .iter()
            .filter_map(|fact| if let Fact::Requested { place, .. } = fact { Some(*place) } else { None })
            .collect();
        // An input that is known by another key is none that was forgotten.
        let mut moved = facts
            .iter()
            .map(|fact| if let Fact::InputsRead(read) = fact { read.moved } else { 0 })
            .sum::<u64>();
        for fact in facts {
            match fact {
                Fact::Requested { place, input: given, .. } => {
                    told.push(What::RunRequested { place, input: input(&given.bytes) });
                }
                Fact::InputsRead(read) if read.moved + read.kept() > 0 => {
                    told.push(What::InputsRead { moved: read.moved, kept: read.kept() });
                }
                Fact::Forgotten { .. } if moved > 0 => moved -= 1,
                Fact::Forgotten { .. } => told.push(What::InputForgotten),
                Fact::Attempted { entry, .. } => told.push(end_of(entry)),
                Fact::Recorded(status) if attempted == 0 && is_news(&status) => {
                    // A run that waits for its turn is told by its request.
                    let waits = status.stage == Stage::Pending && !requested.is_empty();
                    if !waits {
                        told.push(stage_of(&status));
                    }
                }
                Fact::Work(work) => self.work(path, work, told),
                // It is told with the end of its run.
                Fact::Step { step, .. } if step.id == StepId::OUTPUT => {}
                Fact::Step { step, .. } => {
                    let is_done = matches!(step.outcome, StepOutcome::Done { .. });
                    told.push(What::Step { name: step.name, is_done });
                }
                Fact::Ended { .. }
                | Fact::OtherKey { .. }
                | Fact::Given { .. }
                | Fact::InputsRead(_)
                | Fact::Input { .. }
                | Fact::Waits { .. }
                | Fact::Recorded(_)
                | Fact::StepsForgotten { .. } => {}
            }
        }
        for _ in attempted..ended {
            told.push(What::RunDropped);
        }
    }

    fn work(&mut self, path: &ActorPath, work: WorkFacts, told: &mut Vec<What>) {
        let before = self.works.get(path);
        if let Some(run) = work.run_in_progress()
            && let Some(started) = run.started
        {
            let earlier = before.map(|before| {
                let earlier = before.run_in_progress();
                earlier.is_some_and(|earlier| earlier.run == run.run && earlier.started.is_some())
            });
            let is_new = match earlier {
                Some(is_known) => !is_known,
                None => self.is_new(millis(started)),
            };
            if is_new {
                let node = run.node.map(|node| node.to_string());
                told.push(What::RunStarted { run: run.run, attempt: run.attempt, node });
            }
        }
        match (before.map(WorkFacts::held), work.held()) {
            (Some(Some(_)), None) => told.push(What::Released),
            (Some(Some(earlier)), Some(held)) if millis(earlier.since) == millis(held.since) => {}
            (None, Some(held)) if !self.is_new(millis(held.since)) => {}
            (_, Some(held)) => told.push(What::Held { by: held.by.to_string() }),
            (_, None) => {}
        }
        self.works.insert(path.clone(), work);
    }
}

/// Returns true for a status that no event of a run tells.
fn is_news(status: &Status) -> bool {
    let is_told = matches!(status.stage, Stage::NotStarted | Stage::Running | Stage::Succeeded);
    !is_told && status.message.is_some()
}

fn stage_of(status: &Status) -> What {
    What::Stage { stage: status.stage, message: status.message.clone() }
}

fn end_of(entry: RunEntry) -> What {
    let RunEntry { run, attempt, stage, reason, message, input: given, output, started, ended, node, .. } =
        entry;
    let took = started.zip(ended).and_then(|(started, ended)| ended.duration_since(started).ok());
    What::RunEnded {
        run,
        attempt,
        stage,
        reason: reason.map(|reason| reason.to_string()),
        message: message.map(|message| message.to_string()),
        input: given.as_deref().and_then(input),
        output: output.as_deref().and_then(input),
        seconds: took.map(|took| took.as_secs_f64()),
        node: node.map(|node| node.to_string()),
    }
}
