//! A model test of routing: sends, moves, restarts, losses and cuts in random order, over the real mailbox queues and
//! the real registry of the head. Sessions are modelled as queues of packets, and the rest of a process as simply as
//! possible.
//!
//! Invariants: an accepted message is handled once, or counted as lost, and the latter only when a process or session
//! is lost or its Work is stopped; messages of one sender are handled in the order in which it sent them; once failures
//! cease, every Work is reachable from every process; and in the end no state is left over.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::{Location, Registry};
use crate::id::ActorPath;
use crate::work::{CloseReason, Item, Offer, Place, Queue, Step};

const HEAD: usize = 0;
const WORKS: usize = 3;
/// The number of locally offered messages that a mailbox holds.
const CAPACITY: usize = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Message {
    /// The sending process. With `number`, the count of messages that it had sent to the Work before.
    sender: usize,
    work: usize,
    number: u32,
}

/// A message in a queue, with the route on which it arrived.
#[derive(Debug, Clone)]
struct Mail {
    message: Message,
    came: Option<u64>,
}

impl Item for Mail {
    fn is_question(&self) -> bool {
        false
    }
}

#[derive(Debug, Clone)]
enum Packet {
    Tell { route: u64, message: Message },
    Returned { route: u64, message: Message },
    Shut { route: u64, recall: bool },
    Drained { route: u64 },
    Locate { work: usize },
    Unlocate { work: usize },
    Located { work: usize, location: Location<u64> },
    Launch { work: usize, incarnation: u64 },
    Stop { incarnation: u64 },
    Kill { incarnation: u64 },
    Close { incarnation: u64, why: CloseReason },
    Over { work: usize, incarnation: u64 },
}

/// The packets of one direction of a session between two processes.
#[derive(Debug, Default)]
struct Line {
    packets: VecDeque<Packet>,
    /// The number of packets that were written before the connection broke for good.
    broken_at: Option<usize>,
    /// Messages from this process, by Work, queued behind one that waits for a launch.
    waiting: BTreeMap<usize, VecDeque<Packet>>,
    /// By Work, the last incarnation for which a message was returned.
    refused: BTreeMap<usize, u64>,
}

#[derive(Debug)]
struct Route {
    from: usize,
    to: usize,
    /// The number of the session, since two processes may have had several.
    session: usize,
    work: usize,
    incarnation: u64,
    /// True if the head is to forward the messages to wherever the Work runs.
    is_relay: bool,
    is_open: bool,
    is_shut: bool,
    /// State of the other end: the number of messages that arrived and were not begun, and whether the channel is shut.
    held: usize,
    is_shut_there: bool,
    recall: bool,
}

#[derive(Debug, Default)]
struct Process {
    is_dead: bool,
    queues: BTreeMap<usize, Queue<Mail, u64>>,
    /// Incarnations that run here, by number.
    hosted: BTreeMap<u64, usize>,
    launched: u64,
    /// Works that this process has subscribed to at the head.
    asked: BTreeSet<usize>,
    /// Processes with which this process has lost its session.
    lost: BTreeSet<usize>,
    /// Works whose messages are relayed by the head since a session was lost.
    relayed: BTreeSet<usize>,
    /// By Work, the last incarnation that was followed.
    followed: BTreeMap<usize, u64>,
}

/// The head's view of a Work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Stopped,
    /// The Work waits for a node.
    Unplaced,
    Up {
        process: usize,
        incarnation: u64,
        route: u64,
    },
    /// Told to stop, with the process to start in next.
    Stopping {
        process: usize,
        incarnation: u64,
        route: u64,
        next: Option<usize>,
    },
}

struct World {
    registry: Registry,
    processes: Vec<Process>,
    lives: [Life; WORKS],
    lines: BTreeMap<(usize, usize, usize), Line>,
    /// The number of earlier sessions between two nodes.
    sessions: BTreeMap<(usize, usize), usize>,
    /// Sessions with a peer that a process has given up.
    ended: BTreeSet<(usize, usize, usize)>,
    routes: BTreeMap<u64, Route>,
    next: u64,
    sent: BTreeMap<(usize, usize), u32>,
    accepted: BTreeSet<Message>,
    handled: BTreeSet<Message>,
    last_handled: BTreeMap<(usize, usize), u32>,
    /// Senders without a guarantee of order: the Work moved to their process while messages of theirs were in flight by
    /// way of the head.
    unordered: BTreeSet<(usize, usize)>,
    lost: BTreeSet<Message>,
}

fn path(work: usize) -> ActorPath {
    ActorPath::from(format!("w{work}").as_str())
}

fn work_of(path: &ActorPath) -> usize {
    path.as_str()[1..].parse().expect("the path of a Work of the model")
}

