//! Small values, which come as one message on connections that are kept.
//!
//! # Guarantees
//! - No thread is begun for them, and mostly no connection.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::super::bridge::Bridge;
use super::super::references::Source;
use super::ask::{NotGiven, ask, dial};
use super::sources::Sources;
use crate::payload::{FetchError, Outline, SMALL, Want};
use crate::transport::Connection;

/// Connections that are kept for the next small value, to each process.
const KEPT: usize = 4;

/// Connections on which nothing is under way.
#[derive(Default)]
pub(in crate::remote) struct Idle(Mutex<HashMap<u64, Vec<Connection>>>);

impl Idle {
    fn take(&self, process: u64) -> Option<Connection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&process)?.pop()
    }

    fn put(&self, process: u64, connection: Connection) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let connections = idle.entry(process).or_default();
        if connections.len() < KEPT {
            connections.push(connection);
        }
    }

    pub(in crate::remote) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// All of a small value, without a thread of its own.
pub(in crate::remote) async fn small(
    bridge: Arc<Bridge>,
    sources: Vec<Source>,
    want: Want,
) -> Result<(Bytes, String), FetchError> {
    let home = bridge.clone();
    let pull = async move {
        let mut sources = Sources::new(bridge, sources, want);
        sources.until_given(small_from).await
    };
    // Connections live on the thread of the bridge. Whoever is on it already does without another turn of it.
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

async fn small_from(bridge: &Bridge, source: &Source, want: &Want) -> Result<(Bytes, String), NotGiven> {
    loop {
        let kept = bridge.idle().take(source.id);
        let was_kept = kept.is_some();
        let mut connection = match kept {
            Some(connection) => connection,
            None => dial(bridge, source).await?,
        };
        let pulled = async {
            let (_, type_name) = ask(&mut connection, want, 0, true).await?;
            let mut bytes = vec![0; want.length.min(SMALL) as usize];
            connection.read_bytes(&mut bytes).await?;
            if Outline::of(&bytes).hash() != want.hash {
                return Err(NotGiven::HasItNot("it has sent other bytes than were put in".to_owned()));
            }
            Ok((Bytes::from(bytes), type_name))
        };
        match pulled.await {
            Ok(pulled) => {
                bridge.idle().put(source.id, connection);
                return Ok(pulled);
            }
            // It was closed there meanwhile.
            Err(NotGiven::Unreachable(_)) if was_kept => {}
            Err(why) => return Err(why),
        }
    }
}
