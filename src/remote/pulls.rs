//! Values that this process pulls, and those that others pull from it.
//!
//! # Guarantees
//! - Values go over connections of their own, so that no message waits behind them, and straight from a process that has
//!   them.
//! - What breaks is resumed from where it was, at the same source or another; a source that has not got the value, or sends
//!   something else, is asked no more.
//! - A pull that nobody waits for any more ends.
//! - Few large values are served at once, the others in the order in which they were asked for.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::Semaphore;

use super::bridge::{Bridge, DialError};
use super::protocol::Role;
use super::references::Source;
use crate::payload::{self, Chunks, FetchError, Hex, Kept, Opened, Outline, PayloadId, SMALL, Waited, Want};
use crate::transport::{Connection, TransportError};
use crate::wire::{self, Frame};

/// So many large values are served at once.
const SERVED_AT_ONCE: usize = 4;

/// A connection on which nothing is asked for so long is closed.
const IDLE: Duration = Duration::from_secs(60);

/// Connections that are kept for the next small value, to each process.
const KEPT: usize = 4;

/// The waits between attempts at a source.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What a puller asks for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PullRequest {
    pub(super) id: PayloadId,
    /// The type as which it will be read; empty for whoever only keeps the bytes.
    type_name: String,
    /// What has arrived already, in bytes.
    from: u64,
    /// Whether the hashes of the chunks are wanted.
    outline: bool,
}

/// What it is told.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum PullResponse {
    /// The bytes from there on follow, in no frame.
    Here {
        length: u64,
        hash: Hex<32>,
        type_name: String,
        chunks: Bytes,
    },
    WrongType {
        stored: String,
    },
    /// It is not here.
    Gone,
    /// What is here cannot be given.
    Broken {
        why: String,
    },
}

/// Connections on which nothing is under way.
#[derive(Default)]
pub(super) struct Idle(Mutex<HashMap<u64, Vec<Connection>>>);

impl Idle {
    fn take(&self, process: u64) -> Option<Connection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&process)?.pop()
    }

    fn put(&self, process: u64, connection: Connection) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let connections = idle.entry(process).or_default();
        if connections.len() < KEPT {
            connections.push(connection);
        }
    }

    pub(super) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Why a source did not give the value.
pub(super) enum NotGiven {
    /// It may yet.
    Unreachable(String),
    /// It will not.
    HasItNot(String),
    /// Nobody will.
    Never(FetchError),
}

impl From<TransportError> for NotGiven {
    fn from(error: TransportError) -> Self {
        Self::Unreachable(error.to_string())
    }
}

impl From<DialError> for NotGiven {
    fn from(error: DialError) -> Self {
        match error {
            DialError::Transport(error) => error.into(),
            error => Self::HasItNot(error.to_string()),
        }
    }
}

async fn dial(bridge: &Bridge, source: &Source) -> Result<Connection, NotGiven> {
    let endpoints = bridge.endpoints_of(source);
    let hello = bridge.hello(Role::Puller, Some(bridge.app()), crate::id::unique());
    Ok(bridge.call(&endpoints, &hello).await?.0)
}

/// Asks for the bytes from `from` on.
pub(super) async fn ask(
    connection: &mut Connection,
    want: &Want,
    from: u64,
    outline: bool,
) -> Result<(Outline, String), NotGiven> {
    let request = PullRequest { id: want.id, type_name: want.type_name.to_owned(), from, outline };
    let body = wire::encode(&request).map_err(|error| NotGiven::HasItNot(error.to_string()))?;
    connection.write_frame(&Frame::Request(&body)).await?;
    let response = match connection.read_frame().await? {
        Some(Frame::Response(body)) => {
            wire::decode(body).map_err(|error| NotGiven::HasItNot(error.to_string()))?
        }
        Some(_) => return Err(NotGiven::HasItNot("it did not answer what it was asked".to_owned())),
        None => return Err(NotGiven::Unreachable("it closed the connection".to_owned())),
    };
    match response {
        PullResponse::Here { length, hash, type_name, chunks } => {
            if length != want.length || hash.0 != want.hash {
                return Err(NotGiven::HasItNot("it has another value by this number".to_owned()));
            }
            // Whoever has the outline already does not ask for it again.
            if !outline {
                return Ok((Outline::of(&[]), type_name));
            }
            let outline = Outline::verified(length, hash.0, &chunks).ok_or_else(|| {
                NotGiven::HasItNot("the hashes that it sent are not those of the value".to_owned())
            })?;
            Ok((outline, type_name))
        }
        PullResponse::WrongType { stored } => Err(NotGiven::Never(FetchError::WrongType(stored))),
        PullResponse::Gone => Err(NotGiven::HasItNot("it has it no more".to_owned())),
        PullResponse::Broken { why } => Err(NotGiven::HasItNot(why)),
    }
}

