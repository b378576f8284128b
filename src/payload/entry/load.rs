//! Loading of values into this process, from disk or from another process.
//!
//! # Guarantees
//! - Concurrent readers of a value share one load, which is cancelled when the last of them is dropped.
//! - Every chunk is verified on arrival, so that a stored value has the hash of its reference.
//! - Memory or disk space is reserved before bytes arrive, and released if the load fails.
//! - Small values are loaded without a thread; loads that may block for long run on one.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use tokio::sync::{oneshot, watch};

use super::super::chunk_hashes::{CHUNK, ChunkHashes};
use super::super::codec::{AnyValue, Form, TREE};
use super::super::error::FetchError;
use super::super::memory_budget::MemoryBudget;
use super::super::remote_source::{Opened, RemoteSource, SMALL, Small, Want};
use super::super::spill::SpillWriter;
use super::super::stored_blob::{Body, StoredBlob};
use super::super::verified_reader::{Counter, InMemory, VerifiedReader};
use super::Entry;
use crate::fence;

/// The form in which a value is requested.
#[derive(Clone, Copy)]
pub(in crate::payload) enum Target {
    Value(&'static Form),
    /// The encoded bytes, in memory.
    Bytes,
    /// The encoded bytes, in a file on disk.
    File,
}

/// A shared load. It resolves to a value of the requested type, to [`Bytes`], or to an [`Arc<Spilled>`].
pub(in crate::payload) type Load = Shared<BoxFuture<'static, Result<AnyValue, FetchError>>>;

/// A load in progress, which later readers of the value can join.
pub(super) struct Loading {
    load: WeakShared<BoxFuture<'static, Result<AnyValue, FetchError>>>,
    counter: Arc<Counter>,
}

impl Loading {
    /// Returns how many bytes have arrived, or 0 if the load was cancelled.
    pub(super) fn received(&self) -> u64 {
        self.load.upgrade().map_or(0, |_| self.counter.get())
    }
}

/// The place from which the bytes of a value are loaded.
enum Source {
    Memory(Opened),
    Disk(Opened),
    Remote(Arc<dyn RemoteSource>),
}

impl Entry {
    /// Starts a load of the value, or joins the one in progress.
    pub(in crate::payload) fn load(self: &Arc<Self>, want: Want, target: Target) -> Load {
        let mut content = self.content.lock();
        if let Some(load) = content.loading.as_ref().and_then(|loading| loading.load.upgrade())
            && load.peek().is_none()
        {
            return load;
        }
        let counter = Arc::new(Counter::default());
        let load = self.clone().fetch(want, target, counter.clone()).boxed().shared();
        content.loading = load.downgrade().map(|load| Loading { load, counter });
        load
    }

    /// Loads the encoded bytes and keeps them in memory.
    pub(crate) async fn load_bytes(self: &Arc<Self>, want: Want) -> Result<(), FetchError> {
        self.load(want, Target::Bytes).await.map(|_| ())
    }

    /// Loads the encoded bytes and keeps them in memory if there is room, otherwise on disk.
    pub(crate) async fn load_somewhere(self: &Arc<Self>, want: Want) -> Result<(), FetchError> {
        match self.load_bytes(want.clone()).await {
            Err(FetchError::NoRoom(in_memory)) => match self.load(want, Target::File).await {
                Err(FetchError::NoRoom(on_disk)) => {
                    Err(FetchError::NoRoom(format!("in memory: {in_memory}; on disk: {on_disk}")))
                }
                loaded => loaded.map(|_| ()),
            },
            loaded => loaded,
        }
    }

    /// Loads the encoded bytes as [`load_somewhere`](Self::load_somewhere), also while readers request other types.
    pub(crate) async fn load_whatever_others_want(self: &Arc<Self>, want: Want) -> Result<(), FetchError> {
        loop {
            match self.load_somewhere(want.clone()).await {
                // A concurrent reader has requested the value as another type, which has failed the shared pull.
                Err(FetchError::WrongType(_)) if !self.is_here() => tokio::task::yield_now().await,
                loaded => return loaded,
            }
        }
    }

    async fn fetch(
        self: Arc<Self>,
        want: Want,
        target: Target,
        counter: Arc<Counter>,
    ) -> Result<AnyValue, FetchError> {
        let source = match self.source(target)? {
            Ok(value) => return Ok(value),
            Err(source) => source,
        };
        let is_small = want.length <= SMALL && !matches!(target, Target::File);
        match source {
            Source::Memory(opened) if is_small => self.receive(opened, &want, target, counter),
            Source::Remote(remote_source) if is_small => {
                let Small { bytes, type_name, nested } = remote_source.small(want.clone()).await?;
                let hashes = ChunkHashes::of(&bytes);
                if hashes.hash() != want.hash {
                    return Err(FetchError::Corrupt("the received bytes do not match its hash".to_owned()));
                }
                let opened = Opened { hashes, type_name, nested, chunks: Box::new(InMemory(bytes)) };
                let received = self.receive(opened, &want, target, counter)?;
                self.budget.count_pull();
                remote_source.pulled(want.id);
                Ok(received)
            }
            source => self.fetch_on_a_thread(source, want, target, counter).await,
        }
    }

