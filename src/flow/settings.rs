//! The settings of a Work as they are recorded.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::policy::Policy;
use crate::work::{DEFAULT_MAILBOX, Placement, Resources};

/// The settings of a Work, made by the builder methods of its `WorkRef`. A setting that the record lacks has its default,
/// and one that the program does not know is ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct WorkSettings {
    #[serde(serialize_with = "write_policy", deserialize_with = "read_policy")]
    pub(crate) policy: Arc<Policy>,
    /// Absent unless the Flow has chosen a placement.
    pub(crate) placement: Option<Placement>,
    pub(crate) needs: Option<Resources>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) runs_for: Option<Duration>,
    pub(crate) mailbox: usize,
}

impl Default for WorkSettings {
    fn default() -> Self {
        Self {
            policy: Policy::shared(),
            placement: None,
            needs: None,
            runs_for: None,
            mailbox: DEFAULT_MAILBOX,
        }
    }
}

fn write_policy<S: Serializer>(policy: &Arc<Policy>, serializer: S) -> Result<S::Ok, S::Error> {
    policy.serialize(serializer)
}

fn read_policy<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<Policy>, D::Error> {
    let policy = Policy::deserialize(deserializer)?;
    let shared = Policy::shared();
    Ok(if policy == *shared { shared } else { Arc::new(policy) })
}
