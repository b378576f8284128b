use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Debug;

use serde::de::{DeserializeOwned, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::json;

use crate::state::{StateError, Value};

fn round<T: Serialize + DeserializeOwned + PartialEq + Debug>(x: T) {
    let value = Value::of(&x).unwrap();
    assert_eq!(value.decode::<T>().unwrap(), x, "{value:?}");
}

#[derive(Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Clone, Serialize, Deserialize)]
enum Form {
    Unit,
    Newtype(u32),
    Option(Option<u8>),
    Nothing(()),
    Tuple(u8, String),
    Struct { a: i8, b: Option<Box<Form>> },
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Marker;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Meters(f64);

#[derive(Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
struct Pair(i32, char);

#[derive(Debug, PartialEq, Eq)]
struct Blob(Vec<u8>);

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl<'de> Visitor<'de> for Bytes {
            type Value = Blob;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E>(self, v: &[u8]) -> Result<Blob, E> {
                Ok(Blob(v.to_vec()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Blob, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = seq.next_element()? {
                    bytes.push(byte);
                }
                Ok(Blob(bytes))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t")]
enum Tagged {
    A { x: u8 },
    B(Inner),
    C,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t", content = "c")]
enum Adjacent {
    A { x: u8 },
    B(Vec<u8>),
    C,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Number(i64),
    Float(f64),
    Text(String),
    Inner(Inner),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Inner {
    y: i16,
    z: Option<f32>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Flat {
    first: u8,
    #[serde(flatten)]
    inner: Inner,
    #[serde(flatten)]
    others: BTreeMap<String, Form>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Lenient {
    #[serde(default)]
    count: u32,
    #[serde(skip)]
    cache: u32,
    kept: bool,
}

#[test]
fn round_trips() {
    round(());
    round(Marker);
    round((Some(1u8), None::<u8>, true, 'ß', "text".to_owned()));
    round((i8::MIN, i16::MIN, i32::MIN, i64::MIN, i128::MIN, i128::MAX));
    round((u8::MAX, u16::MAX, u32::MAX, u64::MAX, u128::from(u64::MAX) + 1));
    round((f32::MAX, f32::MIN_POSITIVE, 1.1f32, f64::MAX, 0.1f64, f64::INFINITY));
    round(Meters(2.5));
    round([Pair(-1, 'a'), Pair(1, '\u{10ffff}')]);
    round(Blob(vec![0, 255]));
    round(vec![
        Form::Unit,
        Form::Newtype(7),
        Form::Option(None),
        Form::Option(Some(1)),
        Form::Nothing(()),
        Form::Tuple(1, "x".into()),
        Form::Struct { a: -1, b: None },
        Form::Struct { a: 1, b: Some(Box::new(Form::Unit)) },
    ]);
    round(vec![Tagged::A { x: 1 }, Tagged::B(Inner { y: 1, z: None }), Tagged::C]);
    round(vec![Adjacent::A { x: 1 }, Adjacent::B(vec![1]), Adjacent::C]);
    round(vec![
        Untagged::Number(-3),
        Untagged::Float(0.5),
        Untagged::Text("t".into()),
        Untagged::Inner(Inner { y: 2, z: Some(0.1) }),
    ]);
    round(Flat {
        first: 1,
        inner: Inner { y: -2, z: Some(1.5) },
        others: [("more".to_owned(), Form::Newtype(1))].into(),
    });
    round(Lenient { count: 1, cache: 0, kept: true });
}

#[test]
fn maps_round_trip() {
    round(BTreeMap::from([(-1i32, BTreeMap::from([(true, 1)])), (1, BTreeMap::new())]));
    round(HashMap::from([(u64::MAX, "a".to_owned()), (0, "b".to_owned())]));
    round(BTreeMap::from([('a', 1), ('b', 2)]));
    round(BTreeMap::from([(Form::Unit, 1), (Form::Tuple(1, "k".into()), 2)]));
    round(BTreeMap::from([((1u8, "x".to_owned()), 1), ((2, "y".to_owned()), 2)]));
    round(BTreeMap::from([(Pair(1, 'x'), ())]));
    round(BTreeMap::from([(Some(i128::MAX), 1), (None, 2)]));
    round(HashSet::from([1u8, 2, 3]));
    round((0..100u32).map(|n| (n.to_string(), n)).collect::<HashMap<_, _>>());
}

#[test]
fn textual_keys_are_read_as_numbers() {
    let value: Value = serde_json::from_value(json!({"1": {"true": 2}, "-3": {}})).unwrap();
    let map: BTreeMap<i8, BTreeMap<bool, u8>> = value.decode().unwrap();
    assert_eq!(map[&1][&true], 2);
    assert!(map[&-3].is_empty());
    value.decode::<BTreeMap<u8, Value>>().unwrap_err();
}

#[test]
fn other_shapes_are_accepted() {
    let inner = Inner { y: 1, z: None };
    assert_eq!(Value::of(&(1, ())).unwrap().decode::<Inner>().unwrap(), inner);
    assert_eq!(Value::of(&3u8).unwrap().decode::<f64>().unwrap(), 3.0);
    let wide = Value::of(&(1i128 << 100)).unwrap();
    assert_eq!(wide.decode::<f64>().unwrap(), (1u128 << 100) as f64);
    assert_eq!(Value::of(&-3i8).unwrap().decode::<f32>().unwrap(), -3.0);
    let bytes = Value::Bytes(vec![1, 2]);
    assert_eq!(bytes.decode::<Vec<u16>>().unwrap(), [1, 2]);
    assert_eq!(bytes.decode::<(u8, u8)>().unwrap(), (1, 2));
    assert_eq!(Value::of(&[1u8, 2]).unwrap().decode::<Blob>().unwrap().0, [1, 2]);
    let unit: Value = serde_json::from_value(json!({"Unit": null})).unwrap();
    assert_eq!(unit.decode::<Form>().unwrap(), Form::Unit);
    let lenient: Value = serde_json::from_value(json!({"kept": true, "new": [1]})).unwrap();
    assert_eq!(lenient.decode::<Lenient>().unwrap().count, 0);
}

#[test]
fn unreadable_says_what_and_where() {
    #[derive(Debug, Deserialize)]
    struct Outer {
        #[expect(dead_code, reason = "only read")]
        layers: Vec<Inner>,
    }
    let value: Value = serde_json::from_value(json!({"layers": [{"y": 1}, {"y": "one"}]})).unwrap();
    let error = value.decode::<Outer>().unwrap_err();
    let text = error.to_string();
    assert!(text.contains("Outer` at `layers.1.y`: invalid type: string"), "{text}");
    let StateError::Unreadable { type_name, .. } = error else { panic!("{error:?}") };
    assert!(type_name.ends_with("Outer"));

    let root = Value::Nil.decode::<u8>().unwrap_err();
    assert!(matches!(root, StateError::Unreadable { path: None, .. }));
    let error = Value::of(&vec![1, 2, 3]).unwrap().decode::<(u8, u8)>();
    assert!(error.unwrap_err().to_string().contains("invalid length 3"));
    Value::U64(300).decode::<u8>().unwrap_err();
    Value::of(&Form::Newtype(1)).unwrap().decode::<Adjacent>().unwrap_err();
    Value::of(&json!({"Unit": 1})).unwrap().decode::<Form>().unwrap_err();
    Value::of(&json!({"Unit": null, "x": 1})).unwrap().decode::<Form>().unwrap_err();
    Value::of(&json!({"layers": [], "layers2": 1})).unwrap().decode::<Outer>().unwrap();
}

#[test]
fn too_wide_integers_are_refused() {
    let error = Value::of(&BTreeMap::from([("big", u128::MAX)])).unwrap_err();
    assert!(matches!(&error, StateError::Unserialisable { path, .. } if path == "big"));
    Value::of(&BTreeMap::from([(u128::MAX, 1)])).unwrap_err();
}

#[test]
fn json_is_for_reading() {
    let value = Value::Map(vec![
        (Value::U64(1), Value::F32(1.1)),
        (Value::Bool(true), Value::F64(f64::NAN)),
        (Value::Nil, Value::F32(f32::NEG_INFINITY)),
        (Value::Bytes(vec![1, 0xab]), Value::Bytes(vec![0xff, 0])),
        (Value::Seq(vec![Value::U64(1)]), Value::F64(f64::INFINITY)),
        (Value::F64(0.5), Value::of(&i128::MIN).unwrap()),
        (Value::name("s"), Value::Seq(vec![Value::I64(-1), Value::Nil])),
    ]);
    assert_eq!(
        value.to_json(),
        json!({
            "1": 1.1, "true": "NaN", "null": "-inf", "01ab": "ff00", "[1]": "inf",
            "0.5": "-170141183460469231731687303715884105728", "s": [-1, null],
        })
    );
}

#[test]
fn paths() {
    let value: Value = serde_json::from_value(json!({
        "layers": [{"w": 1}, {"w": 2}], "a.b": {"c": 3}, "a": {"x": 4, "": 5},
    }))
    .unwrap();
    let get = |path: &str| value.get(path).map(Value::to_json);
    assert_eq!(get("layers.1.w"), Some(json!(2)));
    assert_eq!(get("a.b.c"), Some(json!(3)));
    assert_eq!(get("a.x"), Some(json!(4)));
    assert_eq!(get(""), Some(value.to_json()));
    assert_eq!(get("layers.2"), None);
    assert_eq!(get("layers.1.w.z"), None);
    assert_eq!(get("a.x."), None);
    let keyed = Value::of(&BTreeMap::from([(-7, [true])])).unwrap();
    assert_eq!(keyed.get("-7.0"), Some(&Value::Bool(true)));
}
