//! Restoring a tree of Flows from its record.
//!
//! A tree is restored in two steps. The first reads the whole record, with the program as it is now, and changes
//! nothing: each part of the tree returns the change that has to be made to it ([`Prepared`]), or reports why it cannot be
//! restored. The second makes the changes, and only if nothing was reported.
//!
//! # Guarantees
//! - Everything that cannot be restored is reported, and then nothing is changed.
//! - A field that serde skips keeps the value that the constructor of the Flow gave it, and so does a field with serde's
//!   `default` that the record lacks. In a Flow that the constructor does not make they have their defaults.
//! - A recorded field that the program does not have any more is reported, and restoring continues.
//! - A panic in a user's `Deserialize`, `Default` or `Drop` is contained.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::flow_link::FlowOptions;
use super::own_fields::{FieldError, Made, OwnField, ReadField, make_default};
use super::recorded::{FlowImage, RecordedTree, WorkImage};
use super::restore_error::{NewField, RemovedField, RestoreError, Restored};
use super::settings::WorkSettings;
use super::shape::Shape;
use super::work_state;
use crate::fence::{self, Fenced};
use crate::id::ActorPath;
use crate::state::Value;

/// The change that restores a part of the tree, with everything read that it needs.
pub(super) type Prepared<T> = Box<dyn FnOnce(&mut T)>;

/// The settings that the program as it is now gives to the children that its constructor makes, by their paths.
#[derive(Default)]
pub(super) struct ProgramSettings {
    pub(super) works: HashMap<ActorPath, WorkSettings>,
    pub(super) flows: HashMap<ActorPath, FlowOptions>,
}

/// A tree that is being restored.
#[doc(hidden)]
pub struct Restoring<'r> {
    recorded: &'r RecordedTree,
    program: ProgramSettings,
    used: HashSet<ActorPath>,
    removed_fields: Vec<RemovedField>,
    new_fields: Vec<NewField>,
    errors: Vec<RestoreError>,
    /// Path of the field whose children are restored, for messages.
    field: String,
}

impl<'r> Restoring<'r> {
    pub(super) fn new(recorded: &'r RecordedTree, program: ProgramSettings) -> Self {
        Self {
            recorded,
            program,
            used: HashSet::new(),
            removed_fields: Vec::new(),
            new_fields: Vec::new(),
            errors: Vec::new(),
            field: String::new(),
        }
    }

    /// Ends the first step, and makes the changes if there are no errors.
    ///
    /// # Errors
    /// All parts of the tree that cannot be restored.
    pub(super) fn finish<T>(
        mut self,
        prepared: Option<Prepared<T>>,
        tree: &mut T,
    ) -> Result<Restored, Vec<RestoreError>> {
        if let (Some(prepared), true) = (prepared, self.errors.is_empty()) {
            // Users' code is left in this step only in the maps with hashers of their own.
            if let Err(panic) = fence::call(|| prepared(tree)) {
                let (path, message) = (ActorPath::root(), panic.to_string());
                self.errors.push(RestoreError::Panicked { path, message });
            }
        }
        if !self.errors.is_empty() {
            return Err(self.errors);
        }
        let paths = self.recorded.works.keys().chain(self.recorded.flows.keys());
        let mut unused: Vec<_> = paths.filter(|path| !self.used.contains(*path)).cloned().collect();
        unused.sort_unstable();
        Ok(Restored { removed_fields: self.removed_fields, new_fields: self.new_fields, unused })
    }

    /// Returns the name of the child that is the only content of a field. Reports any other content.
    pub(super) fn child<'s>(&mut self, shape: &'s Shape, expected: &'static str) -> Option<&'s ActorPath> {
        match shape.unwrapped() {
            Shape::Child(path) => Some(path),
            other => {
                self.wrong_shape(other, expected);
                None
            }
        }
    }

