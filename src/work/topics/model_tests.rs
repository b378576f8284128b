//! Topics of several processes on random schedules: the table of the head and the backlogs of the subscribers, with sessions
//! between them that keep the order of their messages, have little room, and may be lost.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::backlog::{Added, Backlog, Overflow, Waiting};
use super::table::{ProcessId, Table};

/// A step of a schedule: its kind, and numbers that choose among the possible ones.
type Step = (u8, u8, u8, u8);

const TOPICS: [&str; 2] = ["prices", "losses"];
const OTHERS: u64 = 3;

/// Number of messages for which a session has room.
const ROOM: usize = 4;

/// A message: its publisher, and its number among those of that publisher to this topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Message {
    topic: usize,
    publisher: ProcessId,
    number: u64,
}

#[derive(Debug, Clone, Copy)]
enum Packet {
    Use { topic: usize, subscribes: bool, number: u64 },
    Used { topic: usize, number: u64 },
    Published(Message),
}

struct Subscriber {
    topic: usize,
    process: ProcessId,
    bound: usize,
    waiting: Waiting<Message>,
    is_confirmed: bool,
    /// True while a call is in the mailbox of the Work.
    is_called: bool,
    /// The number of the last message of each publisher that a handler has got.
    last: BTreeMap<ProcessId, u64>,
    /// Messages that were published since the subscription was confirmed, and have not reached it.
    owed: Vec<Message>,
    offered: u64,
    delivered: u64,
    dropped: u64,
}

/// The last declaration of a process about a topic.
#[derive(Clone, Copy, Default)]
struct Declared {
    subscribes: bool,
    number: u64,
    is_answered: bool,
}

#[derive(Default)]
struct Model {
    table: Table,
    subscribers: Vec<Subscriber>,
    to_head: BTreeMap<u64, VecDeque<Packet>>,
    from_head: BTreeMap<u64, VecDeque<Packet>>,
    declared: BTreeMap<(ProcessId, usize), Declared>,
    /// The declarations that have reached the head.
    known: BTreeMap<(ProcessId, usize), bool>,
    /// Subscribers that wait for the answer to a declaration.
    asked: BTreeMap<(ProcessId, u64), usize>,
    published: BTreeMap<(ProcessId, usize), u64>,
    lost: Vec<u64>,
    next: u64,
}

fn messages(packets: &VecDeque<Packet>) -> impl Iterator<Item = Message> {
    packets
        .iter()
        .filter_map(|packet| if let Packet::Published(message) = packet { Some(*message) } else { None })
}

impl Model {
    fn process(&self, number: u8) -> Option<ProcessId> {
        let process = u64::from(number) % (OTHERS + 1);
        (!self.lost.contains(&process)).then_some((process > 0).then_some(process))
    }

    fn has_subscribers(&self, process: ProcessId, topic: usize) -> bool {
        let is_one =
            |each: &Subscriber| each.process == process && each.topic == topic && !each.waiting.is_over();
        self.subscribers.iter().any(is_one)
    }

    /// Tells the head of the subscribers of a process, unless it knows. Returns true if it does.
    fn declare(&mut self, process: ProcessId, topic: usize, waits: Option<usize>) -> bool {
        let subscribes = self.has_subscribers(process, topic);
        let declared = self.declared.entry((process, topic)).or_default();
        if declared.is_answered && declared.subscribes == subscribes {
            return true;
        }
        self.next += 1;
        *declared = Declared { subscribes, number: self.next, is_answered: process.is_none() };
        let Some(other) = process else {
            self.note(process, topic, subscribes);
            return true;
        };
        if let Some(subscriber) = waits {
            self.asked.insert((process, self.next), subscriber);
        }
        let packet = Packet::Use { topic, subscribes, number: self.next };
        self.to_head.entry(other).or_default().push_back(packet);
        false
    }

    fn note(&mut self, process: ProcessId, topic: usize, subscribes: bool) {
        self.table.note(process, TOPICS[topic], "M", subscribes).unwrap();
        self.known.insert((process, topic), subscribes);
    }

