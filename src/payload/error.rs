//! Errors of payloads.

use std::sync::Arc;

use thiserror::Error;

use crate::wire::CodecError;

/// Error returned when a payload could not be created or read.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// The value cannot be serialised, so that no other node could ever read it.
    #[error("work `{origin}` cannot create a payload: its value cannot be serialised")]
    Unserialisable {
        /// The path of the Work that created the payload.
        origin: String,
        /// The error of the encoder.
        #[source]
        source: Arc<CodecError>,
    },
    /// No reachable process has the value any more.
    #[error("the value of {payload} is lost: {why}")]
    Lost {
        /// Description of the payload: id, type, size and Work.
        payload: String,
        /// The last holder of the value, the cause of the loss, and how to keep values alive.
        why: String,
    },
    /// The payload was read as a type other than the one that it was created from.
    #[error("{payload} is a `{stored}` and is read as a `{wanted}`; read it as the type it was made from")]
    WrongType {
        /// Description of the payload: id, type, size and Work.
        payload: String,
        /// The type that the payload was created from.
        stored: String,
        /// The type that was requested.
        wanted: &'static str,
    },
    /// The bytes do not match the hash of the payload, and no other source has the right ones.
    #[error("{payload} is corrupt: {why}")]
    Corrupt {
        /// Description of the payload: id, type, size and Work.
        payload: String,
        /// Which part does not match.
        why: String,
    },
    /// The bytes match the hash of the payload but cannot be decoded into a value.
    #[error("{payload} cannot be decoded: {why}")]
    Unusable {
        /// Description of the payload: id, type, size and Work.
        payload: String,
        /// The error of the decoder.
        why: String,
    },
    /// The value fits neither the memory budget nor the disk budget, or the disk is full.
    #[error("there is no room for {payload}: {why}")]
    NoRoom {
        /// Description of the payload: id, type, size and Work.
        payload: String,
        /// Which budget or disk is full, and which option changes that.
        why: String,
    },
    /// `*payload` would have to block for the value on a thread that must not block.
    #[error(
        "the value of {payload} is not on this machine, and this thread must not wait for it: \
         give the payload to a Work as an input, and read it there with `.value().await`"
    )]
    WouldBlock {
        /// Description of the payload: id, type, size and Work.
        payload: String,
    },
}

/// Why the encoded bytes of a value could not be loaded.
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
    #[error("the transfer was cancelled, because no reader waits for it any more")]
    Cancelled,
}
