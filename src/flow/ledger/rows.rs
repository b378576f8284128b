//! Facts about the runs of one Work as rows of the journal, and back.
//!
//! # Guarantees
//! - An [`Image`] that is read from the rows of all facts of a ledger equals the image of those facts, with times in
//!   milliseconds.
//! - A row that cannot be decoded is an error that names its table, and never a wrong image.
//!
//! Rows about runs have their fields by position: a later version can add fields at the end, with a default, and raises the
//! version of the format, since this one cannot read these rows. Rows of format 2 have named fields, and are read as well.
//! All other rows still have names.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::facts::{CurrentRun, Fact, Image, LifeFacts, Progress, RequestedRun, WorkFacts};
use super::runs::{Outcomes, RunEntry, TRIES};
use super::{HISTORY, Next, OperatorStop};
use crate::id::ActorPath;
use crate::journal::{Change, Table};
use crate::payload::PayloadGuards;
use crate::wire::{self, CodecError};
use crate::work::{Input, Reason, RunKey, Stage, Status, StepId};

/// Largest input that is kept with the outcome of its run, in bytes.
const LONGEST_INPUT: usize = 4 * 1024;

/// Error returned for a row of the journal that cannot be read.
#[derive(Debug, Error)]
#[error("a row of the table `{table:?}` cannot be read")]
pub(crate) struct RowError {
    table: Table,
    source: CodecError,
}

/// The key of the row with the facts about a Work.
const FACTS: &[u8] = b"facts";

/// The key of the row that says how the recorded inputs of a Work were read last.
const INPUTS: &[u8] = b"inputs";

/// Milliseconds since 1970.
fn millis(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

fn time(millis: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_millis(millis)).unwrap_or(UNIX_EPOCH)
}

/// Encodes a row.
pub(crate) fn encoded<T: Serialize>(row: &T) -> Vec<u8> {
    wire::encode(row).expect("rows consist of types that always encode").to_vec()
}

/// Encodes a row with its fields by position, none of which is skipped.
fn compact<T: Serialize>(row: &T) -> Vec<u8> {
    wire::encode_by_position(row).expect("rows consist of types that always encode")
}

/// Decodes a row.
pub(crate) fn decoded<T: DeserializeOwned>(table: Table, bytes: &[u8]) -> Result<T, RowError> {
    wire::decode(bytes).map_err(|source| RowError { table, source })
}

/// A run that was requested; the key of the row is its place.
#[derive(Serialize, Deserialize)]
struct RunRow {
    key: Bytes,
    input: Bytes,
    queued: u64,
    /// True if the run was requested with another key.
    #[serde(default)]
    has_other_key: bool,
}

impl RunRow {
    fn new(key: RunKey, input: Bytes, queued: SystemTime, has_other_key: bool) -> Self {
        let key = Bytes::copy_from_slice(&key.to_bytes());
        Self { key, input, queued: millis(queued), has_other_key }
    }
}

/// The progress of a run; the key of the row is its place and the letter `p`.
#[derive(Serialize, Deserialize)]
struct ProgressRow {
    attempts: u32,
    #[serde(default)]
    forgotten: bool,
    #[serde(default)]
    stopped: bool,
}

impl From<Progress> for ProgressRow {
    fn from(Progress { attempts, forgotten, stopped }: Progress) -> Self {
        Self { attempts, forgotten, stopped }
    }
}

impl From<ProgressRow> for Progress {
    fn from(ProgressRow { attempts, forgotten, stopped }: ProgressRow) -> Self {
        Self { attempts, forgotten, stopped }
    }
}

#[derive(Serialize, Deserialize)]
struct InputRow {
    stage: Stage,
    #[serde(default)]
    reason: Option<Reason>,
    #[serde(default)]
    message: Option<String>,
    time: u64,
    attempt: u32,
    seq: u64,
    /// Milliseconds since the start of the App.
    at: u64,
}

#[derive(Serialize, Deserialize)]
struct AttemptRow {
    number: u64,
    run: Option<u64>,
    attempt: u32,
    stage: Stage,
    #[serde(default)]
    reason: Option<Reason>,
    #[serde(default)]
    message: Option<String>,
    input: Option<Bytes>,
    #[serde(default)]
    output: Option<Bytes>,
    queued: u64,
    started: Option<u64>,
    ended: Option<u64>,
    #[serde(default)]
    node: Option<String>,
}

