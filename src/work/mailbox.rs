//! The bounded mailbox.
//!
//! # Guarantees
//! - At most `capacity` messages wait. Senders that wait for room get it in the order of asking. Messages of one
//!   sender arrive in the order in which it sent them; among senders there is no order.
//! - A mailbox belongs to the Work, not to one incarnation of it: what an incarnation had taken and not begun
//!   when it died goes back to the front.
//! - When the Work stops, what still waits is refused: an `ask` fails at its caller, a lost `tell` is logged.
//! - Dropping a waiting `send` gives up its place and keeps the message out.
//! - The mailbox of a Work that lives in another process passes everything on to its [`Route`] and keeps nothing.
//!
//! # Cost
//! One lock and, only when the Work is parked, one wake-up per message. The receiver takes messages in batches,
//! so that it and the senders seldom meet at the lock. A batch is at most an eighth of the capacity; messages in
//! it still count as waiting, so that a full mailbox may refuse up to an eighth early but never too late.

mod receiver;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use serde::{Deserialize, Serialize};

pub(crate) use self::receiver::{Mail, Receiver};
use super::message::{Envelope, Letter, Outcome};
use super::route::Route;
use super::{Command, RunOrder, Work};

const LARGEST_BATCH: usize = 128;

/// Why a mailbox takes no messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Closed {
    NotStarted,
    Stopped,
    Failed,
    /// It waits for a node to run on.
    Unplaced,
    /// The node where it lived is lost.
    NodeLost,
    /// No such Work.
    Unknown,
    /// It lives in another process, to which the mailbox's route leads.
    Elsewhere,
}

pub(crate) struct Mailbox<W> {
    inner: Mutex<Inner<W>>,
    /// Whether there may be commands, so that a message costs no lock to find out.
    commanded: AtomicBool,
    capacity: usize,
    batch: usize,
}

struct Inner<W> {
    messages: VecDeque<Envelope<W>>,
    commands: VecDeque<Command>,
    /// Taken by the receiver in a batch and not yet begun.
    taken: usize,
    closed: Option<Closed>,
    /// Where commands go, and with [`Closed::Elsewhere`] messages too.
    route: Option<Arc<dyn Route>>,
    receiver: Option<Waker>,
    waiting: VecDeque<Waiting>,
    /// Senders whose turn has come and who have not used it yet.
    granted: Vec<u64>,
    next_ticket: u64,
    /// How many messages were ever taken, or passed on.
    accepted: u64,
    /// Which incarnation may receive. An earlier one that was given up and still runs finds only an order to stop.
    incarnation: u64,
}

struct Waiting {
    ticket: u64,
    waker: Waker,
}

impl<W> Inner<W> {
    fn room(&self, capacity: usize) -> bool {
        self.messages.len() + self.taken + self.granted.len() < capacity
    }

    /// Whether a sender with this ticket waits or has been given a place.
    fn knows(&self, ticket: u64) -> bool {
        self.granted.contains(&ticket) || self.waiting.iter().any(|waiting| waiting.ticket == ticket)
    }

    /// Gives free places to waiting senders, in order, once half of the mailbox is free: waking a sender costs as
    /// much as many messages do, so that it should find room for many.
    fn grant(&mut self, capacity: usize) -> Vec<Waker> {
        let mut woken = Vec::new();
        if self.messages.len() + self.taken > capacity / 2 {
            return woken;
        }
        while !self.waiting.is_empty() && self.room(capacity) {
            let Waiting { ticket, waker } = self.waiting.pop_front().expect("checked above");
            self.granted.push(ticket);
            woken.push(waker);
        }
        woken
    }
}

/// Where a message is that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Went {
    /// In the mailbox.
    Here,
    /// On its way to another process.
    Away,
}

/// A message that was not taken comes back with the reason.
pub(crate) enum Refused<E> {
    Full(E),
    Closed(E, Closed),
    /// It cannot leave this process, for this reason.
    Unsendable(E, String),
}

enum NotTaken<W> {
    Full(Envelope<W>),
    Closed(Envelope<W>, Closed),
    Elsewhere(Envelope<W>, Arc<dyn Route>),
}

