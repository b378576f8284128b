//! Bounded mailboxes.
//!
//! # Guarantees
//! - At most `capacity` messages wait. Senders that wait for room get it in the order in which they asked. Messages of
//!   one sender arrive in the order in which they were sent; messages of different senders have no order.
//! - Messages that are sent first (`tell_first`) are received before all others that wait here, also before those that an
//!   incarnation has taken but not begun. They need room as any other, and get it before other senders that wait for it; so
//!   the others may wait without a bound.
//! - A mailbox belongs to the Work and not to one incarnation: messages that an incarnation had taken but not begun
//!   when it died go back to the front.
//! - An ask whose caller has given up is dropped if no handler has begun it; see the module `abandoned`.
//! - When the Work stops, waiting messages are refused: an `ask` fails at its caller, a `tell` is a dead letter.
//! - A waiting `send` that is dropped gives up its place in the queue of senders and does not send its message.
//! - A process has one mailbox for a Work, wherever the Work lives. The mailbox of a Work in another process forwards
//!   along a [`Route`]; see the module `queue` for the guarantees while the Work moves.
//!
//! # Cost
//! Per message one lock and, only when the Work is parked, one wake-up. The receiver takes messages in batches, so that
//! it rarely contends with the senders for the lock. A batch is at most an eighth of the capacity; its messages still
//! count as waiting, so that a mailbox may refuse messages when it is seven eighths full but never exceeds its
//! capacity.

mod abandoned;
mod asks;
mod lanes;
mod queue;
mod receiver;
mod watches;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Poll, Waker};

use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};

pub(crate) use self::lanes::Item;
pub(crate) use self::queue::{Offer, Place, Queue, Step};
pub(crate) use self::receiver::{Mail, Receiver};
use self::watches::{Watches, answer};
use super::dead_letters::{DeadLetterReason, report};
use super::end::{End, EndKind};
use super::envelope::{AnyEnvelope, BoxedEnvelope, NoReply, Outcome};
use super::route::{Commands, Locator, Route, SharedRoute};
use super::{Command, RunOrder, Work};
use crate::id::ActorPath;

const LARGEST_BATCH: usize = 128;

/// Capacity of the mailbox of a Work in another process, unless the capacity has been set.
const DISTANT_CAPACITY: usize = 64;

/// Reason why a mailbox refuses messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum CloseReason {
    NotStarted,
    Stopped,
    Failed,
    /// The Work waits for a node to run on.
    Unplaced,
    /// The node of the Work is lost.
    NodeLost,
    /// There is no such Work.
    Unknown,
}

impl CloseReason {
    /// Returns the reason for dead letters, and the cause as text.
    pub(in crate::work) fn of_dead_letters(self) -> (DeadLetterReason, &'static str) {
        match self {
            Self::NotStarted | Self::Unplaced | Self::Stopped => {
                (DeadLetterReason::Stopped, "the Work was stopped")
            }
            Self::Failed => (DeadLetterReason::Failed, "the Work has failed"),
            Self::Unknown => (DeadLetterReason::Unknown, "there is no such Work any more"),
            Self::NodeLost => (DeadLetterReason::NodeLost, "its node is lost, or has left the App"),
        }
    }
}

pub(crate) struct Mailbox<W> {
    inner: Mutex<Inner<W>>,
    /// Messages that the receiver has taken but not begun. Locked after `inner`.
    batch: Mutex<Batch<W>>,
    /// True if commands may wait, so that the receiver of a message can check it without the lock.
    commanded: AtomicBool,
    /// True if a message that is sent first may wait, so that the receiver can check it without the lock.
    has_first: AtomicBool,
    /// True if messages may be in `batch`, so that the receiver can check it without the lock.
    has_batch: AtomicBool,
    /// True if messages go to another process. Set under the lock of `inner`.
    leads_away: AtomicBool,
    capacity: AtomicUsize,
    /// Finds the Work, if this process does not decide its placement.
    locator: Option<Arc<dyn Locator>>,
    /// The path of the Work, once an address leads here.
    path: OnceLock<ActorPath>,
}

struct Batch<W> {
    incarnation: u64,
    messages: VecDeque<BoxedEnvelope<W>>,
}

