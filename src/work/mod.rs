//! Floor 3: Works, the actors.
//!
//! A Work is one serde struct. Its serialised fields are its observable state, fields marked `#[serde(skip)]` are
//! private to the place where it runs, and only the Work itself writes either.
//!
//! # Guarantees
//! - One thread of control: `run`, handlers and hooks have `&mut self` and are never under way at the same time,
//!   except that a `run` (or handler) lets handlers in at points it chooses.
//! - A panic ends one incarnation of one Work. The next one, if there is one, continues from the last published
//!   state, with private fields at their defaults; messages that no handler had begun are still there.
//! - Publishing never blocks, sends only what changed, and conflates; see the module `outbox`.
//! - A run's last state is visible no later than its status.
//!
//! Handles to a Work do not know where it runs; that is decided by a [`Host`].

mod actor;
mod address;
mod context;
mod local;
mod mailbox;
mod message;
mod outbox;
mod policy;
mod run;
mod status;

use std::future::Future;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::address::{DEFAULT_ASK_DEADLINE, WorkAddr};
pub use self::context::{Stopped, WorkContext};
pub use self::message::{AskError, Handle, Message, SendError};
pub use self::policy::{DEFAULT_MAILBOX, DEFAULT_MAX_STATE_BYTES, Placement, UnknownPlacement};
pub use self::status::{Reason, Stage, Status};

pub(crate) use self::actor::{Abort, Seed, live, panic_message};
pub(crate) use self::address::forget_addresses;
pub(crate) use self::local::{HostError, LocalHost, Task};
pub(crate) use self::mailbox::{AnyMailbox, Closed, Mailbox};
pub(crate) use self::outbox::{Doorbell, Outbox, Report};
pub(crate) use self::run::{Command, Input, RunKey, RunOrder};
pub(crate) use self::status::Failure;

use crate::error::{Error, Result};
use crate::id::ActorPath;

/// A long-running, stateful unit of computation: an actor.
///
/// ```
/// use flowright::prelude::*;
///
/// #[derive(Default, Serialize, Deserialize)]
/// struct Counter {
///     count: u64,       // state: whoever watches the App sees it
///     #[serde(skip)]
///     scratch: Vec<u8>, // private
/// }
///
/// impl Work for Counter {
///     type Input = u64;
///
///     async fn run(&mut self, up_to: u64, cx: &mut WorkContext<Self>) -> Result<()> {
///         while self.count < up_to {
///             self.count += 1;
///             cx.publish(self);
///             cx.turn(self).await?; // answer messages, and leave when asked to stop
///         }
///         Ok(())
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a Work",
    label = "not a Work",
    note = "a Work derives `Serialize` and `Deserialize` (its fields are its state) and has `impl Work for {Self}`"
)]
pub trait Work: Serialize + DeserializeOwned + 'static {
    /// What a run is asked for with. Equal inputs are the same run.
    type Input: Serialize + DeserializeOwned + 'static;

    /// Does the work that `input` asks for. Its end publishes the state by itself.
    ///
    /// On a thread of its own (the default placement) it may block, but then answers no messages meanwhile and
    /// cannot be stopped in between.
    ///
    /// # Errors
    /// Any error; what becomes of it is decided by the Work's [`Restart`](crate::Restart) and
    /// [`OnError`](crate::OnError). [`Stopped`] passed on by `?` ends the run as stopped instead.
    fn run(&mut self, input: Self::Input, cx: &mut WorkContext<Self>) -> impl Future<Output = Result<()>>
    where
        Self: Sized;

    /// Called once at the start of each incarnation, before any run or message.
    ///
    /// # Errors
    /// Any error is the failure of the Work.
    fn on_start(&mut self, _cx: &mut WorkContext<Self>) -> impl Future<Output = Result<()>>
    where
        Self: Sized,
    {
        async { Ok(()) }
    }

    /// Called at the end of an incarnation that was asked to stop, also when the App ends; not after a panic.
    /// It has the App's grace period (10 s) to be done.
    ///
    /// # Errors
    /// Any error is the failure of the Work.
    fn on_stop(&mut self, _cx: &mut WorkContext<Self>) -> impl Future<Output = Result<()>>
    where
        Self: Sized,
    {
        async { Ok(()) }
    }

    /// Called after `run` returned an error, before the failure is told to the Flow.
    ///
    /// # Errors
    /// Any error is added to the message of the failure.
    fn on_error(&mut self, _error: &Error, _cx: &mut WorkContext<Self>) -> impl Future<Output = Result<()>>
    where
        Self: Sized,
    {
        async { Ok(()) }
    }
}

/// A place where incarnations of Works live.
pub(crate) trait Host {
    /// Starts an incarnation, which from then on speaks through its outbox.
    fn launch(&mut self, placement: Placement, path: &ActorPath, task: Task) -> Result<(), HostError>;

    /// Sends off what was launched since the last time; a host may gather launches until then.
    fn flush(&mut self);
}
