//! Layer 5: the App: a tree with one root, the driver that runs its Flows, its start and its shutdown.
//!
//! The layers above query and control a running App through [`Control`] only. They start and end it by [`App`],
//! [`Launched`] and [`AppHandle`], and read the log of the process directly.
//!
//! # Guarantees
//! - No Work or Flow runs before the whole tree has been checked.
//! - An idle App uses no processor time.
//! - A failure that is not captured stops the App at once. Its Works are stopped in reverse order of their start,
//!   within a grace period.

mod ask;
#[cfg(feature = "remote")]
mod bridge;
mod clock;
mod config;
mod control;
#[cfg(feature = "remote")]
mod demand;
mod driver;
mod error;
#[cfg(feature = "remote")]
mod fleet;
mod histogram;
#[cfg(all(feature = "journal", any(feature = "cli", feature = "http")))]
pub(crate) mod history;
mod hosts;
mod launch;
#[cfg(feature = "remote")]
mod node;
mod payloads;
#[cfg(all(feature = "cli", feature = "journal"))]
pub(crate) mod rereact;
mod resources;
mod root;
mod snapshot;
mod spawn;
mod status;
#[cfg(all(feature = "cli", feature = "journal"))]
mod take_over;
mod watchdog;
#[cfg(feature = "remote")]
mod watchers;

pub(crate) use self::ask::{NoAnswer, message_names, short_name};
pub use self::clock::WallClock;
pub use self::config::Config;
#[cfg(feature = "journal")]
pub use self::config::{JournalPayloads, JournalSync, OnMismatch};
pub use self::control::Control;
pub(crate) use self::driver::{Action, NotDone};
pub use self::error::AppError;
#[cfg(feature = "journal")]
pub use self::error::{JournalFailure, Unrestorable};
#[cfg(all(feature = "http", feature = "remote"))]
pub(crate) use self::fleet::AppFleet;
pub(crate) use self::hosts::HEAD;
pub(crate) use self::launch::Launched;
pub use self::launch::{App, AppHandle};
#[cfg(feature = "remote")]
pub(crate) use self::node::{NodeArguments, run_as_node};
pub use self::payloads::PayloadStatus;
#[cfg(feature = "remote")]
pub(crate) use self::resources::known_gpus;
pub(crate) use self::resources::resources;
pub(crate) use self::snapshot::{ServiceSnapshot, Snapshot, WorkSnapshot};
pub use self::spawn::SpawnError;
pub use self::status::{AppStage, AppStatus, Exit, JournalStatus, SafeMode, WorkStatus};
#[cfg(all(feature = "cli", feature = "journal"))]
pub(crate) use self::take_over::drop_from_journal;
#[cfg(feature = "remote")]
pub(crate) use crate::remote::forwarding;
pub(crate) use crate::work::logs::{Line as LogLine, also_to as also_log_to, keeping};
