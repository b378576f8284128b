//! Placement and limits of Works.

use std::collections::BTreeSet;
use std::fmt;

use parking_lot::Mutex;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Place where a Work runs.
///
/// The text form, for `--place` and configuration files, is `thread`, `pool`, `process`, or a [`Selector`] of nodes:
///
/// ```
/// # use flowright::{Placement, Selector};
/// assert_eq!("gpu-1".parse(), Ok(Placement::Node(Selector::name("gpu-1"))));
/// assert_eq!(Placement::Process.to_string(), "process");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Placement {
    /// A thread of its own, so that blocking code delays no other Work.
    #[default]
    Thread,
    /// A thread of a small pool, shared by many light Works, whose code must not block.
    Pool,
    /// A process of its own on the machine of the App: a crash, an abort or memory exhaustion fails this Work only. The
    /// process is an instance of the same program, started with `node`.
    Process,
    /// A node that matches the selector; a thread of its own there unless the selector is pooled.
    Node(Selector),
}

/// Selector of nodes: `gpu-1` is the node of that name, `zone=west` matches nodes with that label, `*` matches any
/// node. With the suffix `/pool`, Works share threads there as with [`Placement::Pool`].
///
/// ```
/// # use flowright::{Placement, Selector};
/// let placement: Placement = "zone=west/pool".parse().unwrap();
/// assert_eq!(placement, Placement::Node(Selector::label("zone", "west").pool()));
/// ```
///
/// The text of each distinct selector is kept until the process ends, so that placements can be `Copy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Selector {
    text: &'static str,
    pooled: bool,
}

impl Selector {
    /// Selects the node of this name.
    pub fn name(name: &str) -> Self {
        Self { text: interned(name), pooled: false }
    }

    /// Selects the nodes with this label.
    pub fn label(key: &str, value: &str) -> Self {
        Self { text: interned(&format!("{key}={value}")), pooled: false }
    }

    /// Selects any node.
    pub fn any() -> Self {
        Self::name("*")
    }

    /// Places the Works on threads that they share with others on the node.
    pub fn pool(self) -> Self {
        Self { pooled: true, ..self }
    }

    pub(crate) fn is_pooled(&self) -> bool {
        self.pooled
    }

    /// Returns true if a node with this name and these labels matches.
    pub(crate) fn fits<'a>(&self, name: &str, mut labels: impl Iterator<Item = (&'a str, &'a str)>) -> bool {
        match self.text.split_once('=') {
            Some(wanted) => labels.any(|label| label == wanted),
            None => self.text == "*" || self.text == name,
        }
    }

    /// Returns true if the node is selected by its name.
    #[cfg(feature = "remote")]
    pub(crate) fn is_name(&self) -> bool {
        self.text != "*" && !self.text.contains('=')
    }

    /// An order among selectors, without a meaning of its own.
    pub(crate) fn order(&self, other: &Self) -> std::cmp::Ordering {
        self.text.cmp(other.text).then(self.pooled.cmp(&other.pooled))
    }

    /// Returns the selected nodes in words.
    pub(crate) fn describe(&self) -> String {
        match self.text {
            "*" => "any node".to_owned(),
            text if text.contains('=') => format!("a node with the label `{text}`"),
            name => format!("node `{name}`"),
        }
    }

    /// Returns the command line arguments that make a node match.
    pub(crate) fn arguments(&self) -> String {
        match self.text {
            "*" => String::new(),
            text if text.contains('=') => format!(" --label {text}"),
            name => format!(" --name {name}"),
        }
    }
}

fn interned(text: &str) -> &'static str {
    static TEXTS: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut texts = TEXTS.lock();
    if let Some(known) = texts.get(text) {
        return known;
    }
    let text: &'static str = Box::leak(text.into());
    texts.insert(text);
    text
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.text, if self.pooled { "/pool" } else { "" })
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Thread => f.write_str("thread"),
            Self::Pool => f.write_str("pool"),
            Self::Process => f.write_str("process"),
            Self::Node(selector) => selector.fmt(f),
        }
    }
}

