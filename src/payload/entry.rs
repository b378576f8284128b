//! One value, wherever it is: in memory, on disk, or in another process until somebody wants it.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use tokio::sync::{oneshot, watch};

use super::artifact::TREE;
use super::error::FetchError;
use super::form::{AnyValue, Form};
use super::hex::PayloadId;
use super::outgoing::{Body, Outgoing};
use super::outline::{CHUNK, Outline};
use super::reception::{Chunks, Counter, InMemory, Reception};
use super::spill::{SpillWriter, Spilled};
use super::{jobs, keeper};

/// What is not larger is pulled as one message, without a thread of its own.
pub(crate) const SMALL: u64 = 64 << 10;

/// Which value is wanted.
#[derive(Debug, Clone)]
pub(crate) struct Want {
    pub(crate) id: PayloadId,
    pub(crate) hash: [u8; 32],
    pub(crate) length: u64,
    /// The type as which it will be read; empty for whoever only keeps the bytes.
    pub(crate) type_name: &'static str,
    /// The payload in words.
    pub(crate) what: String,
}

/// Told, by being closed, that nobody waits any more.
pub(crate) type Waited = watch::Receiver<()>;

/// Where a value that is not in this process can be had.
pub(crate) trait Elsewhere: Send + Sync {
    /// All of a small value.
    fn small(&self, want: Want) -> BoxFuture<'static, Result<(Bytes, String), FetchError>>;

    /// Begins to pull. Blocks, as all that comes of it does.
    fn open(&self, want: &Want, waited: Waited) -> Result<Opened, FetchError>;

    /// Whether anybody who can be reached has it.
    fn has(&self, id: PayloadId) -> BoxFuture<'static, bool>;

    /// The value is here now as well.
    fn pulled(&self, id: PayloadId);

    fn as_any(&self) -> &dyn Any;
}

/// A pull that has begun.
pub(crate) struct Opened {
    pub(crate) outline: Outline,
    pub(crate) type_name: String,
    pub(crate) chunks: Box<dyn Chunks>,
}

/// What a value is wanted as.
#[derive(Clone, Copy)]
pub(super) enum Target {
    Value(&'static Form),
    /// Its bytes, in memory.
    Bytes,
    /// Its bytes, on disk.
    #[allow(dead_code, reason = "for what is never in memory")]
    File,
}

/// A value on its way, for all who wait for it: a value of the type, [`Bytes`], or an [`Arc<Spilled>`].
pub(super) type Load = Shared<BoxFuture<'static, Result<AnyValue, FetchError>>>;

type WeakLoad = WeakShared<BoxFuture<'static, Result<AnyValue, FetchError>>>;

pub(crate) struct Entry {
    id: PayloadId,
    content: Mutex<Content>,
    /// When it was used, as the keeper counts.
    pub(super) used: AtomicU64,
}

struct Content {
    kept: Kept,
    loading: Option<(WeakLoad, Arc<Counter>)>,
    elsewhere: Option<Arc<dyn Elsewhere>>,
}

#[derive(Clone)]
enum Kept {
    /// Not here.
    Away,
    Value {
        value: AnyValue,
        form: &'static Form,
        outline: Outline,
    },
    Bytes {
        bytes: Bytes,
        outline: Outline,
        type_name: Arc<str>,
    },
    File {
        file: Arc<Spilled>,
        outline: Outline,
        type_name: Arc<str>,
    },
}

pub(super) enum SpillOutcome {
    /// It takes no memory any more.
    Done,
    InUse,
    Failed(FetchError),
}

impl Entry {
    pub(super) fn away(id: PayloadId) -> Arc<Self> {
        Self::new(id, Kept::Away)
    }

    /// For a value that takes room in memory already.
    pub(super) fn of_value(
        id: PayloadId,
        value: AnyValue,
        form: &'static Form,
        outline: Outline,
    ) -> Arc<Self> {
        let entry = Self::new(id, Kept::Value { value, form, outline });
        keeper::enlist(&entry);
        entry
    }

    pub(super) fn of_file(id: PayloadId, file: Spilled, outline: Outline, type_name: &str) -> Arc<Self> {
        Self::new(id, Kept::File { file: Arc::new(file), outline, type_name: type_name.into() })
    }

