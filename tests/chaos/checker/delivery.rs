//! The rule `delivery`: every accepted message is handled, or its loss is excused.

use std::collections::HashMap;

use super::Report;
use super::facts::{Death, Facts, GRACE, MessageFacts, SECOND, SLACK, Time, is_service};
use crate::records::{Event, Kind, Life, Outcome, Role};

/// Longest time that a message may be in flight or wait in a mailbox without a disturbance.
const UNDER_WAY: Time = 20 * SECOND;
/// Longest time that an accepted message may take to leave its process: one that a connection has lost leaves again when
/// there is another, or is lost with its process once the grace period is over.
const LEAVING: Time = GRACE + SECOND;

/// Checks that an accepted `tell` is handled, unless the receiver or the sender was lost meanwhile.
pub(super) fn delivery(facts: &Facts<'_>, report: &mut Report) {
    let later = handled_later(facts);
    for message in facts.messages.values() {
        if message.kind.is_ask() || !message.handled.is_empty() {
            continue;
        }
        let Some((sent, Outcome::Accepted)) = message.sent else { continue };
        report.count("accepted and not handled");
        let lost = Lost {
            tried: message.trying.at,
            accepted: sent.at,
            later: later.get(&key(message)).and_then(|all| {
                // The first handled message that was sent after this one, and has not overtaken it.
                let may_tell = |later: &&Later| {
                    later.tried > sent.at && (message.kind == Kind::First || !later.is_first)
                };
                all.iter().filter(may_tell).map(|later| later.handled).min()
            }),
        };
        match excuse(facts, message, &lost) {
            Some(why) => report.count(format!("excused, as {why}")),
            None => {
                let mut records = message.records();
                let lives = facts.lives_at(message.epoch, message.to).iter();
                // The incarnations of the receiver at about that time.
                let near = |at: Time| at + 30 * SECOND > lost.tried && at < lost.accepted + 30 * SECOND;
                for life in lives.map(|life| &facts.lives[life]).filter(|life| near(life.began)) {
                    records.push(life.record.clone());
                }
                let handled = if lost.later.is_some() { "; a later one was handled" } else { "" };
                let text = format!(
                    "a message of {} to {} was accepted and never handled{handled}",
                    who(facts, message.from),
                    message.to
                );
                report.violation("delivery", text, records);
            }
        }
    }
}

fn who(facts: &Facts<'_>, life: Life) -> String {
    match facts.lives.get(&life) {
        Some(facts_of) => format!("{} (on {})", facts_of.work, facts.place(facts_of.pid)),
        None => "http".to_owned(),
    }
}

type Key<'a> = (Life, u32, &'a str);

fn key<'a>(message: &MessageFacts<'a>) -> Key<'a> {
    (message.from, message.epoch, message.to)
}

/// A message that was handled.
struct Later {
    tried: Time,
    handled: Time,
    is_first: bool,
}

/// For each sender and receiver, the messages that were handled. Those to a service have no order.
fn handled_later<'a>(facts: &Facts<'a>) -> HashMap<Key<'a>, Vec<Later>> {
    let mut all = HashMap::<_, Vec<_>>::new();
    for message in facts.messages.values().filter(|message| !is_service(message.to)) {
        if let Some((handled, _)) = message.handled.first() {
            let (tried, handled) = (message.trying.at, handled.at);
            let later = Later { tried, handled, is_first: message.kind == Kind::First };
            all.entry(key(message)).or_default().push(later);
        }
    }
    all
}

/// A message that was not handled.
struct Lost {
    tried: Time,
    accepted: Time,
    /// Time at which a later message of the same sender was handled: this one was lost before that.
    later: Option<Time>,
}

