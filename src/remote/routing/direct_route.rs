//! The route to one incarnation of a Work in another process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::super::bridge::Bridge;
use super::super::link::{Channel, ChannelUser, Link, Target};
use super::super::lost_messages::{lose, refuse_without_address};
use super::super::uplink::Uplink;
use crate::id::ActorPath;
use crate::wire;
use crate::work::{
    AnyEnvelope, AnyMailbox, DeadLetterReason, Lost, NoReply, Outcome, Place, Refused, Route, SharedRoute,
    Stamp, WATCH, WorkType,
};

type Sent = Result<(), Refused<Box<dyn AnyEnvelope>>>;

/// The mailbox at which a route starts and the incarnation at which it ends.
pub(in crate::remote) struct Ends {
    pub(in crate::remote) mailbox: Weak<dyn AnyMailbox>,
    pub(in crate::remote) path: ActorPath,
    pub(in crate::remote) kind: &'static WorkType,
    pub(in crate::remote) incarnation: u64,
    /// True if the head is to forward the messages to wherever the Work runs.
    pub(in crate::remote) is_relayed: bool,
}

/// The fallback by way of the head, which reaches every node.
pub(in crate::remote) struct Relay {
    pub(in crate::remote) head: Arc<Uplink>,
    /// Set once a message was relayed; shared with the [`Forwarder`](super::Forwarder), which then keeps to the relay.
    pub(in crate::remote) is_used: Arc<AtomicBool>,
}

pub(in crate::remote) struct DirectRoute {
    me: Weak<DirectRoute>,
    bridge: Weak<Bridge>,
    ends: Ends,
    /// The session with the process of the incarnation, begun when the first message is sent.
    link: OnceLock<Arc<Link>>,
    begin: Box<dyn Fn() -> Option<Arc<Link>> + Send + Sync>,
    /// The relay to switch to when the session is lost although the incarnation may still be alive.
    relay: Option<Relay>,
    state: Mutex<RouteState>,
}

#[derive(Default)]
struct RouteState {
    /// The channels, one for each type of message, and another one for those that go first. A vector, since there are few.
    channels: Vec<((&'static str, bool), Arc<Channel>)>,
    is_shut: bool,
    /// The number of channels that the other end has not drained yet.
    undrained: usize,
    is_drained: bool,
    when_drained: Option<Box<dyn FnOnce() + Send>>,
}

impl DirectRoute {
    pub(in crate::remote) fn new(
        bridge: Weak<Bridge>,
        ends: Ends,
        relay: Option<Relay>,
        begin: impl Fn() -> Option<Arc<Link>> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            bridge,
            ends,
            link: OnceLock::new(),
            begin: Box::new(begin),
            relay,
            state: Mutex::default(),
        })
    }

    /// Returns a route over a session that exists already, without a relay.
    pub(in crate::remote) fn over(bridge: Weak<Bridge>, ends: Ends, link: Arc<Link>) -> Arc<Self> {
        let route = Self::new(bridge, ends, None, || None);
        let _ = route.link.set(link);
        route
    }

    fn shared(&self) -> Option<SharedRoute> {
        let route: Arc<dyn Route> = self.me.upgrade()?;
        Some(SharedRoute(route))
    }

    fn link(&self) -> Option<&Arc<Link>> {
        if self.link.get().is_none() {
            let link = (self.begin)()?;
            let _ = self.link.set(link);
        }
        self.link.get()
    }

