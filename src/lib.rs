//! Flowright is an actor framework for applications made of long-running, stateful parts: training jobs, model
//! servers, data pipelines, agents.
//!
//! - A [`Work`] is an actor. Its serde fields are its observable state, and only it writes them.
//! - A [`Flow`] supervises Works and other Flows. Its [`react`](Flow::react) is called after each batch of changes
//!   below it and declares the runs that should exist: one run per distinct input, however often it is declared.
//! - An [`App`] is the tree of Flows and Works, with a command line, an HTTP API and a page that shows the tree live.
//!
//! ```
//! use flowright::prelude::*;
//!
//! #[derive(Default, Serialize, Deserialize)]
//! struct Square {
//!     result: Option<u64>,
//! }
//!
//! impl Work for Square {
//!     type Input = u64;
//!
//!     async fn run(&mut self, x: u64, _cx: &mut WorkContext<Self>) -> Result<()> {
//!         self.result = Some(x * x); // the end of a run publishes by itself
//!         Ok(())
//!     }
//! }
//!
//! #[derive(Default, Serialize, Children)]
//! struct Twice {
//!     first: WorkRef<Square>,
//!     second: WorkRef<Square>,
//! }
//!
//! impl Flow for Twice {
//!     fn react(&mut self, cx: &mut FlowContext) -> Reaction {
//!         let first = self.first.run(3).finished()?; // `?` waits: `react` is called again when it is done
//!         if let Some(result) = first.result {
//!             let second = self.second.run(result).finished()?;
//!             assert_eq!(second.result, Some(81));
//!             cx.stop("both are done");
//!         }
//!         Ok(())
//!     }
//! }
//!
//! # fn run() {
//! fn main() -> ExitCode {
//!     App::new(Twice::default).main()
//! }
//! # }
//! # let app = flowright::testing::TestApp::start(Twice::default);
//! # app.wait_for_exit().result.unwrap();
//! ```
//!
//! A program also depends on `serde` with its feature `derive`, because the derive macros expand to its paths.
//!
//! # Where to start
//!
//! - [`Work`], [`WorkContext`]: the actor, and its means to publish, serve and sleep. [`Handle`], [`WorkAddr`]:
//!   messages between Works.
//! - [`Flow`], [`WorkRef`], [`Run`], [`FlowContext`]: what a Flow reads and commands. [`Children`]: the fields that
//!   are children. [`FlowRef`]: a Flow below a Flow.
//! - [`Restart`], [`OnError`], [`Strategy`], [`Overlap`]: restart policies, escalation of failures, and the handling of
//!   an input that arrives during another run. [`Status`]: the stage and the outcome of a run.
//! - [`Payload`]: a large value that stays where it was made while a small reference to it travels.
//! - [`Artifact`]: a payload that is a file or a directory. [`Drive`]: a folder that all Works share.
//! - [`Placement`], [`Selector`], [`Resources`], [`OnNodeLost`], [`Messages`]: Works in processes of their own and
//!   on nodes.
//! - [`App`], [`AppHandle`], [`Control`], [`Config`]: running an App, alone or embedded in another program.
//! - [`testing`]: Apps in tests.
//!
//! # The layers
//!
//! Imports go down only, and siblings on one layer do not import each other.
//!
//! | layer | module | what it is |
//! | --- | --- | --- |
//! | 8 | `cli` | the command line of an App's binary |
//! | 7 | `entry`, [`testing`] | an App as a program: signals, the log, exit codes; Apps in tests |
//! | 6 | `http` | the API and the page |
//! | 5 | `app` | the App, the driver that runs its Flows, its end; [`Control`] queries and steers a running App |
//! | 4 | `flow` | Flows, run-once, restarts, schedules: no sockets, no clock |
//! | 4 | `remote` | Works in other processes and on other machines |
//! | 3 | `journal` | the file that has the last state of each actor and what led to it |
//! | 3 | `work` | Works, messages, mailboxes, and where they run |
//! | 2 | [`state`] | the value tree, its comparison, patches |
//! | 2 | `payload` | references to large values, files and directories |
//! | 2 | `drive` | shared folders |
//! | 2 | `transport` | connections between processes |
//! | 1 | `wire` | encoding of values as bytes, and of bytes as frames |
//! | 1 | `recorder` | metrics that programs record through the `metrics` facade |
//! | 1 | `atomic_file` | files and directories that appear under their name only once they are complete |
//! | 0 | `id`, `error` | paths and numbers that identify Works, Flows and Apps; the [`Error`] of users' code, which is that of `anyhow` |
//!
//! `ARCHITECTURE.md` in the repository follows one change of state through these layers, and `docs/guarantees.md` lists
//! the guarantees with the tests that check them.

#![cfg_attr(docsrs, feature(doc_cfg))]
// Disabled features leave parts of the lower layers unused; the build with all features checks that each part is used.
#![cfg_attr(
    not(all(
        feature = "cli",
        feature = "drive",
        feature = "http",
        feature = "journal",
        feature = "metrics",
        feature = "remote",
        feature = "tls",
        feature = "top"
    )),
    allow(dead_code, unused_imports, unused_mut)
)]

