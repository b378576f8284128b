//! The topics of an App and the processes that use them, at the head. Pure.
//!
//! # Guarantees
//! - All processes that use a topic do so with messages of one type.
//! - A message goes to the processes that subscribe, each once, and not back to the one that it comes from.
//! - A topic is known as long as a process uses it, and a process uses a bounded number.

use std::collections::{BTreeMap, HashMap};

use super::error::TopicRefusal;

/// Number of topics that one process may use at a time.
pub(super) const MOST_TOPICS: usize = 4096;

/// A process of the App: the head for `None`, another one by its number.
pub(super) type ProcessId = Option<u64>;

#[derive(Default)]
pub(super) struct Table {
    topics: BTreeMap<String, Known>,
    /// Number of topics that each process uses.
    used: HashMap<ProcessId, usize>,
}

struct Known {
    /// Type of the messages.
    message: String,
    /// The processes that use it; true for those that subscribe.
    users: BTreeMap<ProcessId, bool>,
}

impl Table {
    /// Notes that a process uses a topic, and whether it subscribes. The last note counts.
    ///
    /// # Errors
    /// [`TopicRefusal`]; a process that has used the topic before does so no more.
    pub(super) fn note(
        &mut self,
        process: ProcessId,
        topic: &str,
        message: &str,
        subscribes: bool,
    ) -> Result<(), TopicRefusal> {
        if let Some(known) = self.topics.get_mut(topic) {
            let is_only_user = known.users.len() == 1 && known.users.contains_key(&process);
            if known.message != message && !is_only_user {
                let found = known.message.clone();
                self.leave(process, topic);
                return Err(TopicRefusal::OtherType(found));
            }
            if let Some(is_subscribed) = known.users.get_mut(&process) {
                *is_subscribed = subscribes;
                if known.message != message {
                    message.clone_into(&mut known.message);
                }
                return Ok(());
            }
        }
        let used = self.used.entry(process).or_default();
        if *used >= MOST_TOPICS {
            return Err(TopicRefusal::TooMany(MOST_TOPICS as u64));
        }
        *used += 1;
        let known = self.topics.entry(topic.to_owned());
        let known = known.or_insert_with(|| Known { message: message.to_owned(), users: BTreeMap::new() });
        known.users.insert(process, subscribes);
        Ok(())
    }

    /// Notes that a process does not use a topic any more.
    pub(super) fn leave(&mut self, process: ProcessId, topic: &str) {
        let Some(known) = self.topics.get_mut(topic) else { return };
        if known.users.remove(&process).is_none() {
            return;
        }
        if known.users.is_empty() {
            self.topics.remove(topic);
        }
        if let Some(used) = self.used.get_mut(&process) {
            *used -= 1;
            if *used == 0 {
                self.used.remove(&process);
            }
        }
    }

    /// Forgets a process that is lost.
    pub(super) fn lost(&mut self, process: ProcessId) {
        self.used.remove(&process);
        self.topics.retain(|_, known| {
            known.users.remove(&process);
            !known.users.is_empty()
        });
    }

    /// Returns true if a process uses a topic with messages of this type.
    pub(super) fn is_used(&self, process: ProcessId, topic: &str, message: &str) -> bool {
        let known = self.topics.get(topic).filter(|known| known.message == message);
        known.is_some_and(|known| known.users.contains_key(&process))
    }

    /// Returns true if a process uses the topic.
    pub(super) fn has(&self, topic: &str) -> bool {
        self.topics.contains_key(topic)
    }

    /// Returns the processes to which a message from `from` goes.
    pub(super) fn targets(&self, topic: &str, from: ProcessId) -> Vec<ProcessId> {
        let users = self.topics.get(topic).into_iter().flat_map(|known| &known.users);
        users.filter(|(user, subscribes)| **subscribes && **user != from).map(|(user, _)| *user).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: ProcessId = None;
    const A: ProcessId = Some(1);
    const B: ProcessId = Some(2);

    /// A process without subscribers is sent nothing, and nobody gets its own messages back.
    #[test]
    fn messages_go_to_subscribing_processes_only() {
        let mut table = Table::default();
        for (process, subscribes) in [(HEAD, true), (A, true), (B, false)] {
            table.note(process, "prices", "Price", subscribes).unwrap();
        }
        assert_eq!(table.targets("prices", B), [HEAD, A]);
        assert_eq!(table.targets("prices", A), [HEAD]);
        table.note(HEAD, "prices", "Price", false).unwrap();
        assert!(table.targets("prices", A).is_empty() && table.targets("other", A).is_empty());
        table.note(B, "prices", "Price", true).unwrap();
        table.lost(A);
        assert_eq!(table.targets("prices", HEAD), [B]);
        table.leave(B, "prices");
        assert!(table.targets("prices", HEAD).is_empty() && table.has("prices"));
        table.leave(HEAD, "prices");
        assert!(!table.has("prices") && table.used.is_empty());
    }

    /// The first user decides the type of the messages until nobody uses the topic any more.
    #[test]
    fn other_type_is_refused_while_a_process_uses_the_topic() {
        let mut table = Table::default();
        table.note(A, "prices", "Price", true).unwrap();
        let refused = table.note(B, "prices", "Text", true);
        assert_eq!(refused, Err(TopicRefusal::OtherType("Price".to_owned())));
        assert!(table.is_used(A, "prices", "Price") && !table.is_used(B, "prices", "Text"));
        table.leave(A, "prices");
        assert_eq!(table.note(B, "prices", "Text", true), Ok(()));
        assert_eq!(table.targets("prices", A), [B]);
    }

    /// A process uses a bounded number of topics, and may use another one when it has left one.
    #[test]
    fn number_of_topics_is_bounded() {
        let mut table = Table::default();
        for number in 0..MOST_TOPICS {
            table.note(A, &number.to_string(), "M", false).unwrap();
        }
        assert_eq!(table.note(A, "more", "M", false), Err(TopicRefusal::TooMany(MOST_TOPICS as u64)));
        assert_eq!((table.note(A, "0", "M", true), table.note(B, "more", "M", false)), (Ok(()), Ok(())));
        table.leave(A, "7");
        assert_eq!(table.note(A, "more", "M", false), Ok(()));
    }
}
