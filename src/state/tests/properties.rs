use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use crate::state::{Patch, Tracker, Value};

const LIMIT: usize = 1 << 24;

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Nil),
        (1..4_u8).prop_map(Value::SomeNil),
        any::<bool>().prop_map(Value::Bool),
        (i64::MIN..0).prop_map(Value::I64),
        any::<u64>().prop_map(Value::U64),
        (0u64..4).prop_map(Value::U64),
        (i128::from(u64::MAX) + 1..=i128::MAX).prop_map(|n| Value::Wide(Box::new(n))),
        (i128::MIN..i128::from(i64::MIN)).prop_map(|n| Value::Wide(Box::new(n))),
        any::<u32>().prop_map(|bits| Value::F32(f32::from_bits(bits))),
        any::<u64>().prop_map(|bits| Value::F64(f64::from_bits(bits))),
        Just(Value::F64(1.5)),
        "[a-c.]{0,2}".prop_map(|text| Value::Str(text.into())),
        Just(Value::name("a")),
        vec(any::<u8>(), 0..3).prop_map(Value::Bytes),
    ]
}

/// Generates entries with distinct keys in arbitrary order.
fn map(
    key: impl Strategy<Value = Value> + 'static,
    value: impl Strategy<Value = Value> + 'static,
    count: usize,
) -> impl Strategy<Value = Value> {
    vec((key, value), 0..count).prop_map(|entries| {
        let mut distinct: Vec<(Value, Value)> = Vec::new();
        for (key, value) in entries {
            if distinct.iter().all(|(k, _)| *k != key) {
                distinct.push((key, value));
            }
        }
        Value::Map(distinct)
    })
}

fn value() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(4, 48, 6, |inner| {
        let small_key = (0u64..12).prop_map(Value::U64);
        prop_oneof![
            vec(inner.clone(), 0..14).prop_map(Value::Seq),
            map(scalar(), inner.clone(), 8),
            map(small_key, inner.clone(), 14),
            map(inner.clone(), inner, 4),
        ]
    })
}

/// Generates large maps with few distinct keys, so that successive maps overlap in many ways.
fn crowd() -> impl Strategy<Value = Value> {
    let entries = btree_map(0u64..120, 0u64..3, 0..120);
    (entries, any::<bool>(), any::<u64>()).prop_map(|(entries, shuffled, seed)| {
        let mut entries: Vec<_> =
            entries.into_iter().map(|(key, value)| (Value::U64(key), Value::U64(value))).collect();
        if shuffled {
            entries.sort_by_key(|(key, _)| match key {
                Value::U64(key) => (key ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15),
                _ => 0,
            });
        }
        Value::Map(entries)
    })
}

fn check_pair(a: Value, b: &Value) -> Result<(), TestCaseError> {
    let mut tracker = Tracker::resume(a.clone(), LIMIT);
    let patch = tracker.update(b).unwrap();
    prop_assert_eq!(tracker.value(), b);
    prop_assert_eq!(patch.is_none(), a == *b);
    prop_assert_eq!(tracker.update(b).unwrap(), None);
    let mut copy = a;
    if let Some(patch) = patch {
        let wire = Value::of(&patch).unwrap();
        let patch: Patch = wire.decode().unwrap();
        copy.apply(patch).unwrap();
    }
    prop_assert_eq!(&copy, b);
    Ok(())
}

fn check_sequence(values: &[Value]) -> Result<(), TestCaseError> {
    let mut tracker = Tracker::resume(values[0].clone(), LIMIT);
    let mut stepwise = values[0].clone();
    let mut folded: Option<Patch> = None;
    for value in &values[1..] {
        let Some(patch) = tracker.update(value).unwrap() else {
            continue;
        };
        stepwise.apply(patch.clone()).unwrap();
        prop_assert_eq!(&stepwise, value);
        match &mut folded {
            Some(folded) => folded.then(patch),
            None => folded = Some(patch),
        }
    }
    let mut once = values[0].clone();
    if let Some(folded) = folded {
        once.apply(folded).unwrap();
    }
    prop_assert_eq!(&once, values.last().unwrap());
    Ok(())
}

/// Applies a JSON Patch (RFC 6902).
fn patched(mut document: serde_json::Value, patch: &serde_json::Value) -> serde_json::Value {
    use serde_json::Value as Json;

    for operation in patch.as_array().unwrap() {
        let (path, value) = (operation["path"].as_str().unwrap(), operation["value"].clone());
        let Some((parent, key)) = path.rsplit_once('/') else {
            document = value;
            continue;
        };
        let key = key.replace("~1", "/").replace("~0", "~");
        match (operation["op"].as_str().unwrap(), document.pointer_mut(parent).unwrap()) {
            ("add", Json::Object(object)) => assert!(object.insert(key, value).is_none()),
            ("replace", Json::Object(object)) => assert!(object.insert(key, value).is_some()),
            ("remove", Json::Object(object)) => assert!(object.remove(&key).is_some()),
            ("add", Json::Array(items)) => items.insert(key.parse().unwrap(), value),
            ("replace", Json::Array(items)) => items[key.parse::<usize>().unwrap()] = value,
            ("remove", Json::Array(items)) => drop(items.remove(key.parse().unwrap())),
            (other, _) => panic!("{other}"),
        }
    }
    document
}

