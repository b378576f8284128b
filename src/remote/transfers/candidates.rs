//! The pure core of [`Sources`](super::sources::Sources): which source of a value is asked next.
//!
//! # Guarantees
//! - A source that is alive and has the value is asked until it gives the value or the grace period is over, however
//!   often its connections fail, and whether or not the head knows of the value. The head learns only of references
//!   that pass through it.
//! - A source is dropped only if it has answered that it will not send the value, if the head says that its process is
//!   gone, or if it was still unreachable when the grace period ended.
//! - The pull fails when no source is left and the head names no further one.

use std::collections::{HashSet, VecDeque};

use super::super::bridge::Whereabouts;
use super::super::protocol::Source;
use super::ask::NotGiven;
use crate::payload::FetchError;

/// The processes that may have a value, and the outcome of asking them.
pub(super) struct Candidates {
    left: VecDeque<Source>,
    asked: HashSet<u64>,
    failures: Vec<String>,
    /// Number of consecutive sources that were unreachable; reset once all were tried.
    tried: usize,
}

/// The step that follows a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NextAttempt {
    /// Ask the first source that is left.
    Ask,
    /// All sources that are left were unreachable: drop those whose process is gone, wait, and ask again.
    Pause,
    /// No source is left: ask the head for others.
    AskHead,
}

impl Candidates {
    pub(super) fn new(sources: Vec<Source>) -> Self {
        let asked = sources.iter().map(|source| source.id).collect();
        Self { left: sources.into(), asked, failures: Vec::new(), tried: 0 }
    }

    pub(super) fn first(&self) -> Option<&Source> {
        self.left.front()
    }

    /// Returns the processes that may have the value as far as is known here.
    pub(super) fn ids(&self) -> Vec<u64> {
        self.left.iter().map(|source| source.id).collect()
    }

    /// Returns all processes that were asked or are still to be asked.
    pub(super) fn all_ids(&self) -> Vec<u64> {
        self.asked.iter().copied().collect()
    }

    /// Records the failure of the first source. `is_late` is true once the grace period since the last progress is over.
    pub(super) fn failed(&mut self, why: NotGiven, is_late: bool) -> Result<NextAttempt, FetchError> {
        let Some(source) = self.left.pop_front() else { return Ok(NextAttempt::AskHead) };
        match why {
            NotGiven::Never(error) => return Err(error),
            NotGiven::HasItNot(why) => self.failures.push(format!("node `{}`: {why}", source.name)),
            NotGiven::Unreachable(why) if is_late => {
                self.failures.push(format!("node `{}`: {why}", source.name));
            }
            // The connection alone may have failed.
            NotGiven::Unreachable(_) => {
                self.left.push_back(source);
                self.tried += 1;
            }
        }
        if self.left.is_empty() {
            return Ok(NextAttempt::AskHead);
        }
        if self.tried < self.left.len() {
            return Ok(NextAttempt::Ask);
        }
        self.tried = 0;
        Ok(NextAttempt::Pause)
    }

    /// Drops the sources whose processes are gone.
    pub(super) fn drop_gone(&mut self, gone: &[u64]) {
        self.left.retain(|source| !gone.contains(&source.id));
    }

    /// Drops a source that has sent bytes other than those of the value, and returns it.
    pub(super) fn distrust(&mut self, source: u64) -> Option<Source> {
        let at = self.left.iter().position(|left| left.id == source)?;
        let source = self.left.remove(at)?;
        self.failures
            .push(format!("node `{}` sent bytes that do not match the hash of the value", source.name));
        Some(source)
    }