    /// Returns the value if it is stored here in the requested form; otherwise the place to load it from.
    fn source(&self, target: Target) -> Result<Result<AnyValue, Source>, FetchError> {
        let content = self.content.lock();
        let Some(StoredBlob { hashes, type_name, nested, body }) = content.blob.clone() else {
            let remote_source = content.remote_source.clone();
            let unknown = || FetchError::Lost("no process that has it is known".to_owned());
            return Ok(Err(Source::Remote(remote_source.ok_or_else(unknown)?)));
        };
        let opened = |chunks| Opened { hashes, type_name: type_name.as_ref().to_owned(), nested, chunks };
        Ok(match (body, target) {
            (Body::Value(value, _), _) => Ok(value.into_inner()),
            (Body::Bytes(bytes), Target::Bytes) => Ok(Arc::new(bytes)),
            (Body::File(file), Target::File) => Ok(Arc::new(file)),
            (Body::Bytes(bytes), _) => Err(Source::Memory(opened(Box::new(InMemory(bytes))))),
            (Body::File(file), _) => Err(Source::Disk(opened(Box::new(file)))),
        })
    }

    async fn fetch_on_a_thread(
        self: Arc<Self>,
        source: Source,
        want: Want,
        target: Target,
        counter: Arc<Counter>,
    ) -> Result<AnyValue, FetchError> {
        let (done, wait) = oneshot::channel();
        // Dropping this future closes the channel, which tells the source that no reader waits any more.
        let (_waiting, waited) = watch::channel(());
        let jobs = self.jobs.clone();
        jobs.run(move || {
            if done.is_closed() {
                return;
            }
            let received = match source {
                Source::Memory(opened) | Source::Disk(opened) => self.receive(opened, &want, target, counter),
                Source::Remote(remote_source) => {
                    let opened = remote_source.open(&want, waited);
                    let received = opened.and_then(|opened| self.receive(opened, &want, target, counter));
                    // A value that arrived after its last reader was dropped is kept as a replica like any other.
                    if received.is_ok() {
                        self.budget.count_pull();
                        remote_source.pulled(want.id);
                    }
                    received
                }
            };
            // The reader may drop the last handle as soon as it has the value; the value is to be freed then, not later.
            drop(self);
            let _ = done.send(received);
        });
        wait.await
            .unwrap_or_else(|_| Err(FetchError::Unusable("no thread could be started to load it".to_owned())))
    }

    /// Converts the bytes to the requested form and stores the result.
    fn receive(
        self: &Arc<Self>,
        opened: Opened,
        want: &Want,
        target: Target,
        counter: Arc<Counter>,
    ) -> Result<AnyValue, FetchError> {
        let Opened { hashes, type_name, nested, mut chunks } = opened;
        let length = hashes.length();
        // An artifact must not fill the memory of a process that only keeps a replica of it.
        let target = match target {
            Target::Bytes if type_name == TREE && length > SMALL => Target::File,
            target => target,
        };
        match target {
            Target::Value(form) => {
                if form.type_name() != type_name {
                    return Err(FetchError::WrongType(type_name));
                }
                let room = Room::in_memory(&self.budget, length)?;
                let value = decoded(form, VerifiedReader::new(&hashes, &mut *chunks, counter, &want.what))?;
                room.used();
                self.keep(StoredBlob::value(value.clone(), form, hashes, nested));
                Ok(value)
            }
            Target::Bytes => {
                let room = Room::in_memory(&self.budget, length)?;
                let value = decoded(
                    Form::of::<Bytes>(),
                    VerifiedReader::new(&hashes, &mut *chunks, counter, &want.what),
                )?;
                let bytes = value.downcast_ref::<Bytes>().expect("this form decodes `Bytes`").clone();
                room.used();
                self.keep(StoredBlob {
                    hashes,
                    type_name: type_name.into(),
                    nested,
                    body: Body::Bytes(bytes),
                });
                Ok(value)
            }
            Target::File => {
                let mut writer = SpillWriter::begin(&self.budget, length)?;
                let mut reader = VerifiedReader::new(&hashes, &mut *chunks, counter, &want.what).reader();
                let mut buffer = vec![0; CHUNK];
                loop {
                    let read = match io::Read::read(&mut reader, &mut buffer) {
                        Ok(0) => break,
                        Ok(read) => read,
                        Err(error) => {
                            return Err(reader
                                .failure
                                .unwrap_or_else(|| FetchError::Lost(error.to_string())));
                        }
                    };
                    let written = io::Write::write_all(&mut writer, &buffer[..read]);
                    written.map_err(|error| writer.failed(&error))?;
                }
                let file = Arc::new(writer.finish()?);
                let body = Body::File(file.clone());
                self.keep(StoredBlob { hashes, type_name: type_name.into(), nested, body });
                Ok(Arc::new(file))
            }
        }
    }
}

/// Decodes the value. A panic in the user's `Deserialize` becomes an error.
fn decoded(form: &'static Form, reception: VerifiedReader<'_>) -> Result<AnyValue, FetchError> {
    fence::call(|| form.receive(reception)).unwrap_or_else(|panic| {
        Err(FetchError::Unusable(format!("decoding it as `{}` panicked: {panic}", form.type_name())))
    })
}

/// A reservation of memory, released on drop unless it is used.
struct Room<'a> {
    budget: &'a MemoryBudget,
    length: u64,
}

impl<'a> Room<'a> {
    fn in_memory(budget: &'a MemoryBudget, length: u64) -> Result<Self, FetchError> {
        if length <= SMALL {
            // Spilling other values to disk would take longer than so small a load.
            budget.take(length);
        } else {
            budget.reserve(length)?;
        }
        Ok(Self { budget, length })
    }

    fn used(self) {
        std::mem::forget(self);
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.budget.freed(self.length);
    }
}