impl AttemptRow {
    fn new(number: u64, entry: RunEntry) -> Self {
        let RunEntry { run, attempt, stage, reason, message, input, output, queued, started, ended, node } =
            entry;
        let message = message.map(|message| message.to_string());
        let node = node.map(|node| node.to_string());
        let (queued, started, ended) = (millis(queued), started.map(millis), ended.map(millis));
        Self { number, run, attempt, stage, reason, message, input, output, queued, started, ended, node }
    }

    fn entry(self) -> RunEntry {
        let Self {
            number: _,
            run,
            attempt,
            stage,
            reason,
            message,
            input,
            output,
            queued,
            started,
            ended,
            node,
        } = self;
        let (message, node) = (message.map(Arc::from), node.map(Arc::from));
        let (queued, started, ended) = (time(queued), started.map(time), ended.map(time));
        RunEntry { run, attempt, stage, reason, message, input, output, queued, started, ended, node }
    }
}

#[derive(Serialize, Deserialize)]
struct WorkRow {
    life: LifeRow,
    #[serde(default)]
    moving: bool,
    current: Option<CurrentRow>,
    #[serde(default)]
    hold: Option<HoldRow>,
    #[serde(default)]
    restarts: Vec<Duration>,
    succeeded: u64,
    failed: u64,
    stopped: u64,
    seconds: [f64; 3],
    attempted: u64,
    next_run: u64,
    next_place: u64,
    seq: u64,
    successes: u64,
    launches: u32,
    #[serde(default)]
    incarnation: u64,
    #[serde(default)]
    node: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LifeRow {
    Down,
    Up,
    /// Stops, and is launched again at this time.
    Stopping(Option<Duration>),
    Waiting(Duration),
    Unplaced,
}

#[derive(Serialize, Deserialize)]
struct CurrentRow {
    place: u64,
    run: u64,
    progress: ProgressRow,
    started: Option<u64>,
    node: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct HoldRow {
    by: String,
    since: u64,
}

impl From<WorkFacts> for WorkRow {
    fn from(facts: WorkFacts) -> Self {
        let WorkFacts { life, moving, current, hold, restarts, outcomes, attempted, .. } = facts;
        let Outcomes { succeeded, failed, stopped, seconds } = outcomes;
        Self {
            life: match life {
                LifeFacts::Down => LifeRow::Down,
                LifeFacts::Up => LifeRow::Up,
                LifeFacts::Stopping(Next::Stay) => LifeRow::Stopping(None),
                LifeFacts::Stopping(Next::Relaunch { at }) => LifeRow::Stopping(Some(at)),
                LifeFacts::Waiting { until } => LifeRow::Waiting(until),
                LifeFacts::Unplaced => LifeRow::Unplaced,
            },
            moving,
            current: current.map(|CurrentRun { place, run, progress, started, node }| CurrentRow {
                place,
                run,
                progress: progress.into(),
                started: started.map(millis),
                node: node.map(|node| node.to_string()),
            }),
            hold: hold.map(|OperatorStop { by, since }| HoldRow { by: by.to_string(), since: millis(since) }),
            restarts,
            succeeded,
            failed,
            stopped,
            seconds,
            attempted,
            next_run: facts.next_run,
            next_place: facts.next_place,
            seq: facts.seq,
            successes: facts.successes,
            launches: facts.launches,
            incarnation: facts.incarnation,
            node: facts.node.map(|node| node.to_string()),
        }
    }
}

impl From<WorkRow> for WorkFacts {
    fn from(row: WorkRow) -> Self {
        let WorkRow { life, moving, current, hold, restarts, succeeded, failed, stopped, seconds, .. } = row;
        Self {
            life: match life {
                LifeRow::Down => LifeFacts::Down,
                LifeRow::Up => LifeFacts::Up,
                LifeRow::Stopping(None) => LifeFacts::Stopping(Next::Stay),
                LifeRow::Stopping(Some(at)) => LifeFacts::Stopping(Next::Relaunch { at }),
                LifeRow::Waiting(until) => LifeFacts::Waiting { until },
                LifeRow::Unplaced => LifeFacts::Unplaced,
            },
            moving,
            current: current.map(|CurrentRow { place, run, progress, started, node }| CurrentRun {
                place,
                run,
                progress: progress.into(),
                started: started.map(time),
                node: node.map(Arc::from),
            }),
            hold: hold.map(|HoldRow { by, since }| OperatorStop { by: by.into(), since: time(since) }),
            restarts,
            outcomes: Outcomes { succeeded, failed, stopped, seconds },
            attempted: row.attempted,
            next_run: row.next_run,
            next_place: row.next_place,
            seq: row.seq,
            successes: row.successes,
            launches: row.launches,
            incarnation: row.incarnation,
            node: row.node.map(Arc::from),
        }
    }
}

fn place_key(place: u64) -> Vec<u8> {
    place.to_be_bytes().to_vec()
}

fn progress_key(place: u64) -> Vec<u8> {
    let mut key = place_key(place);
    key.push(b'p');
    key
}

/// The key of a step: that of the input, and its own identity.
fn step_key(input: RunKey, id: StepId) -> Vec<u8> {
    [input.to_bytes(), id.to_bytes()].concat()
}

/// Reads a run key, whose length the journal has checked with the row.
pub(super) fn key_from(bytes: &[u8]) -> RunKey {
    RunKey::from_bytes(bytes.try_into().unwrap_or_default())
}

impl Fact {
    /// Returns the table and the key of the row of a fact that a later one about the same row replaces; `None` for all
    /// other facts.
    pub(crate) fn replaceable_row(&self) -> Option<(Table, Vec<u8>)> {
        match self {
            Self::Input { key, .. } => Some((Table::Input, key.to_bytes().to_vec())),
            Self::Work(_) => Some((Table::Work, FACTS.to_vec())),
            _ => None,
        }
    }

