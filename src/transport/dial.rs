//! Reaching another process.

use std::io;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::connection::{Connection, Stream};
use super::endpoint::Endpoint;
use super::error::TransportError;
use super::handshake;
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
    let mut stream = match timeout(limits.handshake, connect).await {
        Ok(stream) => stream.map_err(failed)?,
        Err(_) => return Err(failed(io::Error::from(io::ErrorKind::TimedOut))),
    };
    let peer = endpoint.to_string();
    match timeout(limits.handshake, handshake::present(&mut stream.as_io(), security, &peer)).await {
        Ok(proved) => proved?,
        Err(_) => return Err(TransportError::Slow { peer }),
    }
    Connection::new(stream, peer, limits, None)
}
