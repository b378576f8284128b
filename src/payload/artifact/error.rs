//! Errors of artifacts.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::super::error::PayloadError;

/// Error returned when an artifact could not be created or fetched.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ArtifactError {
    /// The path to create the artifact from does not exist.
    #[error(
        "cannot create an artifact: there is nothing at {path}; a relative path is resolved against {directory}"
    )]
    NothingThere {
        /// The path as it was given.
        path: PathBuf,
        /// The working directory of the process.
        directory: PathBuf,
    },
    /// A file or directory could not be read.
    #[error("cannot create an artifact: {path} cannot be read: {error}")]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
    /// A file changed while it was being read.
    #[error(
        "{path} changed while it was copied into an artifact; create the artifact after all writes have finished"
    )]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The tree contains something that is neither a file, a directory nor a symlink.
    #[error("{path} is neither a file, a directory nor a symlink; exclude it from the artifact")]
    NoFile {
        /// Its path.
        path: PathBuf,
    },
    /// A symlink points to something that is not part of the tree.
    #[error(
        "the symlink {path} points to {target}, which {why}; replace it by a copy, or create the artifact from a \
         directory that contains both"
    )]
    Symlink {
        /// The path of the symlink.
        path: PathBuf,
        /// The target of the symlink.
        target: PathBuf,
        /// Why the target is not part of the tree.
        why: &'static str,
    },
    /// An exclusion pattern is malformed.
    #[error(
        "the exclusion pattern {pattern:?} of an artifact is malformed: {why}; use the syntax of a line in .gitignore"
    )]
    Pattern {
        /// The pattern.
        pattern: String,
        /// The error of the pattern's parser.
        why: String,
    },
    /// There is not enough disk space for the artifact.
    #[error("there is no room for the artifact of {path}: {why}")]
    NoRoom {
        /// The path to create the artifact from.
        path: PathBuf,
        /// Which budget or disk is full, and which option changes that.
        why: String,
    },
    /// The artifact could not be pulled to this machine.
    #[error("the artifact cannot be fetched to {into}")]
    Unavailable {
        /// The destination path.
        into: PathBuf,
        /// The error of the transfer, which says what to do.
        #[source]
        source: PayloadError,
    },
    /// The destination path exists already.
    #[error("{into} exists already; fetch the artifact to another path, or with `.overwrite(true)`")]
    Exists {
        /// The destination path.
        into: PathBuf,
    },
    /// The destination path has no last component that could name the artifact.
    #[error("{into} has no last component to name the artifact; end the path with a file name")]
    NoName {
        /// The destination path.
        into: PathBuf,
    },
    /// A part of the artifact could not be written. Nothing is left at the destination.
    #[error("{path} cannot be written: {error}; nothing is left of the fetched artifact")]
    Write {
        /// The part that could not be written.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
    /// The received bytes are not a valid artifact, or one that would write outside of its root.
    #[error("the received artifact is malformed: {why}; nothing of it was written")]
    Malformed {
        /// The fault in the received bytes.
        why: String,
    },
    /// The fetch was cancelled, because its future was dropped.
    #[error("fetching the artifact to {into} was cancelled")]
    GivenUp {
        /// The destination path.
        into: PathBuf,
    },
}

impl ArtifactError {
    pub(super) fn read(path: &Path, error: io::Error) -> Self {
        Self::Read { path: path.to_owned(), error }
    }

    pub(super) fn write(path: &Path, error: io::Error) -> Self {
        Self::Write { path: path.to_owned(), error }
    }

    pub(super) fn malformed(why: impl Into<String>) -> Self {
        Self::Malformed { why: why.into() }
    }
}