/// Generates values whose keys are names, as in states; some of the names must be escaped.
fn named() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(4, 48, 6, |inner| {
        let key = prop_oneof![9 => "[a~/.]{0,2}", 1 => "[$]{1,2}some"];
        let key = key.prop_map(|text| Value::Str(text.into()));
        prop_oneof![vec(inner.clone(), 0..14).prop_map(Value::Seq), map(key, inner, 8)]
    })
}

fn check_json(a: Value, b: &Value) -> Result<(), TestCaseError> {
    let before = a.to_json();
    if let Some(patch) = Tracker::resume(a, LIMIT).update(b).unwrap() {
        prop_assert_eq!(patched(before, &patch.to_json_patch()), b.to_json());
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_json_patch_leads_from_one_json_to_the_other(a in named(), b in named()) {
        check_json(a, &b)?;
    }

    #[test]
    fn a_json_patch_leads_from_one_list_of_maps_to_the_other(
        a in vec(crowd(), 0..4).prop_map(Value::Seq),
        b in vec(crowd(), 0..4).prop_map(Value::Seq),
    ) {
        check_json(a, &b)?;
    }

    #[test]
    fn a_patch_leads_from_one_value_to_the_other(a in value(), b in value()) {
        check_pair(a, &b)?;
    }

    #[test]
    fn a_patch_leads_from_one_map_to_the_other(a in crowd(), b in crowd()) {
        check_pair(a, &b)?;
    }

    #[test]
    fn folded_patches_equal_their_succession(values in vec(value(), 2..6)) {
        check_sequence(&values)?;
    }

    #[test]
    fn folded_map_patches_equal_their_succession(values in vec(crowd(), 2..6)) {
        check_sequence(&values)?;
    }

    #[test]
    fn nested_maps_and_sequences_fold(
        values in vec(vec(crowd(), 0..3).prop_map(Value::Seq), 2..5),
    ) {
        check_sequence(&values)?;
    }

    #[test]
    fn values_serialise_to_themselves(v in value()) {
        prop_assert_eq!(&Value::of(&v).unwrap(), &v);
        prop_assert_eq!(&v.decode::<Value>().unwrap(), &v);
    }

    #[test]
    fn the_limit_is_the_encoded_length(a in value(), b in value()) {
        let len = b.encoded_len();
        prop_assert!(Tracker::resume(a.clone(), len).update(&b).is_ok());
        prop_assert!(Tracker::resume(a, len - 1).update(&b).is_err());
    }

    #[test]
    fn a_failed_update_is_made_good(a in value(), b in value(), c in value()) {
        let (b, c) = if b.encoded_len() > c.encoded_len() { (b, c) } else { (c, b) };
        prop_assume!(b.encoded_len() > c.encoded_len());
        let mut tracker = Tracker::resume(a, c.encoded_len());
        prop_assert!(tracker.update(&b).is_err());
        prop_assert_eq!(tracker.update(&c).unwrap(), Some(Patch::Set(c)));
    }

    #[test]
    fn equality_and_hash_disregard_the_order_of_maps(v in crowd(), by in 0usize..120) {
        use std::hash::{BuildHasher, RandomState};
        let mut rotated = v.clone();
        if let Value::Map(entries) = &mut rotated {
            let by = by.min(entries.len());
            entries.rotate_left(by);
        }
        prop_assert_eq!(&v, &rotated);
        let hasher = RandomState::new();
        prop_assert_eq!(hasher.hash_one(&v), hasher.hash_one(&rotated));
        let nested = Value::Map(vec![(rotated, Value::Nil)]);
        prop_assert_eq!(Value::Map(vec![(v, Value::Nil)]), nested);
    }

    #[test]
    fn patches_never_produce_malformed_values(a in value(), b in value(), mut c in value()) {
        if let Some(patch) = Tracker::resume(a, LIMIT).update(&b).unwrap() {
            let _ = c.apply(patch);
            prop_assert_eq!(Value::of(&c).unwrap(), c);
        }
    }

    #[test]
    fn json_and_paths_do_not_panic(v in value(), path in "[a-c0-3.]{0,6}") {
        v.to_json();
        v.get(&path);
    }
}