    /// Returns the channel for messages of this type, and opens it if necessary.
    ///
    /// # Errors
    /// The reason why messages of this type cannot be sent, or `None` when the route is shut or its session is over.
    fn channel(&self, envelope: &dyn AnyEnvelope) -> Result<Arc<Channel>, Option<String>> {
        let (message, first) = (envelope.name(), envelope.is_first());
        let link = self.link().ok_or(None)?;
        let mut state = self.state.lock();
        if state.is_shut {
            return Err(None);
        }
        if let Some((_, channel)) = state.channels.iter().find(|(of, _)| *of == (message, first)) {
            return Ok(channel.clone());
        }
        let Ends { path, kind, incarnation, is_relayed, .. } = &self.ends;
        if message != WATCH && !kind.messages().contains(&message) {
            // One that cannot be sent is not helped by a declaration.
            if let Err(error) = wire::with_buffer(|buffer| envelope.write(buffer)) {
                return Err(Some(error.to_string()));
            }
            return Err(Some(format!(
                "`{}` does not accept `{message}` from other processes: call `messages.accept::<…>()` in \
                 `fn messages(messages: &mut Messages<Self>)` of its `impl Work`",
                kind.name()
            )));
        }
        let route = self.me.clone();
        if link.is_over() {
            return Err(None);
        }
        let target = Target { incarnation: *incarnation, relayed: *is_relayed, first };
        let channel = link.open_channel(route, path, target, message).map_err(Some)?;
        state.channels.push(((message, first), channel.clone()));
        Ok(channel)
    }

    /// Calls `then` once no message can be returned along this route any more.
    pub(in crate::remote) fn when_drained(&self, then: impl FnOnce() + Send + 'static) {
        {
            let mut state = self.state.lock();
            if !state.is_drained {
                state.when_drained = Some(Box::new(then));
                return;
            }
        }
        then();
    }

    fn drained(&self) {
        let then = {
            let mut state = self.state.lock();
            state.is_drained = true;
            state.when_drained.take()
        };
        if let Some(then) = then {
            then();
        }
        if let (Some(mailbox), Some(route)) = (self.ends.mailbox.upgrade(), self.shared()) {
            mailbox.drained(&route);
        }
    }

    fn is_given_up(&self) -> bool {
        self.link.get().is_some_and(|link| link.given_up().is_some())
    }

    /// Reports the session as lost to the mailbox when a message could not be sent for that reason.
    fn check(&self, sent: Sent) -> Sent {
        // A session that is about to end reports so itself, but only to the routes that have channels.
        let is_lost =
            |link: &Arc<Link>| link.is_ended() || link.is_over() && self.state.lock().channels.is_empty();
        if matches!(sent, Err(Refused::Moved(_))) && self.link().is_none_or(is_lost) {
            self.lost();
        }
        sent
    }
}

impl ChannelUser for DirectRoute {
    /// Returns a message that no handler has begun to the mailbox.
    fn returned(&self, envelope: Box<dyn AnyEnvelope>) {
        let (Some(mailbox), Some(route)) = (self.ends.mailbox.upgrade(), self.shared()) else {
            return refuse_without_address(&self.ends.path, envelope);
        };
        mailbox.returned(&route, envelope);
    }

    /// Decodes the body of a returned `tell` and returns it to the mailbox. It is lost if that fails.
    fn returned_bytes(&self, message: &'static str, body: &[u8], stamp: Stamp) {
        let lost = Lost::new(message, stamp.sender);
        let intake = self.ends.mailbox.upgrade().and_then(|mailbox| mailbox.intake(message));
        match intake.map(|intake| intake.come_back(body, stamp)) {
            Some(Ok(envelope)) => self.returned(envelope),
            Some(Err(error)) => {
                lose(&self.ends.path, DeadLetterReason::Unsendable, &error.to_string(), lost);
            }
            None => {
                let why = "no address of the Work is left in this process";
                lose(&self.ends.path, DeadLetterReason::NoAddress, why, lost);
            }
        }
    }

    /// Records that the other end has drained one channel; the route is drained with the last one.
    fn channel_drained(&self) {
        let is_last = {
            let mut state = self.state.lock();
            state.undrained = state.undrained.saturating_sub(1);
            state.is_shut && state.undrained == 0
        };
        if is_last {
            self.drained();
        }
    }

    /// Holds back new messages because the session is about to end: messages that it returns must precede them.
    fn stop(&self) {
        self.state.lock().is_shut = true;
        if let (Some(mailbox), Some(route)) = (self.ends.mailbox.upgrade(), self.shared()) {
            mailbox.stop(&route);
        }
    }