    fn new(id: PayloadId, kept: Kept) -> Arc<Self> {
        let content = Mutex::new(Content { kept, loading: None, elsewhere: None });
        Arc::new(Self { id, content, used: AtomicU64::new(0) })
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_elsewhere(&self, elsewhere: Arc<dyn Elsewhere>) {
        self.lock().elsewhere = Some(elsewhere);
    }

    /// Where it came from; `None` for what was made here.
    pub(crate) fn elsewhere(&self) -> Option<Arc<dyn Elsewhere>> {
        self.lock().elsewhere.clone()
    }

    pub(crate) fn is_here(&self) -> bool {
        !matches!(self.lock().kept, Kept::Away)
    }

    pub(crate) fn is_in_memory(&self) -> bool {
        matches!(self.lock().kept, Kept::Value { .. } | Kept::Bytes { .. })
    }

    /// The value, if it is in memory as one.
    pub(super) fn value(self: &Arc<Self>) -> Option<AnyValue> {
        let value = match &self.lock().kept {
            Kept::Value { value, .. } => value.clone(),
            _ => return None,
        };
        keeper::count_hit();
        keeper::enlist(self);
        Some(value)
    }

    /// The type that it was made from, if that is known here.
    pub(super) fn type_name(&self) -> Option<String> {
        match &self.lock().kept {
            Kept::Away => None,
            Kept::Value { form, .. } => Some(form.type_name().to_owned()),
            Kept::Bytes { type_name, .. } | Kept::File { type_name, .. } => {
                Some(type_name.as_ref().to_owned())
            }
        }
    }

    /// Its file, if it is on disk.
    pub(super) fn on_disk(&self) -> Option<(Arc<Spilled>, Outline)> {
        match &self.lock().kept {
            Kept::File { file, outline, .. } => Some((file.clone(), outline.clone())),
            _ => None,
        }
    }

    /// How many bytes of it have arrived.
    pub(super) fn received(&self, length: u64) -> u64 {
        let content = self.lock();
        match (&content.kept, &content.loading) {
            (Kept::Away, Some((loading, counter))) if loading.upgrade().is_some() => counter.get(),
            (Kept::Away, _) => 0,
            _ => length,
        }
    }

    /// Has the value come, or joins those who wait for it already.
    pub(super) fn load(self: &Arc<Self>, want: Want, target: Target) -> Load {
        let mut content = self.lock();
        if let Some((loading, _)) = &content.loading
            && let Some(loading) = loading.upgrade()
            && loading.peek().is_none()
        {
            return loading;
        }
        let counter = Arc::new(Counter::default());
        let load = self.clone().fetch(want, target, counter.clone()).boxed().shared();
        content.loading = load.downgrade().map(|load| (load, counter));
        load
    }

    /// Has the bytes of the value come, to be kept as such.
    pub(crate) async fn load_bytes(self: &Arc<Self>, want: Want) -> Result<(), FetchError> {
        self.load(want, Target::Bytes).await.map(|_| ())
    }

    async fn fetch(
        self: Arc<Self>,
        want: Want,
        target: Target,
        counter: Arc<Counter>,
    ) -> Result<AnyValue, FetchError> {
        let (kept, elsewhere) = {
            let content = self.lock();
            (content.kept.clone(), content.elsewhere.clone())
        };
        let is_small = want.length <= SMALL && !matches!(target, Target::File);
        let source = match kept {
            Kept::Value { value, .. } => return Ok(value),
            Kept::Bytes { bytes, .. } if matches!(target, Target::Bytes) => return Ok(Arc::new(bytes)),
            Kept::File { file, .. } if matches!(target, Target::File) => return Ok(Arc::new(file)),
            Kept::Bytes { bytes, outline, type_name } => Source::Bytes(bytes, outline, type_name),
            Kept::File { file, outline, type_name } => Source::File(file, outline, type_name),
            Kept::Away => {
                let Some(elsewhere) = elsewhere else {
                    return Err(FetchError::Lost("nothing is known here of where it is".to_owned()));
                };
                if is_small {
                    let (bytes, type_name) = elsewhere.small(want.clone()).await?;
                    let outline = Outline::of(&bytes);
                    if outline.hash() != want.hash {
                        return Err(FetchError::Corrupt("what came has another hash".to_owned()));
                    }
                    let source = Source::Bytes(bytes, outline, type_name.into());
                    let received = self.receive(source, &want, target, counter, None);
                    if received.is_ok() {
                        keeper::count_pull();
                        elsewhere.pulled(want.id);
                    }
                    return received;
                }
                Source::Elsewhere(elsewhere)
            }
        };
        if is_small && matches!(source, Source::Bytes(..)) {
            return self.receive(source, &want, target, counter, None);
        }
        let (done, wait) = oneshot::channel();
        // Closed when this future is dropped, which is when nobody waits any more.
        let (_waiting, waited) = watch::channel(());
        let id = want.id;
        jobs::run(move || {
            if done.is_closed() {
                return;
            }
            let tell = match &source {
                Source::Elsewhere(elsewhere) => Some(elsewhere.clone()),
                _ => None,
            };
            let received = self.receive(source, &want, target, counter, Some(waited));
            // What arrived although nobody waits any more is a copy like any other.
            if received.is_ok()
                && let Some(elsewhere) = tell
            {
                keeper::count_pull();
                elsewhere.pulled(id);
            }
            let _ = done.send(received);
        });
        wait.await.unwrap_or_else(|_| Err(FetchError::Unusable("no thread was there to pull it".to_owned())))
    }

    /// Makes of the bytes what they are wanted as, and keeps that.
    fn receive(
        self: &Arc<Self>,
        source: Source,
        want: &Want,
        target: Target,
        counter: Arc<Counter>,
        waited: Option<Waited>,
    ) -> Result<AnyValue, FetchError> {
        let Opened { outline, type_name, mut chunks } = match source {
            Source::Bytes(bytes, outline, type_name) => {
                Opened { outline, type_name: type_name.as_ref().to_owned(), chunks: Box::new(Owned(bytes)) }
            }
            Source::File(file, outline, type_name) => {
                Opened { outline, type_name: type_name.as_ref().to_owned(), chunks: Box::new(Read(file)) }
            }
            Source::Elsewhere(elsewhere) => {
                elsewhere.open(want, waited.expect("a large pull can be given up"))?
            }
        };
        let length = outline.length();
        // What is made of files is not to fill the memory, whoever keeps a copy of it.
        let target = match target {
            Target::Bytes if type_name == TREE && length > SMALL => Target::File,
            target => target,
        };
        match target {
            Target::Value(form) => {
                if form.type_name() != type_name {
                    return Err(FetchError::WrongType(type_name));
                }
                let room = Room::in_memory(length)?;
                let value = decoded(form, Reception::new(&outline, &mut *chunks, counter, &want.what))?;
                room.used();
                self.keep(Kept::Value { value: value.clone(), form, outline });
                Ok(value)
            }
            Target::Bytes => {
                let room = Room::in_memory(length)?;
                let value = decoded(
                    Form::of::<Bytes>(),
                    Reception::new(&outline, &mut *chunks, counter, &want.what),
                )?;
                let bytes = value.downcast_ref::<Bytes>().expect("of this form").clone();
                room.used();
                self.keep(Kept::Bytes { bytes, outline, type_name: type_name.into() });
                Ok(value)
            }
            Target::File => {
                let mut writer = SpillWriter::begin(want.id, length)?;
                let mut reader = Reception::new(&outline, &mut *chunks, counter, &want.what).reader();
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
                    written.map_err(|error| {
                        FetchError::NoRoom(format!(
                            "it cannot be written below {}: {error}; choose another place with `--payload-dir`",
                            writer.directory().display()
                        ))
                    })?;
                }
                let file = Arc::new(writer.finish()?);
                self.keep(Kept::File { file: file.clone(), outline, type_name: type_name.into() });
                Ok(Arc::new(file))
            }
        }
    }

