//! From one stream to files.
//!
//! # Guarantees
//! - What is unpacked has its name once all of it is there; whatever goes wrong, nothing is left of it.
//! - Nothing is written that is not inside; see `manifest`.
//! - What was there is given up last, and only if that was asked for.

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

/// Where something is to be unpacked.
pub(super) struct Destination<'a> {
    pub(super) into: &'a Path,
    pub(super) overwrite: bool,
    /// Asked now and then.
    pub(super) is_wanted: &'a dyn Fn() -> bool,
}

/// Unpacks `length` bytes.
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
        // Nobody knows it by the name that it has for now.
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

/// Reads what there is, and refuses what must not be written.
fn manifest(packed: &mut dyn Read, length: u64) -> Result<Manifest, ArtifactError> {
    let mut bytes = [0; LENGTH as usize];
    packed.read_exact(&mut bytes).map_err(|error| unreadable(&error))?;
    let encoded = u64::from_be_bytes(bytes);
    let contents = length.checked_sub(LENGTH).and_then(|left| left.checked_sub(encoded));
    let contents = contents.ok_or_else(|| {
        ArtifactError::malformed(format!("of {length} bytes, {encoded} are to say what there is"))
    })?;
    let mut packed = packed.take(encoded);
    let manifest: Manifest = wire::decode_from(&mut packed).map_err(|error| unreadable(&error))?;
    if packed.limit() > 0 {
        return Err(ArtifactError::malformed("there is something between its manifest and its files"));
    }
    manifest.check().map_err(ArtifactError::malformed)?;
    if manifest.size() != Some(contents) {
        let said = manifest.size().unwrap_or_default();
        return Err(ArtifactError::malformed(format!(
            "its files are to have {said} bytes, and {contents} came"
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
            // Written to before it is perhaps made unwritable.
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
    // Once nothing is written by way of them.
    for Item { path, kind, .. } in &manifest.0 {
        if let Kind::Symlink { target } = kind {
            let path = place(root, path);
            symlink(std::ffi::OsStr::from_bytes(target), &path)
                .map_err(|error| ArtifactError::write(&path, error))?;
        }
    }
    // What is inside first, since a directory may be made unreadable.
    for Item { path, mode, kind } in manifest.0.iter().rev() {
        if *kind == Kind::Directory {
            let path = place(root, path);
            fs::set_permissions(&path, Permissions::from_mode(mode & PERMISSIONS))
                .map_err(|error| ArtifactError::write(&path, error))?;
        }
    }
    Ok(())
}
