//! The key of an allocation, which is the name of its job and of its node.

use std::fmt;
use std::str::FromStr;

/// Key of an allocation: the group and a random part, as in `a100-k3x9wq`.
///
/// The job or Pod is named `fr-APP-KEY`, where `APP` is the tag of the App, so that an engine's list says of each
/// allocation to which App and group it belongs, with no record beside it. The node has the key as its name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    text: String,
    /// Length of the name of the group, which is the beginning of the text.
    group: usize,
}

/// Number of characters of the random part.
const RANDOM: usize = 6;

/// Characters of the random part, which are valid in names of jobs, Pods and hosts.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

impl Key {
    /// Makes a key from random bits.
    pub(super) fn new(group: &str, random: u64) -> Self {
        let digit = |place: usize| char::from(ALPHABET[(random >> (5 * place)) as usize % ALPHABET.len()]);
        let digits: String = (0..RANDOM).map(digit).collect();
        Self { text: format!("{group}-{digits}"), group: group.len() }
    }

    /// Returns the name of the group.
    pub(crate) fn group(&self) -> &str {
        &self.text[..self.group]
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the name of the job or Pod.
    pub(crate) fn job_name(&self, tag: &str) -> String {
        format!("fr-{tag}-{self}")
    }

    /// Returns the key of the job or Pod of this name, if it belongs to the App with this tag.
    pub(crate) fn of_job(name: &str, tag: &str) -> Option<Self> {
        name.strip_prefix("fr-")?.strip_prefix(tag)?.strip_prefix('-')?.parse().ok()
    }
}

impl FromStr for Key {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (group, random) = text.rsplit_once('-').ok_or(())?;
        let is_random = random.len() == RANDOM && random.bytes().all(|byte| ALPHABET.contains(&byte));
        match is_random && !group.is_empty() {
            true => Ok(Self { text: text.to_owned(), group: group.len() }),
            false => Err(()),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The name of a job tells the App, the group and the key.
    #[test]
    fn job_name_is_read_back() {
        for group in ["a", "a100", "west-2-gpu"] {
            for random in [0, 1, u64::MAX, 0x1234_5678_9abc_def0] {
                let key = Key::new(group, random);
                assert_eq!(key.group(), group);
                assert_eq!(Key::of_job(&key.job_name("3fa9c2d1"), "3fa9c2d1"), Some(key.clone()));
                assert_eq!(Key::of_job(&key.job_name("3fa9c2d1"), "3fa9c2d"), None);
                assert_eq!(key.as_str().parse(), Ok(key));
            }
        }
    }

    /// Jobs of others are no allocations.
    #[test]
    fn other_names_are_no_keys() {
        for name in ["", "fr-", "fr-tag-", "fr-tag-a", "fr-tag-a-short", "fr-tag--abcdef", "my-job-abcdef"] {
            assert_eq!(Key::of_job(name, "tag"), None, "{name}");
        }
    }
}
