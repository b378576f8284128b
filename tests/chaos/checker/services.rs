//! The rule `version`: a rollout moves all callers at once, to a version that is ready.

use std::collections::{BTreeMap, HashMap};

use super::Report;
use super::facts::{Facts, MessageFacts, Time, replica};
use crate::records::{Event, Life, Outcome, Record};

/// A service of one head.
type Service<'a> = (u32, &'a str);

/// Checks that messages go to versions that are ready, and that no version answers a message that was sent after a newer
/// version has answered one.
pub(super) fn version(facts: &Facts<'_>, report: &mut Report) {
    let of = |life: &Life| {
        let life = facts.lives.get(life)?;
        let (service, version) = replica(life.work)?;
        Some(((life.epoch, service), version))
    };
    let mut ready = HashMap::<(Service<'_>, u64), Time>::new();
    for record in facts.records {
        if let Event::Ready { life } = &record.event
            && let Some(version) = of(life)
        {
            ready.entry(version).or_insert(record.at);
        }
    }
    let mut answered = BTreeMap::<Service<'_>, Vec<Answered<'_>>>::new();
    for message in facts.messages.values() {
        for (handled, life) in &message.handled {
            let Some((service, version)) = of(life) else { continue };
            if ready.get(&(service, version)).is_none_or(|ready| *ready > handled.at) {
                let text = format!("version {version} of {} got a message before it was ready", service.1);
                report.violation("version", text, message.records());
            }
            if let Some((sent, Outcome::Answered)) = message.sent {
                answered.entry(service).or_default().push(Answered { message, sent, version });
            }
        }
    }
    for ((_, service), answers) in answered {
        let mut by_end: Vec<_> = answers.iter().collect();
        by_end.sort_by_key(|answer| answer.sent.at);
        let mut by_begin: Vec<_> = answers.iter().collect();
        by_begin.sort_by_key(|answer| answer.message.trying.at);
        let mut ended = by_end.into_iter().peekable();
        let mut newest: Option<&Answered<'_>> = None;
        for answer in by_begin {
            while let Some(before) = ended.next_if(|before| before.sent.at < answer.message.trying.at) {
                if newest.is_none_or(|newest| newest.version < before.version) {
                    newest = Some(before);
                }
            }
            if let Some(newest) = newest.filter(|newest| newest.version > answer.version) {
                let text = format!(
                    "version {} of {service} answered a message that was sent after version {} had answered",
                    answer.version, newest.version
                );
                let records = [newest.message.records(), answer.message.records()].concat();
                report.violation("version", text, records);
            }
        }
        if let (Some(first), Some(last)) = (answers.iter().map(|one| one.version).min(), newest) {
            (first..last.version).for_each(|_| report.count("versions passed"));
        }
    }
}

/// A message that a version has answered.
struct Answered<'a> {
    message: &'a MessageFacts<'a>,
    sent: &'a Record,
    version: u64,
}
