//! Drives at the head, as other processes use them.
//!
//! # Guarantees
//! - Files go over connections of their own, in frames, one at a time: no message waits behind them.
//! - A connection that breaks is made again within the grace period. What was being read goes on where it was, if it is still the same
//!   file; what was being put is put from the beginning. What must not be done twice is not tried again once it was asked for.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::future::{BoxFuture, join};
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::bridge::{Bridge, DialError};
use super::protocol::Role;
use crate::drive::{
    Body, DriveFile, Given, Home, PIECE, Store, StoreError, Supply, Wanted, check_name, home,
};
use crate::transport::{Connection, FrameReader, FrameWriter, TransportError};
use crate::wire::{self, Frame};

/// A connection on which nothing comes for so long is closed.
const IDLE: Duration = Duration::from_secs(60);

/// The waits between attempts to reach the head.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What is wanted of a drive.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct DriveRequest {
    drive: String,
    action: Action,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Action {
    /// The file follows, as `data` and `done` or `failed`.
    Put {
        name: String,
        create: bool,
    },
    Get(Wanted),
    List {
        directory: String,
    },
    Delete {
        name: String,
    },
    Look {
        name: String,
    },
}

/// What follows a request, and what answers it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Part {
    /// Of the file, the next bytes.
    Data(Bytes),
    Files(Vec<DriveFile>),
    /// The file that follows, as `data` and `done` or `failed`.
    Here {
        file: DriveFile,
        from: u64,
        to: u64,
        version: Option<String>,
    },
    Found(Option<DriveFile>),
    Done,
    Failed(StoreError),
}

/// The drives of an App, in another process than the head.
pub(super) struct DrivesOfHead(pub(super) Weak<Bridge>);

impl Home for DrivesOfHead {
    fn open(&self, drive: &str) -> Result<Arc<dyn Store>, StoreError> {
        Ok(Arc::new(DriveOfHead { bridge: self.0.clone(), drive: drive.into() }))
    }
}

#[derive(Clone)]
struct DriveOfHead {
    bridge: Weak<Bridge>,
    drive: Arc<str>,
}

/// Why something was not done.
enum NotDone {
    /// The connection broke; it may be tried again.
    Broken(String),
    Failed(StoreError),
}

impl From<TransportError> for NotDone {
    fn from(error: TransportError) -> Self {
        Self::Broken(error.to_string())
    }
}

impl From<StoreError> for NotDone {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

fn not_understood(what: impl std::fmt::Display) -> StoreError {
    StoreError::Failed(format!("the head and this process do not understand each other: {what}"))
}

/// A frame that says this, as bytes.
fn framed<T: Serialize>(make: impl Fn(&[u8]) -> Frame<'_>, what: &T) -> Result<BytesMut, StoreError> {
    let body = wire::encode(what).map_err(not_understood)?;
    let mut out = BytesMut::new();
    make(&body).put(&mut out);
    Ok(out)
}

/// What the head says next.
async fn answer(reader: &mut FrameReader) -> Result<Part, NotDone> {
    match reader.frame().await? {
        Some(Frame::Response(body)) => match wire::decode(body).map_err(not_understood)? {
            Part::Failed(error) => Err(NotDone::Failed(error)),
            part => Ok(part),
        },
        Some(_) => Err(not_understood("it did not answer").into()),
        None => Err(NotDone::Broken("the head closed the connection".to_owned())),
    }
}

/// Since when something does not work, and how long to wait before it is tried again.
struct Patience {
    since: Instant,
    pause: Duration,
}

impl Patience {
    fn new() -> Self {
        Self { since: Instant::now(), pause: FIRST_PAUSE }
    }

