//! A process that takes part in an App as a node: it finds the head, hosts Works for it, and waits for a head after
//! losing one.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::timeout;

use super::agent::{Agent, Kinds};
use super::backoff::{Backoff, longest_pause};
use super::begun::BegunWriter;
use super::bridge::{Bridge, BridgeOptions, DialError, PeerHandler, Spawner};
use super::dead_letters::send_dead_letters;
use super::departures::release_peers;
#[cfg(feature = "drive")]
use super::drives::DrivesOfHead;
use super::kept_output::KeptOutput;
use super::lifetime::Lifetime;
use super::link::Link;
use super::logs::{LinesForHead, send_logs};
use super::process_id::ProcessId;
use super::protocol::{Control, Hello, NodeCard, Role, Welcome};
use super::replication::FromNode;
use super::services::ProcessServices;
use super::session::SessionSettings;
use super::without_head::WithoutHead;
#[cfg(feature = "drive")]
use crate::drive::Drives;
use crate::duration::write_duration;
use crate::id::unique;
use crate::payload::{MemoryBudget, Store};
use crate::printable::one_line;
use crate::runtime::{self, Runtime};
use crate::transport::{Advertised, Connection, Dialed, Endpoint, Listener, TransportError, dial_from};
use crate::work::run_markers::mark_runs;
use crate::work::{
    Arguments, AskCycles, DeadLetters, Directory, HeadOfWaits, MessageCounts, Resources, Router, TopicUplink,
    Topics,
};

/// Longest wait between attempts to dial a head that is not there.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Longest wait between attempts to dial a listener that has refused the handshake.
const LONGEST_REFUSED_PAUSE: Duration = Duration::from_secs(5);

/// Time that a node that leaves waits for peers that may be unreachable.
const FAREWELL: Duration = Duration::from_secs(1);

/// Interval at which a node repeats the reason that keeps it from joining.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// Settings of a node.
pub(crate) struct NodeOptions {
    pub(crate) bridge: BridgeOptions,
    /// Spawner for the thread that the node lives on.
    pub(crate) spawner: Spawner,
    pub(crate) kinds: Kinds,
    /// The endpoint of the head.
    pub(crate) join: Endpoint,
    pub(crate) name: String,
    pub(crate) labels: std::collections::BTreeMap<String, String>,
    pub(crate) resources: Resources,
    /// The endpoint at which other nodes reach this one; by default the address from which it reaches the head.
    pub(crate) listen: Option<Endpoint>,
    /// The address that is announced to others in place of `listen`.
    pub(crate) advertise: Option<Advertised>,
    /// The directory for the process of a single Work that outlives its head.
    pub(crate) kept_in: Option<PathBuf>,
    /// The time without a head after which the node ends.
    pub(crate) without_head: Option<Duration>,
    /// The end of the node's allocation.
    pub(crate) lifetime: Arc<Lifetime>,
    /// Number of threads that pooled Works share.
    pub(crate) pool: usize,
    /// Budget of the values in this process.
    pub(crate) budget: Arc<MemoryBudget>,
}

/// Error returned when a process cannot take part in an App as a node.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error("the head at {head} refused this node: {why}")]
    Refused { head: Endpoint, why: String },
}

/// The reason why a node ends.
pub(crate) enum Farewell {
    /// The head has announced that the App is over, or that this node is no longer needed.
    Over(String),
    /// The head is lost, and this process of a single Work has no purpose without it.
    HeadLost(String),
    /// The node has had no head for longer than it may.
    WithoutHead(String),
    /// The node was asked to leave.
    Left,
    /// The head has sent the node away, for this reason.
    SentAway(String),
    /// The allocation of the node is about to end.
    Expiring,
}

impl From<Leaving> for Farewell {
    fn from(leaving: Leaving) -> Self {
        match leaving {
            Leaving::Asked => Self::Left,
            Leaving::SentAway(why) => Self::SentAway(why),
            Leaving::Expiring => Self::Expiring,
        }
    }
}

/// The reason for which a node leaves an App that goes on.
#[derive(Debug)]
enum Leaving {
    /// It was asked to on its machine.
    Asked,
    /// The head has sent it away, for this reason.
    SentAway(String),
    /// The allocation of the node is about to end.
    Expiring,
}

