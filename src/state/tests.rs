use std::collections::{BTreeMap, HashMap};

use serde::ser::{Error as _, SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};
use serde_json::{Value as Json, json};

use super::*;

mod limits;
mod options;
mod properties;
mod shapes;

const LIMIT: usize = 1 << 20;

#[derive(Serialize, Clone)]
struct Training {
    step: u64,
    loss: f64,
    name: String,
    done: bool,
    phase: Phase,
}

#[derive(Serialize, Clone)]
enum Phase {
    Idle,
    Epoch { number: u32, batches: Vec<u32> },
}

fn training() -> Training {
    Training {
        step: 1,
        loss: 0.5,
        name: "first".into(),
        done: false,
        phase: Phase::Epoch { number: 3, batches: vec![1, 2, 3] },
    }
}

/// A tracker and an observer's copy, which must stay equal.
struct Pair {
    tracker: Tracker,
    copy: Value,
}

impl Pair {
    fn new<T: Serialize + ?Sized>(state: &T) -> Self {
        let mut pair = Self { tracker: Tracker::new(LIMIT), copy: Value::Nil };
        assert!(matches!(pair.update(state), Some(Patch::Set(_))));
        pair
    }

    fn update<T: Serialize + ?Sized>(&mut self, state: &T) -> Option<Patch> {
        let patch = self.tracker.update(state).unwrap();
        if let Some(patch) = patch.clone() {
            self.copy.apply(patch).unwrap();
        }
        assert_eq!(self.copy, *self.tracker.value());
        assert_eq!(self.copy, Value::of(state).unwrap());
        patch
    }
}

fn keys(value: &Value) -> Vec<String> {
    Patch::Set(value.clone()).touches()
}

