//! Messages and replies that stay in their process.

use std::fmt;
use std::ops::{Deref, DerefMut};

use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What serde is told.
const STAYS: &str =
    "a `Local` value does not leave its process; send it to a Work on a thread or in the pool of this one";

/// A message or reply that need not serialise, because sender and Work are in one process: a channel, a socket, an open file,
/// an `Arc`. It is moved, as between threads.
///
/// Sent to a Work in another process or on a node, it comes back with
/// [`SendError::Unsendable`](crate::SendError::Unsendable); nothing of it is sent. While the Work is being started or moved,
/// a `tell` waits in the mailbox before its process is known; if that is another one, the message becomes a dead letter
/// ([`DeadLetterReason::Unsendable`](crate::DeadLetterReason::Unsendable)). A caller in another process gets
/// [`AskError::ReplyNotSent`](crate::AskError::ReplyNotSent) in place of a `Local` reply. It is not declared in
/// [`Work::messages`](crate::Work::messages), and has no place in states and inputs.
///
/// ```
/// # use flowright::prelude::*;
/// # use flowright::Local;
/// # use flowright::testing::TestApp;
/// use std::sync::mpsc::Sender;
///
/// #[derive(Default, Serialize, Deserialize)]
/// struct Progress {
///     #[serde(skip)]
///     listeners: Vec<Sender<u32>>,
/// }
///
/// impl Work for Progress {
///     type Input = ();
/// }
///
/// impl Handle<Local<Sender<u32>>> for Progress {
///     type Reply = ();
///
///     async fn handle(&mut self, Local(listener): Local<Sender<u32>>, _cx: &mut WorkContext<Self>) {
///         let _ = listener.send(1); // it may have gone
///         self.listeners.push(listener);
///     }
/// }
///
/// # let app = TestApp::start_app(App::of_work(Progress::default));
/// # let progress = app.work::<Progress>("work");
/// let (sender, receiver) = std::sync::mpsc::channel();
/// app.block_on(progress.ask(Local(sender))).unwrap();
/// assert_eq!(receiver.recv(), Ok(1));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Local<T>(pub T);

impl<T> Local<T> {
    /// Returns the value.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Local<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Local<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T> From<T> for Local<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

impl<T: fmt::Display> fmt::Display for Local<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Always fails.
impl<T> Serialize for Local<T> {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(S::Error::custom(STAYS))
    }
}

/// Always fails.
impl<'de, T> Deserialize<'de> for Local<T> {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(D::Error::custom(STAYS))
    }
}
