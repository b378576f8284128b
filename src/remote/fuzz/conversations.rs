//! Whole conversations in which one side sends arbitrary input.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_local};

use super::super::agent::{Agent, Kinds};
use super::super::bridge::{Bridge, BridgeOptions, PeerHandler, Spawner};
use super::super::drives::{DriveRequest, Part, hear, serve_drive};
use super::super::head::{Head, HeadOptions};
use super::super::inbox::Inbox;
use super::super::lifetime::Lifetime;
use super::super::link::{Inbound, Link};
use super::super::process::ProcessCommand;
use super::super::protocol::{Control, Location, NodeCard, Packet, Program, Role};
use super::super::services::ProcessServices;
use super::super::session::SessionSettings;
use super::super::transfers::{PullRequest, PullResponse, ask, serve_pulls};
use super::{Lab, Script};
use crate::drive::{Drives, LocalHome};
use crate::id::{ActorPath, AppId, WorkId};
use crate::payload::{Payload, PayloadGuards, SMALL, Store, Want, collect};
use crate::runtime::{self, Entered, Runtime};
use crate::state::Value;
use crate::transport::{Connection, Limits, PendingHandshakes, Security};
use crate::wire::{self, Frame};
use crate::work::{
    Abort, Directory, FencingToken, Gpus, LaunchSpec, Outbox, Placement, ReadyQueue, Resources, Router, Task,
    WorkType,
};

fn card(id: u64, name: &str) -> NodeCard {
    let resources = Resources::cpus(4);
    NodeCard {
        id,
        name: name.to_owned(),
        labels: BTreeMap::new(),
        resources,
        endpoints: Vec::new(),
        process: None,
        ends_in_ms: None,
        drain_before_ms: 0,
    }
}

/// Returns a spawner of local tasks on the calling thread.
fn spawner() -> Spawner {
    let (send, mut tasks) = mpsc::unbounded_channel::<Task>();
    spawn_local(async move {
        while let Some(task) = tasks.recv().await {
            spawn_local(task());
        }
    });
    // Sending fails once the thread has ended, and with it everything else.
    Arc::new(move |task| drop(send.send(task)))
}

fn nothing() -> ProcessCommand {
    ProcessCommand {
        program: Arc::new(|| Err(std::io::Error::other("nothing is started here"))),
        arguments: Vec::new(),
    }
}

/// Returns the runtime of a new App, with the parts that `complete` adds.
fn new_runtime(complete: impl FnOnce(Runtime) -> Runtime) -> Arc<Runtime> {
    Arc::new_cyclic(|runtime| {
        let store = Store::new(Arc::default(), runtime.clone());
        complete(Runtime::new(AppId::next()).with(Arc::new(Directory::default())).with(store))
    })
}

fn options() -> BridgeOptions {
    let program = Program { name: "lab".to_owned(), version: "1".to_owned(), works: BTreeMap::new() };
    let settings = SessionSettings::default();
    let limits = Limits { max_frame: settings.max_frame, ..Limits::default() };
    BridgeOptions { program, security: Security::default(), limits, settings, epoch: 0 }
}

/// Removes parts that would reach beyond this process, or that are slow and not under test.
fn tame(packet: &mut Packet<'_>) {
    let Packet::Control(control) = packet else { return };
    match &mut **control {
        Control::Launch { pooled, .. } => *pooled = true,
        Control::Located { location: Location::At { node, .. }, .. } => node.endpoints.clear(),
        Control::Keep { length, .. } => *length = (*length).min(SMALL),
        Control::There { sources, .. } => sources.iter_mut().for_each(|source| source.endpoints.clear()),
        Control::Carries { payloads, .. } => {
            for carried in payloads {
                carried.owner.endpoints.clear();
                carried.copies.iter_mut().for_each(|source| source.endpoints.clear());
                if let Some(replicas) = &mut carried.replicas {
                    replicas.length = replicas.length.min(SMALL);
                }
            }
        }
        _ => {}
    }
}

/// Processes arbitrary packets until one is rejected, and calls `look` after each.
async fn take_in(inbox: &mut Inbox, data: &[u8], mut look: impl FnMut()) {
    let mut script = Script(data);
    while let Some(part) = script.part() {
        let Ok(mut packet) = Packet::read(part) else { break };
        tame(&mut packet);
        if inbox.packet(packet).is_err() {
            break;
        }
        look();
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
    }
}

/// Plays a peer that sends `said` and reads everything, until `answer` is done with the connection.
async fn talk(said: &[u8], answer: impl AsyncFnOnce(Connection)) {
    let (mut peer, here) = tokio::net::UnixStream::pair().expect("the system has sockets");
    let connection = Connection::over(here, &options().limits);
    let talk = async {
        let _ = peer.write_all(said).await;
        let _ = peer.shutdown().await;
        let _ = tokio::io::copy(&mut peer, &mut tokio::io::sink()).await;
    };
    futures::future::join(talk, answer(connection)).await;
}

