//! Layer 2: connections between processes.
//!
//! Knows frames and not what is in them.
//!
//! # Guarantees
//! - A connection that is given out has proved itself: both ends know the same secret, or have certificates of the same CA, or
//!   both. Without either, the head makes a secret that processes of its user on its machine find, and no others.
//! - Without a secret or certificates that were given nothing listens beyond the machine itself.
//! - A peer costs no more memory than what it has sent, is never waited for beyond a limit before it has proved
//!   itself, and is refused with a reason where the protocol allows it.
//! - Those who never prove themselves keep nobody out.
//!
//! # The handshake below the frames
//! Each side sends a preface at once: the bytes `FLOWRITE`, the version of the protocol (u16, big-endian), a byte of
//! flags (1: it has a token; 2: it takes TLS only) and 32 random bytes. If both have a token, the dialer sends the
//! HMAC-SHA256, with the token as the key, of `flowright dialer`, the dialer's preface and the listener's preface; the
//! listener checks it and answers with a verdict, and when that is good with the HMAC of `flowright listener`, the
//! dialer's preface and the listener's preface. A verdict is one byte, 0 when all is well; otherwise 1, a length (u16,
//! big-endian) and the reason in UTF-8. The listener sends one in any case, after the prefaces or after the dialer's
//! proof. What is proved covers both prefaces and who says it, so that neither can be replayed or sent back; the token
//! is never sent.
//!
//! With certificates all of this happens inside TLS, and what is proved covers that as well: a value that only the two
//! ends of this one TLS connection know, so that nobody who has a certificate can pass the proofs of others on. Unix
//! sockets, which only one user of one machine can reach, do without TLS.

mod complaints;
mod connection;
mod dial;
mod endpoint;
mod error;
mod handshake;
mod listener;
mod local_token;
mod pending_handshakes;
mod security;
#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
#[path = "tls_off.rs"]
mod tls;
mod unix;

pub(crate) use self::complaints::Complaints;
pub(crate) use self::connection::{Connection, DirectWriter, FrameReader, FrameWriter};
pub(crate) use self::dial::{Dialed, dial, dial_from};
pub(crate) use self::endpoint::Advertised;
pub use self::endpoint::Endpoint;
pub use self::error::TransportError;
#[cfg(fuzzing)]
pub use self::handshake::fuzz as handshake_fuzz;
pub(crate) use self::listener::Listener;
pub(crate) use self::pending_handshakes::{PendingHandshakes, Turn};
pub use self::security::Token;
pub(crate) use self::security::{Limits, Security, TOKEN_VARIABLE};
#[cfg(feature = "tls")]
pub(crate) use self::tls::{Certificates, Tls, TlsFiles, make_certificates};
