//! The dialing side: reaches another process and keeps a session with it connected.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt;

use super::super::backoff::{Backoff, longest_pause, longest_within};
use super::super::link::{End, Link};
use super::super::protocol::{Hello, NodeCard, Refusal, Role, Welcome};
use super::identity::KnownHead;
use super::{Bridge, DialError};
use crate::fence::Panic;
use crate::id::unique;
use crate::printable::{LONGEST_REASON, brief};
use crate::transport::{Connection, Endpoint, TransportError, dial};
use crate::wire::{self, Frame};

impl Bridge {
    /// Dials another process to begin or resume a session; tries its endpoints in turn.
    pub(in crate::remote) async fn call(
        &self,
        endpoints: &[Endpoint],
        hello: &Hello,
    ) -> Result<(Connection, Welcome), DialError> {
        let mut failure = DialError::NotUnderstood("the peer has announced no address".to_owned());
        for endpoint in endpoints {
            match self.call_at(endpoint, hello).await {
                Ok(welcome) => return Ok(welcome),
                Err(error @ DialError::Transport(_)) => failure = error,
                Err(error) => return Err(error),
            }
        }
        Err(failure)
    }

    async fn call_at(&self, endpoint: &Endpoint, hello: &Hello) -> Result<(Connection, Welcome), DialError> {
        let connection = dial(endpoint, &self.security, &self.limits).await?;
        self.greet_at(endpoint, connection, hello).await
    }

    /// Exchanges greetings on a connection to `endpoint`, to begin or resume a session.
    pub(in crate::remote) async fn greet_at(
        &self,
        endpoint: &Endpoint,
        mut connection: Connection,
        hello: &Hello,
    ) -> Result<(Connection, Welcome), DialError> {
        let not_understood = |error: &dyn std::fmt::Display| DialError::NotUnderstood(error.to_string());
        let exchange = async {
            let body = wire::encode(hello).map_err(|error| not_understood(&error))?;
            connection.write_frame(&Frame::Hello(&body)).await?;
            match connection.read_frame().await? {
                Some(Frame::Hello(body)) => {
                    let welcome = wire::decode::<Welcome>(body).map_err(|error| not_understood(&error))?;
                    // Nodes hear of a new head one after the other.
                    let is_for_the_head = !matches!(hello.role, Role::Peer | Role::Puller);
                    let known = KnownHead { epoch: hello.epoch, process: hello.head };
                    let head = KnownHead { epoch: welcome.epoch, process: welcome.node.id };
                    match known.refusal_of(head) {
                        Some(why) if is_for_the_head && hello.app == Some(welcome.app) => {
                            Err(DialError::Outdated(why))
                        }
                        _ => Ok(welcome),
                    }
                }
                Some(Frame::Bye(body)) => {
                    let refusal: Refusal = wire::decode(body).map_err(|error| not_understood(&error))?;
                    let reason = brief(&refusal.reason, LONGEST_REASON);
                    Err(match refusal {
                        Refusal { outdated: true, .. } => DialError::Outdated(reason),
                        Refusal { lost: true, epoch, .. } => DialError::Lost { why: reason, epoch },
                        Refusal { wait: true, .. } => DialError::Taken(reason),
                        Refusal { .. } => DialError::Refused(reason),
                    })
                }
                Some(_) => Err(not_understood(&"the peer did not answer with a greeting")),
                // The peer may be overloaded; this is no refusal.
                None => Err(TransportError::Broken {
                    peer: endpoint.to_string(),
                    error: std::io::Error::new(
                        std::io::ErrorKind::UnexpectedEof,
                        "the peer closed the connection instead of answering the greeting",
                    ),
                }
                .into()),
            }
        };
        let welcome = match tokio::time::timeout(self.limits.handshake, exchange).await {
            Ok(welcome) => welcome?,
            Err(_) => return Err(TransportError::Slow { peer: endpoint.to_string() }.into()),
        };
        Ok((connection, welcome))
    }

