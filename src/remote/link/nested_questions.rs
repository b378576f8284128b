//! Questions to the peer of a session about the values to which other values refer.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::payload::{PayloadGuard, PayloadGuards, PayloadId};

/// The unanswered questions of one session.
#[derive(Default)]
pub(in crate::remote) struct NestedQuestions(Mutex<HashMap<PayloadId, NestedQuestion>>);

#[derive(Default)]
struct NestedQuestion {
    found: Vec<Arc<PayloadGuard>>,
    askers: Vec<oneshot::Sender<Option<PayloadGuards>>>,
}

impl NestedQuestions {
    /// Registers an asker. Returns a receiver for the answer, and `true` if the peer must be asked.
    pub(in crate::remote) fn ask(&self, id: PayloadId) -> (oneshot::Receiver<Option<PayloadGuards>>, bool) {
        let (asker, answer) = oneshot::channel();
        let mut questions = self.0.lock();
        let askers = &mut questions.entry(id).or_default().askers;
        askers.push(asker);
        (answer, askers.len() == 1)
    }

    /// Handles an answer; `nested` is `None` if the peer does not have the value. Returns the number of the first
    /// reference to ask for next, if the peer has more.
    #[must_use]
    pub(in crate::remote) fn answered(
        &self,
        id: PayloadId,
        nested: Option<&PayloadGuards>,
        more: bool,
    ) -> Option<u64> {
        let mut questions = self.0.lock();
        let question = questions.get_mut(&id)?;
        if let Some(nested) = nested {
            question.found.extend(nested.iter().cloned());
            if more {
                return Some(question.found.len() as u64);
            }
        }
        let NestedQuestion { found, askers } = questions.remove(&id)?;
        drop(questions);
        let found: Option<PayloadGuards> = nested.map(|_| found.into_iter().collect());
        for asker in askers {
            let _ = asker.send(found.clone());
        }
        None
    }

    /// Fails all questions, because the session is over.
    pub(in crate::remote) fn clear(&self) {
        let questions = std::mem::take(&mut *self.0.lock());
        drop(questions);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::Hex;

    const ID: PayloadId = Hex([7; 16]);

    /// The peer is asked once for all askers, and all of them get the answer.
    #[test]
    fn question_is_asked_once_and_answered_to_all() {
        let questions = NestedQuestions::default();
        let (mut first, is_first) = questions.ask(ID);
        let (mut second, is_second) = questions.ask(ID);
        assert!(is_first && !is_second);
        let none = PayloadGuards::default();
        assert_eq!(questions.answered(ID, Some(&none), true), Some(0), "there are more to ask for");
        assert!(first.try_recv().is_err(), "the answer is not complete");
        assert_eq!(questions.answered(ID, Some(&none), false), None);
        assert!(first.try_recv().unwrap().is_some() && second.try_recv().unwrap().is_some());
        assert_eq!(questions.answered(ID, Some(&none), true), None, "nobody asks any more");
    }

    /// Askers learn that the peer does not have the value, and that the session is over.
    #[test]
    fn asker_of_a_value_that_is_gone_gets_none() {
        let questions = NestedQuestions::default();
        let (mut gone, _) = questions.ask(ID);
        assert_eq!(questions.answered(ID, None, false), None);
        assert!(gone.try_recv().unwrap().is_none());
        let (mut over, is_first) = questions.ask(ID);
        assert!(is_first, "the first answer has ended the question");
        questions.clear();
        assert!(over.try_recv().is_err());
    }
}
