//! Unpacking of a stream into files.
//!
//! # Guarantees
//! - The destination path exists only once everything is unpacked; after a failure, nothing is left of it.
//! - Nothing is written outside of the destination; see `manifest`.
//! - An existing destination is replaced last, and only if that was requested.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

use super::error::ArtifactError;
use super::manifest::{Item, Kind, Manifest, PERMISSIONS};
use super::pack::{LENGTH, place};
use crate::atomic_file::StagedPath;
use crate::wire;

const BUFFER: usize = 256 << 10;

/// Destination of an unpacking, and how to treat it.
pub(super) struct Destination<'a> {
    pub(super) into: &'a Path,
    pub(super) overwrite: bool,
    /// Polled before each buffer; unpacking is cancelled when it returns `false`.
    pub(super) is_wanted: &'a dyn Fn() -> bool,
}

/// Unpacks a stream of `length` bytes.
pub(super) fn unpack(
    packed: &mut dyn Read,
    length: u64,
    destination: &Destination<'_>,
) -> Result<(), ArtifactError> {
    let manifest = manifest(packed, length)?;
    let into = destination.into;
    let staged = StagedPath::of(into).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidFilename => ArtifactError::NoName { into: into.to_owned() },
        _ => ArtifactError::write(into, error),
    })?;
    write(&manifest, packed, staged.path(), destination).map_err(|error| match error {
        // The staging path is meaningless to the caller, so the error names the final path.
        ArtifactError::Write { path, error } => match path.strip_prefix(staged.path()) {
            Ok(below) if below.as_os_str().is_empty() => ArtifactError::write(into, error),
            Ok(below) => ArtifactError::write(&into.join(below), error),
            Err(_) => ArtifactError::Write { path, error },
        },
        error => error,
    })?;
    staged.commit(destination.overwrite).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => ArtifactError::Exists { into: into.to_owned() },
        _ => ArtifactError::write(into, error),
    })
}

fn unreadable(error: &dyn std::fmt::Display) -> ArtifactError {
    ArtifactError::malformed(format!("it cannot be read: {error}"))
}

/// Reads the manifest and refuses one that is not safe to unpack.
fn manifest(packed: &mut dyn Read, length: u64) -> Result<Manifest, ArtifactError> {
    let mut bytes = [0; LENGTH as usize];
    packed.read_exact(&mut bytes).map_err(|error| unreadable(&error))?;
    let encoded = u64::from_be_bytes(bytes);
    let contents = length.checked_sub(LENGTH).and_then(|left| left.checked_sub(encoded));
    let contents = contents.ok_or_else(|| {
        ArtifactError::malformed(format!(
            "its manifest has {encoded} bytes, which exceeds its length of {length} bytes"
        ))
    })?;
    let mut packed = packed.take(encoded);
    let manifest: Manifest = wire::decode_from(&mut packed).map_err(|error| unreadable(&error))?;
    if packed.limit() > 0 {
        return Err(ArtifactError::malformed("there are extra bytes between its manifest and its files"));
    }
    manifest.check().map_err(ArtifactError::malformed)?;
    if manifest.size() != Some(contents) {
        let said = manifest.size().unwrap_or_default();
        return Err(ArtifactError::malformed(format!(
            "its manifest lists files of {said} bytes, but {contents} bytes follow it"
        )));
    }
    Ok(manifest)
}

fn write(
    manifest: &Manifest,
    packed: &mut dyn Read,
    root: &Path,
    destination: &Destination<'_>,
) -> Result<(), ArtifactError> {
    let mut buffer = vec![0; BUFFER];
    for Item { path, mode, kind } in &manifest.0 {
        let path = place(root, path);
        let failed = |error| ArtifactError::write(&path, error);
        match kind {
            // Files are created in the directory before its final permissions, which may forbid writing, are set.
            Kind::Directory => DirBuilder::new().mode(0o700).create(&path).map_err(failed)?,
            Kind::File { size } => {
                let mut file = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(&path)
                    .map_err(failed)?;
                let mut left = *size;
                while left > 0 {
                    if !(destination.is_wanted)() {
                        return Err(ArtifactError::GivenUp { into: destination.into.to_owned() });
                    }
                    let now = &mut buffer[..usize::try_from(left).unwrap_or(BUFFER).min(BUFFER)];
                    packed.read_exact(now).map_err(|error| unreadable(&error))?;
                    file.write_all(now).map_err(failed)?;
                    left -= now.len() as u64;
                }
                file.set_permissions(Permissions::from_mode(mode & PERMISSIONS)).map_err(failed)?;
            }
            Kind::Symlink { .. } => {}
        }
    }
    // Symlinks are created after all files, so that no file is written through one.
    for Item { path, kind, .. } in &manifest.0 {
        if let Kind::Symlink { target } = kind {
            let path = place(root, path);
            symlink(std::ffi::OsStr::from_bytes(target), &path)
                .map_err(|error| ArtifactError::write(&path, error))?;
        }
    }
    // In reverse order, since the final permissions of a directory may make its children inaccessible.
    for Item { path, mode, kind } in manifest.0.iter().rev() {
        if *kind == Kind::Directory {
            let path = place(root, path);
            fs::set_permissions(&path, Permissions::from_mode(mode & PERMISSIONS))
                .map_err(|error| ArtifactError::write(&path, error))?;
        }
    }
    Ok(())
}
