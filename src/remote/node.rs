//! How a process takes part in an App as a node: it finds the head, hosts Works for it, and waits for it where it is lost.

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_local};

use super::agent::{Agent, Kinds};
use super::bridge::{Bridge, BridgeOptions, DialError, Site, Spawner};
use super::drives::DrivesOfHead;
use super::link::Link;
use super::logs::send_logs;
use super::process_id::ProcessId;
use super::protocol::{Hello, NodeCard, Role};
use super::session::SessionSettings;
use crate::drive::register;
use crate::id::unique;
use crate::payload;
use crate::transport::{Endpoint, Listener, TransportError};
use crate::work::marks::mark_runs;
use crate::work::{Resources, Router, forget_addresses, set_router};

/// The longest wait before a head that is not there is dialed again.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How a process takes part in an App as a node.
pub(crate) struct NodeOptions {
    pub(crate) bridge: BridgeOptions,
    /// Where it lives.
    pub(crate) spawner: Spawner,
    pub(crate) kinds: Kinds,
    /// Where the head is.
    pub(crate) join: Endpoint,
    pub(crate) name: String,
    pub(crate) labels: std::collections::BTreeMap<String, String>,
    pub(crate) resources: Resources,
    /// Where other nodes reach this one; by default at the address from which it reaches the head.
    pub(crate) listen: Option<Endpoint>,
    /// Threads that pooled Works share.
    pub(crate) pool: usize,
}

/// A process could not take part as a node.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error("the head at {head} does not take this node: {why}")]
    Refused { head: Endpoint, why: String },
}

/// Why a node is done.
pub(crate) enum Farewell {
    /// The head has said that the App is over, or that this node is not needed any more.
    Over(String),
    /// It was asked to leave.
    Left,
}

/// Hosts Works until the App is over or `leave` is notified. Where the head is lost, it is waited for, and joined
/// anew.
pub(crate) async fn run_node(options: NodeOptions, leave: &Notify) -> Result<Farewell, NodeError> {
    let is_process = matches!(options.join, Endpoint::Unix(_));
    if is_process {
        mark_runs();
    }
    let mut first = true;
    loop {
        let session = tokio::select! {
            session = join(&options, std::mem::take(&mut first)) => session?,
            () = leave.notified() => return Ok(Farewell::Left),
        };
        let Session { bridge, head, endpoint, hello, connection, received, listening } = session;
        let agent = Agent::new(options.kinds.clone(), options.pool, is_process, bridge.clone(), head.clone());
        let site: Arc<dyn Site> = agent.clone();
        bridge.set_site(Arc::downgrade(&site));
        let router: Arc<dyn Router> = agent.clone();
        set_router(bridge.app(), Some(Arc::downgrade(&router)));
        let drives = register(bridge.app(), Arc::new(DrivesOfHead(Arc::downgrade(&bridge))));
        let news = spawn_local(agent.clone().send_news());
        let logs = spawn_local(send_logs(head.clone()));
        let vitals = spawn_local(agent.clone().send_vitals());
        let pursue = bridge.clone().pursue(head.clone(), vec![endpoint], hello, Some((connection, received)));
        let mut pursue = spawn_local(pursue);
        let (why, left) = tokio::select! {
            why = &mut pursue => (why.unwrap_or_else(|error| error.to_string()), false),
            () = leave.notified() => {
                head.leave("it was asked to leave");
                // The head may be out of reach.
                let _ = tokio::time::timeout(Duration::from_secs(1), &mut pursue).await;
                (String::new(), true)
            }
        };
        pursue.abort();
        news.abort();
        logs.abort();
        vitals.abort();
        agent.end();
        bridge.end();
        payload::discard_all();
        // At the same address, perhaps, the next session listens.
        futures::future::join_all(listening).await;
        set_router(bridge.app(), None);
        drop(drives);
        forget_addresses(bridge.app());
        if left {
            return Ok(Farewell::Left);
        }
        if let Some(why) = agent.why_over() {
            return Ok(Farewell::Over(why));
        }
        if is_process {
            return Ok(Farewell::Over(why));
        }
        log::warn!(
            "the head is lost ({why}): its Works here have been ended; waiting for a head at {}",
            options.join
        );
    }
}

