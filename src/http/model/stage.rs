//! Stages, and the reasons of failures and stops.

use serde::Serialize;
use utoipa::ToSchema;

use crate::app::AppStage;
use crate::work::{Reason, Stage};

/// The stage of a Work, a Flow or a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum StageView {
    NotStarted,
    Pending,
    Running,
    Succeeded,
    Failed,
    Stopped,
}

impl From<Stage> for StageView {
    fn from(stage: Stage) -> Self {
        match stage {
            Stage::NotStarted => Self::NotStarted,
            Stage::Pending => Self::Pending,
            Stage::Running => Self::Running,
            Stage::Succeeded => Self::Succeeded,
            Stage::Failed => Self::Failed,
            Stage::Stopped => Self::Stopped,
        }
    }
}

/// The reason of a failure or a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum ReasonView {
    UserError,
    Panic,
    Timeout,
    PayloadLost,
    NodeLost,
    ProcessDied,
    Stopped,
}

impl From<Reason> for ReasonView {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::UserError => Self::UserError,
            Reason::Panic => Self::Panic,
            Reason::Timeout => Self::Timeout,
            Reason::PayloadLost => Self::PayloadLost,
            Reason::NodeLost => Self::NodeLost,
            Reason::ProcessDied => Self::ProcessDied,
            Reason::Stopped => Self::Stopped,
        }
    }
}

/// The stage of the App.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum AppStageView {
    Starting,
    SafeMode,
    Running,
    Stopping,
    Ended,
}

impl From<AppStage> for AppStageView {
    fn from(stage: AppStage) -> Self {
        match stage {
            AppStage::Starting => Self::Starting,
            AppStage::SafeMode => Self::SafeMode,
            AppStage::Running => Self::Running,
            AppStage::Stopping => Self::Stopping,
            AppStage::Ended => Self::Ended,
        }
    }
}
