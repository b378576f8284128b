//! The JSON documents of the API as Rust types, from which the OpenAPI document is generated.

#[cfg(feature = "remote")]
mod fleet;
#[cfg(feature = "journal")]
mod history;
mod node;
mod requests;
mod service;
mod stage;
mod status;
mod storage;
mod topic;
mod work;

use std::time::SystemTime;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::Value as Json;

#[cfg(feature = "remote")]
pub(super) use self::fleet::{FleetCheckView, FleetLogView, FleetView, groups_of};
#[cfg(feature = "journal")]
pub(super) use self::history::{AnyStateView, DiffView, HistoryView, PastStateView, WhyView};
pub(super) use self::node::{NodeView, UsageView, nodes};
pub(super) use self::requests::{Accepted, InputBody, Rerun, StopBody};
pub(super) use self::service::{ServiceView, ServicesView, service_view};
pub(super) use self::status::{
    About, AppInfo, GraphView, Health, PendingView, Readiness, StateView, StatusView, graph_view, status_view,
};
pub(super) use self::storage::{LogView, LogsView, PayloadView, PayloadsView};
pub(super) use self::topic::{TopicView, TopicsView};
pub(super) use self::work::{RunView, RunsView, WorkView, work_view};
use crate::state::Value;
use crate::work::Status;

/// Formats a time as RFC 3339, in UTC, with milliseconds.
fn time(time: SystemTime) -> String {
    DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Converts MessagePack to JSON for display; `null` when the bytes are invalid.
fn readable(bytes: &[u8]) -> Json {
    crate::wire::decode::<Value>(bytes).map(|value| value.to_json()).unwrap_or_default()
}

fn since(status: &Status) -> Option<String> {
    (status.seq > 0 || status.time > SystemTime::UNIX_EPOCH).then(|| time(status.time))
}
