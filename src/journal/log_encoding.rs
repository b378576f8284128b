//! The encoding of groups of transactions in the log, and of the rows of images.
//!
//! A row of the log is most of what a commit writes. It has no names: numbers are variable-length (LEB128), the kind of a
//! change and its table are one byte, and a path is written where it is first met, then referred to by its number.
//!
//! # Guarantees
//! - What is encoded is decoded as the same changes, in the same order.
//! - The encoding of format 2, MessagePack with names, is decoded as well.
//! - Decoding arbitrary bytes does not panic, and allocates no more than they are long.

use std::collections::HashMap;

use bytes::Bytes;

use super::encoding::{self, ImageRow, Recorded, RecordedReaction, Recording};
use super::{ReactionEnd, Table};
use crate::id::ActorPath;

/// The version of this encoding, its first byte. Version 1 is that of [`encoding::encode`].
const VERSION: u8 = 2;

/// Kinds of changes, the low bits of the first byte of each; the others are the number of the table.
const PUT: u8 = 0;
const DELETE: u8 = 1;
const STATE: u8 = 2;
const LEFT: u8 = 3;
const REACTED: u8 = 4;

/// The number of bits of a kind.
const KIND_BITS: u32 = 3;

/// Ends of reactions.
const NORMAL: u8 = 0;
const FAILED: u8 = 1;
const STOPS: u8 = 2;

/// Encodes the transactions of a group.
pub(super) fn encode(recording: &Recording) -> Vec<u8> {
    let mut out = Out::new(256);
    out.number(recording.len() as u64);
    let (mut last_at, mut last_wall) = (0, 0);
    for (at, wall, changes) in recording {
        out.signed(at.wrapping_sub(last_at));
        out.signed(wall.wrapping_sub(last_wall));
        (last_at, last_wall) = (*at, *wall);
        out.number(changes.len() as u64);
        changes.iter().for_each(|change| out.change(change));
    }
    out.bytes
}

/// Decodes the transactions of a group. Keys and values share the memory of `bytes`.
///
/// # Errors
/// A description of the problem.
pub(super) fn decode(bytes: &Bytes) -> Result<Recording, String> {
    let Some(mut input) = In::new(bytes) else { return encoding::decode(bytes) };
    let transactions = input.count()?;
    let mut recording = Recording::with_capacity(transactions);
    let (mut at, mut wall) = (0_i64, 0_i64);
    for _ in 0..transactions {
        at = at.wrapping_add(input.signed()?);
        wall = wall.wrapping_add(input.signed()?);
        let changes = (0..input.count()?).map(|_| input.change()).collect::<Result<_, _>>()?;
        recording.push((at, wall, changes));
    }
    input.end()?;
    Ok(recording)
}

/// Encodes rows of an image.
pub(super) fn encode_rows(rows: &[ImageRow]) -> Vec<u8> {
    let mut out = Out::new(rows.len() * 64);
    out.number(rows.len() as u64);
    for (path, table, key, value) in rows {
        out.bytes.push(*table as u8);
        out.path(path);
        out.blob(key);
        out.blob(value);
    }
    out.bytes
}

/// Decodes rows of an image.
///
/// # Errors
/// A description of the problem.
pub(super) fn decode_rows(bytes: &Bytes) -> Result<Vec<ImageRow>, String> {
    let Some(mut input) = In::new(bytes) else { return encoding::decode(bytes) };
    let rows = (0..input.count()?).map(|_| input.row()).collect::<Result<_, _>>()?;
    input.end()?;
    Ok(rows)
}

fn table(number: u8) -> Result<Table, String> {
    Table::ALL.get(usize::from(number)).copied().ok_or_else(|| format!("it has an unknown table {number}"))
}

/// Writes an encoding.
struct Out<'a> {
    bytes: Vec<u8>,
    /// The paths that were written, with their numbers, from 1.
    paths: HashMap<&'a ActorPath, u64>,
    last: Option<(&'a ActorPath, u64)>,
}

