//! The messages of one mailbox and where they go: the pure core of addresses. No sockets, threads or clocks; what is to
//! be done comes out as [`Step`]s.
//!
//! A process has one mailbox for each Work that it hosts or has an address of. The mailbox either belongs to an incarnation
//! in this process, or forwards along a *route* to the process that hosts the Work. When the Work moves, the route is
//! *drained* first: it takes no more messages, and the process at its other end gives back those that no handler has
//! begun. Only then does the mailbox forward along the next route.
//!
//! # Guarantees
//! - A message is in one place: it waits here, was forwarded, or was given back to its sender.
//! - Messages of one sender keep their order across moves: what was given back goes before what waits, and nothing is
//!   forwarded along a new route before the old one is drained or lost.
//! - A route that has given a message back is not used again.
//! - A mailbox whose place is not known keeps its senders waiting; one whose Work is being started or moved takes as many
//!   messages as it has room for.
//!
//! The scheme is that of a forwarding address with a flush of the old channel before the new one is used, as in the
//! process migration of DEMOS/MP (Powell and Miller, 1983).

use std::collections::VecDeque;

use super::CloseReason;

/// The place of a Work, as far as this process knows it. `R` is a route to another process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place<R> {
    /// Not asked for yet, or not answered.
    Unknown,
    /// Being started, restarted or moved; another word on it will come.
    Pending,
    /// An incarnation in this process.
    Here,
    At(R),
    Closed(CloseReason),
}

/// A message, as far as the queue looks at it.
pub(crate) trait Item {
    /// Whether somebody waits for the answer and is better told at once that none will come.
    fn is_question(&self) -> bool;
}

/// What became of a message that was offered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Offer<M, R> {
    Queued,
    /// To be sent along this route at once.
    Forward(M, R),
    /// There is no room, or it is not known yet where to.
    Wait(M),
    Refused(M, CloseReason),
}

/// Something to be done outside.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step<M, R> {
    /// Stop using this route; [`Queue::drained`] follows when all that was not begun has been given back.
    Drain(R),
    /// Take messages with [`Queue::next`] and send them along this route, until there are none.
    Pump(R),
    /// Tell the senders of these messages.
    Refuse(Vec<M>, CloseReason),
    /// Have those that wait offer again.
    Wake,
}

#[derive(Debug)]
pub(crate) struct Queue<M, R> {
    place: Place<R>,
    used: Option<Used<R>>,
    messages: VecDeque<M>,
    /// Messages that the route in use has given back, until it is drained.
    returned: VecDeque<M>,
    /// Messages of this process for an incarnation here that go after those, and before what waits.
    held: VecDeque<M>,
}

/// A route along which messages have gone and may still be under way.
#[derive(Debug)]
struct Used<R> {
    route: R,
    draining: bool,
    drained: bool,
    /// Whether somebody takes messages with [`Queue::next`], and may have one in hand.
    pumping: bool,
}

impl CloseReason {
    /// Whether the Work is likely to run again without anybody doing anything: messages that were accepted wait for that.
    pub(crate) fn is_temporary(self) -> bool {
        matches!(self, Self::NotStarted | Self::Unplaced | Self::NodeLost)
    }
}

impl<M: Item, R: Clone + PartialEq> Queue<M, R> {
    pub(crate) fn new(place: Place<R>) -> Self {
        Self {
            place,
            used: None,
            messages: VecDeque::new(),
            returned: VecDeque::new(),
            held: VecDeque::new(),
        }
    }

    pub(crate) fn place(&self) -> &Place<R> {
        &self.place
    }

    pub(crate) fn is_here(&self) -> bool {
        matches!(self.place, Place::Here)
    }

    /// How many messages wait.
    pub(crate) fn len(&self) -> usize {
        self.messages.len() + self.returned.len() + self.held.len()
    }