    /// Takes in the sources that the head knows of besides those that were asked. Fails if there are none.
    pub(super) fn found(&mut self, answer: Option<Whereabouts>, me: u64) -> Result<(), FetchError> {
        let (sources, lost) = answer.map_or((Vec::new(), None), |answer| (answer.sources, answer.lost));
        self.left
            .extend(sources.into_iter().filter(|source| source.id != me && self.asked.insert(source.id)));
        if !self.left.is_empty() {
            return Ok(());
        }
        let failures = self.failures.join("; ");
        Err(FetchError::Lost(match (lost, failures.is_empty()) {
            (Some(lost), true) => lost,
            (Some(lost), false) => format!("{lost} ({failures})"),
            (None, false) => format!("no source could send it: {failures}"),
            (None, true) => "no process is known to have it".to_owned(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Time at which an unreachable source is given up. Each pause takes one unit.
    const GRACE: usize = 6;
    /// The puller.
    const ME: u64 = 0;

    #[derive(Debug, Clone)]
    struct Process {
        /// The time from which its process is gone, if it is lost at all.
        gone_from: Option<usize>,
        /// True if the process has the value.
        has: bool,
        /// The times at which connections to it succeed; it stays as at the last one.
        reachable: [bool; GRACE],
        /// True if the reference of the puller names it.
        is_named: bool,
        /// True if the head knows that it has the value.
        is_known: bool,
    }

    impl Process {
        fn is_gone(&self, time: usize) -> bool {
            self.gone_from.is_some_and(|gone| gone <= time)
        }

        fn ask(&self, time: usize) -> Result<(), NotGiven> {
            if self.is_gone(time) || !self.reachable[time.min(GRACE - 1)] {
                Err(NotGiven::Unreachable("refused".to_owned()))
            } else if self.has {
                Ok(())
            } else {
                Err(NotGiven::HasItNot("it no longer has the value".to_owned()))
            }
        }

        /// True if the pull must not fail.
        fn is_to_give(&self) -> bool {
            let asked = self.is_named && self.reachable.contains(&true);
            self.gone_from.is_none() && self.has && asked
        }
    }

    fn process() -> impl Strategy<Value = Process> {
        let gone_from = proptest::option::weighted(0.3, 0..GRACE);
        (gone_from, any::<bool>(), any::<[bool; GRACE]>(), any::<bool>(), any::<bool>()).prop_map(
            |(gone_from, has, reachable, is_named, is_known)| Process {
                gone_from,
                has,
                reachable,
                is_named,
                is_known: is_known && has,
            },
        )
    }

    fn source(process: usize) -> Source {
        Source { id: process as u64 + 1, name: format!("p{process}"), endpoints: Vec::new() }
    }

    /// The answer of the head. Whether it knows of the value is independent of who has it.
    fn answer(processes: &[Process], among: &[u64], time: usize) -> Option<Whereabouts> {
        let gone = |id: u64| processes[id as usize - 1].is_gone(time);
        let known =
            (0..processes.len()).filter(|at| processes[*at].is_known && !processes[*at].is_gone(time));
        let sources: Vec<_> = known.map(source).collect();
        let gone: Vec<_> = among.iter().copied().filter(|id| gone(*id)).collect();
        Some(Whereabouts { sources, gone, lost: None })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        /// A pull succeeds if a source that it knows of lives, has the value and is reachable once within the grace
        /// period; and every pull ends.
        #[test]
        fn source_that_lives_and_has_the_value_gives_it(
            processes in proptest::collection::vec(process(), 1..5),
            head_fails in any::<[bool; 4]>(),
        ) {
            let named = (0..processes.len()).filter(|at| processes[*at].is_named).map(source).collect();
            let mut candidates = Candidates::new(named);
            let (mut time, mut steps, mut questions) = (0, 0, 0);
            // The head does not answer while the session with it is disconnected.
            let mut head = |among: &[u64], time| {
                questions += 1;
                let fails = head_fails.get(questions - 1).copied().unwrap_or(false);
                if fails { None } else { answer(&processes, among, time) }
            };
            let given = loop {
                steps += 1;
                prop_assert!(steps < 1_000, "the pull does not end");
                let next = match candidates.first() {
                    None => NextAttempt::AskHead,
                    Some(first) => match processes[first.id as usize - 1].ask(time) {
                        Ok(()) => break true,
                        Err(why) => match candidates.failed(why, time >= GRACE) {
                            Ok(next) => next,
                            Err(error) => panic!("no process has a value of another type: {error:?}"),
                        },
                    },
                };
                match next {
                    NextAttempt::Ask => {}
                    NextAttempt::Pause => {
                        if let Some(answer) = head(&candidates.ids(), time) {
                            candidates.drop_gone(&answer.gone);
                        }
                        time += 1;
                    }
                    NextAttempt::AskHead => {
                        if candidates.found(head(&candidates.all_ids(), time), ME).is_err() {
                            break false;
                        }
                    }
                }
            };
            prop_assert!(given || !processes.iter().any(Process::is_to_give), "the value is not lost");
            prop_assert!(!given || processes.iter().any(|process| process.has), "nobody has the value");
        }
    }
}
