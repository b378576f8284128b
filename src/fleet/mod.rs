//! Layer 4: fleets: nodes that an engine starts when Works wait for them, and ends when nobody needs them.
//!
//! An *engine* (Slurm, or processes on this machine) starts *allocations*, each of which is one node. Allocations with the
//! same settings are a *group*.
//!
//! # Guarantees
//! - A group never has more allocations than its limit, and never more that wait at the engine than its backlog.
//! - Only the head decides that a node leaves; the node then moves what is on it and exits by itself.
//! - The session of a node is the truth about it; the engine explains. An allocation whose fate is unknown counts as
//!   present.

mod allocation;
mod breaker;
mod engine;
mod key;
mod limits;
mod manager;
mod packing;
mod planner;
mod process;
mod settings;
mod slurm;

#[cfg(feature = "http")]
pub(crate) use self::engine::{Checked, EngineError};
pub(crate) use self::engine::{Engine, NodeCommand, Request};
pub(crate) use self::manager::{Fleet, FleetHost, GroupPlan};
#[cfg(feature = "http")]
pub(crate) use self::planner::{AllocationView, GroupView};
pub(crate) use self::process::ProcessEngine;
pub(crate) use self::settings::{EngineSettings, GroupSettings, Groups};
pub(crate) use self::slurm::Slurm;
