//! The decisions of reactions, read from the changes that they make (pure).

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::app::driver::{CHILDREN, ChildrenRow, FACTS, FlowRow, LifeRow, SETTINGS};
use crate::app::history::differences;
use crate::flow::{Fact, RowError, ScheduleRow, Shape, WorkFacts, WorkSettings, decoded};
use crate::id::ActorPath;
use crate::journal::{Change, Live, LiveActor, ReactionEnd, Table};
use crate::printable::brief;
use crate::state::{StateError, Value};
use crate::wire;
use crate::work::RunKey;

/// Longest input that is shown, encoded, in bytes.
const LONGEST: usize = 4 * 1024;

/// Largest number of characters of a value in words.
const BRIEF: usize = 200;

/// The decisions of reactions.
#[derive(Debug, Default)]
pub(crate) struct Decisions {
    pub(crate) all: Vec<Decision>,
    /// The paths of lists of children of which nothing was recorded before.
    pub(crate) new_lists: BTreeSet<String>,
}

/// Something that reactions ask for, with the Work or Flow that it is about.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Decision {
    pub(crate) path: ActorPath,
    pub(crate) what: What,
}

/// The kind of a decision.
#[derive(Debug, Clone)]
pub(crate) enum What {
    /// A run is requested.
    Run {
        key: RunKey,
        input: Option<Json>,
    },
    /// A requested run is dropped before it begins.
    Drop {
        key: Option<RunKey>,
        input: Option<Json>,
    },
    /// The outcome of an input is forgotten.
    Forget {
        key: RunKey,
        input: Option<Json>,
    },
    /// The Work is started, stopped or restarted.
    Life(&'static str),
    /// The stop of an operator is lifted.
    Release,
    /// A child joins, with its first state and, if it is a Work, its settings. A state that is `None` is not known.
    Join {
        state: Option<Value>,
        settings: Option<Box<WorkSettings>>,
    },
    Leave,
    /// A part of the own fields of the Flow has this value now; `None` if it was removed.
    Field {
        name: String,
        value: Option<Value>,
    },
    /// A field of the Flow has these children now.
    Children {
        field: String,
        shape: Option<Shape>,
    },
    /// The Flow is to be woken.
    Wake {
        after: Duration,
    },
    /// A schedule is started.
    Schedule {
        expression: String,
        zone: Option<String>,
    },
    /// An occurrence of a schedule is consumed.
    Occurrence {
        expression: String,
        zone: Option<String>,
    },
    /// The Flow fails or goes on.
    Fate(&'static str),
    /// The reaction ends in another way than by returning.
    End(ReactionEnd),
}

impl PartialEq for What {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Run { key, .. }, Self::Run { key: other, .. })
            | (Self::Forget { key, .. }, Self::Forget { key: other, .. }) => key == other,
            (Self::Drop { key, .. }, Self::Drop { key: other, .. }) => key == other,
            (Self::Life(life), Self::Life(other)) | (Self::Fate(life), Self::Fate(other)) => life == other,
            (Self::Release, Self::Release) | (Self::Leave, Self::Leave) => true,
            (Self::Join { state, settings }, Self::Join { state: other_state, settings: other_settings }) => {
                settings == other_settings && agree(state.as_ref(), other_state.as_ref())
            }
            (Self::Field { name, value }, Self::Field { name: other_name, value: other }) => {
                name == other_name && value == other
            }
            (Self::Children { field, shape }, Self::Children { field: other_field, shape: other }) => {
                field == other_field && shape == other
            }
            (Self::Wake { after }, Self::Wake { after: other }) => after == other,
            (
                Self::Schedule { expression, zone },
                Self::Schedule { expression: other_expression, zone: other_zone },
            )
            | (
                Self::Occurrence { expression, zone },
                Self::Occurrence { expression: other_expression, zone: other_zone },
            ) => expression == other_expression && zone == other_zone,
            (Self::End(end), Self::End(other)) => end == other,
            _ => false,
        }
    }
}

