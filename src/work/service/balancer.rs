//! The balancer of a service: the route along which the mailbox of the service forwards each message to a replica.
//!
//! # Guarantees
//! - Those of the module `dispatch`, with the mailboxes of replicas: a message that no handler has begun when its replica
//!   stops, or is found not to run, goes to another one. One that a lost process or node may have begun does not: its
//!   caller is told so.
//! - At most `capacity` messages wait here; senders wait for room in the order in which they asked for it.
//! - A message has one replica at a time, so that no message is handled twice.

use std::sync::{Arc, Weak};

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::dispatch::{Dispatch, Handed, Offered, ReplicaId};
use super::routed::{Dispatcher, Routed};
use super::routing::Routing;
use super::{Change, InRotation, ServiceLoad};
use crate::id::{ActorPath, IdMap};
use crate::work::Work;
use crate::work::dead_letters::{DeadLetterReason, Lost, report, report_abandoned};
use crate::work::end::{End, EndKind};
use crate::work::envelope::{AnyEnvelope, BoxedEnvelope, NoReply, Outcome};
use crate::work::mailbox::{CloseReason, Mailbox, Refused, typed};
use crate::work::route::{Route, SharedRoute};
use crate::work::watch::{WATCH, Watch};

pub(super) struct Balancer<W> {
    me: Weak<Self>,
    path: ActorPath,
    /// The mailbox of the service.
    mailbox: Weak<Mailbox<W>>,
    routing: Routing,
    room: Arc<Semaphore>,
    state: Mutex<State<W>>,
    changed: Change,
}

struct State<W> {
    dispatch: Dispatch<Message<W>>,
    replicas: IdMap<ReplicaId, Replica<W>>,
    watches: Vec<Watch<W>>,
    is_closed: bool,
    /// Number of messages, waiting or with replicas, beyond which `changed` is called once.
    alarm: usize,
    /// Largest number of messages since it was asked for.
    peak: usize,
}

struct Replica<W> {
    mailbox: Arc<Mailbox<W>>,
    version: u64,
    is_in_rotation: bool,
}

/// A message that waits for a replica.
struct Message<W> {
    envelope: BoxedEnvelope<W>,
    key: Option<u64>,
    /// Its place among those that wait.
    room: Option<OwnedSemaphorePermit>,
}

type Sent = Result<(), Refused<Box<dyn AnyEnvelope>>>;