    fn subscribe(&mut self, process: ProcessId, topic: usize, backlog: Backlog) {
        self.subscribers.push(Subscriber {
            topic,
            process,
            bound: backlog.bound(),
            waiting: Waiting::new(backlog),
            is_confirmed: false,
            is_called: false,
            last: BTreeMap::new(),
            owed: Vec::new(),
            offered: 0,
            delivered: 0,
            dropped: 0,
        });
        let subscriber = self.subscribers.len() - 1;
        if self.declare(process, topic, Some(subscriber)) {
            self.subscribers[subscriber].is_confirmed = true;
        }
    }

    fn cancel(&mut self, subscriber: usize) {
        let it = &mut self.subscribers[subscriber];
        let Some(left) = it.waiting.end() else { return };
        it.dropped += left.len() as u64;
        (it.is_called, it.owed) = (false, Vec::new());
        let (process, topic) = (it.process, it.topic);
        self.declare(process, topic, None);
    }

    fn publish(&mut self, process: ProcessId, topic: usize) {
        self.declare(process, topic, None);
        let number = self.published.entry((process, topic)).or_default();
        *number += 1;
        let message = Message { topic, publisher: process, number: *number };
        for subscriber in self.subscribers.iter_mut().filter(|each| each.topic == topic) {
            if subscriber.is_confirmed && !subscriber.waiting.is_over() {
                subscriber.owed.push(message);
            }
        }
        match process {
            None => self.send_out(message),
            Some(other) => {
                let session = self.to_head.entry(other).or_default();
                if messages(session).count() < ROOM {
                    session.push_back(Packet::Published(message));
                } else {
                    self.forgive(message, |at| at != process);
                }
            }
        }
        self.fan_out(message, process);
    }

    /// Sends a message from the head to the other processes that are to have it.
    fn send_out(&mut self, message: Message) {
        let targets = self.table.targets(TOPICS[message.topic], message.publisher);
        let known = self.known.iter();
        let wanted = known.filter(|((process, topic), subscribes)| {
            **subscribes && *topic == message.topic && *process != message.publisher
        });
        assert!(
            targets.iter().copied().eq(wanted.map(|((process, _), _)| *process)),
            "{message:?}: {targets:?}"
        );
        for other in targets.into_iter().flatten() {
            let session = self.from_head.entry(other).or_default();
            if messages(session).count() < ROOM {
                session.push_back(Packet::Published(message));
            } else {
                self.forgive(message, |at| at == Some(other));
            }
        }
    }

    /// Notes that a message does not reach the subscribers in these processes.
    fn forgive(&mut self, message: Message, is_there: impl Fn(ProcessId) -> bool) {
        for subscriber in self.subscribers.iter_mut().filter(|each| is_there(each.process)) {
            subscriber.owed.retain(|owed| *owed != message);
        }
    }

    fn fan_out(&mut self, message: Message, process: ProcessId) {
        let subscribers = self.subscribers.iter_mut();
        for it in subscribers.filter(|each| each.process == process && each.topic == message.topic) {
            match it.waiting.add(message) {
                Err(_) => assert!(it.waiting.is_over()),
                Ok(Added { calls, dropped }) => {
                    it.offered += 1;
                    it.dropped += u64::from(dropped.is_some());
                    assert!(!(calls && it.is_called), "two calls are on their way");
                    it.is_called |= calls;
                    it.owed.retain(|owed| *owed != message);
                }
            }
        }
    }

    fn carry(&mut self, other: u64, is_up: bool) {
        let session = if is_up { &mut self.to_head } else { &mut self.from_head };
        let packet = session.get_mut(&other).and_then(VecDeque::pop_front);
        match packet {
            None => {}
            Some(Packet::Use { topic, subscribes, number }) => {
                self.note(Some(other), topic, subscribes);
                self.from_head.entry(other).or_default().push_back(Packet::Used { topic, number });
            }
            Some(Packet::Used { topic, number }) => {
                let declared = self.declared.get_mut(&(Some(other), topic)).unwrap();
                declared.is_answered |= declared.number == number;
                if let Some(subscriber) = self.asked.remove(&(Some(other), number)) {
                    self.subscribers[subscriber].is_confirmed = true;
                }
            }
            Some(Packet::Published(message)) if is_up => {
                self.send_out(message);
                if self.known.get(&(None, message.topic)) == Some(&true) {
                    self.fan_out(message, None);
                }
            }
            Some(Packet::Published(message)) => self.fan_out(message, Some(other)),
        }
    }

