//! Numbers of `serde_json` when some crate of the program has turned its feature `arbitrary_precision` on: they serialise as a
//! struct of one field with a text, which only `serde_json` itself takes for a number.

use std::borrow::Cow;

use serde::ser::{Serialize, SerializeStruct};

use super::Value;
use super::diff::Diff;
use super::error::Fault;
use super::map_diff::MapDiff;
use super::walk::Delta;

/// The name of that struct, and of its field.
pub(super) const TOKEN: &str = "$serde_json::private::Number";

/// The number that the text is, if a [`Value`] can hold it as it is.
pub(super) fn parse(text: &str) -> Option<Value> {
    if let Ok(n) = text.parse::<i128>() {
        return Some(Value::from_i128(n));
    }
    let x = text.parse::<f64>().ok().filter(|x| x.is_finite())?;
    let exact = digits(text) == digits(&x.to_string());
    exact.then_some(Value::F64(x))
}

/// The significant digits.
fn digits(text: &str) -> String {
    let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    digits.trim_matches('0').to_owned()
}

/// The text in a map that is such a number.
pub(super) fn text_of(entries: &[(Value, Value)]) -> Option<&str> {
    match entries {
        [(Value::Str(name), Value::Str(text))] if name == TOKEN => Some(text),
        _ => None,
    }
}

/// A struct that is compared with the tree, or a number.
pub(super) enum StructDiff<'a> {
    Struct(MapDiff<'a>),
    Number { diff: Option<Diff<'a>>, delta: Option<Delta> },
}

impl SerializeStruct for StructDiff<'_> {
    type Ok = Delta;
    type Error = Fault;

    #[inline]
    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), Fault> {
        match self {
            Self::Struct(fields) => fields.serialize_field(key, value),
            Self::Number { diff, delta } => {
                let Some(diff) = diff.take() else { return Ok(()) };
                let text = match super::diff::build(value)? {
                    Value::Str(text) => text,
                    other => Cow::Owned(other.to_json().to_string()),
                };
                *delta = Some(match parse(&text) {
                    Some(number) => number.serialize(diff)?,
                    // One that no value can hold stays what it is, so that nothing of it is lost.
                    None => [(TOKEN, &text)]
                        .into_iter()
                        .collect::<std::collections::BTreeMap<_, _>>()
                        .serialize(diff)?,
                });
                Ok(())
            }
        }
    }

    #[inline]
    fn end(self) -> Result<Delta, Fault> {
        match self {
            Self::Struct(fields) => SerializeStruct::end(fields),
            Self::Number { delta, .. } => {
                delta.ok_or_else(|| Fault::new("a number has no digits".to_owned()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Tracker;
    use super::*;

    /// As `serde_json` serialises a number with that feature.
    struct Arbitrary(&'static str);

    impl Serialize for Arbitrary {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut number = serializer.serialize_struct(TOKEN, 1)?;
            number.serialize_field(TOKEN, self.0)?;
            number.end()
        }
    }

    /// Numbers are numbers in the state, and compared as such.
    #[test]
    fn arbitrary_numbers_are_numbers_in_the_state() {
        let mut tracker = Tracker::new(1 << 20);
        for (text, shown) in [
            ("1", json!(1)),
            ("-7", json!(-7)),
            ("18446744073709551615", json!(18_446_744_073_709_551_615_u64)),
            ("0.1", json!(0.1)),
            ("1e3", json!(1000.0)),
            ("-2.50", json!(-2.5)),
        ] {
            let state =
                [("field", Arbitrary(text))].into_iter().collect::<std::collections::BTreeMap<_, _>>();
            tracker.update(&state).unwrap().expect("another number");
            assert_eq!(tracker.value().to_json(), json!({ "field": shown }), "{text}");
            assert_eq!(tracker.update(&state).unwrap(), None, "{text} is the same");
        }
    }

    /// One with more digits than a float has keeps all of them, and is not shown as serde_json's private struct.
    #[test]
    fn longer_numbers_keep_their_digits() {
        let text = "0.12345678901234567890123";
        let value = super::super::diff::build(&Arbitrary(text)).unwrap();
        assert_eq!(
            text_of(match &value {
                Value::Map(entries) => entries,
                other => panic!("{other:?}"),
            }),
            Some(text)
        );
        assert_eq!(value.to_json().as_f64(), Some(0.123_456_789_012_345_68));
    }
}
