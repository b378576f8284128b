//! How deep values are nested in bytes.
//!
//! Whoever reads a nested value calls itself for each level, and the end of a thread's stack ends the process. So the
//! depth is looked at before anything is read. (`rmp-serde` has a limit of its own, which does not count enums.)

/// So many levels are read. A level in a debug build takes a few KiB of stack at most, and threads have 2 MiB.
pub(crate) const MAX_DEPTH: usize = 256;

/// Whether the value at the beginning of `bytes` has more than [`MAX_DEPTH`] levels. Bytes that are no value are not
/// looked at any further: whoever reads them stops there as well.
pub(super) fn is_too_deep(bytes: &[u8]) -> bool {
    // Each level takes a byte at least, so that small messages cost nothing.
    bytes.len() > MAX_DEPTH && scan(bytes).unwrap_or(false)
}

fn scan(mut rest: &[u8]) -> Option<bool> {
    // What is still to come at each level.
    let mut to_come = [0_u64; MAX_DEPTH];
    let mut depth = 0;
    loop {
        let (marker, after) = rest.split_first()?;
        rest = after;
        let (items, skipped) = match marker {
            // Numbers in one byte, nil, booleans.
            0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => (0, 0),
            // Maps and sequences.
            0x80..=0x8f => (2 * u64::from(marker & 0x0f), 0),
            0x90..=0x9f => (u64::from(marker & 0x0f), 0),
            0xdc => (length(&mut rest, 2)?, 0),
            0xdd => (length(&mut rest, 4)?, 0),
            0xde => (2 * length(&mut rest, 2)?, 0),
            0xdf => (2 * length(&mut rest, 4)?, 0),
            // Text and bytes.
            0xa0..=0xbf => (0, u64::from(marker & 0x1f)),
            0xc4 | 0xd9 => (0, length(&mut rest, 1)?),
            0xc5 | 0xda => (0, length(&mut rest, 2)?),
            0xc6 | 0xdb => (0, length(&mut rest, 4)?),
            // Extensions, which have a tag.
            0xc7 => (0, 1 + length(&mut rest, 1)?),
            0xc8 => (0, 1 + length(&mut rest, 2)?),
            0xc9 => (0, 1 + length(&mut rest, 4)?),
            0xd4..=0xd8 => (0, 1 + (1 << (marker - 0xd4))),
            // Wider numbers.
            0xcc | 0xd0 => (0, 1),
            0xcd | 0xd1 => (0, 2),
            0xca | 0xce | 0xd2 => (0, 4),
            0xcb | 0xcf | 0xd3 => (0, 8),
            0xc1 => return None,
        };
        rest = rest.get(usize::try_from(skipped).ok()?..)?;
        if items > 0 {
            if depth == MAX_DEPTH {
                return Some(true);
            }
            to_come[depth] = items;
            depth += 1;
            continue;
        }
        loop {
            let Some(last) = depth.checked_sub(1) else { return Some(false) };
            to_come[last] -= 1;
            if to_come[last] > 0 {
                break;
            }
            depth = last;
        }
    }
}

fn length(rest: &mut &[u8], bytes: usize) -> Option<u64> {
    let (length, after) = rest.split_at_checked(bytes)?;
    *rest = after;
    Some(length.iter().fold(0, |length, byte| length << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::{Deserialize, Serialize};

    use super::super::codec::{decode, encode};
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
        let wide: Vec<(Vec<u8>, BTreeMap<u32, f64>, Option<String>, i64, u64)> = (0..2000)
            .map(|n| (vec![1; n % 3], [(1, 2.5)].into(), Some("x".repeat(n)), -(n as i64) << 30, n as u64))
            .collect();
        let bytes = encode(&wide).unwrap();
        assert_eq!(scan(&bytes), Some(false), "all of it was followed to its end");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_read_beyond_their_end(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let _ = scan(&bytes);
        }
    }
}
