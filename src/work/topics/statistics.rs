//! Numbers of messages and subscribers of topics, as processes report them and as the head sums them up. Pure.
//!
//! # Guarantees
//! - The sums of a topic do not shrink while a process uses it: those of processes that have left it, or are lost, stay.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::backlog::Overflow;
use crate::id::ActorPath;

/// Number of topics in the report of one process.
pub(crate) const REPORTED_TOPICS: usize = 256;

/// Number of subscribers that are listed of one topic in one process.
pub(crate) const REPORTED_SUBSCRIBERS: usize = 32;

/// Numbers of messages of a topic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TopicCounts {
    /// Messages that were published.
    pub(crate) published: u64,
    /// Messages that handlers have begun, each counted once for each subscriber.
    pub(crate) delivered: u64,
    /// Messages that a subscriber had no room for or that waited when its subscription ended, and messages that a session had
    /// no room for.
    pub(crate) dropped: u64,
}

impl TopicCounts {
    fn plus(self, other: Self) -> Self {
        Self {
            published: self.published.saturating_add(other.published),
            delivered: self.delivered.saturating_add(other.delivered),
            dropped: self.dropped.saturating_add(other.dropped),
        }
    }
}

/// A subscriber of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SubscriberReport {
    /// Path of the Work.
    pub(crate) path: ActorPath,
    pub(crate) bound: u64,
    pub(crate) overflow: Overflow,
    pub(crate) waiting: u64,
    pub(crate) delivered: u64,
    pub(crate) dropped: u64,
}

/// A topic as one process sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TopicReport {
    pub(crate) topic: String,
    /// Type of the messages.
    pub(crate) message: String,
    pub(crate) counts: TopicCounts,
    /// Number of subscribers in the process.
    pub(crate) subscriber_count: u64,
    /// The first of them.
    pub(crate) subscribers: Vec<SubscriberReport>,
}

/// A topic of the App.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TopicStatus {
    pub(crate) topic: String,
    /// Type of the messages.
    pub(crate) message: String,
    pub(crate) counts: TopicCounts,
    pub(crate) subscriber_count: u64,
    /// The first subscribers of each process, with the name of its node.
    pub(crate) subscribers: Vec<(String, SubscriberReport)>,
}

/// The reports of the other processes, and the numbers of processes that are gone.
#[derive(Default)]
pub(super) struct Statistics {
    reports: BTreeMap<u64, (String, Vec<TopicReport>)>,
    past: HashMap<String, TopicCounts>,
}

impl Statistics {
    /// Takes the last report of a process of `node`. Topics that it does not name any more were left.
    pub(super) fn reported(&mut self, process: u64, node: &str, reports: Vec<TopicReport>) {
        self.reports.insert(process, (node.to_owned(), reports));
    }

    /// Adds the numbers of a topic that a process uses no more, in place of those in its last report.
    pub(super) fn left(&mut self, process: Option<u64>, topic: &str, counts: TopicCounts) {
        if let Some((_, reports)) = process.and_then(|process| self.reports.get_mut(&process)) {
            reports.retain(|report| report.topic != topic);
        }
        self.add(topic, counts);
    }

    /// Adds numbers that belong to no process.
    pub(super) fn add(&mut self, topic: &str, counts: TopicCounts) {
        let past = self.past.entry(topic.to_owned()).or_default();
        *past = past.plus(counts);
    }

    /// Keeps the last numbers of a process that is lost.
    pub(super) fn lost(&mut self, process: u64) {
        let (_, reports) = self.reports.remove(&process).unwrap_or_default();
        reports.into_iter().for_each(|report| self.add(&report.topic, report.counts));
    }

    /// Forgets the numbers of topics that no process uses any more.
    pub(super) fn retain(&mut self, is_used: impl Fn(&str) -> bool) {
        self.past.retain(|topic, _| is_used(topic));
    }

    /// Returns the sums over all processes, by topic. `own` is the report of this process, which is on the node `node`.
    pub(super) fn sums(&self, node: &str, own: &[TopicReport]) -> Vec<TopicStatus> {
        let mut sums: BTreeMap<&str, TopicStatus> = BTreeMap::new();
        let others = self.reports.values().map(|(node, reports)| (node.as_str(), reports.as_slice()));
        for (node, reports) in [(node, own)].into_iter().chain(others) {
            for report in reports {
                let sum = sums.entry(&report.topic).or_insert_with(|| TopicStatus {
                    topic: report.topic.clone(),
                    message: report.message.clone(),
                    counts: self.past.get(&report.topic).copied().unwrap_or_default(),
                    ..TopicStatus::default()
                });
                sum.counts = sum.counts.plus(report.counts);
                sum.subscriber_count += report.subscriber_count;
                let subscribers = report.subscribers.iter().cloned();
                sum.subscribers.extend(subscribers.map(|subscriber| (node.to_owned(), subscriber)));
            }
        }
        sums.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(topic: &str, published: u64) -> TopicReport {
        let counts = TopicCounts { published, delivered: 2 * published, dropped: 1 };
        let subscriber = SubscriberReport {
            path: "a".into(),
            bound: 64,
            overflow: Overflow::DropOldest,
            waiting: 0,
            delivered: 0,
            dropped: 0,
        };
        let (topic, message) = (topic.to_owned(), "M".to_owned());
        TopicReport { topic, message, counts, subscriber_count: 1, subscribers: vec![subscriber] }
    }

    /// The numbers of a process that leaves a topic or is lost stay part of the sum, and count once.
    #[test]
    fn sums_do_not_shrink_while_the_topic_is_used() {
        let mut statistics = Statistics::default();
        let published = |statistics: &Statistics| {
            let sums = statistics.sums("head", &[report("t", 1)]);
            assert_eq!(sums.len(), 1);
            (sums[0].counts.published, sums[0].subscriber_count)
        };
        statistics.reported(1, "n", vec![report("t", 10)]);
        statistics.reported(1, "n", vec![report("t", 20)]);
        statistics.reported(2, "m", vec![report("t", 300)]);
        assert_eq!(published(&statistics), (321, 3));
        statistics.left(Some(1), "t", report("t", 25).counts);
        statistics.lost(2);
        statistics.lost(2);
        assert_eq!(published(&statistics), (326, 1));
        statistics.retain(|topic| topic != "t");
        assert_eq!(published(&statistics), (1, 1));
        let sums = statistics.sums("head", &[report("t", 1)]);
        assert_eq!(sums[0].subscribers[0].0, "head");
    }
}
