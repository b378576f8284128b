//! Slurm as an engine: each allocation is a job of one node, requested, listed and ended by Slurm's commands.
//!
//! # Guarantees
//! - A job has the name of its key from the moment at which Slurm knows it, so that a request whose answer was lost is in
//!   the next list.
//! - Whatever the commands print, nothing panics; a list that is not complete is an error and not a shorter list.
//! - Every command ends within 30 seconds, and its output is bounded.
//! - The token of the App is in no script, no argument and no environment: jobs read it from a file of mode 0600.
//! - A node executes the program of its head: the script compares the hash of the copy.

mod answer;
mod cluster;
mod commands;
mod job;
#[cfg(all(test, feature = "slurm-tests"))]
mod lab_tests;
mod queue;
mod settings;
mod shared_directory;

pub(crate) use cluster::Slurm;
pub(crate) use settings::SlurmSettings;
