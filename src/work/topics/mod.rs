//! Topics: messages that are published by name, for whoever subscribes.
//!
//! # Guarantees
//! - A message reaches each subscriber at most once. Messages of one publisher reach a subscriber in their order.
//! - Publishing never waits. What waits is bounded: for each subscriber by its backlog, and between processes by half of the
//!   room of the session, so that a flood of messages leaves room for the rest. What finds no room is dropped and counted.
//! - A message that is published after the subscription was confirmed reaches the subscriber, unless it is dropped so or a
//!   process is lost. The head confirms; it is where all messages between processes pass.
//! - A process without subscribers is sent nothing. A message is encoded once for all other processes, and sent once to each.
//! - All users of a topic in the App agree on the type of its messages; a topic is known as long as anything uses it.
//! - A subscription ends with its incarnation, also one that is ended by force.
//!
//! The parts that decide are pure: `backlog`, `table` and `statistics`.

mod backlog;
mod error;
#[cfg(test)]
mod model_tests;
mod registry;
mod statistics;
mod subscription;
mod table;
mod topic;

pub use self::backlog::{Backlog, Overflow};
pub use self::error::TopicError;
#[cfg(feature = "remote")]
pub(crate) use self::error::{TopicRefusal, check_topic};
pub(crate) use self::registry::Topics;
#[cfg(feature = "remote")]
pub(crate) use self::registry::{Published, TopicRoutes, TopicUplink};
#[cfg(feature = "http")]
pub(crate) use self::statistics::TopicStatus;
#[cfg(feature = "remote")]
pub(crate) use self::statistics::{REPORTED_SUBSCRIBERS, REPORTED_TOPICS, TopicCounts, TopicReport};
pub use self::subscription::Subscription;
pub use self::topic::Topic;
