//! Mailboxes of Works whose type is not known where they are used.

use std::sync::Arc;
use std::time::Duration;

use super::intake::{Intake, Messages};
use super::json::{self, JsonAnswer};
use super::mailbox::{Closed, Mailbox};
use super::route::Route;
use super::{Command, RunOrder, Work};
use crate::id::{ActorPath, AppId};

/// A mailbox of a Work whose type is not known here.
pub(crate) trait AnyMailbox: Send + Sync {
    fn command(&self, command: Command);
    fn run(&self, order: RunOrder) -> bool;
    fn open(&self) -> u64;
    fn divert(&self, route: Arc<dyn Route>);
    fn capacity(&self) -> usize;
    /// How many messages were lost without anybody being told.
    fn close(&self, why: Closed) -> usize;
    fn depth(&self) -> usize;
    /// How many messages were ever taken, or passed on.
    fn accepted(&self) -> u64;
    /// How messages of this name get in; `None` when the Work's type does not name it among its messages.
    fn intake(self: Arc<Self>, message: &str) -> Option<Arc<dyn Intake>>;
    /// Asks with JSON; `None` when the Work's type does not name the message.
    fn ask(
        self: Arc<Self>,
        app: AppId,
        path: ActorPath,
        message: &str,
        body: &[u8],
        deadline: Duration,
    ) -> Option<Result<JsonAnswer, serde_json::Error>>;
    fn into_any(self: Arc<Self>) -> Arc<dyn std::any::Any + Send + Sync>;
}

impl<W: Work> AnyMailbox for Mailbox<W> {
    fn command(&self, command: Command) {
        self.command(command);
    }

    fn run(&self, order: RunOrder) -> bool {
        self.run(order)
    }

    fn open(&self) -> u64 {
        self.open()
    }

    fn divert(&self, route: Arc<dyn Route>) {
        self.divert(route);
    }

    fn capacity(&self) -> usize {
        self.capacity()
    }

    fn close(&self, why: Closed) -> usize {
        self.close(why)
    }

    fn depth(&self) -> usize {
        self.depth()
    }

    fn accepted(&self) -> u64 {
        self.accepted()
    }

    fn intake(self: Arc<Self>, message: &str) -> Option<Arc<dyn Intake>> {
        Messages::find(self, message)
    }

    fn ask(
        self: Arc<Self>,
        app: AppId,
        path: ActorPath,
        message: &str,
        body: &[u8],
        deadline: Duration,
    ) -> Option<Result<JsonAnswer, serde_json::Error>> {
        json::ask(self, app, path, message, body, deadline)
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn std::any::Any + Send + Sync> {
        self
    }
}
