//! The pull protocol: the request of a process that pulls a value, and the response of the source.
//!
//! # Guarantees
//! - A response is accepted only if it is for the requested value, with chunk hashes that add up to the hash in the
//!   reference.
//! - The reason why a value is missing tells whether another attempt is worthwhile.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::super::bridge::{Bridge, DialError};
use super::super::protocol::{Role, Source};
use crate::payload::{ChunkHashes, FetchError, Hex, PayloadId, Want};
use crate::transport::{Connection, TransportError};
use crate::wire::{self, Frame};

/// The request of a puller.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::remote) struct PullRequest {
    pub(in crate::remote) id: PayloadId,
    /// The type as which the value will be read; empty if only the bytes are kept.
    pub(super) type_name: String,
    /// Number of bytes that have arrived already.
    pub(super) from: u64,
    /// True if the chunk hashes are requested.
    pub(super) hashes: bool,
}

/// The response of a source.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::remote) enum PullResponse {
    /// The bytes from `from` on follow, unframed.
    Here {
        length: u64,
        hash: Hex<32>,
        type_name: String,
        chunks: Bytes,
        /// True if the value refers to other values; may be absent.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        refers: bool,
    },
    WrongType {
        stored: String,
    },
    /// The source does not have the value.
    Gone,
    /// The source has the value but cannot send it.
    Broken {
        why: String,
    },
}

/// The reason why a source has not sent the value.
pub(in crate::remote) enum NotGiven {
    /// The source may still send it.
    Unreachable(String),
    /// The source will not send it.
    HasItNot(String),
    /// No source will send it.
    Never(FetchError),
}

impl From<TransportError> for NotGiven {
    fn from(error: TransportError) -> Self {
        Self::Unreachable(error.to_string())
    }
}

impl From<DialError> for NotGiven {
    fn from(error: DialError) -> Self {
        match error {
            DialError::Transport(error) => error.into(),
            error => Self::HasItNot(error.to_string()),
        }
    }
}

/// The description of a value that a source is going to send.
pub(in crate::remote) struct Given {
    pub(in crate::remote) hashes: ChunkHashes,
    pub(in crate::remote) type_name: String,
    /// True if the value refers to other values.
    pub(in crate::remote) refers: bool,
}

/// Dials a source for a pull.
pub(super) async fn dial(bridge: &Bridge, source: &Source) -> Result<Connection, NotGiven> {
    let endpoints = bridge.endpoints_of(source);
    let hello = bridge.hello(Role::Puller, Some(bridge.app()), crate::id::unique());
    Ok(bridge.call(&endpoints, &hello).await?.0)
}

/// Requests the bytes from `from` on.
pub(in crate::remote) async fn ask(
    connection: &mut Connection,
    want: &Want,
    from: u64,
    hashes: bool,
) -> Result<Given, NotGiven> {
    let request = PullRequest { id: want.id, type_name: want.type_name.to_owned(), from, hashes };
    let body = wire::encode(&request).map_err(|error| NotGiven::HasItNot(error.to_string()))?;
    connection.write_frame(&Frame::Request(&body)).await?;
    let response = match connection.read_frame().await? {
        Some(Frame::Response(body)) => {
            wire::decode(body).map_err(|error| NotGiven::HasItNot(error.to_string()))?
        }
        Some(_) => return Err(NotGiven::HasItNot("it did not answer the request".to_owned())),
        None => return Err(NotGiven::Unreachable("it closed the connection".to_owned())),
    };
    match response {
        PullResponse::Here { length, hash, type_name, chunks, refers } => {
            if length != want.length || hash.0 != want.hash {
                return Err(NotGiven::HasItNot("it has a different value with this id".to_owned()));
            }
            // A puller that resumes has the chunk hashes already.
            if !hashes {
                return Ok(Given { hashes: ChunkHashes::of(&[]), type_name, refers });
            }
            let hashes = ChunkHashes::verified(length, hash.0, &chunks).ok_or_else(|| {
                NotGiven::HasItNot("it sent chunk hashes that do not match the hash of the value".to_owned())
            })?;
            Ok(Given { hashes, type_name, refers })
        }
        PullResponse::WrongType { stored } => Err(NotGiven::Never(FetchError::WrongType(stored))),
        PullResponse::Gone => Err(NotGiven::HasItNot("it no longer has the value".to_owned())),
        PullResponse::Broken { why } => Err(NotGiven::HasItNot(why)),
    }
}