    /// Offers a message from this process.
    pub(crate) fn offer(&mut self, message: M, room: bool) -> Offer<M, R> {
        match &self.place {
            Place::Closed(why) => return Offer::Refused(message, *why),
            Place::Unknown => return Offer::Wait(message),
            // What comes back was sent before this message.
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

    /// Takes a message from another process, for the incarnation here.
    pub(crate) fn deliver(&mut self, message: M) {
        self.messages.push_back(message);
    }

    /// Takes the next message out, for the incarnation here.
    pub(crate) fn pop(&mut self) -> Option<M> {
        self.messages.pop_front()
    }

    /// Takes the next `count` messages out, or all that there are.
    pub(crate) fn pop_into(&mut self, batch: &mut VecDeque<M>, count: usize) {
        if batch.is_empty() && count >= self.messages.len() {
            std::mem::swap(batch, &mut self.messages);
        } else {
            batch.extend(self.messages.drain(..count.min(self.messages.len())));
        }
    }

    /// How many messages the incarnation here would find.
    pub(crate) fn ready(&self) -> usize {
        self.messages.len()
    }

    /// Puts messages back that were taken out and not begun.
    pub(crate) fn unpop(&mut self, batch: &mut VecDeque<M>) {
        while let Some(message) = batch.pop_back() {
            self.messages.push_front(message);
        }
    }

    /// Takes out the waiting messages that `which` says.
    pub(crate) fn take(&mut self, which: impl Fn(&M) -> bool) -> Vec<M> {
        if !self.messages.iter().any(&which) {
            return Vec::new();
        }
        let (taken, stays) =
            std::mem::take(&mut self.messages).into_iter().partition(|message| which(message));
        self.messages = stays;
        taken.into()
    }

    /// Takes out those that `which` says of all messages that wait.
    pub(crate) fn take_waiting(&mut self, which: impl Fn(&M) -> bool) -> Vec<M> {
        let mut taken = Vec::new();
        for queue in [&mut self.returned, &mut self.held, &mut self.messages] {
            if queue.iter().any(&which) {
                let (out, stays) = std::mem::take(queue).into_iter().partition::<VecDeque<_>, _>(&which);
                *queue = stays;
                taken.extend(out);
            }
        }
        taken
    }

    /// The place is another one now.
    pub(crate) fn set_place(&mut self, place: Place<R>) -> Vec<Step<M, R>> {
        if place == Place::Here && !self.is_here() && self.used.is_some() {
            // What comes back was sent before these, which the incarnation would begin with.
            self.held.append(&mut self.messages);
        }
        self.place = place;
        self.settle()
    }

    /// The incarnation at the end of `route` is over. Another word on the place will come.
    pub(crate) fn left(&mut self, route: &R) -> Vec<Step<M, R>> {
        if self.place != Place::At(route.clone()) {
            return Vec::new();
        }
        self.set_place(Place::Pending)
    }

    /// A message comes back along a route; no handler has begun it.
    pub(crate) fn returned(&mut self, route: &R, message: M) -> Vec<Step<M, R>> {
        self.returned.push_back(message);
        if self.place == Place::At(route.clone()) {
            self.place = Place::Pending;
        }
        self.settle()
    }

    /// All that was not begun has come back along a route.
    pub(crate) fn drained(&mut self, route: &R) -> Vec<Step<M, R>> {
        match &mut self.used {
            Some(used) if used.route == *route => used.drained = true,
            _ => return Vec::new(),
        }
        self.settle()
    }

    /// Sends no more along a route, which is about to be lost; what it gives back comes first.
    pub(crate) fn stop(&mut self, route: &R) -> Vec<Step<M, R>> {
        if let Some(used) = self.used.as_mut().filter(|used| used.route == *route) {
            used.draining = true;
        }
        Vec::new()
    }

    /// Nothing comes along a route any more. The Work is `instead` there, unless another word on its place has come.
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

    /// The next message to be sent along `route`; when there is none the pump ends.
    pub(crate) fn next(&mut self, route: &R) -> (Option<M>, Vec<Step<M, R>>) {
        let Some(used) = self.used.as_mut().filter(|used| used.route == *route) else {
            return (None, Vec::new());
        };
        let message = if used.draining { None } else { self.messages.pop_front() };
        used.pumping = message.is_some();
        let steps = if message.is_some() { Vec::new() } else { self.settle() };
        (message, steps)
    }

    /// The pump could not send this message, and ends.
    pub(crate) fn put_back(&mut self, route: &R, message: M) -> Vec<Step<M, R>> {
        self.messages.push_front(message);
        if let Some(used) = self.used.as_mut().filter(|used| used.route == *route) {
            used.pumping = false;
        }
        self.settle()
    }

    /// Empties it.
    pub(crate) fn clear(&mut self) -> Vec<M> {
        let mut all = std::mem::take(&mut self.returned);
        all.append(&mut self.held);
        all.append(&mut self.messages);
        all.into()
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
            let mut first = std::mem::take(&mut self.returned);
            first.append(&mut self.held);
            self.unpop(&mut first);
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
                    let (refused, kept): (VecDeque<_>, VecDeque<_>) =
                        all.into_iter().partition(|message| !why.is_temporary() || message.is_question());
                    self.messages = kept;
                    if !refused.is_empty() {
                        steps.push(Step::Refuse(refused.into(), why));
                    }
                }
                Place::Unknown | Place::Pending | Place::Here => {}
            }
        }
        steps.push(Step::Wake);
        steps
    }
}
