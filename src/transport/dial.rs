//! Dialing another process.
//!
//! # Guarantees
//! - No address of a host name delays another one for long: each has the whole time limit for itself, and the next
//!   attempt starts shortly after the previous one (Happy Eyeballs).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::{sleep, timeout};

use super::connection::{Connection, Stream};
use super::endpoint::Endpoint;
use super::error::TransportError;
use super::handshake::{self, HandshakeParams};
use super::limits::Limits;
use super::security::Security;

/// Pause before the next address of a host name is tried as well, as recommended by RFC 8305.
const STAGGER: Duration = Duration::from_millis(250);

/// A connection that was dialed.
pub(crate) struct Dialed {
    pub(crate) connection: Connection,
    /// The local address of the connection; `None` for Unix sockets.
    pub(crate) local: Option<IpAddr>,
}

/// Returns an authenticated connection to the process that listens at `endpoint`.
pub(crate) async fn dial(
    endpoint: &Endpoint,
    security: &Security,
    limits: &Limits,
) -> Result<Connection, TransportError> {
    dial_from(endpoint, security, limits).await.map(|dialed| dialed.connection)
}

/// Dials like [`dial`], and returns the local address too.
pub(crate) async fn dial_from(
    endpoint: &Endpoint,
    security: &Security,
    limits: &Limits,
) -> Result<Dialed, TransportError> {
    let peer = endpoint.to_string();
    let failed = |error| TransportError::Dial { endpoint: endpoint.clone(), error };
    let (stream, local) = match endpoint {
        Endpoint::Unix(path) => {
            let connected = within(limits.handshake, UnixStream::connect(path)).await.map_err(failed)?;
            (in_time(limits, &peer, prove(Stream::Unix(connected), security, &peer)).await?, None)
        }
        Endpoint::Tcp(address) => {
            let found = within(limits.handshake, lookup_host(address)).await.map_err(failed)?;
            let (stream, local) =
                dial_addresses(endpoint, &interleaved(found.collect()), security, limits).await?;
            (stream, Some(local))
        }
    };
    Ok(Dialed { connection: Connection::new(stream, peer, limits, None)?, local })
}

/// Connects to the first address that completes the handshake. Returns the stream and its local address.
async fn dial_addresses(
    endpoint: &Endpoint,
    addresses: &[SocketAddr],
    security: &Security,
    limits: &Limits,
) -> Result<(Stream, IpAddr), TransportError> {
    let peer = endpoint.to_string();
    let failed = |error| TransportError::Dial { endpoint: endpoint.clone(), error };
    let attempt = async |address: SocketAddr| {
        let connect = async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok((stream.local_addr()?.ip().to_canonical(), stream))
        };
        let (local, stream) = within(limits.handshake, connect).await.map_err(failed)?;
        security.look_up(endpoint, address)?;
        let stream = in_time(limits, &peer, prove(Stream::Tcp(stream), security, &peer)).await?;
        Ok((stream, local))
    };
    let attempts = addresses.iter().map(|address| attempt(*address).boxed()).collect();
    first_of(attempts).await.map_err(|failures| together(endpoint, addresses, failures))
}

async fn within<T>(limit: Duration, what: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, what).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn in_time(
    limits: &Limits,
    peer: &str,
    proving: impl Future<Output = Result<Stream, TransportError>>,
) -> Result<Stream, TransportError> {
    let slow = |_| Err(TransportError::Slow { peer: peer.to_owned() });
    timeout(limits.handshake, proving).await.unwrap_or_else(slow)
}

/// Returns the addresses in their order, but alternates between the two families, since often one family does not work
/// at all.
fn interleaved(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first) = addresses.first().copied() else { return addresses };
    let (same, other): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv4() == first.is_ipv4());
    let (mut same, mut other) = (same.into_iter(), other.into_iter());
    std::iter::from_fn(|| Some([same.next(), other.next()]))
        .take_while(|two| two.iter().any(Option::is_some))
        .flatten()
        .flatten()
        .collect()
}

/// Returns the result of the first attempt that succeeds; the others are dropped. An attempt starts when the previous
/// one has failed, or has taken [`STAGGER`] without a result. If all fail, returns their errors in order.
async fn first_of<T, E>(attempts: Vec<BoxFuture<'_, Result<T, E>>>) -> Result<T, Vec<E>> {
    let mut left = attempts.into_iter().enumerate();
    let mut under_way = FuturesUnordered::new();
    let mut failures: Vec<(usize, E)> = Vec::new();
    loop {
        if let Some((nth, attempt)) = left.next() {
            under_way.push(async move { (nth, attempt.await) });
        }
        let ended = tokio::select! {
            ended = under_way.next() => ended,
            () = sleep(STAGGER), if left.len() > 0 => continue,
        };
        match ended {
            Some((_, Ok(result))) => return Ok(result),
            Some((nth, Err(failure))) => failures.push((nth, failure)),
            None if left.len() == 0 => {
                failures.sort_by_key(|(nth, _)| *nth);
                return Err(failures.into_iter().map(|(_, failure)| failure).collect());
            }
            None => {}
        }
    }
}

/// Combines the errors of all addresses into one. A refusal by a listener takes precedence over unreachable addresses.
fn together(endpoint: &Endpoint, addresses: &[SocketAddr], failures: Vec<TransportError>) -> TransportError {
    let mut unreachable = Vec::new();
    let mut kind = None;
    for (address, failure) in addresses.iter().zip(failures) {
        match failure {
            TransportError::Dial { error, .. } if addresses.len() == 1 => {
                return TransportError::Dial { endpoint: endpoint.clone(), error };
            }
            TransportError::Dial { error, .. } => {
                kind.get_or_insert(error.kind());
                unreachable.push(format!("{address}: {error}"));
            }
            other => return other,
        }
    }
    let error = match kind {
        Some(kind) => io::Error::new(kind, unreachable.join("; ")),
        None => io::Error::new(io::ErrorKind::AddrNotAvailable, "the name of the host has no address"),
    };
    TransportError::Dial { endpoint: endpoint.clone(), error }
}

/// Performs the dialing side of the handshake. Returns the stream once both ends have authenticated each other.
pub(super) async fn prove(stream: Stream, security: &Security, peer: &str) -> Result<Stream, TransportError> {
    let token = security.token();
    let token = token.as_ref();
    let (mut stream, params) = match (stream, security.tls()) {
        (Stream::Tcp(stream), Some(tls)) => {
            let (stream, binding) = tls.connect(stream, peer).await?;
            (Stream::Tls(stream), HandshakeParams::inside_tls(token, binding, None))
        }
        (stream, _) => (stream, HandshakeParams::plain(token)),
    };
    handshake::client_handshake(&mut stream.as_io(), &params, peer).await?;
    Ok(stream)
}

#[cfg(test)]
#[path = "dial_tests.rs"]
mod tests;
