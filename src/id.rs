//! Layer 0: paths and numbers that identify Works, Flows and Apps.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The dotted path of a Work or Flow from the root of its App: `train`, `team.train`, `workers.3`.
///
/// A path is assigned once, when the child joins the tree; it never changes and never passes to a sibling. The path of
/// the root Flow is empty as text and displayed as `root`. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ActorPath(Arc<str>);

impl ActorPath {
    /// Returns the path of the root Flow.
    pub fn root() -> Self {
        Self(Arc::from(""))
    }

    /// Returns the path as text, which is empty for the root Flow.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Longest path accepted from another process, in bytes.
    pub(crate) const LONGEST_FROM_AFAR: usize = 4096;

    /// Returns true for the path of the root Flow.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&str> for ActorPath {
    fn from(path: &str) -> Self {
        Self(Arc::from(path))
    }
}

impl fmt::Display for ActorPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_root() { "root" } else { &self.0 })
    }
}

impl fmt::Debug for ActorPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{self}`")
    }
}

impl Serialize for ActorPath {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ActorPath {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|path| Self(path.into()))
    }
}

/// Number of a Work in its App, the key of the runtime's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct WorkId(pub(crate) u64);

/// Number of a Flow in its App.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct FlowId(pub(crate) u64);

/// Random number of a running App. Addresses carry it, so that the messages of two Apps never mix in one program or on
/// one network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct AppId(u64);

impl AppId {
    /// Placeholder in an address whose Work has not joined an App.
    pub(crate) const NONE: Self = Self(0);

    /// Returns a number that no other App has.
    pub(crate) fn next() -> Self {
        Self(unique())
    }

    /// Returns the number, by which the names of jobs tell the App.
    #[cfg(feature = "remote")]
    pub(crate) fn number(self) -> u64 {
        self.0
    }

    /// Returns the number of the App whose journal has this random identity.
    #[cfg(feature = "journal")]
    pub(crate) fn recorded(identity: [u8; 16]) -> Self {
        let (first, _) = identity.split_first_chunk().expect("eight of sixteen bytes");
        Self(u64::from_be_bytes(*first).max(1))
    }
}

/// Returns a random number that is never 0 and practically never repeats. Predictable: not to be used as a secret.
pub(crate) fn unique() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    // Each `RandomState` has keys different from the one before, and the first keys come from the operating system.
    RandomState::new().build_hasher().finish().max(1)
}

/// A map whose keys are numbers or already hashes. The runtime chooses these keys itself, so that the map needs no
/// protection against chosen keys.
pub(crate) type IdMap<K, V> = std::collections::HashMap<K, V, std::hash::BuildHasherDefault<IdHasher>>;

#[derive(Default)]
pub(crate) struct IdHasher(u64);

impl std::hash::Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        // Fibonacci hashing (Knuth): spreads numbers that differ little.
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u64(number as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
