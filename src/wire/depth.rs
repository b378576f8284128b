//! Measuring the nesting depth of encoded values.
//!
//! Decoding recurses once per level, and a stack overflow would abort the process. The depth is therefore checked
//! before anything is decoded.

use std::io;

/// Maximum number of levels. A level takes a few KiB of stack at most in a debug build, and threads have 2 MiB.
pub(crate) const MAX_DEPTH: usize = 256;

/// Returns `true` if the value at the beginning of `bytes` has more than [`MAX_DEPTH`] levels.
pub(super) fn is_too_deep(bytes: &[u8]) -> bool {
    // Each level takes at least one byte, so that short messages need no scan.
    bytes.len() > MAX_DEPTH && Depth::new().is_exceeded_by(bytes)
}

/// Measures one value, whose bytes may arrive in pieces.
pub(super) struct Depth {
    next: Next,
    /// The number of remaining values at each level.
    to_come: [u64; MAX_DEPTH],
    level: usize,
}

/// The meaning of the next byte.
#[derive(Clone, Copy)]
enum Next {
    Marker,
    /// Part of a length, of which `missing` bytes remain.
    Length {
        missing: u8,
        so_far: u64,
        of: Of,
    },
    /// Content without nested values; the number of remaining bytes.
    Skip(u64),
    /// The value is complete or invalid. The decoder stops there as well.
    Nothing,
}

/// The kind of things that a length counts.
#[derive(Clone, Copy)]
enum Of {
    /// The entries of a container, with the number of values per entry.
    Values(u64),
    /// Bytes, and the number of additional ones.
    Bytes(u64),
}

impl Depth {
    pub(super) fn new() -> Self {
        Self { next: Next::Marker, to_come: [0; MAX_DEPTH], level: 0 }
    }

    /// Continues the value with these bytes. Returns `true` if it has too many levels by now.
    pub(super) fn is_exceeded_by(&mut self, mut bytes: &[u8]) -> bool {
        loop {
            match self.next {
                Next::Nothing => return false,
                Next::Skip(left) => {
                    let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    bytes = &bytes[here..];
                    self.next = Next::Skip(left - here as u64);
                    if left > here as u64 {
                        return false;
                    }
                    self.end();
                }
                Next::Length { missing, so_far, of } => {
                    let Some((byte, rest)) = bytes.split_first() else { return false };
                    bytes = rest;
                    let so_far = so_far << 8 | u64::from(*byte);
                    if missing > 1 {
                        self.next = Next::Length { missing: missing - 1, so_far, of };
                    } else if self.begin(of, so_far) {
                        return true;
                    }
                }
                Next::Marker => {
                    let Some((marker, rest)) = bytes.split_first() else { return false };
                    bytes = rest;
                    if self.marker(*marker) {
                        return true;
                    }
                }
            }
        }
    }

    fn marker(&mut self, marker: u8) -> bool {
        let length = |missing, of| Next::Length { missing, so_far: 0, of };
        self.next = match marker {
            // Numbers in one byte, nil, booleans.
            0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => Next::Skip(0),
            // Maps and sequences.
            0x80..=0x8f => return self.begin(Of::Values(2), u64::from(marker & 0x0f)),
            0x90..=0x9f => return self.begin(Of::Values(1), u64::from(marker & 0x0f)),
            0xdc => length(2, Of::Values(1)),
            0xdd => length(4, Of::Values(1)),
            0xde => length(2, Of::Values(2)),
            0xdf => length(4, Of::Values(2)),
            // Text and bytes.
            0xa0..=0xbf => Next::Skip(u64::from(marker & 0x1f)),
            0xc4 | 0xd9 => length(1, Of::Bytes(0)),
            0xc5 | 0xda => length(2, Of::Bytes(0)),
            0xc6 | 0xdb => length(4, Of::Bytes(0)),
            // Extensions, which have a tag.
            0xc7 => length(1, Of::Bytes(1)),
            0xc8 => length(2, Of::Bytes(1)),
            0xc9 => length(4, Of::Bytes(1)),
            0xd4..=0xd8 => Next::Skip(1 + (1 << (marker - 0xd4))),
            // Wider numbers.
            0xcc | 0xd0 => Next::Skip(1),
            0xcd | 0xd1 => Next::Skip(2),
            0xca | 0xce | 0xd2 => Next::Skip(4),
            0xcb | 0xcf | 0xd3 => Next::Skip(8),
            0xc1 => Next::Nothing,
        };
        false
    }

