//! A drive of the head, as a `Store` in another process.
//!
//! # Guarantees
//! - Each operation has a connection of its own, which is dialed again after a break for as long as the grace period
//!   lasts.
//! - A read resumes at its offset, in the same version of the file. A put starts over, unless it must create a new
//!   file; such a put, and a deletion, are not repeated once they were requested.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};

use super::super::backoff::jitter;
use super::super::bridge::{Bridge, DialError};
use super::super::protocol::Role;
use super::protocol::{Action, DriveRequest, Part, not_understood, parts, request};
use crate::drive::{Body, DriveFile, Given, Home, Store, StoreError, Supply, Wanted};
use crate::transport::{Connection, FrameReader, FrameWriter, TransportError};
use crate::wire::{self, Frame};

/// Bounds of the wait between attempts to reach the head.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The drives of an App, in a process other than the head.
pub(in crate::remote) struct DrivesOfHead(pub(in crate::remote) Weak<Bridge>);

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

/// The reason why an operation was not done.
enum NotDone {
    /// The connection broke; the operation may be repeated.
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

/// Reads the next part of the head's answer.
async fn answer(reader: &mut FrameReader) -> Result<Part, NotDone> {
    match reader.frame().await? {
        Some(Frame::Response(body)) => match wire::decode(body).map_err(not_understood)? {
            Part::Failed(error) => Err(NotDone::Failed(error)),
            part => Ok(part),
        },
        Some(_) => Err(not_understood("the head sent no answer").into()),
        None => Err(NotDone::Broken("the head closed the connection".to_owned())),
    }
}

/// Back-off of an operation: the time since it fails, and the wait before the next attempt.
struct Patience {
    since: Instant,
    pause: Duration,
}

impl Patience {
    fn new() -> Self {
        Self { since: Instant::now(), pause: FIRST_PAUSE }
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] with the reason `why` when the grace period has passed.
    async fn wait(&mut self, grace: Duration, why: String) -> Result<(), StoreError> {
        if self.since.elapsed() >= grace {
            return Err(StoreError::Unreachable(format!("{why}; gave up after {grace:?}")));
        }
        tokio::time::sleep(jitter(self.pause)).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}

impl DriveOfHead {
    fn bridge(&self) -> Result<Arc<Bridge>, StoreError> {
        let gone = || StoreError::Unreachable("this process takes no part in its App any more".to_owned());
        self.bridge.upgrade().ok_or_else(gone)
    }

    /// Returns a connection on which the action has been requested.
    async fn ask(&self, action: Action, patience: &mut Patience) -> Result<Connection, StoreError> {
        let bridge = self.bridge()?;
        let grace = bridge.settings().grace;
        let request = request(&DriveRequest { drive: self.drive.as_ref().to_owned(), action })?;
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

    /// Requests an action and passes the connection to `take`. Repeats both after a break of the connection if
    /// `may_repeat`.
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
                    return Err(StoreError::Unreachable(format!(
                        "{why}; the operation may or may not have been done"
                    )));
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
                    _ => Err(not_understood("the head sent no file").into()),
                }
            }
            .boxed()
        })
        .await
    }
}

/// Sends a file, and watches meanwhile for an early answer of the head.
async fn send(connection: Connection, body: Body) -> Result<(), NotDone> {
    let (mut reader, mut writer) = connection.split();
    let sending = async {
        let mut parts = parts(body);
        while let Some(part) = parts.next().await {
            writer.write(&request(&part)?).await?;
            // The head was told of the failure, so that it discards the partial file.
            if let Part::Failed(error) = part {
                return Err(NotDone::Failed(error));
            }
        }
        std::future::pending().await
    };
    let answered = answer(&mut reader);
    tokio::pin!(answered);
    tokio::select! {
        biased;
        answer = &mut answered => done(answer?),
        sent = sending => match sent {
            Ok(()) => unreachable!("sending ends with an error only"),
            Err(NotDone::Failed(error)) => Err(NotDone::Failed(error)),
            // The head may have sent the reason before it closed the connection.
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
        _ => Err(not_understood("the head did not confirm the operation").into()),
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
            // Starts over after a break, so that no entry is listed twice.
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
                        _ => Err(not_understood("the head did not describe the file").into()),
                    }
                }
                .boxed()
            })
            .await
        }
        .boxed()
    }
}

/// A file that is being read.
struct Receiving {
    drive: DriveOfHead,
    name: String,
    at: u64,
    to: u64,
    version: Option<String>,
    reader: FrameReader,
    /// Kept, because the connection lives as long as both its halves.
    _writer: FrameWriter,
}

impl Receiving {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, StoreError> {
        loop {
            match answer(&mut self.reader).await {
                Ok(Part::Data(piece)) => {
                    self.at += piece.len() as u64;
                    if self.at > self.to {
                        return Err(not_understood("the head sent more bytes than requested"));
                    }
                    return Ok(Some((piece, self)));
                }
                Ok(Part::Done) if self.at == self.to => return Ok(None),
                Ok(_) => return Err(not_understood("the head sent no file")),
                Err(NotDone::Failed(error)) => return Err(error),
                Err(NotDone::Broken(_)) if self.at == self.to => return Ok(None),
                Err(NotDone::Broken(why)) => {
                    log::debug!("a read of drive `{}` broke at byte {}: {why}", self.drive.drive, self.at);
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

/// Handles arbitrary answers of a head, for fuzzing.
#[cfg(fuzzing)]
pub(in crate::remote) async fn hear(connection: Connection, asked: u8) {
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
