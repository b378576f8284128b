//! Random histories, in which the run that led to each other one is known.

use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use proptest::prelude::*;
use serde::Serialize;

use super::events::{Event, What};
use super::why::{Chain, Cursor, Tracing};
use crate::flow::encoded;
use crate::id::ActorPath;
use crate::journal::{
    Change, HistoryFilter, HistoryPart, Journal, JournalSettings, Reacted, Reaction, Sync, Table, Transaction,
};
use crate::state::Value;
use crate::wire;

const WORKS: [&str; 3] = ["a", "b", "b.c"];

/// Something that the Flow reacts to.
#[derive(Debug, Clone, Copy)]
enum Trigger {
    /// The run in progress of a Work ends.
    End(usize),
    /// A Work publishes a state, whether or not it has a run.
    Publish(usize),
    /// The Flow changes its own fields.
    Own,
}

/// A cycle: a trigger, and the Works of which the Flow then requests runs, possibly several of one.
type Cycle = (Trigger, Vec<usize>);

fn cycles() -> impl Strategy<Value = Vec<Cycle>> {
    let trigger = prop_oneof![
        4 => (0..WORKS.len()).prop_map(Trigger::End),
        3 => (0..WORKS.len()).prop_map(Trigger::Publish),
        1 => Just(Trigger::Own),
    ];
    prop::collection::vec((trigger, prop::collection::vec(0..WORKS.len(), 0..4)), 1..40)
}

/// A run, the position of its request, and the run that led to it.
#[derive(Debug, Clone, PartialEq)]
struct Known {
    work: usize,
    run: u64,
    position: u64,
    led_by: Option<usize>,
}

#[derive(Default)]
struct Queue {
    /// The indexes of runs that have not ended; the first one is in progress.
    runs: Vec<usize>,
    next: u64,
}

/// The input of a run, which no other one has.
fn input(work: usize, run: u64) -> u64 {
    10_000 * (work as u64 + 1) - run
}

#[derive(Serialize)]
struct RunRow {
    key: Bytes,
    input: Bytes,
    queued: u64,
}

fn put(work: usize, table: Table, key: &[u8], row: &impl Serialize) -> Change {
    Change::Put { path: ActorPath::from(WORKS[work]), table, key: key.to_vec(), value: encoded(row) }
}

/// The row of facts about a Work whose run in progress is this one.
fn facts(work: usize, current: Option<u64>) -> Change {
    let current = current.map(|run| {
        serde_json::json!({ "place": run + 100, "run": run, "progress": { "attempts": 1 }, "started": null, "node": null })
    });
    let row = serde_json::json!({
        "life": "up", "current": current, "succeeded": 0, "failed": 0, "stopped": 0, "seconds": [0.0, 0.0, 0.0],
        "attempted": 1, "next_run": 9, "next_place": 9, "seq": 1, "successes": 0, "launches": 1,
    });
    put(work, Table::Work, b"facts", &row)
}

fn ended(work: usize, run: u64) -> [Change; 2] {
    let row = serde_json::json!({
        "number": run, "run": run, "attempt": 1, "stage": "succeeded", "input": null, "queued": 0, "started": null,
        "ended": null,
    });
    let key = (run + 100).to_be_bytes().to_vec();
    let path = ActorPath::from(WORKS[work]);
    [
        put(work, Table::Attempt, &(run % 4).to_be_bytes(), &row),
        Change::Delete { path, table: Table::Run, key },
    ]
}

fn state(path: &str, number: u64) -> Change {
    let state = Value::of(&std::collections::BTreeMap::from([("n", number)])).unwrap();
    Change::State { path: ActorPath::from(path), state }
}

/// Makes the transactions, and what is known of the runs that they request.
fn transactions(cycles: &[Cycle]) -> (Vec<Transaction>, Vec<Known>) {
    let (mut all, mut known) = (Vec::new(), Vec::<Known>::new());
    let mut queues: [Queue; 3] = Default::default();
    for (number, (trigger, wanted)) in cycles.iter().enumerate() {
        let position = number as u64 + 1;
        let (mut changes, mut led_by) = (Vec::new(), None);
        let number_of = |known: &[Known], queue: &Queue| queue.runs.first().map(|run| known[*run].run);
        match *trigger {
            Trigger::End(work) if !queues[work].runs.is_empty() => {
                let run = queues[work].runs.remove(0);
                changes.extend(ended(work, known[run].run));
                changes.push(facts(work, number_of(&known, &queues[work])));
                led_by = Some(run);
            }
            Trigger::Publish(work) => {
                changes.push(state(WORKS[work], position));
                led_by = queues[work].runs.first().copied();
            }
            Trigger::End(_) | Trigger::Own => {}
        }
        let seen = changes.len();
        changes.push(state("", position));
        for &work in wanted {
            let queue = &mut queues[work];
            queue.next += 1;
            let run = queue.next;
            let given = wire::encode(&input(work, run)).unwrap();
            let row = RunRow { key: Bytes::from_static(&[7; 32]), input: given, queued: 0 };
            changes.push(put(work, Table::Run, &(run + 100).to_be_bytes(), &row));
            queue.runs.push(known.len());
            known.push(Known { work, run, position, led_by });
            if queue.runs.len() == 1 {
                changes.push(facts(work, Some(run)));
            }
        }
        let reactions = vec![Reaction::new(ActorPath::root(), Duration::ZERO, position)];
        all.push(Transaction {
            at: Duration::from_millis(position),
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(position),
            changes,
            reacted: Some(Reacted { seen, reactions }),
        });
    }
    (all, known)
}

