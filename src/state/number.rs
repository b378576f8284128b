//! Numbers of `serde_json` with its feature `arbitrary_precision`, which any crate of the program may enable. They
//! serialise as a struct with one text field, which only `serde_json` itself reads as a number.

use std::borrow::Cow;

use serde::ser::{Serialize, SerializeStruct};

use super::Value;
use super::diff::Diff;
use super::error::Fault;
use super::map_diff::MapDiff;
use super::walk::Delta;

/// Name of the struct and of its field.
pub(super) const TOKEN: &str = "$serde_json::private::Number";

/// Parses the text as a number, if a [`Value`] can hold it exactly.
pub(super) fn parse(text: &str) -> Option<Value> {
    if let Ok(n) = text.parse::<i128>() {
        return Some(Value::from_i128(n));
    }
    let x = text.parse::<f64>().ok().filter(|x| x.is_finite())?;
    let exact = digits(text) == digits(&x.to_string());
    exact.then_some(Value::F64(x))
}

/// Returns the significant digits.
fn digits(text: &str) -> String {
    let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    digits.trim_matches('0').to_owned()
}

/// Returns the text of such a number, if `entries` are those of its struct.
pub(super) fn text_of(entries: &[(Value, Value)]) -> Option<&str> {
    match entries {
        [(Value::Str(name), Value::Str(text))] if name == TOKEN => Some(text),
        _ => None,
    }
}

/// The comparison of a struct with the tree, or of a number in the form of a struct.
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
                    // A number that no scalar can hold exactly keeps its struct, so that no digits are lost.
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

    /// A number as `serde_json` serialises it with `arbitrary_precision`.
    struct Arbitrary(&'static str);

    impl Serialize for Arbitrary {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut number = serializer.serialize_struct(TOKEN, 1)?;
            number.serialize_field(TOKEN, self.0)?;
            number.end()
        }
    }

    /// Such numbers become scalars in the state, and are compared as scalars.
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

    /// A number with more digits than a float keeps all of them, and is displayed as a number, not as serde_json's
    /// private struct.
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
