//! What is fuzzed: everything that reads what a peer has sent, and what it is read for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::task::spawn_local;

use super::agent::{Agent, Kinds, NodeOptions};
use super::bridge::{Bridge, BridgeOptions, Site, Spawner};
use super::drives::{DriveRequest, Part};
use super::head::{Head, HeadOptions};
use super::inbox::Inbox;
use super::link::{Inbound, Link};
use super::process::ProcessCommand;
use super::protocol::{Control, Hello, NodeCard, Packet, Program, Refusal, Role, Welcome};
use super::pulls::{PullRequest, PullResponse, ask};
use super::session::{Session, SessionSettings, TooLarge};
use crate::error::Result;
use crate::id::{ActorPath, AppId, WorkId};
use crate::payload::{Holds, Outline, Payload, SMALL, Want, collect};
use crate::state::{Patch, Value};
use crate::transport::{Connection, Endpoint, Limits, Security};
use crate::wire::{self, Frame};
use crate::work::{
    Abort, Doorbell, Handle, Ingredients, Messages, Outbox, Placement, Resources, Router, Task, Work,
    WorkContext, WorkKind, find_address, forget_addresses, remember_address, set_router,
};

/// Frames, and a session that takes them.
pub fn frames(data: &[u8]) {
    let settings = SessionSettings::default();
    let mut session = Session::new(settings, Duration::ZERO);
    session.connect(0, Duration::ZERO).expect("it is new");
    let mut rest = data;
    while let Ok(Some((frame, length))) = Frame::first(rest, settings.max_frame) {
        rest = &rest[length..];
        let Ok(body) = session.receive(frame, Duration::ZERO) else { return };
        while session.transmit(Duration::ZERO).is_some() {}
        if let Some(body) = body {
            let _ = Packet::read(body);
        }
    }
}

/// Every message that a peer can send, and the greeting.
pub fn messages(data: &[u8]) {
    let _ = Packet::read(data);
    let mut control = vec![0];
    control.extend_from_slice(data);
    let _ = Packet::read(&control);
    let _ = wire::decode::<Hello>(data);
    let _ = wire::decode::<Welcome>(data);
    let _ = wire::decode::<Refusal>(data);
    let _ = wire::decode::<DriveRequest>(data);
    let _ = wire::decode::<Part>(data);
    let _ = wire::decode::<PullRequest>(data);
    if let Ok(PullResponse::Here { length, hash, chunks, .. }) = wire::decode::<PullResponse>(data) {
        let _ = Outline::verified(length, hash.0, &chunks);
    }
}

/// Bytes, taken apart.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// A small number mostly, and any number now and then.
    fn number(&mut self) -> Option<u64> {
        let first = self.byte()?;
        if first < 240 {
            return Some(first.into());
        }
        let (wide, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*wide))
    }

    /// Up to the length that two bytes say.
    fn part(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk()?;
        let (part, rest) = rest.split_at(usize::from(u16::from_be_bytes(*length)).min(rest.len()));
        self.0 = rest;
        Some(part)
    }
}

