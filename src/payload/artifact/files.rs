//! Selection of the files that become an artifact.

use std::path::{Path, PathBuf};

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::error::ArtifactError;

/// A file or directory to create an artifact from, and the patterns of files to exclude.
///
/// ```
/// # use flowright::Files;
/// let files = Files::at("model").exclude("*.tmp").exclude("/cache/").exclude("!keep.tmp");
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is read until an artifact is made of the files"]
pub struct Files {
    root: PathBuf,
    patterns: Vec<String>,
}

impl Files {
    /// Selects everything at `path`.
    pub fn at(path: impl AsRef<Path>) -> Self {
        Self { root: path.as_ref().to_owned(), patterns: Vec::new() }
    }

    /// Excludes files that match `pattern`, which has the syntax of a line in `.gitignore`: `*.tmp` matches in all
    /// directories, `/cache` only at the root, `target/` matches directories with everything in them, and `!keep.tmp`
    /// includes a file that an earlier pattern excluded. The root itself is never excluded. A malformed pattern is an
    /// error when the artifact is created.
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

/// The compiled exclusion patterns.
pub(super) struct Excluded(Gitignore);

impl Excluded {
    /// Returns whether the file or directory at this path, relative to the root, is excluded. The caller has checked
    /// its parent directories.
    pub(super) fn has(&self, path: &Path, is_directory: bool) -> bool {
        self.0.matched(path, is_directory).is_ignore()
    }
}