/// Those who may have a value, and what became of asking them.
struct Sources {
    bridge: Arc<Bridge>,
    want: PayloadId,
    left: Vec<Source>,
    asked: HashSet<u64>,
    failures: Vec<String>,
    /// How many could not be reached since all were tried.
    tried: usize,
    last: Instant,
    pause: Duration,
}

impl Sources {
    fn new(bridge: Arc<Bridge>, sources: Vec<Source>, want: PayloadId) -> Self {
        let asked = sources.iter().map(|source| source.id).collect();
        Self {
            bridge,
            want,
            left: sources,
            asked,
            failures: Vec::new(),
            tried: 0,
            last: Instant::now(),
            pause: FIRST_PAUSE,
        }
    }

    fn first(&self) -> Option<Source> {
        self.left.first().cloned()
    }

    /// Something has come.
    fn progress(&mut self) {
        self.last = Instant::now();
        self.pause = FIRST_PAUSE;
    }

    /// The first of them has not given it: makes another the first, after a while if all were tried.
    async fn failed(&mut self, why: NotGiven) -> Result<(), FetchError> {
        if self.left.is_empty() {
            return self.ask_the_head().await;
        }
        let source = self.left.remove(0);
        match why {
            NotGiven::Never(error) => return Err(error),
            NotGiven::HasItNot(why) => self.failures.push(format!("node `{}`: {why}", source.name)),
            NotGiven::Unreachable(why) if self.last.elapsed() >= self.bridge.settings().grace => {
                self.failures.push(format!("node `{}`: {why}", source.name));
            }
            // It may only be the connection.
            NotGiven::Unreachable(_) => {
                self.left.push(source);
                self.tried += 1;
                if self.tried >= self.left.len() {
                    self.tried = 0;
                    self.drop_lost().await;
                    tokio::time::sleep(self.pause).await;
                    self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
        if self.left.is_empty() { self.ask_the_head().await } else { Ok(()) }
    }

    /// The head may know that those who cannot be reached are gone for good.
    async fn drop_lost(&mut self) {
        if let Some(answer) = self.bridge.whereabouts(self.want).await {
            self.left.retain(|source| answer.sources.iter().any(|known| known.id == source.id));
        }
    }

    /// Others may have it of whom this process does not know.
    async fn ask_the_head(&mut self) -> Result<(), FetchError> {
        let answer = self.bridge.whereabouts(self.want).await;
        let (sources, lost) = answer.map_or((Vec::new(), None), |answer| (answer.sources, answer.lost));
        let me = self.bridge.me().id;
        self.left
            .extend(sources.into_iter().filter(|source| source.id != me && self.asked.insert(source.id)));
        if !self.left.is_empty() {
            return Ok(());
        }
        let failures = self.failures.join("; ");
        Err(FetchError::Lost(match (lost, failures.is_empty()) {
            (Some(lost), true) => lost,
            (Some(lost), false) => format!("{lost} ({failures})"),
            (None, false) => format!("nobody who had it could give it: {failures}"),
            (None, true) => "nobody is known to have it".to_owned(),
        }))
    }
}

/// All of a small value, without a thread of its own.
pub(super) async fn small(
    bridge: Arc<Bridge>,
    sources: Vec<Source>,
    want: Want,
) -> Result<(Bytes, String), FetchError> {
    let home = bridge.clone();
    let pull = async move {
        let mut sources = Sources::new(bridge.clone(), sources, want.id);
        loop {
            let Some(source) = sources.first() else {
                sources.ask_the_head().await?;
                continue;
            };
            match small_from(&bridge, &source, &want).await {
                Ok(got) => return Ok(got),
                Err(why) => sources.failed(why).await?,
            }
        }
    };
    // Connections live on the thread of the bridge. Whoever is on it already does without another turn of it.
    if home.is_home() {
        return pull.await;
    }
    let (mut send, receive) = tokio::sync::oneshot::channel();
    home.spawn(move || async move {
        tokio::select! {
            pulled = pull => drop(send.send(pulled)),
            () = send.closed() => {}
        }
    });
    receive.await.unwrap_or(Err(FetchError::Cancelled))
}

async fn small_from(bridge: &Bridge, source: &Source, want: &Want) -> Result<(Bytes, String), NotGiven> {
    loop {
        let kept = bridge.idle().take(source.id);
        let was_kept = kept.is_some();
        let mut connection = match kept {
            Some(connection) => connection,
            None => dial(bridge, source).await?,
        };
        let pulled = async {
            let (_, type_name) = ask(&mut connection, want, 0, true).await?;
            let mut bytes = vec![0; want.length.min(SMALL) as usize];
            connection.read_bytes(&mut bytes).await?;
            if Outline::of(&bytes).hash() != want.hash {
                return Err(NotGiven::HasItNot("it has sent other bytes than were put in".to_owned()));
            }
            Ok((Bytes::from(bytes), type_name))
        };
        match pulled.await {
            Ok(pulled) => {
                bridge.idle().put(source.id, connection);
                return Ok(pulled);
            }
            // It was closed there meanwhile.
            Err(NotGiven::Unreachable(_)) if was_kept => {}
            Err(why) => return Err(why),
        }
    }
}

/// Begins to pull a large value. All of it is done on the calling thread, and blocks.
pub(super) fn open(
    bridge: Arc<Bridge>,
    sources: Vec<Source>,
    want: &Want,
    waited: Waited,
) -> Result<Opened, FetchError> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| FetchError::Lost(format!("no runtime could be made to pull it: {error}")))?;
    let mut sources = Sources::new(bridge.clone(), sources, want.id);
    let mut waited = waited;
    let (connection, source, outline, type_name) = until_given_up(&runtime, &mut waited, async {
        loop {
            let Some(source) = sources.first() else {
                sources.ask_the_head().await?;
                continue;
            };
            let opened = async {
                let mut connection = dial(&bridge, &source).await?;
                let (outline, type_name) = ask(&mut connection, want, 0, true).await?;
                Ok((connection, outline, type_name))
            };
            match opened.await {
                Ok((connection, outline, type_name)) => return Ok((connection, source, outline, type_name)),
                Err(why) => sources.failed(why).await?,
            }
        }
    })?;
    sources.progress();
    let current = Some(Current { connection, source: source.id, at: 0 });
    let chunks = Box::new(Pull { runtime, sources, want: want.clone(), waited, current });
    Ok(Opened { outline, type_name, chunks })
}

/// A large value on its way here.
struct Pull {
    /// First, since it ends what is below.
    current: Option<Current>,
    runtime: Runtime,
    sources: Sources,
    want: Want,
    waited: Waited,
}

struct Current {
    connection: Connection,
    source: u64,
    /// Where the next byte is from.
    at: u64,
}

impl Chunks for Pull {
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<u64, FetchError> {
        let Self { current, runtime, sources, want, waited } = self;
        until_given_up(runtime, waited, async {
            loop {
                let Some(source) = sources.first() else {
                    sources.ask_the_head().await?;
                    continue;
                };
                let read = async {
                    let mut open = match current.take() {
                        Some(open) if open.at == offset && open.source == source.id => open,
                        _ => {
                            let mut connection = dial(&sources.bridge, &source).await?;
                            ask(&mut connection, want, offset, false).await?;
                            Current { connection, source: source.id, at: offset }
                        }
                    };
                    open.connection.read_bytes(buffer).await?;
                    open.at += buffer.len() as u64;
                    Ok(open)
                };
                match read.await {
                    Ok(open) => {
                        sources.progress();
                        *current = Some(open);
                        return Ok(source.id);
                    }
                    Err(why) => {
                        if let NotGiven::Unreachable(why) = &why {
                            log::debug!("the pull of {} broke at {offset}: {why}", want.what);
                        }
                        sources.failed(why).await?;
                    }
                }
            }
        })
    }

