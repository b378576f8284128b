//! Errors of connections between processes.

use std::io;
use std::path::Path;

use thiserror::Error;

use super::endpoint::Endpoint;
use crate::descriptors;
use crate::wire::FrameError;

/// Error returned when another process cannot be reached, fails the handshake or violates the protocol.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The process cannot listen at the endpoint.
    #[error("cannot listen at {endpoint}: {error}{}", hint(.error))]
    Listen {
        /// The endpoint.
        endpoint: Endpoint,
        /// The error of the operating system.
        error: io::Error,
    },
    /// Listening beyond this machine requires a token or certificates.
    #[error(
        "{endpoint} can be reached from other machines, and nothing would keep strangers out: give all processes the \
         same secret with --token-file FILE or the variable FLOWRIGHT_TOKEN (`head -c 32 /dev/urandom | base64` \
         makes one), or certificates of one CA with --tls-cert, --tls-key and --tls-ca (the command `certs` makes \
         some), or listen at 127.0.0.1"
    )]
    Unprotected {
        /// The endpoint that was to be listened at.
        endpoint: Endpoint,
    },
    /// The token for processes of this machine could not be written.
    #[error(
        "nodes of this machine need a token to join at {endpoint}, which could not be written ({why}): set XDG_RUNTIME_DIR to a \
         directory of this user only, or give all processes the same token with --token-file FILE or FLOWRIGHT_TOKEN"
    )]
    Announce {
        /// The endpoint that is listened at.
        endpoint: Endpoint,
        /// The problem with each directory.
        why: String,
    },
    /// The listener on this machine has no token file that this user can read.
    #[error(
        "{endpoint} has not proved that it is a process of this user ({why}): the head writes that file when it listens on a loopback \
         address. If the head has a token of its own, runs as another user or in another container, or is behind a forwarded port, give both \
         the same with --token-file FILE or FLOWRIGHT_TOKEN; if it has certificates, give this process one with --tls-cert, --tls-key and \
         --tls-ca"
    )]
    NoToken {
        /// The endpoint of the listener.
        endpoint: Endpoint,
        /// The problem with the token file.
        why: String,
    },
    /// Joining a head on another machine requires a token or certificates.
    #[error(
        "{endpoint} is not on this machine, so that a token or certificates are needed: give all processes the same token with \
         --token-file FILE or FLOWRIGHT_TOKEN (`head -c 32 /dev/urandom | base64` makes one), or certificates of one CA with \
         --tls-cert, --tls-key and --tls-ca (the command `certs` makes some)"
    )]
    NoTokenBeyond {
        /// The endpoint of the listener.
        endpoint: Endpoint,
    },
    /// The endpoint cannot be connected to.
    #[error("{endpoint} cannot be reached: {error}{}", descriptors::hint(.error))]
    Dial {
        /// The endpoint.
        endpoint: Endpoint,
        /// The error of the operating system.
        error: io::Error,
    },
    /// The peer did not complete the handshake in time.
    #[error("{peer} did not complete the handshake in time")]
    Slow {
        /// Description of the peer.
        peer: String,
    },
    /// The connection broke.
    #[error("the connection to {peer} broke: {error}")]
    Broken {
        /// Description of the peer.
        peer: String,
        /// The error of the operating system.
        error: io::Error,
    },
    /// The peer sent bytes that are not of this protocol.
    #[error("{peer} does not speak this protocol: {why}")]
    Foreign {
        /// Description of the peer.
        peer: String,
        /// The violation of the protocol.
        why: String,
    },
    /// The handshake failed.
    #[error("the handshake with {peer} failed: {why}")]
    Refused {
        /// Description of the peer.
        peer: String,
        /// The reason, and what to do.
        why: String,
    },
    /// A token cannot be used.
    #[error("the token {whence} cannot be used: {why}")]
    Token {
        /// The source of the token.
        whence: String,
        /// The problem with it.
        why: String,
    },
    /// Some of the options that TLS needs are missing.
    #[error(
        "{given} {} {missing} as well: the certificate of this process, its key, and the CA that signs those of all \
         processes (the command `certs` makes all three)",
        if given.contains(' ') { "need" } else { "needs" }
    )]
    TlsIncomplete {
        /// The options that were given.
        given: String,
        /// The options that are missing.
        missing: String,
    },
    /// A file for TLS cannot be used.
    #[error("{file} cannot be used for TLS: {why}")]
    Tls {
        /// The file.
        file: String,
        /// The problem with it, and what to do.
        why: String,
    },
    /// Certificates could not be created.
    #[error("cannot create the certificates: {file}: {why}")]
    Certificates {
        /// The file that the problem concerns.
        file: String,
        /// The problem, and what to do.
        why: String,
    },
    /// A directory for sockets or certificates could not be created.
    #[error("cannot create the directory {path}: {error}")]
    Directory {
        /// The path of the directory.
        path: String,
        /// The error of the operating system.
        error: io::Error,
    },
}

impl TransportError {
    pub(crate) fn directory(path: &Path, error: io::Error) -> Self {
        Self::Directory { path: path.display().to_string(), error }
    }

    pub(super) fn broken(peer: &str, error: io::Error) -> Self {
        Self::Broken { peer: peer.to_owned(), error }
    }

    /// Returns the error for a connection that broke before the handshake was complete.
    pub(super) fn handshake_broken(peer: &str, error: io::Error) -> Self {
        let error = match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                io::Error::new(error.kind(), "it was closed during the handshake")
            }
            _ => error,
        };
        Self::broken(peer, error)
    }

    pub(super) fn foreign(peer: &str, error: &FrameError) -> Self {
        Self::Foreign { peer: peer.to_owned(), why: error.to_string() }
    }

    /// Returns `true` if the peer has closed the connection without giving a reason.
    pub(crate) fn is_gone(&self) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        matches!(self, Self::Broken { error, .. } if matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof))
    }

    /// Returns `true` if no process listens there any more.
    pub(crate) fn is_refused_connection(&self) -> bool {
        let Self::Dial { error, .. } = self else { return false };
        matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another program listens there: end it, or choose another port (0 for any)"
        }
        io::ErrorKind::AddrNotAvailable => "; that is not an address of this machine",
        _ => "",
    }
}
