//! Serving the head's drives to other processes.
//!
//! # Guarantees
//! - A drive's name is validated before the drive is looked up.
//! - A process that is silent for too long is disconnected, and a file that it was uploading is discarded.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join;
use futures::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::super::bridge::DialError;
use super::protocol::{Action, DriveRequest, Part, parts, response};
use crate::drive::{Drives, Given, Store, StoreError, Supply, check_name};
use crate::runtime::Runtime;
use crate::transport::{Connection, FrameReader, FrameWriter};
use crate::wire::{self, Frame};

/// Time after which a silent connection is closed.
const IDLE: Duration = Duration::from_secs(60);

/// Serves one request of another process for a drive of the App of `runtime`.
pub(in crate::remote) async fn serve_drive(
    runtime: Option<Arc<Runtime>>,
    connection: Connection,
) -> Result<(), DialError> {
    let (mut reader, mut writer) = connection.split();
    let Ok(request) = tokio::time::timeout(IDLE, reader.frame()).await else { return Ok(()) };
    let request: DriveRequest = match request? {
        Some(Frame::Request(body)) => {
            wire::decode(body).map_err(|error| DialError::NotUnderstood(error.to_string()))?
        }
        Some(_) => return Err(DialError::NotUnderstood("the peer sent no request".to_owned())),
        None => return Ok(()),
    };
    match open_drive(runtime.as_deref(), &request) {
        Ok(store) => serve(store, request.action, &mut reader, &mut writer).await,
        Err(error) => say(&mut writer, &Part::Failed(error)).await,
    }?;
    // The peer closes first, since a process that closes first may lose the last data that it has sent.
    while let Ok(Ok(Some(_))) = tokio::time::timeout(IDLE, reader.frame()).await {}
    Ok(())
}

fn open_drive(runtime: Option<&Runtime>, request: &DriveRequest) -> Result<Arc<dyn Store>, StoreError> {
    let (name, may_be_empty) = match &request.action {
        Action::Put { name, .. } | Action::Delete { name } | Action::Look { name } => (name, false),
        Action::Get(wanted) => (&wanted.name, false),
        Action::List { directory } => (directory, true),
    };
    check_name(name, may_be_empty).map_err(|why| StoreError::Failed(format!("`{name}`: {why}")))?;
    let home = runtime.and_then(Drives::of);
    home.ok_or_else(|| StoreError::Failed("the App is over".to_owned()))?.open(&request.drive)
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

/// Reads the file of a `put` to its end, even after the store has failed: the peer learns of the failure meanwhile.
async fn receive(reader: &mut FrameReader, pieces: mpsc::Sender<Result<Bytes, StoreError>>) {
    loop {
        let broken = |why: String| Err(StoreError::Unreachable(why));
        let (piece, is_last) = match tokio::time::timeout(IDLE, reader.frame()).await {
            Ok(Ok(Some(Frame::Request(body)))) => match wire::decode(body) {
                Ok(Part::Data(piece)) => (Ok(piece), false),
                Ok(Part::Done) => return,
                Ok(Part::Failed(error)) => (Err(error), true),
                Ok(_) => (broken("the peer sent no file".to_owned()), true),
                Err(error) => (broken(error.to_string()), true),
            },
            Ok(Ok(_)) => (broken("the peer closed the connection".to_owned()), true),
            Ok(Err(error)) => (broken(error.to_string()), true),
            Err(_) => (broken(format!("the peer was silent for {IDLE:?}")), true),
        };
        // The store may have stopped reading.
        let _ = pieces.send(piece).await;
        if is_last {
            return;
        }
    }
}

/// Returns a supply that can be read once, since data from a connection cannot be read again.
fn once(body: mpsc::Receiver<Result<Bytes, StoreError>>) -> Supply {
    let body = Mutex::new(Some(body));
    Arc::new(move || match body.lock().take() {
        Some(body) => stream::unfold(body, async |mut body| Some((body.recv().await?, body))).boxed(),
        None => stream::once(async { Err(StoreError::Failed("the upload cannot be read twice".to_owned())) })
            .boxed(),
    })
}