    fn keep(self: &Arc<Self>, kept: Kept) {
        let in_memory = matches!(kept, Kept::Value { .. } | Kept::Bytes { .. });
        let before = std::mem::replace(&mut self.lock().kept, kept);
        if let Kept::Bytes { outline, .. } | Kept::Value { outline, .. } = &before {
            keeper::freed(outline.length());
        }
        if in_memory {
            keeper::enlist(self);
            keeper::settle_later();
        }
    }

    /// Puts the value on disk, unless somebody has a hand on it.
    pub(super) fn spill(&self) -> SpillOutcome {
        let kept = self.lock().kept.clone();
        let (outline, type_name) = match &kept {
            Kept::Value { outline, form, .. } => (outline.clone(), form.type_name().into()),
            Kept::Bytes { outline, type_name, .. } => (outline.clone(), type_name.clone()),
            Kept::Away | Kept::File { .. } => return SpillOutcome::Done,
        };
        // The one that is kept, and the one here.
        let in_use = |kept: &Kept| matches!(kept, Kept::Value { value, .. } if Arc::strong_count(value) > 2);
        if in_use(&kept) {
            return SpillOutcome::InUse;
        }
        let file = match write_file(self.id, &kept, outline.length()) {
            Ok(file) => file,
            Err(error) => return SpillOutcome::Failed(error),
        };
        let mut content = self.lock();
        if in_use(&kept) {
            return SpillOutcome::InUse;
        }
        let length = outline.length();
        content.kept = Kept::File { file: Arc::new(file), outline, type_name };
        drop(content);
        drop(kept);
        keeper::freed(length);
        SpillOutcome::Done
    }

