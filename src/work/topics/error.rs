//! Errors of topics, and their names.

use serde::{Deserialize, Serialize};

use crate::printable::one_line;

/// Longest name of a topic, in characters.
const LONGEST_NAME: usize = 200;

/// Error returned when a topic cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopicError {
    /// The name is not that of a topic.
    #[error(
        "{name:?} cannot be the name of a topic: a name has 1 to {LONGEST_NAME} characters, each of them an ASCII letter, a \
         digit, or one of `.`, `_`, `-` and `:`"
    )]
    Name {
        /// The name; its beginning if it is too long.
        name: String,
    },
    /// The topic is in use with messages of another type.
    #[error(
        "topic `{topic}` has messages of type `{found}` and not `{wanted}`: use one type for it in the whole App, or \
         another name"
    )]
    OtherType {
        /// Name of the topic.
        topic: String,
        /// The type of its messages, as text.
        found: String,
        /// The type that was asked for, as text.
        wanted: String,
    },
    /// The process has as many topics as it may have. Drop the [`Topic`](crate::Topic)s that are not used any more.
    #[error(
        "topic `{topic}` cannot be opened: this process has {limit} topics; drop each `Topic` that is not used any more"
    )]
    TooManyTopics {
        /// Name of the topic.
        topic: String,
        /// The limit.
        limit: u64,
    },
    /// The process has as many subscriptions as it may have.
    #[error("topic `{topic}` cannot be subscribed to: the Works of this process have {limit} subscriptions")]
    TooManySubscriptions {
        /// Name of the topic.
        topic: String,
        /// The limit.
        limit: u64,
    },
    /// The head cannot be asked, or this process takes no part in the App of the topic any more.
    #[error("topic `{topic}` is out of reach: {why}")]
    Unreachable {
        /// Name of the topic.
        topic: String,
        /// Cause, as text.
        why: String,
    },
    /// The message cannot be sent to other processes. The subscribers of this process get it.
    #[error("the message to topic `{topic}` cannot be sent to other processes: {why}")]
    Unsendable {
        /// Name of the topic.
        topic: String,
        /// Cause, as text.
        why: String,
    },
}

/// Reason why the head does not let a process use a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TopicRefusal {
    /// Its messages are of this type.
    OtherType(String),
    /// The process has this many topics, and may have no more.
    TooMany(u64),
}

impl TopicRefusal {
    pub(super) fn into_error(self, topic: &str, wanted: &str) -> TopicError {
        let topic = topic.to_owned();
        match self {
            Self::OtherType(found) => TopicError::OtherType {
                topic,
                found: one_line(&found).into_owned(),
                wanted: wanted.to_owned(),
            },
            Self::TooMany(limit) => TopicError::TooManyTopics { topic, limit },
        }
    }
}

/// Checks the name of a topic.
///
/// # Errors
/// [`TopicError::Name`].
pub(crate) fn check_topic(name: &str) -> Result<(), TopicError> {
    let is_good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':');
    if !name.is_empty() && name.len() <= LONGEST_NAME && name.chars().all(is_good) {
        return Ok(());
    }
    Err(TopicError::Name { name: name.chars().take(LONGEST_NAME).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name is good in a URL and in a line of text.
    #[test]
    fn name_is_short_and_has_plain_characters() {
        for good in ["prices", "team.losses:train_1-b", "7", &"x".repeat(200)] {
            assert_eq!(check_topic(good), Ok(()));
        }
        for bad in ["", "a b", "a/b", "é", "a\n", &"x".repeat(201)] {
            let error = check_topic(bad).unwrap_err();
            assert!(error.to_string().contains("1 to 200 characters"), "{error}");
        }
    }

    /// The error names both types.
    #[test]
    fn refusal_names_both_types() {
        let error = TopicRefusal::OtherType("app::A".to_owned()).into_error("prices", "app::B");
        let text = "topic `prices` has messages of type `app::A` and not `app::B`";
        assert!(error.to_string().starts_with(text), "{error}");
        let error = TopicRefusal::TooMany(3).into_error("prices", "app::B");
        assert!(error.to_string().contains("has 3 topics"), "{error}");
    }
}