impl<'a> Out<'a> {
    fn new(capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(capacity);
        bytes.push(VERSION);
        Self { bytes, paths: HashMap::new(), last: None }
    }

    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.bytes.push(number as u8);
    }

    /// Writes a number of either sign, of which small ones are short.
    fn signed(&mut self, number: i64) {
        self.number((number << 1 ^ number >> 63) as u64);
    }

    fn blob(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
    }

    fn path(&mut self, path: &'a ActorPath) {
        // Most changes are of the actor of the one before.
        if let Some((last, number)) = self.last
            && last == path
        {
            return self.number(number);
        }
        let next = self.paths.len() as u64 + 1;
        let number = *self.paths.entry(path).or_insert(next);
        self.last = Some((path, number));
        if number == next {
            self.number(0);
            self.blob(path.as_str().as_bytes());
        } else {
            self.number(number);
        }
    }

    fn change(&mut self, change: &'a Recorded) {
        let head = |kind, table: Table| kind | (table as u8) << KIND_BITS;
        match change {
            Recorded::Put(path, table, key, value) => {
                self.bytes.push(head(PUT, *table));
                self.path(path);
                self.blob(key);
                self.blob(value);
            }
            Recorded::Delete(path, table, key) => {
                self.bytes.push(head(DELETE, *table));
                self.path(path);
                self.blob(key);
            }
            Recorded::State(path) => {
                self.bytes.push(STATE);
                self.path(path);
            }
            Recorded::Left(path) => {
                self.bytes.push(LEFT);
                self.path(path);
            }
            Recorded::Reacted(reactions) => {
                self.bytes.push(REACTED);
                self.number(reactions.len() as u64);
                reactions.iter().for_each(|reaction| self.reaction(reaction));
            }
        }
    }

    fn reaction(&mut self, (flow, before, number, end): &'a RecordedReaction) {
        self.path(flow);
        self.number(*before);
        self.number(*number);
        let (kind, message) = match end {
            None => return self.bytes.push(NORMAL),
            Some(ReactionEnd::Failed(message)) => (FAILED, message),
            Some(ReactionEnd::Stops(message)) => (STOPS, message),
        };
        self.bytes.push(kind);
        self.blob(message.as_bytes());
    }
}

/// Reads an encoding.
struct In<'a> {
    all: &'a Bytes,
    at: usize,
    paths: Vec<ActorPath>,
}

impl<'a> In<'a> {
    /// Begins to read; `None` if the bytes are of another version.
    fn new(all: &'a Bytes) -> Option<Self> {
        (all.first() == Some(&VERSION)).then_some(Self { all, at: 1, paths: Vec::new() })
    }

    fn byte(&mut self) -> Result<u8, String> {
        let byte = self.all.get(self.at).copied().ok_or("it ends too early")?;
        self.at += 1;
        Ok(byte)
    }

