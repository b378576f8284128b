//! Layer 3: Works, the actors.
//!
//! A Work is one serde struct. Its serialised fields are its observable state, fields marked `#[serde(skip)]` are
//! private to the incarnation, and only the Work itself writes either.
//!
//! # Guarantees
//! - One thread of control: `run`, handlers and hooks have `&mut self` and never execute at the same time, except that
//!   `run` and the hooks other than `on_stop` let handlers in where they take turns ([`WorkContext::turn`],
//!   [`WorkContext::sleep`], [`WorkContext::serve`]).
//! - A panic ends one incarnation of one Work. The next incarnation, if there is one, continues from the last published
//!   state, with private fields at their defaults; messages that no handler had begun are still in the mailbox.
//! - Publishing never blocks, sends only the difference, and conflates; see the module `outbox`.
//! - The last state of a run is visible no later than the run's status.
//!
//! Handles to a Work do not depend on where it runs; a [`Host`] decides that.

mod abort;
mod actor;
mod address;
mod any_mailbox;
mod arguments;
mod ask;
mod batch;
mod caller;
#[cfg(feature = "remote")]
mod claim;
mod context;
mod cycles;
mod dead_letters;
mod deferred;
mod demand;
mod end;
mod envelope;
mod executing;
mod fencing_token;
mod find;
mod found;
mod gpus;
mod handle_batch;
mod incarnations;
mod json;
mod json_reply;
mod load_report;
mod local;
mod local_message;
pub(crate) mod logs;
mod mailbox;
mod message;
mod message_counts;
mod node_names;
mod node_status;
mod once;
mod outbox;
mod output;
mod output_error;
mod panics;
mod policy;
mod probe;
mod readiness;
mod recipient;
mod remote_messages;
mod returned_error;
mod route;
mod run;
pub(crate) mod run_markers;
mod run_steps;
mod service;
mod stamp;
mod status;
mod step_error;
mod steps;
mod stream_ends;
mod stream_queue;
mod stream_window;
mod streamed;
mod streamed_reply;
mod timers;
#[cfg_attr(
    not(all(feature = "http", feature = "remote")),
    allow(dead_code, reason = "some of it serves features that may be off")
)]
mod topics;
mod unsent;
mod watch;
mod work_type;

use std::future::Future;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::address::WorkAddr;
pub use self::arguments::ArgsError;
pub use self::ask::{Ask, DEFAULT_ASK_TIMEOUT, Opening};
pub use self::batch::Batch;
pub use self::context::{Stopped, WorkContext};
#[cfg(feature = "remote")]
pub(crate) use self::dead_letters::{
    AT_ONCE as DEAD_LETTERS_AT_ONCE, ByReason, Lost, Recent, SENDERS, SenderId,
    report as report_dead_letters, report_abandoned,
};
pub use self::dead_letters::{DeadLetter, DeadLetterReason, DeadLetterSender};
pub(crate) use self::dead_letters::{DeadLetters, HookThread, OnDeadLetter};
pub use self::deferred::{Deferred, ReplySender};
pub(crate) use self::demand::Demand;
#[cfg(feature = "remote")]
pub(crate) use self::demand::{GROUP_LABEL, NodeRoom};
pub use self::end::{End, EndKind};
pub use self::fencing_token::FencingToken;
pub use self::found::FindError;
pub(crate) use self::found::Found;
pub use self::handle_batch::HandleBatch;
pub(crate) use self::load_report::LoadReport;
pub use self::load_report::NodeLoad;
#[cfg(feature = "remote")]
pub(crate) use self::load_report::REPORT_INTERVAL;
pub use self::message::{
    AskError, Handle, HandledBy, HttpStatus, IntoReply, Message, ReplyOf, ReplyValue, ReplyWithStatus,
    SendError, SingleReply,
};
pub(crate) use self::node_names::{BadNode, check_labels, check_node_name};
pub use self::node_status::NodeStatus;
pub(crate) use self::node_status::{RecordedBy, Traffic};
pub use self::once::{InDoubt, Once};
pub use self::output_error::OutputError;
pub use self::policy::{
    DEFAULT_MAILBOX, DEFAULT_MAX_STATE_BYTES, Placement, Resources, Selector, UnknownPlacement,
};
pub use self::recipient::Recipient;
pub use self::remote_messages::Messages;
pub use self::service::Routing;
pub(crate) use self::service::{Frontend, InRotation, ServiceLoad};
#[cfg(feature = "remote")]
pub(crate) use self::stamp::Stamp;
pub use self::status::{Reason, Stage, Status};
pub use self::step_error::StepError;
pub use self::stream_window::DEFAULT_STREAM_WINDOW;
pub use self::streamed::{StreamSendError, StreamSender, Streamed};
pub use self::streamed_reply::{StreamError, StreamedReply};
pub use self::timers::Timer;
#[cfg(feature = "http")]
pub(crate) use self::topics::TopicStatus;
pub(crate) use self::topics::Topics;
pub use self::topics::{Backlog, Overflow, Subscription, Topic, TopicError};
#[cfg(feature = "remote")]
pub(crate) use self::topics::{
    Published, REPORTED_SUBSCRIBERS, REPORTED_TOPICS, TopicCounts, TopicRefusal, TopicReport, TopicRoutes,
    TopicUplink, check_topic,
};
pub use self::unsent::Unsent;
#[cfg(feature = "remote")]
pub(crate) use self::watch::WATCH;

