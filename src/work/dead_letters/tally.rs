//! Numbers of dead letters by Work and reason, for a bounded number of Works. Pure.

use std::collections::BTreeMap;

use super::letter::DeadLetterReason;
use super::waiting::ByReason;
use crate::id::ActorPath;

/// Number of Works with numbers of their own. Those that have lost no message for the longest are summed up as one.
const WORKS: usize = 1000;

#[derive(Default)]
pub(super) struct Tally {
    works: BTreeMap<ActorPath, Counted>,
    others: ByReason,
    now: u64,
}

#[derive(Default)]
struct Counted {
    letters: ByReason,
    /// The time of the last letter, in letters of all Works.
    last: u64,
}

fn add(letters: &mut ByReason, reason: DeadLetterReason, count: u64) {
    let counted = &mut letters[reason as usize];
    *counted = counted.saturating_add(count);
}

impl Tally {
    pub(super) fn add(&mut self, to: &ActorPath, reason: DeadLetterReason, count: u64) {
        self.now += 1;
        if self.works.len() >= WORKS && !self.works.contains_key(to) {
            let oldest = self.works.iter().min_by_key(|(_, counted)| counted.last);
            let oldest = oldest.map(|(path, _)| path.clone());
            if let Some(counted) = oldest.and_then(|oldest| self.works.remove(&oldest)) {
                let letters = DeadLetterReason::ALL.into_iter().zip(counted.letters);
                letters.for_each(|(reason, count)| add(&mut self.others, reason, count));
            }
        }
        let counted = self.works.entry(to.clone()).or_default();
        counted.last = self.now;
        add(&mut counted.letters, reason, count);
    }

    /// Counts letters whose Works are not known.
    pub(super) fn add_others(&mut self, reason: DeadLetterReason, count: u64) {
        add(&mut self.others, reason, count);
    }

    /// Returns the number of letters for a Work; 0 for one that is summed up with others.
    pub(super) fn of(&self, path: &ActorPath) -> u64 {
        self.works.get(path).map_or(0, |counted| counted.letters.iter().sum())
    }

    /// Returns the numbers that are not 0, by Work (`None`: all others) and reason.
    pub(super) fn all(&self) -> Vec<(Option<ActorPath>, DeadLetterReason, u64)> {
        let works = self.works.iter().map(|(path, counted)| (Some(path.clone()), counted.letters));
        works
            .chain([(None, self.others)])
            .flat_map(|(path, letters)| {
                let reasons = DeadLetterReason::ALL.into_iter().zip(letters);
                reasons
                    .filter(|(_, count)| *count > 0)
                    .map(move |(reason, count)| (path.clone(), reason, count))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of series is bounded, the sum over all of them is kept, and a Work that goes on losing messages keeps its
    /// own.
    #[test]
    fn quietest_work_joins_the_others() {
        let mut tally = Tally::default();
        let path = |number: usize| ActorPath::from(format!("work.{number}").as_str());
        for number in 0..3 * WORKS {
            tally.add(&path(number), DeadLetterReason::Failed, 1);
            tally.add(&path(0), DeadLetterReason::Stopped, 2);
        }
        let all = tally.all();
        assert!(all.len() <= WORKS + 2, "{}", all.len());
        let sum = |reason| all.iter().filter(|(_, r, _)| *r == reason).map(|(.., count)| count).sum::<u64>();
        assert_eq!(sum(DeadLetterReason::Failed), 3 * WORKS as u64);
        assert_eq!(tally.of(&path(0)), 6 * WORKS as u64 + 1);
        assert_eq!(tally.of(&path(3)), 0);
    }
}