    fn distrust(&mut self, source: u64) -> Result<(), FetchError> {
        self.current = None;
        let sources = &mut self.sources;
        let Some(at) = sources.left.iter().position(|left| left.id == source) else { return Ok(()) };
        let source = sources.left.remove(at);
        log::warn!(
            "node `{}` has sent other bytes than those of {}; it is asked for it no more",
            source.name,
            self.want.what
        );
        sources.failures.push(format!("node `{}` has sent other bytes than were put in", source.name));
        if !sources.left.is_empty() {
            return Ok(());
        }
        let asked = until_given_up(&self.runtime, &mut self.waited, sources.ask_the_head());
        asked.map_err(|error| match error {
            FetchError::Lost(why) => FetchError::Corrupt(why),
            error => error,
        })
    }
}

fn until_given_up<T>(
    runtime: &Runtime,
    waited: &mut Waited,
    what: impl Future<Output = Result<T, FetchError>>,
) -> Result<T, FetchError> {
    runtime.block_on(async {
        tokio::select! {
            biased;
            done = what => done,
            // Nothing is ever sent: it is closed when nobody waits any more.
            _ = waited.changed() => Err(FetchError::Cancelled),
        }
    })
}

impl Bridge {
    /// Gives values to another process for as long as it asks for some.
    pub(super) async fn serve_pulls(self: &Arc<Self>, mut connection: Connection) -> Result<(), DialError> {
        static SERVED: Semaphore = Semaphore::const_new(SERVED_AT_ONCE);
        loop {
            let Ok(request) = tokio::time::timeout(IDLE, connection.read_frame()).await else {
                return Ok(());
            };
            let request: PullRequest = match request? {
                Some(Frame::Request(body)) => {
                    wire::decode(body).map_err(|error| DialError::NotUnderstood(error.to_string()))?
                }
                Some(_) => return Err(DialError::NotUnderstood("it asked for nothing".to_owned())),
                None => return Ok(()),
            };
            let kept = payload::entry_of(request.id).and_then(|entry| entry.kept());
            let response = respond(&request, kept.as_ref());
            let given = matches!(response, PullResponse::Here { .. });
            let body =
                wire::encode(&response).map_err(|error| DialError::NotUnderstood(error.to_string()))?;
            let mut out = BytesMut::new();
            Frame::Response(&body).put(&mut out);
            let kept = kept.filter(|_| given);
            let left = kept.as_ref().map_or(0, |kept| kept.outline.length() - request.from);
            let small = kept.as_ref().and_then(Kept::at_hand).filter(|_| left <= SMALL);
            if let Some(bytes) = small {
                out.extend_from_slice(&bytes[bytes.len() - left as usize..]);
            }
            let done = kept.is_none() || small.is_some();
            connection.write_bytes(&out).await?;
            let Some(kept) = kept.filter(|_| !done) else { continue };
            let _turn = if left > SMALL { SERVED.acquire().await.ok() } else { None };
            let runtime = Handle::current();
            let patience = self.settings().grace;
            // This may be dropped while the thread waits for a peer that takes nothing.
            let cutter = connection.cutter()?;
            let written = tokio::task::spawn_blocking(move || {
                let write = |out: &mut dyn io::Write| kept.write_from(request.from, out);
                let (connection, written) = connection.write_blocking(&runtime, patience, write)?;
                written.map_err(|error| DialError::NotUnderstood(error.to_string()))?;
                Ok::<_, DialError>(connection)
            });
            // A panic in a user's `Serialize` ends the connection; the other side asks somebody else.
            connection = written.await.map_err(|error| DialError::NotUnderstood(error.to_string()))??;
            if let Some(cutter) = cutter {
                cutter.spare();
            }
        }
    }
}

fn respond(request: &PullRequest, kept: Option<&Kept>) -> PullResponse {
    let Some(kept) = kept else { return PullResponse::Gone };
    let outline = &kept.outline;
    if !request.type_name.is_empty() && *request.type_name != *kept.type_name {
        return PullResponse::WrongType { stored: kept.type_name.as_ref().to_owned() };
    }
    if request.from > outline.length() {
        let why = format!("it was asked for byte {} of {}", request.from, outline.length());
        return PullResponse::Broken { why };
    }
    let chunks = if request.outline { Bytes::copy_from_slice(outline.chunk_hashes()) } else { Bytes::new() };
    PullResponse::Here {
        length: outline.length(),
        hash: Hex(outline.hash()),
        type_name: kept.type_name.as_ref().to_owned(),
        chunks,
    }
}
