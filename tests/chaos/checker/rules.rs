//! All rules except `delivery`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::Report;
use super::facts::{Facts, GRACE, LifeFacts, SECOND, SLACK, STALLED, Time, is_service, replica};
use crate::records::{Event, Held, Kind, Life, Outcome, Reading, Record, Role};

/// The deadline of an `ask`, and the delay of a busy machine.
const ANSWER: Time = 8 * SECOND + 12 * SECOND;
/// Longest time that the items of a stream take, with a reader and a sender that are slow.
const STREAM: Time = 15 * SECOND;
/// Time limit for reading a payload.
const READ: Time = 20 * SECOND;

/// Counts events for the reader of the report.
pub(super) fn count(facts: &Facts<'_>, report: &mut Report) {
    for _ in facts.disturbances.iter().filter(|(_, _, _, what)| *what == STALLED) {
        report.count("stalls of a busy machine");
    }
    for record in facts.records {
        match &record.event {
            Event::Trying { kind: Kind::Stream, .. } => report.count("streams"),
            Event::Trying { kind: Kind::Nested | Kind::Beside, .. } => report.count("asks by handlers"),
            Event::Trying { kind, to, .. } => {
                let what = if kind.is_ask() { "asks" } else { "tells" };
                report.count(if is_service(to) { format!("{what} to services") } else { what.to_owned() });
            }
            Event::Sent { outcome: Outcome::Deadlock(_), .. } => report.count("deadlocks"),
            Event::Ready { .. } => report.count("replicas ready"),
            Event::Letter { reason, count, .. } => {
                (0..*count).for_each(|_| report.count(format!("dead letters: {reason}")));
            }
            Event::Handled { .. } => report.count("messages handled"),
            Event::Began { work, .. } if work != "flow" => report.count("incarnations"),
            Event::Published { .. } => report.count("states published"),
            Event::Saw { .. } => report.count("states seen"),
            Event::RunEnded { .. } => report.count("runs"),
            Event::Read { reading: Reading::Verified, .. } => report.count("payloads verified"),
            Event::Read { reading: Reading::Lost(_), .. } => report.count("payloads lost"),
            Event::Read { reading: Reading::NoRoom(_), .. } => report.count("payloads without room"),
            Event::Disturbed { .. } => report.count("disturbances"),
            Event::Ordered { .. } => report.count("orders"),
            Event::Signalled { signal, .. } if signal == "KILL" => report.count("kills"),
            Event::Reached { error: None, .. } => report.count("addresses that reach"),
            Event::Skipped { what, why } => report.count(format!("times skipped {what} ({why})")),
            Event::Exited { wanted: false, code: Some(_), .. } => {
                report.count("nodes that ended by themselves")
            }
            _ => {}
        }
    }
}

/// Checks that no message is handled twice, or by a Work that it was not sent to.
pub(super) fn once(facts: &Facts<'_>, report: &mut Report) {
    for message in facts.messages.values() {
        if message.handled.len() > 1 {
            let times = message.handled.len();
            let text = format!("a message to {} was handled {times} times", message.to);
            report.violation("once", text, message.records());
        }
        for (_, life) in &message.handled {
            let Some(life) = facts.lives.get(life) else { continue };
            let is_of_service = replica(life.work).is_some_and(|(service, _)| service == message.to);
            if (life.work != message.to && !is_of_service)
                || (message.epoch != 0 && message.epoch != life.epoch)
            {
                let text = format!(
                    "a message to {} under head {} was handled by {} under head {}",
                    message.to, message.epoch, life.work, life.epoch
                );
                report.violation("once", text, message.records());
            }
        }
    }
    for record in facts.records {
        if let Event::Handled { id, .. } = &record.event
            && !facts.messages.contains_key(id.as_str())
        {
            report.violation("once", "a message was handled that nobody has sent", vec![record.clone()]);
        }
    }
}

