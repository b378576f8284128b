//! Replies as JSON: those of type `Result` are taken apart.

use std::fmt;

use serde::ser::{Error, Impossible, Serialize, Serializer};

use crate::state;

/// A reply as JSON.
pub(super) enum JsonReply {
    /// The reply, or the value in `Ok`.
    Value(Vec<u8>),
    /// The error in `Err`.
    Failure(Vec<u8>),
}

impl JsonReply {
    /// Writes a reply as JSON.
    ///
    /// # Errors
    /// `reply` cannot be written as JSON.
    pub(super) fn of<T: Serialize>(reply: &T) -> Result<Self, serde_json::Error> {
        // A generic function cannot ask whether `T` is a `Result`. The `Serialize` of `Result` tells it.
        reply.serialize(ResultParts).unwrap_or_else(|NotAResult| state::to_json(reply).map(Self::Value))
    }
}

/// A serializer that accepts a value of type `Result` only, and writes its content as JSON.
struct ResultParts;

/// Error returned for a value that is not a `Result`.
#[derive(Debug, thiserror::Error)]
#[error("not a `Result`")]
struct NotAResult;

impl Error for NotAResult {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

/// Refuses values of these primitive types.
macro_rules! refuse {
    ($($method:ident($of:ty);)*) => {
        $(fn $method(self, _: $of) -> Result<Self::Ok, NotAResult> { Err(NotAResult) })*
    };
}

impl Serializer for ResultParts {
    type Ok = Result<JsonReply, serde_json::Error>;
    type Error = NotAResult;
    type SerializeSeq = Impossible<Self::Ok, NotAResult>;
    type SerializeTuple = Impossible<Self::Ok, NotAResult>;
    type SerializeTupleStruct = Impossible<Self::Ok, NotAResult>;
    type SerializeTupleVariant = Impossible<Self::Ok, NotAResult>;
    type SerializeMap = Impossible<Self::Ok, NotAResult>;
    type SerializeStruct = Impossible<Self::Ok, NotAResult>;
    type SerializeStructVariant = Impossible<Self::Ok, NotAResult>;

    refuse! {
        serialize_bool(bool);
        serialize_i8(i8);
        serialize_i16(i16);
        serialize_i32(i32);
        serialize_i64(i64);
        serialize_u8(u8);
        serialize_u16(u16);
        serialize_u32(u32);
        serialize_u64(u64);
        serialize_f32(f32);
        serialize_f64(f64);
        serialize_char(char);
        serialize_str(&str);
        serialize_bytes(&[u8]);
        serialize_unit_struct(&'static str);
    }

    fn serialize_newtype_variant<T: ?Sized + Serialize>(
        self,
        name: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<Self::Ok, NotAResult> {
        match (name, variant) {
            ("Result", "Ok") => Ok(state::to_json(&value).map(JsonReply::Value)),
            ("Result", "Err") => Ok(state::to_json(&value).map(JsonReply::Failure)),
            _ => Err(NotAResult),
        }
    }

    fn serialize_none(self) -> Result<Self::Ok, NotAResult> {
        Err(NotAResult)
    }

    fn serialize_some<T: ?Sized + Serialize>(self, _: &T) -> Result<Self::Ok, NotAResult> {
        Err(NotAResult)
    }

    fn serialize_unit(self) -> Result<Self::Ok, NotAResult> {
        Err(NotAResult)
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
    ) -> Result<Self::Ok, NotAResult> {
        Err(NotAResult)
    }

    fn serialize_newtype_struct<T: ?Sized + Serialize>(
        self,
        _: &'static str,
        _: &T,
    ) -> Result<Self::Ok, NotAResult> {
        Err(NotAResult)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq, NotAResult> {
        Err(NotAResult)
    }

    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, NotAResult> {
        Err(NotAResult)
    }

    fn serialize_tuple_struct(
        self,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleStruct, NotAResult> {
        Err(NotAResult)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, NotAResult> {
        Err(NotAResult)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, NotAResult> {
        Err(NotAResult)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeStruct, NotAResult> {
        Err(NotAResult)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, NotAResult> {
        Err(NotAResult)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<T: Serialize>(reply: T) -> (bool, String) {
        match JsonReply::of(&reply).unwrap() {
            JsonReply::Value(json) => (true, String::from_utf8(json).unwrap()),
            JsonReply::Failure(json) => (false, String::from_utf8(json).unwrap()),
        }
    }

    #[test]
    fn only_the_outermost_result_is_taken_apart() {
        assert_eq!(of(Ok::<_, ()>(7)), (true, "7".into()));
        assert_eq!(of(Err::<(), _>("no room")), (false, "\"no room\"".into()));
        assert_eq!(of(Err::<(), _>(())), (false, "null".into()));
        assert_eq!(of(Ok::<_, ()>(Err::<(), _>(1))), (true, "{\"Err\":1}".into()));
        assert_eq!(of(Some(Err::<(), _>(1))), (true, "{\"Err\":1}".into()));
        assert_eq!(of(vec![Ok::<_, ()>(1)]), (true, "[{\"Ok\":1}]".into()));
        assert_eq!(of("text"), (true, "\"text\"".into()));
        assert_eq!(of(()), (true, "null".into()));
    }

    #[test]
    fn content_that_cannot_be_written_is_an_error() {
        let map = std::collections::BTreeMap::from([((1, 2), 3)]);
        assert!(JsonReply::of(&Err::<(), _>(map)).is_err());
    }
}
