//! Dead letters: messages that no handler saw and whose senders were not told so.
//!
//! A message is a dead letter once it is known that no handler will see it, unless the failure was reported to its sender:
//! by the error of `try_tell` or `tell`, or of an `ask` whose caller waits. A question whose caller has given up is one. A
//! message in the mailbox of a node that is lost is none, since nobody knows whether it was handled.
//!
//! # Guarantees
//! - Every loss goes through [`report`] or [`report_abandoned`], which count it for the App that this thread belongs to, and
//!   never wait. The hook of the App is called on a thread of its own.
//! - Letters that wait for the hook, or on a node for the way to the head, are bounded and conflated; see the module
//!   `waiting`. Each is delivered at most once.

mod letter;
mod senders;
mod tally;
mod waiting;

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

pub use self::letter::{DeadLetter, DeadLetterReason, DeadLetterSender};
use self::senders::Senders;
pub(crate) use self::senders::{Recent, SENDERS, SenderId};
use self::tally::Tally;
pub(crate) use self::waiting::ByReason;
use self::waiting::Waiting;
use super::end::WATCH;
use super::message_counts::{count_abandoned, count_lost_messages};
use crate::fence;
use crate::id::ActorPath;
use crate::runtime::{self, Runtime};

/// Number of letters that are taken at once.
pub(crate) const AT_ONCE: usize = 32;

/// Longest name and text of a letter from another process, in bytes.
const LONGEST_TEXT: usize = 1024;

/// Time that an App that has ended leaves its hook to take the last letters.
const LAST_LETTERS: Duration = Duration::from_secs(1);

/// Name of the envelope that is no message, but calls for the messages of a subscription, which wait elsewhere.
pub(super) const CALL: &str = "(subscription)";

/// The hook of an App for dead letters.
pub(crate) type OnDeadLetter = Box<dyn FnMut(&DeadLetter) + Send>;

/// The dead letters of an App in this process, as a part of its [`Runtime`].
pub(crate) struct DeadLetters {
    node: &'static str,
    state: Mutex<State>,
    filled: Notify,
}

#[derive(Default)]
struct State {
    senders: Senders,
    tally: Tally,
    waiting: Waiting,
    /// True while letters are kept for [`DeadLetters::next`].
    is_wanted: bool,
    is_closed: bool,
}

/// A message that is lost.
#[derive(Clone, Copy)]
pub(crate) struct Lost<'a> {
    message: &'a str,
    sender: SenderId,
}

impl<'a> Lost<'a> {
    pub(crate) fn new(message: &'a str, sender: SenderId) -> Self {
        Self { message, sender }
    }

    pub(crate) fn sender(&self) -> SenderId {
        self.sender
    }
}

impl Default for DeadLetters {
    fn default() -> Self {
        Self::at("")
    }
}

impl DeadLetters {
    /// Creates those of a process of the node with this name.
    pub(crate) fn at(node: &'static str) -> Self {
        Self { node, state: Mutex::default(), filled: Notify::new() }
    }

    /// Returns those of an App. A runtime without them has none.
    pub(crate) fn of(runtime: &Runtime) -> Arc<Self> {
        runtime.part().unwrap_or_default()
    }

    /// Returns the number of the Work at this path as a sender.
    pub(crate) fn sender(&self, path: &ActorPath) -> SenderId {
        self.state.lock().senders.number(path)
    }

    /// Returns the path of a sender, if it is a Work that is known.
    pub(crate) fn path_of(&self, sender: SenderId) -> Option<ActorPath> {
        self.state.lock().senders.path(sender).cloned()
    }

    /// Keeps letters for [`next`](Self::next) from now on.
    pub(crate) fn want(&self) {
        self.state.lock().is_wanted = true;
    }

    /// Ends [`next`](Self::next) once all waiting letters are taken.
    pub(crate) fn close(&self) {
        self.state.lock().is_closed = true;
        self.filled.notify_one();
    }

    /// Waits for letters, and takes some of them, together with the numbers of those that found no place. Returns `None`
    /// once there are none and never will be. Only one task may wait.
    pub(crate) async fn next(&self) -> Option<(Vec<DeadLetter>, ByReason)> {
        loop {
            let (taken, is_closed) = {
                let mut state = self.state.lock();
                (state.waiting.take(AT_ONCE), state.is_closed)
            };
            if !taken.0.is_empty() || taken.1.iter().any(|omitted| *omitted > 0) {
                return Some(taken);
            }
            if is_closed {
                return None;
            }
            self.filled.notified().await;
        }
    }

    fn lost(&self, to: &ActorPath, reason: DeadLetterReason, why: &str, Lost { message, sender }: Lost<'_>) {
        let mut state = self.state.lock();
        state.tally.add(to, reason, 1);
        if !state.is_wanted {
            return;
        }
        let sender = match sender {
            SenderId::OUTSIDE => DeadLetterSender::Outside,
            sender => {
                state.senders.path(sender).cloned().map_or(DeadLetterSender::Unknown, DeadLetterSender::Work)
            }
        };
        state.waiting.add(DeadLetter {
            to: to.clone(),
            message: message.to_owned(),
            sender,
            reason,
            why: why.to_owned(),
            node: self.node.to_owned(),
            count: 1,
        });
        drop(state);
        self.filled.notify_one();
    }