struct Inner<W> {
    queue: Queue<BoxedEnvelope<W>, SharedRoute>,
    commands: VecDeque<Command>,
    /// Size of the last batch, which still counts as waiting.
    taken: u16,
    /// True once the incarnation that receives has ended.
    is_over: bool,
    /// True if `receiver` is the waker of a handler that waits for more messages of a batch.
    is_gathering: bool,
    /// Destination of commands while the Work lives in another process.
    commands_to: Option<Arc<dyn Commands>>,
    receiver: Option<Waker>,
    /// Waker of a receiver that waits in a handler, woken by commands only.
    listener: Option<Waker>,
    /// Boxed where senders have waited for room, to keep other mailboxes small.
    senders: Option<Box<RoomQueue>>,
    watches: Watches<W>,
    /// Number of messages accepted or forwarded since the mailbox exists.
    accepted: u64,
    /// The incarnation that may receive. An earlier incarnation that was given up but still executes receives only an
    /// order to stop.
    incarnation: u64,
}

/// Queue of the senders that wait for room.
#[derive(Default)]
struct RoomQueue {
    waiting: VecDeque<Waiting>,
    /// Tickets of senders that may send now and have not done so yet.
    granted: Vec<u32>,
    next_ticket: u32,
}

struct Waiting {
    ticket: u32,
    is_first: bool,
    waker: Waker,
}

type Steps<W> = Vec<Step<BoxedEnvelope<W>, SharedRoute>>;

impl<W> Item for BoxedEnvelope<W> {
    fn is_question(&self) -> bool {
        AnyEnvelope::is_question(&**self)
    }

    fn is_first(&self) -> bool {
        AnyEnvelope::is_first(&**self)
    }
}

impl<W> Inner<W> {
    /// Returns the number of messages that wait, those of the last batch included.
    fn len(&self) -> usize {
        self.queue.len() + usize::from(self.taken)
    }

    fn room(&self, capacity: usize) -> bool {
        self.len() + self.senders.as_ref().map_or(0, |senders| senders.granted.len()) < capacity
    }

    /// Returns true if there is room for a message of a sender that has not waited.
    fn admits(&self, is_first: bool, capacity: usize) -> bool {
        // Those that send first wait before all others.
        let next = self.senders.as_ref().and_then(|senders| senders.waiting.front());
        let is_before = next.is_none_or(|waiting| is_first && !waiting.is_first);
        is_before && self.room(capacity)
    }

    /// Returns true if the sender with this ticket waits or has been granted a place.
    fn knows(&self, ticket: u32) -> bool {
        self.senders.as_ref().is_some_and(|senders| {
            senders.granted.contains(&ticket)
                || senders.waiting.iter().any(|waiting| waiting.ticket == ticket)
        })
    }

    /// Grants free places to waiting senders, in order, once half of the mailbox is free: waking a sender costs as much
    /// as many messages, so a sender that wakes should find room for many.
    fn grant(&mut self, capacity: usize) -> Vec<Waker> {
        let mut woken = Vec::new();
        let waits = self.len();
        let Some(senders) = self.senders.as_mut().filter(|_| waits <= capacity / 2) else { return woken };
        while waits + senders.granted.len() < capacity
            && let Some(Waiting { ticket, waker, .. }) = senders.waiting.pop_front()
        {
            senders.granted.push(ticket);
            woken.push(waker);
        }
        woken
    }
}

/// Destination of a message that was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// The mailbox in this process.
    Here,
    /// A route to another process.
    Away,
}

/// Error of a message that was not accepted, with the message.
pub(crate) enum Refused<E> {
    Full(E),
    Closed(E, CloseReason),
    /// The Work has left the place to which the message was sent. No handler has seen the message.
    Moved(E),
    /// The message cannot be sent to another process, for this reason.
    Unsendable(E, String),
}

impl<W> Mailbox<W> {
    /// Returns the path of the Work, for reports; that of the root before the Work has joined the App.
    fn path(&self) -> ActorPath {
        self.path.get().cloned().unwrap_or_else(ActorPath::root)
    }

    /// Tells the senders of these messages that no handler will see them, and reports those that have nobody to tell.
    fn refuse(
        &self,
        messages: impl IntoIterator<Item = BoxedEnvelope<W>>,
        why: CloseReason,
        reason: DeadLetterReason,
        text: &str,
    ) {
        let lost = messages.into_iter().filter_map(|message| {
            let lost = AnyEnvelope::lost(&*message);
            AnyEnvelope::settle(message, Outcome::Unanswered(NoReply::Refused(why))).then_some(lost)
        });
        report(&self.path(), reason, text, lost);
    }
}

