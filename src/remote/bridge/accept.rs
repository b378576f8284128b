//! The accepting side: decides which dialing processes may begin or resume a session.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::mpsc;
use tokio::task::spawn_local;

use super::super::link::{End, Link};
use super::super::protocol::{Hello, Refusal, Role, Welcome};
use super::super::socket_directory::{is_inside, make_again};
use super::sessions::{Accepted, Key};
use super::{Bridge, DialError};
use crate::fence::Panic;
use crate::printable::{LONGEST_REASON, brief};
use crate::transport::{Connection, Endpoint, Listener, PendingHandshakes, TransportError, Turn};
use crate::wire::{self, Frame};

/// Interval at which the files of sockets are checked.
const LOOK_AFTER: Duration = Duration::from_secs(2);

impl Bridge {
    /// Accepts connections until the bridge ends. When the future is done the listener is closed.
    pub(in crate::remote) async fn listen(self: Arc<Self>, mut listener: Listener) {
        let mut ended = self.ended.subscribe();
        let mut greetings = PendingHandshakes::new(self.limits.handshakes);
        let is_file = matches!(listener.endpoint(), Endpoint::Unix(_));
        loop {
            let connection = tokio::select! {
                connection = listener.accept() => Some(connection),
                _ = ended.wait_for(|ended| *ended) => None,
                () = self.sockets_to_look_after(), if is_file => {
                    listener = self.looked_after(listener).await;
                    continue;
                }
            };
            let Some(connection) = connection else { return listener.close().await };
            let bridge = self.clone();
            greetings.begin(|turn| spawn_local(bridge.take_in(connection, turn)).abort_handle());
        }
    }

    /// Waits until the files of sockets are to be checked.
    async fn sockets_to_look_after(&self) {
        // The check is due on notification as well as on timeout.
        let _ = tokio::time::timeout(LOOK_AFTER, self.sockets.notified()).await;
    }

    /// Returns a new listener if the file of the socket was removed, else the same one.
    async fn looked_after(&self, listener: Listener) -> Listener {
        let Endpoint::Unix(path) = listener.endpoint() else { return listener };
        if listener.is_there() {
            return listener;
        }
        if let Some(directory) = path.parent().filter(|_| is_inside(&path))
            && let Err(error) = make_again(directory)
        {
            let what = format!(
                "the directory {} was removed and cannot be made again: {error}",
                directory.display()
            );
            self.complaints.note(&path.display().to_string(), &what);
            return listener;
        }
        match Listener::bind(&Endpoint::Unix(path.clone()), self.security.clone(), self.limits).await {
            Ok(anew) => {
                log::info!("the socket {} was removed and has been created again", path.display());
                anew
            }
            Err(error) => {
                self.complaints.note(&path.display().to_string(), &format!("a socket was removed: {error}"));
                listener
            }
        }
    }

    /// Exchanges greetings on a connection and then serves it according to the role of the peer.
    pub(in crate::remote) async fn take_in(self: Arc<Self>, connection: Connection, turn: Turn) {
        let peer = connection.peer().to_owned();
        let limit = self.limits.handshake;
        let greeted = tokio::time::timeout(limit, self.greet(connection)).await;
        drop(turn);
        match greeted {
            Ok(Ok(None)) => {}
            Ok(Ok(Some((role, connection)))) => {
                let services = self.services;
                if let Err(error) = services.serve(self, role, connection).await {
                    let use_of_it = if role == Role::Drive { "used a drive" } else { "pulled values" };
                    log::debug!("the connection on which {peer} {use_of_it} broke: {error}");
                }
            }
            Ok(Err(DialError::Transport(error))) if error.is_gone() => {
                log::debug!("a connection from {peer} was not used: {error}");
            }
            // Where the head was started again, each node does so once, and then begins another session.
            Ok(Err(DialError::Lost { why, .. })) => {
                log::info!("{peer} asked for a session that is over: {why}");
            }
            Ok(Err(DialError::Refused(why))) => {
                self.complaints.note(&peer, &format!("a connection from {peer} was refused: {why}"));
            }
            Ok(Err(error)) => {
                self.complaints.note(&peer, &format!("a connection from {peer} was refused: {error}"))
            }
            Err(_) => {
                let what =
                    format!("a connection from {peer} was closed: it completed no greeting within {limit:?}");
                self.complaints.note(&peer, &what);
            }
        }
    }

