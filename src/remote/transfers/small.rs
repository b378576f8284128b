//! Pulls of small values, which arrive as one message on pooled connections.
//!
//! # Guarantees
//! - They need no thread of their own, and mostly no new connection.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::super::bridge::{Bridge, SWEEP};
use super::super::protocol::Source;
use super::ask::{Given, NotGiven, ask, dial};
use super::nested::nested;
use super::sources::Sources;
use crate::payload::{ChunkHashes, FetchError, PayloadGuards, SMALL, Small, Want};
use crate::transport::Connection;

/// Keeps a connection for the next value from this process.
fn keep(bridge: &Arc<Bridge>, process: u64, connection: Connection) {
    // The end of the session closes pooled connections; one that is put later is kept for a limited time.
    if !bridge.idle().put(process, connection, Instant::now()) {
        return;
    }
    let bridge = Arc::downgrade(bridge);
    tokio::task::spawn_local(async move {
        loop {
            tokio::time::sleep(SWEEP).await;
            match bridge.upgrade() {
                Some(bridge) if bridge.idle().sweep(Instant::now()) => {}
                _ => return,
            }
        }
    });
}

/// Pulls a small value, without a thread of its own.
pub(in crate::remote) async fn small(
    bridge: Arc<Bridge>,
    sources: Vec<Source>,
    want: Want,
) -> Result<Small, FetchError> {
    let home = bridge.clone();
    let pull = async move {
        let mut sources = Sources::new(bridge, sources, want);
        sources.until_given(small_from).await
    };
    // Connections live on the thread of the bridge; a caller on that thread is spared a detour through its task queue.
    if home.is_home() {
        return pull.await;
    }
    let (mut send, receive) = tokio::sync::oneshot::channel();
    home.spawn(move || async move {
        tokio::select! {
            pulled = pull => drop(send.send(pulled)),
            () = send.closed() => {}
        }
    });
    receive.await.unwrap_or(Err(FetchError::Cancelled))
}

async fn small_from(bridge: &Arc<Bridge>, source: &Source, want: &Want) -> Result<Small, NotGiven> {
    loop {
        let idle = bridge.idle().take(source.id);
        let was_kept = idle.is_some();
        let mut connection = match idle {
            Some(connection) => connection,
            None => dial(bridge, source).await?,
        };
        let pulled = async {
            let Given { type_name, refers, .. } = ask(&mut connection, want, 0, true).await?;
            let mut bytes = vec![0; want.length.min(SMALL) as usize];
            connection.read_bytes(&mut bytes).await?;
            if ChunkHashes::of(&bytes).hash() != want.hash {
                return Err(NotGiven::HasItNot(
                    "it sent bytes that do not match the hash of the value".to_owned(),
                ));
            }
            Ok((Bytes::from(bytes), type_name, refers))
        };
        match pulled.await {
            Ok((bytes, type_name, refers)) => {
                keep(bridge, source.id, connection);
                let nested =
                    if refers { nested(bridge, source, want.id).await? } else { PayloadGuards::default() };
                return Ok(Small { bytes, type_name, nested });
            }
            // The peer had closed the idle connection.
            Err(NotGiven::Unreachable(_)) if was_kept => {}
            Err(why) => return Err(why),
        }
    }
}
