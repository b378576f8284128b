//! Judges a run by its records. It knows nothing of the product and of the plan.
//!
//! # Rules
//! - `once`: no message is handled twice.
//! - `order`: the messages of one sender to one Work are handled in the order in which they were sent.
//! - `delivery`: a `tell` that was accepted is handled, unless the receiver or the sender was lost on the way.
//! - `answer`: an `ask` has the right answer or an error, in time; an error that says that nobody has handled it is true.
//! - `state`: the Flow never sees an older state after a newer one, and sees the last one.
//! - `run`: a run that has succeeded is not begun again.
//! - `payload`: what is read is what was put in; only what was on a lost process is lost.
//! - `reach`: after the faults every Work is up and reaches every other.
//! - `leak`: nobody holds more than before the faults, and nobody who is idle is busy.
//! - `end`: the App ends with success, leaves nothing, and nobody has crashed.

mod delivery;
mod facts;
mod rules;
#[path = "tests.rs"]
pub(crate) mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use self::facts::Facts;
use crate::records::Record;

/// So many different violations of a rule are shown.
const SHOWN: usize = 20;

/// A rule that was broken, with what shows it.
#[derive(Debug)]
pub(crate) struct Violation {
    pub(crate) rule: &'static str,
    pub(crate) text: String,
    pub(crate) records: Vec<Record>,
}

/// What the records come to.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) violations: Vec<Violation>,
    /// What happened how often.
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
