//! Random test of the queue before the thread of a journal: its size, from which the driver knows when to take no more.

use std::collections::VecDeque;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant, SystemTime};

use proptest::prelude::*;

use super::group::Group;
use super::store::Store;
use super::tests::{put, wait};
use super::values::{NewValue, ValueChanges};
use super::{
    Condition, Extent, HistoryFilter, HistoryPart, Incomplete, Journal, JournalError, Live, Moment, Recorded,
};

/// Approximate size of a transaction of [`put`]: 1 byte of key and 20 of content, and 64 for the rest.
const ROW: u64 = 85;

/// The values of a transaction.
#[derive(Debug, Clone, Copy)]
enum Values {
    None,
    /// One that becomes a row.
    Small,
    /// One that becomes a file, and one that becomes a row.
    Both,
}

impl Values {
    const SMALL: u64 = 60_000;
    const LARGE: u64 = 70_000;

    fn make(self, number: u64) -> Vec<Arc<NewValue>> {
        let lengths: &[u64] = match self {
            Self::None => &[],
            Self::Small => &[Self::SMALL],
            Self::Both => &[Self::SMALL, Self::LARGE],
        };
        let bytes = |length: &u64| {
            let mut bytes = number.to_le_bytes().to_vec();
            bytes.resize(*length as usize, 0);
            NewValue::test(bytes, Vec::new())
        };
        lengths.iter().map(bytes).collect()
    }

