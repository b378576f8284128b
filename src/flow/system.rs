//! The root of an App whose Works a program spawns one by one.
//!
//! # Guarantees
//! - A Work that was spawned is a child of the root like any other: its supervision, placement and visibility are those
//!   of a Work in a field of a Flow.
//! - Each request is answered once: when a reaction of the root has carried it out, or when the root is gone.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::ser::{Error as _, SerializeMap};
use serde::{Serialize, Serializer};
use tokio::sync::oneshot;

use super::Flow;
use super::check::Check;
use super::children::{AnyWork, ChildGroup, Children, Found, Kinds, Route, Walk};
use super::context::{FlowContext, FlowWaker};
use super::own_fields::FieldError;
use super::reaction::Reaction;
use super::restoring::{Preparation, Rebuild};
use super::settings::WorkSettings;
use super::shape::Shapes;
use super::work_ref::WorkRef;
use crate::fence;
use crate::payload::{self, PayloadGuards};
use crate::state::{StateError, Tracker, Value};
use crate::work::Work;

/// The root Flow: the Works that were spawned, by name.
pub(crate) struct System {
    works: BTreeMap<String, Box<dyn SpawnedWork>>,
    spawner: Arc<Spawner>,
}

/// A `WorkRef` of any type.
trait SpawnedWork {
    fn group(&mut self) -> &mut dyn ChildGroup;
    fn state(&self) -> Result<Value, StateError>;
}

impl<W: Work> SpawnedWork for WorkRef<W> {
    fn group(&mut self) -> &mut dyn ChildGroup {
        self
    }

    fn state(&self) -> Result<Value, StateError> {
        Value::of(self)
    }
}

/// The requests of a program to its root, which carries them out in its next reaction.
#[derive(Default)]
pub(crate) struct Spawner(Mutex<Requests>);

type Request = Box<dyn FnOnce(&mut System) + Send>;

#[derive(Default)]
struct Requests {
    waiting: Vec<Request>,
    /// Absent before the first reaction.
    waker: Option<FlowWaker>,
    is_closed: bool,
}

/// A Work that is to be spawned, as data: a `WorkRef` stays on its thread.
pub(crate) struct Spawning {
    state: Value,
    /// Keep the payloads alive that the state refers to.
    holds: PayloadGuards,
    settings: WorkSettings,
}

/// The reason why a Work is not spawned.
#[derive(Debug)]
pub(crate) enum NotSpawned {
    NameTaken,
    State(StateError),
    Ended,
}

impl Spawning {
    pub(crate) fn new<W: Work>(work: &WorkRef<W>) -> Result<Self, StateError> {
        let (state, holds) = payload::collect(|| Value::of(work.state()));
        Ok(Self { state: state?, holds, settings: AnyWork::settings(work) })
    }

    /// Checks the size of the state.
    pub(crate) fn check(&self, max_state_bytes: usize) -> Result<(), StateError> {
        Tracker::new(max_state_bytes).update(&self.state).map(drop)
    }
}

impl Spawner {
    /// Spawns a Work of type `W`, unless there is one of this name.
    pub(crate) async fn spawn<W: Work>(&self, name: String, spawning: Spawning) -> Result<(), NotSpawned> {
        let Spawning { state, holds, settings } = spawning;
        let spawned = self.request(move |system| {
            if system.works.contains_key(&name) {
                return Err(NotSpawned::NameTaken);
            }
            let work: W = state.decode().map_err(NotSpawned::State)?;
            // The Work has handles of its own now.
            drop(holds);
            system.works.insert(name, Box::new(WorkRef::with_settings(work, settings)));
            Ok(())
        });
        spawned.await.unwrap_or(Err(NotSpawned::Ended))
    }

    /// Removes the Work of this name, which is stopped then. Returns false if there is none.
    pub(crate) async fn remove(&self, name: String) -> Result<bool, NotSpawned> {
        let removed = self.request(move |system| system.works.remove(&name).map(discard).is_some());
        removed.await.map_err(|_| NotSpawned::Ended)
    }

    fn request<R: Send + 'static>(
        &self,
        carry_out: impl FnOnce(&mut System) -> R + Send + 'static,
    ) -> oneshot::Receiver<R> {
        let (answer, answered) = oneshot::channel();
        let mut requests = self.0.lock();
        if !requests.is_closed {
            requests.waiting.push(Box::new(move |system| {
                // The program may have given up.
                let _ = answer.send(carry_out(system));
            }));
            if let Some(waker) = &requests.waker {
                waker.wake();
            }
        }
        answered
    }
}

fn discard<T>(work: T) {
    if let Err(panic) = fence::discard(work) {
        log::error!("a Work panicked while it was dropped: {panic}");
    }
}

impl System {
    pub(crate) fn new(spawner: Arc<Spawner>) -> Self {
        Self { works: BTreeMap::new(), spawner }
    }
}

impl Flow for System {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        let waiting = {
            let mut requests = self.spawner.0.lock();
            if requests.waker.is_none() {
                requests.waker = cx.waker();
            }
            std::mem::take(&mut requests.waiting)
        };
        for carry_out in waiting {
            carry_out(self);
        }
        Ok(())
    }
}

impl Drop for System {
    fn drop(&mut self) {
        let waiting = {
            let mut requests = self.spawner.0.lock();
            requests.is_closed = true;
            std::mem::take(&mut requests.waiting)
        };
        discard(waiting);
    }
}

impl Serialize for System {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.works.len()))?;
        for (name, work) in &self.works {
            map.serialize_entry(name, &work.state().map_err(S::Error::custom)?)?;
        }
        map.end()
    }
}

impl Children for System {
    /// The types are those of [`App::hosts`](crate::App::hosts).
    fn kinds(_: &mut Kinds) {}

    fn walk(&mut self, walk: &mut Walk<'_>) {
        for (name, work) in &mut self.works {
            walk.keyed(name, work.group());
        }
    }

    fn find(&mut self, route: Route<'_>) -> Option<Found<'_>> {
        let (segment, rest) = route.next();
        self.works.get_mut(segment)?.group().find(rest)
    }

    fn save<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_map(Some(0))?.end()
    }

    /// Nothing of it is recorded; see `check`.
    fn shapes(&self, _: &mut Shapes) {}

    fn prepare(&self, _: &mut Preparation<'_, '_, Self>) {}

    fn rebuild(_: &mut Rebuild<'_, '_>) -> Option<Self> {
        None
    }

    fn check(check: &mut Check) {
        check.problem(FieldError::Spawned);
    }
}
