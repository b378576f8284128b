//! Flowright is an actor framework for applications made of long-running, stateful parts: training jobs, model
//! servers, data pipelines, agents.
//!
//! - A [`Work`] is an actor. Its serde fields are its observable state, and only it writes them.
//! - A [`Flow`] supervises Works and other Flows. Its [`react`](Flow::react) is called after each batch of changes
//!   below it, and says what should run: one run per distinct input, however often it says so.
//! - An [`App`] is the tree of them, with a command line, an HTTP API and a page that shows it live.
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
//! A program depends on `serde` as well, with its feature `derive`: the derives name it.
//!
//! # Where to start
//!
//! - [`Work`], [`WorkContext`]: what a Work does, publishes and answers. [`Handle`], [`WorkAddr`]: messages between Works.
//! - [`Flow`], [`WorkRef`], [`Run`], [`FlowContext`]: what a Flow reads and commands. [`Children`] says what can be
//!   a child, [`FlowRef`] is a Flow below a Flow.
//! - [`Restart`], [`OnError`], [`Strategy`], [`Overlap`]: what becomes of failures, and of an input that comes while
//!   another runs. [`Status`] says what became of a run.
//! - [`Payload`]: a large value that stays where it was made while a small reference to it travels.
//! - [`Artifact`]: the same for a file or a directory. [`Drive`]: a folder that all Works share.
//! - [`Placement`], [`Selector`], [`Resources`], [`OnNodeLost`], [`Messages`]: Works in processes of their own and on nodes.
//! - [`App`], [`AppHandle`], [`Control`], [`Config`]: running it, inside another program as well.
//! - [`testing`]: Apps in tests.
//!
//! # The layers
//!
//! Imports go down only, and siblings on one layer do not know each other.
//!
//! | layer | module | what it is |
//! | --- | --- | --- |
//! | 7 | `cli`, [`testing`] | the command line of an App's binary; Apps in tests |
//! | 6 | `http` | the API and the page |
//! | 5 | `app` | the App, the driver that runs its Flows, its end; [`Control`] queries and steers a running App |
//! | 4 | `flow` | Flows, run-once, restarts, schedules: no sockets, no clock |
//! | 4 | `remote` | Works in other processes and on other machines |
//! | 3 | `work` | Works, messages, mailboxes, and where they run |
//! | 2 | [`state`] | the value tree, comparing, patches |
//! | 2 | `payload` | references to large values, files and directories |
//! | 2 | `drive` | shared folders |
//! | 2 | `transport` | connections between processes |
//! | 1 | `wire` | values as bytes, bytes as frames |
//! | 1 | `recorder` | what programs record by the `metrics` facade |
//! | 1 | `files` | files that have their name once all of them is there |
//! | 0 | `id`, `error` | what everything is named by; the [`Error`] of users' code |
//!
//! The repository's `ARCHITECTURE.md` follows one change through them, and `docs/guarantees.md` lists what is promised.

#![cfg_attr(docsrs, feature(doc_cfg))]
// Layers that are off leave parts of those below unused; the build with all of them checks that each part is used.
#![cfg_attr(
    not(all(
        feature = "cli",
        feature = "drive",
        feature = "http",
        feature = "metrics",
        feature = "remote",
        feature = "tls",
        feature = "top"
    )),
    allow(dead_code, unused_imports)
)]

mod app;
mod atomic_file;
#[cfg(feature = "cli")]
mod cli;
mod descriptors;
#[cfg(feature = "drive")]
mod drive;
#[cfg(not(feature = "drive"))]
#[path = "drive_off.rs"]
mod drive;
mod error;
mod fence;
mod flow;
#[cfg(feature = "http")]
mod http;
mod id;
mod machine;
mod payload;
mod printable;
#[cfg(any(feature = "cli", feature = "remote"))]
mod program;
mod recorder;
#[cfg(feature = "remote")]
mod remote;
mod secret_file;
pub mod state;
pub mod testing;
mod trace;
#[cfg(feature = "remote")]
mod transport;
mod wire;
mod work;

pub use crate::app::{
    App, AppError, AppHandle, AppStage, AppStatus, Config, Control, Exit, PayloadStatus, Root, WorkStatus,
};
#[cfg(feature = "drive")]
pub use crate::drive::{Drive, DriveError, DriveFile, DriveStream, Get, Put, Transferred};
pub use crate::error::{Error, Result};
pub use crate::flow::{
    Children, Flow, FlowContext, FlowError, FlowRef, Interrupt, OnError, OnNodeLost, Overlap, Reaction,
    Remember, Restart, Run, ScheduleError, Strategy, WorkRef,
};
pub use crate::id::ActorPath;
pub use crate::payload::{
    Artifact, ArtifactError, Fetch, Files, Payload, PayloadError, PayloadUsage, Progress,
};
pub use crate::state::{StateError, Value};
#[cfg(feature = "remote")]
pub use crate::transport::{Endpoint, Token, TransportError};
pub use crate::wire::CodecError;
pub use crate::work::{
    AskError, DEFAULT_ASK_DEADLINE, DEFAULT_MAILBOX, DEFAULT_MAX_STATE_BYTES, Handle, Message, Messages,
    NodeLoad, NodeStatus, Placement, Reason, Resources, Selector, SendError, Stage, Status, Stopped,
    UnknownPlacement, Work, WorkAddr, WorkContext,
};
pub use flowright_macros::Children;

/// What `#[derive(Children)]` is written in terms of.
#[doc(hidden)]
pub mod derive {
    pub use crate::flow::{ChildGroup, Children, Found, Kinds, Route, Walk};
}

/// What is fuzzed.
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::payload::artifact_fuzz as artifacts;
    pub use crate::remote::fuzz::{
        drives, frames, greeting, head_says, messages, node_says, peer_says, pulls, session, states,
    };
    pub use crate::transport::handshake_fuzz as handshake;
}

/// What a program that uses Flowright imports.
pub mod prelude {
    pub use std::process::ExitCode;
    pub use std::time::Duration;

    pub use serde::{Deserialize, Serialize};

    #[cfg(feature = "drive")]
    pub use crate::Drive;
    pub use crate::{
        App, Artifact, Children, Error, Flow, FlowContext, FlowRef, Handle, Interrupt, Messages, OnError,
        Overlap, Payload, Placement, Reaction, Resources, Restart, Result, Stage, Stopped, Strategy, Work,
        WorkAddr, WorkContext, WorkRef, bail,
    };
}

/// The Rust code in the README and in `docs/`, which is compiled and run with the tests of the documentation.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../README.md")]
    struct Readme;

    #[doc = include_str!("../docs/api.md")]
    struct Api;
}
