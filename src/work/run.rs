//! Identity of runs, and the commands to an incarnation.

use std::fmt;

use bytes::Bytes;
use serde::Serialize;

use super::steps::Steps;
use crate::payload::{self, PayloadGuards};
use crate::trace::Cause;
use crate::wire::{self, CodecError};

/// Identity of an input: 128 bits of the BLAKE3 hash of its canonical encoding. The order and the repetition of the
/// items of sequences count, the order of the entries of maps does not; `0.0` equals `-0.0`, all NaNs are equal, and a
/// payload is identified by its content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RunKey([u8; 16]);

impl RunKey {
    pub(crate) fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    fn of(hash: &blake3::Hash) -> Self {
        let mut key = [0; 16];
        key.copy_from_slice(&hash.as_bytes()[..16]);
        Self(key)
    }
}

impl std::hash::Hash for RunKey {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        // The key is a hash already.
        state.write_u64(u64::from_le_bytes(self.0[..8].try_into().expect("eight of sixteen bytes")));
    }
}

impl fmt::Debug for RunKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// An encoded input, with the guards that keep its payloads alive.
#[derive(Clone)]
pub(crate) struct Input {
    pub(crate) bytes: Bytes,
    holds: PayloadGuards,
    /// True if the input contains a sequence of several items.
    has_sequence: bool,
}

/// Largest input that is compared regardless of the order of its sequences, in bytes.
const LONGEST_REORDERED: usize = 64 * 1024;

impl Input {
    pub(crate) fn new<T: Serialize>(input: &T) -> Result<(RunKey, Self), CodecError> {
        let (encoded, holds) = payload::collect(|| wire::encode_noting(input));
        let (bytes, met) = encoded?;
        let hash = if holds.is_empty() && !met.several_forms {
            // An input may also contain a reference whose value is gone, which has no guard. Its bytes identify the one
            // payload that it referred to, which is as good as the content.
            blake3::hash(&bytes)
        } else {
            payload::by_content(|| wire::identity(input))?
        };
        let has_sequence = met.sequence;
        Ok((RunKey::of(&hash), Self { bytes, holds, has_sequence }))
    }

    /// As [`new`](Self::new), for an input that was recorded under a key. A payload in it is identified by its content even
    /// if its value is gone.
    #[cfg(feature = "journal")]
    pub(crate) fn recorded<T: Serialize>(key: RunKey, input: &T) -> Result<(RunKey, Self), CodecError> {
        let (encoded, holds) = payload::collect(|| wire::encode_noting(input));
        let (bytes, met) = encoded?;
        let input_of = |bytes| Self { bytes, holds, has_sequence: met.sequence };
        // Most inputs have one encoding, and still have it.
        if RunKey::of(&blake3::hash(&bytes)) == key {
            return Ok((key, input_of(bytes)));
        }
        let hash = payload::by_content(|| wire::identity(input))?;
        Ok((RunKey::of(&hash), input_of(bytes)))
    }

    /// Wraps an input that arrived from another process.
    pub(crate) fn arrived(bytes: Bytes, holds: PayloadGuards) -> Self {
        Self { bytes, holds, has_sequence: false }
    }

    /// Returns the guards that keep the payloads of the input alive.
    pub(crate) fn holds(&self) -> &PayloadGuards {
        &self.holds
    }

    /// Returns true if another input may differ from this one only in the order of the items of a sequence. Always
    /// false for inputs of more than [`LONGEST_REORDERED`] bytes.
    pub(crate) fn may_be_reordered(&self) -> bool {
        self.has_sequence && self.bytes.len() <= LONGEST_REORDERED
    }

    /// Returns a hash that is equal for inputs which differ only in the order of the items of sequences; `None` if the
    /// input cannot be encoded.
    pub(crate) fn unordered<T: Serialize>(input: &T) -> Option<u64> {
        let hash = payload::by_content(|| wire::unordered(input)).ok()?;
        hash.as_bytes().first_chunk().map(|first| u64::from_le_bytes(*first))
    }
}

/// Order to a Work to execute one run.
pub(crate) struct RunOrder {
    /// Number of this attempt at a run, unique within the Work, so that a late report cannot be taken for one of
    /// another.
    pub(crate) run: u64,
    pub(crate) attempt: u32,
    pub(crate) input: Input,
    /// Steps that are known of earlier attempts.
    pub(crate) steps: Steps,
    /// True if the Flow already counts the run as started: see [`Mailbox::run`](super::Mailbox::run).
    pub(crate) announced: bool,
    /// Trace context of the order.
    pub(crate) cause: Cause,
}

/// Command from a Flow to an incarnation.
pub(crate) enum Command {
    /// Boxed, because most commands and messages are small.
    Run(Box<RunOrder>),
    /// Ends this run early.
    Cancel { run: u64 },
    /// Ends this incarnation.
    Stop,
    /// Confirms that everything that the incarnation has sent before this barrier is durable.
    Durable { barrier: u64 },
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn key<T: Serialize>(input: &T) -> RunKey {
        Input::new(input).unwrap().0
    }

    #[test]
    fn order_and_repetition_count() {
        assert_ne!(key(&("src", "dst")), key(&("dst", "src")));
        let lists: [&[i32]; 4] = [&[1, 2], &[2, 1], &[1, 1], &[1]];
        for (i, a) in lists.iter().enumerate() {
            for (j, b) in lists.iter().enumerate() {
                assert_eq!(key(a) == key(b), i == j, "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn sixty_thousand_numbers_are_sixty_thousand_runs() {
        let keys: HashMap<_, _> = (0..60_000_u32).map(|n| (key(&n), n)).collect();
        assert_eq!(keys.len(), 60_000);
    }

    proptest! {
        #[test]
        fn keys_are_equal_exactly_when_inputs_are(
            a in proptest::collection::vec((any::<i64>(), ".*"), 0..6),
            b in proptest::collection::vec((any::<i64>(), ".*"), 0..6),
        ) {
            prop_assert_eq!(key(&a) == key(&b), a == b);
            prop_assert_eq!(key(&a), key(&a.clone()));
        }
    }
}