    /// Runs a session that this process began until it is over. Returns the reason for its end.
    ///
    /// # Errors
    /// [`DialError`] with the refusal of the peer to resume the session.
    pub(in crate::remote) async fn pursue(
        self: Arc<Self>,
        link: Arc<Link>,
        endpoints: Vec<Endpoint>,
        hello: Hello,
        first: Option<(Connection, u64)>,
    ) -> Result<String, DialError> {
        let role = hello.role;
        let is_near = endpoints.iter().all(|endpoint| matches!(endpoint, Endpoint::Unix(_)));
        let mut inbox = self.services.inbox(&self, &link);
        let mut next = first;
        let mut fresh = next.is_none();
        let mut again = false;
        let tried = endpoints.iter().map(Endpoint::to_string).collect::<Vec<_>>().join(" and ");
        // Another head may be started with the journal of the one that has ended.
        let ends_with_it = is_near && !(role == Role::Node && self.outlives_head());
        let longest_pause = endpoints.iter().map(longest_pause).max().unwrap_or_default();
        let mut backoff = Backoff::new(longest_pause);
        let mut is_warned = false;
        let mut away_since = Instant::now();
        let end = 'session: loop {
            let mut failed = String::new();
            let (connection, received) = loop {
                if let Some(next) = next.take() {
                    break next;
                }
                let hello = Hello { fresh, received: link.received(), ..hello.clone() };
                let attempt = tokio::select! {
                    attempt = self.call(&endpoints, &hello) => attempt,
                    () = link.lost() => {
                        if let Some(why) = link.given_up() {
                            break 'session Ok(why);
                        }
                        if role == Role::Peer && !is_near {
                            let (me, peer) = (&self.me().name, &link.peer().name);
                            log::warn!(
                                "node `{me}` cannot reach node `{peer}` at {tried}{failed}; messages to it go by way of the \
                                 head. Where addresses are translated or ports forwarded, start `{peer}` with \
                                 --advertise HOST:PORT"
                            );
                        }
                        break 'session Ok(format!(
                            "it could not be reached at {tried} within the grace period{failed}"
                        ));
                    }
                };
                match attempt {
                    Ok((connection, welcome)) => break (connection, welcome.received),
                    // On this machine a refused connection proves that the process has ended.
                    Err(DialError::Transport(error)) if ends_with_it && error.is_refused_connection() => {
                        break 'session Ok("its process is gone".to_owned());
                    }
                    Err(DialError::Transport(error)) => {
                        log::debug!("{error}");
                        failed = format!(": {error}");
                    }
                    // Nothing that another head says is proof that the head of this session, which has a journal,
                    // has ended: it may be reached again.
                    Err(error)
                        if role == Role::Node
                            && self.outlives_head()
                            && !matches!(error, DialError::Lost { epoch, .. } if epoch >= hello.epoch) =>
                    {
                        if !std::mem::replace(&mut is_warned, true) {
                            log::warn!(
                                "another head is at {tried} ({error}); the Works here go on, and wait for their own head \
                                 within the grace period"
                            );
                        }
                        failed = format!(": {error}");
                    }
                    Err(error) => break 'session Err(error),
                }
                let longest = longest_within(away_since.elapsed(), longest_pause);
                tokio::time::sleep(backoff.failed_within(longest)).await;
            };
            (fresh, is_warned) = (false, false);
            if let Ok(peer_handler) = self.peer_handler() {
                if std::mem::replace(&mut again, true) {
                    peer_handler.connected_again(&link, role);
                } else {
                    peer_handler.joined(&link, role);
                }
            }
            let began = Instant::now();
            // No input of a peer should panic. If some did, the session would end here, instead of hanging.
            let talk =
                AssertUnwindSafe(link.converse(connection, received, &mut *inbox)).catch_unwind().await;
            link.disconnect();
            away_since = Instant::now();
            match talk.unwrap_or_else(|panic| End::Over(format!("a panic: {}", Panic::new(panic)))) {
                End::Over(why) => break Ok(why),
                End::Broken(why) => {
                    if let Ok(peer_handler) = self.peer_handler() {
                        peer_handler.disconnected(&link, role, &why);
                    }
                }
            }
            if let Some(pause) = backoff.lived(began.elapsed()) {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = link.lost() => break Ok("it could not be reached within the grace period".to_owned()),
                }
            }
        };
        if matches!(end, Err(DialError::Lost { epoch, .. }) if epoch > hello.epoch) {
            // The Works that a later head takes over may refer to values that are pinned for this one.
            link.pins().set_aside();
        }
        link.end();
        end
    }

    /// Returns the session with another node, and begins one if necessary.
    pub(in crate::remote) fn peer(self: &Arc<Self>, card: &NodeCard) -> Arc<Link> {
        let make = || Arc::new(Link::new(card.clone(), self, self.settings));
        let (link, is_new) = self.sessions.peer_or_new(card.id, make);
        if !is_new {
            return link;
        }
        let (bridge, peer) = (self.clone(), link.clone());
        let hello = self.hello(Role::Peer, Some(self.app()), unique());
        self.spawn(async move || {
            let (id, endpoints) = (peer.peer().id, peer.peer().endpoints.clone());
            let end = bridge.clone().pursue(peer.clone(), endpoints, hello, None).await;
            let why = end.unwrap_or_else(|refusal| refusal.to_string());
            log::debug!("the session with node `{}` is over: {why}", peer.peer().name);
            bridge.idle.close(id);
            bridge.sessions.forget_peer(id, &peer);
        });
        link
    }
}