pub(crate) use self::abort::Abort;
pub(crate) use self::address::{Bind, Directory, Router};
pub(crate) use self::any_mailbox::AnyMailbox;
pub(crate) use self::arguments::{Arguments, EncodedArguments};
#[cfg(feature = "remote")]
pub(crate) use self::claim::Claim;
pub(crate) use self::cycles::AskCycles;
#[cfg(feature = "remote")]
pub(crate) use self::cycles::{AskId, HeadOfWaits, WaitOrder, WaitReport, WaitsElsewhere};
pub(crate) use self::envelope::{AnyEnvelope, NoReply, Outcome, Reply};
pub(crate) use self::executing::current_run;
#[cfg(feature = "remote")]
pub(crate) use self::gpus::{FreeGpus, visibility};
pub(crate) use self::gpus::{GpuPool, Gpus, visible as visible_gpus};
pub(crate) use self::incarnations::Incarnations;
pub(crate) use self::json::{HandlerError, JsonAnswer, JsonAnswered, JsonItems, JsonReplied, Unanswered};
pub(crate) use self::local::{LocalHost, start_arbiter, start_system};
pub use self::local_message::Local;
pub(crate) use self::mailbox::{CloseReason, Mailbox, Place, Refused};
#[cfg(test)]
pub(crate) use self::mailbox::{Item, Offer, Queue, Step};
pub(crate) use self::message_counts::MessageCounts;
pub(crate) use self::outbox::{Acknowledge, FastPath, Outbox, ReadyQueue, Report, Update};
pub(crate) use self::panics::{Panics, WorkPanic};
pub use self::probe::Question;
pub(crate) use self::probe::{ProbeEvent, ProbeOrder, ProbeOrders, Probes};
pub(crate) use self::remote_messages::{Arrived, Received, RemoteMessages};
pub use self::returned_error::ReturnedError;
pub(crate) use self::route::{Commands, Locator, Origin, Route, SharedRoute};
pub(crate) use self::run::{Command, Input, RunKey, RunOrder};
pub(crate) use self::status::{Failure, milliseconds};
#[cfg(test)]
pub(crate) use self::steps::MAX_STEPS;
#[cfg(all(feature = "journal", any(feature = "cli", feature = "http")))]
pub(crate) use self::steps::StepOutcome;
pub(crate) use self::steps::{KnownStep, StepId, StepValue, Steps, StepsFull};
#[cfg(feature = "remote")]
pub(crate) use self::stream_ends::{ItemRefused, StreamEnd, StreamSink, StreamSource};
#[cfg(feature = "remote")]
pub(crate) use self::stream_window::{Credit, LARGEST_WINDOW, TooMuchCredit};
pub(crate) use self::work_type::{LaunchSpec, Task, WorkType};

use crate::error::{Error, Result};