    /// Waits, unless it has been too long.
    async fn wait(&mut self, grace: Duration, why: String) -> Result<(), StoreError> {
        if self.since.elapsed() >= grace {
            return Err(StoreError::Unreachable(format!("{why}; it was tried for {grace:?}")));
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}

impl DriveOfHead {
    fn bridge(&self) -> Result<Arc<Bridge>, StoreError> {
        let gone = || StoreError::Unreachable("this process takes no part in its App any more".to_owned());
        self.bridge.upgrade().ok_or_else(gone)
    }

    /// A connection on which this was asked for.
    async fn ask(&self, action: Action, patience: &mut Patience) -> Result<Connection, StoreError> {
        let bridge = self.bridge()?;
        let grace = bridge.settings().grace;
        let request = framed(
            |body| Frame::Request(body),
            &DriveRequest { drive: self.drive.as_ref().to_owned(), action },
        )?;
        loop {
            let endpoints: Vec<_> = bridge.head_endpoint().into_iter().collect();
            let hello = bridge.hello(Role::Drive, Some(bridge.app()), crate::id::unique());
            let asked = async {
                let (mut connection, _) = bridge.call(&endpoints, &hello).await?;
                connection.write_bytes(&request).await?;
                Ok::<_, DialError>(connection)
            };
            match asked.await {
                Ok(connection) => return Ok(connection),
                Err(DialError::Transport(error)) => patience.wait(grace, error.to_string()).await?,
                Err(error) => return Err(StoreError::Unreachable(error.to_string())),
            }
        }
    }

    /// Asks, and takes the first of the answer; again for as long as that breaks, where it may be done twice.
    async fn ask_for<T>(
        &self,
        action: Action,
        may_repeat: bool,
        mut take: impl FnMut(Connection) -> BoxFuture<'static, Result<T, NotDone>>,
    ) -> Result<T, StoreError> {
        let grace = self.bridge()?.settings().grace;
        let mut patience = Patience::new();
        loop {
            let connection = self.ask(action.clone(), &mut patience).await?;
            match take(connection).await {
                Ok(taken) => return Ok(taken),
                Err(NotDone::Failed(error)) => return Err(error),
                Err(NotDone::Broken(why)) if may_repeat => patience.wait(grace, why).await?,
                Err(NotDone::Broken(why)) => {
                    return Err(StoreError::Unreachable(format!("{why}; whether it was done is not known")));
                }
            }
        }
    }

    async fn open(&self, wanted: Wanted) -> Result<(Given, FrameReader, FrameWriter), StoreError> {
        self.ask_for(Action::Get(wanted), true, |connection| {
            async move {
                let (mut reader, writer) = connection.split();
                match answer(&mut reader).await? {
                    Part::Here { file, from, to, version } => {
                        let body = stream::empty().boxed();
                        Ok((Given { file, from, to, version, body }, reader, writer))
                    }
                    _ => Err(not_understood("it gave no file").into()),
                }
            }
            .boxed()
        })
        .await
    }
}

/// Sends a file, and hears meanwhile whether it is still wanted.
async fn send(connection: Connection, mut body: Body) -> Result<(), NotDone> {
    let (mut reader, mut writer) = connection.split();
    let sending = async {
        while let Some(piece) = body.next().await {
            let mut piece = match piece {
                Ok(piece) => piece,
                Err(error) => {
                    // What is there already is not to be kept.
                    writer.write(&framed(|body| Frame::Request(body), &Part::Failed(error.clone()))?).await?;
                    return Err(NotDone::Failed(error));
                }
            };
            while !piece.is_empty() {
                let now = piece.split_to(piece.len().min(PIECE));
                writer.write(&framed(|body| Frame::Request(body), &Part::Data(now))?).await?;
            }
        }
        writer.write(&framed(|body| Frame::Request(body), &Part::Done)?).await?;
        std::future::pending().await
    };
    let answered = answer(&mut reader);
    tokio::pin!(answered);
    tokio::select! {
        biased;
        answer = &mut answered => done(answer?),
        sent = sending => match sent {
            Ok(()) => unreachable!("it waits for the answer"),
            Err(NotDone::Failed(error)) => Err(NotDone::Failed(error)),
            // It may have said why before it closed.
            Err(broken) => match answered.await {
                Err(NotDone::Failed(error)) => Err(NotDone::Failed(error)),
                _ => Err(broken),
            }
        },
    }
}

fn done(part: Part) -> Result<(), NotDone> {
    match part {
        Part::Done => Ok(()),
        _ => Err(not_understood("it did not say that it was done").into()),
    }
}

impl Store for DriveOfHead {
    fn put(&self, name: String, supply: Supply, create: bool) -> BoxFuture<'static, Result<(), StoreError>> {
        let this = self.clone();
        async move {
            let put = Action::Put { name, create };
            this.ask_for(put, !create, |connection| send(connection, supply()).boxed()).await
        }
        .boxed()
    }

    fn get(&self, wanted: Wanted) -> BoxFuture<'static, Result<Given, StoreError>> {
        let this = self.clone();
        async move {
            let (given, reader, writer) = this.open(wanted).await?;
            let receiving = Receiving {
                name: given.file.name.clone(),
                at: given.from,
                to: given.to,
                version: given.version.clone(),
                drive: this,
                reader,
                _writer: writer,
            };
            let body = stream::try_unfold(receiving, Receiving::next).boxed();
            Ok(Given { body, ..given })
        }
        .boxed()
    }