    /// Begins a part that has a length. Returns `true` if it is one level too many.
    fn begin(&mut self, of: Of, length: u64) -> bool {
        match of {
            Of::Bytes(more) => self.next = Next::Skip(length + more),
            Of::Values(_) if length == 0 => self.next = Next::Skip(0),
            Of::Values(_) if self.level == MAX_DEPTH => return true,
            Of::Values(each) => {
                self.to_come[self.level] = length * each;
                self.level += 1;
                self.next = Next::Marker;
            }
        }
        false
    }

    /// Ends a value, and the containers of which it was the last.
    fn end(&mut self) {
        self.next = Next::Nothing;
        while let Some(last) = self.level.checked_sub(1) {
            self.to_come[last] -= 1;
            if self.to_come[last] > 0 {
                self.next = Next::Marker;
                return;
            }
            self.level = last;
        }
    }
}

/// A reader that fails when the value that is read has too many levels.
pub(super) struct Measured<R> {
    input: R,
    depth: Depth,
    pub(super) is_too_deep: bool,
}

impl<R> Measured<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, depth: Depth::new(), is_too_deep: false }
    }
}

impl<R: io::Read> io::Read for Measured<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(out)?;
        if self.depth.is_exceeded_by(&out[..read]) {
            self.is_too_deep = true;
            return Err(io::Error::other("the value is nested too deeply"));
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::{Deserialize, Serialize};

    use super::super::codec::{decode, decode_from, encode};
    use super::*;

    #[derive(Debug, Default, Serialize, Deserialize)]
    enum Expression {
        #[default]
        End,
        Not(Box<Expression>),
        List(Vec<Expression>),
        Named {
            inner: Box<Expression>,
        },
    }

    fn nested(depth: usize, wrap: impl Fn(Expression) -> Expression) -> Vec<u8> {
        let whole = (0..depth).fold(Expression::End, |inner, _| wrap(inner));
        encode(&whole).unwrap().to_vec()
    }

    #[test]
    fn a_value_of_as_many_levels_as_there_may_be_is_read_and_one_of_more_is_refused() {
        for (levels, wrap) in [
            (1, (|inner| Expression::Not(Box::new(inner))) as fn(_) -> _),
            (2, |inner| Expression::List(vec![inner])),
            (2, |inner| Expression::Named { inner: Box::new(inner) }),
        ] {
            assert!(decode::<Expression>(&nested(MAX_DEPTH / levels, wrap)).is_ok());
            let error = decode::<Expression>(&nested(MAX_DEPTH / levels + 1, wrap)).unwrap_err();
            assert!(error.to_string().contains("more than 256 levels"), "{error}");
        }
    }

    #[test]
    fn bytes_that_would_take_more_stack_than_there_is_are_refused() {
        let bytes = [&b"\x81\xa3Not".repeat(1_000_000)[..], b"\xa3End"].concat();
        assert!(decode::<Expression>(&bytes).is_err());
    }

    #[test]
    fn what_is_wide_is_not_deep() {
        type Wide = (Vec<u8>, BTreeMap<u32, f64>, Option<String>, i64, u64);
        let wide: Vec<Wide> = (0..2000)
            .map(|n| (vec![1; n % 3], [(1, 2.5)].into(), Some("x".repeat(n)), -(n as i64) << 30, n as u64))
            .collect();
        let bytes = encode(&wide).unwrap();
        let mut depth = Depth::new();
        assert!(!depth.is_exceeded_by(&bytes));
        assert!(matches!(depth.next, Next::Nothing), "all of it was followed to its end");
    }

    #[test]
    fn what_comes_in_pieces_is_followed_as_well() {
        let good = nested(MAX_DEPTH / 2, |inner| Expression::List(vec![inner]));
        assert!(decode_from::<Expression>(&mut &good[..]).is_ok());
        let bad = nested(MAX_DEPTH / 2 + 1, |inner| Expression::List(vec![inner]));
        let error = decode_from::<Expression>(&mut &bad[..]).unwrap_err();
        assert!(error.to_string().contains("more than 256 levels"), "{error}");
    }

    proptest! {
        #[test]
        fn it_comes_to_the_same_however_the_bytes_are_cut(
            bytes in proptest::collection::vec(prop_oneof![Just(0x91), Just(0x81), any::<u8>()], 0..2000),
            cut in 1_usize..50,
        ) {
            let whole = Depth::new().is_exceeded_by(&bytes);
            let mut depth = Depth::new();
            prop_assert_eq!(bytes.chunks(cut).any(|piece| depth.is_exceeded_by(piece)), whole);
        }
    }
}
