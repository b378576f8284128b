//! Conversion between values and JSON, and values as readable text.

use std::borrow::Cow;
use std::fmt::Write;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use super::{Value, number};
use crate::wire::MAX_SOMES;

impl Value {
    /// Converts the value to JSON, for display and for clients that read nothing else.
    ///
    /// Values that JSON cannot express become text: map keys that are not strings, integers of more than 64 bits, the
    /// floats `"NaN"`, `"inf"` and `"-inf"`, and bytes, as hexadecimal digits. If two keys of a map have the same
    /// text, one of the entries is lost.
    ///
    /// `Some(None)` is written as `{"$some": null}`, `Some(Some(None))` as `{"$some": {"$some": null}}` and so on,
    /// and is read back from this form where JSON is accepted. A map key that is `$some`, or `$some` after further
    /// `$`, is escaped with one more `$`.
    pub fn to_json(&self) -> Json {
        match self {
            Value::Nil => Json::Null,
            Value::SomeNil(somes) => some_nil(*somes),
            Value::Bool(b) => Json::Bool(*b),
            Value::I64(n) => Json::from(*n),
            Value::U64(n) => Json::from(*n),
            Value::Wide(n) => Json::String(n.to_string()),
            // Formats the shortest digits of an `f32`; converting to `f64` would show spurious digits.
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
                entries.iter().map(|(key, value)| (json_key(key).into_owned(), value.to_json())).collect()
            }
        }
    }
}

/// Key of the object that represents `Some`.
const SOME: &str = "$some";

fn some_nil(somes: u8) -> Json {
    (0..somes).fold(Json::Null, |inner, _| Json::Object([(SOME.to_owned(), inner)].into_iter().collect()))
}

/// Returns whether a map key must be escaped, because it could be read as `$some` or as an escaped key.
fn is_reserved(key: &str) -> bool {
    key.ends_with(SOME) && key.trim_start_matches('$') == &SOME[1..]
}

/// Returns a map key as text, escaped for JSON.
pub(super) fn json_key(key: &Value) -> Cow<'_, str> {
    let text = key_text(key);
    if is_reserved(&text) { Cow::Owned(format!("${text}")) } else { text }
}

/// Reads JSON as a `T`; nested options are read from the form that [`Value::to_json`] writes.
///
/// # Errors
/// The JSON is malformed, or does not have the shape of a `T`.
pub(crate) fn from_json<T: DeserializeOwned>(json: &[u8]) -> Result<T, serde_json::Error> {
    // Few texts contain a dollar sign; the others are parsed directly into a `T`.
    let may_have_somes = json.contains(&b'$') || json.windows(6).any(|part| part == b"\\u0024");
    if may_have_somes
        && let Ok(mut value) = serde_json::from_slice::<Value>(json)
        && read_somes(&mut value)
    {
        return value.decode().map_err(serde::de::Error::custom);
    }
    serde_json::from_slice(json)
}

/// Converts objects that represent nested options, and unescapes keys. Returns whether there were any.
fn read_somes(value: &mut Value) -> bool {
    match value {
        Value::Seq(items) => items.iter_mut().fold(false, |any, item| read_somes(item) | any),
        Value::Map(entries) => {
            let mut any = false;
            for (_, inner) in entries.iter_mut() {
                any |= read_somes(inner);
            }
            let somes = match &entries[..] {
                [(Value::Str(key), Value::Nil)] if key == SOME => Some(1),
                [(Value::Str(key), Value::SomeNil(somes @ 0..MAX_SOMES))] if key == SOME => Some(somes + 1),
                _ => None,
            };
            if let Some(somes) = somes {
                *value = Value::SomeNil(somes);
                return true;
            }
            for (key, _) in entries {
                if let Value::Str(text) = key
                    && is_reserved(text)
                    && text.len() > SOME.len()
                {
                    *text = Cow::Owned(text[1..].to_owned());
                    any = true;
                }
            }
            any
        }
        _ => false,
    }
}

/// Writes a value as JSON; nested options are written in the form of [`Value::to_json`].
///
/// # Errors
/// `value` cannot be written as JSON.
pub(crate) fn to_json<T: Serialize>(value: &T) -> Result<Vec<u8>, serde_json::Error> {
    let json = serde_json::to_vec(value)?;
    // Nested options that end in `None` contain `null`, so that a text without `null` needs no second pass.
    let may_have_somes = json.contains(&b'$') || json.windows(4).any(|part| part == b"null");
    if may_have_somes
        && let Ok(tree) = Value::of(value)
        && has_somes(&tree)
    {
        let mut marked = serde_json::to_value(value)?;
        write_somes(&tree, &mut marked);
        return serde_json::to_vec(&marked);
    }
    Ok(json)
}

fn has_somes(value: &Value) -> bool {
    match value {
        Value::SomeNil(_) => true,
        Value::Seq(items) => items.iter().any(has_somes),
        Value::Map(entries) => {
            entries.iter().any(|(key, value)| is_reserved(&key_text(key)) || has_somes(value))
        }
        _ => false,
    }
}

/// Rewrites the parts of `json` that plain JSON cannot distinguish: nested options, reserved keys and `f32`.
fn write_somes(value: &Value, json: &mut Json) {
    match (value, json) {
        (Value::SomeNil(somes), json @ Json::Null) => *json = some_nil(*somes),
        (Value::F32(_), json @ Json::Number(_)) => *json = value.to_json(),
        (Value::Seq(items), Json::Array(array)) => {
            items.iter().zip(array).for_each(|(item, json)| write_somes(item, json));
        }
        (Value::Map(entries), Json::Object(object)) => {
            let mut marked = serde_json::Map::new();
            for (key, value) in entries {
                if let Some(mut json) = object.remove(&*key_text(key)) {
                    write_somes(value, &mut json);
                    marked.insert(json_key(key).into_owned(), json);
                }
            }
            // Keeps entries whose keys serde_json formats differently from `key_text`.
            object.append(&mut marked);
        }
        _ => {}
    }
}

fn float(x: f64) -> Json {
    serde_json::Number::from_f64(x).map_or_else(|| Json::String(x.to_string()), Json::Number)
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a `String` cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Returns the textual form of a map key.
pub(super) fn key_text(key: &Value) -> Cow<'_, str> {
    match key {
        Value::Str(text) => Cow::Borrowed(text),
        Value::Nil => Cow::Borrowed("null"),
        Value::SomeNil(somes) => Cow::Owned(some_nil(*somes).to_string()),
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
