//! Errors in the arguments.

use std::process::ExitCode;

use thiserror::Error;

use crate::entry::WRONG_USAGE;
use crate::printable::chain;
#[cfg(feature = "remote")]
use crate::work::BadNode;
use crate::work::UnknownPlacement;

/// An unusable argument. The process exits with code 2.
#[derive(Debug, Error)]
pub(super) enum UsageError {
    #[error(
        "--env {0:?}: write it as KEY=VALUE, with a KEY of letters, digits and _ that begins with no digit"
    )]
    Env(String),
    #[error("--env {0} is given twice; give each variable once")]
    EnvTwice(String),
    #[cfg(feature = "remote")]
    #[error("--label {0:?}: write it as KEY=VALUE, such as zone=west")]
    Label(String),
    #[cfg(feature = "remote")]
    #[error("--join {0:?}: {1}; write it as HOST:PORT, where the App was started with --listen")]
    Join(String, &'static str),
    #[cfg(feature = "remote")]
    #[error("--advertise {0:?}: {1}; write it as HOST or HOST:PORT, as others reach this machine")]
    Advertise(String, &'static str),
    #[cfg(feature = "remote")]
    #[error("--drain-before {0} is not shorter than --lifetime {1}; the node would leave at once")]
    DrainBefore(String, String),
    #[cfg(feature = "remote")]
    #[error(transparent)]
    Node(#[from] BadNode),
    #[cfg(feature = "tls")]
    #[error(
        "certs {0:?}: a name is made of letters, digits, `-`, `_` and `.`, begins with a letter or digit, has at most 64 of \
         them, does not end in `-key`, and is not `ca`"
    )]
    CertName(String),
    #[cfg(feature = "tls")]
    #[error("certs {0} is given twice; give each name once")]
    CertNameTwice(String),
    #[error("--place {0:?}: write it as PATH=PLACEMENT, such as train=pool")]
    Place(String),
    #[error("--place {0} is given twice; give each path once")]
    PlaceTwice(String),
    #[error("--place {path} cannot be used")]
    Placement {
        path: String,
        #[source]
        source: UnknownPlacement,
    },
    #[cfg(feature = "remote")]
    #[error("--fleet-set {0:?}: write it as KEY=VALUE, such as nodes=0..20 or brings.gpus=4")]
    FleetSetting(String),
    #[cfg(feature = "remote")]
    #[error("--fleet {engine} with its settings cannot be used")]
    Fleet {
        engine: String,
        #[source]
        source: Box<toml::de::Error>,
    },
    #[error("--config {path} cannot be read")]
    ConfigFile {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("--config {path} is not a valid configuration")]
    Config {
        path: String,
        #[source]
        source: Box<toml::de::Error>,
    },
}

/// Prints an error in the arguments to stderr, and returns the exit code.
pub(crate) fn wrong_usage(error: &UsageError) -> ExitCode {
    eprintln!("error: {}\n\nFor more information, try '--help'.", chain(error));
    ExitCode::from(WRONG_USAGE)
}
