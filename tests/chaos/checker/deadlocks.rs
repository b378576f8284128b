//! The rule `deadlock`: what is told of a cycle is true. Cycles that are not told, and end by a timeout, are counted.

use std::collections::{BTreeMap, BTreeSet};

use super::Report;
use super::facts::{Facts, GRACE, MessageFacts, SECOND, SLACK, Time, is_service};
use crate::records::{Kind, Outcome};

/// Counts of cycles that were not told, with a fault that may be the reason, and without one.
pub(super) const HIDDEN: &str = "cycles that a fault has hidden";
pub(super) const UNTOLD: &str = "cycles that lasted until a timeout";

/// The time for which a cycle lasts that is not told: that of an `ask`, which is longer than finding it takes.
const LASTING: Time = 8 * SECOND;
/// Time within which a cycle is found by a busy machine.
const FOUND: Time = 4 * SECOND;

/// The asks of handlers that await nothing else, by the Works between which they are.
type Waiting<'a> = BTreeMap<(u32, &'a str, &'a str), Vec<&'a MessageFacts<'a>>>;

/// Checks that Works that are told of a cycle were in it, and counts the cycles that last.
pub(super) fn deadlock(facts: &Facts<'_>, report: &mut Report) {
    let mut waiting = Waiting::new();
    for message in facts.messages.values().filter(|message| message.kind == Kind::Nested) {
        if let Some(asker) = facts.lives.get(&message.from) {
            waiting.entry((message.epoch, asker.work, message.to)).or_default().push(message);
        }
    }
    for message in facts.messages.values() {
        match message.sent {
            Some((_, Outcome::Deadlock(cycle))) => {
                if let Some(why) = untrue(facts, &waiting, message, cycle) {
                    let text = format!("{} was told of the cycle {cycle:?}, and {why}", message.to);
                    report.violation("deadlock", text, message.records());
                }
            }
            Some((sent, Outcome::Unclear(_)))
                if message.kind == Kind::Nested && sent.at >= message.trying.at + LASTING =>
            {
                untold(facts, &waiting, message, sent.at, report);
            }
            _ => {}
        }
    }
}

/// The time at which an ask has ended at the latest.
fn end(facts: &Facts<'_>, ask: &MessageFacts<'_>) -> Time {
    let death = facts.death(ask.from).map(|death| death.known);
    ask.sent.map(|(sent, _)| sent.at).into_iter().chain(death).min().unwrap_or(Time::MAX)
}

/// Returns the reason for which a cycle that was told was none.
fn untrue(
    facts: &Facts<'_>,
    waiting: &Waiting<'_>,
    message: &MessageFacts<'_>,
    cycle: &[String],
) -> Option<String> {
    if message.kind != Kind::Nested {
        return Some(format!("its asker awaits something beside it ({:?})", message.kind));
    }
    let asker = facts.lives.get(&message.from)?.work;
    let begins = cycle.len() >= 2 && cycle[0] == asker && cycle[1] == message.to;
    if !begins || cycle.first() != cycle.last() {
        return Some(format!("{asker} has asked {}", message.to));
    }
    let mut edges = vec![vec![message]];
    for pair in cycle[1..].windows(2) {
        match waiting.get(&(message.epoch, pair[0].as_str(), pair[1].as_str())) {
            Some(asks) => edges.push(asks.clone()),
            None => return Some(format!("{} never asked {}", pair[0], pair[1])),
        }
    }
    let told = message.sent.map_or(Time::MAX, |(sent, _)| sent.at);
    // All of them were there at one time if they were when one of them began.
    let moments = edges.iter().flatten().map(|ask| ask.trying.at).filter(|at| *at <= told);
    let was_there = |at: Time| {
        edges.iter().all(|asks| asks.iter().any(|ask| ask.trying.at <= at && end(facts, ask) >= at))
    };
    let is_true = moments.into_iter().any(was_there);
    (!is_true).then(|| "its asks were never there at one time".to_owned())
}

/// Counts a cycle of asks of which this one has lasted until its timeout.
fn untold(
    facts: &Facts<'_>,
    waiting: &Waiting<'_>,
    message: &MessageFacts<'_>,
    ended: Time,
    report: &mut Report,
) {
    let Some(asker) = facts.lives.get(&message.from) else { return };
    let begun = ended.saturating_sub(FOUND);
    // The asks that were there all the time, by their askers. A Work that waits has one at a time.
    let lasting = |ask: &&&MessageFacts<'_>| ask.trying.at <= begun && end(facts, ask) + SECOND / 10 >= ended;
    let mut asks = BTreeMap::<&str, &MessageFacts<'_>>::new();
    for ((epoch, from, to), all) in waiting {
        if *epoch == message.epoch
            && !is_service(to)
            && let Some(ask) = all.iter().find(lasting)
        {
            asks.insert(from, ask);
        }
    }
    let mut seen = BTreeSet::from([asker.work]);
    let mut cycle = vec![message];
    let mut at = message.to;
    while at != asker.work {
        let Some(ask) = asks.get(at).filter(|_| seen.insert(at)) else { return };
        cycle.push(ask);
        at = ask.to;
    }
    let places: Vec<String> = cycle
        .iter()
        .flat_map(|ask| facts.lives_at(message.epoch, ask.to).iter().map(|life| facts.place_of(*life)))
        .chain(["head".to_owned()])
        .collect();
    let places: Vec<&str> = places.iter().map(String::as_str).collect();
    let from = message.trying.at.saturating_sub(GRACE + SLACK);
    // A node that is lost, or a Work that has moved, may be waited for without a cycle.
    let died = cycle.iter().any(|ask| {
        let lives = facts.lives_at(message.epoch, ask.to).iter().filter_map(|life| facts.death(*life));
        lives.into_iter().any(|death| death.from <= ended && death.known >= from)
    });
    let is_hidden = died || facts.is_disturbed(&places, from, ended);
    report.count(if is_hidden { HIDDEN } else { UNTOLD });
}
