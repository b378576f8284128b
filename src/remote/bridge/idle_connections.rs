//! The idle connections of a process, on which it has pulled values.
//!
//! # Guarantees
//! - An idle connection is closed when the session with its process ends, when it was idle for [`OLD`], and when it is
//!   the least recently used of more than [`MOST`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::transport::Connection;

/// Limit on the idle connections to one process.
const KEPT: usize = 4;

/// Limit on the idle connections to all processes together.
const MOST: usize = 64;

/// Time for which an idle connection is kept. The other end closes it after a minute.
const OLD: Duration = Duration::from_secs(30);

/// Interval at which the pool is swept while it has connections.
pub(in crate::remote) const SWEEP: Duration = Duration::from_secs(OLD.as_secs() / 4);

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
    pub(in crate::remote) fn take(&self, process: u64) -> Option<C> {
        let mut pool = self.0.lock();
        let at = pool.connections.iter().rposition(|pooled| pooled.process == process)?;
        pool.connections.remove(at).map(|pooled| pooled.connection)
    }

    /// Keeps a connection for the next value. Returns `true` if the caller must start a task that calls
    /// [`sweep`](Self::sweep) until that returns `false`.
    #[must_use]
    pub(in crate::remote) fn put(&self, process: u64, connection: C, now: Instant) -> bool {
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
    pub(in crate::remote) fn sweep(&self, now: Instant) -> bool {
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