/// Hosts Works until the App is over, `leave` is notified, or there is no head for the time of
/// [`NodeOptions::without_head`]. A node that loses its head waits for a head and joins again.
pub(crate) async fn run_node(options: NodeOptions, leave: &Notify) -> Result<Farewell, NodeError> {
    let is_process = matches!(options.join, Endpoint::Unix(_));
    if is_process {
        mark_runs();
    }
    let output = options.kept_in.as_deref().and_then(|home| {
        KeptOutput::start(home, &options.name)
            .inspect_err(|error| log::warn!("the Work will not outlive its head: {error}"))
            .ok()
    });
    let mut first = true;
    let mut backoff = Backoff::new(LONGEST_PAUSE);
    let mut without_head = WithoutHead::new(options.without_head);
    loop {
        let joined = tokio::select! {
            joined = join(&options, std::mem::take(&mut first), &mut backoff) => match joined? {
                Ok(joined) => joined,
                Err(why) => {
                    log::info!("this process ends, because the head that has started it is gone: {why}");
                    return Ok(Farewell::Over(why));
                }
            },
            () = leave.notified() => return Ok(Farewell::Left),
            why = without_head.too_long() => return Ok(Farewell::WithoutHead(why)),
            () = options.lifetime.draws_to_a_close() => return Ok(Farewell::Expiring),
        };
        let began = Instant::now();
        let JoinedSession { runtime, bridge, listening, mut session } = joined;
        let directory = Directory::of(&runtime);
        let _entered = runtime::enter(runtime.clone());
        let running = runtime.start();
        let lines_for_head = runtime.part().unwrap_or_default();
        let kinds = options.kinds.clone();
        let head = session.head.clone();
        if let Endpoint::Unix(socket) = &options.join {
            match BegunWriter::open(socket, &options.name) {
                Ok(mark) => head.mark_begun(mark),
                Err(error) => log::debug!("no mark of begun questions: {error}"),
            }
        }
        let outlives_head = bridge.epoch() > 0 && (!is_process || output.is_some());
        bridge.set_outlives_head(outlives_head);
        if let Some(output) = &output {
            output.leave_to(head.peer().process.clone());
        }
        let cycles: Arc<AskCycles> = runtime.part().unwrap_or_default();
        let topics = Topics::of(&runtime);
        let agent = Agent::new(
            runtime,
            kinds,
            (options.pool, options.lifetime.clone()),
            is_process,
            bridge.clone(),
            head,
        );
        let peer_handler: Arc<dyn PeerHandler> = agent.clone();
        bridge.set_peer_handler(Arc::downgrade(&peer_handler));
        let router: Arc<dyn Router> = agent.clone();
        directory.set_router(Arc::downgrade(&router));
        let head_of_waits: Arc<dyn HeadOfWaits> = agent.clone();
        cycles.report_to(Arc::downgrade(&head_of_waits));
        let uplink: Arc<dyn TopicUplink> = agent.clone();
        topics.set_uplink(Arc::downgrade(&uplink));
        let store = bridge.store();
        let end = loop {
            let head = session.head.clone();
            let end =
                attend(&agent, &bridge, session, &lines_for_head, (leave, &without_head, &options.lifetime))
                    .await;
            without_head.last_heard(&head);
            let SessionEnd::Lost { why, refusal, until } = end else { break end };
            if !refusal.is_some_and(|refusal| is_replaced(&refusal, &agent, &bridge)) {
                break SessionEnd::Lost { why, refusal: None, until };
            }
            agent.pause();
            session = tokio::select! {
                next = return_to(&options, &bridge, until) => match next {
                    Some(next) => {
                        let head = next.head.peer().process.clone();
                        output.iter().for_each(|output| output.leave_to(head.clone()));
                        next
                    }
                    None => break SessionEnd::Lost { why, refusal: None, until },
                },
                () = leave.notified() => {
                    log::warn!("leaving the App while it has no head: the Works and values here are lost with this node");
                    break SessionEnd::Left(Leaving::Asked);
                }
                why = without_head.too_long() => break SessionEnd::WithoutHead(why),
                () = options.lifetime.draws_to_a_close() => {
                    log::warn!(
                        "the time of this node is over while it has no head: the Works and values here are lost with it"
                    );
                    break SessionEnd::Left(Leaving::Expiring);
                }
            };
        };
        agent.end();
        bridge.end();
        store.end();
        // Awaited, because the next session may listen at the same address.
        futures::future::join_all(listening).await;
        directory.end();
        drop(running);
        let why = match end {
            SessionEnd::Left(leaving) => return Ok(leaving.into()),
            SessionEnd::WithoutHead(why) => return Ok(Farewell::WithoutHead(why)),
            SessionEnd::Over(why) => return Ok(Farewell::Over(why)),
            SessionEnd::Lost { why, .. } => why,
        };
        if is_process {
            return Ok(Farewell::HeadLost(why));
        }
        log::warn!(
            "the head is lost ({why}): its Works here have been ended; waiting for a head at {}",
            options.join
        );
        if let Some(pause) = backoff.lived(began.elapsed()) {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = leave.notified() => return Ok(Farewell::Left),
            }
        }
    }
}