impl<W: Work> Balancer<W> {
    pub(super) fn new(
        path: ActorPath,
        mailbox: &Arc<Mailbox<W>>,
        routing: Routing,
        capacity: usize,
        changed: Change,
    ) -> Arc<Self> {
        let state = State {
            dispatch: Dispatch::new(routing.is_in_turn()),
            replicas: IdMap::default(),
            watches: Vec::new(),
            is_closed: false,
            alarm: usize::MAX,
            peak: 0,
        };
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            path,
            mailbox: Arc::downgrade(mailbox),
            routing,
            room: Arc::new(Semaphore::new(capacity.clamp(1, Semaphore::MAX_PERMITS))),
            state: Mutex::new(state),
            changed,
        })
    }

    /// Replaces the rotation, in which each replica has at most `in_flight` messages at a time. Replicas that leave finish
    /// what they have.
    pub(super) fn rotate(&self, rotation: Vec<InRotation<W>>, in_flight: usize) {
        let mut state = self.state.lock();
        state.replicas.values_mut().for_each(|replica| replica.is_in_rotation = false);
        let limits: Vec<_> = rotation.iter().map(|replica| (replica.id, in_flight)).collect();
        for InRotation { id, addr, version } in rotation {
            let Some(mailbox) = addr.mailbox().cloned() else { continue };
            state.replicas.insert(id, Replica { mailbox, version, is_in_rotation: true });
        }
        let handed = state.dispatch.rotate(&limits);
        state.forget_idle();
        drop(state);
        self.carry_out(handed);
    }

    /// Returns the number of messages that this replica has.
    pub(super) fn taken_by(&self, id: ReplicaId) -> usize {
        self.state.lock().dispatch.taken_by(id)
    }

    /// Counts the messages, waiting and with replicas.
    pub(super) fn load(&self) -> ServiceLoad {
        let state = self.state.lock();
        ServiceLoad { waiting: state.dispatch.waiting(), handed: state.dispatch.handed() }
    }

    /// Returns the largest number of messages, waiting or with replicas, since the last call. Has `changed` called when
    /// there are more than `alarm`, once.
    pub(super) fn peak(&self, alarm: usize) -> usize {
        let mut state = self.state.lock();
        let now = state.dispatch.waiting() + state.dispatch.taken();
        state.alarm = alarm;
        let is_high = now > alarm;
        let peak = std::mem::replace(&mut state.peak, now).max(now);
        if is_high {
            state.alarm = usize::MAX;
        }
        peak
    }

    /// Refuses the waiting messages and all others.
    pub(super) fn close(&self, why: CloseReason) {
        let mut state = self.state.lock();
        state.is_closed = true;
        let handed = state.dispatch.close(why);
        let watches = std::mem::take(&mut state.watches);
        let replicas = std::mem::take(&mut state.replicas);
        drop(state);
        drop(replicas);
        self.carry_out(handed);
        watches.into_iter().for_each(|watch| Box::new(watch).answer(&End::of(EndKind::Stopped)));
    }

    fn carry_out(&self, handed: Handed<Message<W>>) {
        let mut all = vec![handed];
        while let Some(Handed { hand, refuse }) = all.pop() {
            for (message, why) in refuse {
                self.refuse(message.envelope, why);
            }
            for (id, message) in hand {
                match self.hand(id, message) {
                    Ok(()) => {}
                    Err(NotHanded::Again(handed)) => all.push(handed),
                    Err(NotHanded::Unsendable(envelope, why)) => {
                        self.unsendable(envelope, why);
                        let mut state = self.state.lock();
                        all.push(state.dispatch.released(id));
                    }
                }
            }
        }
    }

    /// Refuses a message.
    fn refuse(&self, envelope: BoxedEnvelope<W>, why: CloseReason) {
        let lost = AnyEnvelope::lost(&*envelope);
        if AnyEnvelope::settle(envelope, Outcome::Unanswered(NoReply::Refused(why))) {
            let (reason, text) = why.of_dead_letters();
            self.lost(reason, text, lost);
        }
    }

    /// Gives up a message that cannot be sent to the process of its replica.
    fn unsendable(&self, envelope: BoxedEnvelope<W>, why: String) {
        let lost = AnyEnvelope::lost(&*envelope);
        if AnyEnvelope::settle(envelope, Outcome::Unanswered(NoReply::Unreadable(why.clone()))) {
            self.lost(DeadLetterReason::Unsendable, &why, lost);
        }
    }

    /// Sends a message to the replica to which it was handed.
    fn hand(&self, id: ReplicaId, message: Message<W>) -> Result<(), NotHanded<W>> {
        let Message { envelope, key, room } = message;
        drop(room);
        let again = |why, envelope| {
            let message = Message { envelope, key, room: None };
            NotHanded::Again(self.state.lock().dispatch.refused(id, why, message, key))
        };
        let replica =
            self.state.lock().replicas.get(&id).map(|replica| (replica.mailbox.clone(), replica.version));
        let (Some((mailbox, version)), Some(me)) = (replica, self.me.upgrade()) else {
            return Err(again(CloseReason::Stopped, envelope));
        };
        envelope.served_by(version);
        let sent = match mailbox.try_send(Box::new(Routed::new(envelope, me, id))) {
            Err(Refused::Full(envelope)) => mailbox.post(typed(envelope)),
            sent => sent,
        };
        let Err(refused) = sent else { return Ok(()) };
        let inner = |envelope: Box<dyn AnyEnvelope>| {
            let routed = envelope.into_routed().and_then(|routed| routed.downcast::<Routed<W>>().ok());
            routed.unwrap_or_else(|| unreachable!("the message that was sent")).into_inner()
        };
        Err(match refused {
            Refused::Closed(envelope, why) => again(why, inner(envelope)),
            Refused::Moved(envelope) | Refused::Full(envelope) => {
                again(CloseReason::NotStarted, inner(envelope))
            }
            Refused::Unsendable(envelope, why) => NotHanded::Unsendable(inner(envelope), why),
        })
    }

    /// Accepts a message. `room` is a place among those that wait, if it has been waited for.
    fn offer(
        &self,
        envelope: BoxedEnvelope<W>,
        room: Option<OwnedSemaphorePermit>,
    ) -> Result<(), NotSent<W>> {
        let key = self.routing.key(&*envelope);
        let mut state = self.state.lock();
        let message = Message { envelope, key, room };
        let (id, message) = match state.dispatch.offer(message, key) {
            Offered::Hand(id, message) => (id, message),
            Offered::Refused(message, why) => return Err(NotSent::Closed(message.envelope, why)),
            Offered::Wait(mut message) => {
                if message.room.is_none() {
                    match self.room.clone().try_acquire_owned() {
                        Ok(room) => message.room = Some(room),
                        Err(_) => return Err(NotSent::Full(message.envelope)),
                    }
                }
                let is_first = AnyEnvelope::is_first(&*message.envelope);
                state.dispatch.enqueue(message, key, is_first);
                let is_alarm = state.note_peak();
                drop(state);
                if is_alarm {
                    (self.changed)();
                }
                return Ok(());
            }
        };
        let is_alarm = state.note_peak();
        drop(state);
        let sent = match self.hand(id, message) {
            Ok(()) => Ok(()),
            Err(NotHanded::Again(handed)) => {
                self.carry_out(handed);
                Ok(())
            }
            Err(NotHanded::Unsendable(envelope, why)) => {
                self.released(id);
                Err(NotSent::Unsendable(envelope, why))
            }
        };
        if is_alarm {
            (self.changed)();
        }
        sent
    }

    /// Keeps a watch until the service ends. A watch on a service is none on a replica.
    fn keep_watch(&self, envelope: Box<dyn AnyEnvelope>) -> Sent {
        let Ok(mut watch) = envelope.into_any().downcast::<Watch<W>>() else { return Ok(()) };
        let mut state = self.state.lock();
        if state.is_closed {
            return Err(Refused::Closed(watch, CloseReason::Stopped));
        }
        watch.keep();
        state.watches.push(*watch);
        Ok(())
    }
}