    fn list(&self, directory: String) -> BoxStream<'static, Result<Vec<DriveFile>, StoreError>> {
        let this = self.clone();
        let listing = async move {
            // From the beginning where it breaks, so that nothing comes twice.
            this.ask_for(Action::List { directory }, true, |connection| {
                async move {
                    let (mut reader, _writer) = connection.split();
                    let mut all = Vec::new();
                    loop {
                        match answer(&mut reader).await? {
                            Part::Files(files) => all.extend(files),
                            part => return done(part).map(|()| all),
                        }
                    }
                }
                .boxed()
            })
            .await
        };
        stream::once(listing).boxed()
    }

    fn delete(&self, name: String) -> BoxFuture<'static, Result<(), StoreError>> {
        let this = self.clone();
        async move {
            this.ask_for(Action::Delete { name }, false, |connection| {
                async move { done(answer(&mut connection.split().0).await?) }.boxed()
            })
            .await
        }
        .boxed()
    }

    fn look(&self, name: String) -> BoxFuture<'static, Result<Option<DriveFile>, StoreError>> {
        let this = self.clone();
        async move {
            this.ask_for(Action::Look { name }, true, |connection| {
                async move {
                    match answer(&mut connection.split().0).await? {
                        Part::Found(found) => Ok(found),
                        _ => Err(not_understood("it did not say what it found").into()),
                    }
                }
                .boxed()
            })
            .await
        }
        .boxed()
    }
}

/// A file on its way here.
struct Receiving {
    drive: DriveOfHead,
    name: String,
    at: u64,
    to: u64,
    version: Option<String>,
    reader: FrameReader,
    /// The connection lives as long as both its ends.
    _writer: FrameWriter,
}

impl Receiving {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, StoreError> {
        loop {
            match answer(&mut self.reader).await {
                Ok(Part::Data(piece)) => {
                    self.at += piece.len() as u64;
                    if self.at > self.to {
                        return Err(not_understood("it sent more than there is"));
                    }
                    return Ok(Some((piece, self)));
                }
                Ok(Part::Done) if self.at == self.to => return Ok(None),
                Ok(_) => return Err(not_understood("it sent no file")),
                Err(NotDone::Failed(error)) => return Err(error),
                Err(NotDone::Broken(_)) if self.at == self.to => return Ok(None),
                Err(NotDone::Broken(why)) => {
                    log::debug!("what was read of drive `{}` broke at {}: {why}", self.drive.drive, self.at);
                    let wanted = Wanted {
                        name: self.name.clone(),
                        from: self.at,
                        to: Some(self.to),
                        version: self.version.clone(),
                    };
                    let (_, reader, writer) = self.drive.open(wanted).await?;
                    (self.reader, self._writer) = (reader, writer);
                }
            }
        }
    }
}

/// What a head answers, whatever was asked.
#[cfg(fuzzing)]
pub(super) async fn hear(connection: Connection, asked: u8) {
    if asked % 2 == 0 {
        let pieces = [Ok(Bytes::from_static(b"one")), Ok(Bytes::from_static(b"two"))];
        let _ = send(connection, stream::iter(pieces).boxed()).await;
        return;
    }
    let (mut reader, writer) = connection.split();
    let given = answer(&mut reader).await;
    let (from, to) = match given {
        Ok(Part::Here { from, to, .. }) => (from, to),
        Ok(_) => (0, u64::MAX),
        Err(_) => return,
    };
    let drive = DriveOfHead { bridge: Weak::new(), drive: "d".into() };
    let name = "a".to_owned();
    let receiving = Receiving { drive, name, at: from, to, version: None, reader, _writer: writer };
    let mut arrived = from;
    let mut pieces = Box::pin(stream::try_unfold(receiving, Receiving::next));
    while let Some(Ok(piece)) = pieces.next().await {
        arrived += piece.len() as u64;
        assert!(arrived <= to, "no more than there is");
    }
}

impl Bridge {
    /// Does one thing with a drive for another process.
    pub(super) async fn serve_drive(self: &Arc<Self>, connection: Connection) -> Result<(), DialError> {
        let (mut reader, mut writer) = connection.split();
        let Ok(request) = tokio::time::timeout(IDLE, reader.frame()).await else { return Ok(()) };
        let request: DriveRequest = match request? {
            Some(Frame::Request(body)) => {
                wire::decode(body).map_err(|error| DialError::NotUnderstood(error.to_string()))?
            }
            Some(_) => return Err(DialError::NotUnderstood("it asked for nothing".to_owned())),
            None => return Ok(()),
        };
        match self.open_drive(&request) {
            Ok(store) => serve(store, request.action, &mut reader, &mut writer).await,
            Err(error) => say(&mut writer, &Part::Failed(error)).await,
        }?;
        // Whoever closes first may take what was said last with it, so that is the other side.
        while let Ok(Ok(Some(_))) = tokio::time::timeout(IDLE, reader.frame()).await {}
        Ok(())
    }

