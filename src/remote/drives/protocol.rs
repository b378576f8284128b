//! What a node and the head say on a connection for a drive, and how it is written.
//!
//! # Guarantees
//! - One request, and what answers it; a file is its bytes in pieces that fit into frames, and then how it ended.

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use serde::{Deserialize, Serialize};

use crate::drive::{Body, DriveFile, PIECE, StoreError, Wanted};
use crate::wire::{self, Frame};

/// What is wanted of a drive.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::remote) struct DriveRequest {
    pub(super) drive: String,
    pub(super) action: Action,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Action {
    /// The file follows, as `data` and `done` or `failed`.
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

/// What follows a request, and what answers it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::remote) enum Part {
    /// Of the file, the next bytes.
    Data(Bytes),
    Files(Vec<DriveFile>),
    /// The file that follows, as `data` and `done` or `failed`.
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
    StoreError::Failed(format!("the head and this process do not understand each other: {what}"))
}

/// What a node says, as the bytes of a frame.
pub(super) fn request<T: Serialize>(what: &T) -> Result<BytesMut, StoreError> {
    framed(|body| Frame::Request(body), what)
}

/// What the head says, as the bytes of a frame.
pub(super) fn response(what: &Part) -> Result<BytesMut, StoreError> {
    framed(|body| Frame::Response(body), what)
}

fn framed<T: Serialize>(make: impl Fn(&[u8]) -> Frame<'_>, what: &T) -> Result<BytesMut, StoreError> {
    let body = wire::encode(what).map_err(not_understood)?;
    let mut out = BytesMut::new();
    make(&body).put(&mut out);
    Ok(out)
}

/// A file as it is said, to its end.
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