impl std::str::FromStr for Placement {
    type Err = UnknownPlacement;

    fn from_str(text: &str) -> Result<Self, UnknownPlacement> {
        match text {
            "thread" => return Ok(Self::Thread),
            "pool" => return Ok(Self::Pool),
            "process" => return Ok(Self::Process),
            _ => {}
        }
        let (node, pooled) = match text.strip_suffix("/pool") {
            Some(node) => (node, true),
            None => (text, false),
        };
        let is_word = |word: &str| {
            !word.is_empty() && word.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '.'))
        };
        let good = match node.split_once('=') {
            Some((key, value)) => is_word(key) && is_word(value),
            None => node == "*" || is_word(node),
        };
        if good {
            Ok(Self::Node(Selector { text: interned(node), pooled }))
        } else {
            Err(UnknownPlacement(text.to_owned()))
        }
    }
}

impl Serialize for Placement {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Placement {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Error returned for a text that is not a placement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a placement; valid ones are `thread` (a thread of its own), `pool` (a few shared threads), `process` (a \
     process of its own), the name of a node such as `gpu-1`, a label of nodes such as `zone=west`, and `*` (any node)"
)]
pub struct UnknownPlacement(String);

/// Resources that a Work needs or a node has. The default needs nothing. The parts can be given in any order:
///
/// ```
/// # use flowright::Resources;
/// let needs = Resources::gpus(1).and_memory(8 << 30).and_cpus(2);
/// assert_eq!(needs, Resources::cpus(2).and_gpus(1).and_memory(8 << 30));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
#[must_use]
pub struct Resources {
    /// Number of processor cores.
    pub cpus: u32,
    /// Number of graphics processors.
    pub gpus: u32,
    /// Memory, in bytes.
    pub memory: u64,
}

impl Resources {
    /// Returns a need of this number of processor cores.
    pub fn cpus(cpus: u32) -> Self {
        Self { cpus, ..Self::default() }
    }

    /// Returns a need of this number of graphics processors.
    pub fn gpus(gpus: u32) -> Self {
        Self { gpus, ..Self::default() }
    }

    /// Returns a need of this much memory, in bytes.
    pub fn memory(bytes: u64) -> Self {
        Self { memory: bytes, ..Self::default() }
    }

    /// Sets the memory that is needed too, in bytes.
    pub fn and_memory(self, bytes: u64) -> Self {
        Self { memory: bytes, ..self }
    }

    /// Sets the number of graphics processors that are needed too.
    pub fn and_gpus(self, gpus: u32) -> Self {
        Self { gpus, ..self }
    }

    /// Sets the number of processor cores that are needed too.
    pub fn and_cpus(self, cpus: u32) -> Self {
        Self { cpus, ..self }
    }

    /// Returns true if these resources suffice for `more` in addition to `used`.
    pub(crate) fn has_room(&self, used: Self, more: Self) -> bool {
        used.cpus.saturating_add(more.cpus) <= self.cpus
            && used.gpus.saturating_add(more.gpus) <= self.gpus
            && used.memory.saturating_add(more.memory) <= self.memory
    }

    pub(crate) fn plus(self, more: Self) -> Self {
        Self {
            cpus: self.cpus.saturating_add(more.cpus),
            gpus: self.gpus.saturating_add(more.gpus),
            memory: self.memory.saturating_add(more.memory),
        }
    }
}

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cpus, {} gpus, {} MiB", self.cpus, self.gpus, self.memory >> 20)
    }
}

/// Default capacity of a Work's mailbox, in messages. Senders to a full mailbox wait or get their message back. Set
/// another with [`WorkRef::mailbox`](crate::WorkRef::mailbox).
pub const DEFAULT_MAILBOX: usize = 1024;

/// Default limit of the encoded state of one Work, in bytes. The App can set another.
pub const DEFAULT_MAX_STATE_BYTES: usize = 1024 * 1024;
