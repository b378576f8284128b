//! Values of payloads: rows of table `value`, and files beside the journal.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rusqlite::{Row, params};

use super::rows::Rows;
use super::{SqliteStore, encoding};
use crate::fence;
use crate::journal::encoding::{Kind, checksum};
use crate::journal::values::{Content, Nested, NewValue, StoredValue, ValueChanges, ValueKey};
use crate::journal::{JournalError, Sync};
use crate::payload::{ChunkHashes, Hex};

/// Name of the directory of files.
pub(in crate::journal) const DIRECTORY: &str = "payloads";

/// Files that were written for a group which is not committed yet, and values whose bytes could not be written.
#[derive(Default)]
pub(super) struct Written {
    files: HashSet<ValueKey>,
    failed: HashSet<ValueKey>,
}

/// Returns the name of the file of a value: its hash, and a digest of the name of its type.
fn file_name(key: &ValueKey) -> String {
    let digest = blake3::hash(key.type_name.as_bytes()).to_hex();
    format!("{}-{}", key.hash, &digest[..8])
}

/// Returns true for the names of files of values, and of those that are being written.
fn is_file_name(name: &str) -> bool {
    let name = name.strip_prefix('.').unwrap_or(name);
    let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    name.split_once('-')
        .is_some_and(|(hash, of)| hash.len() == 64 && of.len() == 8 && is_hex(hash) && is_hex(of))
}

/// The writer of a file, which computes the hash of its content, and tells its own errors from those of what it writes.
struct HashedFile<'a> {
    file: &'a File,
    hasher: blake3::Hasher,
    error: Option<io::Error>,
}

impl Write for HashedFile<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Err(error) = self.file.write_all(bytes) {
            let kind = error.kind();
            self.error = Some(error);
            return Err(kind.into());
        }
        self.hasher.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns the bytes of a small value, or a description of the problem.
fn encode(value: &NewValue) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(usize::try_from(value.length()).unwrap_or_default());
    match fence::call(|| value.blob.write_from(0, &mut bytes)) {
        Err(panic) => Err(format!("its `Serialize` panicked: {panic}")),
        Ok(Err(error)) => Err(error.to_string()),
        Ok(Ok(())) if blake3::hash(&bytes) != value.key.hash.0 => {
            Err("it is encoded otherwise than when it was made".to_owned())
        }
        Ok(Ok(())) => Ok(bytes),
    }
}

fn not_recorded(key: &ValueKey, why: &str) {
    log::error!(
        "the journal does not have the value of a payload with hash {} and type `{}`: {why}",
        key.hash,
        crate::printable::one_line(&key.type_name)
    );
}

/// A row of table `value`, without its number.
struct ValueRow {
    hash: Vec<u8>,
    type_name: String,
    length: u64,
    chunks: Vec<u8>,
    nested: Vec<u8>,
    /// `None` if the value is in a file.
    value: Option<Vec<u8>>,
}

impl ValueRow {
    fn new(key: &ValueKey, hashes: &ChunkHashes, nested: Vec<u8>, value: Option<Vec<u8>>) -> Self {
        Self {
            hash: key.hash.0.to_vec(),
            type_name: key.type_name.clone(),
            length: hashes.length(),
            chunks: hashes.chunk_hashes().to_vec(),
            nested,
            value,
        }
    }

    fn sum(&self) -> i64 {
        let place = u8::from(self.value.is_none());
        let value = self.value.as_deref().unwrap_or_default();
        let Self { hash, type_name, length, chunks, nested, .. } = self;
        checksum(
            Kind::Value,
            &[hash, type_name.as_bytes(), &length.to_le_bytes(), chunks, nested, &[place], value],
        )
    }