impl<W: Work> Dispatcher<W> for Balancer<W> {
    fn released(&self, id: ReplicaId) {
        let mut state = self.state.lock();
        let handed = state.dispatch.released(id);
        let is_drained = state.is_drained(id);
        state.forget_idle();
        drop(state);
        self.carry_out(handed);
        if is_drained {
            (self.changed)();
        }
    }

    fn came_back(&self, id: ReplicaId, envelope: BoxedEnvelope<W>, why: CloseReason) {
        let key = self.routing.key(&*envelope);
        let message = Message { envelope, key, room: None };
        let mut state = self.state.lock();
        let handed = state.dispatch.refused(id, why, message, key);
        let is_drained = state.is_drained(id);
        state.forget_idle();
        drop(state);
        self.carry_out(handed);
        if is_drained {
            (self.changed)();
        }
    }

    fn lost(&self, reason: DeadLetterReason, why: &str, lost: Lost<'static>) {
        report(&self.path, reason, why, [lost]);
    }
}

/// The reason why a message has not gone to its replica.
enum NotHanded<W> {
    /// It waits for another one, and these are the consequences.
    Again(Handed<Message<W>>),
    Unsendable(BoxedEnvelope<W>, String),
}

enum NotSent<W> {
    Full(BoxedEnvelope<W>),
    Closed(BoxedEnvelope<W>, CloseReason),
    Unsendable(BoxedEnvelope<W>, String),
}