    /// What is given to others who want the value.
    pub(crate) fn outgoing(&self) -> Option<Outgoing> {
        Some(match self.lock().kept.clone() {
            Kept::Away => return None,
            Kept::Value { value, form, outline } => {
                Outgoing { outline, type_name: form.type_name().into(), body: Body::Value(value, form) }
            }
            Kept::Bytes { bytes, outline, type_name } => {
                Outgoing { outline, type_name, body: Body::Bytes(bytes) }
            }
            Kept::File { file, outline, type_name } => {
                Outgoing { outline, type_name, body: Body::File(file) }
            }
        })
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        keeper::delist(*self.used.get_mut());
        let content = self.content.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Kept::Value { outline, .. } | Kept::Bytes { outline, .. } = &content.kept {
            keeper::freed(outline.length());
        }
    }
}

/// Puts a value that there is no room for in memory on disk at once.
pub(super) fn straight_to_disk(
    id: PayloadId,
    value: AnyValue,
    form: &'static Form,
    outline: &Outline,
) -> Result<Spilled, FetchError> {
    let kept = Kept::Value { value, form, outline: outline.clone() };
    write_file(id, &kept, outline.length())
}

fn write_file(id: PayloadId, kept: &Kept, length: u64) -> Result<Spilled, FetchError> {
    let mut writer = SpillWriter::begin(id, length)?;
    let failed =
        |error: &dyn std::fmt::Display| FetchError::NoRoom(format!("it cannot be written to disk: {error}"));
    match kept {
        Kept::Value { value, form, .. } => form.write(value, &mut writer).map_err(|error| failed(&error))?,
        Kept::Bytes { bytes, .. } => {
            io::Write::write_all(&mut writer, bytes).map_err(|error| failed(&error))?;
        }
        Kept::Away | Kept::File { .. } => {}
    }
    writer.finish()
}

/// Code of a user's is called here; what goes wrong in it is an error like another.
fn decoded(form: &'static Form, reception: Reception<'_>) -> Result<AnyValue, FetchError> {
    catch_unwind(AssertUnwindSafe(|| form.receive(reception))).unwrap_or_else(|_| {
        Err(FetchError::Unusable(format!("a panic came of making a `{}` of it", form.type_name())))
    })
}

enum Source {
    Bytes(Bytes, Outline, Arc<str>),
    File(Arc<Spilled>, Outline, Arc<str>),
    Elsewhere(Arc<dyn Elsewhere>),
}

struct Owned(Bytes);

impl Chunks for Owned {
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<u64, FetchError> {
        InMemory(&self.0).read(offset, buffer)
    }

    fn distrust(&mut self, source: u64) -> Result<(), FetchError> {
        InMemory(&self.0).distrust(source)
    }
}

pub(super) struct Read(pub(super) Arc<Spilled>);

impl Chunks for Read {
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<u64, FetchError> {
        Chunks::read(&mut &*self.0, offset, buffer)
    }

    fn distrust(&mut self, source: u64) -> Result<(), FetchError> {
        (&*self.0).distrust(source)
    }
}

/// Room in memory, given back unless it is used.
struct Room(u64);

impl Room {
    fn in_memory(length: u64) -> Result<Self, FetchError> {
        if length <= SMALL {
            // Not worth waiting for others to be put on disk.
            keeper::take(length);
        } else {
            keeper::reserve(length)?;
        }
        Ok(Self(length))
    }

    fn used(self) {
        std::mem::forget(self);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        keeper::freed(self.0);
    }
}