    fn sizes(self) -> (u64, u64) {
        match self {
            Self::None => (0, 0),
            Self::Small => (Self::SMALL, 0),
            Self::Both => (Self::SMALL, Self::LARGE),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Op {
    Append(Values),
    /// Appends a transaction whose values are being brought.
    AppendIncomplete,
    /// Completes the oldest incomplete one.
    Complete(Values),
    /// Ends the commit in progress, which succeeds if there is room.
    Commit {
        has_room: bool,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let values = || prop::sample::select(vec![Values::None, Values::Small, Values::Both]);
    prop_oneof![
        5 => values().prop_map(Op::Append),
        1 => Just(Op::AppendIncomplete),
        1 => values().prop_map(Op::Complete),
        3 => any::<bool>().prop_map(|has_room| Op::Commit { has_room }),
    ]
}

/// A store that records nothing. It tells of each attempt at a commit, and waits for the result.
struct Gated {
    begun: mpsc::Sender<(u64, u64)>,
    results: mpsc::Receiver<bool>,
    position: u64,
}

impl Store for Gated {
    fn append(&mut self, group: &Group, is_durable: &mut dyn FnMut(u64)) -> Result<(), JournalError> {
        let _ = self.begun.send((group.first, group.last));
        if self.results.recv().unwrap_or(true) {
            self.position = group.last;
            is_durable(0);
            return Ok(());
        }
        Err(JournalError::io("/somewhere/payloads".as_ref(), "write", std::io::ErrorKind::StorageFull.into()))
    }

    fn change_values(&mut self, _: &ValueChanges) -> Result<(), JournalError> {
        Ok(())
    }

    fn maintain(&mut self) -> Result<bool, JournalError> {
        Ok(false)
    }

    fn last(&self) -> Moment {
        Moment { position: self.position, at: Duration::ZERO, wall: SystemTime::UNIX_EPOCH }
    }

    fn live(&mut self, _: Option<u64>) -> Result<(Moment, Live), JournalError> {
        Err(JournalError::Closed)
    }

    fn begin_live_at(&mut self, _: u64, _: Extent) -> Result<u64, JournalError> {
        Err(JournalError::Closed)
    }

    fn continue_live_at(&mut self, _: u64, _: Instant) -> Result<Option<(Moment, Live)>, JournalError> {
        Err(JournalError::Closed)
    }

    fn history(&mut self, _: &HistoryFilter) -> Result<HistoryPart, JournalError> {
        Err(JournalError::Closed)
    }

    fn position_at(&mut self, _: SystemTime) -> Result<Option<u64>, JournalError> {
        Err(JournalError::Closed)
    }

    fn mark_progress(&mut self) -> Result<(), JournalError> {
        Ok(())
    }

    fn close(self: Box<Self>, _: bool) -> Result<(), JournalError> {
        Ok(())
    }
}

/// A transaction of the model.
#[derive(Debug, Clone, Copy)]
struct Appended {
    position: u64,
    /// `None` while they are being brought.
    values: Option<Values>,
}

impl Appended {
    fn sizes(self) -> (u64, u64) {
        self.values.map_or((0, 0), Values::sizes)
    }
}

/// A journal with the model of its queue.
struct Checked {
    journal: Journal,
    begun: mpsc::Receiver<(u64, u64)>,
    results: mpsc::Sender<bool>,
    progress: mpsc::Receiver<()>,
    waiting: VecDeque<Appended>,
    committing: Vec<Appended>,
    incomplete: VecDeque<Incomplete>,
}

impl Checked {
    fn new() -> Self {
        let (begin, begun) = mpsc::channel();
        let (results, to_store) = mpsc::channel();
        let (call, progress) = mpsc::channel();
        let store = Gated { begun: begin, results: to_store, position: 0 };
        let on_progress = Box::new(move || call.send(()).unwrap_or_default());
        let journal = Journal::start(Box::new(store), Recorded::Small, on_progress).unwrap();
        let (waiting, committing, incomplete) = Default::default();
        Self { journal, begun, results, progress, waiting, committing, incomplete }
    }

    fn next_commit(&self) -> (u64, u64) {
        self.begun.recv_timeout(Duration::from_secs(60)).expect("the thread commits what is ready")
    }

    fn expected(&self) -> u64 {
        let whole = |appended: &Appended| ROW + appended.sizes().0 + appended.sizes().1;
        let waiting: u64 = self.waiting.iter().map(whole).sum();
        let committing: u64 = self.committing.iter().map(|appended| ROW + appended.sizes().0).sum();
        waiting + committing
    }

    /// Waits until the thread commits what it can.
    fn settle(&mut self) {
        if self.committing.is_empty() {
            let can_follow = |(at, next): &(usize, &Appended)| {
                next.values.is_some_and(|values| *at == 0 || !matches!(values, Values::Both))
            };
            let ready = self.waiting.iter().enumerate().take_while(can_follow).count();
            self.committing = self.waiting.drain(..ready).collect();
            if let (Some(first), Some(last)) = (self.committing.first(), self.committing.last()) {
                assert_eq!(self.next_commit(), (first.position, last.position));
            } else {
                wait(&self.progress, || self.journal.backlog_bytes() == self.expected());
            }
        }
        assert_eq!(self.journal.backlog_bytes(), self.expected());
    }

    fn apply(&mut self, number: u64, op: Op) {
        match op {
            Op::Append(values) => {
                let position = self.journal.append(put(1), values.make(number));
                self.waiting.push_back(Appended { position, values: Some(values) });
            }
            Op::AppendIncomplete => {
                let (position, incomplete) = self.journal.append_incomplete(put(1));
                self.waiting.push_back(Appended { position, values: None });
                self.incomplete.push_back(incomplete);
            }
            Op::Complete(values) => {
                let Some(incomplete) = self.incomplete.pop_front() else { return };
                incomplete.complete(values.make(number));
                let oldest = self.waiting.iter_mut().find(|appended| appended.values.is_none());
                oldest.expect("it waits").values = Some(values);
            }
            Op::Commit { .. } if self.committing.is_empty() => {}
            Op::Commit { has_room: true } => {
                self.results.send(true).unwrap();
                self.committing.clear();
            }
            Op::Commit { has_room: false } => {
                self.results.send(false).unwrap();
                wait(&self.progress, || matches!(self.journal.condition(), Condition::Full { .. }));
                assert_eq!(self.journal.backlog_bytes(), self.expected());
                self.journal.retry();
                let (first, last) = (self.committing[0].position, self.committing.last().unwrap().position);
                assert_eq!(self.next_commit(), (first, last), "it is tried again");
            }
        }
        self.settle();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    /// The backlog has all that is not durable, but of the commit in progress no files: a value that is written does not
    /// hold up the driver, and values that wait, as while the disk is full, do.
    #[test]
    fn backlog_counts_files_that_wait(ops in prop::collection::vec(op(), 1..60)) {
        let mut checked = Checked::new();
        for (number, op) in (0..).zip(ops) {
            checked.apply(number, op);
        }
        let Checked { journal, results, progress, incomplete, .. } = checked;
        drop((incomplete, results));
        wait(&progress, || journal.backlog_bytes() == 0);
        prop_assert!(journal.close(true).is_ok());
    }
}
