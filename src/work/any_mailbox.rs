//! Type-erased mailboxes.

use std::sync::Arc;
use std::time::Duration;

use super::address::WorkAddr;
use super::envelope::AnyEnvelope;
use super::json::{self, JsonAnswer};
use super::mailbox::{CloseReason, Mailbox, Place};
use super::recipient::AnyReceiver;
use super::remote_messages::{Messages, RemoteMessages};
use super::route::{Commands, SharedRoute};
use super::work_type::WorkType;
use super::{Command, RunOrder, Work};
use crate::id::{ActorPath, AppId};

/// A [`Mailbox`] whose type of Work is not known to its user. Methods without a comment are those of [`Mailbox`].
pub(crate) trait AnyMailbox: Send + Sync {
    fn command(&self, command: Command);
    fn run(&self, order: Box<RunOrder>) -> bool;
    fn open(&self) -> u64;
    fn set_path(&self, path: &ActorPath);
    fn capacity(&self) -> usize;
    fn set_capacity(&self, capacity: usize);
    /// Returns the type of the Work.
    fn kind(&self) -> &'static WorkType;
    fn launched_elsewhere(&self, commands_to: Arc<dyn Commands>);
    fn place(&self) -> Place<SharedRoute>;
    fn incarnation(&self) -> u64;
    fn leave(&self, incarnation: Option<u64>);
    fn given_up(&self, incarnation: Option<u64>);
    fn give_back(&self, session: u64);
    fn stop(&self, route: &SharedRoute);
    /// Drops waiting asks whose caller has given up.
    fn drop_abandoned(&self);
    /// Requests the place of the Work from its locator, even if no message waits.
    fn want(&self);
    /// Takes the next message to forward along a route.
    fn next(&self, route: &SharedRoute) -> Option<Box<dyn AnyEnvelope>>;

    fn close(&self, why: CloseReason);
    fn set_place(&self, place: Place<SharedRoute>);
    fn left(&self, route: &SharedRoute);
    fn returned(&self, route: &SharedRoute, envelope: Box<dyn AnyEnvelope>);
    fn drained(&self, route: &SharedRoute);
    fn lost(&self, route: &SharedRoute, instead: Place<SharedRoute>);
    fn put_back(&self, route: &SharedRoute, envelope: Box<dyn AnyEnvelope>);

    fn depth(&self) -> usize;
    /// Returns the number of messages accepted or forwarded since the mailbox exists.
    fn accepted(&self) -> u64;
    /// Returns the way in for messages of this type name from other processes; `None` if the Work does not declare the
    /// type.
    fn intake(self: Arc<Self>, message: &str) -> Option<Arc<dyn RemoteMessages>>;
    /// Returns the receiver of messages of this type name, for the address of a recipient; `None` if the Work does not
    /// declare the type.
    fn receiver(self: Arc<Self>, app: AppId, path: ActorPath, message: &str) -> Option<AnyReceiver>;
    /// Sends an ask whose message is JSON; `None` if the Work does not declare the type of the message.
    fn ask(
        self: Arc<Self>,
        app: AppId,
        path: ActorPath,
        message: &str,
        body: &[u8],
        timeout: Duration,
    ) -> Option<Result<JsonAnswer, serde_json::Error>>;
    fn into_any(self: Arc<Self>) -> Arc<dyn std::any::Any + Send + Sync>;
}

impl<W: Work> AnyMailbox for Mailbox<W> {
    fn command(&self, command: Command) {
        self.command(command);
    }

    fn run(&self, order: Box<RunOrder>) -> bool {
        self.run(order)
    }

    fn open(&self) -> u64 {
        self.open()
    }

    fn set_path(&self, path: &ActorPath) {
        self.set_path(path);
    }

    fn capacity(&self) -> usize {
        self.capacity()
    }

    fn set_capacity(&self, capacity: usize) {
        self.set_capacity(capacity);
    }

    fn kind(&self) -> &'static WorkType {
        WorkType::of::<W>()
    }

    fn launched_elsewhere(&self, commands_to: Arc<dyn Commands>) {
        self.launched_elsewhere(commands_to);
    }

    fn place(&self) -> Place<SharedRoute> {
        self.place()
    }

    fn incarnation(&self) -> u64 {
        self.incarnation()
    }

    fn leave(&self, incarnation: Option<u64>) {
        self.leave(incarnation);
    }

    fn given_up(&self, incarnation: Option<u64>) {
        self.given_up(incarnation);
    }

    fn give_back(&self, session: u64) {
        self.give_back(session);
    }

    fn drop_abandoned(&self) {
        self.drop_abandoned();
    }

    fn want(&self) {
        self.want();
    }

    fn stop(&self, route: &SharedRoute) {
        self.stop(route);
    }

    fn next(&self, route: &SharedRoute) -> Option<Box<dyn AnyEnvelope>> {
        self.next(route)
    }

    fn set_place(&self, place: Place<SharedRoute>) {
        self.set_place(place);
    }

    fn left(&self, route: &SharedRoute) {
        self.left(route);
    }

    fn returned(&self, route: &SharedRoute, envelope: Box<dyn AnyEnvelope>) {
        self.returned(route, envelope);
    }

    fn drained(&self, route: &SharedRoute) {
        self.drained(route);
    }

    fn lost(&self, route: &SharedRoute, instead: Place<SharedRoute>) {
        self.lost(route, instead);
    }

    fn put_back(&self, route: &SharedRoute, envelope: Box<dyn AnyEnvelope>) {
        self.put_back(route, envelope);
    }

    fn close(&self, why: CloseReason) {
        self.close(why);
    }

    fn depth(&self) -> usize {
        self.depth()
    }

    fn accepted(&self) -> u64 {
        self.accepted()
    }

    fn intake(self: Arc<Self>, message: &str) -> Option<Arc<dyn RemoteMessages>> {
        Messages::find(self, message)
    }

    fn receiver(self: Arc<Self>, app: AppId, path: ActorPath, message: &str) -> Option<AnyReceiver> {
        Messages::receiver(message).map(|receiver| receiver(WorkAddr::new(app, path, self)))
    }

    fn ask(
        self: Arc<Self>,
        app: AppId,
        path: ActorPath,
        message: &str,
        body: &[u8],
        timeout: Duration,
    ) -> Option<Result<JsonAnswer, serde_json::Error>> {
        json::ask(self, app, path, message, body, timeout)
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn std::any::Any + Send + Sync> {
        self
    }
}
