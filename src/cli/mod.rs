//! Floor 7: the command line of an App's binary.

mod args;
mod certs;
mod client;
mod init;
mod log_files;
mod node;
mod run;
mod signals;
