//! The interface of TLS without the feature `tls`: there are no certificates, so no connection is encrypted.

use std::io;

use tokio::net::TcpStream;

use super::connection::Encrypted;
use super::error::TransportError;

/// The first byte of a connection that begins with TLS.
pub(super) const HANDSHAKE: u8 = 0x16;

type Binding = [u8; 32];

/// The certificate of a process. Uninhabited, since there is none.
#[derive(Debug, Clone)]
pub(crate) enum Tls {}

impl Tls {
    pub(super) async fn connect(
        &self,
        _: TcpStream,
        _: &str,
    ) -> Result<(Encrypted, Binding), TransportError> {
        match *self {}
    }

    pub(super) async fn accept(
        &self,
        _: TcpStream,
        _: &str,
    ) -> Result<(Encrypted, Binding, Option<String>), TransportError> {
        match *self {}
    }
}

/// Returns the error for a failed handshake.
pub(super) fn explain(peer: &str, error: io::Error) -> TransportError {
    TransportError::handshake_broken(peer, error)
}