/// Compares the first states of a child, as far as both are known and have the same fields.
fn agree(state: Option<&Value>, other: Option<&Value>) -> bool {
    match (state, other) {
        (Some(state @ Value::Map(_)), Some(other @ Value::Map(_))) => {
            let both = state.field_names().filter_map(|name| Some((state.field(name)?, other.field(name)?)));
            both.into_iter().all(|(value, other)| value == other)
        }
        (Some(state), Some(other)) => state == other,
        _ => true,
    }
}

fn shown(input: Option<&Json>) -> String {
    input.map_or_else(
        || "an input that is too long to be shown".to_owned(),
        |input| brief(&input.to_string(), BRIEF),
    )
}

fn in_zone(zone: Option<&String>) -> String {
    zone.map(|zone| format!(" in {zone}")).unwrap_or_default()
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path.is_root() { "the root" } else { self.path.as_str() };
        match &self.what {
            What::Run { input, .. } => write!(f, "run({}) of {path}", shown(input.as_ref())),
            What::Drop { input: Some(input), .. } => {
                write!(f, "the requested run({}) of {path} is dropped", shown(Some(input)))
            }
            What::Drop { .. } => write!(f, "a requested run of {path} is dropped"),
            What::Forget { input, .. } => write!(f, "forget({}) of {path}", shown(input.as_ref())),
            What::Life(life) | What::Fate(life) => write!(f, "{path} {life}"),
            What::Release => write!(f, "the operator's stop of {path} is lifted"),
            What::Join { state: Some(state), .. } => {
                write!(f, "{path} joins with {}", brief(&state.to_json().to_string(), BRIEF))
            }
            What::Join { .. } => write!(f, "{path} joins"),
            What::Leave => write!(f, "{path} leaves"),
            What::Field { name, value: Some(value) } => {
                write!(f, "{name} of {path} = {}", brief(&value.to_json().to_string(), BRIEF))
            }
            What::Field { name, value: None } => write!(f, "{name} of {path} is removed"),
            What::Children { field, shape } => {
                let children = names(shape.as_ref());
                let children =
                    if children.is_empty() { "no children".to_owned() } else { children.join(", ") };
                write!(f, "{field} of {path} has {}", brief(&children, BRIEF))
            }
            What::Wake { after } => write!(f, "{path} is woken after {after:?}"),
            What::Schedule { expression, zone } => {
                write!(f, "{path} starts the schedule `{expression}`{}", in_zone(zone.as_ref()))
            }
            What::Occurrence { expression, zone } => {
                write!(f, "{path} consumes an occurrence of `{expression}`{}", in_zone(zone.as_ref()))
            }
            What::End(ReactionEnd::Failed(message)) => write!(f, "{path} fails: {}", brief(message, BRIEF)),
            What::End(ReactionEnd::Stops(why)) => write!(f, "{path} ends the App: {}", brief(why, BRIEF)),
        }
    }
}

fn names(shape: Option<&Shape>) -> Vec<String> {
    let mut names = Vec::new();
    if let Some(shape) = shape {
        shape.each_child(&mut |name| names.push(name.to_string()));
    }
    names
}

impl Decision {
    /// Returns the decision as JSON: `path`, `kind`, `text`, and its particulars.
    pub(crate) fn to_json(&self) -> Json {
        let zoned = |kind: &str, expression: &String, zone: &Option<String>| json!({ "kind": kind, "expression": expression, "zone": zone });
        let mut json = match &self.what {
            What::Run { key, input } => json!({ "kind": "run", "input": input, "key": format!("{key:?}") }),
            What::Drop { input, .. } => json!({ "kind": "drop", "input": input }),
            What::Forget { key, input } => {
                json!({ "kind": "forget", "input": input, "key": format!("{key:?}") })
            }
            What::Life(_) => json!({ "kind": "life" }),
            What::Release => json!({ "kind": "release" }),
            What::Join { state, .. } => {
                json!({ "kind": "join", "state": state.as_ref().map(Value::to_json) })
            }
            What::Leave => json!({ "kind": "leave" }),
            What::Field { name, value } => {
                json!({ "kind": "field", "name": name, "value": value.as_ref().map(Value::to_json) })
            }
            What::Children { field, shape } => {
                json!({ "kind": "children", "field": field, "names": names(shape.as_ref()) })
            }
            What::Wake { after } => json!({ "kind": "wake", "seconds": after.as_secs_f64() }),
            What::Schedule { expression, zone } => zoned("schedule", expression, zone),
            What::Occurrence { expression, zone } => zoned("occurrence", expression, zone),
            What::Fate(_) => json!({ "kind": "fate" }),
            What::End(ReactionEnd::Failed(message)) => json!({ "kind": "fails", "message": message }),
            What::End(ReactionEnd::Stops(why)) => json!({ "kind": "stops", "why": why }),
        };
        if let Json::Object(fields) = &mut json {
            fields.insert("path".to_owned(), self.path.as_str().into());
            fields.insert("text".to_owned(), self.to_string().into());
        }
        json
    }

