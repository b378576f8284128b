//! Accepting connections of other processes.

use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::complaints::Complaints;
use super::connection::{Connection, Stream};
use super::endpoint::Endpoint;
use super::error::TransportError;
use super::handshake::{self, HandshakeParams};
use super::limits::Limits;
use super::local_token::TokenFile;
use super::pending_handshakes::PendingHandshakes;
use super::security::Security;
use super::tls;
use crate::descriptors;
use crate::id::unique;

/// Pause after the system has run out of resources for connections.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// Name of a peer that connects over a Unix socket, in messages.
const HERE: &str = "a Unix socket";

/// Accepts connections until it is closed or dropped.
pub(crate) struct Listener {
    endpoint: Endpoint,
    /// Device and inode of the file of a Unix socket.
    file: Option<(u64, u64)>,
    proved: mpsc::Receiver<Connection>,
    /// Removed before the socket is closed, because the next process at this address writes its own.
    token_file: Option<TokenFile>,
    accepting: JoinHandle<()>,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Listens at `endpoint`; port 0 selects a free port.
    pub(crate) async fn bind(
        endpoint: &Endpoint,
        security: Security,
        limits: Limits,
    ) -> Result<Self, TransportError> {
        let failed = |error| TransportError::Listen { endpoint: endpoint.clone(), error };
        let mut token_file = None;
        let mut file = None;
        let (socket, endpoint) = match endpoint {
            Endpoint::Tcp(address) => {
                let addresses: Vec<_> = tokio::net::lookup_host(address).await.map_err(failed)?.collect();
                if !security.keeps_strangers_out()
                    && addresses.iter().any(|address| !address.ip().is_loopback())
                {
                    return Err(TransportError::Unprotected { endpoint: endpoint.clone() });
                }
                let listener = TcpListener::bind(&addresses[..]).await.map_err(failed)?;
                let address = listener.local_addr().map_err(failed)?;
                token_file = security.announce(address)?;
                (Socket::Tcp(listener), Endpoint::Tcp(address.to_string()))
            }
            Endpoint::Unix(path) => {
                let listener = listen_at(path).map_err(failed)?;
                file = file_at(path);
                (Socket::Unix(listener), endpoint.clone())
            }
        };
        let (prove, proved) = mpsc::channel(16);
        let accepting = tokio::spawn(accept(socket, security, limits, prove));
        Ok(Self { endpoint, file, proved, token_file, accepting })
    }

    /// Returns the endpoint at which it listens.
    pub(crate) fn endpoint(&self) -> Endpoint {
        self.endpoint.clone()
    }

    /// Returns `true` while others can reach the listener: tools that clean up may remove the file of a Unix socket.
    pub(crate) fn is_there(&self) -> bool {
        match &self.endpoint {
            Endpoint::Unix(path) => self.file.is_some() && self.file == file_at(path),
            Endpoint::Tcp(_) => true,
        }
    }

    /// Returns the next authenticated connection.
    ///
    /// # Cancel safety
    /// No connection is lost.
    pub(crate) async fn accept(&mut self) -> Connection {
        match self.proved.recv().await {
            Some(connection) => connection,
            // The runtime is shutting down.
            None => std::future::pending().await,
        }
    }