/// A session: its connections come and go, time passes, and its peer says whatever it likes.
pub fn session(data: &[u8]) {
    let mut script = Script(data);
    let mut now = Duration::ZERO;
    let settings =
        SessionSettings { max_unacknowledged: 4096, max_frame: 2048, ..SessionSettings::default() };
    let mut session = Session::new(settings, now);
    let (mut pushed, mut arrived, mut broken) = (0_u64, 0_u64, false);
    while let Some(what) = script.byte() {
        match what % 8 {
            0 => {
                let Some(length) = script.byte() else { break };
                let message = vec![what; usize::from(length) * 16];
                let taken: Result<(), TooLarge> = session.push(|out| {
                    out.extend_from_slice(&message);
                    Ok(())
                });
                pushed += u64::from(taken.is_ok());
            }
            1 => {
                let Some(received) = script.number() else { break };
                broken |= session.connect(received, now).is_err();
            }
            2 => session.disconnect(now),
            3 => {
                let is_connected = session.is_connected();
                let mut sent = BytesMut::new();
                while let Some(bytes) = session.transmit(now) {
                    sent.extend_from_slice(&bytes);
                }
                assert!(sent.is_empty() || is_connected, "nothing is said without a connection");
                let mut rest = &sent[..];
                while let Some((frame, length)) = Frame::first(rest, usize::MAX).expect("it says frames") {
                    match frame {
                        Frame::Data { seq, .. } => assert!(seq <= pushed),
                        Frame::Ack { received } => assert!(received <= arrived),
                        _ => panic!("a session says nothing else"),
                    }
                    rest = &rest[length..];
                }
                assert!(rest.is_empty(), "it says whole frames");
            }
            4 => {
                let Some(millis) = script.number() else { break };
                now += Duration::from_millis(millis % 20_000);
                let _ = session.on_time(now);
            }
            kind => {
                let Some(number) = script.number() else { break };
                let frame = match kind {
                    5 => Frame::Data { seq: number, body: b"" },
                    6 => Frame::Ack { received: number },
                    // Rarely, since it ends everything.
                    _ if number == 0 => Frame::Bye(b""),
                    _ if number == 1 => Frame::Hello(b""),
                    _ => Frame::Data { seq: arrived + 1, body: b"" },
                };
                let acknowledged = matches!(frame, Frame::Ack { received } if received == pushed);
                match session.receive(frame, now) {
                    Ok(Some(_)) => arrived += 1,
                    Ok(None) if acknowledged => assert_eq!(session.unacknowledged(), 0),
                    Ok(None) => {}
                    Err(_) => broken = true,
                }
            }
        }
        assert_eq!(session.received(), arrived, "each number once, and none left out");
        assert!(session.next_deadline().is_some() != session.is_lost());
        if broken {
            // The connection is closed, and no other is made.
            return;
        }
    }
}

/// The state that a peer says a Work has, and the changes of it.
pub fn states(data: &[u8]) {
    let mut script = Script(data);
    let Some(first) = script.part() else { return };
    let mut value = wire::decode::<Value>(first).unwrap_or_default();
    let before = value.clone();
    let mut folded: Option<Patch> = None;
    let mut fits = true;
    while let Some(part) = script.part() {
        let Ok(patch) = wire::decode::<Patch>(part) else { continue };
        let bytes = wire::encode(&patch).expect("it was read from such bytes");
        assert!(wire::decode::<Patch>(&bytes).is_ok_and(|again| again == patch));
        let _ = patch.touches();
        match &mut folded {
            Some(folded) => folded.then(patch.clone()),
            none => *none = Some(patch.clone()),
        }
        fits &= value.apply(patch).is_ok();
        well_formed(&value);
    }
    if let Some(folded) = folded {
        let mut at_once = before;
        let fitted = at_once.apply(folded).is_ok();
        well_formed(&at_once);
        // What does not fit may fit when it is folded, or the other way round; what fits both ways comes to the same.
        if fits && fitted {
            assert_eq!(at_once, value);
        }
    }
}

