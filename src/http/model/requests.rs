//! The bodies of actions, and their answer.

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use utoipa::ToSchema;

/// The answer to an action that will be carried out.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct Accepted {
    #[schema(example = true)]
    pub(in crate::http) accepted: bool,
}

/// The run to repeat: its input, or the number of an earlier run with that input.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged)]
#[schema(example = json!({"run": 7}))]
#[allow(dead_code, reason = "the types for the document; the body is read in two steps")]
pub(in crate::http) enum Rerun {
    Run(RunNumber),
    Input(InputBody),
}

#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "the types for the document; the body is read in two steps")]
pub(in crate::http) struct RunNumber {
    #[schema(minimum = 1)]
    pub(in crate::http) run: u64,
}

/// An input, as the Work's `Input` type reads it from JSON. `Some(None)` and `Some(())` are `{"$some": null}`, and
/// `Some(Some(None))` is `{"$some": {"$some": null}}`.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "the types for the document; the body is read in two steps")]
pub(in crate::http) struct InputBody {
    #[schema(required = true)]
    pub(in crate::http) input: Json,
}

/// The reason for stopping the App or sending a node away.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct StopBody {
    #[schema(example = "the release is over")]
    pub(in crate::http) why: String,
}