/// Returns the reason for which the message may have been lost, if there is one.
fn excuse(facts: &Facts<'_>, message: &MessageFacts<'_>, lost: &Lost) -> Option<&'static str> {
    let sender = facts.place_of(message.from);
    if facts.end_of_head(message.epoch).is_some_and(|end| end < lost.accepted + UNDER_WAY) {
        return Some("the head had ended");
    }
    let lives = facts.lives_at(message.epoch, message.to);
    // A sender keeps messages for a node that is unreachable.
    let mut places: Vec<String> = lives.iter().map(|life| facts.place_of(*life)).collect();
    places.push(sender.clone());
    if is_sender_lost(facts, message.from, &places, lost) {
        return Some("the sender was lost");
    }
    for life in lives {
        let Some(death) = facts.death(*life) else { continue };
        // A message to a service goes to another replica if its replica stops or fails before a handler has begun it.
        if is_service(message.to) && (death.orderly || facts.lives[life].panicked) {
            continue;
        }
        if concerns(facts, &death, &sender, &facts.place_of(*life), lost) {
            return Some(if death.orderly { "the receiver was stopped" } else { "the receiver was lost" });
        }
    }
    // A message that was written to a connection and not acknowledged is not sent again through the head, since it may
    // have been handled.
    let places: Vec<&str> = places.iter().map(String::as_str).collect();
    if facts.may_lose_each_other(&places, lost.tried.saturating_sub(SECOND), lost.accepted + SECOND) {
        return Some("two processes had lost each other");
    }
    let was_there = lives.iter().any(|life| {
        let began = facts.lives[life].began;
        began <= lost.accepted && facts.death(*life).is_none_or(|death| death.known >= lost.tried)
    });
    if !was_there && is_a_node_lost(facts, lost) {
        return Some("the receiver had no place, and a node was lost");
    }
    if message.to.starts_with("extras.") && was_removed(facts, message.to, lost) {
        return Some("the receiver was removed");
    }
    None
}

/// True if a message can have been in flight to an incarnation when that ended, given the knowledge of its sender.
fn concerns(facts: &Facts<'_>, death: &Death, sender: &str, receiver: &str, lost: &Lost) -> bool {
    let known = facts.settled(&[sender, receiver], death.from, death.known);
    let under_way = facts.settled(&[sender, receiver], lost.tried, lost.accepted + UNDER_WAY);
    lost.tried <= known && death.from <= under_way && lost.later.is_none_or(|later| later >= death.from)
}

/// True if the message may have been lost with its sender: messages that a process has accepted and not sent yet are
/// lost with it.
fn is_sender_lost(facts: &Facts<'_>, life: Life, places: &[String], lost: &Lost) -> bool {
    let Some(sender) = facts.lives.get(&life) else { return false };
    let places: Vec<&str> = places.iter().map(String::as_str).collect();
    let left = facts.settled(&places, lost.tried, lost.accepted + LEAVING);
    let process = facts.end_of_process(sender.pid);
    // Messages of a Work leave its process also after the Work has ended, unless the head has given its node up: then
    // others end there as well.
    let is_of_given_up_node = || {
        let place = facts.place(sender.pid);
        let mut there = facts.lives.values().filter(|life| life.pid == sender.pid && !life.panicked);
        facts.is_disturbed(&[&place], lost.tried, left)
            && there.any(|life| {
                life.ended.is_some_and(|(at, orderly)| !orderly && (lost.tried..=left).contains(&at))
            })
    };
    let is_given_up = if sender.panicked {
        is_of_given_up_node()
    } else {
        sender.ended.is_none_or(|(_, orderly)| !orderly)
    };
    let ended = sender.ended.map(|(at, _)| at).filter(|_| is_given_up);
    // The incarnation may go on for a while after it was replaced.
    let replaced = sender.next_began.filter(|_| is_given_up);
    [ended, process, replaced].into_iter().flatten().any(|at| at <= left)
}

fn is_a_node_lost(facts: &Facts<'_>, lost: &Lost) -> bool {
    let (from, to) = (lost.tried.saturating_sub(GRACE + SLACK), lost.accepted + UNDER_WAY);
    let ended = facts.processes.iter().any(|(pid, process)| {
        matches!(process.role, Some(Role::Node { .. }))
            && facts.end_of_process(*pid).is_some_and(|at| (from..to).contains(&at))
    });
    ended || facts.disturbances.iter().any(|(_, begun, ended, _)| *begun < to && *ended > from)
}

fn was_removed(facts: &Facts<'_>, work: &str, lost: &Lost) -> bool {
    facts.records.iter().any(|record| {
        matches!(&record.event, Event::Ordered { work: other, what } if other == work && what == "remove")
            && record.at + UNDER_WAY > lost.tried
            && record.at < lost.accepted + UNDER_WAY
    })
}
