//! Values as they are stored in this process: decoded in memory, encoded in memory, or in a file on disk.
//!
//! # Guarantees
//! - Peers receive the same bytes whatever the stored form is; a decoded value is encoded while it is sent.

use std::io;
#[cfg(feature = "journal")]
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::chunk_hashes::{CHUNK, ChunkHashes};
use super::codec::{AnyValue, Form, as_bytes};
use super::spill::Spilled;
use super::store::PayloadGuards;
use crate::fence::Fenced;
use crate::wire::CodecError;

/// A value that is stored in this process, in one of the forms of [`Body`].
#[derive(Clone)]
pub(crate) struct StoredBlob {
    pub(crate) hashes: ChunkHashes,
    pub(crate) type_name: Arc<str>,
    /// The payloads that this value refers to. They live as long as this value does, whatever its stored form is.
    pub(crate) nested: PayloadGuards,
    pub(super) body: Body,
}

#[derive(Clone)]
pub(super) enum Body {
    /// The decoded value. It is fenced because the thread that sends it to a peer may drop the last reference, and so
    /// run a user's `Drop`.
    Value(Fenced<AnyValue>, &'static Form),
    Bytes(Bytes),
    File(Arc<Spilled>),
}

impl StoredBlob {
    /// Creates a blob that holds the decoded value in memory.
    pub(super) fn value(
        value: AnyValue,
        form: &'static Form,
        hashes: ChunkHashes,
        nested: PayloadGuards,
    ) -> Self {
        let body = Body::Value(Fenced::new(value), form);
        Self { hashes, type_name: form.type_name().into(), nested, body }
    }

    /// Creates a blob that holds encoded bytes in memory.
    #[cfg(feature = "journal")]
    pub(crate) fn bytes(
        bytes: Bytes,
        hashes: ChunkHashes,
        type_name: Arc<str>,
        nested: PayloadGuards,
    ) -> Self {
        Self { hashes, type_name, nested, body: Body::Bytes(bytes) }
    }

    /// Creates a blob whose encoded bytes are the content of a file with a name.
    #[cfg(feature = "journal")]
    pub(crate) fn named_file(
        path: PathBuf,
        hashes: ChunkHashes,
        type_name: Arc<str>,
        nested: PayloadGuards,
    ) -> Self {
        let body = Body::File(Arc::new(Spilled::named(path, hashes.length())));
        Self { hashes, type_name, nested, body }
    }

    pub(super) fn is_in_memory(&self) -> bool {
        !matches!(self.body, Body::File(_))
    }

    /// Returns the encoded bytes if they are in memory and need no encoding.
    pub(crate) fn at_hand(&self) -> Option<&[u8]> {
        match &self.body {
            Body::Value(value, _) => as_bytes(value),
            Body::Bytes(bytes) => Some(bytes),
            Body::File(_) => None,
        }
    }

    /// Writes the encoded bytes from `offset` on, encoding the value or reading its file where necessary.
    pub(crate) fn write_from(&self, offset: u64, out: &mut dyn io::Write) -> Result<(), CodecError> {
        let failed = CodecError::written::<Bytes>;
        if let Some(bytes) = self.at_hand() {
            let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
            return bytes[from..].chunks(CHUNK).try_for_each(|chunk| out.write_all(chunk)).map_err(failed);
        }
        match &self.body {
            Body::File(file) => {
                let mut buffer = vec![0; CHUNK];
                let mut at = offset;
                while at < file.length() {
                    let length = (file.length() - at).min(CHUNK as u64);
                    let chunk = &mut buffer[..length as usize];
                    file.read(at, chunk).and_then(|()| out.write_all(chunk)).map_err(failed)?;
                    at += length;
                }
                Ok(())
            }
            Body::Value(value, form) => {
                let mut out = io::BufWriter::with_capacity(CHUNK, Skip { skip: offset, out });
                form.write(value, &mut out)?;
                io::Write::flush(&mut out).map_err(failed)
            }
            Body::Bytes(_) => unreachable!("`at_hand` returns bytes in memory"),
        }
    }
}

/// A writer that discards the first `skip` bytes.
struct Skip<'a> {
    skip: u64,
    out: &'a mut dyn io::Write,
}

impl io::Write for Skip<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let skipped = self.skip.min(bytes.len() as u64);
        self.skip -= skipped;
        self.out.write_all(&bytes[skipped as usize..])?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
