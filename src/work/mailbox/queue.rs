//! The messages of one mailbox and their destination: the pure core of addresses. No sockets, threads or clocks;
//! actions for the mailbox are returned as [`Step`]s.
//!
//! A process has one mailbox for each Work that it hosts or has an address of. The mailbox either belongs to an
//! incarnation in this process, or forwards along a *route* to the process that hosts the Work. When the Work moves,
//! the route is *drained* first: it takes no more messages, and the process at its other end gives back the messages
//! that no handler has begun. Only then does the mailbox forward along the next route.
//!
//! # Guarantees
//! - Each message is in one place: it waits here, was forwarded, or was given back to its sender.
//! - Messages of one sender keep their order across moves: returned messages go before waiting ones, and nothing is
//!   forwarded along a new route before the old route is drained or lost.
//! - Messages that are sent first (`tell_first`) go before the others wherever these wait here, and keep their order among
//!   themselves.
//! - A route that has given a message back is not used again.
//! - While the place of the Work is unknown, senders wait; while the Work is being started or moved, the mailbox
//!   accepts messages up to its capacity.
//!
//! The scheme is that of a forwarding address with a flush of the old channel before the new one is used, as in the
//! process migration of DEMOS/MP (Powell and Miller, 1983).

use std::collections::VecDeque;

use super::CloseReason;
use super::lanes::{Item, Lanes};

/// The place of a Work as known to this process. `R` is a route to another process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place<R> {
    /// Not requested yet, or not answered.
    Unknown,
    /// Being started, restarted or moved; the place will be set again.
    Pending,
    /// An incarnation in this process.
    Here,
    At(R),
    Closed(CloseReason),
}

/// Result of offering a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Offer<M, R> {
    Queued,
    /// The message is to be sent along this route at once.
    Forward(M, R),
    /// The mailbox is full, or the place of the Work is unknown.
    Wait(M),
    Refused(M, CloseReason),
}

/// Action that the mailbox executes after a change of the queue.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step<M, R> {
    /// Stop using this route; [`Queue::drained`] follows when all messages that were not begun have been given back.
    Drain(R),
    /// Take messages with [`Queue::next`] and send them along this route, until there are none.
    Pump(R),
    /// Notify the senders of these messages.
    Refuse(Vec<M>, CloseReason),
    /// Wake the waiting senders, which then offer their messages again.
    Wake,
}

#[derive(Debug)]
pub(crate) struct Queue<M, R> {
    place: Place<R>,
    used: Option<Used<R>>,
    messages: Lanes<M>,
    /// Boxed while a route is drained, to keep other mailboxes small.
    behind: Option<Box<Behind<M>>>,
}

/// Messages that wait until a route is drained, and then go before the others.
#[derive(Debug)]
struct Behind<M> {
    /// Messages given back by the route.
    returned: Lanes<M>,
    /// Messages from this process for an incarnation here, which go after the returned ones.
    held: Lanes<M>,
}

impl<M> Default for Behind<M> {
    fn default() -> Self {
        Self { returned: Lanes::default(), held: Lanes::default() }
    }
}

/// A route along which messages have been sent and may still be in flight.
#[derive(Debug)]
struct Used<R> {
    route: R,
    draining: bool,
    drained: bool,
    /// True while a pump takes messages with [`Queue::next`]; it may have taken one that is not sent yet.
    pumping: bool,
}

impl CloseReason {
    /// Returns true if the Work is expected to run again without further action; accepted tells wait for that.
    pub(crate) fn is_temporary(self) -> bool {
        matches!(self, Self::NotStarted | Self::Unplaced | Self::NodeLost)
    }
}

impl<M: Item, R: Clone + PartialEq> Queue<M, R> {
    pub(crate) fn new(place: Place<R>) -> Self {
        Self { place, used: None, messages: Lanes::default(), behind: None }
    }

    pub(crate) fn place(&self) -> &Place<R> {
        &self.place
    }

    pub(crate) fn is_here(&self) -> bool {
        matches!(self.place, Place::Here)
    }

    /// Returns the number of waiting messages.
    pub(crate) fn len(&self) -> usize {
        let behind = self.behind.as_ref().map_or(0, |behind| behind.returned.len() + behind.held.len());
        self.messages.len() + behind
    }