impl<W: Work> Mailbox<W> {
    /// Creates the mailbox of a Work whose placement this process decides.
    pub(crate) fn new(capacity: usize) -> Self {
        Self::with(capacity.max(1), Place::Closed(CloseReason::NotStarted), None)
    }

    /// Creates a mailbox that forwards to the place found by `locator`.
    pub(crate) fn distant(locator: Arc<dyn Locator>) -> Self {
        Self::with(DISTANT_CAPACITY, Place::Unknown, Some(locator))
    }

    fn with(capacity: usize, place: Place<SharedRoute>, locator: Option<Arc<dyn Locator>>) -> Self {
        Self {
            inner: Mutex::new(Inner {
                queue: Queue::new(place),
                commands: VecDeque::new(),
                taken: 0,
                is_over: false,
                is_gathering: false,
                commands_to: None,
                receiver: None,
                listener: None,
                senders: None,
                watches: None,
                accepted: 0,
                incarnation: 0,
            }),
            batch: Mutex::new(Batch { incarnation: 0, messages: VecDeque::new() }),
            commanded: AtomicBool::new(false),
            has_first: AtomicBool::new(false),
            has_batch: AtomicBool::new(false),
            leads_away: AtomicBool::new(false),
            capacity: AtomicUsize::new(capacity),
            locator,
            path: OnceLock::new(),
        }
    }

    /// Sets the path of the Work.
    pub(crate) fn set_path(&self, path: &ActorPath) {
        self.path.get_or_init(|| path.clone());
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity.load(Ordering::Relaxed)
    }

    pub(crate) fn set_capacity(&self, capacity: usize) {
        self.capacity.store(capacity.max(1), Ordering::Relaxed);
    }

    fn largest_batch(&self) -> usize {
        (self.capacity() / 8).clamp(1, LARGEST_BATCH)
    }

    pub(crate) fn try_send(&self, envelope: BoxedEnvelope<W>) -> Result<(), Refused<Box<dyn AnyEnvelope>>> {
        let mut envelope = envelope;
        loop {
            match self.offer(envelope) {
                Offer::Queued => return Ok(()),
                Offer::Refused(envelope, why) => return Err(Refused::Closed(envelope, why)),
                Offer::Wait(envelope) => {
                    self.want_place();
                    return Err(Refused::Full(envelope));
                }
                Offer::Forward(forwarded, SharedRoute(route)) => match route.try_send(forwarded) {
                    Err(Refused::Moved(refused)) => envelope = typed(refused),
                    sent => return sent,
                },
            }
        }
    }