/// A long-running, stateful unit of computation: an actor.
///
/// ```
/// use flowright::prelude::*;
///
/// #[derive(Default, Serialize, Deserialize)]
/// struct Counter {
///     count: u64,       // state, visible to everyone who watches the App
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
    /// The input of a run. Equal inputs, compared by their canonical encoding, are the same run.
    type Input: Serialize + DeserializeOwned + 'static;

    /// Executes one run with `input`. The state is published at its end, without a call of [`WorkContext::publish`].
    ///
    /// By default it serves messages until the Work is asked to stop. A Work that only handles messages does so without
    /// any run, and needs no `run` of its own.
    ///
    /// With a thread of its own (the default placement) a Work may block, but it serves no messages and cannot be
    /// stopped while it does.
    ///
    /// # Errors
    /// Any error fails the run; the Work's [`Restart`](crate::Restart) and [`OnError`](crate::OnError) decide whether
    /// the run is retried or the failure escalates. [`Stopped`] passed on by `?` ends the run as stopped instead.
    fn run(&mut self, _input: Self::Input, cx: &mut WorkContext<Self>) -> impl Future<Output = Result<()>>
    where
        Self: Sized,
    {
        async move { match cx.serve_forever(self).await? {} }
    }

    /// Called once at the start of each incarnation, before any run or message.
    ///
    /// # Errors
    /// Any error fails the Work. [`Stopped`] passed on by `?` ends the incarnation as stopped instead; then
    /// [`on_stop`](Work::on_stop) is not called, because the start was not completed.
    fn on_start(&mut self, _cx: &mut WorkContext<Self>) -> impl Future<Output = Result<()>>
    where
        Self: Sized,
    {
        async { Ok(()) }
    }

    /// Called at the end of an incarnation that was asked to stop, also when the App ends; not after a panic. It must
    /// return within the grace period (10 s by default). In it, [`WorkContext::sleep`] and [`WorkContext::serve`] wait
    /// without serving messages.
    ///
    /// # Errors
    /// Any error fails the Work, except [`Stopped`] passed on by `?`.
    fn on_stop(&mut self, _cx: &mut WorkContext<Self>) -> impl Future<Output = Result<()>>
    where
        Self: Sized,
    {
        async { Ok(()) }
    }

    /// Called after `run` returned an error, before the failure is reported to the Flow.
    ///
    /// # Errors
    /// The text of any error is appended to the message of the failure, and so is that of a panic, which also ends the
    /// incarnation. [`Stopped`] passed on by `?` appends nothing.
    fn on_error(&mut self, _error: &Error, _cx: &mut WorkContext<Self>) -> impl Future<Output = Result<()>>
    where
        Self: Sized,
    {
        async { Ok(()) }
    }

    /// Declares the types of messages that the Work accepts from other processes and as JSON. Messages between Works of
    /// one process need no declaration. Of an undeclared type, an `ask` from another process fails with
    /// [`SendError::Unsendable`], and a `tell` is lost, logged and counted.
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

/// Executor of Works in one kind of place: threads of this process, other processes, nodes.
pub(crate) trait Host {
    /// Starts an incarnation, which from then on reports through its outbox.
    ///
    /// # Errors
    /// [`HostError`]; [`HostError::Unplaced`] is temporary.
    fn launch(&mut self, placement: &Placement, needs: Resources, what: LaunchSpec) -> Result<(), HostError>;

    /// Sends the launches that the host has gathered since the last call.
    fn flush(&mut self);
}

/// Change in the places where Works can run.
pub(crate) enum HostEvent {
    /// Resources were freed: launches that failed with [`HostError::Unplaced`] may succeed now.
    Room,
    /// The status of a node has changed.
    NodesChanged,
    /// The node of the incarnation with this outbox is lost.
    NodeLost { outbox: Arc<Outbox>, why: String },
    /// The node of the incarnation with this outbox is about to leave.
    NodeLeaves { outbox: Arc<Outbox> },
    /// A node has kept an incarnation while it had no head. Answered by taking it over or by refusing it.
    #[cfg(feature = "remote")]
    Kept(Box<Claim>),
    /// A node has described all the incarnations that it has kept. `work` is the path of the only Work that it can have, if
    /// it is the process of a single Work.
    #[cfg(feature = "remote")]
    AllKept { process: u64, node: Arc<str>, work: Option<crate::id::ActorPath> },
    /// The process of a single Work has ended before it returned to the head that was started again.
    #[cfg(feature = "remote")]
    NotKept { path: crate::id::ActorPath },
}

/// Error returned when an incarnation could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostError {
    #[error(
        "no thread could be started for work `{path}`: {why}; or place light Works in the pool with \
         `.placed(Placement::Pool)`"
    )]
    NoThread { path: String, why: String },
    #[error("no process could be started for work `{path}`: {why}")]
    NoProcess { path: String, why: String },
    /// No node or device is free for the Work now; the launch is retried after a [`HostEvent::Room`].
    #[error("{why}")]
    Unplaced {
        why: String,
        /// The demand for a node; `None` for devices of this machine.
        demand: Option<Demand>,
    },
}

impl HostError {
    /// Names the limit that was reached.
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
