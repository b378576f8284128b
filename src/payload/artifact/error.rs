//! What goes wrong with artifacts.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::super::error::PayloadError;

/// An artifact could not be made or fetched.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ArtifactError {
    /// There is nothing at the path that it should be made of.
    #[error(
        "there is nothing at {path}, of which an artifact was to be made; a relative path is one below {directory}"
    )]
    NothingThere {
        /// The path that was given.
        path: PathBuf,
        /// The directory in which the process runs.
        directory: PathBuf,
    },
    /// A file or directory could not be read.
    #[error("{path}, which an artifact was to be made of, cannot be read: {error}")]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A file was written to while it was read.
    #[error("{path} changed while an artifact was made of it; make one when all of it is written")]
    Changed {
        /// Which file.
        path: PathBuf,
    },
    /// There is something that is neither a file nor a directory nor a symlink.
    #[error("{path} is neither a file nor a directory nor a symlink; leave it out of the artifact")]
    NoFile {
        /// Which.
        path: PathBuf,
    },
    /// A symlink leads to something that is not part of the tree.
    #[error(
        "the symlink {path} points to {target}, which {why}; put a copy in its place, or make the artifact of a \
         directory that has both"
    )]
    Symlink {
        /// Where the symlink is.
        path: PathBuf,
        /// What it points to.
        target: PathBuf,
        /// In what way that is none of the tree's.
        why: &'static str,
    },
    /// A pattern of what is to be left out cannot be used.
    #[error(
        "the pattern {pattern:?} of what an artifact leaves out cannot be used: {why}; write it as a line in .gitignore"
    )]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        why: String,
    },
    /// There is no room for it.
    #[error("there is no room for the artifact of {path}: {why}")]
    NoRoom {
        /// What it was to be made of.
        path: PathBuf,
        /// What is full, and what to do.
        why: String,
    },
    /// It cannot be had here.
    #[error("the artifact cannot be fetched to {into}")]
    Unavailable {
        /// Where it was wanted.
        into: PathBuf,
        /// Why, and what to do.
        #[source]
        source: PayloadError,
    },
    /// There is something at the path that it is wanted at.
    #[error(
        "there is something at {into} already; fetch the artifact to another path, or with `.overwrite(true)`"
    )]
    Exists {
        /// Where it was wanted.
        into: PathBuf,
    },
    /// The path that it is wanted at has no last part that could be its name.
    #[error("{into} cannot be the name of what is fetched; end the path with the name that it is to have")]
    NoName {
        /// Where it was wanted.
        into: PathBuf,
    },
    /// It could not be written.
    #[error("{path} cannot be written: {error}; nothing is left of what was fetched")]
    Write {
        /// Which part of it.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// What was sent is no tree that could be written.
    #[error("what was sent as an artifact is refused: {why}; nothing of it was written")]
    Malformed {
        /// What is wrong with it.
        why: String,
    },
    /// Nobody waits for it any more.
    #[error("the artifact was not fetched to {into}: it was given up")]
    GivenUp {
        /// Where it was wanted.
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