impl World {
    fn new(nodes: usize) -> Self {
        let mut world = Self {
            registry: Registry::default(),
            processes: (0..=nodes).map(|_| Process::default()).collect(),
            lives: [Life::Stopped; WORKS],
            lines: BTreeMap::new(),
            sessions: BTreeMap::new(),
            ended: BTreeSet::new(),
            routes: BTreeMap::new(),
            next: 0,
            sent: BTreeMap::new(),
            accepted: BTreeSet::new(),
            handled: BTreeSet::new(),
            last_handled: BTreeMap::new(),
            unordered: BTreeSet::new(),
            lost: BTreeSet::new(),
        };
        for work in 0..WORKS {
            let queue = Queue::new(Place::Closed(CloseReason::NotStarted));
            world.processes[HEAD].queues.insert(work, queue);
        }
        world
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn session(&self, a: usize, b: usize) -> usize {
        self.sessions.get(&(a.min(b), a.max(b))).copied().unwrap_or(0)
    }

    fn push(&mut self, from: usize, to: usize, session: usize, packet: Packet) {
        let is_dead = self.processes[to].is_dead;
        let line = self.lines.entry((from, to, session)).or_default();
        if is_dead {
            line.broken_at.get_or_insert(line.packets.len());
        }
        line.packets.push_back(packet);
    }

    fn say(&mut self, from: usize, to: usize, packet: Packet) {
        let session = self.session(from, to);
        self.push(from, to, session, packet);
    }

    fn lose(&mut self, message: Message) {
        assert!(!self.handled.contains(&message), "{message:?} was handled and is lost");
        self.lost.insert(message);
    }

    // ---- mailboxes ----

    /// Returns the queue of a Work in a process; creates it, as an address that arrives there does.
    fn address(&mut self, process: usize, work: usize) -> &mut Queue<Mail, u64> {
        self.processes[process].queues.entry(work).or_insert_with(|| Queue::new(Place::Unknown))
    }

    fn with_queue(
        &mut self,
        process: usize,
        work: usize,
        change: impl FnOnce(&mut Queue<Mail, u64>) -> Vec<Step<Mail, u64>>,
    ) {
        let Some(queue) = self.processes[process].queues.get_mut(&work) else { return };
        let steps = change(queue);
        self.carry_out(process, work, steps);
    }

    fn carry_out(&mut self, process: usize, work: usize, steps: Vec<Step<Mail, u64>>) {
        for step in steps {
            match step {
                Step::Wake => {}
                Step::Refuse(all, _) => {
                    for Mail { message, came } in all {
                        self.lose(message);
                        self.release(came);
                    }
                }
                Step::Drain(route) => {
                    let entry = self.routes.get_mut(&route).expect("it is in use");
                    entry.is_shut = true;
                    if !entry.is_open {
                        self.routes.remove(&route);
                        let Some(queue) = self.processes[process].queues.get_mut(&work) else { continue };
                        let steps = queue.drained(&route);
                        self.carry_out(process, work, steps);
                    } else {
                        let (to, session) = (entry.to, entry.session);
                        self.push(process, to, session, Packet::Shut { route, recall: true });
                    }
                }
                Step::Pump(route) => {
                    while let Some(queue) = self.processes[process].queues.get_mut(&work) {
                        let (mail, steps) = queue.next(&route);
                        self.carry_out(process, work, steps);
                        let Some(mail) = mail else { break };
                        if self.is_over(route) {
                            // The same report that a session gives once it is over.
                            self.route_lost(process, route);
                            self.with_queue(process, work, |queue| queue.put_back(&route, mail));
                            break;
                        }
                        self.forward(route, mail);
                    }
                }
            }
        }
    }

    /// Returns `true` when the session that a route uses is over.
    fn is_over(&self, route: u64) -> bool {
        let Route { from, to, session, .. } = self.routes[&route];
        self.ended.contains(&(from, to, session))
    }

    fn forward(&mut self, route: u64, mail: Mail) {
        let entry = self.routes.get_mut(&route).expect("it is in use");
        assert!(!entry.is_shut, "a message is sent along a route that was shut");
        entry.is_open = true;
        let (from, to, session) = (entry.from, entry.to, entry.session);
        self.push(from, to, session, Packet::Tell { route, message: mail.message });
        self.release(mail.came);
    }

    /// Counts a message that arrived by this route as no longer held by the process that it arrived in.
    fn release(&mut self, came: Option<u64>) {
        let Some(route) = came else { return };
        if let Some(entry) = self.routes.get_mut(&route) {
            entry.held -= 1;
        }
        self.drain_if_done(route);
    }

    fn drain_if_done(&mut self, route: u64) {
        if let Some(entry) = self.routes.get_mut(&route)
            && entry.is_shut_there
            && entry.held == 0
        {
            entry.is_shut_there = false;
            let (from, to, session) = (entry.to, entry.from, entry.session);
            self.push(from, to, session, Packet::Drained { route });
        }
    }

    fn give_back(&mut self, mail: Mail) {
        let Some(route) = mail.came else {
            unreachable!("only messages from other processes are given back")
        };
        let has_way = |entry: &&Route| !self.ended.contains(&(entry.to, entry.from, entry.session));
        if let Some(entry) = self.routes.get(&route).filter(has_way) {
            let (from, to, session) = (entry.to, entry.from, entry.session);
            self.push(from, to, session, Packet::Returned { route, message: mail.message });
        } else {
            self.lose(mail.message);
        }
        self.release(mail.came);
    }

    fn want(&mut self, process: usize, work: usize) {
        if process != HEAD && self.processes[process].asked.insert(work) {
            self.say(process, HEAD, Packet::Locate { work });
        }
    }

    fn route(&mut self, from: usize, to: usize, work: usize, incarnation: u64) -> u64 {
        let number = self.number();
        let session = self.session(from, to);
        let route = Route {
            from,
            to,
            session,
            work,
            incarnation,
            is_relay: false,
            is_open: false,
            is_shut: false,
            held: 0,
            is_shut_there: false,
            recall: false,
        };
        self.routes.insert(number, route);
        number
    }

    fn relay(&mut self, from: usize, work: usize, incarnation: u64) -> u64 {
        let number = self.route(from, HEAD, work, incarnation);
        self.routes.get_mut(&number).expect("made just now").is_relay = true;
        number
    }

    /// Sends a message to a Work from a process.
    fn offer(&mut self, process: usize, work: usize) {
        if self.processes[process].is_dead {
            return;
        }
        let number = self.sent.get(&(process, work)).copied().unwrap_or(0);
        let message = Message { sender: process, work, number };
        let queue = self.address(process, work);
        let room = queue.len() < CAPACITY;
        match queue.offer(Mail { message, came: None }, room) {
            Offer::Queued => {}
            Offer::Forward(_, route) if self.is_over(route) => {
                self.route_lost(process, route);
                return self.offer(process, work);
            }
            Offer::Forward(mail, route) => self.forward(route, mail),
            Offer::Wait(_) => return self.want(process, work),
            Offer::Refused(..) => return,
        }
        self.accepted.insert(message);
        self.sent.insert((process, work), number + 1);
    }

    fn handle(&mut self, process: usize, work: usize) -> bool {
        let Some(queue) = self.processes[process].queues.get_mut(&work).filter(|queue| queue.is_here())
        else {
            return false;
        };
        let Some(Mail { message, came }) = queue.pop() else { return false };
        assert!(self.accepted.contains(&message), "{message:?} was never sent");
        assert!(self.handled.insert(message), "{message:?} is handled twice");
        assert!(!self.lost.contains(&message), "{message:?} was counted as lost");
        let last = self.last_handled.insert((message.sender, message.work), message.number);
        let in_order = last.is_none_or(|last| last < message.number);
        let is_promised = !self.unordered.contains(&(message.sender, message.work));
        assert!(in_order || !is_promised, "{message:?} is handled after {last:?}");
        self.release(came);
        true
    }

    // ---- incarnations ----

    fn launch(&mut self, work: usize, process: usize) {
        if self.processes[process].is_dead || self.processes[HEAD].lost.contains(&process) {
            self.lives[work] = Life::Unplaced;
            self.close(work, CloseReason::Unplaced);
            return;
        }
        let incarnation = self.number();
        if process == HEAD {
            self.lives[work] = Life::Up { process, incarnation, route: 0 };
            self.processes[HEAD].hosted.insert(incarnation, work);
            self.with_queue(HEAD, work, |queue| queue.set_place(Place::Here));
            let is_here = |location: &Location<u64>| matches!(location, Location::At { node: 0, .. });
            if self.registry.location(&path(work)).is_some_and(|location| !is_here(location)) {
                self.registry.set(&path(work), Location::At { node: HEAD as u64, incarnation });
            }
        } else {
            let route = self.route(HEAD, process, work, incarnation);
            self.lives[work] = Life::Up { process, incarnation, route };
            self.registry.set(&path(work), Location::At { node: process as u64, incarnation });
            self.say(HEAD, process, Packet::Launch { work, incarnation });
            self.with_queue(HEAD, work, |queue| queue.set_place(Place::At(route)));
        }
        self.tell();
    }

    fn close(&mut self, work: usize, why: CloseReason) {
        self.with_queue(HEAD, work, |queue| queue.set_place(Place::Closed(why)));
        self.registry.set(&path(work), Location::Closed(why));
        self.tell();
    }

    fn over(&mut self, work: usize, incarnation: u64, route: u64) {
        self.registry.over(&path(work), incarnation);
        self.with_queue(HEAD, work, |queue| queue.left(&route));
        self.tell();
    }

    /// Makes an incarnation accept no more messages.
    fn leave(&mut self, process: usize, work: usize) {
        let Some(queue) = self.processes[process].queues.get_mut(&work).filter(|queue| queue.is_here())
        else {
            return;
        };
        let away = queue.take(|mail| mail.came.is_some());
        self.with_queue(process, work, |queue| queue.set_place(Place::Pending));
        away.into_iter().for_each(|mail| self.give_back(mail));
        self.want(process, work);
    }

    fn tell(&mut self) {
        for session in self.registry.untold() {
            while let Some((path, location)) = self.registry.next(session) {
                let to = session as usize;
                self.say(HEAD, to, Packet::Located { work: work_of(&path), location });
            }
        }
    }

    /// Restarts a Work, either gracefully or by force, which waits for nothing.
    fn restart(&mut self, work: usize, to: usize, by_force: bool) {
        let Life::Up { process, incarnation, route } = self.lives[work] else { return };
        if process == HEAD {
            // A local restart keeps the queued messages in the mailbox.
            if to != HEAD {
                return;
            }
            self.processes[HEAD].hosted.remove(&incarnation);
            return self.launch(work, HEAD);
        }
        if by_force {
            self.say(HEAD, process, Packet::Kill { incarnation });
            self.over(work, incarnation, route);
            self.launch(work, to);
        } else {
            self.lives[work] = Life::Stopping { process, incarnation, route, next: Some(to) };
            self.say(HEAD, process, Packet::Stop { incarnation });
        }
    }

    fn stop(&mut self, work: usize) {
        match self.lives[work] {
            Life::Up { process: HEAD, incarnation, .. } => {
                self.processes[HEAD].hosted.remove(&incarnation);
                self.lives[work] = Life::Stopped;
                // Messages from other processes are refused like local ones.
                self.close(work, CloseReason::Stopped);
            }
            Life::Up { process, incarnation, route } => {
                self.say(HEAD, process, Packet::Stop { incarnation });
                self.lives[work] = Life::Stopping { process, incarnation, route, next: None };
                self.say(HEAD, process, Packet::Close { incarnation, why: CloseReason::Stopped });
                self.close(work, CloseReason::Stopped);
            }
            _ => {}
        }
    }

    // ---- sessions ----

    fn deliver(&mut self, from: usize, to: usize, session: usize) -> bool {
        if self.processes[to].is_dead {
            return false;
        }
        let Some(line) = self.lines.get_mut(&(from, to, session)) else { return false };
        match &mut line.broken_at {
            Some(0) => return false,
            Some(written) => *written -= 1,
            None => {}
        }
        let Some(packet) = line.packets.pop_front() else { return false };
        self.arrive(from, to, session, packet);
        self.take_in_all(HEAD);
        true
    }

    fn arrive(&mut self, from: usize, to: usize, session: usize, packet: Packet) {
        match packet {
            Packet::Tell { route, .. } | Packet::Shut { route, .. } => {
                if let Packet::Shut { recall, .. } = packet
                    && let Some(entry) = self.routes.get_mut(&route)
                {
                    entry.recall = recall;
                }
                if let Packet::Tell { .. } = packet
                    && let Some(entry) = self.routes.get_mut(&route)
                {
                    entry.held += 1;
                }
                let Some(entry) = self.routes.get(&route) else { return };
                let work = entry.work;
                let line = self.lines.entry((from, to, session)).or_default();
                line.waiting.entry(work).or_default().push_back(packet);
                self.take_in(from, to, session, work);
            }
            Packet::Drained { route } => {
                if let Some(entry) = self.routes.remove(&route) {
                    self.with_queue(to, entry.work, |queue| queue.drained(&route));
                }
            }
            Packet::Returned { route, message } => {
                if !self.processes[to].queues.contains_key(&message.work) {
                    return self.lose(message);
                }
                let mail = Mail { message, came: None };
                self.with_queue(to, message.work, |queue| queue.returned(&route, mail));
            }
            Packet::Locate { work } => {
                let next = &mut self.next;
                let place = self.processes[HEAD].queues[&work].place();
                assert!(self.registry.subscribe(from as u64, &path(work), || match place {
                    Place::Closed(why) => Location::Closed(*why),
                    _ => {
                        *next += 1;
                        Location::At { node: HEAD as u64, incarnation: *next }
                    }
                }));
                self.tell();
            }
            Packet::Unlocate { work } => self.registry.unsubscribe(from as u64, &path(work)),
            Packet::Located { work, location } => self.follow(to, work, location),
            Packet::Launch { work, incarnation } => {
                self.address(to, work);
                if self.processes[to].relayed.contains(&work) {
                    self.unordered.insert((to, work));
                }
                self.processes[to].launched = incarnation;
                self.processes[to].hosted.insert(incarnation, work);
                self.with_queue(to, work, |queue| queue.set_place(Place::Here));
                self.take_in_all(to);
            }
            Packet::Stop { incarnation } => {
                if let Some(work) = self.processes[to].hosted.remove(&incarnation) {
                    self.leave(to, work);
                    self.say(to, HEAD, Packet::Over { work, incarnation });
                }
            }
            Packet::Kill { incarnation } => {
                if let Some(work) = self.processes[to].hosted.remove(&incarnation) {
                    self.leave(to, work);
                }
            }
            Packet::Close { incarnation, why } => {
                if let Some(work) = self.processes[to].hosted.get(&incarnation).copied() {
                    self.leave(to, work);
                    self.with_queue(to, work, |queue| queue.set_place(Place::Closed(why)));
                }
            }
            Packet::Over { work, incarnation } => match self.lives[work] {
                Life::Stopping { incarnation: stopping, route, next, .. } if stopping == incarnation => {
                    self.over(work, incarnation, route);
                    self.lives[work] = Life::Stopped;
                    if let Some(to) = next {
                        self.launch(work, to);
                    }
                }
                _ => {}
            },
        }
    }

    /// Accepts the waiting messages of one sender for a Work.
    fn take_in(&mut self, from: usize, to: usize, session: usize, work: usize) {
        loop {
            let line = self.lines.entry((from, to, session)).or_default();
            let Some(waiting) = line.waiting.get_mut(&work) else { return };
            let Some(packet) = waiting.front().cloned() else { return };
            let (Packet::Tell { route, .. } | Packet::Shut { route, .. }) = packet else {
                unreachable!("only these wait")
            };
            let Some(entry) = self.routes.get(&route) else {
                if let Packet::Tell { message, .. } = packet {
                    self.lose(message);
                }
                self.lines
                    .entry((from, to, session))
                    .or_default()
                    .waiting
                    .get_mut(&work)
                    .map(VecDeque::pop_front);
                continue;
            };
            let (incarnation, recall) = (entry.incarnation, entry.recall);
            let is_relay = entry.is_relay;
            let is_here = self.processes[to].hosted.contains_key(&incarnation);
            if to != HEAD && !is_here && self.processes[to].launched < incarnation && !recall {
                return;
            }
            self.lines
                .entry((from, to, session))
                .or_default()
                .waiting
                .get_mut(&work)
                .map(VecDeque::pop_front);
            match packet {
                Packet::Tell { message, .. } => {
                    let mail = Mail { message, came: Some(route) };
                    let line = self.lines.entry((from, to, session)).or_default();
                    let is_refused = line.refused.get(&work).is_some_and(|refused| *refused >= incarnation);
                    let is_elsewhere = to == HEAD
                        && !is_relay
                        && self.registry.location(&path(work)).is_some_and(|location| {
                            *location != Location::At { node: HEAD as u64, incarnation }
                        });
                    let refused = if is_refused || is_elsewhere {
                        Some(mail)
                    } else if to == HEAD {
                        let queue = self.processes[HEAD].queues.get_mut(&work).expect("the head has all");
                        match queue.offer(mail, true) {
                            Offer::Queued => None,
                            Offer::Forward(_, next) if self.is_over(next) => {
                                self.route_lost(HEAD, next);
                                let line = self.lines.entry((from, to, session)).or_default();
                                line.waiting.entry(work).or_default().push_front(packet);
                                continue;
                            }
                            Offer::Forward(mail, next) => {
                                self.forward(next, mail);
                                None
                            }
                            // Must stay behind the messages that are being returned to the head.
                            Offer::Wait(_) => {
                                let line = self.lines.entry((from, to, session)).or_default();
                                line.waiting.entry(work).or_default().push_front(packet);
                                return;
                            }
                            Offer::Refused(mail, _) => Some(mail),
                        }
                    } else if is_here && self.processes[to].queues[&work].is_here() {
                        self.address(to, work).deliver(mail);
                        None
                    } else {
                        Some(mail)
                    };
                    if let Some(mail) = refused {
                        let line = self.lines.entry((from, to, session)).or_default();
                        if !recall {
                            line.refused.insert(work, incarnation);
                        }
                        self.give_back(mail);
                    }
                }
                _ => {
                    if recall && is_here {
                        let mine = self.address(to, work).take(|mail| mail.came == Some(route));
                        mine.into_iter().for_each(|mail| self.give_back(mail));
                    }
                    if let Some(entry) = self.routes.get_mut(&route) {
                        entry.is_shut_there = true;
                    }
                    self.drain_if_done(route);
                }
            }
        }
    }

    fn take_in_all(&mut self, to: usize) {
        let waiting: Vec<_> = self
            .lines
            .iter()
            .filter(|((_, at, _), _)| *at == to)
            .flat_map(|((from, _, session), line)| line.waiting.keys().map(|work| (*from, *session, *work)))
            .collect();
        for (from, session, work) in waiting {
            self.take_in(from, to, session, work);
        }
    }

    fn follow(&mut self, process: usize, work: usize, location: Location<u64>) {
        let Some(queue) = self.processes[process].queues.get(&work) else { return };
        let is_relayed = self.processes[process].relayed.contains(&work);
        let is_by_head = matches!(queue.place(), Place::At(route) if self.routes[route].is_relay);
        let is_here = queue.is_here();
        if let Location::At { incarnation, .. } = location {
            let last = self.processes[process].followed.entry(work).or_default();
            if *last >= incarnation {
                return;
            }
            *last = incarnation;
        }
        let place = match location {
            Location::Pending | Location::At { .. } if is_by_head => return,
            Location::Pending => Place::Pending,
            Location::Closed(why) => Place::Closed(why),
            Location::At { node, .. } if node as usize == process => {
                if is_here {
                    return;
                }
                Place::Pending
            }
            Location::At { incarnation, .. } if is_relayed => {
                Place::At(self.relay(process, work, incarnation))
            }
            Location::At { node, incarnation } => {
                let node = node as usize;
                Place::At(self.route(process, node, work, incarnation))
            }
        };
        self.leave(process, work);
        self.with_queue(process, work, |queue| queue.set_place(place));
    }

    /// Cuts two nodes off from each other for longer than the grace period.
    fn cut(&mut self, a: usize, b: usize) {
        if a == b || a == HEAD || b == HEAD {
            return;
        }
        let session = self.session(a, b);
        for (from, to) in [(a, b), (b, a)] {
            let line = self.lines.entry((from, to, session)).or_default();
            line.broken_at.get_or_insert(line.packets.len() / 2);
        }
        self.end_session(a, b, session);
        self.end_session(b, a, session);
        self.sessions.insert((a.min(b), a.max(b)), session + 1);
    }

    /// Makes a process give up its session with another.
    fn end_session(&mut self, process: usize, peer: usize, session: usize) {
        self.ended.insert((process, peer, session));
        let mine: Vec<_> = self
            .routes
            .iter()
            .filter(|(_, route)| (route.from, route.to, route.session) == (process, peer, session))
            .map(|(number, route)| (*number, route.work))
            .collect();
        for (route, work) in &mine {
            self.with_queue(process, *work, |queue| queue.stop(route));
        }
        // Messages that were never written come back; those that were written may have arrived.
        let packets = self.lines.get_mut(&(process, peer, session)).map(|line| {
            let written = line.broken_at.unwrap_or(line.packets.len());
            line.broken_at = Some(0);
            let unsent = line.packets.split_off(written.min(line.packets.len()));
            (std::mem::take(&mut line.packets), unsent)
        });
        let (written, unsent) = packets.unwrap_or_default();
        for packet in written {
            if let Packet::Tell { message, .. } | Packet::Returned { message, .. } = packet {
                self.lose(message);
            }
        }
        for packet in unsent {
            match packet {
                Packet::Tell { route, message } => {
                    let mail = Mail { message, came: None };
                    self.with_queue(process, message.work, |queue| queue.returned(&route, mail));
                }
                Packet::Returned { message, .. } => self.lose(message),
                _ => {}
            }
        }
        for (route, _) in mine {
            self.route_lost(process, route);
        }
        // Messages of the peer that still wait here cannot be returned to it.
        let waiting =
            self.lines.get_mut(&(peer, process, session)).map(|line| std::mem::take(&mut line.waiting));
        for packet in waiting.into_iter().flatten().flat_map(|(_, packets)| packets) {
            if let Packet::Tell { message, .. } = packet {
                self.lose(message);
            }
        }
    }

    fn route_lost(&mut self, process: usize, route: u64) {
        let Some(entry) = self.routes.remove(&route) else { return };
        let work = entry.work;
        let instead =
            if process != HEAD && entry.to != HEAD && self.processes[process].queues.contains_key(&work) {
                Place::At(self.relay(process, work, entry.incarnation))
            } else {
                Place::Pending
            };
        let relay = match &instead {
            Place::At(relay) => Some(*relay),
            _ => None,
        };
        self.with_queue(process, work, |queue| queue.lost(&route, instead));
        let used = self.processes[process].queues.get(&work).map(|queue| queue.place().clone());
        if let Some(relay) = relay {
            if used == Some(Place::At(relay)) {
                self.processes[process].relayed.insert(work);
            } else {
                self.routes.remove(&relay);
            }
        }
    }

    /// Kills a node without warning. Its messages and Works are lost.
    fn kill(&mut self, node: usize) {
        if node == HEAD || self.processes[node].is_dead {
            return;
        }
        self.processes[node].is_dead = true;
        for ((from, to, _), line) in &mut self.lines {
            if *from == node || *to == node {
                line.broken_at.get_or_insert(line.packets.len());
            }
        }
        // Packets that the node had not written, and packets whose reader is dead.
        let mut gone = Vec::new();
        for ((from, to, _), line) in &mut self.lines {
            if (*from == node || *to == node) && self.processes[*from].is_dead {
                let unread = if self.processes[*to].is_dead { 0 } else { line.broken_at.unwrap_or(0) };
                gone.extend(line.packets.split_off(unread.min(line.packets.len())));
            }
        }
        for packet in gone {
            if let Packet::Tell { message, .. } | Packet::Returned { message, .. } = packet {
                self.lose(message);
            }
        }
        let queues = std::mem::take(&mut self.processes[node].queues);
        for (_, mut queue) in queues {
            queue.clear().into_iter().for_each(|mail| self.lose(mail.message));
        }
        // The dead node will not send the packets that it still owed.
        for route in self.routes.values_mut().filter(|route| route.to == node) {
            (route.held, route.is_shut_there) = (0, false);
        }
        for line in self.lines.iter_mut().filter(|((_, to, _), _)| *to == node).map(|(_, line)| line) {
            let waiting = std::mem::take(&mut line.waiting);
            let packets = waiting.into_values().flatten();
            let messages = packets.filter_map(|packet| match packet {
                Packet::Tell { message, .. } => Some(message),
                _ => None,
            });
            self.lost.extend(messages);
        }
        self.processes.push(Process::default());
    }

    /// Makes a process notice that another has ended.
    fn notice(&mut self, process: usize, dead: usize) -> bool {
        if !self.processes[dead].is_dead
            || self.processes[process].is_dead
            || process == dead
            || !self.processes[process].lost.insert(dead)
        {
            return false;
        }
        let session = self.session(process, dead);
        // Packets that had arrived are processed first.
        while self.deliver(dead, process, session) {}
        if process == HEAD {
            for work in 0..WORKS {
                if let Life::Up { process, incarnation, route }
                | Life::Stopping { process, incarnation, route, .. } = self.lives[work]
                    && process == dead
                {
                    let is_stopped = matches!(self.lives[work], Life::Stopping { next: None, .. });
                    self.over(work, incarnation, route);
                    self.lives[work] = if is_stopped { Life::Stopped } else { Life::Unplaced };
                    if !is_stopped {
                        self.close(work, CloseReason::NodeLost);
                    }
                }
            }
            self.registry.end_session(dead as u64);
        }
        self.end_session(process, dead, session);
        true
    }

    /// Drops the addresses in a process, which then no longer sends to the Work.
    fn forget(&mut self, process: usize, work: usize) {
        let is_idle = |queue: &Queue<Mail, u64>| !queue.is_here() && queue.len() == 0;
        if process == HEAD || !self.processes[process].queues.get(&work).is_some_and(is_idle) {
            return;
        }
        let mine: Vec<_> = self
            .routes
            .iter()
            .filter(|(_, route)| route.from == process && route.work == work)
            .map(|(number, _)| *number)
            .collect();
        // A route that waits to be drained, or may still return messages, is kept until then.
        if mine
            .iter()
            .any(|route| self.routes[route].is_shut || self.routes[route].is_open && !self.is_settled(*route))
        {
            return;
        }
        for number in mine {
            let route = self.routes.get_mut(&number).expect("listed just now");
            route.is_shut = true;
            if route.is_open {
                let (to, session) = (route.to, route.session);
                self.push(process, to, session, Packet::Shut { route: number, recall: false });
            } else {
                self.routes.remove(&number);
            }
        }
        self.processes[process].queues.remove(&work);
        self.processes[process].followed.remove(&work);
        if self.processes[process].asked.remove(&work) {
            self.say(process, HEAD, Packet::Unlocate { work });
        }
    }

    /// Returns `true` when no message that was sent along a route can come back.
    fn is_settled(&self, route: u64) -> bool {
        let entry = &self.routes[&route];
        let under_way =
            self.lines.values().flat_map(|line| line.packets.iter().chain(line.waiting.values().flatten()));
        let mut under_way = under_way.filter(
            |packet| matches!(packet, Packet::Tell { route: r, .. } | Packet::Returned { route: r, .. } if *r == route),
        );
        entry.held == 0 && under_way.next().is_none()
    }

    /// Runs everything that is pending to completion, without failures.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut progress = false;
            self.take_in_all(HEAD);
            for process in 0..self.processes.len() {
                for dead in 0..self.processes.len() {
                    progress |= self.notice(process, dead);
                }
            }
            let lines: Vec<_> = self.lines.keys().copied().collect();
            for (from, to, session) in lines {
                progress |= self.deliver(from, to, session);
            }
            for work in 0..WORKS {
                if self.lives[work] == Life::Unplaced {
                    self.launch(work, self.processes.len() - 1);
                    progress = true;
                }
            }
            for process in 0..self.processes.len() {
                for work in 0..WORKS {
                    progress |= self.handle(process, work);
                }
            }
            if !progress {
                return;
            }
        }
        panic!("the model does not come to rest");
    }

    /// Asserts that all messages are accounted for, every Work is reachable from everywhere, and no state is left over.
    fn check(mut self) {
        self.settle();
        let missing: Vec<_> = self
            .accepted
            .iter()
            .filter(|message| !self.handled.contains(message) && !self.lost.contains(message))
            .collect();
        assert!(missing.is_empty(), "neither handled nor lost: {missing:?}");
        for work in 0..WORKS {
            if self.lives[work] == Life::Stopped {
                self.launch(work, self.processes.len() - 1);
            }
        }
        self.settle();
        for process in 0..self.processes.len() {
            for work in 0..WORKS {
                if self.processes[process].is_dead {
                    continue;
                }
                let before = self.sent.get(&(process, work)).copied().unwrap_or(0);
                for _ in 0..4 {
                    self.offer(process, work);
                    self.settle();
                }
                let after = self.sent.get(&(process, work)).copied().unwrap_or(0);
                assert!(after > before, "work {work} takes nothing from process {process}");
                let last = Message { sender: process, work, number: after - 1 };
                assert!(self.handled.contains(&last), "work {work} is not reached from process {process}");
            }
        }
        (0..WORKS).for_each(|work| self.stop(work));
        self.settle();
        for process in 1..self.processes.len() {
            (0..WORKS).for_each(|work| self.forget(process, work));
        }
        self.settle();
        // A route that was never used has no counterpart at the other end.
        let alive = |route: &Route| {
            route.is_open && !self.processes[route.from].is_dead && !self.processes[route.to].is_dead
        };
        let left: Vec<_> = self.routes.values().filter(|route| alive(route)).collect();
        assert!(left.is_empty(), "routes are left: {left:?}");
        assert!(self.registry.is_empty(), "the head keeps what nobody asks for");
    }
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Offer(usize, usize),
    Deliver(usize),
    Handle(usize, usize),
    Launch(usize, usize),
    Restart(usize, usize, bool),
    Stop(usize),
    Kill(usize),
    Notice(usize, usize),
    Cut(usize, usize),
    Forget(usize, usize),
}

