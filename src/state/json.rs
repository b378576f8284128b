//! Values as JSON and as text, for people to read.

use std::borrow::Cow;
use std::fmt::Write;

use serde_json::Value as Json;

use super::{Value, number};

impl Value {
    /// The value as JSON, for display and for clients that know nothing else.
    ///
    /// What JSON cannot express becomes text: map keys that are not strings, integers of
    /// more than 64 bits, the floats `"NaN"`, `"inf"` and `"-inf"`, and bytes, as
    /// hexadecimal digits. Should two keys of a map have the same text, one wins.
    pub fn to_json(&self) -> Json {
        match self {
            Value::Nil => Json::Null,
            Value::Bool(b) => Json::Bool(*b),
            Value::I64(n) => Json::from(*n),
            Value::U64(n) => Json::from(*n),
            Value::Wide(n) => Json::String(n.to_string()),
            // The shortest digits for this precision; converting would show them all.
            Value::F32(x) => float(x.to_string().parse().unwrap_or(f64::from(*x))),
            Value::F64(x) => float(*x),
            Value::Str(text) => Json::String(text.clone().into_owned()),
            Value::Bytes(bytes) => Json::String(hex(bytes)),
            Value::Seq(items) => items.iter().map(Value::to_json).collect(),
            Value::Map(entries) => {
                let number = number::text_of(entries).and_then(|text| text.parse().ok());
                if let Some(number) = number {
                    return Json::Number(number);
                }
                entries.iter().map(|(key, value)| (key_text(key).into_owned(), value.to_json())).collect()
            }
        }
    }
}

fn float(x: f64) -> Json {
    serde_json::Number::from_f64(x).map_or_else(|| Json::String(x.to_string()), Json::Number)
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The textual form of a map key.
pub(super) fn key_text(key: &Value) -> Cow<'_, str> {
    match key {
        Value::Str(text) => Cow::Borrowed(text),
        Value::Nil => Cow::Borrowed("null"),
        Value::Bool(b) => Cow::Owned(b.to_string()),
        Value::I64(n) => Cow::Owned(n.to_string()),
        Value::U64(n) => Cow::Owned(n.to_string()),
        Value::Wide(n) => Cow::Owned(n.to_string()),
        Value::F32(x) => Cow::Owned(x.to_string()),
        Value::F64(x) => Cow::Owned(x.to_string()),
        Value::Bytes(bytes) => Cow::Owned(hex(bytes)),
        Value::Seq(_) | Value::Map(_) => Cow::Owned(key.to_json().to_string()),
    }
}
