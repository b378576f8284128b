//! The rule `letter`: dead letters are messages that no handler saw, and those that are lost in good order are letters.

use std::collections::BTreeMap;

use super::Report;
use super::facts::{Facts, GRACE, MessageFacts, SECOND, SLACK, Time, replica};
use crate::records::{Event, HTTP, Kind, LetterSender, Life, Outcome, Record};

/// Longest time that a message is under way, and the letter of its loss.
const UNDER_WAY: Time = 10 * SECOND;

/// Types of messages whose sending and handling is recorded.
const RECORDED: [&str; 5] = ["Note", "Question", "Batched", "Listing", "Relay"];

/// The messages of one sender to one Work or service under one head.
#[derive(Default)]
struct Between<'a> {
    /// Messages that no handler saw, and whose loss no error has told to the sender.
    unseen: Vec<&'a MessageFacts<'a>>,
    /// Unseen messages that were accepted without a reply, and met no process that was lost.
    lost: Vec<&'a MessageFacts<'a>>,
    letters: Vec<&'a Record>,
    /// Number of letters that are certainly no handled messages, and of those for messages without a reply.
    certain: u64,
    of_tells: u64,
}

/// Checks that letters are true and complete.
pub(super) fn letter(facts: &Facts<'_>, report: &mut Report) {
    let mut all = BTreeMap::<(u32, &str, LetterSender), Between<'_>>::new();
    for message in facts.messages.values().filter(|message| message.handled.is_empty()) {
        let is_known = matches!(message.sent, Some((_, Outcome::NotHandled(_) | Outcome::Answered)));
        let sender = match facts.lives.get(&message.from) {
            Some(life) if life.work != "flow" && message.kind != Kind::Outside => {
                LetterSender::Work(life.work.to_owned())
            }
            _ => LetterSender::Outside,
        };
        if is_known {
            continue;
        }
        // It is unknown which head has got a question over HTTP.
        let epochs =
            if message.from == HTTP { facts.heads.keys().copied().collect() } else { vec![message.epoch] };
        for epoch in epochs {
            let between = all.entry((epoch, message.to, sender.clone())).or_default();
            between.unseen.push(message);
            if let Some((sent, Outcome::Accepted)) = message.sent
                && is_calm(facts, message, sent.at)
            {
                between.lost.push(message);
            }
        }
    }
    for record in facts.records {
        let Event::Letter { epoch, to, message, sender, reason, count } = &record.event else { continue };
        if !RECORDED.iter().any(|known| message.ends_with(&format!("::{known}"))) {
            continue;
        }
        if reason == "unsendable" {
            report.violation(
                "letter",
                format!("a {message} to {to} was lost, as it is unsendable"),
                vec![record.clone()],
            );
        }
        let to = replica(to).map_or(to.as_str(), |(service, _)| service);
        let between = all.entry((*epoch, to, sender.clone())).or_default();
        between.letters.push(record);
        // A node that is lost may have handled the message before.
        between.certain += if reason == "node_lost" { 0 } else { *count };
        between.of_tells += if reason == "abandoned" { 0 } else { *count };
    }
    for ((_, to, sender), between) in all {
        if sender == LetterSender::Unknown {
            continue;
        }
        let records = || {
            let letters = between.letters.iter().map(|record| (*record).clone());
            let unseen = between.unseen.iter().flat_map(|message| message.records());
            letters.chain(unseen).collect::<Vec<_>>()
        };
        if between.certain > between.unseen.len() as u64 {
            let text = format!(
                "there are {} dead letters of {sender:?} to {to}, and {} messages that no handler saw",
                between.certain,
                between.unseen.len()
            );
            report.violation("letter", text, records());
        }
        between.lost.iter().for_each(|_| report.count("lost messages that have to be dead letters"));
        if between.of_tells < between.lost.len() as u64 {
            let text = format!(
                "{} messages of {sender:?} to {to} were accepted and lost, and there are {} dead letters",
                between.lost.len(),
                between.of_tells
            );
            report.violation("letter", text, records());
        }
    }
}

/// True if nothing was lost, killed or out of reach that this message can have met, and letters have had time to arrive.
fn is_calm(facts: &Facts<'_>, message: &MessageFacts<'_>, accepted: Time) -> bool {
    let (from, to) = (message.trying.at.saturating_sub(GRACE + SLACK), accepted + UNDER_WAY);
    // The letters of the last moments may not have come.
    let is_before_end = facts.phases.get("end").is_some_and(|end| *end >= to);
    let lives = || facts.lives_at(message.epoch, message.to).iter().chain([&message.from]);
    // Ended, and not by itself: its process was given up.
    let is_given_up = |life: &Life| {
        let life = facts.lives.get(life).filter(|life| !life.panicked);
        let ended = life.and_then(|life| life.ended).filter(|(_, orderly)| !orderly);
        ended.is_some_and(|(at, _)| (from..=to).contains(&at))
    };
    if lives().any(is_given_up) {
        return false;
    }
    let processes = lives().filter_map(|life| {
        let facts_of = facts.lives.get(life)?;
        let was_there = facts_of.began <= to && facts.death(*life).is_none_or(|death| death.known >= from);
        was_there.then_some(facts_of.pid)
    });
    let is_calm = |pid: u32| {
        let ends = facts.end_of_process(pid).is_some_and(|at| (from..=to).contains(&at));
        !ends && !facts.is_disturbed(&[&facts.place(pid)], from, to)
    };
    let head = facts.heads.get(&message.epoch);
    is_before_end && processes.chain(head.copied()).all(is_calm)
}
