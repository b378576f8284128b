//! The protocol between a node and the head on a connection for a drive.
//!
//! # Guarantees
//! - A connection carries one request and its answer. A file is sent in pieces that fit into frames, followed by its
//!   outcome.

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use serde::{Deserialize, Serialize};

use crate::drive::{Body, DriveFile, PIECE, StoreError, Wanted};
use crate::wire::{self, Frame};

/// A request for a drive.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::remote) struct DriveRequest {
    pub(super) drive: String,
    pub(super) action: Action,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Action {
    /// The content of the file follows, as `data` and then `done` or `failed`.
    Put {
        name: String,
        create: bool,
    },
    Get(Wanted),
    List {
        directory: String,
    },
    Delete {
        name: String,
    },
    Look {
        name: String,
    },
}

/// A part of an answer, or of a file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::remote) enum Part {
    /// The next bytes of the file.
    Data(Bytes),
    Files(Vec<DriveFile>),
    /// The content of the file follows, as `data` and then `done` or `failed`.
    Here {
        file: DriveFile,
        from: u64,
        to: u64,
        version: Option<String>,
    },
    Found(Option<DriveFile>),
    Done,
    Failed(StoreError),
}

pub(super) fn not_understood(what: impl std::fmt::Display) -> StoreError {
    StoreError::Failed(format!("protocol error between this process and the head: {what}"))
}

/// Returns a frame with a message of the node.
pub(super) fn request<T: Serialize>(what: &T) -> Result<BytesMut, StoreError> {
    framed(|body| Frame::Request(body), what)
}

/// Returns a frame with a message of the head.
pub(super) fn response(what: &Part) -> Result<BytesMut, StoreError> {
    framed(|body| Frame::Response(body), what)
}

fn framed<T: Serialize>(make: impl Fn(&[u8]) -> Frame<'_>, what: &T) -> Result<BytesMut, StoreError> {
    let body = wire::encode(what).map_err(not_understood)?;
    let mut out = BytesMut::new();
    make(&body).put(&mut out);
    Ok(out)
}

/// Returns a file as the parts in which it is sent.
pub(super) fn parts(body: Body) -> BoxStream<'static, Part> {
    stream::unfold(Some((body, Bytes::new())), async |left| {
        let (mut body, mut piece) = left?;
        while piece.is_empty() {
            piece = match body.next().await {
                Some(Ok(piece)) => piece,
                Some(Err(error)) => return Some((Part::Failed(error), None)),
                None => return Some((Part::Done, None)),
            };
        }
        let now = piece.split_to(piece.len().min(PIECE));
        Some((Part::Data(now), Some((body, piece))))
    })
    .boxed()
}