/// The end of a session with the head.
enum SessionEnd {
    /// The node leaves.
    Left(Leaving),
    /// The App is over, or this process is not needed any more.
    Over(String),
    /// Nothing was received from the head for longer than the node may be without one.
    WithoutHead(String),
    Lost {
        why: String,
        /// The answer of the head that was reached instead of the one of the session.
        refusal: Option<DialError>,
        /// The end of the grace period, in which the head can be started again.
        until: Instant,
    },
}

/// Takes part in one session with the head, until it is over.
async fn attend(
    agent: &Arc<Agent>,
    bridge: &Arc<Bridge>,
    session: HeadSession,
    lines_for_head: &Arc<LinesForHead>,
    (leave, without_head, lifetime): (&Notify, &WithoutHead, &Lifetime),
) -> SessionEnd {
    let HeadSession { head, endpoint, hello, connection, received, grace, silence } = session;
    let is_process = agent.is_process();
    bridge.store().set_replicator(Some(Arc::new(FromNode(Arc::downgrade(&head)))));
    if agent.is_recorded() {
        agent.offer(&head, grace);
    }
    let updates = spawn_local(agent.clone().send_updates());
    let logs = spawn_local(send_logs(lines_for_head.clone(), head.clone()));
    let dead_letters = spawn_local(send_dead_letters(agent.dead_letters(), head.clone()));
    let load_report = spawn_local(agent.clone().send_load_reports());
    let pursue = bridge.clone().pursue(head.clone(), vec![endpoint], hello, Some((connection, received)));
    let mut pursue = spawn_local(pursue);
    let (mut is_done, mut too_long) = (false, None);
    let mut began = None;
    let (end, left) = tokio::select! {
        end = &mut pursue => (end.unwrap_or_else(|error| Ok(error.to_string())), None),
        why = without_head.silent_too_long(&head, silence) => {
            too_long = Some(why);
            (Ok(String::new()), None)
        }
        // The only Work of this process is over.
        () = agent.may_leave.notified(), if is_process => {
            let until = Instant::now() + grace;
            began = Some(Instant::now());
            hand_over_values(agent, bridge, &head, &mut pursue, until).await;
            is_done = true;
            (Ok("its Work is over".to_owned()), None)
        }
        () = leave.notified() => {
            if !is_process {
                hand_over(agent, bridge, &head, &mut pursue, grace, (&Leaving::Asked, lifetime)).await;
            }
            (Ok(String::new()), Some(Leaving::Asked))
        }
        why = agent.sent_away() => {
            let leaving = Leaving::SentAway(why);
            hand_over(agent, bridge, &head, &mut pursue, grace, (&leaving, lifetime)).await;
            (Ok(String::new()), Some(leaving))
        }
        () = lifetime.draws_to_a_close(), if !is_process => {
            hand_over(agent, bridge, &head, &mut pursue, grace, (&Leaving::Expiring, lifetime)).await;
            (Ok(String::new()), Some(Leaving::Expiring))
        }
    };
    if !pursue.is_finished() && too_long.is_none() {
        dead_letters.abort();
        let until = began.map_or_else(Instant::now, |began| began + grace);
        end_peers(agent, bridge, &head, until.max(Instant::now() + FAREWELL)).await;
        head.leave(match &left {
            Some(Leaving::Asked) => "it was asked to leave",
            Some(Leaving::SentAway(_)) => "it was sent away",
            Some(Leaving::Expiring) => "its time is over",
            None => "its Work is over",
        });
        // With a time limit, since the head may be unreachable.
        let _ = timeout(FAREWELL, &mut pursue).await;
    }
    pursue.abort();
    updates.abort();
    logs.abort();
    dead_letters.abort();
    load_report.abort();
    if let Some(leaving) = left {
        return SessionEnd::Left(leaving);
    }
    if let Some(why) = too_long {
        return SessionEnd::WithoutHead(why);
    }
    let (why, refusal) = match end {
        Ok(why) => (why, None),
        Err(refusal) => (refusal.to_string(), Some(refusal)),
    };
    match agent.why_over() {
        Some(why) => SessionEnd::Over(why),
        None if is_done => SessionEnd::Over(why),
        None => {
            SessionEnd::Lost { why, refusal, until: Instant::now() + grace.saturating_sub(head.silent_for()) }
        }
    }
}

