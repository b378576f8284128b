//! Round-trip tests of the encoding.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::*;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Unit;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct New<T>(T);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Nested {
    Unit(Option<()>),
    Struct { inner: Option<Option<Option<u8>>>, unit: Option<Option<Unit>> },
    Tuple(Option<Option<String>>, Option<New<Option<New<()>>>>),
    Map(HashMap<String, Option<Option<bool>>>),
    Keys(BTreeMap<Option<Option<u8>>, Option<Box<Nested>>>),
    Seq(Vec<Option<Option<Vec<Option<u8>>>>>),
    More(Option<Option<Box<Nested>>>),
}

/// Nested options in types that serde reads from a buffer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
enum Tagged {
    Flat {
        name: Option<Option<u8>>,
        #[serde(flatten)]
        rest: BTreeMap<String, Option<Option<u16>>>,
    },
    Adjacent(Adjacent),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t", content = "c")]
enum Adjacent {
    One(Option<Option<Option<i8>>>),
    Two(Untagged),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Pair((Option<Option<u8>>, Option<()>)),
    Named { inner: Option<Option<Option<i8>>> },
}

fn twice<T: std::fmt::Debug + Clone>(
    value: impl Strategy<Value = T> + Clone,
) -> impl Strategy<Value = Option<Option<T>>> + Clone {
    prop_oneof![Just(None), Just(Some(None)), value.prop_map(|value| Some(Some(value)))]
}

fn nested() -> impl Strategy<Value = Nested> {
    let three = || prop::option::of(twice(any::<u8>()));
    let flat = prop_oneof![
        any::<Option<()>>().prop_map(Nested::Unit),
        (three(), twice(Just(Unit))).prop_map(|(inner, unit)| Nested::Struct { inner, unit }),
        (twice(".{0,3}"), prop_oneof![Just(None), Just(Some(New(None))), Just(Some(New(Some(New(())))))])
            .prop_map(|(a, b)| Nested::Tuple(a, b)),
        prop::collection::hash_map(".{0,3}", twice(any::<bool>()), 0..4).prop_map(Nested::Map),
        prop::collection::vec(twice(prop::collection::vec(any::<Option<u8>>(), 0..3)), 0..4)
            .prop_map(Nested::Seq),
    ];
    flat.prop_recursive(4, 32, 4, move |inner| {
        let boxed = inner.prop_map(Box::new);
        prop_oneof![
            twice(boxed.clone()).prop_map(Nested::More),
            prop::collection::btree_map(twice(any::<u8>()), prop::option::of(boxed), 0..4)
                .prop_map(Nested::Keys),
        ]
    })
}

fn tagged() -> impl Strategy<Value = Tagged> {
    let three = || prop::option::of(twice(any::<i8>()));
    let untagged = prop_oneof![
        (twice(any::<u8>()), any::<Option<()>>()).prop_map(Untagged::Pair),
        three().prop_map(|inner| Untagged::Named { inner }),
    ];
    prop_oneof![
        (twice(any::<u8>()), prop::collection::btree_map("[a-c]", twice(any::<u16>()), 0..3))
            .prop_map(|(name, rest)| Tagged::Flat { name, rest }),
        three().prop_map(|one| Tagged::Adjacent(Adjacent::One(one))),
        untagged.prop_map(|two| Tagged::Adjacent(Adjacent::Two(two))),
    ]
}

fn comes_back<T>(value: &T) -> Result<(), TestCaseError>
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let bytes = encode(value).unwrap();
    prop_assert_eq!(&decode::<T>(&bytes).unwrap(), value);
    prop_assert_eq!(length(value), bytes.len());
    let mut canonical = Vec::new();
    encode_canonically(value, &mut canonical).unwrap();
    prop_assert_eq!(&decode_from::<T>(&mut &canonical[..]).unwrap(), value);
    Ok(())
}

/// Nested maps in a drawn order.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
enum Tree {
    Number(i64),
    Text(String),
    List(Vec<Tree>),
    Named(Shuffled<String>),
    Keyed(Shuffled<(i8, Option<bool>)>),
}

/// A map that is serialised in this order.
#[derive(Debug, Clone)]
struct Shuffled<K>(Vec<(K, Tree)>);

impl<K: Serialize> Serialize for Shuffled<K> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