    /// Appends the changes of the journal that record this fact about the Work at `path`.
    pub(crate) fn append_to(self, changes: &mut Vec<Change>, path: &ActorPath) {
        let put = |table, key, value| Change::Put { path: path.clone(), table, key, value };
        let delete = |table, key| Change::Delete { path: path.clone(), table, key };
        match self {
            Self::Requested { place, key, input, queued } => {
                let input = input.bytes;
                if input.len() <= LONGEST_INPUT {
                    changes.push(put(Table::Given, key.to_bytes().to_vec(), input.to_vec()));
                }
                let row = RunRow::new(key, input, queued, false);
                changes.push(put(Table::Run, place_key(place), compact(&row)));
            }
            Self::OtherKey { place, key, input, queued } => {
                let row = RunRow::new(key, input.bytes, queued, true);
                changes.push(put(Table::Run, place_key(place), compact(&row)));
            }
            Self::Given { key, input } => {
                if input.bytes.len() <= LONGEST_INPUT {
                    changes.push(put(Table::Given, key.to_bytes().to_vec(), input.bytes.to_vec()));
                }
            }
            Self::Waits { place, progress } => {
                changes.push(put(Table::Run, progress_key(place), compact(&ProgressRow::from(progress))));
            }
            Self::Ended { place } => {
                changes.push(delete(Table::Run, place_key(place)));
                changes.push(delete(Table::Run, progress_key(place)));
            }
            Self::Input { key, status, at } => {
                let Status { stage, reason, message, time, attempt, seq } = status;
                let at = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
                let row = InputRow { stage, reason, message, time: millis(time), attempt, seq, at };
                changes.push(put(Table::Input, key.to_bytes().to_vec(), compact(&row)));
            }
            Self::Forgotten { key } => {
                changes.push(delete(Table::Input, key.to_bytes().to_vec()));
                changes.push(delete(Table::Given, key.to_bytes().to_vec()));
            }
            Self::Recorded(status) => {
                let key = (status.seq % HISTORY as u64).to_be_bytes().to_vec();
                changes.push(put(Table::Status, key, compact(&status)));
            }
            Self::Attempted { number, entry } => {
                let key = (number % TRIES as u64).to_be_bytes().to_vec();
                changes.push(put(Table::Attempt, key, compact(&AttemptRow::new(number, entry))));
            }
            Self::Step { input, step } => {
                changes.push(put(Table::Step, step_key(input, step.id), compact(&step)));
            }
            Self::StepsForgotten { input, steps } => {
                changes.extend(steps.into_iter().map(|id| delete(Table::Step, step_key(input, id))));
            }
            Self::Work(facts) => {
                changes.push(put(Table::Work, FACTS.to_vec(), compact(&WorkRow::from(facts))));
            }
            Self::InputsRead(inputs) => {
                changes.push(put(Table::Work, INPUTS.to_vec(), compact(&inputs)));
            }
        }
    }
}

impl Fact {
    /// Reads the fact that the new value of a row records, or its deletion if `value` is `None`. Returns `None` for a row
    /// that is no fact about runs, or only a part of one.
    ///
    /// # Errors
    /// [`RowError`] for a row that cannot be decoded.
    pub(crate) fn from_row(table: Table, key: &[u8], value: Option<&[u8]>) -> Result<Option<Self>, RowError> {
        let (place, rest) = key.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
        let place = u64::from_be_bytes(*place);
        Ok(Some(match (table, value) {
            (Table::Run, Some(value)) if rest.is_empty() => {
                let RunRow { key, input, queued, has_other_key } = decoded(table, value)?;
                let (key, input) = (key_from(&key), Input::arrived(input, PayloadGuards::default()));
                let queued = time(queued);
                match has_other_key {
                    true => Self::OtherKey { place, key, input, queued },
                    false => Self::Requested { place, key, input, queued },
                }
            }
            (Table::Run, Some(value)) => {
                let progress = decoded::<ProgressRow>(table, value)?.into();
                Self::Waits { place, progress }
            }
            (Table::Run, None) if rest.is_empty() => Self::Ended { place },
            (Table::Input, Some(value)) => {
                let InputRow { stage, reason, message, attempt, seq, time: set, at } = decoded(table, value)?;
                let status = Status { stage, reason, message, time: time(set), attempt, seq };
                Self::Input { key: key_from(key), status, at: Duration::from_millis(at) }
            }
            (Table::Input, None) => Self::Forgotten { key: key_from(key) },
            (Table::Status, Some(value)) => Self::Recorded(decoded(table, value)?),
            (Table::Attempt, Some(value)) => {
                let row: AttemptRow = decoded(table, value)?;
                Self::Attempted { number: row.number, entry: row.entry() }
            }
            (Table::Work, Some(value)) if key == FACTS => {
                Self::Work(decoded::<WorkRow>(table, value)?.into())
            }
            (Table::Work, Some(value)) if key == INPUTS => Self::InputsRead(decoded(table, value)?),
            (Table::Step, Some(value)) => {
                let input = RunKey::from_bytes(key.first_chunk().copied().unwrap_or_default());
                Self::Step { input, step: decoded(table, value)? }
            }
            _ => return Ok(None),
        }))
    }
}

/// Reads an [`Image`] from the rows of a Work, in any order.
pub(crate) struct ImageReader {
    image: Image,
    progress: BTreeMap<u64, Progress>,
    attempts: Vec<AttemptRow>,
}

impl ImageReader {
    /// Creates a reader of the rows of one Work.
    pub(crate) fn new() -> Self {
        Self { image: Image::new(), progress: BTreeMap::new(), attempts: Vec::new() }
    }

