//! Incarnations that nodes keep while their head is started again.

use std::sync::Arc;

use crate::id::ActorPath;
use crate::payload::PayloadGuards;
use crate::state::Value;

/// An incarnation that a node has kept while it had no head, as the node describes it to the next head.
pub(crate) struct Claim {
    /// The node, by the number of its process and by its name.
    pub(crate) process: u64,
    pub(crate) node: Arc<str>,
    pub(crate) incarnation: u64,
    pub(crate) path: ActorPath,
    /// Name of the type of the Work.
    pub(crate) work: String,
    /// Number of the last run that the incarnation was ordered; 0 if there was none.
    pub(crate) last_run: u64,
    /// Number of the reports that a head has acknowledged as durable. The node sends those since again.
    pub(crate) acknowledged: u64,
    /// The last published state, and the guards of its payloads.
    pub(crate) state: Value,
    pub(crate) holds: PayloadGuards,
    /// Indices of the GPUs that were assigned to the incarnation.
    pub(crate) gpus: Vec<u32>,
}