    /// Returns the value of the row, or a description of the problem.
    fn stored(self, directory: &Path) -> Result<StoredValue, String> {
        let hash =
            Hex(self.hash.as_slice().try_into().map_err(|_| "its hash has another length".to_owned())?);
        let hashes = ChunkHashes::verified(self.length, hash.0, &self.chunks)
            .ok_or("the hashes of its parts are wrong")?;
        let nested: Vec<Nested> = encoding::decode(&self.nested)?;
        let key = ValueKey { hash, type_name: self.type_name };
        let content = match self.value {
            Some(bytes) if bytes.len() as u64 != self.length => return Err("it is not complete".to_owned()),
            Some(bytes) => Content::Bytes(Bytes::from(bytes)),
            None => {
                let path = directory.join(DIRECTORY).join(file_name(&key));
                let length = fs::metadata(&path)
                    .map_err(|error| format!("its file {} cannot be read: {error}", path.display()))?
                    .len();
                if length != self.length {
                    let wanted = self.length;
                    return Err(format!(
                        "its file {} has {length} bytes instead of {wanted}",
                        path.display()
                    ));
                }
                Content::File(path)
            }
        };
        Ok(StoredValue { key, hashes, nested, content })
    }
}

impl StoredValue {
    /// Verifies the content against its hash.
    ///
    /// # Errors
    /// A description of the problem.
    pub(in crate::journal) fn verify(&self) -> Result<(), String> {
        let hash = match &self.content {
            Content::Bytes(bytes) => blake3::hash(bytes),
            Content::File(path) => {
                let mut hasher = blake3::Hasher::new();
                let read = File::open(path).and_then(|file| hasher.update_reader(file).map(drop));
                read.map_err(|error| format!("its file {} cannot be read: {error}", path.display()))?;
                hasher.finalize()
            }
        };
        if hash == self.key.hash.0 {
            return Ok(());
        }
        Err(match &self.content {
            Content::Bytes(_) => "its bytes do not match its hash".to_owned(),
            Content::File(path) => format!("its file {} does not match its hash", path.display()),
        })
    }
}

