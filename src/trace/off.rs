//! The interface of `on` and `export` for builds without the feature `traces`.

use std::future::Future;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::What;

/// The cause of an operation, which is never known without the feature.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Cause {}

impl Cause {
    pub(crate) fn is_none(&self) -> bool {
        true
    }

    pub(crate) fn current() -> Self {
        Self {}
    }

    pub(crate) fn within<R>(&self, what: impl FnOnce() -> R) -> R {
        what()
    }
}

impl Serialize for Cause {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_unit()
    }
}

impl<'de> Deserialize<'de> for Cause {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self {})
    }
}

pub(crate) struct Span;

impl Span {
    pub(crate) fn start(_: What, _: &str, _: &[Cause]) -> Self {
        Self
    }

    pub(crate) fn below_current(_: What, _: &str) -> Self {
        Self
    }

    pub(crate) fn start_if_caused(_: What, _: &str, _: &Cause) -> Self {
        Self
    }

    pub(crate) fn within<R>(&self, what: impl FnOnce() -> R) -> R {
        what()
    }

    pub(crate) fn around<F: Future>(&self, future: F) -> F {
        future
    }

    pub(crate) fn failed(&self, _: &str) {}
}

/// Guard of the exporter, which does not exist without the feature.
pub(crate) struct Exporting;

impl Exporting {
    pub(crate) fn end(self) {}
}

pub(crate) fn export() -> Exporting {
    Exporting
}