    /// Handles the loss of the session: the mailbox switches to the relay if there is one, else it waits for a new
    /// location, as it does if the head has given the process up.
    fn lost(&self) {
        let forgotten = {
            let mut state = self.state.lock();
            state.is_shut = true;
            state.when_drained.take()
        };
        drop(forgotten);
        let (Some(mailbox), Some(route)) = (self.ends.mailbox.upgrade(), self.shared()) else { return };
        let instead = match &self.relay {
            Some(Relay { head, .. }) if !head.link().is_over() && !self.is_given_up() => {
                let Ends { mailbox, path, kind, incarnation, .. } = &self.ends;
                let ends = Ends {
                    mailbox: mailbox.clone(),
                    path: path.clone(),
                    kind,
                    incarnation: *incarnation,
                    is_relayed: true,
                };
                Place::At(SharedRoute(Self::over(self.bridge.clone(), ends, head.link())))
            }
            _ => Place::Pending,
        };
        mailbox.lost(&route, instead);
        if let Some(Relay { is_used, .. }) = &self.relay
            && matches!(mailbox.place(), Place::At(SharedRoute(route)) if route.is_relayed())
        {
            is_used.store(true, Ordering::Release);
        }
    }
}

impl Route for DirectRoute {
    fn try_send(&self, envelope: Box<dyn AnyEnvelope>) -> Sent {
        self.check(match (self.channel(&*envelope), self.link()) {
            (Ok(channel), Some(link)) => link.try_send(&channel, envelope),
            (Err(Some(why)), _) => Err(Refused::Unsendable(envelope, why)),
            _ => Err(Refused::Moved(envelope)),
        })
    }

    fn send<'a>(&'a self, envelope: Box<dyn AnyEnvelope>) -> BoxFuture<'a, Sent> {
        async move {
            self.check(match (self.channel(&*envelope), self.link()) {
                (Ok(channel), Some(link)) => link.send(&channel, envelope).await,
                (Err(Some(why)), _) => Err(Refused::Unsendable(envelope, why)),
                _ => Err(Refused::Moved(envelope)),
            })
        }
        .boxed()
    }

    fn drain(self: Arc<Self>) {
        let channels = {
            let mut state = self.state.lock();
            if std::mem::replace(&mut state.is_shut, true) {
                return;
            }
            state.undrained = state.channels.len();
            state.channels.clone()
        };
        if channels.is_empty() {
            return self.drained();
        }
        if let Some(link) = self.link() {
            channels.iter().for_each(|(_, channel)| link.shut(channel, true));
        }
    }

    fn pump(self: Arc<Self>) {
        let Some(bridge) = self.bridge.upgrade() else { return };
        let (Some(mailbox), Some(route)) = (self.ends.mailbox.upgrade(), self.shared()) else { return };
        bridge.spawn(move || async move {
            while let Some(envelope) = mailbox.next(&route) {
                match self.send(envelope).await {
                    Ok(()) => {}
                    Err(Refused::Unsendable(envelope, why)) => {
                        let lost = envelope.lost();
                        if envelope.settle(Outcome::Unanswered(NoReply::Unreadable(why.clone()))) {
                            lose(&self.ends.path, DeadLetterReason::Unsendable, &why, lost);
                        }
                    }
                    Err(
                        Refused::Full(envelope) | Refused::Moved(envelope) | Refused::Closed(envelope, _),
                    ) => {
                        return mailbox.put_back(&route, envelope);
                    }
                }
            }
        });
    }

    fn withdraw_abandoned(&self) {
        if let Some(link) = self.link.get() {
            link.withdraw_abandoned();
        }
    }

    fn is_relayed(&self) -> bool {
        self.ends.is_relayed
    }

    fn is_lost(&self) -> bool {
        self.link.get().is_some_and(|link| link.is_over())
    }

    fn depth(&self) -> usize {
        self.state.lock().channels.iter().map(|(_, channel)| channel.under_way()).sum()
    }
}

impl Drop for DirectRoute {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        if state.is_shut {
            return;
        }
        if let Some(link) = self.link.get() {
            state.channels.iter().for_each(|(_, channel)| link.shut(channel, false));
        }
    }
}
