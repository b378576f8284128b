//! What goes wrong with drives.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Something could not be done with a drive.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum DriveError {
    /// That is no drive.
    #[error("`{drive}` is no drive: {why}")]
    BadDrive {
        /// The name or URL.
        drive: String,
        /// What is wrong with it, and what to write instead.
        why: String,
    },
    /// That can be no name in a drive.
    #[error("`{name}` is no name in the drive `{drive}`: {why}; names are like `reports/2024/one.txt`")]
    BadName {
        /// The drive.
        drive: String,
        /// The name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// There is no file by that name.
    #[error("there is no `{name}` in the drive `{drive}`; `list(\"\")` says what there is")]
    NotFound {
        /// The drive.
        drive: String,
        /// The name.
        name: String,
    },
    /// There is a file by that name, which was not to be replaced.
    #[error(
        "there is a `{name}` in the drive `{drive}` already; put it by another name, or with `.overwrite(true)`"
    )]
    Exists {
        /// The drive.
        drive: String,
        /// The name.
        name: String,
    },
    /// There is something at the path that a file is wanted at.
    #[error("there is something at {into} already; get `{name}` to another path, or with `.overwrite(true)`")]
    ExistsHere {
        /// Where it was wanted.
        into: PathBuf,
        /// The name in the drive.
        name: String,
    },
    /// A file on this machine cannot be read or written.
    #[error("{path} cannot be {what}: {why}")]
    Local {
        /// Which file.
        path: PathBuf,
        /// What was to be done with it.
        what: &'static str,
        /// What the system said.
        why: String,
    },
    /// The file was replaced while it was read.
    #[error("`{name}` in the drive `{drive}` was replaced while it was read; read it again")]
    Changed {
        /// The drive.
        drive: String,
        /// The name.
        name: String,
    },
    /// There is no room on the disk of the drive.
    #[error(
        "there is no room in the drive `{drive}` for `{name}`: {why}; delete what is not needed, or give it another disk with `--drive-dir`"
    )]
    NoRoom {
        /// The drive.
        drive: String,
        /// The name.
        name: String,
        /// What the system said.
        why: String,
    },
    /// It is not allowed.
    #[error("the drive `{drive}` does not allow it: {why}")]
    Denied {
        /// The drive.
        drive: String,
        /// What the service or the system said.
        why: String,
    },
    /// The drive cannot be reached.
    #[error("the drive `{drive}` cannot be reached: {why}")]
    Unreachable {
        /// The drive.
        drive: String,
        /// Why.
        why: String,
    },
    /// A drive by name is at the head of an App, and this is no part of one.
    #[error("the drive `{drive}` is at the head of an App; {why}")]
    NoApp {
        /// The drive.
        drive: String,
        /// In what way it cannot be told of which.
        why: &'static str,
    },
    /// Anything else.
    #[error("with the drive `{drive}` something failed: {why}")]
    Failed {
        /// The drive.
        drive: String,
        /// What.
        why: String,
    },
}

/// What goes wrong at a store, which knows neither what the drive is called nor who asked.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StoreError {
    #[error("there is no such file")]
    NotFound,
    #[error("there is one already")]
    Exists,
    #[error("it was replaced")]
    Changed,
    #[error("{0}")]
    NoRoom(String),
    #[error("{0}")]
    Denied(String),
    #[error("{0}")]
    Unreachable(String),
    /// What was to be put cannot be read.
    #[error("{0}")]
    Source(String),
    #[error("{0}")]
    Failed(String),
}

impl StoreError {
    pub(super) fn with(self, drive: &str, name: &str, path: Option<&Path>) -> DriveError {
        let (drive, name) = (drive.to_owned(), name.to_owned());
        match self {
            Self::NotFound => DriveError::NotFound { drive, name },
            Self::Exists => DriveError::Exists { drive, name },
            Self::Changed => DriveError::Changed { drive, name },
            Self::NoRoom(why) => DriveError::NoRoom { drive, name, why },
            Self::Denied(why) => DriveError::Denied { drive, why },
            Self::Unreachable(why) => DriveError::Unreachable { drive, why },
            Self::Source(why) => match path {
                Some(path) => DriveError::Local { path: path.to_owned(), what: "read", why },
                None => DriveError::Failed { drive, why },
            },
            Self::Failed(why) => DriveError::Failed { drive, why },
        }
    }
}
