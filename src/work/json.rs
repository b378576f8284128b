//! Works reached with JSON, by people and programs without the Rust types: the JSON is decoded as the type of message
//! of a handler, and the handler's reply is encoded as JSON. Of a reply of type `Result` the content is encoded. The items
//! of a stream are encoded one by one, as they are.

use std::any::type_name;
use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use serde::de::DeserializeOwned;

use super::address::WorkAddr;
use super::ask::Ask;
use super::cycles::AskId;
use super::envelope::ServedBy;
use super::json_reply::JsonReply;
use super::mailbox::Mailbox;
use super::message::{AskError, Handle, ItemOf, Message, ReplyOf, ReplyValue, ReplyWithStatus, SendError};
use super::run::{Input, RunKey};
use super::stream_window::DEFAULT_STREAM_WINDOW;
use super::streamed_reply::StreamedReply;
use super::{Messages, Work};
use crate::fence::{self, Fenced};
use crate::id::{ActorPath, AppId};
use crate::state;
use crate::wire::{self, CodecError};

/// A future of a reply as JSON.
pub(crate) type JsonAnswer = BoxFuture<'static, JsonReplied>;

/// The outcome of an ask with JSON.
pub(crate) struct JsonReplied {
    pub(crate) answer: Result<JsonAnswered, Unanswered>,
    /// The version of the service to which the message was handed.
    pub(crate) version: Option<u64>,
}

/// The reply of a handler as JSON.
pub(crate) enum JsonAnswered {
    Value(Vec<u8>),
    /// The items of a stream. An error is the last.
    Items(JsonItems),
}

/// The items of a stream as JSON, and the text of the error of one that is not complete.
pub(crate) type JsonItems = BoxStream<'static, Result<Vec<u8>, String>>;

/// Reason why an ask with JSON has no reply, with the text of the error.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// No handler saw the message; retrying is safe once the Work runs.
    NotRunning(String),
    /// No handler saw the message: it cannot be sent to the process of the Work.
    Unsendable(String),
    Timeout(String),
    /// A handler may have seen the message.
    Failed(String),
    /// The node or process of the Work is lost; a handler may have seen the message.
    NodeLost(String),
    /// The handler completed, but its reply cannot be sent or encoded as JSON.
    Unwritable(String),
    /// The handler completed, and returned this error.
    Err(HandlerError),
}

/// The error that a handler has returned.
#[derive(Debug)]
pub(crate) struct HandlerError {
    /// The error as JSON.
    pub(crate) json: Vec<u8>,
    /// The HTTP status that the error says, from 400 to 599.
    pub(crate) status: Option<u16>,
}

pub(super) type JsonQuestion<W> = fn(WorkAddr<W>, &[u8], Duration) -> Result<JsonAnswer, serde_json::Error>;

pub(super) fn question<W: Handle<M>, M: Message>(
    work: WorkAddr<W>,
    json: &[u8],
    timeout: Duration,
) -> Result<JsonAnswer, serde_json::Error> {
    ask_typed::<W, M>(work, json, timeout, |_| None)
}

/// As [`question`], for replies whose errors say their HTTP status.
pub(super) fn question_with_status<W: Handle<M>, M: Message>(
    work: WorkAddr<W>,
    json: &[u8],
    timeout: Duration,
) -> Result<JsonAnswer, serde_json::Error>
where
    ReplyOf<W, M>: ReplyWithStatus + ReplyValue<Item = ReplyOf<W, M>>,
{
    ask_typed::<W, M>(work, json, timeout, ReplyWithStatus::status)
}

fn ask_typed<W: Handle<M>, M: Message>(
    work: WorkAddr<W>,
    json: &[u8],
    timeout: Duration,
    status: fn(&ItemOf<W, M>) -> Option<u16>,
) -> Result<JsonAnswer, serde_json::Error> {
    let message: M = read(json)?;
    let served_by = Arc::<ServedBy>::default();
    let noted = served_by.clone();
    let answer = async move {
        if <ReplyOf<W, M> as ReplyValue>::IS_STREAM {
            let window = Arc::new(AtomicU32::new(DEFAULT_STREAM_WINDOW));
            let opened = work.open_stream(message, window, Some(served_by), AskId::NONE);
            let asked = Ask::new(AskId::NONE, work.path(), Some(&work), opened).timeout(timeout);
            return Ok(JsonAnswered::Items(items(asked.await.map_err(Unanswered::from)?)));
        }
        let exchange = work.exchange_noting(message, Some(served_by));
        let asked = Ask::new(AskId::NONE, work.path(), Some(&work), exchange).timeout(timeout);
        let reply = Fenced::new(asked.await.map_err(Unanswered::from)?);
        let written = fence::call(|| JsonReply::of(&*reply));
        let why = match written {
            Ok(Ok(JsonReply::Value(json))) => return Ok(JsonAnswered::Value(json)),
            Ok(Ok(JsonReply::Failure(json))) => {
                let status = fence::call(|| status(&reply)).unwrap_or_else(|panic| {
                    log::error!("`http_status` of an answer of work `{}` panicked: {panic}", work.path());
                    Some(NO_STATUS)
                });
                let status = status.map(|status| error_status(status, work.path()));
                return Err(Unanswered::Err(HandlerError { json, status }));
            }
            Ok(Err(error)) => error.to_string(),
            Err(panic) => format!("its `Serialize` panicked: {panic}"),
        };
        Err(Unanswered::Unwritable(format!(
            "the answer of work `{}` cannot be written as JSON: {why}",
            work.path()
        )))
    };
    Ok(Box::pin(async move {
        let answer = answer.await;
        JsonReplied { answer, version: noted.version() }
    }))
}