struct Recorded {
    directory: PathBuf,
    journal: Option<Journal>,
}

impl Recorded {
    fn new(transactions: Vec<Transaction>) -> Self {
        let directory = std::env::temp_dir().join(format!("flowright-why-{:016x}", crate::id::unique()));
        let settings = JournalSettings { sync: Sync::Process, ..JournalSettings::default() };
        let (progressed, progress) = mpsc::channel();
        let on_progress = Box::new(move || progressed.send(()).unwrap_or_default());
        let (journal, ..) = Journal::open(&directory, settings, "1", on_progress).unwrap();
        let last = transactions.len() as u64;
        for transaction in transactions {
            journal.append(transaction, Vec::new());
        }
        while journal.durable() < last {
            progress.recv_timeout(Duration::from_secs(60)).expect("the journal commits");
        }
        Self { directory, journal: Some(journal) }
    }

    fn read(&self, filter: HistoryFilter) -> HistoryPart {
        let (reply, read) = mpsc::channel();
        let journal = self.journal.as_ref().unwrap();
        journal.history(filter, move |part| reply.send(part).unwrap());
        read.recv_timeout(Duration::from_secs(60)).unwrap().unwrap()
    }

    /// Reads a chain in parts of a few groups, and in pages of a few runs.
    fn chain(&self, mut tracing: Tracing, groups: usize, runs: usize) -> Chain {
        let mut chain = Chain::default();
        loop {
            while let Some(filter) = tracing.next() {
                let limit = filter.limit.min(groups);
                tracing.add(self.read(HistoryFilter { limit, ..filter }));
            }
            let page = tracing.finish();
            chain.items.extend(page.items);
            let Some(next) = page.next else { return chain };
            // As a client gives it back.
            let cursor: Cursor = next.to_string().parse().unwrap();
            assert_eq!(cursor, next);
            tracing = Tracing::from(cursor, runs, true);
        }
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        drop(self.journal.take());
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Each chain has the runs that led to one another, with their own requests, however many were made in one transaction,
    /// and however it is paged.
    #[test]
    fn chain_has_the_runs_that_led_to_one(cycles in cycles(), groups in 1_usize..5, runs in 1_usize..4) {
        let (transactions, known) = transactions(&cycles);
        let recorded = Recorded::new(transactions);
        for (index, run) in known.iter().enumerate() {
            let path = ActorPath::from(WORKS[run.work]);
            let whole = recorded.chain(Tracing::new(path.clone(), run.run, usize::MAX, false), 512, usize::MAX);
            let paged = recorded.chain(Tracing::new(path, run.run, runs, true), groups, runs);
            prop_assert_eq!(&whole, &paged);
            let was_given = known[..=index].iter().filter(|other| other.work == run.work).count();
            if whole.items.is_empty() {
                // It has never been in progress, so that nothing has its number.
                prop_assert!(was_given > 1);
                continue;
            }
            let mut expected = Some(index);
            for because in &whole.items {
                let Some(index) = expected else { panic!("{because:?} is too much") };
                let Known { work, run, position, led_by } = &known[index];
                prop_assert_eq!((because.path.as_str(), because.run), (WORKS[*work], *run));
                let Some(Event { position: at, path, what: What::RunRequested { input: given, .. }, .. }) =
                    &because.request
                else {
                    panic!("{because:?} has no request")
                };
                prop_assert_eq!((*at, path.as_str()), (*position, WORKS[*work]));
                prop_assert_eq!(given, &Some(input(*work, *run).into()));
                expected = *led_by;
            }
            prop_assert_eq!(expected, None, "{:?}", whole);
        }
    }
}

#[test]
fn cursor_of_any_path_is_read_back() {
    for text in
        ["first-3-18446744073709551615-9-a.b-c", "run-1-2-3-", "request-1-101-7-9-ä", "progress-7-7-b"]
    {
        assert_eq!(text.parse::<Cursor>().unwrap().to_string(), text);
    }
    for text in ["", "run", "run-1-2", "run-x-2-3-a", "walk-1-2-3-a", "progress--1-2-a"] {
        assert!(text.parse::<Cursor>().is_err(), "{text}");
    }
}