/// Returns true if a later head has refused to go on with the session, which can take over the Works.
fn is_replaced(refusal: &DialError, agent: &Agent, bridge: &Bridge) -> bool {
    agent.is_recorded() && matches!(refusal, DialError::Lost { epoch, .. } if *epoch > bridge.epoch())
}

/// Joins the head of the same App that has been started again, if that succeeds before `until`.
async fn return_to(options: &NodeOptions, bridge: &Arc<Bridge>, until: Instant) -> Option<HeadSession> {
    let BridgeOptions { security, limits, .. } = &options.bridge;
    let mut hello = bridge.hello(Role::Node, Some(bridge.app()), unique());
    let mut backoff = Backoff::new(longest_pause(&options.join));
    let mut complaints = Complaints { said: None };
    let joined = async {
        loop {
            let attempt = async {
                let Dialed { connection, .. } = dial_from(&options.join, security, limits).await?;
                hello.node = options.lifetime.on(hello.node.clone());
                bridge.greet_at(&options.join, connection, &hello).await
            };
            match attempt.await {
                Ok(joined) => break joined,
                Err(error) => {
                    let what =
                        format!("the head at {} cannot take over the Works here: {error}", options.join);
                    complaints.note(log::Level::Warn, what);
                }
            }
            tokio::time::sleep(backoff.failed()).await;
        }
    };
    let (connection, welcome) = tokio::time::timeout_at(until.into(), joined).await.ok()?;
    bridge.set_head(welcome.epoch, welcome.node.id);
    // The head says so itself of the processes of single Works.
    let level = if options.kept_in.is_some() { log::Level::Debug } else { log::Level::Info };
    log::log!(level, "the head was started again, as number {}; it takes over the Works here", welcome.epoch);
    Some(HeadSession::new(options, bridge, &welcome, hello, connection))
}

/// Waits until the Works of this node have stopped gracefully, to continue elsewhere, and the values that the App needs
/// have been moved, but no longer than the grace period. A node that the head sends away leaves its Works the time that
/// the head gives them.
async fn hand_over(
    agent: &Agent,
    bridge: &Bridge,
    head: &Link,
    pursue: &mut Pursuit,
    grace: Duration,
    (leaving, lifetime): (&Leaving, &Lifetime),
) {
    match leaving {
        Leaving::Asked if !head.is_connected() => {
            log::warn!(
                "leaving the App while the head is out of reach: the Works and values here are lost with this node"
            );
            return;
        }
        Leaving::Asked => log::info!(
            "leaving the App: the Works here stop and continue elsewhere; a second signal ends this node at once"
        ),
        Leaving::SentAway(why) => log::info!(
            "leaving the App, because the head sends this node away ({}): the Works here stop and continue elsewhere",
            one_line(why)
        ),
        Leaving::Expiring => log::info!(
            "leaving the App, because the time of this node ends in {}: the Works here stop and continue elsewhere",
            write_duration(Duration::from_secs(lifetime.left().unwrap_or_default().as_secs()))
        ),
    }
    let begun = Instant::now();
    let patience = match leaving {
        Leaving::Asked => grace,
        Leaving::SentAway(_) | Leaving::Expiring => Duration::MAX,
    };
    head.control(&Control::Leave);
    tokio::select! {
        _ = &mut *pursue => return,
        () = agent.may_leave.notified() => {}
        () = tokio::time::sleep(patience) => {
            log::warn!("not all Works here have ended within {patience:?}; they are lost with this node");
            return;
        }
        () = lifetime.is_over(), if matches!(leaving, Leaving::Expiring) => {
            log::warn!("not all Works here have ended in the time of this node; they are lost with it");
            return;
        }
    }
    let since = match leaving {
        Leaving::Asked => begun,
        Leaving::SentAway(_) | Leaving::Expiring => Instant::now(),
    };
    let until = since + grace;
    hand_over_values(agent, bridge, head, pursue, until).await;
    // Answers to other nodes are acknowledged before this node ends.
    let links = bridge.accepted();
    let _ = timeout(FAREWELL, futures::future::join_all(links.iter().map(|link| link.drained()))).await;
}

