//! What an artifact is made of.

use std::path::{Path, PathBuf};

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::error::ArtifactError;

/// A file or a directory of which an artifact is made, and what is left out of it.
///
/// ```
/// # use flowright::Files;
/// let files = Files::at("model").exclude("*.tmp").exclude("/cache/").exclude("!keep.tmp");
/// ```
#[derive(Debug, Clone)]
pub struct Files {
    root: PathBuf,
    patterns: Vec<String>,
}

impl Files {
    /// All that is at `path`.
    pub fn at(path: impl AsRef<Path>) -> Self {
        Self { root: path.as_ref().to_owned(), patterns: Vec::new() }
    }

    /// Leaves out what matches `pattern`, which has the syntax of a line in `.gitignore`: `*.tmp` matches in all directories, `/cache` at
    /// the root only, `target/` directories with all that is in them, and `!keep.tmp` takes back what an earlier pattern has left out. The
    /// root itself is never left out. A malformed pattern is an error when the artifact is made.
    pub fn exclude(mut self, pattern: impl Into<String>) -> Self {
        self.patterns.push(pattern.into());
        self
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn excluded(&self) -> Result<Excluded, ArtifactError> {
        let mut builder = GitignoreBuilder::new("");
        for pattern in &self.patterns {
            let wrong = |error: ignore::Error| ArtifactError::Pattern {
                pattern: pattern.clone(),
                why: error.to_string(),
            };
            builder.add_line(None, pattern).map_err(wrong)?;
        }
        let all = || self.patterns.join(" ");
        builder
            .build()
            .map(Excluded)
            .map_err(|error| ArtifactError::Pattern { pattern: all(), why: error.to_string() })
    }
}

impl<P: AsRef<Path>> From<P> for Files {
    fn from(path: P) -> Self {
        Self::at(path)
    }
}

/// What is left out.
pub(super) struct Excluded(Gitignore);

impl Excluded {
    /// Whether the file or directory at this path, relative to the root, is left out. The directories above it are not.
    pub(super) fn has(&self, path: &Path, is_directory: bool) -> bool {
        self.0.matched(path, is_directory).is_ignore()
    }
}
