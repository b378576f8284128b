//! Packing of files into one stream: the length of the manifest (8 bytes, big-endian), the manifest as MessagePack,
//! and the contents of the files in the order of the manifest.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::error::ArtifactError;
use super::files::Files;
use super::manifest::{Item, Kind, Manifest, PERMISSIONS};
use crate::wire;

/// Size of the read buffer in bytes.
const BUFFER: usize = 256 << 10;

/// Size of the manifest's length field in bytes.
pub(super) const LENGTH: u64 = 8;

/// Files to be packed, with their manifest.
#[derive(Debug)]
pub(super) struct Packing {
    root: PathBuf,
    manifest: Manifest,
    encoded: Bytes,
    size: u64,
}

impl Packing {
    /// Walks the tree and builds its manifest. No file is opened yet.
    pub(super) fn of(files: &Files) -> Result<Self, ArtifactError> {
        let root = files.root();
        let excluded = files.excluded()?;
        // The root may be a symlink; its target is packed.
        let metadata = match fs::metadata(root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let directory = std::env::current_dir().unwrap_or_default();
                return Err(ArtifactError::NothingThere { path: root.to_owned(), directory });
            }
            found => found.map_err(|source| ArtifactError::read(root, source))?,
        };
        let mut items = vec![item(root, Bytes::new(), &metadata)?];
        let mut directories =
            if metadata.is_dir() { vec![(root.to_owned(), Bytes::new())] } else { Vec::new() };
        while let Some((directory, above)) = directories.pop() {
            let entries =
                fs::read_dir(&directory).map_err(|source| ArtifactError::read(&directory, source))?;
            for entry in entries {
                let entry = entry.map_err(|source| ArtifactError::read(&directory, source))?;
                let path = entry.path();
                let metadata = entry.metadata().map_err(|source| ArtifactError::read(&path, source))?;
                let mut below = above.to_vec();
                if !below.is_empty() {
                    below.push(b'/');
                }
                below.extend_from_slice(entry.file_name().as_bytes());
                // A directory that is excluded is not walked.
                if excluded.has(Path::new(std::ffi::OsStr::from_bytes(&below)), metadata.is_dir()) {
                    continue;
                }
                let below = Bytes::from(below);
                items.push(item(&path, below.clone(), &metadata)?);
                if metadata.is_dir() {
                    directories.push((path, below));
                }
            }
        }
        items.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let manifest = Manifest(items);
        manifest.check_links().map_err(|bad| {
            let Item { path, kind, .. } = &manifest.0[bad.nth];
            let Kind::Symlink { target } = kind else { unreachable!("only symlinks are looked at") };
            let target = PathBuf::from(std::ffi::OsString::from_vec(target.to_vec()));
            ArtifactError::Symlink { path: place(root, path), target, why: bad.why }
        })?;
        let too_large = || ArtifactError::NoRoom {
            path: root.to_owned(),
            why: "its files are larger than can be counted".to_owned(),
        };
        let encoded = wire::encode(&manifest).map_err(|error| ArtifactError::malformed(error.to_string()))?;
        let size = manifest.size().and_then(|size| size.checked_add(LENGTH + encoded.len() as u64));
        Ok(Self { root: root.to_owned(), size: size.ok_or_else(too_large)?, encoded, manifest })
    }

    pub(super) fn is_directory(&self) -> bool {
        matches!(self.manifest.0[0].kind, Kind::Directory)
    }

    /// Returns how many bytes [`write`](Self::write) writes.
    pub(super) fn length(&self) -> u64 {
        self.size
    }

    /// Writes the whole stream. `failed` converts an error of `out`.
    pub(super) fn write(
        &self,
        out: &mut dyn Write,
        failed: impl Fn(io::Error) -> ArtifactError,
    ) -> Result<(), ArtifactError> {
        let length = self.encoded.len() as u64;
        out.write_all(&length.to_be_bytes()).and_then(|()| out.write_all(&self.encoded)).map_err(&failed)?;
        let mut buffer = vec![0; BUFFER];
        for item in &self.manifest.0 {
            let Kind::File { size } = item.kind else { continue };
            let path = place(&self.root, &item.path);
            let mut file = open(&path, item.path.is_empty())?;
            let read = |source| ArtifactError::read(&path, source);
            let changed = || ArtifactError::Changed { path: path.clone() };
            let now = file.metadata().map_err(read)?;
            if !now.is_file() || now.len() != size {
                return Err(changed());
            }
            let mut left = size;
            loop {
                let length = match file.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(length) => length,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(read(error)),
                };
                left = left.checked_sub(length as u64).ok_or_else(changed)?;
                out.write_all(&buffer[..length]).map_err(&failed)?;
            }
            let after = file.metadata().map_err(read)?;
            if left > 0 || (after.mtime(), after.mtime_nsec()) != (now.mtime(), now.mtime_nsec()) {
                return Err(changed());
            }
        }
        Ok(())
    }
}

fn item(path: &Path, below: Bytes, metadata: &Metadata) -> Result<Item, ArtifactError> {
    let kind = metadata.file_type();
    let kind = if kind.is_dir() {
        Kind::Directory
    } else if kind.is_file() {
        Kind::File { size: metadata.len() }
    } else if kind.is_symlink() {
        let target = fs::read_link(path).map_err(|source| ArtifactError::read(path, source))?;
        Kind::Symlink { target: target.into_os_string().into_vec().into() }
    } else {
        return Err(ArtifactError::NoFile { path: path.to_owned() });
    };
    // The modes of symlinks have no effect, and differ between systems.
    let mode = if metadata.is_symlink() { PERMISSIONS } else { metadata.mode() & PERMISSIONS };
    Ok(Item { path: below, mode, kind })
}

/// Opens a file that was regular when the tree was walked. It follows no symlink except at the root, and does not
/// block on a pipe.
fn open(path: &Path, may_be_symlink: bool) -> Result<File, ArtifactError> {
    let flags = libc::O_NONBLOCK | if may_be_symlink { 0 } else { libc::O_NOFOLLOW };
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    opened.map_err(|source| match source.raw_os_error() {
        Some(libc::ELOOP) => ArtifactError::Changed { path: path.to_owned() },
        _ if source.kind() == io::ErrorKind::NotFound => ArtifactError::Changed { path: path.to_owned() },
        _ => ArtifactError::read(path, source),
    })
}

/// Returns the path of an item below `root`.
pub(super) fn place(root: &Path, below: &[u8]) -> PathBuf {
    if below.is_empty() { root.to_owned() } else { root.join(std::ffi::OsStr::from_bytes(below)) }
}
