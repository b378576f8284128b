//! Checks the records of a run. It does not depend on the crate or the plan.
//!
//! # Rules
//! - `once`: no message is handled twice.
//! - `order`: the messages of one sender to one Work are handled in the order in which they were sent, except that those of
//!   `tell_first` overtake others.
//! - `delivery`: a `tell` that was accepted is handled, unless the receiver or the sender was lost meanwhile. One to a service
//!   outlives a replica that stops or panics.
//! - `answer`: an `ask` gets the right answer or an error, in time; an error that claims that no handler saw the
//!   message is true. A stream has each item in its place, and ends as its sender has ended it, or with the error that says
//!   what was lost.
//! - `version`: no version of a service gets a message before a replica of it is ready, and none answers a message that was
//!   sent after a newer one has answered.
//! - `deadlock`: Works that are told of a cycle were in it, all at one time and with nothing else to wait for. Those that last
//!   until a timeout are counted.
//! - `letter`: a dead letter is a message that no handler saw, and one that was accepted, is not handled and was not lost with
//!   a process is a dead letter.
//! - `batch`: a batch is as large as its bounds allow.
//! - `state`: the Flow never sees an older state after a newer one, and sees the last one.
//! - `run`: a run that has succeeded is not begun again.
//! - `payload`: a value that is read is the value that was stored; only values on a lost process are lost.
//! - `reach`: after the faults every Work is up and reaches every other.
//! - `leak`: no process holds more resources than before the faults, and no idle process uses processor time.
//! - `end`: the App ends with success, leaves nothing behind, and no process has crashed.

mod deadlocks;
mod delivery;
pub(crate) mod exchange_tests;
mod facts;
mod letters;
mod rules;
mod services;
#[path = "tests.rs"]
pub(crate) mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use self::facts::Facts;
use crate::records::Record;

/// Number of violations of a rule that are shown.
const SHOWN: usize = 20;

/// A violated rule, with the records that show the violation.
#[derive(Debug)]
pub(crate) struct Violation {
    pub(crate) rule: &'static str,
    pub(crate) text: String,
    pub(crate) records: Vec<Record>,
}

/// The result of the checks.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) violations: Vec<Violation>,
    /// The number of events of each kind.
    pub(crate) counts: BTreeMap<String, u64>,
}

impl Report {
    fn count(&mut self, what: impl Into<String>) {
        *self.counts.entry(what.into()).or_default() += 1;
    }

    fn violation(&mut self, rule: &'static str, text: impl Into<String>, records: Vec<Record>) {
        self.violations.push(Violation { rule, text: text.into(), records });
    }
}

/// Checks all rules.
pub(crate) fn check(records: &[Record]) -> Report {
    let facts = Facts::new(records);
    let mut report = Report::default();
    rules::count(&facts, &mut report);
    rules::once(&facts, &mut report);
    rules::order(&facts, &mut report);
    delivery::delivery(&facts, &mut report);
    rules::answer(&facts, &mut report);
    rules::batch(&facts, &mut report);
    services::version(&facts, &mut report);
    deadlocks::deadlock(&facts, &mut report);
    letters::letter(&facts, &mut report);
    rules::state(&facts, &mut report);
    rules::run(&facts, &mut report);
    rules::payload(&facts, &mut report);
    rules::reach(&facts, &mut report);
    rules::leak(&facts, &mut report);
    rules::end(&facts, &mut report);
    report
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts: Vec<_> = self.counts.iter().map(|(what, count)| format!("{count} {what}")).collect();
        writeln!(f, "{}", counts.join(", "))?;
        let mut by_rule = BTreeMap::<&str, Vec<&Violation>>::new();
        for violation in &self.violations {
            by_rule.entry(violation.rule).or_default().push(violation);
        }
        for (rule, violations) in by_rule {
            writeln!(f, "rule `{rule}` is violated {} times:", violations.len())?;
            let mut alike = BTreeMap::<&str, usize>::new();
            violations.iter().for_each(|violation| *alike.entry(&violation.text).or_default() += 1);
            let mut shown = BTreeSet::new();
            let first = violations.iter().filter(|violation| shown.insert(&violation.text));
            for violation in first.take(SHOWN) {
                let times = alike[violation.text.as_str()];
                let times = if times > 1 { format!(" ({times} times)") } else { String::new() };
                writeln!(f, "- {}{times}", violation.text)?;
                for Record { at, pid, event } in &violation.records {
                    writeln!(f, "    {:.6} s, process {pid}: {event:?}", *at as f64 / 1e6)?;
                }
            }
        }
        Ok(())
    }
}
