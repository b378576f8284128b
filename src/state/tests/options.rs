//! Nested options, in states and in JSON.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::state::{Tracker, Value, from_json, to_json};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct New<T>(T);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Kind {
    None,
    One(Option<Option<i16>>),
    Two(Option<()>, Option<Option<bool>>),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct State {
    number: Option<Option<Option<u8>>>,
    unit: Option<Option<()>>,
    new: New<Option<New<Option<f32>>>>,
    names: BTreeMap<String, Option<Option<u8>>>,
    keyed: BTreeMap<Option<Option<bool>>, u8>,
    items: Vec<Option<Option<String>>>,
    kinds: (Kind, Option<Option<Box<Kind>>>),
}

fn twice<T: std::fmt::Debug + Clone>(
    value: impl Strategy<Value = T> + Clone,
) -> impl Strategy<Value = Option<Option<T>>> + Clone {
    prop_oneof![Just(None), Just(Some(None)), value.prop_map(|value| Some(Some(value)))]
}

fn kind() -> impl Strategy<Value = Kind> + Clone {
    prop_oneof![
        Just(Kind::None),
        twice(any::<i16>()).prop_map(Kind::One),
        (any::<Option<()>>(), twice(any::<bool>())).prop_map(|(a, b)| Kind::Two(a, b)),
    ]
}

fn state() -> impl Strategy<Value = State> {
    let name = prop_oneof!["[a-c]{0,2}", "[$]{1,3}some"];
    (
        prop::option::of(twice(any::<u8>())),
        twice(Just(())),
        twice((-9_i8..9).prop_map(f32::from)),
        prop::collection::btree_map(name, twice(any::<u8>()), 0..3),
        prop::collection::btree_map(twice(any::<bool>()), any::<u8>(), 0..3),
        prop::collection::vec(twice("[a$]{0,2}"), 0..4),
        (kind(), twice(kind().prop_map(Box::new))),
    )
        .prop_map(|(number, unit, new, names, keyed, items, kinds)| State {
            number,
            unit,
            new: New(new.map(New)),
            names,
            keyed,
            items,
            kinds,
        })
}

/// The types that JSON can express, where keys are texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Said {
    number: Option<Option<Option<u8>>>,
    names: BTreeMap<String, Option<Option<u8>>>,
    inner: Option<Option<BTreeMap<String, Kind>>>,
}

fn said() -> impl Strategy<Value = Said> {
    let name = || prop_oneof!["[a-c]{0,2}", "[$]{1,3}some"];
    (
        prop::option::of(twice(any::<u8>())),
        prop::collection::btree_map(name(), twice(any::<u8>()), 0..3),
        twice(prop::collection::btree_map(name(), kind(), 0..3)),
    )
        .prop_map(|(number, names, inner)| Said { number, names, inner })
}

proptest! {
    /// States are read back unchanged, and observers have the same state after any change.
    #[test]
    fn nested_options_stay_distinct_in_states(states in prop::collection::vec(state(), 1..5)) {
        let mut tracker = Tracker::new(1 << 20);
        let mut copy = Value::Nil;
        for state in &states {
            if let Some(patch) = tracker.update(state).unwrap() {
                let bytes = crate::wire::encode(&patch).unwrap();
                copy.apply(crate::wire::decode(&bytes).unwrap()).unwrap();
            }
            prop_assert_eq!(&copy, &Value::of(state).unwrap());
            prop_assert_eq!(&copy.decode::<State>().unwrap(), state);
            prop_assert!(tracker.update(state).unwrap().is_none());
        }
    }

    /// Nested options in JSON are read back as they were, both from a state and from a reply.
    #[test]
    fn nested_options_come_back_from_json(value in said()) {
        let shown = Value::of(&value).unwrap().to_json();
        prop_assert_eq!(&from_json::<Said>(shown.to_string().as_bytes()).unwrap(), &value);
        let answer = to_json(&value).unwrap();
        prop_assert_eq!(&from_json::<Said>(&answer).unwrap(), &value);
        prop_assert_eq!(serde_json::from_slice::<serde_json::Value>(&answer).unwrap(), shown);
    }
}

/// Nested options have the documented form in JSON, and similar objects are left alone.
#[test]
fn json_of_nested_options_is_as_documented() {
    type Deep = Option<Option<Option<u8>>>;
    let all: [(Deep, serde_json::Value); 4] = [
        (None, json!(null)),
        (Some(None), json!({ "$some": null })),
        (Some(Some(None)), json!({ "$some": { "$some": null } })),
        (Some(Some(Some(1))), json!(1)),
    ];
    for (value, shown) in all {
        assert_eq!(Value::of(&value).unwrap().to_json(), shown);
        assert_eq!(from_json::<Deep>(shown.to_string().as_bytes()).unwrap(), value);
    }
    assert_eq!(from_json::<Option<()>>(br#"{"\u0024some": null}"#).unwrap(), Some(()));
    let plain = json!({ "$some": 1, "a": { "$some": "$" }, "$$": { "b$some": null } });
    assert_eq!(from_json::<serde_json::Value>(plain.to_string().as_bytes()).unwrap(), plain);
    let escaped = json!({ "$$some": null, "$$$some": 1 });
    let map: BTreeMap<String, Option<u8>> = from_json(escaped.to_string().as_bytes()).unwrap();
    assert_eq!(map, [("$some".to_owned(), None), ("$$some".to_owned(), Some(1))].into());
    assert_eq!(Value::of(&map).unwrap().to_json(), escaped);
}

/// A type that is an option of itself is refused, both when it is written and when it is read.
#[test]
fn option_of_itself_is_refused_when_too_deep() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Chain(Option<Box<Chain>>);

    let chain = |links: u32| (0..links).fold(Chain(None), |chain, _| Chain(Some(Box::new(chain))));
    assert_eq!(Value::of(&chain(128)).unwrap().decode::<Chain>().unwrap(), chain(128));
    assert!(Value::of(&chain(129)).is_err());
    assert!(Value::U64(5).decode::<Chain>().is_err());
}
