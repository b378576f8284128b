//! Pulls of small values, which arrive as one message on pooled connections.
//!
//! # Guarantees
//! - They need no thread of their own, and mostly no new connection.
//! - An idle connection is closed when the session with its process ends, when it was idle for [`OLD`], and when it is
//!   the least recently used of more than [`MOST`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use super::super::bridge::Bridge;
use super::super::references::Source;
use super::ask::{Given, NotGiven, ask, dial};
use super::nested::nested;
use super::sources::Sources;
use crate::payload::{ChunkHashes, FetchError, PayloadGuards, SMALL, Small, Want};
use crate::transport::Connection;

/// Limit on the idle connections to one process.
const KEPT: usize = 4;

/// Limit on the idle connections to all processes together.
const MOST: usize = 64;

/// Time for which an idle connection is kept. The other end closes it after a minute.
const OLD: Duration = Duration::from_secs(30);

/// A pool of idle connections, the least recently used one first.
pub(in crate::remote) struct Idle<C = Connection>(Mutex<Pool<C>>);

struct Pool<C> {
    connections: VecDeque<Pooled<C>>,
    /// True while a task is running that closes old connections.
    is_swept: bool,
}

struct Pooled<C> {
    process: u64,
    since: Instant,
    connection: C,
}

impl<C> Default for Idle<C> {
    fn default() -> Self {
        Self(Mutex::new(Pool { connections: VecDeque::new(), is_swept: false }))
    }
}

impl<C> Idle<C> {
    /// Takes the most recently used connection to this process.
    fn take(&self, process: u64) -> Option<C> {
        let mut pool = self.0.lock();
        let at = pool.connections.iter().rposition(|pooled| pooled.process == process)?;
        pool.connections.remove(at).map(|pooled| pooled.connection)
    }

    /// Keeps a connection for the next value. Returns `true` if the caller must start a task that calls
    /// [`sweep`](Self::sweep) until that returns `false`.
    #[must_use]
    fn put(&self, process: u64, connection: C, now: Instant) -> bool {
        let mut pool = self.0.lock();
        if pool.connections.iter().filter(|pooled| pooled.process == process).count() >= KEPT {
            return false;
        }
        if pool.connections.len() >= MOST {
            pool.connections.pop_front();
        }
        pool.connections.push_back(Pooled { process, since: now, connection });
        !std::mem::replace(&mut pool.is_swept, true)
    }

    /// Closes old connections. Returns `true` if any connection is left.
    fn sweep(&self, now: Instant) -> bool {
        let mut pool = self.0.lock();
        pool.connections.retain(|pooled| now.saturating_duration_since(pooled.since) < OLD);
        pool.is_swept = !pool.connections.is_empty();
        pool.is_swept
    }

    /// Closes the connections to this process.
    pub(in crate::remote) fn close(&self, process: u64) {
        self.0.lock().connections.retain(|pooled| pooled.process != process);
    }

    pub(in crate::remote) fn clear(&self) {
        self.0.lock().connections.clear();
    }
}

/// Keeps a connection for the next value from this process.
fn keep(bridge: &Arc<Bridge>, process: u64, connection: Connection) {
    // The end of the session closes pooled connections; one that is put later is kept for at most `OLD`.
    if !bridge.idle().put(process, connection, Instant::now()) {
        return;
    }
    let bridge = Arc::downgrade(bridge);
    tokio::task::spawn_local(async move {
        loop {
            tokio::time::sleep(OLD / 4).await;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn count(idle: &Idle<u32>) -> usize {
        idle.0.lock().connections.len()
    }

    /// The idle connections to one process are bounded, and the most recently used one is taken first.
    #[test]
    fn connections_to_one_process_are_bounded() {
        let idle = Idle::default();
        let now = Instant::now();
        assert!(idle.put(1, 0, now), "the first one needs a sweeper");
        for connection in 1..10 {
            assert!(!idle.put(1, connection, now), "there is a sweeper already");
        }
        assert_eq!(count(&idle), KEPT);
        assert_eq!((idle.take(1), idle.take(2)), (Some(3), None));
    }

    /// For any number of processes, the pool evicts the least recently used connection.
    #[test]
    fn connections_to_all_processes_are_bounded() {
        let idle = Idle::default();
        let now = Instant::now();
        for process in 0..10 * MOST as u64 {
            let _ = idle.put(process, 0, now);
        }
        assert_eq!(count(&idle), MOST);
        assert_eq!((idle.take(0), idle.take(10 * MOST as u64 - 1)), (None, Some(0)));
    }

    /// The end of a session closes the connections to that process and no others.
    #[test]
    fn connections_end_with_their_session() {
        let idle = Idle::default();
        let now = Instant::now();
        for process in [1, 2, 1] {
            let _ = idle.put(process, 0, now);
        }
        idle.close(1);
        assert_eq!((count(&idle), idle.take(1), idle.take(2)), (1, None, Some(0)));
    }

    /// Old connections are closed. The sweeper ends with the last one, and the next connection needs a new one.
    #[test]
    fn old_connections_are_closed() {
        let idle = Idle::default();
        let now = Instant::now();
        assert!(idle.put(1, 0, now));
        assert!(!idle.put(2, 0, now + OLD / 2));
        assert!(idle.sweep(now + OLD));
        assert_eq!(count(&idle), 1);
        assert!(!idle.sweep(now + 2 * OLD));
        assert!(idle.put(1, 0, now), "the sweeper has ended");
    }
}
