//! The encodings of times, checksums and states in a journal, and that of history in format 2.

use std::hash::Hasher as _;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use super::{Reacted, Reaction, ReactionEnd, Table};
use crate::id::ActorPath;
use crate::wire;

/// The version of the encoding, its first byte.
const VERSION: u8 = 1;

/// The kind of a row, part of its checksum so that a row never passes for one of another table.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Meta = 1,
    Start = 2,
    Live = 3,
    State = 4,
    History = 5,
    Image = 6,
    Fold = 7,
    Value = 8,
}

/// Returns the checksum of a row: 64 bits of the BLAKE3 hash of its columns.
pub(super) fn checksum(kind: Kind, columns: &[&[u8]]) -> i64 {
    let length: usize = columns.iter().map(|column| column.len() + 8).sum();
    let hash = if length < 900 {
        // A buffer is faster than a `Hasher` for short rows, which are most.
        let mut buffer = [0; 901];
        let mut at = 1;
        buffer[0] = kind as u8;
        for column in columns {
            buffer[at..at + 8].copy_from_slice(&(column.len() as u64).to_le_bytes());
            buffer[at + 8..at + 8 + column.len()].copy_from_slice(column);
            at += 8 + column.len();
        }
        blake3::hash(&buffer[..at])
    } else {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[kind as u8]);
        for column in columns {
            hasher.update(&(column.len() as u64).to_le_bytes()).update(column);
        }
        hasher.finalize()
    };
    let mut sum = [0; 8];
    sum.copy_from_slice(&hash.as_bytes()[..8]);
    i64::from_le_bytes(sum)
}

/// Returns the checksum of a row of which there are many: 64 bits of XXH3.
pub(super) fn fast_checksum(kind: Kind, columns: &[&[u8]]) -> i64 {
    let length: usize = columns.iter().map(|column| column.len() + 4).sum();
    let mut buffer = [0; 512];
    if length < buffer.len() {
        let mut at = 1;
        buffer[0] = kind as u8;
        for column in columns {
            buffer[at..at + 4].copy_from_slice(&(column.len() as u32).to_le_bytes());
            buffer[at + 4..at + 4 + column.len()].copy_from_slice(column);
            at += 4 + column.len();
        }
        return XxHash3_64::oneshot(&buffer[..at]) as i64;
    }
    let mut hasher = XxHash3_64::new();
    hasher.write(&[kind as u8]);
    for column in columns {
        hasher.write(&(column.len() as u64).to_le_bytes());
        hasher.write(column);
    }
    hasher.finish() as i64
}

/// Returns the number of nanoseconds since the Unix epoch, negative before it.
pub(super) fn wall_nanos(wall: SystemTime) -> i64 {
    match wall.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => nanos(after),
        Err(before) => -nanos(before.duration()),
    }
}

pub(super) fn wall_from(nanos: i64) -> SystemTime {
    let by = Duration::from_nanos(nanos.unsigned_abs());
    let epoch = SystemTime::UNIX_EPOCH;
    if nanos < 0 { epoch.checked_sub(by) } else { epoch.checked_add(by) }.unwrap_or(epoch)
}

pub(super) fn nanos(at: Duration) -> i64 {
    i64::try_from(at.as_nanos()).unwrap_or(i64::MAX)
}

pub(super) fn duration_from(nanos: i64) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
}

/// A change in the history. Changes of states are in a table of their own.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(super) enum Recorded {
    #[serde(rename = "p")]
    Put(ActorPath, Table, Bytes, Bytes),
    #[serde(rename = "d")]
    Delete(ActorPath, Table, Bytes),
    /// The state of the actor changed.
    #[serde(rename = "s")]
    State(ActorPath),
    #[serde(rename = "l")]
    Left(ActorPath),
    /// The Flows reacted: the changes before this one are those that they saw, the others those that they made.
    #[serde(rename = "r")]
    Reacted(Vec<RecordedReaction>),
}

/// The path of a Flow, the time from its reaction to that of the transaction in nanoseconds, the number of the reaction
/// and its end.
pub(super) type RecordedReaction = (ActorPath, u64, u64, Option<ReactionEnd>);

/// The transactions of a group in the history.
pub(super) type Recording = Vec<RecordedParts>;

/// `at` and `wall` in nanoseconds, and the changes.
pub(super) type RecordedParts = (i64, i64, Vec<Recorded>);

/// Encodes a value behind the version of the encoding.
pub(super) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, wire::CodecError> {
    let mut bytes = bytes::BytesMut::with_capacity(256);
    bytes.extend_from_slice(&[VERSION]);
    wire::encode_into(value, &mut bytes)?;
    Ok(bytes.into())
}

/// Decodes a value that [`encode`] has encoded.
///
/// # Errors
/// A description of the problem.
pub(super) fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => wire::decode(rest).map_err(|error| error.to_string()),
        Some((version, _)) => Err(format!("it has encoding {version}, and this program knows {VERSION}")),
        None => Err("it is empty".into()),
    }
}

impl Recorded {
    /// Records the reactions of a transaction that was made at the time `at`.
    pub(super) fn reacted(reactions: Vec<Reaction>, at: Duration) -> Self {
        let recorded = |Reaction { flow, at: time, number, end }| {
            let before = u64::try_from(at.saturating_sub(time).as_nanos()).unwrap_or(u64::MAX);
            (flow, before, number, end)
        };
        Self::Reacted(reactions.into_iter().map(recorded).collect())
    }
}

/// Reads the reactions of a transaction that was made at the time `at`, before which there were `seen` changes.
pub(super) fn reacted(recorded: Vec<RecordedReaction>, at: Duration, seen: usize) -> Reacted {
    let reaction = |(flow, before, number, end)| Reaction {
        flow,
        at: at.saturating_sub(Duration::from_nanos(before)),
        number,
        end,
    };
    Reacted { seen, reactions: recorded.into_iter().map(reaction).collect() }
}

/// A row of an image: path, table, key, value.
pub(super) type ImageRow = (ActorPath, Table, Bytes, Bytes);