    /// Reports content of another kind than the program has in the field.
    pub(super) fn wrong_shape(&mut self, shape: &Shape, expected: &'static str) {
        let (field, recorded) = (self.field.clone(), shape.describe());
        self.errors.push(RestoreError::Shape { field, recorded, expected });
    }

    /// Reports a recorded key that is no key of the map.
    pub(super) fn wrong_key(&mut self, key: &str) {
        self.errors.push(RestoreError::Key { field: self.field.clone(), key: key.to_owned() });
    }

    /// Returns the record of a Work, whose state may be that of another version of the program.
    pub(super) fn work_image(&mut self, path: &ActorPath) -> Option<&'r WorkImage> {
        let Some(image) = self.recorded.works.get(path) else {
            self.errors.push(match self.recorded.flows.contains_key(path) {
                true => RestoreError::Kind { path: path.clone(), recorded: "a Flow", expected: "a Work" },
                false => RestoreError::Unrecorded { path: path.clone() },
            });
            return None;
        };
        self.mark_used(path)?;
        Some(image)
    }

    /// Reads the recorded state of a Work, and returns it with its settings: those of the program if its constructor
    /// makes the Work, or else those that were recorded.
    pub(super) fn work<W: Serialize + DeserializeOwned>(
        &mut self,
        path: &ActorPath,
    ) -> Option<(Fenced<W>, WorkSettings)> {
        let image = self.work_image(path)?;
        match work_state::read::<W>(&image.state) {
            Ok((work, work_state::Fields { removed, new })) => {
                self.note_removed(path, removed);
                new.into_iter().for_each(|(field, recorded)| self.note_new(path, field, recorded));
                let settings = self.program.works.get(path).unwrap_or(&image.settings);
                Some((work, settings.clone()))
            }
            Err(source) => {
                self.errors.push(RestoreError::Work { path: path.clone(), source });
                None
            }
        }
    }

    /// Returns the record of a Flow, and its options: those of the program if its constructor makes the Flow, or else
    /// those that were recorded.
    pub(super) fn flow(&mut self, path: &ActorPath) -> Option<(&'r FlowImage, FlowOptions)> {
        let Some(image) = self.recorded.flows.get(path) else {
            if self.moved_below(path.as_str()).next().is_some() && !self.recorded.works.contains_key(path) {
                let options = self.program.flows.get(path).unwrap_or(&self.recorded.new_flow.options);
                return Some((&self.recorded.new_flow, options.clone()));
            }
            self.errors.push(match self.recorded.works.contains_key(path) {
                true => RestoreError::Kind { path: path.clone(), recorded: "a Work", expected: "a Flow" },
                false => RestoreError::Unrecorded { path: path.clone() },
            });
            return None;
        };
        self.mark_used(path)?;
        let options = self.program.flows.get(path).unwrap_or(&image.options);
        Some((image, options.clone()))
    }

    /// Iterates over the actors below a path that have moved there, with the rest of their paths.
    fn moved_below<'p>(&self, path: &'p str) -> impl Iterator<Item = (&'r ActorPath, &'r str)> + use<'p, 'r> {
        let moved = self.recorded.moved.range(ActorPath::from(path)..);
        let all = moved.take_while(move |moved| moved.as_str().starts_with(path));
        let rest = move |moved: &'r ActorPath| moved.as_str().strip_prefix(path)?.strip_prefix('.');
        all.filter_map(move |moved| Some((moved, rest(moved)?)))
    }

    /// Returns the shape of a field that holds children, with those that have moved there.
    fn with_moved(&self, field: &str, recorded: Option<&Shape>) -> Option<Shape> {
        let path = ActorPath::from(field);
        let is_empty = recorded.is_none_or(|shape| matches!(shape, Shape::Absent));
        if self.recorded.moved.contains(&path) {
            return is_empty.then_some(Shape::Child(path));
        }
        let mut below = self.moved_below(field).peekable();
        below.peek()?;
        if self.program.flows.contains_key(&path) {
            return is_empty.then_some(Shape::Child(path));
        }
        let mut entries = match recorded {
            Some(Shape::Map(entries)) => entries.clone(),
            _ if is_empty => Vec::new(),
            _ => return None,
        };
        for (moved, key) in below {
            // The actor itself, or a Flow of the program between the field and the actor.
            let ends = key.match_indices('.').map(|(at, _)| at);
            let above = ends.map(|at| &key[..at]).find_map(|key| {
                let flow = ActorPath::from(format!("{field}.{key}").as_str());
                self.program.flows.contains_key(&flow).then_some((key, flow))
            });
            let (key, child) = above.unwrap_or_else(|| (key, moved.clone()));
            if !entries.iter().any(|(known, _)| known == key) {
                entries.push((key.to_owned(), Shape::Child(child)));
            }
        }
        Some(Shape::Map(entries))
    }

    fn mark_used(&mut self, path: &ActorPath) -> Option<()> {
        if self.used.insert(path.clone()) {
            return Some(());
        }
        self.errors.push(RestoreError::Repeated { path: path.clone() });
        None
    }

    fn note_removed(&mut self, path: &ActorPath, fields: impl IntoIterator<Item = String>) {
        let removed = fields.into_iter().map(|field| RemovedField { path: path.clone(), field });
        self.removed_fields.extend(removed);
    }

    fn note_new(&mut self, path: &ActorPath, field: String, recorded: Option<String>) {
        self.new_fields.push(NewField { path: path.clone(), field, recorded });
    }

    /// Calls code of the Flow at this path, and reports a panic.
    fn fenced<R>(&mut self, path: &ActorPath, code: impl FnOnce(&mut Self) -> Option<R>) -> Option<R> {
        match fence::call(|| code(self)) {
            Ok(result) => result,
            Err(panic) => {
                let (path, message) = (path.clone(), panic.to_string());
                self.errors.push(RestoreError::Panicked { path, message });
                None
            }
        }
    }

    /// Prepares a Flow that the constructor makes, by `prepare`, which visits each of its fields.
    pub(super) fn prepare_flow<F: 'static>(
        &mut self,
        path: &ActorPath,
        image: &'r FlowImage,
        prepare: impl FnOnce(&mut Preparation<'_, 'r, F>),
    ) -> Option<Prepared<F>> {
        self.fenced(path, |restoring| {
            let fields = Fields::new(path, image, restoring);
            let mut preparation = Preparation { fields, changes: Vec::new() };
            prepare(&mut preparation);
            let Preparation { fields, changes } = preparation;
            let is_complete = fields.finish();
            let change_all: Prepared<F> =
                Box::new(move |flow| changes.into_iter().for_each(|change| change(flow)));
            is_complete.then_some(change_all)
        })
    }

    /// Makes a Flow anew, by `rebuild`, which visits each of its fields.
    pub(super) fn rebuild_flow<F>(
        &mut self,
        path: &ActorPath,
        image: &'r FlowImage,
        rebuild: impl FnOnce(&mut Rebuild<'_, 'r>) -> Option<F>,
    ) -> Option<Fenced<F>> {
        self.fenced(path, |restoring| {
            let mut flow = Rebuild { fields: Fields::new(path, image, restoring) };
            let made = rebuild(&mut flow).map(Fenced::new);
            if flow.fields.finish() { made } else { None }
        })
    }
}