    /// Returns the reason why this process serves no drives, if it does not.
    fn refusal_of_drives(&self) -> Option<&'static str> {
        if cfg!(not(feature = "drive")) {
            return Some("this program was built without Flowright's feature `drive`");
        }
        self.head_id().is_some().then_some("only the head serves drives")
    }

    /// Exchanges greetings. Hands the connection to its session, or returns it if it is not for one.
    async fn greet(
        self: &Arc<Self>,
        mut connection: Connection,
    ) -> Result<Option<(Role, Connection)>, DialError> {
        let hello = match connection.read_frame().await {
            Ok(Some(Frame::Hello(body))) => {
                wire::decode::<Hello>(body).map_err(|error| format!("its greeting cannot be read: {error}"))
            }
            Ok(Some(_)) => Err("it did not begin with a greeting".to_owned()),
            Ok(None) => return Ok(None),
            Err(error @ TransportError::Foreign { .. }) => Err(error.to_string()),
            Err(error) => return Err(error.into()),
        };
        let found = hello.map_err(Refusal::for_good).and_then(|hello| {
            match self.identity.refusal_of(&hello) {
                Some(refusal) => return Err(refusal),
                None if hello.role == Role::Puller => Ok(None),
                None if hello.role == Role::Drive => match self.refusal_of_drives() {
                    Some(reason) => Err(Refusal::for_good(reason.to_owned())),
                    None => Ok(None),
                },
                None => self.session_for(&hello).map(Some),
            }
            .map(|session| (hello, session))
        });
        let (hello, session) = match found {
            Ok(found) => found,
            Err(refusal) => {
                // The reason may quote the peer's input, whose length the peer decides.
                let refusal = Refusal { reason: brief(&refusal.reason, LONGEST_REASON), ..refusal };
                let body =
                    wire::encode(&refusal).map_err(|error| DialError::NotUnderstood(error.to_string()))?;
                connection.dismiss(&Frame::Bye(&body)).await?;
                return Err(match refusal {
                    Refusal { lost: true, reason, epoch, .. } => DialError::Lost { why: reason, epoch },
                    Refusal { reason, .. } => DialError::Refused(reason),
                });
            }
        };
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let welcome = Welcome {
            app: self.app(),
            node: self.me().clone(),
            received: session.as_ref().map_or(0, |session| session.link.received()),
            heartbeat_ms: millis(self.settings.heartbeat),
            grace_ms: millis(self.settings.grace),
            epoch: self.epoch(),
            args: if hello.role == Role::Node { self.args() } else { None },
        };
        let body = wire::encode(&welcome).map_err(|error| DialError::NotUnderstood(error.to_string()))?;
        connection.write_frame(&Frame::Hello(&body)).await?;
        let Some(Accepted { connections, .. }) = session else { return Ok(Some((hello.role, connection))) };
        // If the session has ended in the meantime, the connection is dropped.
        let _ = connections.send((connection, hello.received)).await;
        Ok(None)
    }

    /// Returns the session that this greeting resumes or begins.
    fn session_for(self: &Arc<Self>, hello: &Hello) -> Result<Accepted, Refusal> {
        let key = (hello.node.id, hello.session);
        if let Some(accepted) = self.sessions.accepted(key) {
            return Ok(accepted);
        }
        if !hello.fresh {
            let reason = match hello.epoch < self.epoch() {
                true => "this head was started again, and does not know the session".to_owned(),
                false => "it was silent for longer than the grace period, so that its Works were given up"
                    .to_owned(),
            };
            return Err(Refusal { epoch: self.epoch(), ..Refusal::lost(reason) });
        }
        let peer_handler = self.peer_handler().map_err(|error| Refusal::for_good(error.to_string()))?;
        peer_handler.admit(hello)?;
        let link = Arc::new(Link::new(hello.node.clone(), self, self.settings));
        let (connections, arriving) = mpsc::channel(1);
        let accepted = Accepted { link: link.clone(), connections };
        self.sessions.accept(key, accepted.clone());
        spawn_local(self.clone().attend(link, arriving, hello.role, key));
        Ok(accepted)
    }

    /// Runs a session that another process began until it is over.
    async fn attend(
        self: Arc<Self>,
        link: Arc<Link>,
        mut arriving: mpsc::Receiver<(Connection, u64)>,
        role: Role,
        key: Key,
    ) {
        let mut inbox = self.services.inbox(&self, &link);
        let mut next = None;
        let mut begun = false;
        let why = loop {
            let connection = match next.take() {
                Some(connection) => Some(connection),
                None => tokio::select! {
                    connection = arriving.recv() => connection,
                    () = link.lost() => None,
                },
            };
            let Some((connection, received)) = connection else {
                break "no heartbeat within the grace period".to_owned();
            };
            let Ok(peer_handler) = self.peer_handler() else { break "this process leaves".to_owned() };
            if std::mem::replace(&mut begun, true) {
                peer_handler.connected_again(&link, role);
            } else {
                peer_handler.joined(&link, role);
            }
            // No input of a peer should panic. If some did, the session would end here, instead of hanging.
            let talk = AssertUnwindSafe(link.converse(connection, received, &mut *inbox)).catch_unwind();
            let end = tokio::select! {
                end = talk => Some(end.unwrap_or_else(|panic| {
                    End::Over(format!("a panic: {}", Panic::new(panic)))
                })),
                // The peer has dialed anew because it noticed the end of the connection first.
                connection = arriving.recv() => { next = connection; None }
            };
            link.disconnect();
            match end {
                None => {}
                Some(End::Over(why)) => break why,
                Some(End::Broken(why)) => peer_handler.disconnected(&link, role, &why),
            }
        };
        self.sessions.forget_accepted(key);
        self.idle.close(link.peer().id);
        let why = link.given_up().unwrap_or(why);
        link.end();
        if let Ok(peer_handler) = self.peer_handler() {
            peer_handler.lost(&link, role, &why);
        }
    }
}
