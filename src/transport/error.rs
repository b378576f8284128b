//! What goes wrong between processes.

use std::io;
use std::path::Path;

use thiserror::Error;

use super::endpoint::Endpoint;
use crate::descriptors;
use crate::wire::FrameError;

/// Another process cannot be reached, or cannot be understood.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TransportError {
    /// Nothing can listen there.
    #[error("nothing can listen at {endpoint}: {error}{}", hint(.error))]
    Listen {
        /// Where.
        endpoint: Endpoint,
        /// What the system said.
        error: io::Error,
    },
    /// Without a secret or certificates nothing listens beyond this machine.
    #[error(
        "{endpoint} can be reached from other machines, and nothing would keep strangers out: give all processes the \
         same secret with --token-file FILE or the variable FLOWRIGHT_TOKEN (`head -c 32 /dev/urandom | base64` \
         makes one), or certificates of one CA with --tls-cert, --tls-key and --tls-ca (the command `certs` makes \
         some), or listen at 127.0.0.1"
    )]
    Unprotected {
        /// Where it should have listened.
        endpoint: Endpoint,
    },
    /// The token for processes of this machine could not be written.
    #[error(
        "nodes of this machine need a token to join at {endpoint}, which could not be written ({why}): set XDG_RUNTIME_DIR to a \
         directory of this user only, or give all processes the same token with --token-file FILE or FLOWRIGHT_TOKEN"
    )]
    Announce {
        /// Where it listens.
        endpoint: Endpoint,
        /// What is wrong with each directory.
        why: String,
    },
    /// The listener on this machine has no token that this user can read.
    #[error(
        "{endpoint} has not proved that it is a process of this user ({why}): the head writes that file when it listens on a loopback \
         address. If the head has a token of its own, runs as another user or in another container, or is behind a forwarded port, give both \
         the same with --token-file FILE or FLOWRIGHT_TOKEN; if it has certificates, give this process one with --tls-cert, --tls-key and \
         --tls-ca"
    )]
    NoToken {
        /// Where it listens.
        endpoint: Endpoint,
        /// What was looked for.
        why: String,
    },
    /// Another machine is only joined with a token or certificates.
    #[error(
        "{endpoint} is not on this machine, so that a token or certificates are needed: give all processes the same token with \
         --token-file FILE or FLOWRIGHT_TOKEN (`head -c 32 /dev/urandom | base64` makes one), or certificates of one CA with \
         --tls-cert, --tls-key and --tls-ca (the command `certs` makes some)"
    )]
    NoTokenBeyond {
        /// Where it listens.
        endpoint: Endpoint,
    },
    /// Nobody answers there.
    #[error("{endpoint} cannot be reached: {error}{}", descriptors::hint(.error))]
    Dial {
        /// Where.
        endpoint: Endpoint,
        /// What the system said.
        error: io::Error,
    },
    /// The other process did not say what it should in time.
    #[error("{peer} did not end the handshake in time")]
    Slow {
        /// Who.
        peer: String,
    },
    /// The connection broke.
    #[error("the connection to {peer} broke: {error}")]
    Broken {
        /// Who.
        peer: String,
        /// What the system said.
        error: io::Error,
    },
    /// What came is not of this protocol.
    #[error("{peer} does not speak this protocol: {why}")]
    Foreign {
        /// Who.
        peer: String,
        /// In what way.
        why: String,
    },
    /// The handshake failed.
    #[error("the handshake with {peer} failed: {why}")]
    Refused {
        /// Who.
        peer: String,
        /// What was wrong, and what to do.
        why: String,
    },
    /// A token cannot be used.
    #[error("the token {whence} cannot be used: {why}")]
    Token {
        /// Where it is from.
        whence: String,
        /// What is wrong with it.
        why: String,
    },
    /// Not all that TLS needs was given.
    #[error(
        "{given} {} {missing} as well: the certificate of this process, its key, and the CA that signs those of all \
         processes (the command `certs` makes all three)",
        if given.contains(' ') { "need" } else { "needs" }
    )]
    TlsIncomplete {
        /// The flags that were given.
        given: String,
        /// Those that were not.
        missing: String,
    },
    /// A file for TLS cannot be used.
    #[error("{file} cannot be used for TLS: {why}")]
    Tls {
        /// Which.
        file: String,
        /// What is wrong with it, and what to do.
        why: String,
    },
    /// Certificates could not be made.
    #[error("the certificates could not be made: {file}: {why}")]
    Certificates {
        /// Which file it is about.
        file: String,
        /// What is wrong, and what to do.
        why: String,
    },
    /// A directory for sockets or certificates could not be made.
    #[error("the directory {path} could not be made: {error}")]
    Directory {
        /// Which.
        path: String,
        /// What the system said.
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

    /// A connection that broke before both ends had proved themselves.
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

    /// Whether the peer has closed the connection, without a word.
    pub(crate) fn is_gone(&self) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        matches!(self, Self::Broken { error, .. } if matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof))
    }

    /// Whether nothing listens there any more.
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
        io::ErrorKind::AddrNotAvailable => "; that is no address of this machine",
        _ => "",
    }
}
