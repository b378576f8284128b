//! Where a Work lives, and the sizes of what it is given.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Where a Work runs.
///
/// As text, as `--place` and configuration files have it: `thread`, `pool`, `process`, or a [`Selector`] of nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Placement {
    /// A thread (an actix arbiter) of its own: code that blocks harms nobody else.
    #[default]
    Thread,
    /// One of a few threads that many light Works share: code in it must not block.
    Pool,
    /// A process of its own on the machine of the App: a crash, an abort or the end of memory is the failure of
    /// this Work only. The process is the same program, started with `node`.
    Process,
    /// A node that the selector fits, on a thread of its own there unless the selector says otherwise.
    Node(Selector),
}

/// Which nodes are meant: `gpu-1` is the node of that name, `zone=west` those with that label, `*` any node. With
/// `/pool` behind it, Works share threads there as with [`Placement::Pool`].
///
/// ```
/// # use flowright::{Placement, Selector};
/// let placement: Placement = "zone=west/pool".parse().unwrap();
/// assert_eq!(placement, Placement::Node(Selector::label("zone", "west").pooled()));
/// ```
///
/// Each distinct one is kept for as long as the process lives, so that placements can be copied freely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Selector {
    text: &'static str,
    pooled: bool,
}

impl Selector {
    /// The node of this name.
    pub fn name(name: &str) -> Self {
        Self { text: interned(name), pooled: false }
    }

    /// The nodes with this label.
    pub fn label(key: &str, value: &str) -> Self {
        Self { text: interned(&format!("{key}={value}")), pooled: false }
    }

    /// Any node.
    pub fn any() -> Self {
        Self::name("*")
    }

    /// On threads that Works share there.
    pub fn pooled(self) -> Self {
        Self { pooled: true, ..self }
    }

    pub(crate) fn is_pooled(&self) -> bool {
        self.pooled
    }

    /// Whether it is a node of this name and these labels.
    pub(crate) fn fits<'a>(&self, name: &str, mut labels: impl Iterator<Item = (&'a str, &'a str)>) -> bool {
        match self.text.split_once('=') {
            Some(wanted) => labels.any(|label| label == wanted),
            None => self.text == "*" || self.text == name,
        }
    }

    /// The nodes that it means, in words.
    pub(crate) fn describe(&self) -> String {
        match self.text {
            "*" => "any node".to_owned(),
            text if text.contains('=') => format!("a node with the label `{text}`"),
            name => format!("node `{name}`"),
        }
    }

    /// The arguments that make a node one that it means.
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
    let mut texts = TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
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

/// What a Work needs of the node where it runs, or what a node has. The default needs nothing.
///
/// ```
/// # use flowright::Resources;
/// let needs = Resources::gpus(1).and_memory(8 << 30);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Processor cores.
    pub cpus: u32,
    /// Graphics processors.
    pub gpus: u32,
    /// Bytes.
    pub memory: u64,
}

impl Resources {
    /// So many cores.
    pub fn cpus(cpus: u32) -> Self {
        Self { cpus, ..Self::default() }
    }

    /// So many graphics processors.
    pub fn gpus(gpus: u32) -> Self {
        Self { gpus, ..Self::default() }
    }

    /// So many bytes of memory.
    pub fn memory(bytes: u64) -> Self {
        Self { memory: bytes, ..Self::default() }
    }

    /// And so many bytes of memory.
    pub fn and_memory(self, bytes: u64) -> Self {
        Self { memory: bytes, ..self }
    }

    /// And so many cores.
    pub fn and_cpus(self, cpus: u32) -> Self {
        Self { cpus, ..self }
    }

    /// Whether there is room for `more` in this beside what is `used`.
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

/// How many messages wait in a Work's mailbox before senders wait or are refused, unless
/// [`WorkRef::mailbox`](crate::WorkRef::mailbox) says otherwise.
pub const DEFAULT_MAILBOX: usize = 1024;

/// How large the encoded state of one Work may be, in bytes, unless the App says otherwise.
pub const DEFAULT_MAX_STATE_BYTES: usize = 1024 * 1024;
