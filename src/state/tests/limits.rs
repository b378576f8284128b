//! Limits on the nesting depth of states and keys.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{LIMIT, Pair};
use crate::state::{Tracker, Value};

#[derive(Serialize)]
enum Tree {
    Leaf(u32),
    Inner { left: Box<Tree> },
    List(Vec<Tree>),
}

fn tree(levels: usize, leaf: u32) -> Tree {
    // A leaf adds one level, an inner node two, and a list two.
    (0..levels / 2).fold(Tree::Leaf(leaf), |inner, level| match level % 2 {
        0 => Tree::Inner { left: Box::new(inner) },
        _ => Tree::List(vec![inner]),
    })
}

#[test]
fn a_state_of_many_levels_is_followed_and_one_of_too_many_is_refused() {
    let mut pair = Pair::new(&tree(126, 1));
    assert!(pair.update(&tree(126, 2)).is_some());
    let error = Value::of(&tree(128, 1)).unwrap_err();
    assert!(error.to_string().contains("more than 128 levels"), "{error}");
    assert!(error.to_string().len() < 400, "{error}");
    assert!(Tracker::new(LIMIT).update(&tree(128, 1)).is_err());
}

#[test]
fn a_key_that_is_nested_too_deeply_is_refused_by_whoever_writes_or_reads_it() {
    type Key = BTreeMap<Vec<(u8, u8)>, u8>;
    let good: Key = BTreeMap::from([(vec![(1, 2)], 3)]);
    let good = Value::of(&BTreeMap::from([(good, 1)])).unwrap();
    assert!(serde_json::to_string(&good.to_json()).unwrap().len() < 100);
    let bad = BTreeMap::from([(BTreeMap::from([(vec![vec![vec![(1, 2)]]], 3)]), 1)]);
    let error = Value::of(&bad).unwrap_err().to_string();
    assert!(error.contains("key of a map is nested in more than 4 levels"), "{error}");
    // A malicious peer could send such keys: comparing or printing these would take practically forever.
    let nested = |leaf: u8| [&[0x81].repeat(60)[..], &[leaf], &[0xc0].repeat(60)[..]].concat();
    let bytes = [&[0x82][..], &nested(1), &[0xc0], &nested(2), &[0xc0]].concat();
    let error = crate::wire::decode::<Value>(&bytes).unwrap_err().to_string();
    assert!(error.contains("key of a map is nested"), "{error}");
}

/// Integers of more than 64 bits survive the encoding of connections.
#[test]
fn wide_integers_travel() {
    for wide in [i128::MAX, i128::MIN, i128::from(u64::MAX) + 1] {
        let value = Value::Seq(vec![Value::Wide(Box::new(wide)), Value::Bytes(vec![1; 16])]);
        let bytes = crate::wire::encode(&value).unwrap();
        assert_eq!(crate::wire::decode::<Value>(&bytes).unwrap(), value);
    }
}
