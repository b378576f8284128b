//! Layer 0: names that every layer uses.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The dotted path of a Work or Flow from the root of its App: `train`, `team.train`, `workers.3`.
///
/// A path is given once, when the child joins the tree, and never changes or passes to a sibling.
/// The root Flow's path is empty. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ActorPath(Arc<str>);

impl ActorPath {
    /// The path of the root Flow.
    pub fn root() -> Self {
        Self(Arc::from(""))
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Length of the longest path that another process may name, in bytes.
    pub(crate) const LONGEST_FROM_AFAR: usize = 4096;

    /// Whether this is the root Flow's path.
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

/// A Work of one App, by number: what the runtime's tables are keyed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct WorkId(pub(crate) u64);

/// A Flow of one App, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct FlowId(pub(crate) u64);

/// A running App; addresses carry it, so that two Apps never mix, in one program or on one network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct AppId(u64);

impl AppId {
    /// No App.
    pub(crate) const NONE: Self = Self(0);

    /// A number that no other App has.
    pub(crate) fn next() -> Self {
        Self(unique())
    }
}

/// A number that was not given before: random, and never 0. Not a secret.
pub(crate) fn unique() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    // Each `RandomState` has other keys than the one before, and its first ones come from the system.
    RandomState::new().build_hasher().finish().max(1)
}

/// A map by number, or by what is a hash already. The numbers are the runtime's own, so that they need no hash that an attacker
/// cannot foresee.
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