    fn number(&mut self) -> Result<u64, String> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err("a number of it is too long".into())
    }

    fn signed(&mut self) -> Result<i64, String> {
        self.number().map(|number| (number >> 1) as i64 ^ -((number & 1) as i64))
    }

    /// Reads the number of things that follow, each of which has a byte at least.
    fn count(&mut self) -> Result<usize, String> {
        let count = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        if count <= self.all.len() - self.at { Ok(count) } else { Err("it ends too early".into()) }
    }

    fn blob(&mut self) -> Result<Bytes, String> {
        let length = self.count()?;
        let (begin, end) = (self.at, self.at + length);
        self.at = end;
        Ok(self.all.slice(begin..end))
    }

    fn text(&mut self) -> Result<String, String> {
        String::from_utf8(self.blob()?.to_vec()).map_err(|_| "a text of it is no UTF-8".into())
    }

    fn path(&mut self) -> Result<ActorPath, String> {
        let number = self.number()?;
        if number == 0 {
            let path = ActorPath::from(&*self.text()?);
            self.paths.push(path.clone());
            return Ok(path);
        }
        let known = usize::try_from(number - 1).ok().and_then(|index| self.paths.get(index));
        known.cloned().ok_or_else(|| format!("it refers to path {number} of {}", self.paths.len()))
    }

    fn row(&mut self) -> Result<ImageRow, String> {
        let table = table(self.byte()?)?;
        Ok((self.path()?, table, self.blob()?, self.blob()?))
    }

    fn change(&mut self) -> Result<Recorded, String> {
        let head = self.byte()?;
        let kind = head & ((1 << KIND_BITS) - 1);
        let of = head >> KIND_BITS;
        Ok(match kind {
            PUT => {
                let table = table(of)?;
                Recorded::Put(self.path()?, table, self.blob()?, self.blob()?)
            }
            DELETE => {
                let table = table(of)?;
                Recorded::Delete(self.path()?, table, self.blob()?)
            }
            STATE => Recorded::State(self.path()?),
            LEFT => Recorded::Left(self.path()?),
            REACTED => {
                let count = self.count()?;
                Recorded::Reacted((0..count).map(|_| self.reaction()).collect::<Result<_, _>>()?)
            }
            _ => return Err(format!("it has an unknown kind of change {kind}")),
        })
    }

    fn reaction(&mut self) -> Result<RecordedReaction, String> {
        let (flow, before, number) = (self.path()?, self.number()?, self.number()?);
        let end = match self.byte()? {
            NORMAL => None,
            FAILED => Some(ReactionEnd::Failed(self.text()?)),
            STOPS => Some(ReactionEnd::Stops(self.text()?)),
            end => return Err(format!("a reaction has an unknown end {end}")),
        };
        Ok((flow, before, number, end))
    }

    fn end(&self) -> Result<(), String> {
        if self.at == self.all.len() { Ok(()) } else { Err("it has further bytes at its end".into()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path() -> impl Strategy<Value = ActorPath> {
        prop_oneof![
            Just(ActorPath::root()),
            "[a-c]{1,2}(\\.[0-9]{1,3})?".prop_map(|path| ActorPath::from(&*path))
        ]
    }

    fn blob() -> impl Strategy<Value = Bytes> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..20),
            // Lengths of several bytes.
            (120_usize..300).prop_map(|length| vec![7; length])
        ]
        .prop_map(Bytes::from)
    }

    fn table() -> impl Strategy<Value = Table> {
        prop::sample::select(&Table::ALL)
    }

    fn reaction() -> impl Strategy<Value = RecordedReaction> {
        let end = prop_oneof![
            Just(None),
            ".{0,5}".prop_map(|message| Some(ReactionEnd::Failed(message))),
            ".{0,5}".prop_map(|message| Some(ReactionEnd::Stops(message))),
        ];
        (path(), any::<u64>(), any::<u64>(), end)
    }

    fn change() -> impl Strategy<Value = Recorded> {
        prop_oneof![
            (path(), table(), blob(), blob())
                .prop_map(|(path, table, key, value)| Recorded::Put(path, table, key, value)),
            (path(), table(), blob()).prop_map(|(path, table, key)| Recorded::Delete(path, table, key)),
            path().prop_map(Recorded::State),
            path().prop_map(Recorded::Left),
            prop::collection::vec(reaction(), 0..3).prop_map(Recorded::Reacted),
        ]
    }

    fn recording() -> impl Strategy<Value = Recording> {
        prop::collection::vec((any::<i64>(), any::<i64>(), prop::collection::vec(change(), 0..8)), 0..5)
    }

    /// A change of a byte, or a cut.
    fn damaged(bytes: &[u8], at: usize, by: u8) -> Bytes {
        let mut damaged = bytes.to_vec();
        match by {
            0 => damaged.truncate(at % bytes.len()),
            by => damaged[at % bytes.len()] ^= by,
        }
        damaged.into()
    }

    proptest! {
        /// Groups come back as they were, in this encoding and in that of format 2; other bytes do not panic.
        #[test]
        fn recorded_groups_come_back(recording in recording(), at in any::<usize>(), by in any::<u8>()) {
            let encoded = encode(&recording);
            prop_assert_eq!(&decode(&damaged(&encoded, 0, 4)).is_err(), &true);
            let older = encoding::encode(&recording).unwrap();
            for bytes in [encoded, older] {
                prop_assert_eq!(&decode(&Bytes::from(bytes.clone())).unwrap(), &recording);
                let _ = decode(&damaged(&bytes, at, by));
            }
        }

        /// The rows of images come back as they were, and damaged ones cause no panic.
        #[test]
        fn rows_of_images_come_back(
            rows in prop::collection::vec((path(), table(), blob(), blob()), 0..20),
            at in any::<usize>(),
            by in any::<u8>(),
        ) {
            for bytes in [encode_rows(&rows), encoding::encode(&rows).unwrap()] {
                prop_assert_eq!(&decode_rows(&Bytes::from(bytes.clone())).unwrap(), &rows);
                let _ = decode_rows(&damaged(&bytes, at, by));
            }
        }
    }
}
