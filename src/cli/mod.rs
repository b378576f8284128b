//! Layer 8: the command line of an App's program.

mod args;
#[cfg(feature = "tls")]
mod certs;
#[cfg(feature = "http")]
mod client;
mod error;
#[cfg(feature = "journal")]
mod journal;
#[cfg(feature = "journal")]
mod journal_text;
mod log_files;
#[cfg(feature = "remote")]
mod node;
mod own_args;
#[cfg(any(feature = "http", feature = "journal"))]
mod past_text;
#[cfg(feature = "journal")]
mod rereact;
mod run;
mod shared_args;
#[cfg(any(feature = "http", feature = "journal"))]
mod state_text;