struct Session {
    bridge: Arc<Bridge>,
    head: Arc<Link>,
    endpoint: Endpoint,
    hello: Hello,
    connection: crate::transport::Connection,
    received: u64,
    listening: Vec<JoinHandle<()>>,
}

/// Joins the head as soon as it is there.
async fn join(options: &NodeOptions, first: bool) -> Result<Session, NodeError> {
    let bridge = Arc::new(Bridge::new(options.bridge.clone(), options.spawner.clone()));
    bridge.settle_here();
    let mut listeners = Vec::new();
    for endpoint in endpoints(options) {
        let options = &options.bridge;
        listeners.push(Listener::bind(&endpoint, options.security.clone(), options.limits).await?);
    }
    bridge.set_me(NodeCard {
        id: unique(),
        name: options.name.clone(),
        labels: options.labels.clone(),
        resources: options.resources,
        endpoints: listeners.iter().map(Listener::endpoint).collect(),
        process: ProcessId::own(),
    });
    let hello = bridge.hello(Role::Node, None, unique());
    let join = std::slice::from_ref(&options.join);
    let mut pause = Duration::from_millis(20);
    let mut said = String::new();
    let (connection, welcome) = loop {
        match bridge.call(join, &hello).await {
            Ok(called) => break called,
            Err(DialError::Transport(error @ TransportError::NoTokenBeyond { .. })) => {
                return Err(error.into());
            }
            // A head that has just been started again may have a token that was not read yet.
            Err(DialError::Transport(error @ TransportError::Refused { .. }))
                if !options.bridge.security.may_change() =>
            {
                return Err(error.into());
            }
            // The head was there before this process, and is gone.
            Err(DialError::Transport(error)) if matches!(options.join, Endpoint::Unix(_)) => {
                return Err(error.into());
            }
            Err(DialError::Transport(error)) => {
                // Each reason once: the first is often only that the head is not there yet.
                let text = error.to_string();
                if said != text && (first || !error.is_refused_connection()) {
                    log::info!("{text}; trying again until the head is there");
                    said = text;
                }
            }
            Err(DialError::Refused(why)) => {
                return Err(NodeError::Refused { head: options.join.clone(), why });
            }
            // A session that has not begun cannot be lost; the head is another one than a moment ago.
            Err(DialError::Lost(why) | DialError::NotUnderstood(why)) => log::debug!("{why}"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    };
    bridge.set_app(welcome.app);
    let listening = listeners.into_iter().map(|listener| spawn_local(bridge.clone().listen(listener)));
    let listening = listening.collect();
    let settings = SessionSettings {
        heartbeat: Duration::from_millis(welcome.heartbeat_ms.max(1)),
        grace: Duration::from_millis(welcome.grace_ms.max(1)),
        ..options.bridge.settings
    };
    let head = Arc::new(Link::new(welcome.node, &bridge, settings));
    bridge.set_join(options.join.clone());
    let hello = Hello { app: Some(welcome.app), fresh: false, ..hello };
    let endpoint = options.join.clone();
    Ok(Session { bridge, head, endpoint, hello, connection, received: welcome.received, listening })
}

/// Where others reach this process.
fn endpoints(options: &NodeOptions) -> Vec<Endpoint> {
    match &options.join {
        // A process of the head's machine, which others there reach as it reaches the head.
        Endpoint::Unix(head) => {
            let mut endpoints = vec![Endpoint::Unix(head.with_file_name(format!("{}.sock", options.name)))];
            endpoints.extend(options.listen.clone());
            endpoints
        }
        Endpoint::Tcp(_) => {
            options.listen.clone().or_else(|| reachable_from(&options.join)).into_iter().collect()
        }
    }
}

/// An address of this machine that the machine of `head` can reach, as far as that can be told from here.
fn reachable_from(head: &Endpoint) -> Option<Endpoint> {
    let Endpoint::Tcp(address) = head else { return None };
    // Connecting such a socket sends nothing; it only chooses the address that would be sent from.
    let socket = UdpSocket::bind("[::]:0").or_else(|_| UdpSocket::bind("0.0.0.0:0")).ok()?;
    let socket = match socket.connect(address) {
        Ok(()) => socket,
        Err(_) => {
            let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
            socket.connect(address).ok()?;
            socket
        }
    };
    let ip = socket.local_addr().ok()?.ip().to_canonical();
    Some(Endpoint::Tcp(std::net::SocketAddr::new(ip, 0).to_string()))
}
