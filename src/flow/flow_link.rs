//! The options of a Flow, and the state that the driver shares with its `FlowRef`.

use parking_lot::Mutex;

use super::restart::{OnError, Restart};
use crate::id::{ActorPath, FlowId};
use crate::work::Status;

/// The options that a parent sets for a Flow.
#[derive(Debug, Clone, Default)]
pub(crate) struct FlowOptions {
    pub(crate) on_error: OnError,
    pub(crate) restart: Restart,
}

/// State shared by the driver and the `FlowRef`.
#[derive(Debug)]
pub(crate) struct FlowLink {
    pub(crate) id: FlowId,
    pub(crate) path: ActorPath,
    pub(crate) status: Mutex<Status>,
}