/// Ends the sessions with all processes but the head, once they have acknowledged what was sent to them, but no later than
/// `until`. The head gets the dead letters of what they have not acknowledged.
async fn end_peers(agent: &Agent, bridge: &Bridge, head: &Link, until: Instant) {
    let peers = bridge.peers();
    let drained = futures::future::join_all(peers.iter().map(|link| link.drained()));
    let _ = timeout(until.saturating_duration_since(Instant::now()), drained).await;
    peers.iter().for_each(|link| link.end());
    let letters = agent.dead_letters();
    while let Some(Some((letters, omitted))) = letters.next().now_or_never() {
        head.control(&Control::DeadLetters { letters, omitted });
    }
}

/// Waits until this process is not the only one with a value that others refer to, but no longer than `until`.
async fn hand_over_values(agent: &Agent, bridge: &Bridge, head: &Link, pursue: &mut Pursuit, until: Instant) {
    let handed_over = async {
        // Unreachable nodes must not use up the time that the head needs.
        let half = until.saturating_duration_since(Instant::now()) / 2;
        let _ = timeout(half, release_peers(bridge)).await;
        head.control(&Control::HandedOver);
        agent.may_end.notified().await;
    };
    tokio::select! {
        _ = pursue => {}
        () = handed_over => {}
        () = tokio::time::sleep_until(until.into()) => {
            log::warn!("not all values here that the App refers to could be moved in time; they are lost with this process");
        }
    }
}

/// The task that keeps the session with the head.
type Pursuit = JoinHandle<Result<String, DialError>>;

/// The participation in an App, which begins with the first session with a head.
struct JoinedSession {
    runtime: Arc<Runtime>,
    bridge: Arc<Bridge>,
    listening: Vec<JoinHandle<()>>,
    session: HeadSession,
}

/// A session with a head, on its first connection.
struct HeadSession {
    head: Arc<Link>,
    endpoint: Endpoint,
    hello: Hello,
    connection: Connection,
    received: u64,
    /// The grace period of the head.
    grace: Duration,
    /// The silence after which a connection counts as broken.
    silence: Duration,
}

impl HeadSession {
    fn new(
        options: &NodeOptions,
        bridge: &Arc<Bridge>,
        welcome: &Welcome,
        hello: Hello,
        connection: Connection,
    ) -> Self {
        let settings = SessionSettings {
            heartbeat: Duration::from_millis(welcome.heartbeat_ms.max(1)),
            grace: Duration::from_millis(welcome.grace_ms.max(1)),
            ..options.bridge.settings
        };
        Self {
            head: Arc::new(Link::new(welcome.node.clone(), bridge, settings)),
            endpoint: options.join.clone(),
            hello: Hello {
                app: Some(welcome.app),
                fresh: false,
                epoch: welcome.epoch,
                head: welcome.node.id,
                ..hello
            },
            connection,
            received: welcome.received,
            grace: settings.grace,
            silence: settings.silence(),
        }
    }
}

/// The identity of this process towards others, as long as it has this address.
struct NodeIdentity {
    bridge: Arc<Bridge>,
    listeners: Vec<Listener>,
    hello: Hello,
    /// The local address from which the head was reached, if the listeners depend on it.
    address: Option<IpAddr>,
}

