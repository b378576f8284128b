//! The values that a pulled value refers to.
//!
//! # Guarantees
//! - Before a value is in this process, each value that it refers to is held for this process, by way of the session with the
//!   process that it was pulled from: that has the value, and so keeps alive what it refers to.
//! - However many there are, an answer is small; the next one is asked for once an answer has come.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::super::bridge::Bridge;
use super::super::link::Link;
use super::super::protocol::Control;
use super::super::references::Source;
use super::ask::NotGiven;
use crate::payload::{self, PayloadGuard, PayloadGuards, PayloadId};

/// References in one answer.
const AT_ONCE: usize = 1000;

/// The questions that were asked in one session and are not answered yet.
#[derive(Default)]
pub(in crate::remote) struct NestedQuestions(Mutex<HashMap<PayloadId, Question>>);

#[derive(Default)]
struct Question {
    found: Vec<Arc<PayloadGuard>>,
    askers: Vec<oneshot::Sender<Option<PayloadGuards>>>,
}

impl NestedQuestions {
    fn lock(&self) -> MutexGuard<'_, HashMap<PayloadId, Question>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for an answer, and says whether the peer has to be asked.
    fn ask(&self, id: PayloadId) -> (oneshot::Receiver<Option<PayloadGuards>>, bool) {
        let (asker, answer) = oneshot::channel();
        let mut questions = self.lock();
        let askers = &mut questions.entry(id).or_default().askers;
        askers.push(asker);
        (answer, askers.len() == 1)
    }

    /// Takes in an answer; `nested` is missing where the peer has not got the value.
    pub(in crate::remote) fn answered(
        &self,
        link: &Link,
        id: PayloadId,
        nested: Option<&PayloadGuards>,
        more: bool,
    ) {
        let mut questions = self.lock();
        let Some(question) = questions.get_mut(&id) else { return };
        if let Some(nested) = nested {
            question.found.extend(nested.iter().cloned());
            if more {
                let from = question.found.len() as u64;
                drop(questions);
                return link.control(&Control::WhatRefers { id, from });
            }
        }
        let Some(Question { found, askers }) = questions.remove(&id) else { return };
        drop(questions);
        let found: Option<PayloadGuards> = nested.map(|_| found.into_iter().collect());
        for asker in askers {
            let _ = asker.send(found.clone());
        }
    }

    /// The session is over: nothing is answered any more.
    pub(in crate::remote) fn clear(&self) {
        let questions = std::mem::take(&mut *self.lock());
        drop(questions);
    }
}

/// Has the values that a value of `source` refers to held for this process.
pub(super) async fn nested(
    bridge: &Arc<Bridge>,
    source: &Source,
    id: PayloadId,
) -> Result<PayloadGuards, NotGiven> {
    let unreachable = || NotGiven::Unreachable("there is no session with it".to_owned());
    let link = bridge.link_to(source).ok_or_else(unreachable)?;
    let (answer, is_first) = link.nested().ask(id);
    if is_first {
        link.control(&Control::WhatRefers { id, from: 0 });
    }
    if link.is_over() {
        link.nested().clear();
    }
    match tokio::time::timeout(bridge.settings().grace, answer).await {
        Ok(Ok(Some(nested))) => Ok(nested),
        Ok(Ok(None)) => Err(NotGiven::HasItNot("it has it no more".to_owned())),
        Ok(Err(_)) | Err(_) => Err(unreachable()),
    }
}

/// Tells the peer which values one of this process refers to, and has them held for it.
pub(in crate::remote) fn tell_nested(link: &Link, id: PayloadId, from: u64) {
    let Some(blob) = payload::entry_of(id).and_then(|entry| entry.blob()) else {
        return link.reply(&Control::Refers { id, there: false, more: false });
    };
    let from = usize::try_from(from).unwrap_or(usize::MAX);
    let mut left = blob.nested.iter().skip(from);
    let nested: PayloadGuards = left.by_ref().take(AT_ONCE).cloned().collect();
    let more = left.next().is_some();
    link.reply_with(&nested, &Control::Refers { id, there: true, more });
}