/// An own field that the record lacks, and whether another recorded value would fit.
struct MissingField {
    name: &'static str,
    fits: Box<dyn Fn(&Value) -> bool>,
}

/// The record of a Flow while its fields are visited.
struct Fields<'a, 'r> {
    path: &'a ActorPath,
    image: &'r FlowImage,
    restoring: &'a mut Restoring<'r>,
    known: BTreeSet<&'static str>,
    missing: Vec<MissingField>,
    errors: Vec<FieldError>,
    is_complete: bool,
}

impl<'a, 'r> Fields<'a, 'r> {
    fn new(path: &'a ActorPath, image: &'r FlowImage, restoring: &'a mut Restoring<'r>) -> Self {
        let (known, missing, errors) = (BTreeSet::new(), Vec::new(), Vec::new());
        Self { path, image, restoring, known, missing, errors, is_complete: true }
    }

    /// Reads an own field; returns `None` if it cannot be read, or if the record lacks it and may.
    fn own<T: 'static>(&mut self, field: OwnField, read: Option<ReadField<T>>) -> Option<Fenced<T>> {
        let OwnField { name, aliases, is_optional } = field;
        self.known.insert(name);
        self.known.extend(aliases);
        let Some(read) = read else {
            let type_name = std::any::type_name::<T>();
            self.errors.push(FieldError::NotDeserialisable { field: name.to_owned(), type_name });
            return None;
        };
        if self.restoring.recorded.fresh.contains(self.path) {
            return None;
        }
        let own = &self.image.own;
        let recorded = [name].iter().chain(aliases).find_map(|name| Some((*name, own.field(name)?)));
        let Some((recorded, value)) = recorded else {
            if std::ptr::eq(self.image, &self.restoring.recorded.new_flow) {
                return None;
            }
            if is_optional {
                self.restoring.note_new(self.path, name.to_owned(), None);
            } else {
                let fits = Box::new(move |value: &Value| read(value).map(Fenced::new).is_ok());
                self.missing.push(MissingField { name, fits });
            }
            return None;
        };
        if recorded != name {
            self.restoring.note_new(self.path, name.to_owned(), Some(recorded.to_owned()));
        }
        match read(value) {
            Ok(value) => Some(Fenced::new(value)),
            Err(source) => {
                self.errors.push(FieldError::Unreadable { field: name.to_owned(), source });
                None
            }
        }
    }

    fn unrestorable(&mut self, name: &'static str, attribute: &'static str) {
        self.known.insert(name);
        self.errors.push(FieldError::Attribute { field: name.to_owned(), attribute });
    }

    /// Calls `restore` with the recorded shape of a field that holds children, if there is one.
    fn child<R>(
        &mut self,
        name: &'static str,
        restore: impl FnOnce(&Shape, &mut Restoring<'_>) -> Option<R>,
    ) -> Option<R> {
        let field = self.path_of(name);
        let recorded = self.image.shapes.field(name);
        let moved = self.restoring.with_moved(&field, recorded);
        let shape = moved.as_ref().or(recorded)?;
        let outer = std::mem::replace(&mut self.restoring.field, field);
        let restored = restore(shape, self.restoring);
        self.restoring.field = outer;
        self.is_complete &= restored.is_some();
        restored
    }

    fn has_shape(&self, name: &str) -> bool {
        let recorded = self.image.shapes.field(name);
        recorded.is_some() || self.restoring.with_moved(&self.path_of(name), recorded).is_some()
    }

    /// Returns the path of a field.
    fn path_of(&self, name: &str) -> String {
        match self.path.as_str() {
            "" => name.to_owned(),
            path => format!("{path}.{name}"),
        }
    }

    /// Reports what is wrong with the own fields. Returns true if nothing is wrong with the Flow.
    fn finish(mut self) -> bool {
        let own = &self.image.own;
        let unknown: Vec<_> = own.field_names().filter(|name| !self.known.contains(name)).collect();
        match (&self.missing[..], &unknown[..]) {
            ([missing], [recorded]) if own.field(recorded).is_some_and(|value| (missing.fits)(value)) => {
                let (field, recorded) = (missing.name.to_owned(), (*recorded).to_owned());
                self.errors.push(FieldError::Renamed { field, recorded });
            }
            (missing, _) => {
                let missing = missing.iter().map(|field| field.name.to_owned());
                self.errors.extend(missing.map(|field| FieldError::Missing { field }));
            }
        }
        let is_complete = self.is_complete && self.errors.is_empty();
        let flow = |source| RestoreError::Flow { path: self.path.clone(), source };
        self.restoring.errors.extend(self.errors.into_iter().map(flow));
        self.restoring.note_removed(self.path, unknown.into_iter().map(str::to_owned));
        is_complete
    }
}

