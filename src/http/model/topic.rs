//! Topics and their subscribers.

use serde::Serialize;
use utoipa::ToSchema;

use crate::work::TopicStatus;

/// The maximum number of subscribers that are listed of one topic.
const SUBSCRIBERS: usize = 1000;

/// A topic that a process uses.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct TopicView {
    #[schema(example = "prices")]
    pub(in crate::http) name: String,
    /// The Rust type of the messages.
    #[serde(rename = "type")]
    #[schema(example = "app::Price")]
    pub(in crate::http) type_name: String,
    /// The number of messages that were published.
    pub(in crate::http) published: u64,
    /// The number of messages that handlers have begun, each counted once for each subscriber.
    pub(in crate::http) delivered: u64,
    /// The number of messages that were dropped, because a backlog or a session was full or a subscription has ended.
    pub(in crate::http) dropped: u64,
    /// The number of subscribers in all processes.
    pub(in crate::http) subscriber_count: u64,
    /// At most 32 subscribers of each process, and 1,000 of all.
    pub(in crate::http) subscribers: Vec<SubscriberView>,
}

/// A subscription of a Work to a topic.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct SubscriberView {
    /// The path of the Work.
    #[schema(example = "team.server")]
    pub(in crate::http) path: String,
    /// The node on which the Work runs.
    #[schema(example = "head")]
    pub(in crate::http) node: String,
    /// The number of messages that may wait.
    pub(in crate::http) bound: u64,
    /// The policy for a message for which there is no room: `drop_oldest` or `drop_newest`.
    #[schema(example = "drop_oldest")]
    pub(in crate::http) overflow: String,
    /// The number of messages that wait.
    pub(in crate::http) waiting: u64,
    /// The number of messages that a handler has begun.
    pub(in crate::http) delivered: u64,
    /// The number of messages that were dropped.
    pub(in crate::http) dropped: u64,
}

/// All topics that processes use, at most 256 of each.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct TopicsView {
    pub(in crate::http) items: Vec<TopicView>,
}

impl From<TopicStatus> for TopicView {
    fn from(status: TopicStatus) -> Self {
        let subscribers = status.subscribers.into_iter().take(SUBSCRIBERS);
        let subscribers = subscribers.map(|(node, subscriber)| SubscriberView {
            path: subscriber.path.as_str().to_owned(),
            node,
            bound: subscriber.bound,
            overflow: subscriber.overflow.name().to_owned(),
            waiting: subscriber.waiting,
            delivered: subscriber.delivered,
            dropped: subscriber.dropped,
        });
        Self {
            name: status.topic,
            type_name: status.message,
            published: status.counts.published,
            delivered: status.counts.delivered,
            dropped: status.counts.dropped,
            subscriber_count: status.subscriber_count,
            subscribers: subscribers.collect(),
        }
    }
}
