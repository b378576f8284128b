//! One value, wherever it is: in memory, on disk, or in another process until somebody wants it.
//!
//! # Guarantees
//! - It is kept in one way at a time, and the keeper knows of the memory that it takes for exactly as long as it takes it.
//! - What somebody has a hand on stays in memory.
//! - Those who want it at the same time share one load.

mod load;

use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use serde::{Deserialize, Serialize};

use self::load::Loading;
pub(super) use self::load::{Load, Target};
use super::deferred::drop_in_turn;
use super::elsewhere::Elsewhere;
use super::error::FetchError;
use super::form::{AnyValue, Form};
use super::hex::Hex;
use super::keeper;
use super::kept::{Body, Kept};
use super::outline::Outline;
use super::spill::{SpillWriter, Spilled};
use super::store::Holds;
use crate::wire::CodecError;

pub(crate) struct Entry {
    content: Mutex<Content>,
    /// When it was used, as the keeper counts.
    pub(super) used: AtomicU64,
    /// Set once it is known.
    content_id: OnceLock<ContentId>,
}

/// The identity of the content of a value: the hash and the length of its encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContentId {
    pub(crate) hash: Hex<32>,
    pub(crate) length: u64,
}

impl ContentId {
    fn of(outline: &Outline) -> Self {
        Self { hash: Hex(outline.hash()), length: outline.length() }
    }
}

struct Content {
    /// Nothing while it is only elsewhere.
    kept: Option<Kept>,
    loading: Option<Loading>,
    elsewhere: Option<Arc<dyn Elsewhere>>,
}

pub(super) enum SpillOutcome {
    /// It takes no memory any more.
    Done,
    InUse,
    Failed(FetchError),
}

impl Entry {
    pub(super) fn away() -> Arc<Self> {
        Self::new(None)
    }

    /// For a value that takes room in memory already.
    pub(super) fn of_value(
        value: AnyValue,
        form: &'static Form,
        outline: Outline,
        nested: Holds,
    ) -> Arc<Self> {
        let entry = Self::new(Some(Kept::value(value, form, outline, nested)));
        keeper::enlist(&entry);
        entry
    }

    pub(super) fn of_file(file: Spilled, outline: Outline, type_name: &str, nested: Holds) -> Arc<Self> {
        let body = Body::File(Arc::new(file));
        Self::new(Some(Kept { outline, type_name: type_name.into(), nested, body }))
    }