impl Tree {
    /// Returns the same value with its maps in another order.
    fn shuffled(&self, seed: u64) -> Self {
        fn shuffle<K: Clone>(entries: &[(K, Tree)], seed: u64) -> Shuffled<K> {
            let mut entries: Vec<_> = entries
                .iter()
                .enumerate()
                .map(|(n, (key, value))| (key.clone(), value.shuffled(seed.wrapping_add(n as u64))))
                .collect();
            let length = entries.len().max(1);
            entries.rotate_left(seed as usize % length);
            if seed.is_multiple_of(3) {
                entries.reverse();
            }
            Shuffled(entries)
        }

        match self {
            Self::List(items) => Self::List(items.iter().map(|item| item.shuffled(seed)).collect()),
            Self::Named(Shuffled(entries)) => Self::Named(shuffle(entries, seed)),
            Self::Keyed(Shuffled(entries)) => Self::Keyed(shuffle(entries, seed)),
            other => other.clone(),
        }
    }

    /// Returns a description that is independent of the order of maps.
    fn sorted(&self) -> String {
        fn entries<K: std::fmt::Debug>(entries: &[(K, Tree)]) -> String {
            let mut all: Vec<_> =
                entries.iter().map(|(key, value)| format!("{key:?}: {}", value.sorted())).collect();
            all.sort();
            format!("{{{}}}", all.join(", "))
        }

        match self {
            Self::List(items) => format!("{:?}", items.iter().map(Self::sorted).collect::<Vec<_>>()),
            Self::Named(Shuffled(named)) => entries(named),
            Self::Keyed(Shuffled(keyed)) => entries(keyed),
            other => format!("{other:?}"),
        }
    }
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![(0_i64..3).prop_map(Tree::Number), "[a-b]{0,1}".prop_map(Tree::Text)];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Tree::List),
            prop::collection::hash_map("[a-c]{0,2}", inner.clone(), 0..4)
                .prop_map(|map| Tree::Named(Shuffled(map.into_iter().collect()))),
            prop::collection::hash_map((-2..2_i8, any::<Option<bool>>()), inner, 0..4)
                .prop_map(|map| Tree::Keyed(Shuffled(map.into_iter().collect()))),
        ]
    })
}

fn canonical<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_canonically(value, &mut bytes).unwrap();
    bytes
}

proptest! {
    /// Options in options are decoded as they were encoded, in every kind of container.
    #[test]
    fn nested_options_come_back(value in nested()) {
        comes_back(&value)?;
    }

    /// The same holds in types that serde reads from a buffer.
    #[test]
    fn nested_options_in_buffered_types_come_back(value in tagged()) {
        comes_back(&value)?;
    }

    /// The identity of a value depends on the content of its maps at any depth, and not on their order of iteration.
    #[test]
    fn identity_does_not_depend_on_the_order_of_maps(value in tree(), seed: u64) {
        let other = value.shuffled(seed);
        prop_assert_eq!(identity(&value).unwrap(), identity(&other).unwrap());
        prop_assert_eq!(canonical(&value), canonical(&other));
        prop_assert_eq!(unordered(&value).unwrap(), unordered(&other).unwrap());
        // Without such a part the plain encoding is the identity.
        let (bytes, met) = encode_noting(&value).unwrap();
        if !met.several_forms {
            prop_assert_eq!(identity(&value).unwrap(), blake3::hash(&bytes));
        }
    }

    /// Different values have different identities, also if only the order of a sequence differs.
    #[test]
    fn identity_of_different_values_differs(a in tree(), b in tree()) {
        prop_assert_eq!(identity(&a).unwrap() == identity(&b).unwrap(), a.sorted() == b.sorted());
        prop_assert_eq!(canonical(&a) == canonical(&b), a.sorted() == b.sorted());
    }

    /// No bytes make the decoder panic, and a value that it reads can be encoded again.
    #[test]
    fn no_bytes_make_the_decoder_panic(
        bytes in prop::collection::vec(prop_oneof![Just(0xd4), Just(0x02), Just(0xc0), any::<u8>()], 0..60),
    ) {
        let _ = decode::<Nested>(&bytes);
        let _ = decode::<Tagged>(&bytes);
        let _ = decode_from::<Nested>(&mut &bytes[..]);
        let (slice, stream) = (decode::<(u128, Option<Option<()>>)>(&bytes), decode_from(&mut &bytes[..]));
        prop_assert_eq!(slice.ok(), stream.ok());
    }
}