    /// Reads a row. Rows of tables that have nothing to do with runs are ignored.
    ///
    /// # Errors
    /// [`RowError`] for a row that cannot be decoded.
    pub(crate) fn read(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), RowError> {
        let image = &mut self.image;
        match table {
            Table::Work if key == FACTS => image.work = decoded::<WorkRow>(table, value)?.into(),
            Table::Work if key == INPUTS => image.inputs_read = decoded(table, value)?,
            Table::Run => {
                let (place, rest) = key.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
                let place = u64::from_be_bytes(*place);
                if rest.is_empty() {
                    let RunRow { key, input, queued, .. } = decoded(table, value)?;
                    let (key, input) = (key_from(&key), Input::arrived(input, PayloadGuards::default()));
                    let run =
                        RequestedRun { key, input, queued: time(queued), progress: Progress::default() };
                    image.runs.insert(place, run);
                } else {
                    self.progress.insert(place, decoded::<ProgressRow>(table, value)?.into());
                }
            }
            Table::Input => {
                let row: InputRow = decoded(table, value)?;
                let InputRow { stage, reason, message, attempt, seq, .. } = row;
                let status = Status { stage, reason, message, time: time(row.time), attempt, seq };
                image.inputs.insert(key_from(key), (status, Duration::from_millis(row.at)));
            }
            Table::Status => image.statuses.push_back(decoded(table, value)?),
            Table::Attempt => self.attempts.push(decoded(table, value)?),
            Table::Step => {
                let (input, _) = key.split_first_chunk::<16>().unwrap_or((&[0; 16], &[]));
                // The steps were within the limits of the ledger.
                let _ =
                    image.steps.entry(RunKey::from_bytes(*input)).or_default().insert(decoded(table, value)?);
            }
            _ => {}
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> Image {
        let Self { mut image, progress, mut attempts } = self;
        for (place, progress) in progress {
            image.set_progress(place, progress);
        }
        if let Some(current) = &image.work.current {
            let (place, progress) = (current.place, current.progress);
            image.set_progress(place, progress);
        }
        image.statuses.make_contiguous().sort_unstable_by_key(|status| status.seq);
        attempts.sort_unstable_by_key(|attempt| attempt.number);
        image.attempts = attempts.into_iter().map(AttemptRow::entry).collect();
        image
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The positions of fields and the numbers of variants are those of the format: another order would be read as
    /// other values.
    #[test]
    fn rows_keep_positions_of_their_fields() {
        let set = time(1_000);
        let (message, node) = (Some(Arc::from("m")), Some(Arc::from("n")));
        let reasons = [
            Reason::UserError,
            Reason::Panic,
            Reason::Timeout,
            Reason::PayloadLost,
            Reason::NodeLost,
            Reason::ProcessDied,
            Reason::Stopped,
        ];
        let stages = [
            Stage::NotStarted,
            Stage::Pending,
            Stage::Running,
            Stage::Succeeded,
            Stage::Failed,
            Stage::Stopped,
        ];
        assert_eq!(hex(&compact(&(reasons, stages))), "92970001020304050696000102030405");
        let key = RunKey::from_bytes([7; 16]);
        let input = Input::arrived(Bytes::from_static(&[0xc0]), PayloadGuards::default());
        let status = Status {
            stage: Stage::Failed,
            reason: Some(Reason::Panic),
            message: Some("m".into()),
            time: set,
            attempt: 2,
            seq: 3,
        };
        let progress = Progress { attempts: 2, forgotten: true, stopped: false };
        let entry = RunEntry {
            run: Some(4),
            attempt: 2,
            stage: Stage::Failed,
            reason: Some(Reason::Panic),
            message,
            input: Some(Bytes::from_static(&[0xc0])),
            output: None,
            queued: set,
            started: Some(set),
            ended: None,
            node: node.clone(),
        };
        let current = Some(CurrentRun { place: 1, run: 2, progress, started: Some(set), node: node.clone() });
        let work = WorkFacts {
            life: LifeFacts::Waiting { until: Duration::from_secs(1) },
            moving: true,
            current,
            hold: Some(OperatorStop { by: "o".into(), since: set }),
            restarts: vec![Duration::from_secs(2)],
            outcomes: Outcomes { succeeded: 1, failed: 2, stopped: 3, seconds: [0.0; 3] },
            attempted: 4,
            next_run: 5,
            next_place: 6,
            seq: 7,
            successes: 8,
            launches: 9,
            incarnation: 10,
            node,
        };
        let facts = [
            Fact::Requested { place: 1, key, input, queued: set },
            Fact::Waits { place: 1, progress },
            Fact::Input { key, status: status.clone(), at: Duration::from_millis(5) },
            Fact::Recorded(status),
            Fact::Attempted { number: 3, entry },
            Fact::Work(work),
        ];
        let mut changes = Vec::new();
        facts.into_iter().for_each(|fact| fact.append_to(&mut changes, &ActorPath::root()));
        let rows: Vec<_> = changes
            .into_iter()
            .map(|change| match change {
                Change::Put { table, value, .. } => format!("{} {}", table.name(), hex(&value)),
                change => panic!("{change:?} is no row"),
            })
            .collect();
        let expected = [
            "given c0",
            "run 94c41007070707070707070707070707070707c401c0cd03e8c2",
            "run 9302c3c2",
            "input 970401a16dcd03e8020305",
            "status 960401a16dcd03e80203",
            "attempt 9c0304020401a16dc401c0c0cd03e8cd03e8c0a16e",
            "work dc00118103920100c39501029302c3c2cd03e8a16e92a16fcd03e89192020001020393\
             cb0000000000000000cb0000000000000000cb00000000000000000405060708090aa16e",
        ];
        assert_eq!(rows, expected);
    }
}