    fn new(kept: Option<Kept>) -> Arc<Self> {
        let content_id = OnceLock::new();
        if let Some(kept) = &kept {
            let _ = content_id.set(ContentId::of(&kept.outline));
        }
        let content = Mutex::new(Content { kept, loading: None, elsewhere: None });
        Arc::new(Self { content, used: AtomicU64::new(0), content_id })
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_elsewhere(&self, elsewhere: Arc<dyn Elsewhere>) {
        self.lock().elsewhere = Some(elsewhere);
    }

    /// Makes this process the owner of a value that is here.
    pub(crate) fn set_owned_here(&self) {
        self.lock().elsewhere = None;
    }

    /// The identity of its content, if that is known here.
    pub(crate) fn content_id(&self) -> Option<ContentId> {
        self.content_id.get().copied()
    }

    pub(crate) fn set_content_id(&self, content_id: ContentId) {
        let _ = self.content_id.set(content_id);
    }

    /// Where it came from; `None` for what was made here.
    pub(crate) fn elsewhere(&self) -> Option<Arc<dyn Elsewhere>> {
        self.lock().elsewhere.clone()
    }

    pub(crate) fn is_here(&self) -> bool {
        self.lock().kept.is_some()
    }

    pub(crate) fn is_in_memory(&self) -> bool {
        self.lock().kept.as_ref().is_some_and(Kept::is_in_memory)
    }

    /// The value, if it is in memory as one.
    pub(super) fn value(self: &Arc<Self>) -> Option<AnyValue> {
        let value = match &self.lock().kept {
            Some(Kept { body: Body::Value(value, _), .. }) => value.clone(),
            _ => return None,
        };
        keeper::count_hit();
        keeper::enlist(self);
        Some(value.into_inner())
    }

    /// The type that it was made from, if that is known here.
    pub(super) fn type_name(&self) -> Option<String> {
        self.lock().kept.as_ref().map(|kept| kept.type_name.as_ref().to_owned())
    }

    /// Its file, if it is on disk.
    pub(super) fn on_disk(&self) -> Option<(Arc<Spilled>, Outline)> {
        match &self.lock().kept {
            Some(Kept { body: Body::File(file), outline, .. }) => Some((file.clone(), outline.clone())),
            _ => None,
        }
    }

    /// How many bytes of it have arrived.
    pub(super) fn received(&self, length: u64) -> u64 {
        let content = self.lock();
        match (&content.kept, &content.loading) {
            (Some(_), _) => length,
            (None, loading) => loading.as_ref().map_or(0, Loading::received),
        }
    }

    /// What is here of it, to be given to others who want it.
    pub(crate) fn kept(&self) -> Option<Kept> {
        self.lock().kept.clone()
    }

    fn keep(self: &Arc<Self>, kept: Kept) {
        let in_memory = kept.is_in_memory();
        self.set_content_id(ContentId::of(&kept.outline));
        let before = self.lock().kept.replace(kept);
        if let Some(before) = before.filter(Kept::is_in_memory) {
            keeper::freed(before.outline.length());
            drop_in_turn(before);
        }
        if in_memory {
            keeper::enlist(self);
            keeper::settle_later();
        }
    }

    /// Puts the value on disk, unless somebody has a hand on it.
    pub(super) fn spill(&self) -> SpillOutcome {
        let Some(kept) = self.kept().filter(Kept::is_in_memory) else { return SpillOutcome::Done };
        // The one that is kept, and the one here.
        let in_use =
            |kept: &Kept| matches!(&kept.body, Body::Value(value, _) if Arc::strong_count(value) > 2);
        if in_use(&kept) {
            return SpillOutcome::InUse;
        }
        let file = match write_file(&kept) {
            Ok(file) => file,
            Err(error) => return SpillOutcome::Failed(error),
        };
        let mut content = self.lock();
        if in_use(&kept) {
            return SpillOutcome::InUse;
        }
        let length = kept.outline.length();
        content.kept = Some(Kept { body: Body::File(Arc::new(file)), ..kept.clone() });
        drop(content);
        // The last that has the value.
        drop_in_turn(kept);
        keeper::freed(length);
        SpillOutcome::Done
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        keeper::delist(*self.used.get_mut());
        let content = self.content.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = content.kept.take() {
            if kept.is_in_memory() {
                keeper::freed(kept.outline.length());
            }
            // It may be the last that refers to other values.
            drop_in_turn(kept);
        }
    }
}

/// Puts a value that there is no room for in memory on disk at once.
pub(super) fn straight_to_disk(
    value: AnyValue,
    form: &'static Form,
    outline: &Outline,
) -> Result<Spilled, FetchError> {
    write_file(&Kept::value(value, form, outline.clone(), Holds::default()))
}

fn write_file(kept: &Kept) -> Result<Spilled, FetchError> {
    let mut writer = SpillWriter::begin(kept.outline.length())?;
    match &kept.body {
        Body::Value(value, form) => match form.write(value, &mut writer) {
            Ok(()) => {}
            Err(CodecError::Write { error, .. }) => return Err(writer.failed(&error)),
            Err(error) => return Err(FetchError::NoRoom(format!("it cannot be put on disk: {error}"))),
        },
        Body::Bytes(bytes) => {
            io::Write::write_all(&mut writer, bytes).map_err(|error| writer.failed(&error))?;
        }
        Body::File(_) => {}
    }
    writer.finish()
}