    /// Offers a message from this process; `room` is true if the mailbox has room for it.
    pub(crate) fn offer(&mut self, message: M, room: bool) -> Offer<M, R> {
        match &self.place {
            Place::Closed(why) => return Offer::Refused(message, *why),
            Place::Unknown => return Offer::Wait(message),
            // Messages that the old route gives back were sent before this one.
            Place::Here if self.used.is_some() => return Offer::Wait(message),
            Place::At(_) => {
                if let Some(used) = &self.used
                    && !used.draining
                    && !used.pumping
                    && self.messages.is_empty()
                {
                    return Offer::Forward(message, used.route.clone());
                }
            }
            Place::Pending | Place::Here => {}
        }
        if !room {
            return Offer::Wait(message);
        }
        self.messages.push_back(message);
        Offer::Queued
    }

    /// Accepts a message whatever the room, behind those that wait.
    ///
    /// # Errors
    /// Returns the message if the mailbox is closed, with the reason.
    pub(crate) fn post(&mut self, message: M) -> Result<Vec<Step<M, R>>, (M, CloseReason)> {
        if let Place::Closed(why) = &self.place {
            return Err((message, *why));
        }
        // Behind messages that the old route gives back, those from this process wait apart.
        let is_behind = self.is_here() && self.used.is_some();
        if is_behind {
            self.behind.get_or_insert_default().held.push_back(message)
        } else {
            self.messages.push_back(message)
        }
        if let (Place::At(route), Some(used)) = (&self.place, &mut self.used)
            && used.route == *route
            && !used.draining
            && !used.pumping
        {
            used.pumping = true;
            return Ok(vec![Step::Pump(used.route.clone())]);
        }
        Ok(Vec::new())
    }

    /// Returns the routes along which messages are in flight: the one to the place of the Work, and one that is being
    /// drained.
    pub(crate) fn routes(&self) -> impl Iterator<Item = &R> {
        let to_place = match &self.place {
            Place::At(route) => Some(route),
            _ => None,
        };
        let drained = self.used.as_ref().map(|used| &used.route).filter(|route| Some(*route) != to_place);
        to_place.into_iter().chain(drained)
    }

    /// Appends a message from another process, for the incarnation here.
    pub(crate) fn deliver(&mut self, message: M) {
        self.messages.push_back(message);
    }

    /// Returns the next message for the incarnation here.
    pub(crate) fn front(&self) -> Option<&M> {
        self.messages.front()
    }

    /// Takes the next message, for the incarnation here.
    pub(crate) fn pop(&mut self) -> Option<M> {
        self.messages.pop_front()
    }

    /// Moves the next `count` messages that are not sent first to `batch`, or all if there are fewer.
    pub(crate) fn pop_into(&mut self, batch: &mut VecDeque<M>, count: usize) {
        self.messages.pop_others_into(batch, count);
    }

    /// Returns true if a message that is sent first waits for the incarnation here.
    pub(crate) fn has_first(&self) -> bool {
        self.is_here() && self.messages.has_first()
    }

    /// Returns the number of messages for [`pop_into`](Self::pop_into).
    pub(crate) fn ready_for_batch(&self) -> usize {
        self.messages.others()
    }

    /// Returns the number of messages that the incarnation here can take.
    pub(crate) fn ready(&self) -> usize {
        self.messages.len()
    }

    /// Returns the messages of a batch, which were not begun, to the front.
    pub(crate) fn unpop(&mut self, batch: &mut VecDeque<M>) {
        while let Some(message) = batch.pop_back() {
            self.messages.push_front(message);
        }
    }

    /// Removes the messages for the incarnation here for which `which` is true.
    pub(crate) fn take(&mut self, which: impl Fn(&M) -> bool) -> Vec<M> {
        self.messages.take(which)
    }

    /// Returns true if `which` is true for a waiting message, returned ones included.
    pub(crate) fn has(&self, which: impl Fn(&M) -> bool) -> bool {
        let behind = self.behind.iter().flat_map(|behind| [&behind.returned, &behind.held]);
        behind.chain([&self.messages]).any(|queue| queue.has(&which))
    }

    /// Removes all waiting messages for which `which` is true, including returned ones.
    pub(crate) fn take_waiting(&mut self, which: impl Fn(&M) -> bool) -> Vec<M> {
        let behind = self.behind.iter_mut().flat_map(|behind| {
            let Behind { returned, held } = &mut **behind;
            [returned, held]
        });
        behind.chain([&mut self.messages]).flat_map(|queue| queue.take(&which)).collect()
    }

    /// Sets the place of the Work.
    pub(crate) fn set_place(&mut self, place: Place<R>) -> Vec<Step<M, R>> {
        if place == Place::Here && !self.is_here() && self.used.is_some() {
            // Messages that the old route gives back were sent before these, so the incarnation must not begin with
            // these.
            self.behind.get_or_insert_default().held.append(&mut self.messages);
        }
        self.place = place;
        self.settle()
    }