impl<W: Work> NotSent<W> {
    fn refused(self) -> Refused<Box<dyn AnyEnvelope>> {
        match self {
            Self::Full(envelope) => Refused::Full(envelope),
            Self::Closed(envelope, why) => Refused::Closed(envelope, why),
            Self::Unsendable(envelope, why) => Refused::Unsendable(envelope, why),
        }
    }
}

impl<W> State<W> {
    fn is_drained(&self, id: ReplicaId) -> bool {
        let has_left = self.replicas.get(&id).is_some_and(|replica| !replica.is_in_rotation);
        has_left && self.dispatch.taken_by(id) == 0
    }

    fn forget_idle(&mut self) {
        let dispatch = &self.dispatch;
        self.replicas.retain(|id, replica| replica.is_in_rotation || dispatch.taken_by(*id) > 0);
    }

    /// Notes the number of messages. Returns true if it has exceeded the alarm.
    fn note_peak(&mut self) -> bool {
        let now = self.dispatch.waiting() + self.dispatch.taken();
        self.peak = self.peak.max(now);
        let is_alarm = now > self.alarm;
        if is_alarm {
            self.alarm = usize::MAX;
        }
        is_alarm
    }
}

impl<W: Work> Route for Balancer<W> {
    fn try_send(&self, envelope: Box<dyn AnyEnvelope>) -> Sent {
        if envelope.name() == WATCH {
            return self.keep_watch(envelope);
        }
        self.offer(typed(envelope), None).map_err(NotSent::refused)
    }

    fn send<'a>(&'a self, envelope: Box<dyn AnyEnvelope>) -> BoxFuture<'a, Sent> {
        async move {
            if envelope.name() == WATCH {
                return self.keep_watch(envelope);
            }
            // It is never closed: a service that ends gives its waiting messages back, and thereby their room.
            let room = self.room.clone().acquire_owned().await.ok();
            self.offer(typed(envelope), room).map_err(NotSent::refused)
        }
        .boxed()
    }

    fn drain(self: Arc<Self>) {
        self.close(CloseReason::Stopped);
        let route = SharedRoute(self.clone());
        if let Some(mailbox) = self.mailbox.upgrade() {
            mailbox.drained(&route);
        }
    }

    fn pump(self: Arc<Self>) {
        let route = SharedRoute(self.clone());
        let Some(mailbox) = self.mailbox.upgrade() else { return };
        while let Some(envelope) = mailbox.next(&route) {
            if let Err(refused) = self.try_send(envelope) {
                let (Refused::Full(envelope)
                | Refused::Closed(envelope, _)
                | Refused::Moved(envelope)
                | Refused::Unsendable(envelope, _)) = refused;
                self.refuse(typed(envelope), CloseReason::Stopped);
            }
        }
    }

    fn withdraw_abandoned(&self) {
        let mut state = self.state.lock();
        let dropped = state.dispatch.take_waiting(|message| AnyEnvelope::is_abandoned(&*message.envelope));
        let watches: Vec<_> = state.watches.extract_if(.., |watch| watch.is_abandoned()).collect();
        let with_messages = state.replicas.iter().filter(|(id, _)| state.dispatch.taken_by(**id) > 0);
        let mailboxes: Vec<_> = with_messages.map(|(_, replica)| replica.mailbox.clone()).collect();
        drop(state);
        report_abandoned(&self.path, dropped.iter().map(|message| AnyEnvelope::lost(&*message.envelope)));
        // Outside of the lock, because `Drop` of a message is a user's code.
        drop(dropped);
        drop(watches);
        mailboxes.iter().for_each(|mailbox| mailbox.drop_abandoned());
    }

    fn is_relayed(&self) -> bool {
        false
    }

    fn is_of_service(&self) -> bool {
        true
    }

    #[cfg(feature = "remote")]
    fn is_lost(&self) -> bool {
        false
    }

    fn depth(&self) -> usize {
        let state = self.state.lock();
        state.dispatch.waiting() + state.dispatch.taken()
    }
}