fn well_formed(value: &Value) {
    let bytes = wire::encode(value).expect("every value can be written");
    let again: Value = wire::decode(&bytes).expect("and read");
    assert_eq!(again, *value);
    let _ = value.to_json();
    let _ = value.encoded_len();
    let _ = value.get("a.0.b");
    let _ = value.decode::<Lab>();
    let _ = value.decode::<BTreeMap<i8, Option<Vec<f32>>>>();
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Lab {
    numbers: Vec<u32>,
    note: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Add(u32);

#[derive(Serialize, Deserialize)]
struct Sum;

impl Work for Lab {
    type Input = Vec<u32>;

    async fn run(&mut self, numbers: Vec<u32>, cx: &mut WorkContext<Self>) -> Result<()> {
        self.numbers.extend(numbers);
        cx.publish(self);
        cx.turn(self).await?;
        self.note = Some("done".to_owned());
        Ok(())
    }

    fn messages(messages: &mut Messages<Self>) {
        messages.accept::<Add>().accept::<Sum>();
    }
}

impl Handle<Add> for Lab {
    type Reply = ();

    async fn handle(&mut self, Add(number): Add, cx: &mut WorkContext<Self>) {
        self.numbers.push(number);
        cx.publish(self);
    }
}

impl Handle<Sum> for Lab {
    type Reply = u64;

    async fn handle(&mut self, _: Sum, _: &mut WorkContext<Self>) -> u64 {
        self.numbers.iter().map(|number| u64::from(*number)).sum()
    }
}

fn card(id: u64, name: &str) -> NodeCard {
    let resources = Resources::cpus(4);
    NodeCard { id, name: name.to_owned(), labels: BTreeMap::new(), resources, endpoints: Vec::new() }
}

/// Of local tasks of the thread that this is called on.
fn spawner() -> Spawner {
    let (send, mut tasks) = mpsc::unbounded_channel::<Task>();
    spawn_local(async move {
        while let Some(task) = tasks.recv().await {
            spawn_local(task());
        }
    });
    // When the thread has ended all is over.
    Arc::new(move |task| drop(send.send(task)))
}

fn options() -> BridgeOptions {
    let program = Program { name: "lab".to_owned(), version: "1".to_owned(), works: BTreeMap::new() };
    let settings = SessionSettings::default();
    let limits = Limits { max_frame: settings.max_frame, ..Limits::default() };
    BridgeOptions { program, security: Security::default(), limits, settings }
}

/// Takes out what would reach beyond this process, or is slow and not looked at here.
fn tame(packet: &mut Packet<'_>) {
    let Packet::Control(control) = packet else { return };
    match &mut **control {
        Control::Launch { pooled, .. } => *pooled = true,
        Control::Located { place: Ok(card), .. } => card.endpoints.clear(),
        Control::Keep { length, .. } => *length = (*length).min(SMALL),
        Control::There { sources, .. } => sources.iter_mut().for_each(|source| source.endpoints.clear()),
        Control::Carries { payloads } => {
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

/// Everything that a node can say to its head, on which a Work of that node, `a`, and one of the head's own, `b`, are
/// known. To be called within an actix System.
pub async fn node_says(data: &[u8]) {
    let app = AppId::next();
    let nothing = ProcessCommand {
        program: Arc::new(|| Err(std::io::Error::other("nothing is started here"))),
        arguments: Vec::new(),
    };
    let doorbell: Arc<Doorbell> = Arc::default();
    let head =
        Head::new(app, HeadOptions { bridge: options(), process: nothing }, doorbell.clone(), spawner());
    let link = Arc::new(Link::new(card(7, "n"), &head.bridge, SessionSettings::default()));
    head.joined(&link, Role::Node);
    let kind = WorkKind::of::<Lab>();
    let outbox = Arc::new(Outbox::new(WorkId(1), doorbell));
    let what = Ingredients {
        kind,
        app,
        path: ActorPath::from("a"),
        state: Value::of(&Lab::default()).expect("it is a state"),
        holds: Holds::default(),
        max_state_bytes: 1 << 20,
        mailbox: kind.mailbox(8),
        outbox: outbox.clone(),
        abort: Arc::new(Abort::default()),
    };
    let mailbox = what.mailbox.clone();
    mailbox.open();
    let any = "n".parse::<Placement>().expect("it is a placement");
    assert!(head.launch(&any, Resources::default(), what).is_ok(), "there is a node for it");
    let own = kind.mailbox(8);
    own.open();
    remember_address(app, &ActorPath::from("b"), &own);
    let mut inbox = Inbox::new(head.bridge.clone(), link.clone());
    let mut value = Value::of(&Lab::default()).expect("it is a state");
    let mut script = Script(data);
    while let Some(part) = script.part() {
        let Ok(mut packet) = Packet::read(part) else { break };
        tame(&mut packet);
        if inbox.packet(packet).is_err() {
            break;
        }
        if let Some(patch) = outbox.take().patch {
            let _ = value.apply(patch);
        }
        let _ = (head.take_events(), head.status());
        tokio::task::yield_now().await;
    }
    head.lost(&link, Role::Node, "its peer broke the protocol");
    assert!(head.status().is_empty());
    link.end();
    head.end("it is over").await;
    own.close(crate::work::Closed::Stopped);
    forget_addresses(app, None);
    settle().await;
}

/// Everything that a head can say to its node. To be called within an actix System.
pub async fn head_says(data: &[u8]) {
    let app = AppId::next();
    let kind = WorkKind::of::<Lab>();
    let options = NodeOptions {
        bridge: options(),
        spawner: spawner(),
        kinds: Kinds::from([("Lab", kind)]),
        join: Endpoint::Tcp("127.0.0.1:1".to_owned()),
        name: "n".to_owned(),
        labels: BTreeMap::new(),
        resources: Resources::default(),
        listen: None,
        pool: 1,
    };
    let bridge = Arc::new(Bridge::new(options.bridge.clone(), options.spawner.clone()));
    bridge.set_app(app);
    bridge.set_me(card(7, "n"));
    let link = Arc::new(Link::new(card(1, "head"), &bridge, SessionSettings::default()));
    let agent = Arc::new(Agent::new(&options, bridge.clone(), link.clone()));
    let site: Arc<dyn Site> = agent.clone();
    bridge.set_site(Arc::downgrade(&site));
    let router: Arc<dyn Router> = agent.clone();
    set_router(app, Some(Arc::downgrade(&router)));
    let news = tokio::spawn(agent.clone().send_news());
    let mut inbox = Inbox::new(bridge.clone(), link.clone());
    let mut script = Script(data);
    while let Some(part) = script.part() {
        let Ok(mut packet) = Packet::read(part) else { break };
        tame(&mut packet);
        if inbox.packet(packet).is_err() {
            break;
        }
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
    }
    settle().await;
    let _ = find_address(app, &ActorPath::from("a")).map(|mailbox| mailbox.depth());
    agent.end();
    link.end();
    news.abort();
    bridge.end();
    set_router(app, None);
    forget_addresses(app, None);
    settle().await;
}

/// Both ends of a connection on which values are pulled. To be called within an actix System.
pub async fn pulls(data: &[u8]) {
    let app = AppId::next();
    let path = ActorPath::from("a");
    let value = Payload::new(vec![(1_u32, "one".to_owned())], app, &path).expect("it can travel");
    let (_, holds) = collect(|| wire::encode(&value));
    let id = holds.iter().next().expect("it refers to the value").id();
    let bridge = Arc::new(Bridge::new(options(), spawner()));
    bridge.set_app(app);
    bridge.set_me(card(7, "n"));
    let (mut peer, here) = tokio::net::UnixStream::pair().expect("the system has sockets");
    let mut connection = Connection::over(here, &options().limits);
    let mut said = BytesMut::new();
    let mut script = Script(data);
    let is_owner = script.byte().is_some_and(|first| first % 2 == 0);
    while let Some(part) = script.part() {
        match wire::decode::<PullRequest>(part) {
            Ok(mut request) => {
                request.id = id;
                let request = wire::encode(&request).expect("it was read from such bytes");
                Frame::Request(&request).put(&mut said);
            }
            Err(_) if wire::decode::<PullResponse>(part).is_ok() => {
                Frame::Response(part).put(&mut said);
            }
            Err(_) => said.extend_from_slice(part),
        }
    }
    let talk = async {
        let _ = peer.write_all(&said).await;
        let _ = peer.shutdown().await;
        let _ = tokio::io::copy(&mut peer, &mut tokio::io::sink()).await;
    };
    let answer = async {
        if is_owner {
            let _ = bridge.serve_pulls(connection).await;
        } else {
            let want = Want { id, hash: value.content_hash(), length: 9, type_name: "", what: String::new() };
            while ask(&mut connection, &want, 0, true).await.is_ok() {}
        }
    };
    futures::future::join(talk, answer).await;
    drop((value, holds));
    settle().await;
}

/// Lets everything that was begun end.
async fn settle() {
    for _ in 0..32 {
        tokio::task::yield_now().await;
    }
}