    /// Closes the listener. Another one may listen at the endpoint when the future is done.
    pub(crate) async fn close(mut self) {
        drop(self.token_file.take());
        self.accepting.abort();
        // The only possible error is the cancellation.
        let _ = (&mut self.accepting).await;
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        drop(self.token_file.take());
        self.accepting.abort();
        if let Endpoint::Unix(path) = &self.endpoint
            && self.is_there()
        {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Listens at a path. The file appears there when it accepts connections: one that refuses them was left behind by a process
/// that was killed.
fn listen_at(path: &Path) -> io::Result<UnixListener> {
    let staged = format!(".{:08x}", unique() as u32);
    // A longer path may be too long for a socket.
    if path.file_name().is_none_or(|name| name.len() < staged.len()) {
        return bind_at(path);
    }
    let staged = path.with_file_name(staged);
    let listener = bind_at(&staged)?;
    match renameat_with(CWD, &staged, CWD, path, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(listener),
        Err(error) => {
            let _ = std::fs::remove_file(&staged);
            match error {
                Errno::EXIST => Err(ErrorKind::AddrInUse.into()),
                // The file system has no such renaming.
                Errno::INVAL | Errno::NOSYS | Errno::NOTSUP => bind_at(path),
                error => Err(error.into()),
            }
        }
    }
}

fn bind_at(path: &Path) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

fn file_at(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

async fn accept(socket: Socket, security: Security, limits: Limits, prove: mpsc::Sender<Connection>) {
    let mut handshakes = PendingHandshakes::new(limits.handshakes);
    let places = Arc::new(Semaphore::new(limits.connections));
    let complaints = Complaints::default();
    loop {
        let accepted = match &socket {
            Socket::Tcp(listener) => listener.accept().await.map(|(stream, address)| {
                // Writes are sent at once instead of being combined.
                let _ = stream.set_nodelay(true);
                (Stream::Tcp(stream), address.to_string())
            }),
            Socket::Unix(listener) => {
                listener.accept().await.map(|(stream, _)| (Stream::Unix(stream), HERE.to_owned()))
            }
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                complaints
                    .note(HERE, &format!("cannot accept a connection: {error}{}", descriptors::hint(&error)));
                tokio::time::sleep(EXHAUSTED).await;
                continue;
            }
        };
        // Connections beyond the limit are closed at once: honest peers try again.
        let Ok(place) = places.clone().try_acquire_owned() else {
            complaints.note(
                &peer,
                &format!("a connection from {peer} was closed: the limit on connections is reached"),
            );
            continue;
        };
        let (security, prove, complain) = (security.clone(), prove.clone(), complaints.clone());
        let from = peer.clone();
        let is_full = handshakes.begin(|turn| {
            let shaking = async move {
                match shake(stream, peer.clone(), &security, limits, place).await {
                    Ok(connection) => {
                        drop(turn);
                        let _ = prove.send(connection).await;
                    }
                    // The peer is shutting down, or only probed for a listener.
                    Err(error) if error.is_gone() => log::debug!("a connection was not used: {error}"),
                    Err(error) => complain.note(&peer, &format!("a connection was refused: {error}")),
                }
            };
            tokio::spawn(shaking).abort_handle()
        });
        if is_full {
            let what = "a pending handshake was cancelled: too many have begun since";
            complaints.note(&from, what);
        }
    }
}

async fn shake(
    stream: Stream,
    peer: String,
    security: &Security,
    limits: Limits,
    place: OwnedSemaphorePermit,
) -> Result<Connection, TransportError> {
    match timeout(limits.handshake, prove(stream, security, &peer)).await {
        Ok(proved) => Connection::new(proved?, peer, &limits, Some(place)),
        Err(_) => Err(TransportError::Slow { peer }),
    }
}

/// Performs the listening side of the handshake. Returns the stream once both ends have authenticated each other.
pub(super) async fn prove(stream: Stream, security: &Security, peer: &str) -> Result<Stream, TransportError> {
    let token = security.token();
    let token = token.as_ref();
    let (mut stream, params) = match (stream, security.tls()) {
        (Stream::Tcp(stream), Some(tls)) => {
            let mut first = [0];
            stream.peek(&mut first).await.map_err(|error| TransportError::broken(peer, error))?;
            if first == [tls::HANDSHAKE] {
                let (stream, binding, objection) = tls.accept(stream, peer).await?;
                (Stream::Tls(stream), HandshakeParams::inside_tls(token, binding, objection))
            } else {
                (Stream::Tcp(stream), HandshakeParams::without_tls(token))
            }
        }
        (stream, _) => (stream, HandshakeParams::objecting(token, security.objection())),
    };
    handshake::server_handshake(&mut stream.as_io(), &params, peer).await?;
    Ok(stream)
}

#[cfg(test)]
#[path = "listener_tests.rs"]
mod tests;