/// Checks that the messages of one sender to one Work are handled in the order in which they were sent.
pub(super) fn order(facts: &Facts<'_>, report: &mut Report) {
    let mut pairs = HashMap::<(Life, &str, u32), Vec<_>>::new();
    for message in facts.messages.values().filter(|message| !is_service(message.to)) {
        let Some((handled, life)) = message.handled.first() else { continue };
        let Some(receiver) = facts.lives.get(life) else { continue };
        let pair = pairs.entry((message.from, message.to, receiver.epoch)).or_default();
        pair.push(((receiver.began, handled.at), *life, message));
    }
    for ((_, to, _), mut all) in pairs {
        all.sort_by_key(|(handled, ..)| *handled);
        // The handled messages that were sent last: one of all, and one of those that overtake no others.
        let mut latest: [Option<(Life, Time, &super::facts::MessageFacts<'_>)>; 2] = [None; 2];
        for (_, life, message) in all {
            let done = message.sent.map_or(Time::MAX, |(sent, _)| sent.at);
            let is_first = message.kind == Kind::First;
            if let Some((_, tried, _)) = latest[0].filter(|_| !is_first)
                && done < tried
                && latest[1].is_none_or(|(_, tried, _)| done >= tried)
            {
                report.count("messages overtaken by `tell_first`");
            }
            // One that is sent by `tell_first` overtakes others, and no message overtakes it.
            if let Some((earlier_life, tried, earlier)) = latest[usize::from(!is_first)]
                && done < tried
                && (earlier_life == life || !may_be_late(facts, life))
            {
                let text = format!("two messages of one sender were handled by {to} in another order");
                let records = [message.records(), earlier.records()].concat();
                report.violation("order", text, records);
                continue;
            }
            for latest in latest.iter_mut().take(if is_first { 1 } else { 2 }) {
                if latest.as_ref().is_none_or(|(_, tried, _)| *tried < message.trying.at) {
                    *latest = Some((life, message.trying.at, message));
                }
            }
        }
    }
}

/// True if an incarnation may have been given up before it began: messages for it arrive together with it.
fn may_be_late(facts: &Facts<'_>, life: Life) -> bool {
    let life = &facts.lives[&life];
    facts.is_disturbed(
        &[&facts.place(life.pid), "head"],
        life.began.saturating_sub(GRACE + SLACK),
        life.began,
    )
}

/// Checks that errors are true, and that answers are right and in time.
pub(super) fn answer(facts: &Facts<'_>, report: &mut Report) {
    for message in facts.messages.values() {
        let Some((sent, outcome)) = message.sent else {
            hung(facts, message, report);
            continue;
        };
        let is_handled = !message.handled.is_empty();
        let wrong = match outcome {
            Outcome::Wrong(why) => Some(format!("what must not happen: {why}")),
            Outcome::Answered if !is_handled => Some("it was answered, and nobody has handled it".to_owned()),
            Outcome::NotHandled(why) if is_handled => {
                Some(format!("it was handled, and its sender was told that it was not: {why}"))
            }
            Outcome::Cancelled if is_handled && !message.kind.is_ask() => {
                Some("it was handled, and its sender had given up before it was accepted".to_owned())
            }
            _ => None,
        };
        if let Some(wrong) = wrong {
            report.violation(
                "answer",
                format!("{:?} to {}: {wrong}", message.kind, message.to),
                message.records(),
            );
        }
        match outcome {
            Outcome::NotHandled(_) => report.count("refused"),
            Outcome::Unclear(_) => report.count("asks with an unclear end"),
            Outcome::Cancelled => report.count("cancelled"),
            _ => {}
        }
        let in_time = in_time(facts, message);
        if message.kind.is_ask() && sent.at > in_time {
            let seconds = (sent.at - message.trying.at) as f64 / 1e6;
            let text = format!("an ask to {} ended after {seconds:.1} s", message.to);
            report.violation("answer", text, message.records());
        }
    }
}

/// Latest time at which a message has a result.
fn in_time(facts: &Facts<'_>, message: &super::facts::MessageFacts<'_>) -> Time {
    let mut places = vec![facts.place_of(message.from)];
    let mut longest = ANSWER;
    if message.kind == Kind::Stream {
        // A reader that has opened a stream waits for its sender, or for the news that it is lost.
        longest += STREAM;
        places.extend(facts.lives_at(message.epoch, message.to).iter().map(|life| facts.place_of(*life)));
    }
    let places: Vec<&str> = places.iter().map(String::as_str).collect();
    facts.settled(&places, message.trying.at, message.trying.at + longest)
}

/// Checks what Works have seen themselves.
pub(super) fn batch(facts: &Facts<'_>, report: &mut Report) {
    for record in facts.records {
        if let Event::Broken { what, .. } = &record.event {
            report.violation("batch", what.clone(), vec![record.clone()]);
        }
    }
}

/// Reports a message whose sender is alive and got no result.
fn hung(facts: &Facts<'_>, message: &super::facts::MessageFacts<'_>, report: &mut Report) {
    let Some(idle) = facts.phases.get("idle") else { return };
    let in_time = in_time(facts, message);
    // The sender may have been replaced before its end was recorded.
    let is_dead = facts.death(message.from).is_some_and(|death| death.from < *idle);
    if !is_dead && *idle > in_time {
        let text = format!("{:?} to {} has not ended, and its sender lives", message.kind, message.to);
        report.violation("answer", text, message.records());
    }
}

/// Checks that the Flow never sees an older state after a newer one, only published states, and in the end the last
/// one.
pub(super) fn state(facts: &Facts<'_>, report: &mut Report) {
    struct Seen<'a> {
        record: &'a Record,
        life: Life,
        generation: u64,
        version: u64,
        before: HashSet<Life>,
    }
    let mut seen = BTreeMap::<(u32, &str), Seen<'_>>::new();
    let mut published = HashMap::<Life, (u64, &Record)>::new();
    for record in facts.records {
        match &record.event {
            Event::Published { life, version } => {
                published.insert(*life, (*version, record));
            }
            Event::Ordered { work, what } if what == "remove" => {
                seen.retain(|(_, other), _| *other != work.as_str())
            }
            Event::Saw { epoch, work, life, generation, version } => {
                let (life, generation, version) = (*life, *generation, *version);
                if published.get(&life).is_none_or(|(last, _)| *last < version) {
                    let text = format!("the Flow saw a state of {work} that was not published");
                    report.violation("state", text, vec![record.clone()]);
                }
                let mut before = HashSet::new();
                if let Some(last) = seen.remove(&(*epoch, work.as_str())) {
                    before = last.before;
                    let is_older = (generation, version) < (last.generation, last.version)
                        || (life == last.life && version == last.version)
                        || before.contains(&life);
                    // A Work that was removed and joins again begins with a new state.
                    if is_older && !(work.starts_with("extras.") && generation == 1) {
                        let text = format!("the Flow saw an older state of {work} after a newer one");
                        report.violation("state", text, vec![last.record.clone(), record.clone()]);
                    }
                    if last.life != life {
                        before.insert(last.life);
                    }
                }
                seen.insert((*epoch, work), Seen { record, life, generation, version, before });
            }
            _ => {}
        }
    }
    let Some(end) = facts.phases.get("end") else { return };
    for ((_, work), last) in seen {
        let lives_on = facts.death(last.life).is_none_or(|death| death.from + SECOND > *end);
        let Some((version, record)) = published.get(&last.life).filter(|_| lives_on) else { continue };
        // A state that is published while the App ends may arrive too late.
        if record.at + 2 * SECOND < *end && *version > last.version {
            let text = format!("the Flow has not seen the last state of {work}");
            report.violation("state", text, vec![last.record.clone(), (*record).clone()]);
        }
    }
}

/// Checks that a run that has succeeded is not begun again, and that no incarnation begins a run twice.
pub(super) fn run(facts: &Facts<'_>, report: &mut Report) {
    let mut succeeded = HashMap::<(u32, &str, u64), &Record>::new();
    let mut ended = HashSet::<(u32, &str, u64)>::new();
    let mut begun = HashMap::<(Life, u64), &Record>::new();
    for record in facts.records {
        match &record.event {
            Event::SawRun { epoch, work, run } => {
                if !ended.contains(&(*epoch, work.as_str(), *run)) {
                    let text = format!("run {run} of {work} has succeeded, and never ended");
                    report.violation("run", text, vec![record.clone()]);
                }
                succeeded.insert((*epoch, work, *run), record);
            }
            Event::RunEnded { life, run } => {
                if let Some(life) = facts.lives.get(life) {
                    ended.insert((life.epoch, life.work, *run));
                }
            }
            Event::RunBegan { life, run } => {
                if let Some(before) = begun.insert((*life, *run), record) {
                    let text = format!("one incarnation began run {run} twice");
                    report.violation("run", text, vec![before.clone(), record.clone()]);
                }
                let Some(of) = facts.lives.get(life) else { continue };
                let Some(before) = succeeded.get(&(of.epoch, of.work, *run)) else { continue };
                // An incarnation that was given up may begin a run that the next has completed meanwhile.
                let given_up = facts.death(*life).is_some_and(|death| death.from < record.at);
                if !given_up && !of.work.starts_with("extras.") {
                    let text = format!("run {run} of {} was begun again after it had succeeded", of.work);
                    report.violation("run", text, vec![(*before).clone(), record.clone()]);
                }
            }
            _ => {}
        }
    }
}

/// Checks that a value that is read is the value that was stored, and that only values on a lost process are lost.
pub(super) fn payload(facts: &Facts<'_>, report: &mut Report) {
    for record in facts.records {
        let Event::Read { life, parcel, reading } = &record.event else { continue };
        let made = facts.made_by.get(parcel.as_str()).copied();
        let both = || made.into_iter().chain([record]).cloned().collect::<Vec<_>>();
        let maker = made.map(|made| made.pid);
        let (here, there) = (facts.place(record.pid), maker.map(|pid| facts.place(pid)).unwrap_or_default());
        let few = facts.disturbances.iter().any(|(who, begun, ended, what)| {
            (*who == here.as_str() || *who == there.as_str())
                && what.contains("descriptors")
                && *begun <= record.at
                && *ended + READ >= record.at
        });
        let process_lost = |pid: u32| facts.end_of_process(pid).is_some_and(|at| at < record.at + SECOND);
        // A node that is given up drops all its values.
        let given_up = |pid: u32| {
            facts.lives.values().any(|life| {
                life.pid == pid
                    && [life.ended.filter(|(_, orderly)| !orderly).map(|(at, _)| at), life.next_began]
                        .into_iter()
                        .flatten()
                        .any(|at| at < record.at + SECOND && at + READ + GRACE > record.at.min(at + READ))
                    && facts.place(pid) != "head"
            })
        };
        let head_lost = facts.lives.get(life).and_then(|life| facts.end_of_head(life.epoch));
        let head_lost = head_lost.is_some_and(|at| at < record.at + SECOND);
        let is_lost = |pid: u32| process_lost(pid) || given_up(pid);
        let text = match reading {
            Reading::Verified | Reading::Cancelled => continue,
            Reading::Different => format!("{parcel} is not what was put in"),
            Reading::Failed(_) if few => continue,
            Reading::Failed(why) => format!("{parcel} could not be read: {why}"),
            Reading::NoRoom(_) if few => continue,
            Reading::NoRoom(_)
                if facts.small_disks.contains(here.as_str())
                    || facts.small_disks.contains(there.as_str()) =>
            {
                continue;
            }
            Reading::NoRoom(why) => format!("there is room, and none for {parcel}: {why}"),
            Reading::Lost(_) if head_lost || few || is_lost(record.pid) || maker.is_none_or(is_lost) => {
                continue;
            }
            // Reading tries the holders of a value for the grace period.
            Reading::Lost(_)
                if facts.may_lose_each_other(
                    &[&here, &there],
                    record.at.saturating_sub(GRACE),
                    record.at,
                ) =>
            {
                report.count("payloads out of reach");
                continue;
            }
            Reading::Lost(_)
                if facts.was_stalled(
                    &[&here, &there, "head"],
                    record.at.saturating_sub(2 * GRACE + SLACK),
                    record.at,
                ) =>
            {
                report.count("payloads of a process that was stalled");
                continue;
            }
            Reading::Lost(why) => format!("{parcel}, made on {there} and read on {here}, is lost: {why}"),
            Reading::Late if head_lost || is_lost(record.pid) || maker.is_none_or(is_lost) => continue,
            Reading::Late => {
                let places = [here.as_str(), there.as_str(), "head"];
                if facts.is_disturbed(&places, record.at.saturating_sub(READ + GRACE), record.at) {
                    report.count("payloads late");
                    continue;
                }
                format!("{parcel}, made on {there} and read on {here}, did not come in 20 s")
            }
        };
        report.violation("payload", text, both());
    }
}

/// Checks that after the faults every Work is up and reaches every other by each address that it has.
pub(super) fn reach(facts: &Facts<'_>, report: &mut Report) {
    let mut from = BTreeMap::<&str, BTreeSet<&str>>::new();
    for record in facts.records {
        match &record.event {
            Event::Up { work, error: Some(error) } => {
                report.violation("reach", format!("{work} is not up {error}"), Vec::new());
            }
            Event::Reached { from, to, source, error: Some(error) } => {
                let text = format!("{from} does not reach {to} by the address from its {source}: {error}");
                report.violation("reach", text, Vec::new());
            }
            Event::Reached { from: path, to, error: None, .. } => {
                from.entry(path).or_default().insert(to);
            }
            _ => {}
        }
    }
    if facts.phases.contains_key("idle") && from.is_empty() {
        report.violation("reach", "nobody was asked whom he reaches", Vec::new());
    }
}

/// Checks that no process holds more resources than before the faults, and that no idle process uses processor time.
pub(super) fn leak(facts: &Facts<'_>, report: &mut Report) {
    let mut warm = HashMap::<u32, (Held, &Record)>::new();
    for record in facts.records {
        let Event::Measured { child, phase, held } = &record.event else { continue };
        if phase == "warm" {
            warm.insert(*child, (*held, record));
            continue;
        }
        let place = facts.place(*child);
        let mut complain = |text: String, records: Vec<Record>| report.violation("leak", text, records);
        if held.busy_ms > held.measured_ms / 10 + 100 {
            let text =
                format!("{place} is idle and was busy for {} of {} ms", held.busy_ms, held.measured_ms);
            complain(text, vec![record.clone()]);
        }
        let Some((before, measured)) = warm.get(child) else { continue };
        // A process that had just been started held nothing yet.
        let has_begun = |life: &LifeFacts<'_>| life.pid == *child && life.began < measured.at;
        if facts.processes.get(child).is_some_and(|process| process.role.is_none())
            && !facts.lives.values().any(has_begun)
        {
            continue;
        }
        let more = held.works.saturating_sub(before.works);
        let bounds = [
            ("descriptors", held.descriptors, before.descriptors + 24 + 6 * more),
            ("threads", held.threads, before.threads + 8 + 2 * more),
            ("bytes of memory", held.memory, before.memory * 3 / 2 + (80 << 20)),
            ("files of payloads", held.entries, before.entries + 64),
        ];
        for (what, now, bound) in bounds {
            if now > bound {
                let text = format!("{place} holds {now} {what}, more than {bound}");
                complain(text, vec![(*measured).clone(), record.clone()]);
            }
        }
    }
}

/// Checks that the App ends with success and leaves nothing behind, and that no process has crashed.
pub(super) fn end(facts: &Facts<'_>, report: &mut Report) {
    let killed = facts
        .records
        .iter()
        .any(|record| matches!(&record.event, Event::Signalled { signal, .. } if signal == "KILL"));
    let end = facts.phases.get("end").copied().unwrap_or(Time::MAX);
    for record in facts.records {
        match &record.event {
            // A process that was killed cannot clean up.
            Event::Left { what } if killed && what.starts_with("file") => {
                report.count("files left by killed processes")
            }
            Event::Left { what } => {
                report.violation("end", format!("left behind: {what}"), vec![record.clone()]);
            }
            Event::Crashed { log, line } => {
                report.violation("end", format!("{log}: {line}"), Vec::new());
            }
            Event::Exited { child, code, signal, wanted } => {
                let process = facts.processes.get(child);
                let is_head = matches!(process.and_then(|process| process.role), Some(Role::Head { .. }));
                let is_busy = facts.place(*child) == "busy";
                let was_killed = process
                    .is_some_and(|process| process.told_to_end.is_some_and(|(_, signal)| signal == "KILL"));
                let crashed = !wanted && (signal.is_some() || *code == Some(101) || is_head);
                let failed = record.at >= end && *code != Some(0) && !was_killed;
                if (crashed || failed) && !is_busy {
                    let place = facts.place(*child);
                    let text = format!("{place} has ended with code {code:?}, signal {signal:?}");
                    report.violation("end", text, vec![record.clone()]);
                }
            }
            _ => {}
        }
    }
    let last = facts.heads.last_key_value().map(|(_, pid)| *pid);
    let has_ended = last.is_some_and(|pid| facts.processes[&pid].exited.is_some());
    if facts.phases.contains_key("over") && !has_ended {
        report.violation("end", "the head has not ended", Vec::new());
    }
}