impl NodeIdentity {
    /// Starts to listen. Peers reach this process at `address` unless the options name other endpoints.
    async fn new(options: &NodeOptions, address: Option<IpAddr>) -> Result<Self, TransportError> {
        let bridge = Arc::new(Bridge::new(options.bridge.clone(), options.spawner.clone(), &ProcessServices));
        bridge.settle_here();
        let mut listeners = Vec::new();
        for endpoint in endpoints(options, address) {
            let BridgeOptions { security, limits, .. } = &options.bridge;
            listeners.push(Listener::bind(&endpoint, security.clone(), *limits).await?);
        }
        bridge.set_me(NodeCard {
            id: unique(),
            name: options.name.clone(),
            labels: options.labels.clone(),
            resources: options.resources,
            endpoints: listeners
                .iter()
                .map(|listener| told(options, &listener.endpoint(), address))
                .collect(),
            process: ProcessId::own(),
            ends_in_ms: None,
            drain_before_ms: 0,
        });
        let hello = bridge.hello(Role::Node, None, unique());
        Ok(Self { bridge, listeners, hello, address })
    }
}

/// Logs the reason that keeps a node from joining when it is new, and then once a minute.
struct Complaints {
    said: Option<(String, Instant)>,
}

impl Complaints {
    fn note(&mut self, level: log::Level, what: String) {
        let is_known = |(said, when): &(String, Instant)| *said == what && when.elapsed() < COMPLAIN_EVERY;
        if !self.said.as_ref().is_some_and(is_known) {
            log::log!(level, "{what}");
            self.said = Some((what, Instant::now()));
        }
    }
}

/// Joins the head as soon as it is there. Returns a reason if this process of a single Work is not needed, because the
/// head that has started it ended before it had joined.
async fn join(
    options: &NodeOptions,
    first: bool,
    backoff: &mut Backoff,
) -> Result<Result<JoinedSession, String>, NodeError> {
    let BridgeOptions { security, limits, .. } = &options.bridge;
    let is_near = matches!(options.join, Endpoint::Unix(_));
    let mut complaints = Complaints { said: None };
    // The endpoint to listen at is configured, or is the address from which the head will be reached.
    let mut identity = match is_near || options.listen.is_some() {
        true => Some(NodeIdentity::new(options, None).await?),
        false => None,
    };
    let mut waiting: Option<Instant> = None;
    let (identity, connection, welcome) = loop {
        let attempt = async {
            let Dialed { connection, local } = dial_from(&options.join, security, limits).await?;
            if identity.as_ref().is_none_or(|known| needs_address(options) && known.address != local) {
                identity = None;
                identity = Some(NodeIdentity::new(options, local.filter(|_| needs_address(options))).await?);
            }
            let NodeIdentity { bridge, hello, .. } = identity.as_ref().expect("made just now at the latest");
            let waited = waiting.map_or(Duration::ZERO, |since| since.elapsed());
            let waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
            let node = options.lifetime.on(hello.node.clone());
            bridge.greet_at(&options.join, connection, &Hello { waited_ms, node, ..hello.clone() }).await
        };
        let failure = match attempt.await {
            Ok((connection, welcome)) => match identity.take() {
                Some(identity) => break (identity, connection, welcome),
                None => unreachable!("the identity exists since the greeting"),
            },
            Err(failure) => failure,
        };
        let is_taken = matches!(failure, DialError::Taken(_));
        let mut longest = LONGEST_PAUSE;
        match failure {
            // The head existed before this process, and has ended. It may end during the handshake.
            DialError::Transport(error) if is_near && (error.is_refused_connection() || error.is_gone()) => {
                return Ok(Err(error.to_string()));
            }
            DialError::Transport(error) if is_near => return Err(error.into()),
            // The head of the same App that has been started again.
            DialError::Lost { why, .. } if is_near => return Ok(Err(why)),
            DialError::Transport(
                error @ (TransportError::Unprotected { .. } | TransportError::NoTokenBeyond { .. }),
            ) => return Err(error.into()),
            // The process at that address has not proved that it is the head, so that its refusal is not final.
            DialError::Transport(error @ TransportError::Refused { .. }) => {
                // A head that was restarted has another token, which will be in the file in a moment.
                if !security.may_change() {
                    longest = LONGEST_REFUSED_PAUSE;
                }
                complaints.note(log::Level::Warn, format!("{error}; trying again until the head is there"));
            }
            DialError::Transport(error) => {
                // After the loss of the head, a refused connection is expected.
                if first || !error.is_refused_connection() {
                    complaints
                        .note(log::Level::Info, format!("{error}; trying again until the head is there"));
                }
            }
            DialError::Refused(why) => return Err(NodeError::Refused { head: options.join.clone(), why }),
            DialError::Taken(why) => {
                let why = format!(
                    "{why}; nothing is heard from that one, and when it is lost this one takes its place"
                );
                complaints.note(log::Level::Warn, why);
            }
            // A session that has not begun cannot be lost: the head was restarted between two attempts.
            DialError::Lost { why, .. } => log::debug!("{why}"),
            DialError::Outdated(why) => complaints.note(log::Level::Warn, why),
            DialError::NotUnderstood(why) => {
                let why = format!("{} cannot be joined: {why}; trying again", options.join);
                complaints.note(log::Level::Warn, why);
            }
        }
        waiting = waiting.filter(|_| is_taken).or_else(|| is_taken.then(Instant::now));
        tokio::time::sleep(backoff.failed_within(longest)).await;
    };
    let NodeIdentity { bridge, listeners, hello, .. } = identity;
    let arguments = Arguments::default();
    if let Some(args) = welcome.args.clone() {
        arguments.set(args);
    }
    let runtime = Arc::new_cyclic(|runtime| {
        let store = Store::new(options.budget.clone(), runtime.clone());
        let runtime = Runtime::new(welcome.app).with(Arc::new(Directory::default())).with(store);
        let runtime =
            runtime.with(Arc::new(LinesForHead::default())).with(Arc::new(MessageCounts::default()));
        let runtime = runtime.with(Arc::new(arguments));
        let dead_letters = Arc::<DeadLetters>::default();
        // For the head.
        dead_letters.want();
        let runtime = runtime.with(dead_letters);
        let runtime = runtime.with(Arc::new(AskCycles::default())).with(Arc::new(Topics::default()));
        #[cfg(feature = "drive")]
        let runtime = runtime.with(Drives::at(DrivesOfHead(Arc::downgrade(&bridge))));
        runtime
    });
    bridge.set_runtime(runtime.clone());
    let listening = listeners.into_iter().map(|listener| spawn_local(bridge.clone().listen(listener)));
    let listening = listening.collect();
    bridge.set_head(welcome.epoch, welcome.node.id);
    bridge.set_join(options.join.clone());
    let session = HeadSession::new(options, &bridge, &welcome, hello, connection);
    Ok(Ok(JoinedSession { runtime, bridge, listening, session }))
}

