//! Size of values in MessagePack, precise enough to enforce a limit.

use super::Value;

#[inline]
pub(super) fn unsigned_len(n: u64) -> usize {
    match n {
        0..=0x7f => 1,
        0x80..=0xff => 2,
        0x100..=0xffff => 3,
        0x1_0000..=0xffff_ffff => 5,
        _ => 9,
    }
}

#[inline]
pub(super) fn signed_len(n: i64) -> usize {
    match n {
        -0x20..=0x7f => 1,
        -0x80..=-0x21 => 2,
        -0x8000..=-0x81 => 3,
        -0x8000_0000..=-0x8001 => 5,
        _ if n >= 0 => unsigned_len(n.unsigned_abs()),
        _ => 9,
    }
}

#[inline]
pub(super) fn str_len(len: usize) -> usize {
    let head = match len {
        0..=31 => 1,
        32..=0xff => 2,
        0x100..=0xffff => 3,
        _ => 5,
    };
    head + len
}

#[inline]
pub(super) fn bytes_len(len: usize) -> usize {
    let head = match len {
        0..=0xff => 2,
        0x100..=0xffff => 3,
        _ => 5,
    };
    head + len
}

/// Returns the size of the header of a sequence or map of `count` items.
#[inline]
pub(super) fn head_len(count: usize) -> usize {
    match count {
        0..=15 => 1,
        16..=0xffff => 3,
        _ => 5,
    }
}

pub(super) const SOME_NIL_LEN: usize = 3;
pub(super) const WIDE_LEN: usize = 18;
pub(super) const F32_LEN: usize = 5;
pub(super) const F64_LEN: usize = 9;

impl Value {
    /// Returns about how many bytes the value takes as MessagePack.
    ///
    /// A [`Tracker`](super::Tracker) measures its limit in this unit.
    #[inline]
    pub fn encoded_len(&self) -> usize {
        match self {
            Value::Nil | Value::Bool(_) => 1,
            Value::I64(n) => signed_len(*n),
            Value::U64(n) => unsigned_len(*n),
            Value::SomeNil(_) => SOME_NIL_LEN,
            Value::Wide(_) => WIDE_LEN,
            Value::F32(_) => F32_LEN,
            Value::F64(_) => F64_LEN,
            Value::Str(text) => str_len(text.len()),
            Value::Bytes(bytes) => bytes_len(bytes.len()),
            Value::Seq(_) | Value::Map(_) => self.container_len(),
        }
    }

    fn container_len(&self) -> usize {
        match self {
            Value::Seq(items) => {
                let content: usize = items.iter().map(Value::encoded_len).sum();
                head_len(items.len()) + content
            }
            Value::Map(entries) => {
                let lens = entries.iter().map(|(key, value)| key.encoded_len() + value.encoded_len());
                head_len(entries.len()) + lens.sum::<usize>()
            }
            scalar => scalar.encoded_len(),
        }
    }
}
