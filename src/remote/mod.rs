//! Layer 4: Works in other processes and on other machines.
//!
//! The *head* runs the Flows; *nodes* host Works for it. Both are the same program. Two processes communicate over a
//! session, which survives broken connections; the module `session` documents its guarantees.

mod agent;
mod backoff;
mod begun;
mod bridge;
mod child_output;
mod dead_letters;
mod departures;
#[cfg(feature = "drive")]
mod drives;
#[cfg(fuzzing)]
pub(crate) mod fuzz;
mod head;
mod inbox;
mod incarnation_log;
mod kept_output;
mod lifetime;
mod link;
mod logs;
mod lost_messages;
mod node;
mod presence;
mod process;
mod process_group;
mod process_home;
mod process_id;
mod protocol;
mod questions;
mod references;
mod replication;
mod routing;
mod scheduler;
mod services;
mod session;
mod socket_directory;
mod topics;
mod transfers;
mod uplink;
mod without_head;
mod write_turn;

pub(crate) use self::bridge::{BridgeOptions, Spawner};
pub(crate) use self::head::{Head, HeadOptions};
pub(crate) use self::lifetime::Lifetime;
pub(crate) use self::logs::forwarding;
pub(crate) use self::node::{Farewell, NodeOptions, run_node};
pub(crate) use self::process::{ProcessCommand, ProcessProgram};
pub(crate) use self::process_group::Parent;
pub(crate) use self::process_home::{KeptProcess, ProcessHome};
pub(crate) use self::protocol::Program;
pub(crate) use self::session::SessionSettings;
pub(crate) use self::socket_directory::tidy_up;