    /// Takes letters over that a process of `node` has sent, with the numbers of those that it has not kept.
    pub(crate) fn arrived(&self, node: &str, letters: Vec<DeadLetter>, omitted: ByReason) {
        let mut state = self.state.lock();
        for (reason, count) in DeadLetterReason::ALL.into_iter().zip(omitted) {
            state.tally.add_others(reason, count);
            state.waiting.omit(reason, count);
        }
        for mut letter in letters {
            state.tally.add(&letter.to, letter.reason, letter.count);
            if state.is_wanted {
                letter.node = node.to_owned();
                shorten(&mut letter.message);
                shorten(&mut letter.why);
                state.waiting.add(letter);
            }
        }
        drop(state);
        self.filled.notify_one();
    }

    /// Returns the number of letters for the Work at this path.
    pub(crate) fn count(&self, path: &ActorPath) -> u64 {
        self.state.lock().tally.of(path)
    }

    /// Returns the numbers of letters that are not 0, by Work (`None`: all others) and reason.
    pub(crate) fn counts(&self) -> Vec<(Option<ActorPath>, DeadLetterReason, u64)> {
        self.state.lock().tally.all()
    }
}

fn shorten(text: &mut String) {
    if text.len() > LONGEST_TEXT {
        let end = (0..=LONGEST_TEXT).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or_default());
    }
}

/// Reports messages for the Work at `to` that no handler will see and whose senders get no error.
pub(crate) fn report<'a>(
    to: &ActorPath,
    reason: DeadLetterReason,
    why: &str,
    lost: impl IntoIterator<Item = Lost<'a>>,
) {
    let count = letters(to, reason, why, lost);
    if count > 0 {
        count_lost_messages(count);
        let (messages, are) = if count == 1 { ("message", "is") } else { ("messages", "are") };
        log::warn!("{count} {messages} for work `{to}` {are} lost: {why}");
    }
}

/// Reports questions for the Work at `to` whose callers had given up before a handler began.
pub(crate) fn report_abandoned<'a>(to: &ActorPath, lost: impl IntoIterator<Item = Lost<'a>>) {
    // Neither a watch nor a call is a message.
    let lost = lost.into_iter().filter(|lost| !matches!(lost.message, WATCH | CALL));
    count_abandoned(letters(to, DeadLetterReason::Abandoned, "its caller has given up", lost));
}

/// Adds letters to those of the App that this thread belongs to. Returns their number.
fn letters<'a>(
    to: &ActorPath,
    reason: DeadLetterReason,
    why: &str,
    lost: impl IntoIterator<Item = Lost<'a>>,
) -> usize {
    let mut lost = lost.into_iter().peekable();
    if lost.peek().is_none() {
        return 0;
    }
    let letters = runtime::current().ok().map(|runtime| DeadLetters::of(&runtime));
    let mut count = 0;
    for lost in lost {
        count += 1;
        if let Some(letters) = &letters {
            letters.lost(to, reason, why, lost);
        }
    }
    count
}

/// The thread that calls the hook of an App.
pub(crate) struct HookThread {
    letters: Arc<DeadLetters>,
    ended: mpsc::Receiver<()>,
}

impl HookThread {
    /// Starts the thread, on which `hook` is called with each letter from now on.
    ///
    /// # Errors
    /// The error of the system if there can be no more threads or files.
    pub(crate) fn start(runtime: Arc<Runtime>, mut hook: OnDeadLetter) -> std::io::Result<Self> {
        let letters = DeadLetters::of(&runtime);
        letters.want();
        let (is_running, ended) = mpsc::channel();
        let taken = letters.clone();
        let waits = tokio::runtime::Builder::new_current_thread().build()?;
        std::thread::Builder::new().name("flowright-letters".to_owned()).spawn(move || {
            let _is_running: mpsc::Sender<()> = is_running;
            runtime::belong(runtime);
            while let Some((letters, omitted)) = waits.block_on(taken.next()) {
                for letter in &letters {
                    if let Err(panic) = fence::call(|| hook(letter)) {
                        log::error!("the hook for dead letters panicked: {panic}");
                    }
                }
                let omitted: u64 = omitted.iter().sum();
                if omitted > 0 {
                    log::warn!(
                        "{omitted} dead letters came faster than the hook for dead letters takes them, and were only counted"
                    );
                }
            }
            if let Err(panic) = fence::discard(hook) {
                log::error!("the hook for dead letters panicked when it was dropped: {panic}");
            }
        })?;
        Ok(Self { letters, ended })
    }

    /// Waits a moment for the hook to take the last letters.
    pub(crate) fn end(self) {
        self.letters.close();
        // The thread sends nothing: it drops its end once it is done.
        let _ = self.ended.recv_timeout(LAST_LETTERS);
    }
}
