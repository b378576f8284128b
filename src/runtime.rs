//! The runtime of an App in this process: the parts that the layers share on its behalf.
//!
//! An App that is launched here, and a process that joins one, creates one [`Runtime`] and passes it down. Each layer
//! contributes a part of its own type, whose fields are private to that layer. What has a handle to its part never
//! looks at the thread; the thread is for code that gets no argument, as in `Serialize` and `Deserialize`.
//!
//! # Guarantees
//! - A thread that an App starts belongs to that App only, from its start to its end.
//! - Code on another thread of the user finds the App that is running in this process if there is exactly one, or the
//!   one that it names by its id.

use std::any::{Any, TypeId};
use std::cell::RefCell;
use std::marker::PhantomData;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::id::AppId;

/// Parts that the layers share on behalf of one App. Immutable once it is shared; its parts have their own state.
pub(crate) struct Runtime {
    app: AppId,
    parts: Vec<(TypeId, Arc<dyn Any + Send + Sync>)>,
}

impl Runtime {
    pub(crate) fn new(app: AppId) -> Self {
        Self { app, parts: Vec::new() }
    }

    /// Adds the part of a layer.
    pub(crate) fn with<P: Any + Send + Sync>(mut self, part: Arc<P>) -> Self {
        self.parts.push((TypeId::of::<P>(), part));
        self
    }

    pub(crate) fn app(&self) -> AppId {
        self.app
    }

    /// Returns the part of this type, if there is one.
    pub(crate) fn part<P: Any + Send + Sync>(&self) -> Option<Arc<P>> {
        let (_, part) = self.parts.iter().find(|(type_id, _)| *type_id == TypeId::of::<P>())?;
        part.clone().downcast().ok()
    }

    /// Makes this runtime one of those that [`current`] and [`of_app`] find from threads that belong to no App, until the
    /// returned guard is dropped.
    pub(crate) fn start(self: &Arc<Self>) -> Running {
        RUNNING.lock().push(Arc::downgrade(self));
        Running(self.clone())
    }
}

/// The runtimes of the Apps that run in this process, in the order of their start. Global for one purpose: code on a
/// thread that belongs to no App, such as the main thread of a test, can use the only one, or the one whose id is in a
/// serialised address.
static RUNNING: Mutex<Vec<Weak<Runtime>>> = Mutex::new(Vec::new());

/// Guard of a running App.
#[must_use]
pub(crate) struct Running(Arc<Runtime>);

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.lock().retain(|other| !std::ptr::eq(other.as_ptr(), Arc::as_ptr(&self.0)));
    }
}

thread_local! {
    /// The App that this thread belongs to.
    static OF_THREAD: RefCell<Option<Arc<Runtime>>> = const { RefCell::new(None) };
}

/// Makes this thread belong to an App until the returned guard is dropped.
pub(crate) fn enter(runtime: Arc<Runtime>) -> Entered {
    let before = OF_THREAD.replace(Some(runtime));
    Entered { before, of_thread: PhantomData }
}

/// Makes this thread belong to an App until the thread ends.
pub(crate) fn belong(runtime: Arc<Runtime>) {
    let before = OF_THREAD.replace(Some(runtime));
    drop(before);
}

/// Guard of a thread that belongs to an App.
#[must_use]
pub(crate) struct Entered {
    before: Option<Arc<Runtime>>,
    /// The guard must stay on its thread.
    of_thread: PhantomData<*const ()>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let left = OF_THREAD.try_with(|app| app.replace(self.before.take()));
        drop(left);
    }
}

/// Returns the runtime of the App that this thread belongs to.
pub(crate) fn of_thread() -> Option<Arc<Runtime>> {
    // Inaccessible when a destructor of a thread logs.
    OF_THREAD.try_with(|app| app.borrow().clone()).ok().flatten()
}

/// Returns the runtime of the App that this thread belongs to. On a thread that belongs to none, this is the runtime of
/// the only App that runs in this process.
///
/// # Errors
/// [`NoRuntime`] on such a thread, if no App runs in this process, or several.
pub(crate) fn current() -> Result<Arc<Runtime>, NoRuntime> {
    if let Some(runtime) = of_thread() {
        return Ok(runtime);
    }
    let running = RUNNING.lock();
    let mut running = running.iter().filter_map(Weak::upgrade);
    match (running.next(), running.next()) {
        (Some(runtime), None) => Ok(runtime),
        (None, _) => Err(NoRuntime::NoneRuns),
        (Some(_), Some(_)) => Err(NoRuntime::SeveralRun),
    }
}

/// Returns the runtime of an App if this thread belongs to that App, or belongs to none while that App runs in this
/// process.
pub(crate) fn of_app(app: AppId) -> Option<Arc<Runtime>> {
    match of_thread() {
        Some(runtime) => Some(runtime).filter(|runtime| runtime.app() == app),
        None => RUNNING.lock().iter().filter_map(Weak::upgrade).find(|runtime| runtime.app() == app),
    }
}

/// Error returned on a thread that belongs to no App when it is not clear which App is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoRuntime {
    NoneRuns,
    SeveralRun,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A part is found by its type only.
    #[test]
    fn part_of_another_type_is_absent() {
        let runtime = Runtime::new(AppId::next()).with(Arc::new(5_u32)).with(Arc::new("text".to_owned()));
        assert_eq!(runtime.part::<u32>().as_deref(), Some(&5));
        assert_eq!(runtime.part::<String>().as_deref().map(String::as_str), Some("text"));
        assert_eq!(runtime.part::<u64>(), None);
    }

    /// A thread leaves an App for the one that it was in before, and other threads are not affected.
    #[test]
    fn thread_returns_to_the_app_before() {
        let [first, second] = [(); 2].map(|()| Arc::new(Runtime::new(AppId::next())));
        let app = || of_thread().map(|runtime| runtime.app());
        let entered = enter(first.clone());
        {
            let _inner = enter(second.clone());
            assert_eq!(app(), Some(second.app()));
            assert_eq!(std::thread::spawn(app).join().unwrap(), None);
        }
        assert_eq!(app(), Some(first.app()));
        drop(entered);
        assert_eq!(app(), None);
    }

    /// On a thread that belongs to no App, an App is found by its id for as long as it runs; on a thread of an App, only
    /// that App is found.
    #[test]
    fn app_is_found_by_id_from_threads_of_no_app() {
        let [first, second] = [(); 2].map(|()| Arc::new(Runtime::new(AppId::next())));
        let found = |runtime: &Arc<Runtime>| of_app(runtime.app()).is_some();
        let running = [&first, &second].map(Runtime::start);
        assert!(found(&first) && found(&second));
        assert_eq!(current().err(), Some(NoRuntime::SeveralRun));
        let entered = enter(first.clone());
        assert!(found(&first) && !found(&second));
        assert!(current().is_ok_and(|runtime| runtime.app() == first.app()));
        drop((entered, running));
        assert!(!found(&first) && !found(&second));
    }
}