/// Runs arbitrary control messages of a node to its head, which knows a Work of that node, `a`, and a local one, `b`.
/// Must be called within an actix System.
pub async fn node_says(data: &[u8]) {
    let runtime = new_runtime(|runtime| runtime);
    let _entered = runtime::enter(runtime.clone());
    let directory = Directory::of(&runtime);
    let ready_queue: Arc<ReadyQueue> = Arc::default();
    let options = HeadOptions { bridge: options(), process: nothing(), home: None };
    let head = Head::new(runtime, options, ready_queue.clone(), spawner());
    let link = Arc::new(Link::new(card(7, "n"), head.bridge(), SessionSettings::default()));
    head.joined(&link, Role::Node);
    let kind = WorkType::of::<Lab>();
    let outbox = Arc::new(Outbox::new(WorkId(1), ready_queue));
    let what = LaunchSpec {
        kind,
        path: ActorPath::from("a"),
        state: Value::of(&Lab::default()).expect("a state"),
        holds: PayloadGuards::default(),
        max_state_bytes: 1 << 20,
        mailbox: kind.mailbox(8),
        outbox: outbox.clone(),
        abort: Arc::new(Abort::default()),
        gpus: Gpus::default(),
        token: FencingToken::default(),
    };
    let mailbox = what.mailbox.clone();
    mailbox.open();
    let any = "n".parse::<Placement>().expect("a placement");
    assert!(head.launch(&any, Resources::default(), None, what).is_ok(), "the node can host it");
    let own = kind.mailbox(8);
    own.open();
    directory.remember(&ActorPath::from("b"), &own);
    let mut inbox = Inbox::new(head.bridge().clone(), link.clone());
    let mut value = Value::of(&Lab::default()).expect("a state");
    take_in(&mut inbox, data, || {
        if let Some(patch) = outbox.take().patch {
            let _ = value.apply(patch);
        }
        let _ = (head.take_events(), head.status());
    })
    .await;
    head.lost(&link, Role::Node, "the peer violated the protocol");
    assert!(head.status().is_empty());
    link.end();
    head.end("it is over").await;
    own.close(crate::work::CloseReason::Stopped);
    directory.end();
    settle().await;
}

/// A node, and its session with its head.
struct Hosting {
    directory: Arc<Directory>,
    _entered: Entered,
    bridge: Arc<Bridge>,
    agent: Arc<Agent>,
    head: Arc<Link>,
    update: JoinHandle<()>,
}

impl Hosting {
    fn new() -> Self {
        let runtime = new_runtime(|runtime| runtime);
        let directory = Directory::of(&runtime);
        let entered = runtime::enter(runtime.clone());
        let bridge = Arc::new(Bridge::new(options(), spawner(), &ProcessServices));
        bridge.set_runtime(runtime.clone());
        bridge.set_me(card(7, "n"));
        let head = Arc::new(Link::new(card(1, "head"), &bridge, SessionSettings::default()));
        let kinds = Kinds::from([("Lab", WorkType::of::<Lab>())]);
        let lifetime = Arc::new(Lifetime::new(std::time::Instant::now(), None, None));
        let agent = Agent::new(runtime, kinds, (1, lifetime), false, bridge.clone(), head.clone());
        let peer_handler: Arc<dyn PeerHandler> = agent.clone();
        bridge.set_peer_handler(Arc::downgrade(&peer_handler));
        let router: Arc<dyn Router> = agent.clone();
        directory.set_router(Arc::downgrade(&router));
        let update = spawn_local(agent.clone().send_updates());
        Self { directory, _entered: entered, bridge, agent, head, update }
    }

    async fn end(self) {
        self.agent.end();
        self.head.end();
        self.update.abort();
        self.bridge.end();
        self.directory.end();
        settle().await;
    }
}

/// Runs arbitrary messages of a head to its node. Must be called within an actix System.
pub async fn head_says(data: &[u8]) {
    let node = Hosting::new();
    let mut inbox = Inbox::new(node.bridge.clone(), node.head.clone());
    take_in(&mut inbox, data, || {}).await;
    settle().await;
    let _ = node.directory.find(&ActorPath::from("a")).map(|mailbox| mailbox.depth());
    node.end().await;
}

/// Runs arbitrary messages of a node to another, which hosts a Work, `a`. Must be called within an actix System.
pub async fn peer_says(data: &[u8]) {
    let node = Hosting::new();
    let launch = Control::Launch {
        incarnation: 1,
        path: ActorPath::from("a"),
        work: "Lab".to_owned(),
        pooled: true,
        state: Value::of(&Lab::default()).expect("a state"),
        max_state_bytes: 1 << 20,
        mailbox: 8,
        gpus: Vec::new(),
        token: FencingToken::default(),
    };
    let mut head = Inbox::new(node.bridge.clone(), node.head.clone());
    assert!(head.packet(Packet::Control(Box::new(launch))).is_ok(), "a head may send it");
    settle().await;
    let peer = Arc::new(Link::new(card(9, "m"), &node.bridge, SessionSettings::default()));
    let mut inbox = Inbox::new(node.bridge.clone(), peer.clone());
    take_in(&mut inbox, data, || {}).await;
    settle().await;
    let is_there = node.directory.find(&ActorPath::from("a")).is_some();
    assert!(is_there, "no message of a peer ends a Work");
    peer.end();
    node.end().await;
}