extern crate self as flowright; // for derives in this crate, which expand to this path

mod app;
mod atomic_file;
#[cfg(feature = "cli")]
mod cli;
#[cfg(feature = "journal")]
mod crash_evidence;
mod descriptors;
#[cfg(feature = "drive")]
mod drive;
mod duration;
mod entry;
mod error;
mod fence;
#[cfg(feature = "remote")]
mod fleet;
mod flow;
#[cfg(feature = "http")]
mod http;
mod id;
#[cfg(feature = "journal")]
#[allow(dead_code, unused_imports, reason = "the driver does not use it yet")]
mod journal;
mod machine;
mod payload;
mod printable;
mod program;
mod recorder;
#[cfg(feature = "remote")]
mod remote;
mod runtime;
mod secret_file;
pub mod state;
pub mod testing;
mod trace;
#[cfg(feature = "remote")]
mod transport;
mod wire;
mod work;

pub use crate::app::{
    App, AppError, AppHandle, AppStage, AppStatus, Config, Control, Exit, JournalStatus, PayloadStatus,
    SafeMode, SpawnError, WorkStatus,
};
#[cfg(feature = "journal")]
pub use crate::app::{JournalFailure, JournalPayloads, JournalSync, OnMismatch, Unrestorable};
#[cfg(feature = "drive")]
pub use crate::drive::{Drive, DriveError, DriveFile, DriveStream, Get, Put, Transferred};
pub use crate::error::{Context, Error, Result, anyhow, bail, ensure};
pub use crate::flow::{
    Children, Flow, FlowContext, FlowError, FlowRef, Journaled, OnError, OnNodeLost, Overlap, Pending,
    Reaction, Remember, Replicas, Restart, Rollout, RolloutStage, Run, ScheduleError, ServiceRef, Strategy,
    WorkRef,
};
pub use crate::id::ActorPath;
pub use crate::payload::{
    Artifact, ArtifactError, Fetch, Files, Payload, PayloadError, PayloadUsage, Progress,
};
pub use crate::state::{StateError, Value};
#[cfg(feature = "traces")]
pub use crate::trace::otlp_layer;
#[cfg(feature = "remote")]
pub use crate::transport::{Endpoint, Token, TransportError};
pub use crate::wire::CodecError;
pub use crate::work::{
    ArgsError, Ask, AskError, Backlog, Batch, DEFAULT_ASK_TIMEOUT, DEFAULT_MAILBOX, DEFAULT_MAX_STATE_BYTES,
    DEFAULT_STREAM_WINDOW, DeadLetter, DeadLetterReason, DeadLetterSender, Deferred, End, EndKind,
    FencingToken, FindError, Handle, HandleBatch, HandledBy, HttpStatus, InDoubt, IntoReply, Local, Message,
    Messages, NodeLoad, NodeStatus, Once, Opening, OutputError, Overflow, Placement, Reason, Recipient,
    ReplyOf, ReplySender, ReplyValue, ReplyWithStatus, Resources, ReturnedError, Routing, Selector,
    SendError, SingleReply, Stage, Status, StepError, Stopped, StreamError, StreamSendError, StreamSender,
    Streamed, StreamedReply, Subscription, Timer, Topic, TopicError, UnknownPlacement, Unsent, Work,
    WorkAddr, WorkContext,
};
pub use flowright_macros::Children;

/// Names that the code generated by `#[derive(Children)]` refers to. Not part of the public API.
#[doc(hidden)]
pub mod derive {
    pub use serde::Serializer;

    pub use crate::flow::{
        ByDefault, ByDeserialize, BySerialize, ByWork, Check, ChildGroup, Children, FieldType, Found, Kinds,
        OwnField, OwnWriter, Preparation, ReadField, Rebuild, Route, Shapes, Walk, WithoutDefault,
        WithoutDeserialize, WithoutSerialize, WithoutWork, WriteField, refuse_unnamed, require_own,
    };
}

/// Entry points of the fuzz targets.
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::payload::artifact_fuzz as artifacts;
    pub use crate::remote::fuzz::{
        drives, frames, greeting, head_says, messages, node_says, peer_says, pulls, session, states,
    };
    pub use crate::transport::handshake_fuzz as handshake;
}

/// The names that a program with Flowright usually imports.
pub mod prelude {
    pub use std::process::ExitCode;
    pub use std::time::Duration;

    pub use serde::{Deserialize, Serialize};

    #[cfg(feature = "drive")]
    pub use crate::Drive;
    pub use crate::{
        App, Artifact, Children, Context, Error, Flow, FlowContext, FlowRef, Handle, Messages, OnError,
        Overlap, Payload, Pending, Placement, Reaction, Resources, Restart, Result, Stage, Stopped, Strategy,
        Work, WorkAddr, WorkContext, WorkRef, anyhow, bail, ensure,
    };
}

/// The Rust code of the README and of `docs/`, compiled and run as doctests.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../README.md")]
    struct Readme;

    #[doc = include_str!("../docs/api.md")]
    struct Api;
}