/// Writes the items of a stream as JSON. One that cannot be written ends the stream.
fn items<T: Message>(stream: StreamedReply<T>) -> JsonItems {
    let items = stream.map(|item| {
        let item = Fenced::new(item.map_err(|error| error.to_string())?);
        match fence::call(|| state::to_json(&*item)) {
            Ok(written) => written.map_err(|error| format!("an item cannot be written as JSON: {error}")),
            Err(panic) => Err(format!("the `Serialize` of an item panicked: {panic}")),
        }
    });
    // Nothing follows an error.
    let until_error = items.scan(false, |is_over, item| {
        let next = (!*is_over).then_some(item);
        *is_over |= next.as_ref().is_none_or(Result::is_err);
        ready(next)
    });
    until_error.boxed()
}

/// Status of an error that says none: Internal Server Error.
const NO_STATUS: u16 = 500;

/// Returns the status that an error says, or 500 if that is no status of an error.
fn error_status(status: u16, path: &ActorPath) -> u16 {
    if (400..=599).contains(&status) {
        return status;
    }
    log::error!("an answer of work `{path}` says HTTP status {status}; an error has one from 400 to 599");
    NO_STATUS
}

fn read<T: DeserializeOwned>(json: &[u8]) -> Result<T, serde_json::Error> {
    let read = fence::call(|| state::from_json(json));
    read.unwrap_or_else(|panic| {
        let why = format!("the `Deserialize` of `{}` panicked: {panic}", type_name::<T>());
        Err(serde::de::Error::custom(why))
    })
}

impl<M> From<AskError<M>> for Unanswered {
    fn from(error: AskError<M>) -> Self {
        let text = error.to_string();
        let error = Fenced::new(error);
        match *error {
            AskError::NotHandled(SendError::Unsendable { .. }) => Self::Unsendable(text),
            AskError::NotHandled(SendError::NodeLost { .. }) => Self::NodeLost(text),
            AskError::NotHandled(_) => Self::NotRunning(text),
            AskError::Timeout { .. } | AskError::Deadlock { .. } => Self::Timeout(text),
            AskError::Failed { .. } => Self::Failed(text),
            AskError::NodeLost { .. } => Self::NodeLost(text),
            AskError::ReplyNotSent { .. } | AskError::BadReply { .. } => Self::Unwritable(text),
        }
    }
}

/// Sends an ask whose message is JSON; `None` if the Work does not declare the type of the message.
pub(super) fn ask<W: Work>(
    mailbox: Arc<Mailbox<W>>,
    app: AppId,
    path: ActorPath,
    message: &str,
    json: &[u8],
    timeout: Duration,
) -> Option<Result<JsonAnswer, serde_json::Error>> {
    let question = Messages::<W>::question(message)?;
    Some(question(WorkAddr::new(app, path, mailbox), json, timeout))
}

/// Decodes an input of a Work from JSON.
pub(super) fn input<W: Work>(json: &[u8]) -> Result<(RunKey, Input), String> {
    let input: Fenced<W::Input> = Fenced::new(read(json).map_err(|error| error.to_string())?);
    Input::new(&*input).map_err(|error| error.to_string())
}

/// Decodes an input of a Work from bytes that were encoded before, and takes guards of its payloads.
pub(super) fn same_input<W: Work>(bytes: &[u8]) -> Result<(RunKey, Input), CodecError> {
    let input: Fenced<W::Input> = Fenced::new(wire::decode(bytes)?);
    Input::new(&*input)
}

/// Decodes an input of a Work that was recorded under this key, by this version of the program or another one.
#[cfg(feature = "journal")]
pub(super) fn recorded_input<W: Work>(key: RunKey, bytes: &[u8]) -> Result<(RunKey, Input), CodecError> {
    let input: Fenced<W::Input> = Fenced::new(wire::decode(bytes)?);
    Input::recorded(key, &*input)
}
