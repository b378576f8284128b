//! The records, indexed by their subject.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

use crate::records::{Event, HTTP, Kind, Life, Outcome, Record, Role};

/// Microseconds of the machine's clock.
pub(crate) type Time = u64;

pub(crate) const SECOND: Time = 1_000_000;
/// Longest time for which the loss of a node may go unnoticed: the grace period of a run, and a moment on a busy
/// machine.
pub(crate) const GRACE: Time = 2_500_000 + SECOND;
/// Longest time that updates of the head take to reach undisturbed nodes.
pub(crate) const SLACK: Time = 2 * SECOND;

/// Shortest time of unreachability after which the session of two processes may be lost.
const OUT_OF_REACH: Time = 2 * SECOND;

/// Longest delay with which the end of a disturbance is noticed.
const MOMENT: Time = SECOND / 2;

/// Name of the disturbance of a process that the machine did not schedule.
pub(crate) const STALLED: &str = "stalled";

/// One incarnation of a Work.
pub(crate) struct LifeFacts<'a> {
    pub(crate) record: &'a Record,
    pub(crate) work: &'a str,
    pub(crate) epoch: u32,
    pub(crate) began: Time,
    /// The time of the end, and whether it was in good order.
    pub(crate) ended: Option<(Time, bool)>,
    /// True if its own panic ended it.
    pub(crate) panicked: bool,
    pub(crate) pid: u32,
    /// Time at which the next incarnation of the Work began.
    pub(crate) next_began: Option<Time>,
}

#[derive(Default)]
pub(crate) struct ProcessFacts<'a> {
    pub(crate) role: Option<&'a Role>,
    /// The head that started the process for a Work.
    pub(crate) head: Option<u32>,
    /// Time at which the process was told to end or was killed, and the order.
    pub(crate) told_to_end: Option<(Time, &'a str)>,
    pub(crate) exited: Option<&'a Record>,
}

pub(crate) struct MessageFacts<'a> {
    pub(crate) trying: &'a Record,
    pub(crate) from: Life,
    pub(crate) to: &'a str,
    pub(crate) kind: Kind,
    /// The number of the head; zero where it is not known.
    pub(crate) epoch: u32,
    pub(crate) sent: Option<(&'a Record, &'a Outcome)>,
    /// The handlers that began with it.
    pub(crate) handled: Vec<(&'a Record, Life)>,
}

impl MessageFacts<'_> {
    pub(crate) fn records(&self) -> Vec<Record> {
        let sent = self.sent.iter().map(|(record, _)| (*record).clone());
        let handled = self.handled.iter().map(|(record, _)| (*record).clone());
        std::iter::once(self.trying.clone()).chain(sent).chain(handled).collect()
    }
}

/// The end of an incarnation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Death {
    /// Time from which on messages may have been lost with the incarnation.
    pub(crate) from: Time,
    /// Time at which all other processes know of the end, without a disturbance.
    pub(crate) known: Time,
    pub(crate) orderly: bool,
}

