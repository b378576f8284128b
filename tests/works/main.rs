//! Works on one machine as a user sees them: runs, statuses, messages, failures, hooks, payloads.

mod artifacts;
mod batches;
mod dead_letters;
mod deadlocks;
mod drives;
mod failures;
mod finds;
mod handlers;
mod hooks;
mod lifecycle;
mod messages;
mod outputs;
mod overlap;
mod payloads;
mod probes;
mod recipients;
mod restarts;
mod runs;
mod services;
mod state;
mod statuses;
mod steps;
mod stories;
mod streams;
mod support;
mod timers;