impl Rows<'_> {
    /// Visits the rows of `value` with their numbers: each value, or a description of what is damaged.
    ///
    /// # Errors
    /// [`JournalError`] of the file, after which there is no next row.
    pub(in crate::journal) fn each_value(
        &self,
        mut visit: impl FnMut(i64, Result<StoredValue, String>),
    ) -> Result<(), JournalError> {
        let directory = self.file.parent().unwrap_or(Path::new("."));
        let mut statement = self
            .connection
            .prepare_cached(
                "SELECT id, hash, type, length, chunks, nested, value, sum FROM value ORDER BY id",
            )
            .map_err(|error| self.sqlite(error))?;
        let mut rows = statement.query([]).map_err(|error| self.sqlite(error))?;
        while let Some(row) = rows.next().map_err(|error| self.sqlite(error))? {
            let id: i64 = row.get(0).map_err(|error| self.sqlite(error))?;
            let value = match read(row) {
                Ok((row, sum)) => {
                    let name = Hex::<32>(row.hash.as_slice().try_into().unwrap_or([0; 32]));
                    let type_name = crate::printable::one_line(&row.type_name).into_owned();
                    let read = if row.sum() == sum {
                        row.stored(directory)
                    } else {
                        Err("the checksum of its row is wrong".to_owned())
                    };
                    read.map_err(|what| format!("the value {name} of type `{type_name}`: {what}"))
                }
                Err(error) => Err(format!("row {id} of table value: {error}")),
            };
            visit(id, value);
        }
        Ok(())
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<(ValueRow, i64)> {
    let length = row.get::<_, i64>(3)? as u64;
    let (hash, type_name) = (row.get(1)?, row.get(2)?);
    let (chunks, nested, value) = (row.get(4)?, row.get(5)?, row.get(6)?);
    Ok((ValueRow { hash, type_name, length, chunks, nested, value }, row.get(7)?))
}

impl SqliteStore {
    fn payload_directory(&self) -> PathBuf {
        self.file.parent().unwrap_or(Path::new(".")).join(DIRECTORY)
    }

    /// Reads the values, and removes files that no row names.
    pub(super) fn load_values(&mut self) -> Result<Vec<StoredValue>, JournalError> {
        let (mut values, mut damaged) = (Vec::new(), Vec::new());
        self.rows().each_value(|id, value| match value {
            Ok(value) => values.push(value),
            Err(problem) => {
                log::error!("{problem}; reading a payload with this value fails");
                damaged.push(id);
            }
        })?;
        self.damaged_values = damaged;
        let directory = self.payload_directory();
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(values),
            Err(error) => return Err(JournalError::io(&directory, "read", error)),
        };
        let known: HashSet<String> = values.iter().map(|value| file_name(&value.key)).collect();
        for entry in entries {
            let entry = entry.map_err(|error| JournalError::io(&directory, "read", error))?;
            let name = entry.file_name();
            let is_left_over = name.to_str().is_some_and(|name| is_file_name(name) && !known.contains(name));
            if is_left_over {
                remove(&entry.path());
            }
        }
        Ok(values)
    }

    fn has_value(&self, key: &ValueKey) -> Result<bool, JournalError> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT 1 FROM value WHERE hash = ?1 AND type = ?2")
            .map_err(|error| self.writing(error))?;
        statement.exists(params![&key.hash.0[..], key.type_name]).map_err(|error| self.writing(error))
    }

    /// Writes and syncs the files of new values, before the commit that adds their rows.
    pub(in crate::journal) fn write_files(&mut self, changes: &ValueChanges) -> Result<(), JournalError> {
        for (key, value) in changes {
            let Some(value) = value.as_deref().filter(|value| !value.is_small()) else { continue };
            if self.written_values.files.contains(key)
                || self.written_values.failed.contains(key)
                || self.has_value(key)?
            {
                continue;
            }
            match self.write_file(value)? {
                Ok(()) => self.written_values.files.insert(key.clone()),
                Err(why) => {
                    not_recorded(key, &why);
                    self.written_values.failed.insert(key.clone())
                }
            };
        }
        Ok(())
    }

    /// Writes the file of a value, or returns why the value cannot be written.
    fn write_file(&self, value: &NewValue) -> Result<Result<(), String>, JournalError> {
        let directory = self.payload_directory();
        if !directory.exists() {
            fs::create_dir_all(&directory).map_err(|error| JournalError::io(&directory, "create", error))?;
            self.sync_directory(directory.parent().unwrap_or(Path::new(".")))?;
        }
        let name = file_name(&value.key);
        let (path, staged) = (directory.join(&name), directory.join(format!(".{name}")));
        let created = OpenOptions::new().write(true).create(true).truncate(true).open(&staged);
        let file = created.map_err(|error| JournalError::io(&staged, "create", error))?;
        let mut out = HashedFile { file: &file, hasher: blake3::Hasher::new(), error: None };
        let written = fence::call(|| {
            let mut buffered = io::BufWriter::with_capacity(1 << 20, &mut out);
            let written = value.blob.write_from(0, &mut buffered).map_err(|error| error.to_string());
            written.and_then(|()| buffered.flush().map_err(|error| error.to_string()))
        });
        let HashedFile { hasher, error, .. } = out;
        if let Some(error) = error {
            remove(&staged);
            return Err(JournalError::io(&staged, "write", error));
        }
        let written = match written {
            Err(panic) => Err(format!("its `Serialize` panicked: {panic}")),
            Ok(Err(why)) => Err(why),
            Ok(Ok(())) if hasher.finalize() != value.key.hash.0 => {
                Err("it is encoded otherwise than when it was made".to_owned())
            }
            Ok(Ok(())) => Ok(()),
        };
        if written.is_err() {
            remove(&staged);
            return Ok(written);
        }
        if self.settings.sync == Sync::Disk {
            file.sync_all().map_err(|error| JournalError::io(&staged, "sync", error))?;
        }
        fs::rename(&staged, &path).map_err(|error| JournalError::io(&path, "write", error))?;
        self.sync_directory(&directory)?;
        Ok(Ok(()))
    }

    fn sync_directory(&self, directory: &Path) -> Result<(), JournalError> {
        if self.settings.sync != Sync::Disk {
            return Ok(());
        }
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(|error| JournalError::io(directory, "sync", error))
    }

    /// Changes the rows of values, in a transaction. Returns the files that are to be removed after it.
    pub(in crate::journal) fn write_values(
        &self,
        changes: &ValueChanges,
    ) -> Result<Vec<PathBuf>, JournalError> {
        let mut removed = Vec::new();
        for id in &self.damaged_values {
            self.execute("DELETE FROM value WHERE id = ?1", [id])?;
        }
        for (key, value) in changes {
            let (hash, type_name) = (&key.hash.0[..], &*key.type_name);
            let Some(value) = value else {
                self.execute("DELETE FROM value WHERE hash = ?1 AND type = ?2", params![hash, type_name])?;
                removed.push(self.payload_directory().join(file_name(key)));
                continue;
            };
            if self.written_values.failed.contains(key) || self.has_value(key)? {
                continue;
            }
            let content = if value.is_small() {
                match encode(value) {
                    Ok(bytes) => Some(bytes),
                    Err(why) => {
                        not_recorded(key, &why);
                        continue;
                    }
                }
            } else {
                None
            };
            let nested = encoding::encode(&value.nested).unwrap_or_default();
            self.put_value(&ValueRow::new(key, &value.blob.hashes, nested, content))?;
        }
        Ok(removed)
    }

    fn put_value(&self, row: &ValueRow) -> Result<(), JournalError> {
        let ValueRow { hash, type_name, length, chunks, nested, value } = row;
        self.execute(
            "INSERT INTO value (hash, type, length, chunks, nested, value, sum) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![hash, type_name, *length as i64, chunks, nested, value, row.sum()],
        )?;
        Ok(())
    }

    /// Forgets what was noted for the changes, which are committed, and removes files.
    pub(super) fn values_are_committed(&mut self, changes: &ValueChanges, removed: Vec<PathBuf>) {
        let Written { files, failed } = &mut self.written_values;
        files.retain(|key| !changes.contains_key(key));
        failed.retain(|key| !changes.contains_key(key));
        self.damaged_values.clear();
        removed.iter().for_each(|path| remove(path));
    }

    /// Adds values of another journal, with copies of their files.
    pub(in crate::journal) fn copy_values(&mut self, values: &[StoredValue]) -> Result<(), JournalError> {
        let directory = self.payload_directory();
        for value in values {
            if let Content::File(from) = &value.content {
                let path = directory.join(file_name(&value.key));
                fs::create_dir_all(&directory)
                    .map_err(|error| JournalError::io(&directory, "create", error))?;
                fs::copy(from, &path).map_err(|error| JournalError::io(&path, "write", error))?;
                let synced = File::open(&path).and_then(|file| file.sync_all());
                synced.map_err(|error| JournalError::io(&path, "sync", error))?;
            }
        }
        if directory.exists() {
            self.sync_directory(&directory)?;
            self.sync_directory(directory.parent().unwrap_or(Path::new(".")))?;
        }
        self.transact(|store| {
            for value in values {
                let content = match &value.content {
                    Content::Bytes(bytes) => Some(bytes.to_vec()),
                    Content::File(_) => None,
                };
                let nested = encoding::encode(&value.nested).unwrap_or_default();
                store.put_value(&ValueRow::new(&value.key, &value.hashes, nested, content))?;
            }
            Ok(())
        })
    }
}

/// Removes a file. One that stays is removed by the next start.
fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            log::warn!("cannot remove {}, which nothing needs any more: {error}", path.display());
        }
        _ => {}
    }
}
