//! Locations of Works and values in the processes of an App.

use serde::{Deserialize, Serialize};

use super::NodeCard;
use crate::transport::Endpoint;
use crate::work::CloseReason;

/// The location of a Work as the head announces it. `N` identifies a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Location<N> {
    /// The Work is being started, restarted or moved.
    Pending,
    /// Hosted by this node, as this incarnation. Works of the head itself, and Works in processes of their own, count
    /// as hosted by the head.
    At {
        node: N,
        incarnation: u64,
    },
    Closed(CloseReason),
}

/// A process that has a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Source {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) endpoints: Vec<Endpoint>,
}

impl Source {
    pub(in crate::remote) fn of(card: &NodeCard) -> Self {
        Self { id: card.id, name: card.name.clone(), endpoints: card.endpoints.clone() }
    }

    /// Returns the parts of a card that are needed to reach the process.
    pub(in crate::remote) fn card(&self) -> NodeCard {
        NodeCard {
            id: self.id,
            name: self.name.clone(),
            labels: Default::default(),
            resources: Default::default(),
            endpoints: self.endpoints.clone(),
            process: None,
            ends_in_ms: None,
            drain_before_ms: 0,
        }
    }
}
