//! Values as JSON and as text, for people to read.

use std::borrow::Cow;
use std::fmt::Write;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use super::{Value, number};
use crate::wire::MAX_SOMES;

impl Value {
    /// The value as JSON, for display and for clients that know nothing else.
    ///
    /// What JSON cannot express becomes text: map keys that are not strings, integers of
    /// more than 64 bits, the floats `"NaN"`, `"inf"` and `"-inf"`, and bytes, as
    /// hexadecimal digits. Should two keys of a map have the same text, one wins.
    ///
    /// Nothing inside of `Some` is `{"$some": null}`, inside of two `Some`s `{"$some": {"$some": null}}` and so on, which is read as that
    /// where JSON is accepted. A key of a map that is `$some`, or that with more `$` before it, has one `$` more.
    pub fn to_json(&self) -> Json {
        match self {
            Value::Nil => Json::Null,
            Value::SomeNil(somes) => some_nil(*somes),
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
                entries.iter().map(|(key, value)| (json_key(key).into_owned(), value.to_json())).collect()
            }
        }
    }
}

/// The key of an object that stands for `Some`.
const SOME: &str = "$some";

fn some_nil(somes: u8) -> Json {
    (0..somes).fold(Json::Null, |inner, _| Json::Object([(SOME.to_owned(), inner)].into_iter().collect()))
}

/// Whether a key could be taken for one that stands for `Some`, or for one that is escaped.
fn is_reserved(key: &str) -> bool {
    key.ends_with(SOME) && key.trim_start_matches('$') == &SOME[1..]
}

/// The key of a map in JSON.
pub(super) fn json_key(key: &Value) -> Cow<'_, str> {
    let text = key_text(key);
    if is_reserved(&text) { Cow::Owned(format!("${text}")) } else { text }
}

/// Reads JSON as a `T`, with nothing inside of `Some` as [`Value::to_json`] writes it.
///
/// # Errors
/// The JSON is none, or no such value.
pub(crate) fn from_json<T: DeserializeOwned>(json: &[u8]) -> Result<T, serde_json::Error> {
    // Few have a key with a dollar sign. Those that have none are read without a detour.
    let may_have_somes = json.contains(&b'$') || json.windows(6).any(|part| part == b"\\u0024");
    if may_have_somes
        && let Ok(mut value) = serde_json::from_slice::<Value>(json)
        && read_somes(&mut value)
    {
        return value.decode().map_err(serde::de::Error::custom);
    }
    serde_json::from_slice(json)
}

/// Makes nothing inside of `Some` of what stands for it, and keys that are escaped what they are; whether there were any.
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

/// Writes a value as JSON, with nothing inside of `Some` as [`Value::to_json`] writes it.
///
/// # Errors
/// The value cannot be written as JSON.
pub(crate) fn to_json<T: Serialize>(value: &T) -> Result<Vec<u8>, serde_json::Error> {
    let json = serde_json::to_vec(value)?;
    // Nothing is written as null, whatever it is in.
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

/// Marks in the JSON of a value what JSON itself cannot tell.
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
            // Keys that JSON writes in another way than states do.
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