impl<W: Work> Mailbox<W> {
    pub(crate) fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        Self {
            inner: Mutex::new(Inner {
                messages: VecDeque::new(),
                commands: VecDeque::new(),
                taken: 0,
                closed: Some(Closed::NotStarted),
                route: None,
                receiver: None,
                waiting: VecDeque::new(),
                granted: Vec::new(),
                next_ticket: 0,
                accepted: 0,
                incarnation: 0,
            }),
            commanded: AtomicBool::new(false),
            capacity,
            batch: (capacity / 8).clamp(1, LARGEST_BATCH),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<W>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// The mailbox of a Work that lives where `route` leads.
    pub(crate) fn elsewhere(route: Arc<dyn Route>) -> Self {
        let mailbox = Self::new(1);
        mailbox.divert(route);
        mailbox
    }

    /// Passes everything on to `route` from now on, what waits included.
    pub(crate) fn divert(&self, route: Arc<dyn Route>) {
        let mut inner = self.lock();
        inner.closed = Some(Closed::Elsewhere);
        inner.route = Some(route.clone());
        inner.commands.clear();
        inner.granted.clear();
        let messages = std::mem::take(&mut inner.messages);
        let waiting = std::mem::take(&mut inner.waiting);
        drop(inner);
        for message in messages {
            if let Err(Refused::Full(letter) | Refused::Closed(letter, _) | Refused::Unsendable(letter, _)) =
                route.try_send(message)
            {
                letter.settle(Outcome::Refused(Closed::NotStarted));
            }
        }
        waiting.into_iter().for_each(|sender| sender.waker.wake());
    }

    pub(crate) fn try_send(&self, envelope: Envelope<W>) -> Result<(), Refused<Box<dyn Letter>>> {
        match self.offer(envelope) {
            Ok(()) => Ok(()),
            Err(NotTaken::Full(envelope)) => Err(Refused::Full(envelope)),
            Err(NotTaken::Closed(envelope, why)) => Err(Refused::Closed(envelope, why)),
            Err(NotTaken::Elsewhere(envelope, route)) => route.try_send(envelope),
        }
    }

    /// Takes a message that came from another process, to be sent on if the Work lives in a third.
    pub(super) fn receive(&self, envelope: Envelope<W>) -> Result<(), Refused<Envelope<W>>> {
        self.offer(envelope).map_err(|not_taken| match not_taken {
            NotTaken::Full(envelope) => Refused::Full(envelope),
            NotTaken::Closed(envelope, why) => Refused::Closed(envelope, why),
            NotTaken::Elsewhere(envelope, _) => Refused::Full(envelope),
        })
    }

    fn offer(&self, envelope: Envelope<W>) -> Result<(), NotTaken<W>> {
        let mut inner = self.lock();
        if let Some(closed) = inner.closed {
            return Err(match (closed, &inner.route) {
                (Closed::Elsewhere, Some(route)) => {
                    let route = route.clone();
                    inner.accepted += 1;
                    NotTaken::Elsewhere(envelope, route)
                }
                _ => NotTaken::Closed(envelope, closed),
            });
        }
        if !inner.waiting.is_empty() || !inner.room(self.capacity) {
            return Err(NotTaken::Full(envelope));
        }
        inner.messages.push_back(envelope);
        inner.accepted += 1;
        let receiver = inner.receiver.take();
        drop(inner);
        if let Some(receiver) = receiver {
            receiver.wake();
        }
        Ok(())
    }

    pub(crate) async fn send(&self, envelope: Envelope<W>) -> Result<Went, Refused<Box<dyn Letter>>> {
        let envelope = match self.offer(envelope) {
            Ok(()) => return Ok(Went::Here),
            Err(NotTaken::Closed(envelope, why)) => return Err(Refused::Closed(envelope, why)),
            Err(NotTaken::Elsewhere(envelope, route)) => return send_on(&*route, envelope).await,
            Err(NotTaken::Full(envelope)) => envelope,
        };
        match self.send_when_there_is_room(envelope).await {
            Ok(()) => Ok(Went::Here),
            // It has moved meanwhile.
            Err(NotTaken::Elsewhere(envelope, route)) => send_on(&*route, envelope).await,
            Err(NotTaken::Closed(envelope, why)) => Err(Refused::Closed(envelope, why)),
            Err(NotTaken::Full(envelope)) => Err(Refused::Full(envelope)),
        }
    }

    async fn send_when_there_is_room(&self, envelope: Envelope<W>) -> Result<(), NotTaken<W>> {
        let mut envelope = Some(envelope);
        let mut place = Place { mailbox: self, ticket: None };
        poll_fn(|cx| {
            let mut inner = self.lock();
            if let Some(closed) = inner.closed {
                let envelope = envelope.take().expect("sent once");
                return Poll::Ready(Err(match (closed, &inner.route) {
                    (Closed::Elsewhere, Some(route)) => NotTaken::Elsewhere(envelope, route.clone()),
                    _ => NotTaken::Closed(envelope, closed),
                }));
            }
            // The mailbox was closed and opened again before this sender had a look: its place is gone.
            if place.ticket.is_some_and(|ticket| !inner.knows(ticket)) {
                place.ticket = None;
            }
            let my_turn = match place.ticket {
                Some(ticket) => match inner.granted.iter().position(|granted| *granted == ticket) {
                    Some(position) => {
                        inner.granted.swap_remove(position);
                        place.ticket = None;
                        true
                    }
                    None => false,
                },
                None => inner.waiting.is_empty() && inner.room(self.capacity),
            };
            if my_turn {
                inner.messages.push_back(envelope.take().expect("sent once"));
                inner.accepted += 1;
                let receiver = inner.receiver.take();
                drop(inner);
                if let Some(receiver) = receiver {
                    receiver.wake();
                }
                return Poll::Ready(Ok(()));
            }
            match place.ticket.and_then(|ticket| inner.waiting.iter_mut().find(|w| w.ticket == ticket)) {
                Some(waiting) => waiting.waker.clone_from(cx.waker()),
                None => {
                    let ticket = inner.next_ticket;
                    inner.next_ticket += 1;
                    inner.waiting.push_back(Waiting { ticket, waker: cx.waker().clone() });
                    place.ticket = Some(ticket);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Puts a command where the receiver finds it before any message.
    pub(crate) fn command(&self, command: Command) {
        let mut inner = self.lock();
        if let Some(route) = &inner.route {
            let route = route.clone();
            drop(inner);
            return route.command(command);
        }
        inner.commands.push_back(command);
        self.commanded.store(true, Ordering::Release);
        let receiver = inner.receiver.take();
        drop(inner);
        if let Some(receiver) = receiver {
            receiver.wake();
        }
    }

    /// Orders a run. A Work that sleeps begins with it at once, so that whoever orders it may say so without being
    /// told: that spares both sides a wake-up. Whether it does.
    pub(crate) fn run(&self, mut order: RunOrder) -> bool {
        let announced = self.lock().receiver.is_some();
        order.announced = announced;
        self.command(Command::Run(order));
        announced
    }

    /// Takes messages from now on, for a new incarnation, whose number it gives.
    pub(crate) fn open(&self) -> u64 {
        let mut inner = self.lock();
        inner.closed = None;
        inner.route = None;
        inner.commands.clear();
        inner.receiver = None;
        inner.incarnation += 1;
        inner.incarnation
    }

    /// Refuses messages from now on, and those that wait.
    pub(crate) fn close(&self, why: Closed) -> usize {
        let mut inner = self.lock();
        let away = match &inner.route {
            Some(route) if inner.closed == Some(Closed::Elsewhere) => Some(route.clone()),
            _ => None,
        };
        inner.closed = Some(why);
        inner.granted.clear();
        let messages = std::mem::take(&mut inner.messages);
        let waiting = std::mem::take(&mut inner.waiting);
        drop(inner);
        waiting.into_iter().for_each(|sender| sender.waker.wake());
        if let Some(route) = away {
            route.close(why);
        }
        messages.into_iter().map(|letter| usize::from(letter.settle(Outcome::Refused(why)))).sum()
    }

    /// How many messages were ever taken, or passed on.
    pub(super) fn accepted(&self) -> u64 {
        self.lock().accepted
    }

    /// How many messages wait.
    pub(crate) fn depth(&self) -> usize {
        let inner = self.lock();
        match &inner.route {
            Some(route) => route.depth(),
            None => inner.messages.len() + inner.taken,
        }
    }
}

/// Waits only where there is no room: a future that waits costs an allocation.
async fn send_on(route: &dyn Route, letter: Box<dyn Letter>) -> Result<Went, Refused<Box<dyn Letter>>> {
    match route.try_send(letter) {
        Err(Refused::Full(letter)) => route.send(letter).await?,
        sent => sent?,
    }
    Ok(Went::Away)
}

/// A sender's place in the queue; given up when the sender goes.
struct Place<'a, W: Work> {
    mailbox: &'a Mailbox<W>,
    ticket: Option<u64>,
}

impl<W: Work> Drop for Place<'_, W> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let mut inner = self.mailbox.lock();
        inner.waiting.retain(|waiting| waiting.ticket != ticket);
        inner.granted.retain(|granted| *granted != ticket);
        let woken = inner.grant(self.mailbox.capacity);
        drop(inner);
        woken.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
#[path = "mailbox_tests.rs"]
mod tests;