    fn open_drive(&self, request: &DriveRequest) -> Result<Arc<dyn Store>, StoreError> {
        let (name, may_be_empty) = match &request.action {
            Action::Put { name, .. } | Action::Delete { name } | Action::Look { name } => (name, false),
            Action::Get(wanted) => (&wanted.name, false),
            Action::List { directory } => (directory, true),
        };
        check_name(name, may_be_empty).map_err(|why| StoreError::Failed(format!("`{name}`: {why}")))?;
        let home = home(self.app());
        home.ok_or_else(|| StoreError::Failed("the App is over".to_owned()))?.open(&request.drive)
    }
}

async fn say(writer: &mut FrameWriter, part: &Part) -> Result<(), DialError> {
    let frame = framed(|body| Frame::Response(body), part)
        .map_err(|error| DialError::NotUnderstood(error.to_string()))?;
    Ok(writer.write(&frame).await?)
}

async fn serve(
    store: Arc<dyn Store>,
    action: Action,
    reader: &mut FrameReader,
    writer: &mut FrameWriter,
) -> Result<(), DialError> {
    let ended = |result: Result<(), StoreError>| result.map_or_else(Part::Failed, |()| Part::Done);
    match action {
        Action::Put { name, create } => {
            let (pieces, body) = mpsc::channel(2);
            let (_, put) = join(receive(reader, pieces), async {
                let put = store.put(name, once(body), create).await;
                say(writer, &ended(put)).await
            })
            .await;
            put
        }
        Action::Get(wanted) => match store.get(wanted).await {
            Ok(Given { file, from, to, version, mut body }) => {
                say(writer, &Part::Here { file, from, to, version }).await?;
                let last = loop {
                    match body.next().await {
                        Some(Ok(mut piece)) => {
                            while !piece.is_empty() {
                                let now = piece.split_to(piece.len().min(PIECE));
                                say(writer, &Part::Data(now)).await?;
                            }
                        }
                        Some(Err(error)) => break Part::Failed(error),
                        None => break Part::Done,
                    }
                };
                say(writer, &last).await
            }
            Err(error) => say(writer, &Part::Failed(error)).await,
        },
        Action::List { directory } => {
            let mut found = store.list(directory);
            loop {
                match found.try_next().await {
                    Ok(Some(files)) => say(writer, &Part::Files(files)).await?,
                    Ok(None) => return say(writer, &Part::Done).await,
                    Err(error) => return say(writer, &Part::Failed(error)).await,
                }
            }
        }
        Action::Delete { name } => {
            let deleted = store.delete(name).await;
            say(writer, &ended(deleted)).await
        }
        Action::Look { name } => {
            let found = store.look(name).await.map_or_else(Part::Failed, Part::Found);
            say(writer, &found).await
        }
    }
}

/// Reads a file that is put, to its end even where it is not wanted any more: the other side hears of that meanwhile.
async fn receive(reader: &mut FrameReader, pieces: mpsc::Sender<Result<Bytes, StoreError>>) {
    loop {
        let broken = |why: String| Err(StoreError::Unreachable(why));
        let (piece, is_last) = match tokio::time::timeout(IDLE, reader.frame()).await {
            Ok(Ok(Some(Frame::Request(body)))) => match wire::decode(body) {
                Ok(Part::Data(piece)) => (Ok(piece), false),
                Ok(Part::Done) => return,
                Ok(Part::Failed(error)) => (Err(error), true),
                Ok(_) => (broken("it sent no file".to_owned()), true),
                Err(error) => (broken(error.to_string()), true),
            },
            Ok(Ok(_)) => (broken("it closed the connection".to_owned()), true),
            Ok(Err(error)) => (broken(error.to_string()), true),
            Err(_) => (broken(format!("nothing came for {IDLE:?}")), true),
        };
        // It may not be wanted any more.
        let _ = pieces.send(piece).await;
        if is_last {
            return;
        }
    }
}

/// What arrives cannot be had from the beginning again.
fn once(body: mpsc::Receiver<Result<Bytes, StoreError>>) -> Supply {
    let body = Mutex::new(Some(body));
    Arc::new(move || match body.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(body) => stream::unfold(body, async |mut body| Some((body.recv().await?, body))).boxed(),
        None => stream::once(async { Err(StoreError::Failed("it was read already".to_owned())) }).boxed(),
    })
}