    /// Returns true for what the Flow above the path decides, even if a Flow is at the path.
    pub(crate) fn is_of_parent(&self) -> bool {
        matches!(self.what, What::Join { .. } | What::Leave)
    }
}

/// Returns the key that an input of a Work has in this program, given the recorded one and the input, if it is known.
type KeyNow<'r> = dyn Fn(&ActorPath, RunKey, Option<&[u8]>) -> RunKey + 'r;

/// What is to be known besides the changes.
pub(crate) struct Reading<'r> {
    /// The live data before the changes.
    pub(crate) before: &'r Live,
    /// When each Flow has reacted last.
    pub(crate) reacted: &'r HashMap<ActorPath, Duration>,
    /// Returns the name that an own field of a Flow has in this program, or `None` if it is not compared.
    pub(crate) field: &'r dyn Fn(&ActorPath, &str) -> Option<String>,
    pub(crate) key: &'r KeyNow<'r>,
}

/// Error returned for changes that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error(transparent)]
    Row(#[from] RowError),
    #[error("the recorded change of the fields of flow `{path}` does not fit")]
    State { path: ActorPath, source: StateError },
}

/// The changes of one actor.
#[derive(Default)]
struct OfActor<'c> {
    facts: Vec<Fact>,
    settings: Option<Box<WorkSettings>>,
    children: Option<ChildrenRow>,
    flow: Option<FlowRow>,
    states: Vec<&'c Change>,
    has_left: bool,
}

impl<'c> OfActor<'c> {
    fn add(&mut self, change: &'c Change) -> Result<(), RowError> {
        match change {
            Change::Put { table: Table::Work, key, value, .. } if key == SETTINGS => {
                self.settings = Some(Box::new(decoded(Table::Work, value)?));
            }
            Change::Put { table: Table::Flow, key, value, .. } if key == CHILDREN => {
                self.children = Some(decoded(Table::Flow, value)?);
            }
            Change::Put { table: Table::Flow, key, value, .. } if key == FACTS => {
                self.flow = Some(decoded(Table::Flow, value)?);
            }
            Change::Put { table, key, value, .. } => {
                self.facts.extend(Fact::from_row(*table, key, Some(value))?);
            }
            Change::Delete { table, key, .. } => self.facts.extend(Fact::from_row(*table, key, None)?),
            Change::State { .. } | Change::Patch { .. } => self.states.push(change),
            Change::Left { .. } => *self = Self { has_left: true, ..Self::default() },
        }
        Ok(())
    }
}

