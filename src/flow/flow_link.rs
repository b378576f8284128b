//! The options of a Flow, and the state that the driver shares with its `FlowRef`.

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::restart::{OnError, RecordedRestart, Restart};
use crate::id::{ActorPath, FlowId};
use crate::work::Status;

/// The options that a parent sets for a Flow. One that a record lacks has its default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct FlowOptions {
    pub(crate) on_error: OnError,
    #[serde(with = "RecordedRestart")]
    pub(crate) restart: Restart,
}

/// State shared by the driver and the `FlowRef`.
#[derive(Debug)]
pub(crate) struct FlowLink {
    pub(crate) id: FlowId,
    pub(crate) path: ActorPath,
    pub(crate) status: Mutex<Status>,
}
