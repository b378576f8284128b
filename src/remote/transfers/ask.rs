//! What a puller says, and what it is told.
//!
//! # Guarantees
//! - An answer is taken only if it is of the value that was asked for, with hashes that add up to the one in the reference.
//! - Why there is no value says whether it is worth asking again.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::super::bridge::{Bridge, DialError};
use super::super::protocol::Role;
use super::super::references::Source;
use crate::payload::{ChunkHashes, FetchError, Hex, PayloadId, Want};
use crate::transport::{Connection, TransportError};
use crate::wire::{self, Frame};

/// What a puller asks for.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::remote) struct PullRequest {
    pub(in crate::remote) id: PayloadId,
    /// The type as which it will be read; empty for whoever only keeps the bytes.
    pub(super) type_name: String,
    /// What has arrived already, in bytes.
    pub(super) from: u64,
    /// Whether the hashes of the chunks are wanted.
    pub(super) hashes: bool,
}

/// What it is told.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::remote) enum PullResponse {
    /// The bytes from there on follow, in no frame.
    Here {
        length: u64,
        hash: Hex<32>,
        type_name: String,
        chunks: Bytes,
        /// Whether it refers to other values; may be missing.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        refers: bool,
    },
    WrongType {
        stored: String,
    },
    /// It is not here.
    Gone,
    /// What is here cannot be given.
    Broken {
        why: String,
    },
}

/// Why a source did not give the value.
pub(in crate::remote) enum NotGiven {
    /// It may yet.
    Unreachable(String),
    /// It will not.
    HasItNot(String),
    /// Nobody will.
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

/// What a source has said of the value that it gives.
pub(in crate::remote) struct Given {
    pub(in crate::remote) hashes: ChunkHashes,
    pub(in crate::remote) type_name: String,
    /// Whether it refers to other values.
    pub(in crate::remote) refers: bool,
}

/// A connection to ask a source on.
pub(super) async fn dial(bridge: &Bridge, source: &Source) -> Result<Connection, NotGiven> {
    let endpoints = bridge.endpoints_of(source);
    let hello = bridge.hello(Role::Puller, Some(bridge.app()), crate::id::unique());
    Ok(bridge.call(&endpoints, &hello).await?.0)
}

/// Asks for the bytes from `from` on.
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
        Some(_) => return Err(NotGiven::HasItNot("it did not answer what it was asked".to_owned())),
        None => return Err(NotGiven::Unreachable("it closed the connection".to_owned())),
    };
    match response {
        PullResponse::Here { length, hash, type_name, chunks, refers } => {
            if length != want.length || hash.0 != want.hash {
                return Err(NotGiven::HasItNot("it has another value by this number".to_owned()));
            }
            // Whoever has the outline already does not ask for it again.
            if !hashes {
                return Ok(Given { hashes: ChunkHashes::of(&[]), type_name, refers });
            }
            let hashes = ChunkHashes::verified(length, hash.0, &chunks).ok_or_else(|| {
                NotGiven::HasItNot("the hashes that it sent are not those of the value".to_owned())
            })?;
            Ok(Given { hashes, type_name, refers })
        }
        PullResponse::WrongType { stored } => Err(NotGiven::Never(FetchError::WrongType(stored))),
        PullResponse::Gone => Err(NotGiven::HasItNot("it has it no more".to_owned())),
        PullResponse::Broken { why } => Err(NotGiven::HasItNot(why)),
    }
}