/// Returns `true` if others reach this process at the address from which it reaches the head.
fn needs_address(options: &NodeOptions) -> bool {
    let any = |endpoint: &Endpoint| is_any(endpoint).is_some();
    let is_any = match &options.listen {
        Some(endpoint) => any(endpoint) && options.advertise.is_none(),
        None => true,
    };
    matches!(options.join, Endpoint::Tcp(_)) && is_any
}

/// Returns the endpoints to listen at.
fn endpoints(options: &NodeOptions, address: Option<IpAddr>) -> Vec<Endpoint> {
    match &options.join {
        // This process runs on the head's machine, and other processes there reach it like the head.
        Endpoint::Unix(head) => {
            let mut endpoints = vec![Endpoint::Unix(head.with_file_name(format!("{}.sock", options.name)))];
            endpoints.extend(options.listen.clone());
            endpoints
        }
        Endpoint::Tcp(_) => {
            let any_port = |address| Endpoint::Tcp(SocketAddr::new(address, 0).to_string());
            options.listen.clone().or_else(|| address.map(any_port)).into_iter().collect()
        }
    }
}

/// Returns the port if an endpoint is the unspecified address.
fn is_any(endpoint: &Endpoint) -> Option<u16> {
    let Endpoint::Tcp(address) = endpoint else { return None };
    let address: SocketAddr = address.parse().ok()?;
    address.ip().is_unspecified().then(|| address.port())
}

/// Returns the endpoint that is announced for a listener at `endpoint`.
fn told(options: &NodeOptions, endpoint: &Endpoint, address: Option<IpAddr>) -> Endpoint {
    match &options.advertise {
        Some(advertised) => advertised.of(endpoint),
        None => reachable(endpoint, address),
    }
}

/// Returns the endpoint at which others reach a listener at `endpoint`: they cannot dial the unspecified address.
fn reachable(endpoint: &Endpoint, address: Option<IpAddr>) -> Endpoint {
    match (is_any(endpoint), address) {
        (Some(port), Some(address)) => Endpoint::Tcp(SocketAddr::new(address, port).to_string()),
        _ => endpoint.clone(),
    }
}
