//! What a user sees of Works on one machine: runs, statuses, messages, failures, hooks, payloads.

mod artifacts;
mod drives;
mod failures;
mod handlers;
mod hooks;
mod lifecycle;
mod messages;
mod overlap;
mod payloads;
mod restarts;
mod runs;
mod state;
mod statuses;
mod stories;
mod support;
