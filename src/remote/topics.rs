//! Topics between processes: messages that are published, and the processes that use a topic.
//!
//! # Guarantees
//! - All messages between processes pass through the head, so that a subscription that it has confirmed gets all that is
//!   published from then on.
//! - A message is sent only while less than half of the session's room is used, and is dropped otherwise. So a connection
//!   that is slow or broken keeps a bounded number of bytes, and the other messages of the session find room.
//! - What a process says of its topics is bounded, and one that exceeds a bound ends its session.

use std::sync::Arc;

use super::link::Link;
use super::protocol::Control;
use crate::id::ActorPath;
use crate::payload::PayloadGuards;
use crate::work::{Published, REPORTED_SUBSCRIBERS, REPORTED_TOPICS, TopicReport, Topics, check_topic};

/// Longest name of a type of messages that is accepted from another process, in bytes.
const LONGEST_TYPE: usize = 4096;

/// Sends a message that was published to the process at the other end of `link`. Returns false if there is no room for it.
///
/// # Errors
/// The reason why it can never be sent.
pub(super) fn publish(link: &Link, message: &Published, holds: &PayloadGuards) -> Result<bool, String> {
    if !link.has_much_room() {
        return Ok(false);
    }
    link.try_control(holds, &Control::Published(message.clone())).map(|()| true)
}

/// Handles the declaration of a node that it uses a topic.
///
/// # Errors
/// The reason why it breaks the protocol.
pub(super) fn declared(
    topics: &Topics,
    link: &Arc<Link>,
    number: u64,
    (topic, message): (&str, &str),
    subscribes: bool,
) -> Result<(), String> {
    check_topic(topic).map_err(|error| error.to_string())?;
    if message.len() > LONGEST_TYPE {
        return Err("the name of the type of a topic's messages is too long".to_owned());
    }
    let refused = topics.declared(link.peer().id, topic, message, subscribes);
    link.reply(&Control::TopicUsed { number, refused });
    Ok(())
}

/// Takes the report of a process of `node`.
///
/// # Errors
/// The reason why it breaks the protocol.
pub(super) fn reported(
    topics: &Topics,
    process: u64,
    node: &str,
    reports: Vec<TopicReport>,
) -> Result<(), String> {
    let is_long = |path: &ActorPath| path.as_str().len() > ActorPath::LONGEST_FROM_AFAR;
    let is_wrong = |report: &TopicReport| {
        check_topic(&report.topic).is_err()
            || report.message.len() > LONGEST_TYPE
            || report.subscribers.len() > REPORTED_SUBSCRIBERS
            || report.subscribers.iter().any(|subscriber| is_long(&subscriber.path))
    };
    if reports.len() > REPORTED_TOPICS || reports.iter().any(is_wrong) {
        return Err("a node reported topics that are too many or too long".to_owned());
    }
    topics.reported(process, node, reports);
    Ok(())
}