    /// Records that the incarnation at the end of `route` has ended. The place will be set again.
    pub(crate) fn left(&mut self, route: &R) -> Vec<Step<M, R>> {
        if self.place != Place::At(route.clone()) {
            return Vec::new();
        }
        self.set_place(Place::Pending)
    }

    /// Takes back a message from a route; no handler has begun it.
    pub(crate) fn returned(&mut self, route: &R, message: M) -> Vec<Step<M, R>> {
        self.behind.get_or_insert_default().returned.push_back(message);
        if self.place == Place::At(route.clone()) {
            self.place = Place::Pending;
        }
        self.settle()
    }

    /// Records that a route has given back all messages that were not begun.
    pub(crate) fn drained(&mut self, route: &R) -> Vec<Step<M, R>> {
        match &mut self.used {
            Some(used) if used.route == *route => used.drained = true,
            _ => return Vec::new(),
        }
        self.settle()
    }

    /// Stops forwarding along a route that is about to be lost. Messages that it gives back keep their place at the
    /// front.
    pub(crate) fn stop(&mut self, route: &R) -> Vec<Step<M, R>> {
        if let Some(used) = self.used.as_mut().filter(|used| used.route == *route) {
            used.draining = true;
        }
        Vec::new()
    }

    /// Records that nothing arrives along a route any more. The place becomes `instead` unless it has been set to
    /// another since.
    pub(crate) fn lost(&mut self, route: &R, instead: Place<R>) -> Vec<Step<M, R>> {
        let was_used = self.used.as_ref().is_some_and(|used| used.route == *route);
        if self.place == Place::At(route.clone()) || was_used && self.place == Place::Pending {
            self.place = instead;
        }
        if let Some(used) = self.used.as_mut().filter(|used| used.route == *route) {
            (used.draining, used.drained) = (true, true);
        }
        self.settle()
    }

    /// Takes the next message to forward along `route`; the pump ends when there is none.
    pub(crate) fn next(&mut self, route: &R) -> (Option<M>, Vec<Step<M, R>>) {
        let Some(used) = self.used.as_mut().filter(|used| used.route == *route) else {
            return (None, Vec::new());
        };
        let message = if used.draining { None } else { self.messages.pop_front() };
        used.pumping = message.is_some();
        let steps = if message.is_some() { Vec::new() } else { self.settle() };
        (message, steps)
    }

    /// Takes back a message that the pump could not send; the pump has ended.
    pub(crate) fn put_back(&mut self, route: &R, message: M) -> Vec<Step<M, R>> {
        self.messages.push_front(message);
        if let Some(used) = self.used.as_mut().filter(|used| used.route == *route) {
            used.pumping = false;
        }
        self.settle()
    }

    /// Removes and returns all messages.
    pub(crate) fn clear(&mut self) -> Vec<M> {
        self.end_drain();
        std::mem::take(&mut self.messages).into_iter().collect()
    }

    /// Moves the messages that have waited for the end of a drain before the others.
    fn end_drain(&mut self) {
        if let Some(behind) = self.behind.take() {
            let Behind { mut returned, mut held } = *behind;
            returned.append(&mut held);
            self.messages.prepend(returned);
        }
    }

    fn settle(&mut self) -> Vec<Step<M, R>> {
        let mut steps = Vec::new();
        if let Some(used) = &mut self.used {
            let is_right = matches!(&self.place, Place::At(route) if *route == used.route);
            if !is_right && !used.draining {
                used.draining = true;
                steps.push(Step::Drain(used.route.clone()));
            }
            if used.drained && !used.pumping {
                self.used = None;
            }
        }
        if self.used.is_none() {
            self.end_drain();
            match &self.place {
                Place::At(route) => {
                    let pumping = !self.messages.is_empty();
                    if pumping {
                        steps.push(Step::Pump(route.clone()));
                    }
                    self.used = Some(Used { route: route.clone(), draining: false, drained: false, pumping });
                }
                Place::Closed(why) => {
                    let why = *why;
                    let all = std::mem::take(&mut self.messages);
                    let (refused, kept): (Vec<_>, Vec<_>) =
                        all.into_iter().partition(|message| !why.is_temporary() || message.is_question());
                    self.messages = kept.into_iter().collect();
                    if !refused.is_empty() {
                        steps.push(Step::Refuse(refused, why));
                    }
                }
                Place::Unknown | Place::Pending | Place::Here => {}
            }
        }
        steps.push(Step::Wake);
        steps
    }
}
