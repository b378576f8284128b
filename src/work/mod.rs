//! Layer 3: Works, the actors.
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
mod any_mailbox;
mod context;
mod gpus;
mod json;
mod load_report;
mod local;
pub(crate) mod logs;
mod mailbox;
mod message;
mod node_names;
mod node_status;
mod outbox;
mod policy;
mod remote_messages;
mod route;
mod run;
pub(crate) mod run_markers;
mod status;
mod work_type;

use std::future::Future;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::address::{DEFAULT_ASK_DEADLINE, WorkAddr};
pub use self::context::{Stopped, WorkContext};
pub(crate) use self::load_report::LoadReport;
pub use self::load_report::NodeLoad;
#[cfg(feature = "remote")]
pub(crate) use self::load_report::{REPORT_INTERVAL, count_lost_messages};
pub use self::message::{AskError, Handle, Message, SendError};
pub(crate) use self::node_names::{BadNode, check_labels, check_node_name};
pub use self::node_status::NodeStatus;
pub(crate) use self::node_status::{RecordedBy, Traffic};
pub use self::policy::{
    DEFAULT_MAILBOX, DEFAULT_MAX_STATE_BYTES, Placement, Resources, Selector, UnknownPlacement,
};
pub use self::remote_messages::Messages;
pub use self::status::{Reason, Stage, Status};

pub(crate) use self::actor::{Abort, current_run};
pub(crate) use self::address::{
    Bind, Router, find_address, forget_address, forget_addresses, mailbox_at, remember_address, set_router,
};
pub(crate) use self::any_mailbox::AnyMailbox;
#[cfg(feature = "remote")]
pub(crate) use self::gpus::{FreeGpus, visibility};
pub(crate) use self::gpus::{GpuPool, Gpus, visible as visible_gpus};
pub(crate) use self::json::{JsonAnswer, Unanswered};
pub(crate) use self::local::{LocalHost, Task};
pub(crate) use self::mailbox::{CloseReason, Mailbox, Place, Refused, count_abandoned};
#[cfg(test)]
pub(crate) use self::mailbox::{Item, Offer, Queue, Step};
pub(crate) use self::message::{AnyEnvelope, Outcome, Reply};
pub(crate) use self::outbox::{FastPath, Outbox, ReadyQueue, Report, Update};
pub(crate) use self::remote_messages::{Arrived, Received, RemoteMessages};
pub(crate) use self::route::{Commands, Locator, Origin, Route, SharedRoute};
pub(crate) use self::run::{Command, Input, RunKey, RunOrder};
pub(crate) use self::status::Failure;
pub(crate) use self::work_type::{LaunchSpec, WorkType};

use crate::error::{Error, Result};

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
    /// Any error is the failure of the Work. [`Stopped`] passed on by `?` ends the incarnation as stopped instead, without
    /// [`on_stop`](Work::on_stop): what was not started whole is not stopped.
    fn on_start(&mut self, _cx: &mut WorkContext<Self>) -> impl Future<Output = Result<()>>
    where
        Self: Sized,
    {
        async { Ok(()) }
    }

    /// Called at the end of an incarnation that was asked to stop, also when the App ends; not after a panic.
    /// It has the grace period (10 s) to be done, in which [`WorkContext::sleep`] and [`WorkContext::serve`] wait without
    /// serving messages.
    ///
    /// # Errors
    /// Any error is the failure of the Work, except [`Stopped`] passed on by `?`.
    fn on_stop(&mut self, _cx: &mut WorkContext<Self>) -> impl Future<Output = Result<()>>
    where
        Self: Sized,
    {
        async { Ok(()) }
    }

    /// Called after `run` returned an error, before the failure is told to the Flow.
    ///
    /// # Errors
    /// Any error is added to the message of the failure, and so is a panic, which also ends the incarnation. [`Stopped`]
    /// passed on by `?` adds nothing.
    fn on_error(&mut self, _error: &Error, _cx: &mut WorkContext<Self>) -> impl Future<Output = Result<()>>
    where
        Self: Sized,
    {
        async { Ok(()) }
    }

    /// The messages that it takes from other processes, by their types. Between Works of one process nothing needs
    /// to be said; a message that arrives from another and is not named here is refused at its sender.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// # use flowright::Messages;
    /// # #[derive(Serialize, Deserialize)]
    /// # struct Predict(f64);
    /// # #[derive(Default, Serialize, Deserialize)]
    /// # struct Server;
    /// impl Work for Server {
    ///     type Input = ();
    ///
    ///     async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
    ///         cx.serve_forever(self).await?;
    ///         Ok(())
    ///     }
    ///
    ///     fn messages(messages: &mut Messages<Self>) {
    ///         messages.accept::<Predict>();
    ///     }
    /// }
    /// # impl Handle<Predict> for Server {
    /// #     type Reply = f64;
    /// #     async fn handle(&mut self, m: Predict, _: &mut WorkContext<Self>) -> f64 { m.0 }
    /// # }
    /// ```
    fn messages(_messages: &mut Messages<Self>)
    where
        Self: Sized,
    {
    }
}

/// A place where incarnations of Works live.
pub(crate) trait Host {
    /// Starts an incarnation, which from then on speaks through its outbox.
    fn launch(&mut self, placement: &Placement, needs: Resources, what: LaunchSpec) -> Result<(), HostError>;

    /// Sends off what was launched since the last time; a host may gather launches until then.
    fn flush(&mut self);
}

/// Something that happened to the places of Works.
pub(crate) enum HostEvent {
    /// There may be a place for what had none.
    Room,
    /// The node is lost where the incarnation lived that speaks through this outbox.
    NodeLost { outbox: Arc<Outbox>, why: String },
    /// The node is about to leave where the incarnation lives that speaks through this outbox.
    NodeLeaves { outbox: Arc<Outbox> },
}

/// An incarnation could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostError {
    #[error(
        "no thread could be started for work `{path}`: {why}; or place light Works in the pool with \
         `.placed(Placement::Pool)`"
    )]
    NoThread { path: String, why: String },
    #[error("no process could be started for work `{path}`: {why}")]
    NoProcess { path: String, why: String },
    /// There is no place for it yet; it is launched again when there may be one.
    #[error("{0}")]
    Unplaced(String),
}

impl HostError {
    /// Says which limit is reached.
    fn no_thread(path: &crate::id::ActorPath, error: &std::io::Error) -> Self {
        let what = match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => {
                "its runtime takes 4 descriptors, and no more files may be opened; raise the limit"
            }
            Some(libc::EAGAIN | libc::ENOMEM) => {
                "the system's limit on threads or memory is reached; raise it (`ulimit -u`, or that of the container)"
            }
            _ => "its runtime could not be made",
        };
        let hint = crate::descriptors::hint(error);
        Self::NoThread { path: path.to_string(), why: format!("{what}: {error}{hint}") }
    }
}