/// Maps of unknown length, and items that are maps, are sorted as well.
#[test]
fn maps_of_unknown_length_are_sorted() {
    struct Unknown(Vec<(u16, u8)>);

    impl Serialize for Unknown {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            use serde::ser::SerializeMap;

            let mut map = serializer.serialize_map(None)?;
            self.0.iter().try_for_each(|(key, value)| map.serialize_entry(key, value))?;
            map.end()
        }
    }

    let entries: Vec<_> = (0..1000).map(|n| (n, n as u8)).collect();
    let reversed: Vec<_> = entries.iter().rev().copied().collect();
    let (a, b) = (vec![Unknown(entries.clone())], vec![Unknown(reversed)]);
    assert_ne!(encode(&a).unwrap(), encode(&b).unwrap());
    assert_eq!(canonical(&a), canonical(&b));
    assert_eq!(identity(&a).unwrap(), identity(&b).unwrap());
    let read: Vec<BTreeMap<u16, u8>> = decode(&encode(&a).unwrap()).unwrap();
    assert_eq!(read, [entries.into_iter().collect()]);
}

/// Equal floats have one identity, and so have all NaNs; the encoding keeps the bits of a NaN.
#[test]
fn floats_that_are_equal_have_one_identity() {
    let other_nan = f64::from_bits(f64::NAN.to_bits() ^ 1 << 63 ^ 1);
    assert!(other_nan.is_nan());
    assert_eq!(identity(&(f64::NAN, 0.0_f32)).unwrap(), identity(&(other_nan, -0.0_f32)).unwrap());
    assert_ne!(identity(&0.0).unwrap(), identity(&f64::MIN_POSITIVE).unwrap());
    assert_ne!(canonical(&0.0), canonical(&-0.0));
    let read: f64 = decode(&encode(&other_nan).unwrap()).unwrap();
    assert_eq!(read.to_bits(), other_nan.to_bits(), "it arrives as it was sent");
}

/// Sequences in another order differ in their identity only; tuples differ in both hashes.
#[test]
fn unordered_hash_ignores_the_order_of_sequences() {
    let (a, b) = ((vec![1, 2, 2], 3), (vec![2, 1, 2], 3));
    assert_ne!(identity(&a).unwrap(), identity(&b).unwrap());
    assert_eq!(unordered(&a).unwrap(), unordered(&b).unwrap());
    assert_ne!(unordered(&a).unwrap(), unordered(&(vec![1, 2, 1], 3)).unwrap());
    assert_ne!(unordered(&(1, 2)).unwrap(), unordered(&(2, 1)).unwrap());
}

/// A type that is an option of itself is refused by the encoder and the decoder when it is too deep.
#[test]
fn option_of_itself_is_refused_when_too_deep() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Chain(Option<Box<Chain>>);

    let chain = |links: u32| (0..links).fold(Chain(None), |chain, _| Chain(Some(Box::new(chain))));
    let whole = chain(MAX_SOMES.into());
    assert_eq!(decode::<Chain>(&encode(&whole).unwrap()).unwrap(), whole);
    let error = encode(&chain(u32::from(MAX_SOMES) + 1)).unwrap_err().to_string();
    assert!(error.contains("128 `Some`s"), "{error}");
    for bytes in [&[5][..], &[0x80], &[0xd4, 2, 0], &[0xd4, 2, 129]] {
        assert!(decode::<Chain>(bytes).is_err(), "{bytes:?}");
    }
}

/// Other extensions are decoded as the type that asks for them by name, and nil in `Some`s is shorter than any of them.
#[test]
fn extensions_come_back() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(rename = "_ExtStruct")]
    struct Extension((i8, serde_bytes_of::Bytes));

    mod serde_bytes_of {
        use serde::{Deserialize, Deserializer, Serialize, Serializer};

        #[derive(Debug, PartialEq)]
        pub(super) struct Bytes(pub(super) Vec<u8>);

        impl Serialize for Bytes {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_bytes(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for Bytes {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                bytes::Bytes::deserialize(deserializer).map(|bytes| Self(bytes.to_vec()))
            }
        }
    }

    for length in [0, 1, 2, 3, 16, 300] {
        let value = Some(Extension((-7, serde_bytes_of::Bytes(vec![9; length]))));
        let bytes = encode(&value).unwrap();
        assert_eq!(decode::<Option<Extension>>(&bytes).unwrap(), value, "{length}");
        assert_eq!(decode_from::<Option<Extension>>(&mut &bytes[..]).unwrap(), value, "{length}");
    }
    assert_eq!(&encode(&Some(Some(None::<u8>))).unwrap()[..], [0xd4, 2, 2]);
    assert_eq!(&encode(&Some(())).unwrap()[..], [0xd4, 2, 1]);
    assert_eq!(&encode(&Some(Some(7))).unwrap()[..], [7]);
}
