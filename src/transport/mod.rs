//! Layer 2: connections between processes.
//!
//! This layer knows frames, but not their content.
//!
//! # Guarantees
//! - A connection that is returned is authenticated: both ends know the same token, or have certificates of the same
//!   CA, or both. Without either, the head generates a token that only processes of its user on its machine can read.
//! - Without a configured token or certificates, no process listens beyond its own machine.
//! - A peer uses no more memory than it has sent bytes, is never waited for beyond a limit before it is authenticated,
//!   and is refused with a reason if the protocol allows it.
//! - Peers that never authenticate cannot keep others out.
//!
//! # The handshake below the frames
//! Each side sends a preface at once: the bytes `FLOWRITE`, the version of the protocol (u16, big-endian), a byte of
//! flags (1: it has a token; 2: it requires TLS) and 32 random bytes. If both have a token, the dialer sends a proof,
//! the HMAC-SHA256, with the token as the key, of `flowright dialer`, the dialer's preface and the listener's preface.
//! The listener checks it and answers with a verdict, and if that is positive with the HMAC of `flowright listener`,
//! the dialer's preface and the listener's preface. A verdict is one byte, 0 for success; otherwise 1, a length (u16,
//! big-endian) and the reason in UTF-8. The listener sends one in any case, after the prefaces or after the dialer's
//! proof. A proof covers both prefaces and the role of its sender, so that it can neither be replayed nor reflected;
//! the token is never sent.
//!
//! With certificates the handshake happens inside TLS, and a proof covers the TLS connection as well (channel binding):
//! a value that only the two ends of this one TLS connection know, so that the owner of a certificate cannot relay the
//! proofs of others. Unix sockets, which only one user of one machine can reach, do not use TLS.

mod close;
mod complaints;
mod connection;
mod dial;
mod endpoint;
mod error;
mod handshake;
mod limits;
mod listener;
mod local_token;
mod pending_handshakes;
mod security;
#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
#[path = "tls_off.rs"]
mod tls;
mod token;
mod unix;

pub(crate) use self::complaints::Complaints;
pub(crate) use self::connection::{Connection, DirectWriter, FrameReader, FrameWriter};
pub(crate) use self::dial::{Dialed, dial, dial_from};
pub(crate) use self::endpoint::Advertised;
pub use self::endpoint::Endpoint;
pub use self::error::TransportError;
#[cfg(fuzzing)]
pub use self::handshake::fuzz as handshake_fuzz;
pub(crate) use self::limits::Limits;
pub(crate) use self::listener::Listener;
pub(crate) use self::pending_handshakes::{PendingHandshakes, Turn};
pub(crate) use self::security::{Security, TOKEN_VARIABLE};
#[cfg(feature = "tls")]
pub(crate) use self::tls::{Certificates, Tls, TlsFiles, make_certificates};
pub use self::token::Token;
