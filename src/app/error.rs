//! Errors with which an App fails to start or ends.

use thiserror::Error;

use crate::flow::FlowError;
#[cfg(feature = "journal")]
use crate::journal::JournalError;
#[cfg(feature = "remote")]
use crate::transport::TransportError;
use crate::work::ArgsError;

/// The error of an App that failed to start, or failed while it ran.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AppError {
    /// A Work or Flow failed, and the failure was not captured.
    #[error(transparent)]
    Failed(#[from] FlowError),
    /// The constructor of the root panicked.
    #[error("the constructor of the App's root panicked: {0}")]
    Constructor(String),
    /// The App's own arguments are missing, or of another type than its root's.
    #[error(transparent)]
    Args(#[from] ArgsError),
    /// A placement was given for an unknown path.
    #[error("there is no work `{path}` to place; there are: {known}")]
    UnknownPlace {
        /// The given path.
        path: String,
        /// The known paths.
        known: String,
    },
    /// A Work was placed on a node, but the App does not accept nodes.
    #[error(
        "work `{path}` is placed on {node}, but this App accepts no nodes: start it with --listen ADDRESS:PORT, or place \
         the work in this process (`thread`, `pool`) or in one of its own (`process`)"
    )]
    NoNodes {
        /// The path of the Work.
        path: String,
        /// A description of the requested node.
        node: String,
    },
    /// The HTTP server could not be started.
    #[error(
        "the server cannot listen on {address}; choose another with --host and --port, or use --without-server"
    )]
    Listen {
        /// The address that was to be listened on.
        address: String,
        /// The error of the system.
        #[source]
        source: std::io::Error,
    },
    /// The HTTP server was to listen beyond the loopback address without a token.
    #[error(
        "the server would be reached from other machines at {address}, and requires no token: give it one with \
         --http-token-file FILE, or listen on 127.0.0.1"
    )]
    NoHttpToken {
        /// The address that was to be listened on.
        address: String,
    },
    /// A setting of the HTTP server is invalid.
    #[error("{0}")]
    Http(String),
    /// The address to be advertised is invalid.
    #[cfg(feature = "remote")]
    #[error("--advertise {address:?}: {why}; write it as HOST or HOST:PORT, as nodes reach this machine")]
    Advertise {
        /// The given address.
        address: String,
        /// The reason why it is invalid.
        why: &'static str,
    },
    /// Other processes cannot take part in the App.
    #[cfg(feature = "remote")]
    #[error(transparent)]
    Bridge(#[from] TransportError),
    /// A group of nodes cannot be started by its engine.
    #[cfg(feature = "remote")]
    #[error("group `{group}` of the fleet cannot be used: {why}")]
    Fleet {
        /// The name of the group.
        group: String,
        /// The reason, and what to do.
        why: String,
    },
    /// This process cannot take part in the App as a node.
    #[error("{0}")]
    Node(String),
    /// No thread could be started for the App.
    #[error("no thread could be started for the App")]
    Thread(#[source] std::io::Error),
    /// The handlers of Ctrl-C, SIGTERM and SIGHUP could not be installed.
    #[error("the handlers of Ctrl-C, SIGTERM and SIGHUP could not be installed")]
    Signals(#[source] std::io::Error),
    /// A Flow did not return while the App was to stop, so that its Works could not be asked to stop.
    #[error(
        "flow `{path}` has kept the App's thread for {} s and has not returned, so the App ends without stopping its Works \
         in good order; move long computations into a Work",
        time.as_secs()
    )]
    Stuck {
        /// The path of the Flow.
        path: String,
        /// The time for which the Flow has not returned.
        time: std::time::Duration,
    },
    /// The journal cannot be opened, or has failed.
    #[cfg(feature = "journal")]
    #[error(transparent)]
    Journal(JournalFailure),
    /// The disk of the journal is full, so that what the answer would show is not durable. Works keep running. A command
    /// was taken, and takes effect when there is room.
    #[error(
        "there is no answer while the journal cannot be written: {why}; a command takes effect when there is room"
    )]
    Withheld {
        /// Message of the journal.
        why: String,
    },
    /// The App was stopped while the disk of its journal was full. It goes on from the last durable position when it is
    /// started again.
    #[cfg(feature = "journal")]
    #[error("the App has ended while its journal could not be written: {message}")]
    JournalFull {
        /// The reason.
        message: String,
    },
    /// The journal was written by another program, or by another version of this one whose Works and Flows cannot be
    /// restored. Nothing was changed.
    #[cfg(feature = "journal")]
    #[error(transparent)]
    Unrestorable(Unrestorable),
    /// Some fields of Flows cannot be recorded in a journal.
    #[cfg(feature = "journal")]
    #[error(
        "this App cannot have a journal, because some fields of its Flows could not be restored:{}",
        list(.0.problems())
    )]
    Unrecordable(Unrestorable),
    /// The App has already ended.
    #[error("the App has ended")]
    Ended,
    /// The App's own thread failed, which is a defect of Flowright.
    #[error(
        "the App's driver failed, which is a defect of Flowright; please report it with this message: {0}"
    )]
    Internal(String),
}

/// The failure of the journal of an App.
#[cfg(feature = "journal")]
#[derive(Debug, Error)]
#[error(transparent)]
pub struct JournalFailure(#[from] JournalError);

#[cfg(feature = "journal")]
impl JournalFailure {
    /// Returns true if the journal was written by a newer version of Flowright, so that a newer program is needed.
    pub fn is_newer_format(&self) -> bool {
        self.0.is_newer_format()
    }

    /// Returns true if the disk of the journal is full.
    pub(super) fn is_full(&self) -> bool {
        self.0.is_full()
    }
}

/// The parts of a recorded App that this program cannot restore.
#[cfg(feature = "journal")]
#[derive(Debug, Error)]
#[error(
    "this program cannot continue the App in the journal, and has changed nothing:{}\ncorrect the program, or start it with an \
     earlier version",
    list(.problems)
)]
pub struct Unrestorable {
    problems: Vec<String>,
}

#[cfg(feature = "journal")]
impl Unrestorable {
    pub(super) fn new(problems: Vec<String>) -> Self {
        Self { problems }
    }

    /// Returns a description of each part that cannot be restored.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}

#[cfg(feature = "journal")]
fn list(problems: &[String]) -> String {
    problems.iter().map(|problem| format!("\n- {problem}")).collect()
}

impl AppError {
    /// Returns the error of type `E` that a Flow returned from `react` or gave to
    /// [`FlowContext::fail`](crate::FlowContext::fail), or that a Work returned, if the App failed with it and the type
    /// is found among the error, its contexts and its sources.
    ///
    /// The error of a Work that ran in another process is not found: it is sent as text.
    pub fn downcast_ref<E: std::error::Error + Send + Sync + 'static>(&self) -> Option<&E> {
        match self {
            Self::Failed(error) => error.returned()?.downcast_ref(),
            _ => None,
        }
    }
}