impl Reading<'_> {
    /// Reads what reactions ask for from the changes that they make.
    ///
    /// # Errors
    /// [`Unreadable`] for a row that cannot be decoded, or a patch that does not fit.
    pub(crate) fn decisions(&self, changes: &[Change]) -> Result<Decisions, Unreadable> {
        let (mut order, mut actors): (Vec<&ActorPath>, HashMap<&ActorPath, OfActor<'_>>) = Default::default();
        for change in changes {
            let path = change.path();
            let actor = actors.entry(path).or_insert_with(|| {
                order.push(path);
                OfActor::default()
            });
            actor.add(change)?;
        }
        let mut found = Decisions::default();
        for path in order {
            let Some(actor) = actors.remove(path) else { continue };
            let before = self.before.actors.get(path);
            let mut add = |what| found.all.push(Decision { path: path.clone(), what });
            if actor.has_left && before.is_some() {
                add(What::Leave);
            }
            let before = before.filter(|_| !actor.has_left);
            self.of_work(path, &actor, before, &mut add)?;
            self.of_flow(path, &actor, before, &mut add)?;
            let Some(children) = actor.children else { continue };
            let earlier = before.map(children_of).transpose()?.flatten();
            let is_new =
                |list: &String| earlier.as_ref().is_none_or(|earlier| !earlier.lists.contains_key(list));
            found.new_lists.extend(children.lists.into_keys().filter(is_new));
        }
        Ok(found)
    }

    fn of_work(
        &self,
        path: &ActorPath,
        actor: &OfActor<'_>,
        before: Option<&LiveActor>,
        add: &mut dyn FnMut(What),
    ) -> Result<(), Unreadable> {
        let is_new = actor.settings.is_some()
            && before.is_none_or(|before| row(before, Table::Work, SETTINGS).is_none());
        if is_new {
            let state = actor.states.iter().find_map(|change| match change {
                Change::State { state, .. } => Some(state.clone()),
                _ => None,
            });
            add(What::Join { state, settings: actor.settings.clone() });
        }
        for fact in &actor.facts {
            match fact {
                Fact::Requested { key, input, .. } => {
                    let key = (self.key)(path, *key, Some(&input.bytes));
                    add(What::Run { key, input: shown_input(&input.bytes) });
                }
                Fact::Ended { place } => {
                    let run = before.and_then(|before| requested(before, *place));
                    let input = run.as_ref().and_then(|(_, bytes)| shown_input(bytes));
                    let key = run.map(|(key, bytes)| (self.key)(path, key, Some(&bytes)));
                    add(What::Drop { key, input });
                }
                Fact::Forgotten { key } => {
                    let bytes = before.and_then(|before| row(before, Table::Given, &key.to_bytes()));
                    let key = (self.key)(path, *key, bytes);
                    add(What::Forget { key, input: bytes.and_then(shown_input) });
                }
                Fact::Work(facts) => {
                    let earlier = before.and_then(work_facts).transpose()?;
                    let life = facts.life_in_words();
                    let was = earlier.as_ref().map_or("starts", WorkFacts::life_in_words);
                    if life != was {
                        add(What::Life(life));
                    }
                    if facts.held().is_none() && earlier.is_some_and(|earlier| earlier.held().is_some()) {
                        add(What::Release);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn of_flow(
        &self,
        path: &ActorPath,
        actor: &OfActor<'_>,
        before: Option<&LiveActor>,
        add: &mut dyn FnMut(What),
    ) -> Result<(), Unreadable> {
        let known = before.filter(|before| before.rows.contains_key(&Table::Flow));
        let is_flow = known.is_some() || actor.flow.is_some() || actor.children.is_some();
        if !is_flow {
            return Ok(());
        }
        let was = known.and_then(|known| known.state.as_ref());
        let mut now = was.cloned();
        for change in &actor.states {
            match (change, &mut now) {
                (Change::State { state, .. }, now) => *now = Some(state.clone()),
                (Change::Patch { patch, .. }, Some(now)) => {
                    now.apply(patch.clone())
                        .map_err(|source| Unreadable::State { path: path.clone(), source })?;
                }
                _ => {}
            }
        }
        if known.is_none() {
            add(What::Join { state: now, settings: None });
        } else if let (Some(was), Some(now)) = (was, now) {
            for part in differences(was, &now) {
                let (field, rest) = part.path.split_once('.').unwrap_or((&part.path, ""));
                let Some(field) = (self.field)(path, field) else { continue };
                let name = if rest.is_empty() { field } else { format!("{field}.{rest}") };
                add(What::Field { name, value: part.after });
            }
        }
        if let (Some(children), Some(known)) = (&actor.children, known) {
            let earlier = children_of(known)?.map(|earlier| earlier.shapes).unwrap_or_default();
            let fields: BTreeSet<_> =
                earlier.fields().chain(children.shapes.fields()).map(|(name, _)| name).collect();
            for field in fields {
                let [was, now] =
                    [&earlier, &children.shapes].map(|shapes| shapes.field(field).cloned().map(sorted));
                if was != now {
                    add(What::Children { field: field.to_owned(), shape: now });
                }
            }
        }
        let earlier = known.and_then(|known| row(known, Table::Flow, FACTS));
        let earlier = earlier.map(|row| decoded::<FlowRow>(Table::Flow, row)).transpose()?;
        let now = actor.flow.as_ref().or(earlier.as_ref());
        if let (Some(at), Some(wake_at)) = (self.reacted.get(path), now.and_then(|now| now.wake_at)) {
            add(What::Wake { after: wake_at.saturating_sub(*at) });
        }
        if let Some(now) = &actor.flow {
            let was = earlier.as_ref().map_or(LifeRow::Up, |earlier| earlier.life);
            let fate = |life| match life {
                LifeRow::Up => "goes on",
                LifeRow::Waiting { .. } => "waits for its restart",
                LifeRow::Failed => "has failed",
            };
            if fate(was) != fate(now.life) {
                add(What::Fate(fate(now.life)));
            }
            let schedules = earlier.as_ref().map(|earlier| &earlier.schedules[..]).unwrap_or_default();
            of_schedules(schedules, &now.schedules, add);
        }
        Ok(())
    }
}

/// Sorts the entries of maps, which may have no order.
fn sorted(shape: Shape) -> Shape {
    match shape {
        Shape::Child(_) | Shape::Absent => shape,
        Shape::Present(content) => Shape::Present(Box::new(sorted(*content))),
        Shape::List(items) => Shape::List(items.into_iter().map(sorted).collect()),
        Shape::Map(entries) => {
            let mut entries: Vec<_> =
                entries.into_iter().map(|(key, content)| (key, sorted(content))).collect();
            entries.sort_by(|(key, _), (other, _)| key.cmp(other));
            Shape::Map(entries)
        }
    }
}

fn of_schedules(before: &[ScheduleRow], after: &[ScheduleRow], add: &mut dyn FnMut(What)) {
    for row in after {
        let (expression, last) = row.occurrence();
        let (name, zone) = (expression.to_owned(), row.zone().map(str::to_owned));
        let same = |other: &&ScheduleRow| other.occurrence().0 == expression && other.zone() == row.zone();
        match before.iter().find(same) {
            None => add(What::Schedule { expression: name, zone }),
            Some(earlier) if earlier.occurrence().1 != last => {
                add(What::Occurrence { expression: name, zone });
            }
            Some(_) => {}
        }
    }
}

fn row<'a>(actor: &'a LiveActor, table: Table, key: &[u8]) -> Option<&'a [u8]> {
    let rows = actor.rows.get(&table)?;
    let index = rows.binary_search_by(|(other, _)| other[..].cmp(key)).ok()?;
    Some(&rows[index].1)
}

fn children_of(actor: &LiveActor) -> Result<Option<ChildrenRow>, RowError> {
    row(actor, Table::Flow, CHILDREN).map(|row| decoded(Table::Flow, row)).transpose()
}

/// Returns the key and the input of the run that waits at a place.
fn requested(actor: &LiveActor, place: u64) -> Option<(RunKey, Vec<u8>)> {
    let key = place.to_be_bytes();
    match Fact::from_row(Table::Run, &key, Some(row(actor, Table::Run, &key)?)) {
        Ok(Some(Fact::Requested { key, input, .. } | Fact::OtherKey { key, input, .. })) => {
            Some((key, input.bytes.to_vec()))
        }
        _ => None,
    }
}

fn work_facts(actor: &LiveActor) -> Option<Result<WorkFacts, RowError>> {
    let rows = actor.rows.get(&Table::Work)?;
    rows.iter().find_map(|(key, value)| match Fact::from_row(Table::Work, key, Some(value)) {
        Ok(Some(Fact::Work(facts))) => Some(Ok(facts)),
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    })
}

fn shown_input(bytes: &[u8]) -> Option<Json> {
    if bytes.len() > LONGEST {
        return None;
    }
    wire::decode::<Value>(bytes).ok().map(|value| value.to_json())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::SystemTime;

    use super::*;
    use crate::flow::{Ledger, Moment};
    use crate::state::Patch;
    use crate::work::Input;

    fn path() -> ActorPath {
        ActorPath::from("train")
    }

    fn input(number: u64) -> (RunKey, Input) {
        Input::new(&number).expect("a number can be encoded")
    }

    const NOW: Moment = Moment { at: Duration::from_secs(1), wall: SystemTime::UNIX_EPOCH };

    /// A ledger, and the live data that it has led to.
    struct Recorded(Ledger, Live);

    impl Recorded {
        fn new() -> Self {
            let mut ledger = Ledger::new(Arc::default());
            ledger.record_facts();
            Self(ledger, Live::default())
        }

        /// Returns what the changes that `act` makes ask for.
        fn decisions(&mut self, act: impl FnOnce(&mut Ledger)) -> Vec<String> {
            act(&mut self.0);
            let mut changes = Vec::new();
            self.0.take_facts().into_iter().for_each(|fact| fact.append_to(&mut changes, &path()));
            let found = read(&self.1, &changes);
            changes.iter().for_each(|change| self.1.apply(change).unwrap());
            found
        }
    }

    fn read(before: &Live, changes: &[Change]) -> Vec<String> {
        let reacted = HashMap::from([(ActorPath::root(), NOW.at)]);
        let reading = Reading {
            before,
            reacted: &reacted,
            field: &|_, field| (field != "ignored").then(|| field.to_owned()),
            key: &|_, key, _| key,
        };
        let found = reading.decisions(changes).unwrap().all;
        let mut texts: Vec<_> = found.iter().map(ToString::to_string).collect();
        texts.sort();
        texts
    }

    /// Each command of a Flow is one decision, and what follows from it is none.
    #[test]
    fn commands_to_a_work_are_read_from_its_facts() {
        let mut recorded = Recorded::new();
        let request = |ledger: &mut Ledger, number| {
            let (key, input) = input(number);
            ledger.request(key, input, NOW);
        };
        assert_eq!(recorded.decisions(|ledger| ledger.start(NOW)), [""; 0], "it has joined");
        assert_eq!(recorded.decisions(|ledger| request(ledger, 1)), ["run(1) of train"]);
        assert_eq!(recorded.decisions(|ledger| request(ledger, 1)), [""; 0], "it is known");
        let both = |ledger: &mut Ledger| [2, 3].iter().for_each(|number| request(ledger, *number));
        assert_eq!(recorded.decisions(both), ["run(2) of train", "run(3) of train"]);
        let forget = |ledger: &mut Ledger| ledger.forget(input(3).0, NOW);
        assert_eq!(
            recorded.decisions(forget),
            ["forget(3) of train", "the requested run(3) of train is dropped"]
        );
        let stop = |ledger: &mut Ledger| ledger.stop(NOW);
        assert_eq!(recorded.decisions(stop), ["the requested run(2) of train is dropped", "train stops"]);
        assert_eq!(recorded.decisions(|ledger| ledger.start(NOW)), ["train restarts"]);
        recorded.decisions(|ledger| ledger.hold("alice".into(), NOW));
        assert_eq!(recorded.decisions(Ledger::release), ["the operator's stop of train is lifted"]);
    }

    /// Of the own fields of a Flow the smallest parts that have changed are shown, with the names of this program.
    #[test]
    fn fields_of_a_flow_are_compared_with_what_was_before() {
        #[derive(serde::Serialize)]
        struct Own {
            rounds: u32,
            ignored: u32,
            goal: BTreeMap<&'static str, u32>,
        }

        use std::collections::BTreeMap;

        let own = |rounds, far| {
            let goal = BTreeMap::from([("far", far), ("near", 1)]);
            Value::of(&Own { rounds, ignored: rounds, goal }).unwrap()
        };
        let mut before = Live::default();
        let root = ActorPath::root();
        let facts =
            Change::Put { path: root.clone(), table: Table::Flow, key: b"other".to_vec(), value: Vec::new() };
        before.apply(&facts).unwrap();
        before.apply(&Change::State { path: root.clone(), state: own(1, 5) }).unwrap();
        let set = Change::State { path: root.clone(), state: own(2, 6) };
        assert_eq!(
            read(&before, std::slice::from_ref(&set)),
            ["goal.far of the root = 6", "rounds of the root = 2"]
        );
        let patch = Change::Patch { path: root.clone(), patch: Patch::Set(own(1, 6)) };
        assert_eq!(read(&before, &[set, patch]), ["goal.far of the root = 6"], "the last one counts");
        assert_eq!(read(&before, &[Change::Left { path: root }]), ["the root leaves"]);
    }
}
