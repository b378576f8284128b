//! The interface of `elsewhere.rs` for programs without the feature `remote`: there are no other processes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::id::ActorPath;
use crate::payload::PayloadId;
use crate::recorder::Carried;
use crate::work::{
    CloseReason, HostError, HostEvent, LaunchSpec, LoadReport, LocalHost, NodeStatus, Placement, ReadyQueue,
    RecordedBy, Resources,
};

/// The hosts in other processes; there are none.
#[derive(Default)]
pub(in crate::app) struct Elsewhere {}

impl Elsewhere {
    pub(super) fn launch(
        &mut self,
        placement: &Placement,
        _: Resources,
        _: Option<Duration>,
        what: LaunchSpec,
        _: &Arc<ReadyQueue>,
        _: &mut LocalHost,
    ) -> Result<(), HostError> {
        let why = format!(
            "this program was built without Flowright's feature `remote`, which placement `{placement}` needs; turn it \
             on, or place the Work in this process (`thread` or `pool`)"
        );
        Err(HostError::NoProcess { path: what.path.to_string(), why })
    }

    #[cfg(feature = "journal")]
    pub(super) fn is_kept(&self, _: &ActorPath) -> bool {
        false
    }

    pub(super) fn launched_here(&self, _: &ActorPath) {}

    pub(super) fn closed(&self, _: &ActorPath, _: CloseReason) {}

    pub(super) fn stopping(&self) {}

    pub(super) fn drain(&self, _: &str, _: &str) -> bool {
        false
    }

    pub(super) fn events(&self) -> Vec<HostEvent> {
        Vec::new()
    }

    pub(super) fn node_of(&self, _: &ActorPath) -> Option<Arc<str>> {
        None
    }

    pub(super) fn holders(&self, _: PayloadId) -> Option<Vec<String>> {
        None
    }

    pub(super) fn listening(&self) -> Option<String> {
        None
    }

    pub(super) fn load_of_processes(&self) -> Vec<LoadReport> {
        Vec::new()
    }

    pub(super) fn recorded(&self) -> Vec<(RecordedBy, Arc<Carried>)> {
        Vec::new()
    }

    pub(super) fn nodes(&self) -> BTreeMap<String, NodeStatus> {
        BTreeMap::new()
    }
}