/// The first step of restoring a Flow that the constructor makes.
#[doc(hidden)]
pub struct Preparation<'a, 'r, F> {
    fields: Fields<'a, 'r>,
    changes: Vec<Prepared<F>>,
}

impl<F: 'static> Preparation<'_, '_, F> {
    /// Reads an own field.
    pub fn own<T: 'static>(
        &mut self,
        field: OwnField,
        read: Option<ReadField<T>>,
        access: fn(&mut F) -> &mut T,
    ) {
        let Some(value) = self.fields.own(field, read) else { return };
        let path = self.fields.path.clone();
        self.changes.push(Box::new(move |flow| {
            let old = std::mem::replace(access(flow), value.into_inner());
            if let Err(panic) = fence::discard(old) {
                log::error!(
                    "a value of the field `{}` of flow `{path}` panicked while it was dropped: {panic}",
                    field.name
                );
            }
        }));
    }

    /// Prepares a field that holds children. A field of which nothing was recorded is new and stays as it is.
    pub fn child<G: 'static>(
        &mut self,
        name: &'static str,
        prepare: impl FnOnce(&Shape, &mut Restoring<'_>) -> Option<Prepared<G>>,
        access: fn(&mut F) -> &mut G,
    ) {
        if let Some(change) = self.fields.child(name, prepare) {
            self.changes.push(Box::new(move |flow| change(access(flow))));
        }
    }

    /// Reports a field that an attribute of serde makes impossible to restore.
    pub fn unrestorable(&mut self, name: &'static str, attribute: &'static str) {
        self.fields.unrestorable(name, attribute);
    }

    /// Reports a tuple struct.
    pub fn unnamed(&mut self) {
        self.fields.errors.push(FieldError::Unnamed);
    }
}

