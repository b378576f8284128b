//! The dead letters that wait for the hook of an App or for its head. Pure.
//!
//! # Guarantees
//! - At most [`WAITING`] letters wait. Equal ones, which differ in their number only, are one letter with the sum.
//! - A letter that finds no place is counted by its reason: the letters taken and those counted are all that were added.
//! - Letters are taken in the order in which the first of equal ones was added.

use std::collections::{HashMap, VecDeque};

use super::letter::{DeadLetter, DeadLetterReason, DeadLetterSender};
use crate::id::ActorPath;

/// Number of letters that wait at most.
pub(super) const WAITING: usize = 1024;

/// Numbers of letters by their reason.
pub(crate) type ByReason = [u64; DeadLetterReason::ALL.len()];

/// The part of a letter in which equal ones agree.
type Key = (ActorPath, String, DeadLetterSender, DeadLetterReason, String);

#[derive(Default)]
pub(super) struct Waiting {
    letters: VecDeque<DeadLetter>,
    /// The place of each letter, counted from the first that ever waited.
    places: HashMap<Key, u64>,
    /// The number of letters that were taken.
    taken: u64,
    omitted: ByReason,
}

fn key(letter: &DeadLetter) -> Key {
    let DeadLetter { to, message, sender, reason, node, .. } = letter;
    (to.clone(), message.clone(), sender.clone(), *reason, node.clone())
}

impl Waiting {
    pub(super) fn add(&mut self, letter: DeadLetter) {
        let key = key(&letter);
        if let Some(place) = self.places.get(&key) {
            let place = usize::try_from(place - self.taken).unwrap_or(usize::MAX);
            if let Some(waits) = self.letters.get_mut(place) {
                waits.count = waits.count.saturating_add(letter.count);
            }
        } else if self.letters.len() >= WAITING {
            self.omit(letter.reason, letter.count);
        } else {
            self.places.insert(key, self.taken + self.letters.len() as u64);
            self.letters.push_back(letter);
        }
    }

    /// Counts letters that are not kept.
    pub(super) fn omit(&mut self, reason: DeadLetterReason, count: u64) {
        let omitted = &mut self.omitted[reason as usize];
        *omitted = omitted.saturating_add(count);
    }

    /// Takes at most `most` letters, and the numbers of those that were not kept.
    pub(super) fn take(&mut self, most: usize) -> (Vec<DeadLetter>, ByReason) {
        let letters: Vec<_> = self.letters.drain(..most.min(self.letters.len())).collect();
        self.taken += letters.len() as u64;
        for letter in &letters {
            self.places.remove(&key(letter));
        }
        (letters, std::mem::take(&mut self.omitted))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn letter(number: usize, count: u64) -> DeadLetter {
        DeadLetter {
            to: ActorPath::from(format!("work.{}", number / 2).as_str()),
            message: "M".to_owned(),
            sender: DeadLetterSender::Outside,
            reason: DeadLetterReason::ALL[number % 2],
            why: String::new(),
            node: "head".to_owned(),
            count,
        }
    }

    proptest! {
        /// Whatever is added and taken in whatever order, the number of each letter is right, none is taken twice, and no
        /// more wait than may.
        #[test]
        fn letters_are_conflated_and_bounded(
            steps in proptest::collection::vec((0..3000_usize, 0..4_u64, 0..400_usize), 0..100),
        ) {
            let mut waiting = Waiting::default();
            let (mut added, mut taken) = (BTreeMap::<usize, u64>::new(), BTreeMap::<usize, u64>::new());
            let mut omitted = ByReason::default();
            let mut take = |waiting: &mut Waiting, most| {
                let (letters, more) = waiting.take(most);
                assert!(letters.len() <= most);
                let numbers = letters.into_iter().map(|found| {
                    let half = found.to.as_str().trim_start_matches("work.").parse::<usize>().unwrap();
                    let number = 2 * half + found.reason as usize;
                    assert_eq!(found, letter(number, found.count));
                    *taken.entry(number).or_default() += found.count;
                    number
                });
                let mut numbers: Vec<_> = numbers.collect();
                numbers.sort_unstable();
                assert!(numbers.windows(2).all(|pair| pair[0] != pair[1]), "equal letters are one");
                omitted.iter_mut().zip(more).for_each(|(all, more)| *all += more);
            };
            for (first, count, most) in steps {
                for number in first..first + 20 {
                    waiting.add(letter(number, count));
                    *added.entry(number).or_default() += count;
                }
                prop_assert!(waiting.letters.len() <= WAITING);
                prop_assert_eq!(waiting.letters.len(), waiting.places.len());
                if most % 3 == 0 {
                    take(&mut waiting, most);
                }
            }
            take(&mut waiting, WAITING);
            for (reason, omitted) in omitted.into_iter().enumerate().take(2) {
                let sum = |all: &BTreeMap<usize, u64>| -> u64 {
                    all.iter().filter(|(number, _)| *number % 2 == reason).map(|(_, count)| count).sum()
                };
                prop_assert_eq!(sum(&added), sum(&taken) + omitted);
            }
            for (number, count) in taken {
                prop_assert!(count <= added[&number]);
            }
        }
    }

    #[test]
    fn letter_beyond_the_bound_is_counted() {
        let mut waiting = Waiting::default();
        (0..WAITING + 5).for_each(|number| waiting.add(letter(2 * number, 2)));
        waiting.add(letter(0, 7));
        let (letters, omitted) = waiting.take(usize::MAX);
        assert_eq!((letters.len(), letters[0].count, omitted[0]), (WAITING, 9, 10));
        assert_eq!(waiting.take(usize::MAX), (Vec::new(), ByReason::default()));
    }
}
