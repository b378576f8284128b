//! Works whose type is known by name only.

use std::any::type_name;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::LocalBoxFuture;

use super::Work;
use super::abort::Abort;
use super::actor::{IncarnationSpec, live};
use super::any_mailbox::AnyMailbox;
use super::fencing_token::FencingToken;
use super::gpus::Gpus;
use super::json;
use super::mailbox::Mailbox;
use super::outbox::Outbox;
use super::remote_messages::Messages;
use super::route::Locator;
use super::run::{Input, RunKey};
use crate::id::ActorPath;
use crate::payload::PayloadGuards;
#[cfg(feature = "journal")]
use crate::program::build_mark;
use crate::runtime::Runtime;
use crate::state::Value;
use crate::wire::CodecError;

/// A closure sent to a thread, which makes the future of an incarnation (or of another actor) that stays on this
/// thread.
pub(crate) type Task = Box<dyn FnOnce() -> LocalBoxFuture<'static, ()> + Send>;

type FromJson = fn(&[u8]) -> Result<(RunKey, Input), String>;
type FromBytes = fn(&[u8]) -> Result<(RunKey, Input), CodecError>;
#[cfg(feature = "journal")]
type FromRecord = fn(RunKey, &[u8]) -> Result<(RunKey, Input), CodecError>;

/// Type-erased functions of one type of Work.
pub(crate) struct WorkType {
    name: fn() -> &'static str,
    mailbox: fn(usize) -> Arc<dyn AnyMailbox>,
    distant_mailbox: fn(Arc<dyn Locator>) -> Arc<dyn AnyMailbox>,
    task: fn(LaunchSpec, Arc<Runtime>) -> Task,
    messages: fn() -> Vec<&'static str>,
    input: FromJson,
    same_input: FromBytes,
    #[cfg(feature = "journal")]
    recorded_input: FromRecord,
    #[cfg(feature = "journal")]
    input_name: fn() -> &'static str,
}

/// Parameters of a new incarnation of any type.
pub(crate) struct LaunchSpec {
    pub(crate) kind: &'static WorkType,
    pub(crate) path: ActorPath,
    pub(crate) state: Value,
    /// Guards that keep the payloads in the state alive until the Work has decoded it.
    pub(crate) holds: PayloadGuards,
    pub(crate) max_state_bytes: usize,
    pub(crate) mailbox: Arc<dyn AnyMailbox>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) abort: Arc<Abort>,
    /// Devices assigned to the incarnation until its end.
    pub(crate) gpus: Gpus,
    pub(crate) token: FencingToken,
}

impl WorkType {
    pub(crate) fn of<W: Work>() -> &'static Self {
        const {
            &Self {
                name: type_name::<W>,
                mailbox: mailbox::<W>,
                distant_mailbox: distant_mailbox::<W>,
                task: task::<W>,
                messages: Messages::<W>::names,
                input: json::input::<W>,
                same_input: json::same_input::<W>,
                #[cfg(feature = "journal")]
                recorded_input: json::recorded_input::<W>,
                #[cfg(feature = "journal")]
                input_name: type_name::<W::Input>,
            }
        }
    }

    /// Returns the name of the Rust type, which is the same in all processes of one program.
    pub(crate) fn name(&self) -> &'static str {
        (self.name)()
    }

    pub(crate) fn mailbox(&self, capacity: usize) -> Arc<dyn AnyMailbox> {
        (self.mailbox)(capacity)
    }

    /// Creates a mailbox that forwards to the place found by `locator`.
    pub(crate) fn distant_mailbox(&self, locator: Arc<dyn Locator>) -> Arc<dyn AnyMailbox> {
        (self.distant_mailbox)(locator)
    }

    /// Returns the types of messages that the Work accepts from other processes and as JSON.
    pub(crate) fn messages(&self) -> Vec<&'static str> {
        (self.messages)()
    }

    /// Decodes an input from JSON.
    ///
    /// # Errors
    /// The text of the error of decoding or encoding the input.
    pub(crate) fn input(&self, json: &[u8]) -> Result<(RunKey, Input), String> {
        (self.input)(json)
    }

    /// Decodes an input from bytes that this process encoded before.
    pub(crate) fn same_input(&self, bytes: &[u8]) -> Result<(RunKey, Input), CodecError> {
        (self.same_input)(bytes)
    }

    /// Decodes an input that was recorded under this key, by this version of the program or another one, and returns it
    /// with the key that it has now.
    #[cfg(feature = "journal")]
    pub(crate) fn recorded_input(&self, key: RunKey, bytes: &[u8]) -> Result<(RunKey, Input), CodecError> {
        (self.recorded_input)(key, bytes)
    }

    /// Returns a number that is equal for two types of input only if they are read and written in the same way: it is that
    /// of the type in this build of the program. `None` if the build cannot be identified.
    #[cfg(feature = "journal")]
    pub(crate) fn input_mark(&self) -> Option<u64> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&build_mark()?.to_le_bytes()).update((self.input_name)().as_bytes());
        hasher.finalize().as_bytes().first_chunk().map(|first| u64::from_le_bytes(*first))
    }
}

impl LaunchSpec {
    /// Opens the mailbox for a new incarnation and returns the task that runs the incarnation.
    pub(crate) fn into_task(self, runtime: Arc<Runtime>) -> Task {
        (self.kind.task)(self, runtime)
    }
}

fn mailbox<W: Work>(capacity: usize) -> Arc<dyn AnyMailbox> {
    Arc::new(Mailbox::<W>::new(capacity))
}

fn distant_mailbox<W: Work>(locator: Arc<dyn Locator>) -> Arc<dyn AnyMailbox> {
    Arc::new(Mailbox::<W>::distant(locator))
}

fn task<W: Work>(launch: LaunchSpec, runtime: Arc<Runtime>) -> Task {
    let LaunchSpec { path, state, holds, max_state_bytes, mailbox, outbox, abort, gpus, token, .. } = launch;
    let incarnation = mailbox.open();
    let mailbox = mailbox.into_any().downcast().unwrap_or_else(|_| unreachable!("made for this type"));
    let spec = Box::new(IncarnationSpec {
        runtime,
        path,
        state,
        holds,
        max_state_bytes,
        mailbox,
        incarnation,
        outbox,
        abort,
        gpus,
        token,
    });
    Box::new(move || live::<W>(spec).boxed_local())
}