/// The fields of a Flow that is made anew.
#[doc(hidden)]
pub struct Rebuild<'a, 'r> {
    fields: Fields<'a, 'r>,
}

impl Rebuild<'_, '_> {
    /// Reads an own field. One that the record may lack has its default.
    pub fn own<T: 'static>(
        &mut self,
        field: OwnField,
        read: Option<ReadField<T>>,
        default: Option<fn() -> T>,
    ) -> Option<Made<T>> {
        let (missing, errors) = (self.fields.missing.len(), self.fields.errors.len());
        let value = self.fields.own(field, read);
        if value.is_some() || self.fields.missing.len() > missing || self.fields.errors.len() > errors {
            return value.map(Made);
        }
        self.skipped(field.name, default)
    }

    /// Makes a field that serde skips.
    pub fn skipped<T>(&mut self, name: &'static str, default: Option<fn() -> T>) -> Option<Made<T>> {
        match make_default(name, default) {
            Ok(value) => Some(Made(value)),
            Err(error) => {
                self.fields.errors.push(error);
                None
            }
        }
    }

    /// Makes a field that holds children. One of which nothing was recorded is new and has its default.
    pub fn child<G: 'static>(
        &mut self,
        name: &'static str,
        rebuild: impl FnOnce(&Shape, &mut Restoring<'_>) -> Option<G>,
        default: Option<fn() -> G>,
    ) -> Option<Made<G>> {
        if self.fields.has_shape(name) {
            self.fields.child(name, rebuild).map(|group| Made(Fenced::new(group)))
        } else {
            self.skipped(name, default)
        }
    }

    /// Reports a field that an attribute of serde makes impossible to restore.
    pub fn unrestorable<T>(&mut self, name: &'static str, attribute: &'static str) -> Option<Made<T>> {
        self.fields.unrestorable(name, attribute);
        None
    }

    /// Reports a tuple struct.
    pub fn unnamed(&mut self) {
        self.fields.errors.push(FieldError::Unnamed);
    }
}
