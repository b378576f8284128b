//! A model test of routing: sends, moves, restarts, losses and cuts in random order, over the real mailbox queues and
//! the real registry of the head. Sessions are modelled as queues of packets, and the rest of a process as simply as
//! possible.
//!
//! Invariants: an accepted message is handled once, or counted as lost, and the latter only when a process or session
//! is lost or its Work is stopped; messages of one sender are handled in the order in which it sent them, with the
//! exceptions that the documentation of [`super`] names; once failures cease, every Work is reachable from every
//! process; and in the end no state is left over.

mod invariants;
mod schedules;
mod sessions;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use self::schedules::event;
use super::super::protocol::Location;
use super::Registry;
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

impl Message {
    /// Returns true for a message that goes before others.
    fn is_first(self) -> bool {
        self.number % 4 == 3
    }
}

impl Item for Mail {
    fn is_question(&self) -> bool {
        false
    }

    fn is_first(&self) -> bool {
        self.message.is_first()
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
    /// By sender and Work, the number of the last message that was handled.
    last_handled: BTreeMap<(usize, usize, bool), u32>,
    /// By sender and incarnation, the number of the last message that was handled.
    last_of_incarnation: BTreeMap<(usize, u64, bool), u32>,
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
            last_of_incarnation: BTreeMap::new(),
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
        let first_waits = queue.has_first();
        let Some(Mail { message, came }) = queue.pop() else { return false };
        assert!(message.is_first() || !first_waits, "{message:?} is handled before one that goes first");
        assert!(self.accepted.contains(&message), "{message:?} was never sent");
        assert!(self.handled.insert(message), "{message:?} is handled twice");
        assert!(!self.lost.contains(&message), "{message:?} was counted as lost");
        self.check_order(process, message, came);
        self.release(came);
        true
    }

    /// Asserts that a message is handled in order. The order between incarnations is not promised for one that has been
    /// ended by force, does not know it yet, and handles what came over a session that is over: nobody can recall that.
    fn check_order(&mut self, process: usize, message: Message, came: Option<u64>) {
        let Message { sender, work, number } = message;
        let hosted = self.processes[process].hosted.iter();
        let incarnation =
            hosted.filter(|(_, hosted)| **hosted == work).map(|(incarnation, _)| *incarnation).max();
        let incarnation = incarnation.expect("an incarnation handles the message");
        let is_promised = !self.unordered.contains(&(sender, work));
        let last = self.last_of_incarnation.insert((sender, incarnation, message.is_first()), number);
        let in_order = last.is_none_or(|last| last < number);
        assert!(in_order || !is_promised, "{message:?} is handled after {last:?} by the same incarnation");
        let is_current = matches!(
            self.lives[work],
            Life::Up { incarnation: current, .. } | Life::Stopping { incarnation: current, .. }
                if current == incarnation
        );
        let is_cut = came.is_some_and(|route| !self.routes.contains_key(&route) || self.is_over(route));
        if !is_current && is_cut {
            return;
        }
        let last = self.last_handled.insert((sender, work, message.is_first()), number);
        let in_order = last.is_none_or(|last| last < number);
        assert!(in_order || !is_promised, "{message:?} is handled after {last:?}");
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
            world.perform(event);
        }
        world.check();
    }
}

/// Has node 2 host a Work with a message of node 1 in its mailbox, and ends that incarnation by force in favour of one
/// in the process `to`.
fn forced_move(to: usize) -> World {
    let mut world = World::new(2);
    world.launch(0, 2);
    world.offer(1, 0);
    for (from, to) in [(1, HEAD), (HEAD, 1), (HEAD, 2)] {
        world.deliver(from, to, 0);
    }
    world.offer(1, 0);
    world.deliver(1, 2, 0);
    world.restart(0, to, true);
    world
}

/// Messages of one sender, in the order in which they are handled.
fn handled(world: &mut World, processes: &[usize]) -> Vec<u32> {
    let mut numbers = Vec::new();
    for process in processes {
        let mut before = world.handled.clone();
        while world.handle(*process, 0) {
            numbers.extend(world.handled.difference(&before).map(|message| message.number));
            before.clone_from(&world.handled);
        }
    }
    numbers
}

/// A node that has lost its session with the node of an ended incarnation cannot recall the messages there: while that
/// node does not know that the incarnation has ended, it handles them, after those that the next one has handled.
#[test]
fn ended_incarnation_handles_what_a_cut_node_has_sent() {
    let mut world = forced_move(HEAD);
    world.cut(1, 2);
    world.offer(1, 0);
    world.deliver(1, HEAD, 0);
    assert_eq!(handled(&mut world, &[HEAD, 2]), [1, 0]);
    world.check();

    let mut world = forced_move(1);
    while world.deliver(HEAD, 1, 0) {}
    world.cut(1, 2);
    world.offer(1, 0);
    assert_eq!(handled(&mut world, &[1, 2]), [1, 0]);
    world.check();
}

/// The same is in order while the session lasts, and when the node has heard of the end: then the messages are counted.
#[test]
fn ended_incarnation_gives_back_what_can_be_recalled() {
    let mut world = forced_move(1);
    while world.deliver(HEAD, 1, 0) {}
    world.offer(1, 0);
    assert_eq!(handled(&mut world, &[1, 2]), [0]);
    world.check();

    let mut world = forced_move(1);
    while world.deliver(HEAD, 2, 0) {}
    world.cut(1, 2);
    assert_eq!(world.lost.len(), 1, "{:?}", world.lost);
    world.check();
}