    /// Accepts a message whatever the room, from a sender that bounds its messages by itself.
    ///
    /// # Errors
    /// [`Refused::Closed`] with the message.
    pub(super) fn post(&self, envelope: BoxedEnvelope<W>) -> Result<(), Refused<Box<dyn AnyEnvelope>>> {
        let mut inner = self.inner.lock();
        let steps = match inner.queue.post(envelope) {
            Ok(steps) => steps,
            Err((envelope, why)) => return Err(Refused::Closed(envelope, why)),
        };
        inner.accepted += 1;
        self.note_first(&inner);
        let receiver = if inner.queue.is_here() { inner.receiver.take() } else { None };
        self.carry_out(inner, steps);
        receiver.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// Accepts a message from another process for this incarnation.
    ///
    /// # Errors
    /// [`Refused::Moved`] if the incarnation does not receive any more, [`Refused::Full`] if there is no room.
    pub(super) fn receive(
        &self,
        envelope: BoxedEnvelope<W>,
        incarnation: u64,
    ) -> Result<(), Refused<BoxedEnvelope<W>>> {
        let mut inner = self.inner.lock();
        if !inner.queue.is_here() || inner.incarnation != incarnation {
            return Err(Refused::Moved(envelope));
        }
        if !inner.admits(Item::is_first(&envelope), self.capacity()) {
            return Err(Refused::Full(envelope));
        }
        inner.queue.deliver(envelope);
        self.queued(inner);
        Ok(())
    }

    /// Accepts an envelope for this incarnation in this process, whatever the room, from one that bounds its own.
    ///
    /// # Errors
    /// The envelope, if the incarnation does not receive here any more.
    pub(in crate::work) fn post_here(
        &self,
        envelope: BoxedEnvelope<W>,
        incarnation: u64,
    ) -> Result<(), BoxedEnvelope<W>> {
        let mut inner = self.inner.lock();
        if !inner.queue.is_here() || inner.is_over || inner.incarnation != incarnation {
            return Err(envelope);
        }
        inner.queue.deliver(envelope);
        self.queued(inner);
        Ok(())
    }

    fn offer(&self, envelope: BoxedEnvelope<W>) -> Offer<BoxedEnvelope<W>, SharedRoute> {
        let mut inner = self.inner.lock();
        let room = inner.admits(Item::is_first(&envelope), self.capacity());
        let offer = inner.queue.offer(envelope, room);
        match offer {
            Offer::Queued => self.queued(inner),
            Offer::Forward(..) => inner.accepted += 1,
            Offer::Wait(_) | Offer::Refused(..) => {}
        }
        offer
    }

    /// Lets the receiver know whether a message waits that is sent first. Called under the lock.
    fn note_first(&self, inner: &Inner<W>) {
        if inner.queue.has_first() {
            self.has_first.store(true, Ordering::Release);
        }
    }

    fn queued(&self, mut inner: MutexGuard<'_, Inner<W>>) {
        inner.accepted += 1;
        self.note_first(&inner);
        let receiver = if inner.queue.is_here() { inner.receiver.take() } else { None };
        drop(inner);
        if let Some(receiver) = receiver {
            receiver.wake();
        }
    }

    /// Requests the place of the Work for waiting messages, if it is unknown.
    fn want_place(&self) {
        if matches!(self.inner.lock().queue.place(), Place::Unknown) {
            self.want();
        }
    }

    /// Requests the place of the Work from the locator, if there is one.
    pub(crate) fn want(&self) {
        if let Some(locator) = &self.locator {
            locator.wanted();
        }
    }

    pub(crate) async fn send(
        &self,
        envelope: BoxedEnvelope<W>,
    ) -> Result<Delivery, Refused<Box<dyn AnyEnvelope>>> {
        let mut envelope = envelope;
        loop {
            let mut offer = self.offer(envelope);
            if let Offer::Wait(waits) = offer {
                self.want_place();
                offer = self.offer_when_there_is_room(waits, None).await;
            }
            match offer {
                Offer::Queued => return Ok(Delivery::Here),
                Offer::Refused(envelope, why) => return Err(Refused::Closed(envelope, why)),
                Offer::Wait(_) => unreachable!("the offer has waited for room"),
                Offer::Forward(forwarded, SharedRoute(route)) => match send_on(&*route, forwarded).await {
                    Err(Refused::Moved(refused)) => envelope = typed(refused),
                    sent => return sent,
                },
            }
        }
    }

    /// Accepts a message from another process for this incarnation, and waits for room.
    ///
    /// # Errors
    /// [`Refused::Moved`] if the incarnation does not receive any more.
    pub(super) async fn receive_when_there_is_room(
        &self,
        envelope: BoxedEnvelope<W>,
        incarnation: u64,
    ) -> Result<(), Refused<Box<dyn AnyEnvelope>>> {
        match self.offer_when_there_is_room(envelope, Some(incarnation)).await {
            Offer::Queued => Ok(()),
            Offer::Forward(envelope, _) | Offer::Wait(envelope) | Offer::Refused(envelope, _) => {
                Err(Refused::Moved(envelope))
            }
        }
    }

    /// Offers a message and waits for room. Returns [`Offer::Wait`] only for a message to an incarnation that does not
    /// receive any more.
    async fn offer_when_there_is_room(
        &self,
        envelope: BoxedEnvelope<W>,
        incarnation: Option<u64>,
    ) -> Offer<BoxedEnvelope<W>, SharedRoute> {
        let is_first = Item::is_first(&envelope);
        let mut envelope = Some(envelope);
        let mut turn = Turn { mailbox: self, ticket: None };
        poll_fn(|cx| {
            let mut inner = self.inner.lock();
            // The mailbox was closed and reopened since the last poll, so that this sender's ticket is void.
            if turn.ticket.is_some_and(|ticket| !inner.knows(ticket)) {
                turn.ticket = None;
            }
            let is_granted =
                |ticket| inner.senders.as_ref()?.granted.iter().position(|granted| *granted == ticket);
            let granted = turn.ticket.and_then(is_granted);
            let room = match (granted, turn.ticket) {
                (Some(_), _) => true,
                (None, Some(_)) => false,
                (None, None) => inner.admits(is_first, self.capacity()),
            };
            let message = envelope.take().expect("sent once");
            let offer = match incarnation {
                Some(wanted) if !inner.queue.is_here() || inner.incarnation != wanted => {
                    return Poll::Ready(Offer::Wait(message));
                }
                Some(_) if room => {
                    inner.queue.deliver(message);
                    Offer::Queued
                }
                Some(_) => Offer::Wait(message),
                None => inner.queue.offer(message, room),
            };
            match offer {
                Offer::Wait(waits) => envelope = Some(waits),
                offer => {
                    if let Some(granted) = granted {
                        inner.senders.get_or_insert_default().granted.swap_remove(granted);
                        turn.ticket = None;
                    }
                    match &offer {
                        Offer::Queued => self.queued(inner),
                        Offer::Forward(..) => inner.accepted += 1,
                        _ => {}
                    }
                    return Poll::Ready(offer);
                }
            }
            let senders = inner.senders.get_or_insert_default();
            if let Some(granted) = granted {
                senders.granted.swap_remove(granted);
                turn.ticket = None;
            }
            match turn.ticket.and_then(|ticket| senders.waiting.iter_mut().find(|w| w.ticket == ticket)) {
                Some(waiting) => waiting.waker.clone_from(cx.waker()),
                None => {
                    let ticket = senders.next_ticket;
                    senders.next_ticket = senders.next_ticket.wrapping_add(1);
                    let place = match is_first {
                        true => senders.waiting.iter().take_while(|waiting| waiting.is_first).count(),
                        false => senders.waiting.len(),
                    };
                    senders.waiting.insert(place, Waiting { ticket, is_first, waker: cx.waker().clone() });
                    turn.ticket = Some(ticket);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Sends a command, which the receiver takes before any message.
    pub(crate) fn command(&self, command: Command) {
        let mut inner = self.inner.lock();
        if let Some(to) = &inner.commands_to {
            let to = to.clone();
            drop(inner);
            return to.command(command);
        }
        inner.commands.push_back(command);
        self.commanded.store(true, Ordering::Release);
        let (receiver, listener) = (inner.receiver.take(), inner.listener.take());
        drop(inner);
        receiver.into_iter().chain(listener).for_each(Waker::wake);
    }

    /// Orders a run. Returns true if the receiver is parked and therefore begins at once: the caller then records the
    /// run as started, and no report of the start is sent, which spares both sides a wake-up.
    pub(crate) fn run(&self, mut order: Box<RunOrder>) -> bool {
        let announced = {
            let inner = self.inner.lock();
            inner.commands_to.is_none() && inner.receiver.is_some() && !inner.is_gathering
        };
        order.announced = announced;
        self.command(Command::Run(order));
        announced
    }

    /// Opens the mailbox for a new incarnation in this process and returns the number of the incarnation.
    pub(crate) fn open(&self) -> u64 {
        let mut inner = self.inner.lock();
        self.unpop(&mut inner);
        inner.commands_to = None;
        inner.commands.clear();
        inner.receiver = None;
        inner.listener = None;
        inner.incarnation += 1;
        inner.is_over = false;
        let incarnation = inner.incarnation;
        self.batch.lock().incarnation = incarnation;
        let watches = inner.watches.take();
        let steps = inner.queue.set_place(Place::Here);
        Self::keep_waiting_watches(&mut inner);
        self.carry_out(inner, steps);
        answer(watches, &End::of(EndKind::Killed));
        incarnation
    }

    /// Redirects commands to an incarnation that lives, or is being started, in another process.
    pub(crate) fn launched_elsewhere(&self, commands_to: Arc<dyn Commands>) {
        let mut inner = self.inner.lock();
        inner.commands_to = Some(commands_to);
        inner.commands.clear();
    }

    /// Sets the place of the Work.
    pub(crate) fn set_place(&self, place: Place<SharedRoute>) {
        self.change(|queue| queue.set_place(place));
    }

    pub(crate) fn place(&self) -> Place<SharedRoute> {
        self.inner.lock().queue.place().clone()
    }

    /// Refuses new messages and those that wait.
    pub(crate) fn close(&self, why: CloseReason) {
        self.set_place(Place::Closed(why));
    }

    /// Ends the receiving of this incarnation in this process, or of any incarnation for `None`: waiting messages from
    /// other processes are given back to them, the others wait for the next place of the Work. Does nothing if another
    /// incarnation receives.
    pub(crate) fn leave(&self, incarnation: Option<u64>) {
        let mut inner = self.inner.lock();
        if !inner.queue.is_here() || incarnation.is_some_and(|incarnation| incarnation != inner.incarnation) {
            return;
        }
        self.unpop(&mut inner);
        let away = inner.queue.take(|envelope| envelope.session().is_some());
        let steps = inner.queue.set_place(Place::Pending);
        self.carry_out(inner, steps);
        away.into_iter().for_each(|envelope| {
            envelope.settle(Outcome::Moved);
        });
    }

    /// Gives back the messages of a session with another process that no handler has begun.
    pub(crate) fn give_back(&self, session: u64) {
        let mut inner = self.inner.lock();
        self.unpop(&mut inner);
        let away = inner.queue.take(|envelope| envelope.session() == Some(session));
        let woken = inner.grant(self.capacity());
        drop(inner);
        woken.into_iter().for_each(Waker::wake);
        away.into_iter().for_each(|envelope| {
            envelope.settle(Outcome::Moved);
        });
    }

    /// Records that the incarnation at the end of this route has ended.
    pub(crate) fn left(&self, route: &SharedRoute) {
        self.change(|queue| queue.left(route));
    }

    /// Takes back a message from this route; no handler has begun it.
    pub(crate) fn returned(&self, route: &SharedRoute, envelope: Box<dyn AnyEnvelope>) {
        self.change(|queue| queue.returned(route, typed(envelope)));
        self.want_place();
    }

    /// Records that this route has given back all messages that were not begun.
    pub(crate) fn drained(&self, route: &SharedRoute) {
        self.change(|queue| queue.drained(route));
    }

    /// Stops forwarding along this route, which is about to be lost.
    pub(crate) fn stop(&self, route: &SharedRoute) {
        self.change(|queue| queue.stop(route));
    }

    /// Records that nothing arrives along this route any more.
    pub(crate) fn lost(&self, route: &SharedRoute, instead: Place<SharedRoute>) {
        self.change(|queue| queue.lost(route, instead));
    }

    /// Takes the next message to forward along this route.
    pub(crate) fn next(&self, route: &SharedRoute) -> Option<Box<dyn AnyEnvelope>> {
        let mut inner = self.inner.lock();
        let (message, steps) = inner.queue.next(route);
        let woken = inner.grant(self.capacity());
        self.carry_out(inner, steps);
        woken.into_iter().for_each(Waker::wake);
        message.map(|envelope| -> Box<dyn AnyEnvelope> { envelope })
    }

    /// Takes back a message that could not be sent along this route.
    pub(crate) fn put_back(&self, route: &SharedRoute, envelope: Box<dyn AnyEnvelope>) {
        self.change(|queue| queue.put_back(route, typed(envelope)));
    }

    fn change(&self, change: impl FnOnce(&mut Queue<BoxedEnvelope<W>, SharedRoute>) -> Steps<W>) {
        let mut inner = self.inner.lock();
        if inner.queue.is_here() {
            self.unpop(&mut inner);
        }
        let steps = change(&mut inner.queue);
        self.carry_out(inner, steps);
    }

    /// Returns the messages that the receiver has taken but not begun to the front of the queue.
    fn unpop(&self, inner: &mut Inner<W>) {
        let mut batch = self.batch.lock();
        inner.queue.unpop(&mut batch.messages);
        inner.taken = 0;
        self.has_batch.store(false, Ordering::Release);
    }

    /// Executes the steps of the queue.
    fn carry_out(&self, mut inner: MutexGuard<'_, Inner<W>>, steps: Steps<W>) {
        self.note_first(&inner);
        let leads_away =
            matches!(inner.queue.place(), Place::At(SharedRoute(route)) if !route.is_of_service());
        self.leads_away.store(leads_away, Ordering::Relaxed);
        let mut woken = Vec::new();
        let mut others = Vec::new();
        for step in steps {
            match step {
                Step::Wake => {
                    if let Some(senders) = &mut inner.senders {
                        senders.granted.clear();
                        woken.extend(senders.waiting.drain(..).map(|waiting| waiting.waker));
                    }
                    if inner.queue.is_here() && inner.queue.ready() > 0 {
                        woken.extend(inner.receiver.take());
                    }
                }
                other => others.push(other),
            }
        }
        drop(inner);
        for step in others {
            match step {
                Step::Drain(SharedRoute(route)) => route.drain(),
                Step::Pump(SharedRoute(route)) => route.pump(),
                Step::Refuse(messages, why) => {
                    let (reason, text) = why.of_dead_letters();
                    self.refuse(messages, why, reason, text);
                }
                Step::Wake => {}
            }
        }
        woken.into_iter().for_each(Waker::wake);
    }

    /// Gives a message back to the process from which it came, or reports why it can never be sent.
    pub(in crate::work) fn settle(&self, refused: Refused<Box<dyn AnyEnvelope>>) {
        let (envelope, outcome, why) = match refused {
            Refused::Full(envelope) | Refused::Closed(envelope, _) | Refused::Moved(envelope) => {
                (envelope, Outcome::Moved, "it cannot be given back".to_owned())
            }
            Refused::Unsendable(envelope, why) => {
                (envelope, Outcome::Unanswered(NoReply::Unreadable(why.clone())), why)
            }
        };
        let lost = envelope.lost();
        if envelope.settle(outcome) {
            report(&self.path(), DeadLetterReason::Unsendable, &why, [lost]);
        }
    }

    /// Returns the number of the incarnation that receives, or was the last to receive.
    pub(crate) fn incarnation(&self) -> u64 {
        self.inner.lock().incarnation
    }

    /// Returns the number of messages accepted or forwarded since the mailbox exists.
    pub(super) fn accepted(&self) -> u64 {
        self.inner.lock().accepted
    }

    /// Returns whether messages now go to another process.
    pub(super) fn leads_away(&self) -> bool {
        self.leads_away.load(Ordering::Relaxed)
    }

    /// Returns the number of messages that wait in this process or are in flight along the current route.
    pub(crate) fn depth(&self) -> usize {
        let inner = self.inner.lock();
        let away = match inner.queue.place() {
            Place::At(SharedRoute(route)) => Some(route.clone()),
            _ => None,
        };
        let here = inner.len();
        drop(inner);
        here + away.map_or(0, |route| route.depth())
    }
}

impl<W> Drop for Mailbox<W> {
    fn drop(&mut self) {
        let inner = self.inner.get_mut();
        let mut messages: VecDeque<_> = std::mem::take(&mut self.batch.get_mut().messages);
        messages.extend(inner.queue.clear());
        let text = "the last address of the Work in this process was dropped";
        self.refuse(messages, CloseReason::Stopped, DeadLetterReason::NoAddress, text);
    }
}

/// Restores the type of an envelope for this type of Work.
pub(in crate::work) fn typed<W: Work>(envelope: Box<dyn AnyEnvelope>) -> BoxedEnvelope<W> {
    *envelope
        .into_typed()
        .downcast()
        .unwrap_or_else(|_| unreachable!("a mailbox takes messages for one type of Work"))
}

/// Sends along a route. Tries first without waiting, because a future that waits costs an allocation.
async fn send_on(
    route: &dyn Route,
    envelope: Box<dyn AnyEnvelope>,
) -> Result<Delivery, Refused<Box<dyn AnyEnvelope>>> {
    match route.try_send(envelope) {
        Err(Refused::Full(envelope)) => route.send(envelope).await?,
        sent => sent?,
    }
    Ok(Delivery::Away)
}

/// A place in the queue of waiting senders; dropping it gives up the place.
struct Turn<'a, W: Work> {
    mailbox: &'a Mailbox<W>,
    ticket: Option<u32>,
}

impl<W: Work> Drop for Turn<'_, W> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let mut inner = self.mailbox.inner.lock();
        if let Some(senders) = &mut inner.senders {
            senders.waiting.retain(|waiting| waiting.ticket != ticket);
            senders.granted.retain(|granted| *granted != ticket);
        }
        let woken = inner.grant(self.mailbox.capacity());
        drop(inner);
        woken.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
#[path = "mailbox_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod exchange_tests;
