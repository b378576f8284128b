//! The limits for peers, also before they are authenticated.

use std::time::Duration;

/// Limits on the resources that peers can use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Largest frame, in bytes.
    pub(crate) max_frame: usize,
    /// Time limit for a handshake.
    pub(crate) handshake: Duration,
    /// Limit on pending handshakes.
    pub(crate) handshakes: usize,
    /// Limit on connections.
    pub(crate) connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_frame: 16 << 20, handshake: Duration::from_secs(5), handshakes: 256, connections: 1024 }
    }
}