/// Runs arbitrary bytes on a connection after the handshake: the greeting, and the session, the pulls or the drive that
/// it is for. Must be called within an actix System.
pub async fn greeting(data: &[u8]) {
    let runtime = new_runtime(|runtime| runtime);
    let _entered = runtime::enter(runtime.clone());
    let ready_queue: Arc<ReadyQueue> = Arc::default();
    let options_of_head = HeadOptions { bridge: options(), process: nothing(), home: None };
    let head = Head::new(runtime.clone(), options_of_head, ready_queue, spawner());
    settle().await;
    let (mut peer, here) = tokio::net::UnixStream::pair().expect("the system has sockets");
    let connection = Connection::over(here, &options().limits);
    let _ = peer.write_all(&data[..data.len().min(1 << 15)]).await;
    let _ = peer.shutdown().await;
    let bridge = head.bridge().clone();
    let mut begun = PendingHandshakes::new(1);
    begun.begin(|turn| spawn_local(bridge.take_in(connection, turn)).abort_handle());
    settle().await;
    // The peer does not acknowledge the end.
    head.bridge().accepted().iter().for_each(|link| link.end());
    head.end("it is over").await;
    drop(peer);
    Directory::of(&runtime).end();
    settle().await;
}

/// Runs both ends of a connection on which values are pulled. Must be called within an actix System.
pub async fn pulls(data: &[u8]) {
    let runtime = new_runtime(|runtime| runtime);
    let _entered = runtime::enter(runtime.clone());
    let path = ActorPath::from("a");
    let value = Payload::new(vec![(1_u32, "one".to_owned())], &Store::of(&runtime), &path)
        .expect("the value can be encoded");
    let (_, holds) = collect(|| wire::encode(&value));
    let id = holds.iter().next().expect("it refers to the value").id();
    let bridge = Arc::new(Bridge::new(options(), spawner(), &ProcessServices));
    bridge.set_runtime(runtime);
    bridge.set_me(card(7, "n"));
    let mut said = BytesMut::new();
    let mut script = Script(data);
    let is_owner = script.byte().is_some_and(|first| first % 2 == 0);
    while let Some(part) = script.part() {
        match wire::decode::<PullRequest>(part) {
            Ok(mut request) => {
                request.id = id;
                let request = wire::encode(&request).expect("a decoded request can be encoded");
                Frame::Request(&request).put(&mut said);
            }
            Err(_) if wire::decode::<PullResponse>(part).is_ok() => {
                Frame::Response(part).put(&mut said);
            }
            Err(_) => said.extend_from_slice(part),
        }
    }
    talk(&said, async |mut connection| {
        if is_owner {
            let _ = serve_pulls(bridge, connection).await;
        } else {
            let want = Want { id, hash: value.content_hash(), length: 9, type_name: "", what: String::new() };
            while ask(&mut connection, &want, 0, true).await.is_ok() {}
        }
    })
    .await;
    drop((value, holds));
    settle().await;
}

/// Runs both ends of a connection on which a drive is used. Must be called within an actix System.
pub async fn drives(data: &[u8]) {
    let outside = std::env::temp_dir().join(format!("flowright-fuzz-{}", std::process::id()));
    let inside = outside.join("drives");
    std::fs::create_dir_all(&inside).expect("there is a place for temporary files");
    let runtime = new_runtime(|runtime| runtime.with(Drives::at(LocalHome(inside))));
    let _entered = runtime::enter(runtime.clone());
    let mut script = Script(data);
    let asked = script.byte().unwrap_or_default();
    let is_head = asked < 128;
    let mut said = BytesMut::new();
    while let Some(part) = script.part() {
        let is_one = wire::decode::<DriveRequest>(part).is_ok() || wire::decode::<Part>(part).is_ok();
        match (is_one, is_head) {
            (true, true) => Frame::Request(part).put(&mut said),
            (true, false) => Frame::Response(part).put(&mut said),
            (false, _) => said.extend_from_slice(part),
        }
    }
    talk(&said, async |connection| {
        if is_head {
            let _ = serve_drive(Some(runtime.clone()), connection).await;
        } else {
            hear(connection, asked).await;
        }
    })
    .await;
    let there = std::fs::read_dir(&outside).expect("the directory is ours").count();
    assert_eq!(there, 1, "nothing is written outside the drive");
    std::fs::remove_dir_all(&outside).expect("the directory is ours");
}

/// Runs the pending tasks.
async fn settle() {
    for _ in 0..32 {
        tokio::task::yield_now().await;
    }
}
