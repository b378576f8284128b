//! Reaching another process.

use std::io;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::connection::{Connection, Stream};
use super::endpoint::Endpoint;
use super::error::TransportError;
use super::handshake::{self, Terms};
use super::security::{Limits, Security};

/// A connection to the process that listens at `endpoint`, which has proved itself.
pub(crate) async fn dial(
    endpoint: &Endpoint,
    security: &Security,
    limits: &Limits,
) -> Result<Connection, TransportError> {
    let failed = |source| TransportError::Dial { endpoint: endpoint.clone(), source };
    let connect = async {
        Ok(match endpoint {
            Endpoint::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
            Endpoint::Unix(path) => Stream::Unix(UnixStream::connect(path).await?),
        })
    };
    let stream = match timeout(limits.handshake, connect).await {
        Ok(stream) => stream.map_err(failed)?,
        Err(_) => return Err(failed(io::Error::from(io::ErrorKind::TimedOut))),
    };
    if let Stream::Tcp(stream) = &stream {
        security.look_up(endpoint, stream.peer_addr().map_err(failed)?)?;
    }
    let peer = endpoint.to_string();
    match timeout(limits.handshake, prove(stream, security, &peer)).await {
        Ok(proved) => Connection::new(proved?, peer, limits, None),
        Err(_) => Err(TransportError::Slow { peer }),
    }
}

/// Gives the stream back once both ends have proved themselves.
pub(super) async fn prove(stream: Stream, security: &Security, peer: &str) -> Result<Stream, TransportError> {
    let token = security.token();
    let token = token.as_ref();
    let (mut stream, terms) = match (stream, security.tls()) {
        (Stream::Tcp(stream), Some(tls)) => {
            let (stream, binding) = tls.connect(stream, peer).await?;
            (Stream::Tls(Box::new(stream)), Terms::inside_tls(token, binding, None))
        }
        (stream, _) => (stream, Terms::plain(token)),
    };
    handshake::present(&mut stream.as_io(), &terms, peer).await?;
    Ok(stream)
}
