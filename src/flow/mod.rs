//! Layer 4: Flows, the supervisors.
//!
//! A Flow owns Works and other Flows, reacts when their state or status changes, and decides what runs next. It
//! computes nothing itself. This module is pure: no sockets, no clock. `run`, `stop` and similar calls only record
//! commands; the driver, a layer above, carries them out after `react` has returned.
//!
//! # Guarantees
//! - `react` is called at the start and after each batch of changes below the Flow, never concurrently with itself, and
//!   never without such a cause. Changes that arrive during a reaction are part of a later batch. A change that `react`
//!   itself makes to the Flow's own fields causes no reaction.
//! - During one reaction, the visible states and statuses of the Works do not change.
//! - One run per distinct input; see the module `ledger`.
//! - Only a Work's own Flow commands the Work.
//! - A failed Flow ends its reaction; the failure escalates from parent to parent until one captures it.

#![cfg_attr(
    not(test),
    allow(dead_code, unused_imports, reason = "some of it serves features that may be off")
)]

#[cfg(feature = "remote")]
mod adoption;
mod builder;
mod check;
mod children;
mod context;
mod deserialisable;
mod error;
mod flow_link;
mod flow_ref;
mod ledger;
mod own_fields;
mod policy;
mod program_names;
mod reaction;
mod record;
mod recorded;
mod restart;
mod restore_error;
mod restoring;
mod schedule;
mod scope;
mod service;
mod service_report;
mod settings;
mod shape;
mod supervisor;
mod system;
mod work_ref;
mod work_state;

use serde::Serialize;

#[doc(hidden)]
pub use self::check::Check;
pub use self::children::Children;
#[doc(hidden)]
pub use self::children::{ChildGroup, Found, Kinds, Route, Walk};
pub use self::context::FlowContext;
pub use self::error::FlowError;
pub use self::flow_ref::FlowRef;
#[doc(hidden)]
pub use self::own_fields::{
    ByDefault, ByDeserialize, BySerialize, ByWork, FieldType, OwnField, OwnWriter, ReadField, WithoutDefault,
    WithoutDeserialize, WithoutSerialize, WithoutWork, WriteField, refuse_unnamed, require_own,
};
pub use self::policy::{Journaled, OnNodeLost, Overlap, Remember};
pub(crate) use self::reaction::is_pending;
pub use self::reaction::{Pending, Reaction};
pub use self::restart::{OnError, Restart};
#[doc(hidden)]
pub use self::restoring::{Preparation, Rebuild};
pub use self::schedule::ScheduleError;
pub use self::service::{Replicas, ServiceRef};
pub use self::service_report::{Rollout, RolloutStage};
#[doc(hidden)]
pub use self::shape::Shapes;
pub use self::supervisor::Strategy;
pub use self::work_ref::{Run, WorkRef};

#[cfg(feature = "remote")]
pub(crate) use self::adoption::{Expected, Verdict, judge};
#[cfg(feature = "journal")]
pub(crate) use self::check::FlowProblem;
pub(crate) use self::children::{AnyFlow, Node, Position, Visitor};
pub(crate) use self::context::{Ending, FlowWaker};
pub(crate) use self::flow_link::{FlowLink, FlowOptions};
pub(crate) use self::ledger::{Action, Ledger, Moment, Outcomes, Requested, RunEntry};
#[cfg(feature = "journal")]
pub(crate) use self::ledger::{
    Fact, Image, ImageReader, InputFacts, Rekeyed, RowError, WorkFacts, decoded, encoded,
};
pub(crate) use self::record::{Changed, Place, Record, SharedRecord};
pub(crate) use self::recorded::{FlowImage, RecordedTree, WorkImage};
pub(crate) use self::restart::Restarts;
pub(crate) use self::restore_error::{RestoreError, Restored};
#[cfg(feature = "journal")]
pub(crate) use self::schedule::{ScheduleRow, Schedules};
pub(crate) use self::scope::{Scope, enter, leave};
pub(crate) use self::service_report::{ServiceMonitor, ServiceReport};
pub(crate) use self::settings::WorkSettings;
#[cfg(feature = "journal")]
pub(crate) use self::shape::Shape;
pub(crate) use self::supervisor::{Decision, Supervisor};
pub(crate) use self::system::{NotSpawned, Spawner, Spawning, System};

/// A supervisor: owns Works and other Flows, and decides what runs next.
///
/// ```
/// use flowright::prelude::*;
///
/// # #[derive(Default, Serialize, Deserialize)]
/// # struct Train { checkpoint: Option<String> }
/// # impl Work for Train {
/// #     type Input = ();
/// #     async fn run(&mut self, (): (), _: &mut WorkContext<Self>) -> Result<()> { Ok(()) }
/// # }
/// # #[derive(Default, Serialize, Deserialize)]
/// # struct Deploy;
/// # impl Work for Deploy {
/// #     type Input = String;
/// #     async fn run(&mut self, _: String, _: &mut WorkContext<Self>) -> Result<()> { Ok(()) }
/// # }
/// #[derive(Default, Serialize, Children)]
/// struct Pipeline {
///     train: WorkRef<Train>,
///     deploy: WorkRef<Deploy>,
/// }
///
/// impl Flow for Pipeline {
///     fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
///         self.train.run(());                                // once, in parallel
///         if let Some(checkpoint) = &self.train.checkpoint {
///             self.deploy.run(checkpoint.clone());           // once per distinct checkpoint
///         }
///         Ok(())
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a Flow",
    label = "not a Flow",
    note = "a Flow derives `Serialize` and `Children` and has `impl Flow for {Self}` with a `react`; an App of a single Work is made by \
            `App::of_work`"
)]
pub trait Flow: Children + Serialize + 'static {
    /// Decides what should run, from the current state of the Flow and its children. Called any number of times, so it
    /// declares the wanted state instead of the next step. It must return quickly, since all Flows of an App share one
    /// thread; a reaction of more than 100 ms is logged.
    ///
    /// Code before a `?` that returns early executes again in the next reaction. A change to the Flow's own fields does
    /// not cause another reaction; use [`FlowContext::wake_in`] for that.
    ///
    /// # Errors
    /// [`Pending`] ends the reaction early and is not a failure; any other error, converted by `?`, fails
    /// the Flow.
    fn react(&mut self, cx: &mut FlowContext) -> Reaction;

    /// Returns which children are restarted when one of them fails. By default only the failed one.
    fn strategy(&self) -> Strategy {
        Strategy::one_for_one()
    }

    /// Notes that the Flow joins the App at this path.
    #[doc(hidden)]
    fn joined(&mut self, _path: &crate::id::ActorPath) {}

    /// Returns the monitor of the Flow of a service.
    #[doc(hidden)]
    fn monitor(&self) -> Option<ServiceMonitor> {
        None
    }

    /// True if the Flow reacts to what is not recorded.
    #[doc(hidden)]
    const SEES_UNRECORDED: bool = false;
}
