//! What the head does with its drives for other processes.
//!
//! # Guarantees
//! - A name is checked before anything is looked for by it.
//! - A process that is silent for too long is not waited for, and what it was putting is not kept.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::mpsc;

use super::super::bridge::{Bridge, DialError};
use super::protocol::{Action, DriveRequest, Part, parts, response};
use crate::drive::{Given, Store, StoreError, Supply, check_name, home};
use crate::transport::{Connection, FrameReader, FrameWriter};
use crate::wire::{self, Frame};

/// A connection on which nothing comes for so long is closed.
const IDLE: Duration = Duration::from_secs(60);

impl Bridge {
    /// Does one thing with a drive for another process.
    pub(in crate::remote) async fn serve_drive(
        self: &Arc<Self>,
        connection: Connection,
    ) -> Result<(), DialError> {
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
    let frame = response(part).map_err(|error| DialError::NotUnderstood(error.to_string()))?;
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
            Ok(Given { file, from, to, version, body }) => {
                say(writer, &Part::Here { file, from, to, version }).await?;
                let mut parts = parts(body);
                while let Some(part) = parts.next().await {
                    say(writer, &part).await?;
                }
                Ok(())
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
