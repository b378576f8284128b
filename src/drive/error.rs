//! Errors of drives.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Error returned when an operation on a drive failed.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum DriveError {
    /// The name or URL of the drive is malformed.
    #[error("`{drive}` is not a valid drive: {why}")]
    BadDrive {
        /// The name or URL.
        drive: String,
        /// The fault of the name or URL, and a correction.
        why: String,
    },
    /// The name of the file or directory is malformed.
    #[error(
        "`{name}` is not a valid name in the drive `{drive}`: {why}; names are like `reports/2024/one.txt`"
    )]
    BadName {
        /// The drive.
        drive: String,
        /// The name.
        name: String,
        /// The rule that the name breaks.
        why: &'static str,
    },
    /// The drive has no file with this name.
    #[error("there is no `{name}` in the drive `{drive}`; `list(\"\")` lists all files")]
    NotFound {
        /// The drive.
        drive: String,
        /// The name.
        name: String,
    },
    /// The drive has a file with this name, and overwriting was not requested.
    #[error(
        "there is a `{name}` in the drive `{drive}` already; put it by another name, or with `.overwrite(true)`"
    )]
    Exists {
        /// The drive.
        drive: String,
        /// The name.
        name: String,
    },
    /// The local destination path exists already, and overwriting was not requested.
    #[error("{into} exists already; get `{name}` to another path, or with `.overwrite(true)`")]
    ExistsHere {
        /// The destination path.
        into: PathBuf,
        /// The name in the drive.
        name: String,
    },
    /// A local file could not be read or written.
    #[error("{path} cannot be {what}: {why}")]
    Local {
        /// Path of the local file.
        path: PathBuf,
        /// The operation that failed, as a participle: `read` or `written`.
        what: &'static str,
        /// The error of the system.
        why: String,
    },
    /// The file was replaced while it was being read.
    #[error("`{name}` in the drive `{drive}` was replaced while it was read; read it again")]
    Changed {
        /// The drive.
        drive: String,
        /// The name.
        name: String,
    },
    /// The disk of the drive is full.
    #[error(
        "there is no room in the drive `{drive}` for `{name}`: {why}; delete files, or move the drive to another disk with `--drive-dir`"
    )]
    NoRoom {
        /// The drive.
        drive: String,
        /// The name.
        name: String,
        /// The error of the system.
        why: String,
    },
    /// Permission was denied.
    #[error("the drive `{drive}` denied permission: {why}")]
    Denied {
        /// The drive.
        drive: String,
        /// The error of the storage service or the system.
        why: String,
    },
    /// The storage service, the head, or the directory of the drive cannot be reached.
    #[error("the drive `{drive}` cannot be reached: {why}")]
    Unreachable {
        /// The drive.
        drive: String,
        /// The cause.
        why: String,
    },
    /// A drive with a plain name belongs to an App, and the caller is not inside exactly one App.
    #[error("the drive `{drive}` belongs to an App; {why}")]
    NoApp {
        /// The drive.
        drive: String,
        /// Why the App cannot be determined, and what to do.
        why: &'static str,
    },
    /// Any other failure.
    #[error("an operation on the drive `{drive}` failed: {why}")]
    Failed {
        /// The drive.
        drive: String,
        /// The cause.
        why: String,
    },
}

/// Error of a [`Store`](super::Store), which does not know the name of its drive.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StoreError {
    #[error("there is no such file")]
    NotFound,
    #[error("the file exists already")]
    Exists,
    #[error("the file was replaced")]
    Changed,
    #[error("{0}")]
    NoRoom(String),
    #[error("{0}")]
    Denied(String),
    #[error("{0}")]
    Unreachable(String),
    /// The source of a put could not be read.
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
