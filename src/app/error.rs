//! Why an App did not start, or did not end well.

use thiserror::Error;

use crate::flow::FlowError;
#[cfg(feature = "remote")]
use crate::transport::TransportError;

/// An App failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AppError {
    /// A Work or Flow failed and nobody captured it.
    #[error(transparent)]
    Failed(#[from] FlowError),
    /// The constructor of the root panicked.
    #[error("the App's root could not be made: its constructor panicked: {0}")]
    Constructor(String),
    /// A placement was given for a Work that is not there.
    #[error("there is no work `{path}` to place; there are: {known}")]
    UnknownPlace {
        /// The path that was given.
        path: String,
        /// What there is.
        known: String,
    },
    /// A Work was placed on a node, and no nodes are taken in.
    #[error(
        "work `{path}` is placed on {node}, and this App takes no nodes in: start it with --listen ADDRESS:PORT, or place \
         the work in this process (`thread`, `pool`) or in one of its own (`process`)"
    )]
    NoNodes {
        /// The path that was given.
        path: String,
        /// The node that was meant, in words.
        node: String,
    },
    /// The HTTP server could not be started.
    #[error(
        "the server cannot listen on {address}; choose another with --host and --port, or use --without-server"
    )]
    Listen {
        /// Where it should have listened.
        address: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The HTTP server was told to listen beyond the machine itself, and there is no token.
    #[error(
        "the server would be reached from other machines at {address}, and asks for no token: give it one with \
         --http-token-file FILE, or listen on 127.0.0.1"
    )]
    NoHttpToken {
        /// Where it should have listened.
        address: String,
    },
    /// What the HTTP server was told cannot be used.
    #[error("{0}")]
    Http(String),
    /// Others cannot be told the address that was given for that.
    #[cfg(feature = "remote")]
    #[error("--advertise {address:?}: {why}; write it as HOST or HOST:PORT, as nodes reach this machine")]
    Advertise {
        /// What was given.
        address: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Other processes cannot be taken in.
    #[cfg(feature = "remote")]
    #[error(transparent)]
    Bridge(#[from] TransportError),
    /// This process cannot take part in the App as a node.
    #[error("{0}")]
    Node(String),
    /// No thread could be started for the App.
    #[error("no thread could be started for the App")]
    Thread(#[source] std::io::Error),
    /// Ctrl-C, SIGTERM and SIGHUP could not be caught.
    #[error("Ctrl-C, SIGTERM and SIGHUP could not be caught")]
    Signals(#[source] std::io::Error),
    /// A Flow did not return while the App was to end: its Works were not asked to stop.
    #[error(
        "flow `{path}` has kept the App's thread for {} s and has not returned, so the App ends without stopping its Works \
         in good order; let a Work do what takes long",
        time.as_secs()
    )]
    Stuck {
        /// The path of the Flow.
        path: String,
        /// How long it has not returned.
        time: std::time::Duration,
    },
    /// The App has already ended.
    #[error("the App has ended")]
    Ended,
    /// The App's own thread broke: a defect of Flowright.
    #[error(
        "the App's driver broke, which is a defect of Flowright; please report it with this message: {0}"
    )]
    Internal(String),
}