pub(crate) struct Facts<'a> {
    pub(crate) records: &'a [Record],
    pub(crate) lives: HashMap<Life, LifeFacts<'a>>,
    /// The incarnations of each Work under each head, in the order of their start.
    pub(crate) of_work: BTreeMap<(u32, &'a str), Vec<Life>>,
    /// The incarnations of all replicas of each service under each head, in the order of their start.
    pub(crate) of_service: BTreeMap<(u32, &'a str), Vec<Life>>,
    pub(crate) processes: HashMap<u32, ProcessFacts<'a>>,
    pub(crate) messages: BTreeMap<&'a str, MessageFacts<'a>>,
    /// Disturbances: the place, begin, end, and kind.
    pub(crate) disturbances: Vec<(Cow<'a, str>, Time, Time, &'a str)>,
    pub(crate) heads: BTreeMap<u32, u32>,
    pub(crate) phases: HashMap<&'a str, Time>,
    pub(crate) small_disks: HashSet<&'a str>,
    pub(crate) made_by: HashMap<&'a str, &'a Record>,
}

/// True if this is the path of a service or of a replica.
pub(crate) fn is_service(path: &str) -> bool {
    path.starts_with("services.")
}

/// The path of the service and the number of the version, if this is the path of a replica.
pub(crate) fn replica(path: &str) -> Option<(&str, u64)> {
    let (service, name) = path.split_once(".replicas.v").filter(|(service, _)| is_service(service))?;
    Some((service, name.split('-').next()?.parse().ok()?))
}

impl<'a> Facts<'a> {
    pub(crate) fn new(records: &'a [Record]) -> Self {
        let mut facts = Self {
            records,
            lives: HashMap::new(),
            of_work: BTreeMap::new(),
            of_service: BTreeMap::new(),
            processes: HashMap::new(),
            messages: BTreeMap::new(),
            disturbances: Vec::new(),
            heads: BTreeMap::new(),
            phases: HashMap::new(),
            small_disks: HashSet::new(),
            made_by: HashMap::new(),
        };
        // A message to another process can be handled before its sender has recorded that it was sent.
        for record in records {
            facts.take_sent(record);
        }
        for record in records {
            facts.take(record);
        }
        // The place of a process may be recorded after the process has begun.
        for record in records {
            if let Event::Stalled { micros } = record.event {
                let (who, begun) = (facts.place(record.pid), record.at.saturating_sub(micros));
                // Processes that the run itself stopped are recorded as such.
                let planned = facts.disturbances.iter().any(|(other, from, to, what)| {
                    *other == who
                        && *what != STALLED
                        && *from <= record.at
                        && to.saturating_add(MOMENT) >= begun
                });
                if !planned {
                    facts.disturbances.push((Cow::Owned(who), begun, record.at, STALLED));
                }
            }
        }
        for lives in facts.of_work.values() {
            for pair in lives.windows(2) {
                let next = facts.lives[&pair[1]].began;
                facts.lives.get_mut(&pair[0]).expect("the life is known").next_began = Some(next);
            }
        }
        facts
    }

    fn take_sent(&mut self, record: &'a Record) {
        if let Event::Trying { life, id, to, epoch, kind } = &record.event {
            let (epoch, kind) = (*epoch, *kind);
            let message = MessageFacts {
                trying: record,
                from: *life,
                to,
                kind,
                epoch,
                sent: None,
                handled: Vec::new(),
            };
            self.messages.insert(id, message);
        }
    }

    fn take(&mut self, record: &'a Record) {
        let Record { at, pid, event } = record;
        let at = *at;
        match event {
            Event::Began { life, work, epoch, .. } => {
                let facts = LifeFacts {
                    record,
                    work,
                    epoch: *epoch,
                    began: at,
                    ended: None,
                    panicked: false,
                    pid: *pid,
                    next_began: None,
                };
                self.lives.insert(*life, facts);
                self.of_work.entry((*epoch, work)).or_default().push(*life);
                if let Some((service, _)) = replica(work) {
                    self.of_service.entry((*epoch, service)).or_default().push(*life);
                }
            }
            Event::Ended { life, orderly } => {
                if let Some(life) = self.lives.get_mut(life) {
                    life.ended.get_or_insert((at, *orderly));
                }
            }
            Event::Panicking { life } => {
                if let Some(life) = self.lives.get_mut(life) {
                    life.panicked = true;
                }
            }
            Event::Sent { id, outcome } => {
                if let Some(message) = self.messages.get_mut(id.as_str()) {
                    message.sent = Some((record, outcome));
                }
            }
            Event::Handled { life, id } => {
                if let Some(message) = self.messages.get_mut(id.as_str()) {
                    message.handled.push((record, *life));
                }
            }
            Event::Made { parcel, .. } => drop(self.made_by.insert(parcel, record)),
            Event::Spawned { child, role } => {
                if let Role::Head { epoch } = role {
                    self.heads.insert(*epoch, *child);
                }
                self.processes.entry(*child).or_default().role = Some(role);
            }
            Event::Found { child, epoch } => self.processes.entry(*child).or_default().head = Some(*epoch),
            Event::Signalled { child, signal } if signal != "STOP" && signal != "CONT" => {
                self.processes.entry(*child).or_default().told_to_end.get_or_insert((at, signal));
            }
            Event::Exited { child, .. } => {
                self.processes.entry(*child).or_default().exited.get_or_insert(record);
            }
            Event::Disturbed { who, what } => {
                self.disturbances.push((Cow::Borrowed(who), at, Time::MAX, what));
            }
            Event::Calm { who, what } => {
                let mut open = self.disturbances.iter_mut().rev();
                if let Some(begun) = open.find(|(other, _, to, why)| {
                    *other == who.as_str() && *why == what.as_str() && *to == Time::MAX
                }) {
                    begun.2 = at;
                }
            }
            Event::Phase { name } => drop(self.phases.insert(name, at)),
            Event::SmallDisk { who } => drop(self.small_disks.insert(who)),
            _ => {}
        }
    }

    /// The incarnations that can have got messages to this Work or service, in the order of their start.
    pub(crate) fn lives_at<'b>(&'b self, epoch: u32, to: &'b str) -> &'b [Life] {
        let lives = self.of_work.get(&(epoch, to)).or_else(|| self.of_service.get(&(epoch, to)));
        lives.map_or(&[], Vec::as_slice)
    }

    /// The place of a process: the name of its node, `head`, or the process itself.
    pub(crate) fn place(&self, pid: u32) -> String {
        match self.processes.get(&pid).and_then(|process| process.role) {
            Some(Role::Node { name }) => name.clone(),
            Some(Role::Head { .. }) => "head".to_owned(),
            None => format!("process {pid}"),
        }
    }

    /// Time at which a process was told to end or has ended by itself.
    pub(crate) fn end_of_process(&self, pid: u32) -> Option<Time> {
        let process = self.processes.get(&pid)?;
        let told = process.told_to_end.map(|(at, _)| at);
        let exited = process.exited.map(|record| record.at);
        told.into_iter().chain(exited).min()
    }

    /// Time at which a head was told to end or was killed.
    pub(crate) fn end_of_head(&self, epoch: u32) -> Option<Time> {
        self.end_of_process(*self.heads.get(&epoch)?)
    }

    /// The end of an incarnation, if it has ended.
    pub(crate) fn death(&self, life: Life) -> Option<Death> {
        let facts = self.lives.get(&life)?;
        let process = self.end_of_process(facts.pid);
        let head = self.end_of_head(facts.epoch);
        let ended = facts.ended.map(|(at, _)| at);
        let first = [ended, process, head, facts.next_began].into_iter().flatten().min()?;
        // The loss of a node that was killed is noticed only after the grace period.
        let is_node = self.place(facts.pid) != "head" && !self.place(facts.pid).starts_with("process");
        let noticed = process.map(|at| if is_node { at + GRACE } else { at });
        let known = [ended, noticed, head, facts.next_began].into_iter().flatten().min()?;
        let orderly = facts.ended.is_some_and(|(_, orderly)| orderly);
        Some(Death { from: first.saturating_sub(SECOND), known: known + SLACK, orderly })
    }

    /// Latest time until which these places may not know of an event before `to`. If one of them is disturbed then,
    /// that is the end of the disturbance plus the grace period and a moment.
    pub(crate) fn settled(&self, places: &[&str], from: Time, to: Time) -> Time {
        let mut until = to;
        loop {
            let before = until;
            for (who, begun, ended, _) in &self.disturbances {
                let concerns = who == "*" || who == "head" || places.contains(&who.as_ref());
                if concerns && *begun <= until && *ended >= from {
                    until = until.max(ended.saturating_add(GRACE + SLACK));
                }
            }
            if until == before {
                return until;
            }
        }
    }

    /// True if any of these places is disturbed between these times.
    pub(crate) fn is_disturbed(&self, places: &[&str], from: Time, to: Time) -> bool {
        self.disturbances.iter().any(|(who, begun, ended, _)| {
            (who == "*" || places.contains(&who.as_ref())) && *begun <= to && *ended >= from
        })
    }

    /// True if processes at these places may have lost each other between these times, while the head continued with
    /// both: one was unreachable for the others for so long that a session has expired.
    pub(crate) fn may_lose_each_other(&self, places: &[&str], from: Time, to: Time) -> bool {
        self.disturbances.iter().any(|(who, begun, ended, what)| {
            (who == "*" || places.contains(&who.as_ref()))
                && !what.starts_with("network")
                && (*what == STALLED || ended.saturating_sub(*begun) >= OUT_OF_REACH)
                && *begun <= to
                && *ended >= from
        })
    }

    /// True if the machine did not schedule one of these places between these times, so that others may have given it
    /// up.
    pub(crate) fn was_stalled(&self, places: &[&str], from: Time, to: Time) -> bool {
        self.disturbances.iter().any(|(who, begun, ended, what)| {
            *what == STALLED && places.contains(&who.as_ref()) && *begun <= to && *ended >= from
        })
    }

    /// The place of a sender.
    pub(crate) fn place_of(&self, life: Life) -> String {
        match self.lives.get(&life) {
            Some(facts) => self.place(facts.pid),
            None if life == HTTP => "head".to_owned(),
            None => "nowhere".to_owned(),
        }
    }
}
