//! Layer 7: the command line of an App's program.

mod args;
#[cfg(feature = "tls")]
mod certs;
#[cfg(feature = "http")]
mod client;
mod error;
mod init;
mod log_files;
#[cfg(feature = "remote")]
mod node;
mod output;
mod run;
mod shared_args;
mod signals;
