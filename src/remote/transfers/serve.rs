//! Serving values to processes that pull them.
//!
//! # Guarantees
//! - A limited number of large values is served concurrently; further requests are served in order.
//! - A puller that sends no request, or does not read the response, is disconnected.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::runtime::Handle;

use super::super::bridge::{Bridge, DialError};
use super::ask::{PullRequest, PullResponse};
use crate::payload::{Hex, SMALL, StoredBlob};
use crate::transport::Connection;
use crate::wire::{self, Frame};

/// Time after which a connection without a request is closed.
const IDLE: Duration = Duration::from_secs(60);

/// Serves values to another process for as long as it sends requests.
pub(in crate::remote) async fn serve_pulls(
    bridge: Arc<Bridge>,
    mut connection: Connection,
) -> Result<(), DialError> {
    let patience = bridge.settings().grace;
    loop {
        let Ok(request) = tokio::time::timeout(IDLE, connection.read_frame()).await else {
            return Ok(());
        };
        let request: PullRequest = match request? {
            Some(Frame::Request(body)) => {
                wire::decode(body).map_err(|error| DialError::NotUnderstood(error.to_string()))?
            }
            Some(_) => return Err(DialError::NotUnderstood("the peer sent no request".to_owned())),
            None => return Ok(()),
        };
        let blob = bridge.store().entry_of(request.id).and_then(|entry| entry.blob());
        let response = respond(&request, blob.as_ref());
        let given = matches!(response, PullResponse::Here { .. });
        let body = wire::encode(&response).map_err(|error| DialError::NotUnderstood(error.to_string()))?;
        let mut out = BytesMut::new();
        Frame::Response(&body).put(&mut out);
        let blob = blob.filter(|_| given);
        let left = blob.as_ref().map_or(0, |blob| blob.hashes.length() - request.from);
        let small = blob.as_ref().and_then(StoredBlob::at_hand).filter(|_| left <= SMALL);
        if let Some(bytes) = small {
            out.extend_from_slice(&bytes[bytes.len() - left as usize..]);
        }
        let done = blob.is_none() || small.is_some();
        connection.write_bytes(&out).await?;
        let Some(blob) = blob.filter(|_| !done) else { continue };
        let _turn = if left > SMALL { bridge.served().acquire().await.ok() } else { None };
        let runtime = Handle::current();
        // The future may be dropped while the blocking thread waits for a peer that does not read; the guard then
        // ends the wait.
        let shutdown_guard = connection.shutdown_guard()?;
        let written = tokio::task::spawn_blocking(move || {
            let write = |out: &mut dyn io::Write| blob.write_from(request.from, out);
            let (connection, written) = connection.write_blocking(&runtime, patience, write)?;
            written.map_err(|error| DialError::NotUnderstood(error.to_string()))?;
            Ok::<_, DialError>(connection)
        });
        // A panic in a user's `Serialize` ends the connection, and the puller tries another source.
        connection = written.await.map_err(|error| DialError::NotUnderstood(error.to_string()))??;
        if let Some(shutdown_guard) = shutdown_guard {
            shutdown_guard.spare();
        }
    }
}

fn respond(request: &PullRequest, blob: Option<&StoredBlob>) -> PullResponse {
    let Some(blob) = blob else { return PullResponse::Gone };
    let hashes = &blob.hashes;
    if !request.type_name.is_empty() && *request.type_name != *blob.type_name {
        return PullResponse::WrongType { stored: blob.type_name.as_ref().to_owned() };
    }
    if request.from > hashes.length() {
        let why = format!("byte {} was requested of {} bytes", request.from, hashes.length());
        return PullResponse::Broken { why };
    }
    let chunks = if request.hashes { Bytes::copy_from_slice(hashes.chunk_hashes()) } else { Bytes::new() };
    PullResponse::Here {
        length: hashes.length(),
        hash: Hex(hashes.hash()),
        type_name: blob.type_name.as_ref().to_owned(),
        chunks,
        refers: !blob.nested.is_empty(),
    }
}