#[test]
fn unchanged_is_silent_and_one_field_travels_alone() {
    let mut state = training();
    let mut pair = Pair::new(&state);
    assert_eq!(pair.update(&state), None);

    state.step += 1;
    let patch = pair.update(&state).unwrap();
    assert_eq!(patch.touches(), ["step"]);
    let wire = serde_json::to_string(&patch).unwrap();
    assert_eq!(wire, r#"{"map":[["step",0,{"to":{"set":2}}]]}"#);

    let Phase::Epoch { batches, .. } = &mut state.phase else { unreachable!() };
    batches[1] = 9;
    batches.push(4);
    let patch = pair.update(&state).unwrap();
    let wire = serde_json::to_string(&patch).unwrap();
    assert!(!wire.contains("number") && wire.contains("batches"), "{wire}");

    state.phase = Phase::Idle;
    assert_eq!(pair.update(&state).unwrap().touches(), ["phase"]);
    assert_eq!(keys(&pair.copy), ["step", "loss", "name", "done", "phase"]);
}

#[test]
fn names_are_borrowed() {
    let value = Value::of(&training()).unwrap();
    let Value::Map(entries) = &value else { panic!("{value:?}") };
    let borrowed = |v: &Value| matches!(v, Value::Str(std::borrow::Cow::Borrowed(_)));
    assert!(entries.iter().all(|(key, _)| borrowed(key)));
    assert!(borrowed(&Value::of(&Phase::Idle).unwrap()));
}

#[test]
fn the_first_update_is_whole_even_if_it_is_nil() {
    let mut tracker = Tracker::new(LIMIT);
    assert_eq!(tracker.update(&()).unwrap(), Some(Patch::Set(Value::Nil)));
    assert_eq!(tracker.update(&()).unwrap(), None);
}

#[test]
fn optional_fields_come_and_go_in_declaration_order() {
    #[derive(Serialize)]
    struct S {
        a: u8,
        #[serde(skip_serializing_if = "Option::is_none")]
        b: Option<u8>,
        #[serde(skip_serializing_if = "Option::is_none")]
        c: Option<u8>,
        d: u8,
    }
    let s = |b, c| S { a: 1, b, c, d: 4 };
    let mut pair = Pair::new(&s(None, None));
    pair.update(&s(Some(2), None));
    pair.update(&s(None, Some(3)));
    pair.update(&s(Some(2), Some(3)));
    assert_eq!(keys(&pair.copy), ["a", "b", "c", "d"]);
    assert_eq!(keys(pair.tracker.value()), ["a", "b", "c", "d"]);
    pair.update(&s(None, None));
    assert_eq!(keys(&pair.copy), ["a", "d"]);
}

#[test]
fn hash_maps_insert_remove_and_rehash() {
    let mut map: HashMap<String, u64> = (0..100).map(|n| (n.to_string(), n)).collect();
    let mut pair = Pair::new(&map);
    for n in 100..1000 {
        map.insert(n.to_string(), n);
        assert_eq!(pair.update(&map).unwrap().touches(), [n.to_string()]);
    }
    for n in 0..500 {
        map.remove(&n.to_string());
        assert_eq!(pair.update(&map).unwrap().touches(), [n.to_string()]);
    }
    map.shrink_to_fit();
    assert_eq!(pair.update(&map), None, "only the order changed");
    let fresh: HashMap<_, _> = map.iter().collect();
    assert_eq!(pair.update(&fresh), None, "only the order changed");
}

#[test]
fn many_changes_at_once() {
    let range = |ranges: &[(u32, u32)]| -> BTreeMap<u32, u32> {
        let keys = ranges.iter().flat_map(|&(from, to)| from..to);
        keys.map(|n| (n, n)).collect()
    };
    let mut pair = Pair::new(&range(&[(0, 1000)]));
    pair.update(&range(&[(100, 1100)]));
    pair.update(&range(&[(100, 500), (540, 1100)]));
    pair.update(&range(&[(0, 1200)]));
    let sparse: BTreeMap<u32, u32> = (0..1200).step_by(3).map(|n| (n, n)).collect();
    pair.update(&sparse);
    pair.update(&range(&[(0, 1200)]));
    let order: Vec<String> = (0..1200).map(|n| n.to_string()).collect();
    assert_eq!(keys(&pair.copy), order);
    assert_eq!(pair.update(&range(&[])).map(|p| p.touches()), Some(vec![]));
}

#[test]
fn folding_many_small_patches() {
    let mut map: BTreeMap<u32, u32> = (0..500).map(|n| (n, n)).collect();
    let mut pair = Pair::new(&map);
    let before = pair.copy.clone();
    let mut folded: Option<Patch> = None;
    for n in 0..2000 {
        match n % 4 {
            0 => _ = map.insert(1000 + n, n),
            1 => _ = map.remove(&(n / 2)),
            2 if n % 8 == 2 => _ = map.remove(&(1000 + n - 2)),
            _ => *map.values_mut().next_back().unwrap() += 1,
        }
        let Some(patch) = pair.update(&map) else {
            continue;
        };
        match &mut folded {
            Some(folded) => folded.then(patch),
            None => folded = Some(patch),
        }
    }
    let mut copy = before;
    copy.apply(folded.unwrap()).unwrap();
    assert_eq!(copy, pair.copy);
}

#[test]
fn inserting_and_removing_cancels_out() {
    let mut map: BTreeMap<u32, u32> = (0..40).map(|n| (n, n)).collect();
    let mut pair = Pair::new(&map);
    map.insert(100, 0);
    let mut folded = pair.update(&map).unwrap();
    for n in 0..1000 {
        map.insert(n + 101, 0);
        folded.then(pair.update(&map).unwrap());
        map.remove(&(n + 100));
        folded.then(pair.update(&map).unwrap());
    }
    assert_eq!(folded.touches(), ["1100"]);
}

#[test]
fn a_patch_for_another_value_is_refused() {
    let mismatch = |mut value: Value, patch: Patch| match value.apply(patch) {
        Err(error @ StateError::Mismatch { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let mut tracker = Tracker::new(LIMIT);
    let map = |pairs: &[(&'static str, u8)]| -> BTreeMap<&str, u8> { pairs.iter().copied().collect() };
    tracker.update(&[map(&[("a", 1), ("b", 2)])]).unwrap();
    let changed = tracker.update(&[map(&[("a", 9), ("b", 2)])]).unwrap();
    let removed = tracker.update(&[map(&[("b", 2)])]).unwrap().unwrap();
    let added = tracker.update(&[map(&[("b", 2), ("c", 3)])]).unwrap();
    let longer = tracker.update(&[map(&[]), map(&[])]).unwrap().unwrap();
    let changed = changed.unwrap();

    let here = Value::of(&[map(&[("b", 2), ("c", 3)])]).unwrap();
    let text = mismatch(here.clone(), changed.clone());
    assert!(text.contains("at `0.a`: it changes this key"), "{text}");
    assert!(text.contains("start again from the whole value"), "{text}");
    mismatch(here.clone(), removed.clone());
    mismatch(here, added.unwrap());
    mismatch(Value::Nil, changed.clone());
    mismatch(Value::Seq(vec![]), longer);

    let mut conflict = removed.clone();
    conflict.then(changed);
    mismatch(Value::of(&[map(&[("a", 9), ("b", 2)])]).unwrap(), conflict);
    let mut twice = removed.clone();
    twice.then(removed);
    mismatch(Value::of(&[map(&[("a", 9), ("b", 2)])]).unwrap(), twice);
}

#[test]
fn a_patch_that_changes_a_key_twice_is_not_read() {
    let entry = |n: u8| json!(["a", 0, { "to": { "set": n } }]);
    let read = |entries: Json| serde_json::from_value::<Patch>(json!({ "map": entries }));
    assert_eq!(read(json!([entry(1)])).unwrap().touches(), ["a"]);
    let text = read(json!([entry(1), entry(2)])).unwrap_err().to_string();
    assert!(text.contains("the key `a` appears twice"), "{text}");
}

#[test]
fn too_large_names_the_largest_field() {
    #[derive(Serialize)]
    struct S {
        small: u8,
        weights: Vec<f32>,
        tail: Vec<String>,
    }
    let s = |weights: usize, tail: usize| S {
        small: 1,
        weights: vec![0.5; weights],
        tail: vec!["0123456789".into(); tail],
    };
    let mut tracker = Tracker::new(1000);
    tracker.update(&s(10, 10)).unwrap();
    for (state, name) in [(s(500, 1), "weights"), (s(150, 30), "weights"), (s(1, 99), "tail")] {
        let error = tracker.update(&state).unwrap_err();
        let StateError::TooLarge { size, limit, field } = &error else { panic!("{error:?}") };
        assert!(*size > 1000 && *size < 1100 && *limit == 1000);
        let (field, bytes) = field.as_ref().unwrap();
        assert_eq!(field, name);
        assert!(*bytes > 500 && bytes <= size);
        assert!(error.to_string().contains("put it in a Payload"), "{error}");
        assert_eq!(tracker.value(), &Value::Nil);
    }
    assert!(matches!(tracker.update(&s(9, 9)), Ok(Some(Patch::Set(_)))));
}

#[test]
fn a_failure_is_located_and_followed_by_the_whole() {
    struct Broken(bool);
    impl Serialize for Broken {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            match self.0 {
                true => Err(S::Error::custom("the lock is poisoned")),
                false => serializer.serialize_u8(1),
            }
        }
    }
    #[derive(Serialize)]
    struct Layer {
        weights: Broken,
    }
    #[derive(Serialize)]
    struct Net {
        step: u8,
        layers: Vec<Layer>,
    }
    let net = |step, broken| Net {
        step,
        layers: (0..4).map(|n| Layer { weights: Broken(broken && n == 3) }).collect(),
    };
    let mut tracker = Tracker::new(LIMIT);
    tracker.update(&net(1, false)).unwrap();
    let error = tracker.update(&net(2, true)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the state cannot be serialised at `layers.3.weights`: the lock is poisoned. Fix or \
         `#[serde(skip)]` that field; nothing was published"
    );
    let whole = Patch::Set(Value::of(&net(2, false)).unwrap());
    assert_eq!(tracker.update(&net(2, false)).unwrap(), Some(whole));
}

#[test]
fn repeated_keys_are_refused() {
    struct Pairs<'a>(&'a [(u32, u32)]);
    impl Serialize for Pairs<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_map(self.0.iter().copied())
        }
    }
    let many: Vec<(u32, u32)> = (0..50).map(|n| (n, n)).collect();
    let mut few_more = many.clone();
    few_more.extend([(60, 0), (7, 0)]);
    let mut many_more = many.clone();
    many_more.extend((60..90).chain([7]).map(|n| (n, 0)));
    let mut tracker = Tracker::new(LIMIT);
    for repeated in [&[(1, 1), (2, 2), (1, 3)][..], &few_more, &many_more] {
        tracker.update(&Pairs(&many)).unwrap();
        let error = tracker.update(&Pairs(repeated)).unwrap_err();
        assert!(error.to_string().contains("appears twice"), "{error}");
        Value::of(&Pairs(repeated)).unwrap_err();
    }
    serde_json::from_str::<Value>(r#"{"a": 1, "a": 2}"#).unwrap_err();
}

#[test]
fn carrying_on_after_an_error_is_an_error() {
    struct Stubborn;
    impl Serialize for Stubborn {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut map = serializer.serialize_map(None)?;
            let _ = map.serialize_entry("a", &u128::MAX);
            map.serialize_entry("b", &1)?;
            map.end()
        }
    }
    struct StubbornSeq;
    impl Serialize for StubbornSeq {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut seq = serializer.serialize_seq(None)?;
            let _ = seq.serialize_element(&u128::MAX);
            seq.end()
        }
    }
    let error = Value::of(&Stubborn).unwrap_err().to_string();
    assert!(error.contains("ignored an error"), "{error}");
    Value::of(&StubbornSeq).unwrap_err();
}

#[test]
fn a_panic_while_serialising_counts_as_a_failure() {
    struct Panics(bool);
    impl Serialize for Panics {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            assert!(!self.0, "on purpose");
            serializer.serialize_bool(true)
        }
    }
    let mut tracker = Tracker::new(LIMIT);
    tracker.update(&(1, Panics(false))).unwrap();
    let error = tracker.update(&(2, Panics(true))).unwrap_err().to_string();
    assert!(error.contains("`Serialize` panicked: on purpose"), "{error}");
    assert_eq!(tracker.value(), &Value::Nil);
    let patch = tracker.update(&(1, Panics(false))).unwrap();
    assert!(matches!(patch, Some(Patch::Set(_))));
}

#[test]
fn displayed_values_are_compared_in_place() {
    let address = |n| std::net::Ipv4Addr::new(127, 0, 0, n);
    let mut pair = Pair::new(&[address(1), address(2)]);
    assert_eq!(pair.update(&[address(1), address(2)]), None);
    let patch = pair.update(&[address(1), address(23)]).unwrap();
    assert_eq!(patch.touches(), ["1"]);
}

#[test]
fn large_replacements_are_sent_whole() {
    let mut pair = Pair::new(&vec![1u8; 100]);
    let patch = pair.update(&vec![2u8; 100]);
    assert!(matches!(patch, Some(Patch::Set(_))), "{patch:?}");
    let mut items = vec![2u8; 100];
    items[..20].fill(3);
    assert_eq!(pair.update(&items).unwrap().touches().len(), 20);
}
