//! What goes wrong with payloads.

use std::sync::Arc;

use thiserror::Error;

use crate::wire::CodecError;

/// A payload could not be made or read.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// The value does not serialise, so that no other node could ever read it.
    #[error("a payload of work `{origin}` cannot be made")]
    Unserialisable {
        /// The Work that tried to make it.
        origin: String,
        /// What the encoder said.
        #[source]
        source: Arc<CodecError>,
    },
    /// Nothing that can be reached has the value any more.
    #[error("the value of {payload} is lost: {why}")]
    Lost {
        /// The payload in words: type, size, Work and id.
        payload: String,
        /// Where the value was, why it is gone, and what keeps one from going.
        why: String,
    },
    /// The reference is read as another type than the value has.
    #[error("{payload} is a `{stored}` and is read as a `{wanted}`; read it as the type it was made from")]
    WrongType {
        /// The payload in words: type, size, Work and id.
        payload: String,
        /// The type that it was made from.
        stored: String,
        /// The type that was asked for.
        wanted: &'static str,
    },
    /// What came is not what was put in, and no other source has that.
    #[error("{payload} cannot be had as it was made: {why}")]
    Corrupt {
        /// The payload in words: type, size, Work and id.
        payload: String,
        /// In what way.
        why: String,
    },
    /// The bytes are those that were put in, and cannot be made into a value.
    #[error("{payload} cannot be made into a value again: {why}")]
    Unusable {
        /// The payload in words: type, size, Work and id.
        payload: String,
        /// What the decoder said.
        why: String,
    },
    /// There is no room for the value, neither in memory nor on disk.
    #[error("there is no room for {payload}: {why}")]
    NoRoom {
        /// The payload in words: type, size, Work and id.
        payload: String,
        /// What is full, and what to do.
        why: String,
    },
    /// `*payload` would have to wait for the value on a thread that must not wait.
    #[error(
        "the value of {payload} is not on this machine, and this thread must not wait for it: \
         give the payload to a Work as an input, and read it there with `.value().await`"
    )]
    WouldBlock {
        /// The payload in words: type, size, Work and id.
        payload: String,
    },
}

/// Why the encoded bytes of a value could not be had.
#[derive(Debug, Clone, Error)]
pub(crate) enum FetchError {
    #[error("{0}")]
    Lost(String),
    #[error("it is a `{0}`")]
    WrongType(String),
    #[error("{0}")]
    Corrupt(String),
    #[error("{0}")]
    Unusable(String),
    #[error("{0}")]
    NoRoom(String),
    #[error("nobody waits for it any more")]
    Cancelled,
}