fn event() -> impl Strategy<Value = Event> {
    let (process, work) = (0..8_usize, 0..WORKS);
    prop_oneof![
        12 => (process.clone(), work.clone()).prop_map(|(p, w)| Event::Offer(p, w)),
        16 => any::<usize>().prop_map(Event::Deliver),
        6 => (process.clone(), work.clone()).prop_map(|(p, w)| Event::Handle(p, w)),
        3 => (work.clone(), process.clone()).prop_map(|(w, p)| Event::Launch(w, p)),
        3 => (work.clone(), process.clone(), any::<bool>()).prop_map(|(w, p, f)| Event::Restart(w, p, f)),
        1 => work.clone().prop_map(Event::Stop),
        1 => process.clone().prop_map(Event::Kill),
        2 => (process.clone(), process.clone()).prop_map(|(a, b)| Event::Notice(a, b)),
        1 => (process.clone(), process.clone()).prop_map(|(a, b)| Event::Cut(a, b)),
        1 => (process, work).prop_map(|(p, w)| Event::Forget(p, w)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    /// Works are launched, moved, stopped and restarted; nodes are killed and replaced; sessions are cut; messages are
    /// in flight at every step.
    #[test]
    fn accepted_messages_are_handled_once_in_order_or_counted(
        nodes in 1..4_usize,
        events in proptest::collection::vec(event(), 0..150),
    ) {
        let mut world = World::new(nodes);
        for event in events {
            let processes = world.processes.len();
            match event {
                Event::Offer(process, work) => world.offer(process % processes, work),
                Event::Deliver(which) => {
                    let lines = world.lines.iter().filter(|(_, line)| !line.packets.is_empty());
                    let lines: Vec<_> = lines.map(|(key, _)| *key).collect();
                    if !lines.is_empty() {
                        let (from, to, session) = lines[which % lines.len()];
                        world.deliver(from, to, session);
                    }
                }
                Event::Handle(process, work) => drop(world.handle(process % processes, work)),
                Event::Launch(work, process) => {
                    if matches!(world.lives[work], Life::Stopped | Life::Unplaced) {
                        world.launch(work, process % processes);
                    }
                }
                Event::Restart(work, process, by_force) => world.restart(work, process % processes, by_force),
                Event::Stop(work) => world.stop(work),
                Event::Kill(node) if processes < 7 => world.kill(node % processes),
                Event::Kill(_) => {}
                Event::Notice(process, dead) => drop(world.notice(process % processes, dead % processes)),
                Event::Cut(a, b) => {
                    let (a, b) = (a % processes, b % processes);
                    if !world.processes[a].is_dead && !world.processes[b].is_dead {
                        world.cut(a, b);
                    }
                }
                Event::Forget(process, work) => world.forget(process % processes, work),
            }
        }
        world.check();
    }
}
