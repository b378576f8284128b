//! Being reached by other processes.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::connection::{Connection, Stream};
use super::endpoint::Endpoint;
use super::error::TransportError;
use super::handshake;
use super::security::{Limits, Security};

/// How long to wait when the system has no connections left to give.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// Failed handshakes are logged at most so often.
const ONE_COMPLAINT: Duration = Duration::from_secs(1);

/// Takes connections for as long as it lives.
pub(crate) struct Listener {
    endpoint: Endpoint,
    proved: mpsc::Receiver<Connection>,
    accepting: JoinHandle<()>,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Listens at `endpoint`, at port 0 on a free one.
    pub(crate) async fn bind(
        endpoint: &Endpoint,
        security: Security,
        limits: Limits,
    ) -> Result<Self, TransportError> {
        let failed = |source| TransportError::Listen { endpoint: endpoint.clone(), source };
        let (socket, endpoint) = match endpoint {
            Endpoint::Tcp(address) => {
                let addresses: Vec<_> = tokio::net::lookup_host(address).await.map_err(failed)?.collect();
                if security.token().is_none() && addresses.iter().any(|address| !address.ip().is_loopback()) {
                    return Err(TransportError::Unprotected { endpoint: endpoint.clone() });
                }
                let listener = TcpListener::bind(&addresses[..]).await.map_err(failed)?;
                let address = listener.local_addr().map_err(failed)?;
                (Socket::Tcp(listener), Endpoint::Tcp(address.to_string()))
            }
            Endpoint::Unix(path) => {
                let listener = UnixListener::bind(path).map_err(failed)?;
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
                (Socket::Unix(listener), endpoint.clone())
            }
        };
        let (prove, proved) = mpsc::channel(16);
        let accepting = tokio::spawn(accept(socket, security, limits, prove));
        Ok(Self { endpoint, proved, accepting })
    }

    /// Where it listens.
    pub(crate) fn endpoint(&self) -> Endpoint {
        self.endpoint.clone()
    }

    /// The next connection that has proved itself.
    ///
    /// # Cancel safety
    /// No connection is lost.
    pub(crate) async fn accept(&mut self) -> Connection {
        match self.proved.recv().await {
            Some(connection) => connection,
            // The runtime is going down.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.accepting.abort();
        if let Endpoint::Unix(path) = &self.endpoint {
            let _ = std::fs::remove_file(path);
        }
    }
}

async fn accept(socket: Socket, security: Security, limits: Limits, prove: mpsc::Sender<Connection>) {
    let handshakes = Arc::new(Semaphore::new(limits.handshakes));
    let places = Arc::new(Semaphore::new(limits.connections));
    let complaints = Arc::new(Complaints::default());
    loop {
        let accepted = match &socket {
            Socket::Tcp(listener) => listener.accept().await.map(|(stream, address)| {
                // A write is not held back in the hope of more.
                let _ = stream.set_nodelay(true);
                (Stream::Tcp(stream), address.to_string())
            }),
            Socket::Unix(listener) => {
                listener.accept().await.map(|(stream, _)| (Stream::Unix(stream), "a Unix socket".to_owned()))
            }
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                complaints.note(&format!("no connection could be taken: {error}"));
                tokio::time::sleep(EXHAUSTED).await;
                continue;
            }
        };
        // Those beyond the limits are closed at once: whoever is honest tries again.
        let (Ok(turn), Ok(place)) =
            (handshakes.clone().try_acquire_owned(), places.clone().try_acquire_owned())
        else {
            complaints.note(&format!("a connection from {peer} was closed: there are too many"));
            continue;
        };
        let (security, prove, complaints) = (security.clone(), prove.clone(), complaints.clone());
        tokio::spawn(async move {
            match shake(stream, peer, &security, limits, place).await {
                Ok(connection) => {
                    drop(turn);
                    let _ = prove.send(connection).await;
                }
                Err(error) => complaints.note(&format!("a connection was refused: {error}")),
            }
        });
    }
}

async fn shake(
    mut stream: Stream,
    peer: String,
    security: &Security,
    limits: Limits,
    place: OwnedSemaphorePermit,
) -> Result<Connection, TransportError> {
    match timeout(limits.handshake, handshake::accept(&mut stream.as_io(), security, &peer)).await {
        Ok(proved) => proved?,
        Err(_) => return Err(TransportError::Slow { peer }),
    }
    Connection::new(stream, peer, &limits, Some(place))
}

/// Logs now and then, so that strangers cannot fill a disk.
#[derive(Default)]
struct Complaints {
    state: std::sync::Mutex<(Option<Instant>, u64)>,
}

impl Complaints {
    fn note(&self, what: &str) {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (last, unsaid) = &mut *state;
        if last.is_some_and(|last| last.elapsed() < ONE_COMPLAINT) {
            *unsaid += 1;
            return;
        }
        *last = Some(Instant::now());
        match std::mem::take(unsaid) {
            0 => log::warn!("{what}"),
            others => log::warn!("{what} (and {others} like it before)"),
        }
    }
}