    fn handle(&mut self, subscriber: usize) {
        let it = &mut self.subscribers[subscriber];
        if !std::mem::take(&mut it.is_called) {
            return;
        }
        let (message, calls) = it.waiting.take();
        let message = message.expect("a call is for a message");
        it.is_called = calls;
        it.delivered += 1;
        assert_eq!(message.topic, it.topic);
        let last = it.last.insert(message.publisher, message.number).unwrap_or_default();
        assert!(last < message.number, "{last} came before {message:?}");
    }

    fn lose(&mut self, other: u64) {
        self.lost.push(other);
        let unsent = self.to_head.remove(&other).unwrap_or_default();
        messages(&unsent).for_each(|message| self.forgive(message, |_| true));
        self.from_head.remove(&other);
        for it in self.subscribers.iter_mut().filter(|each| each.process == Some(other)) {
            let left = it.waiting.end().unwrap_or_default();
            it.dropped += left.len() as u64;
            (it.is_called, it.owed) = (false, Vec::new());
        }
        self.table.lost(Some(other));
        self.known.retain(|(process, _), _| *process != Some(other));
    }

    fn step(&mut self, (kind, first, second, third): Step) {
        let topic = usize::from(second) % TOPICS.len();
        let subscriber = (!self.subscribers.is_empty()).then(|| usize::from(first) % self.subscribers.len());
        match (kind % 16, self.process(first), subscriber) {
            (0 | 1, Some(process), _) if self.subscribers.len() < 12 => {
                let overflow = if third & 1 == 0 { Overflow::DropOldest } else { Overflow::DropNewest };
                self.subscribe(
                    process,
                    topic,
                    Backlog::of(usize::from(third >> 1) % 4).on_overflow(overflow),
                );
            }
            (2, _, Some(subscriber)) => self.cancel(subscriber),
            (3..7, Some(process), _) => self.publish(process, topic),
            (7..12, Some(Some(other)), _) => self.carry(other, third & 1 == 0),
            (12..15, _, Some(subscriber)) => self.handle(subscriber),
            (15, Some(Some(other)), _) if third < 32 => self.lose(other),
            _ => {}
        }
        self.check();
    }

    fn check(&self) {
        for it in &self.subscribers {
            let waiting = it.waiting.len();
            assert!(waiting <= it.bound);
            assert_eq!(it.is_called, waiting > 0, "a call is on its way exactly while messages wait");
            assert_eq!(it.offered, it.delivered + it.dropped + waiting as u64);
        }
    }

    /// Lets everything arrive and be handled.
    fn settle(&mut self) {
        while self.to_head.values().chain(self.from_head.values()).any(|session| !session.is_empty()) {
            for other in 1..=OTHERS {
                self.carry(other, true);
                self.carry(other, false);
            }
        }
        for subscriber in 0..self.subscribers.len() {
            while self.subscribers[subscriber].is_called {
                self.handle(subscriber);
            }
            let it = &self.subscribers[subscriber];
            assert!(it.waiting.is_over() || it.is_confirmed);
            assert!(it.owed.is_empty(), "subscriber {subscriber} of {:?} misses {:?}", it.process, it.owed);
        }
        self.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// A confirmed subscriber gets all that is published from then on, in order and once, except for what finds no room or is
    /// lost with a process; and no process is sent what it does not subscribe to.
    #[test]
    fn messages_reach_confirmed_subscribers_once_and_in_order(
        steps in proptest::collection::vec(any::<Step>(), 0..200),
    ) {
        let mut model = Model::default();
        steps.into_iter().for_each(|step| model.step(step));
        model.settle();
    }
}
