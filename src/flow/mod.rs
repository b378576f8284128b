//! Layer 4: Flows, the supervisors.
//!
//! A Flow owns Works and other Flows, reacts when their state or status changes, and decides what runs next. It
//! computes nothing itself. What is here is pure: no sockets, no clock. `run`, `stop` and the like only write
//! down what is to be done; the driver upstairs does it after `react` has returned.
//!
//! # Guarantees
//! - `react` is called at the start and after each batch of changes below the Flow, never concurrently with
//!   itself, and never without a reason. Changes that arrive meanwhile are one later batch. A change that `react`
//!   itself makes to the Flow's own fields is no reason.
//! - During one reaction, what is seen of the Works does not change.
//! - One run per distinct input; see the module `ledger`.
//! - A Work is commanded by its own Flow only.
//! - A Flow that fails ends its reaction; its failure goes up until somebody captures it.

mod builder;
mod children;
mod context;
mod error;
mod flow_ref;
mod ledger;
mod policy;
mod reaction;
mod record;
mod restart;
mod run;
mod schedule;
mod scope;
mod supervisor;
mod work_ref;

use serde::Serialize;

pub use self::children::Children;
#[doc(hidden)]
pub use self::children::{ChildGroup, Found, Kinds, Route, Walk};
pub use self::context::FlowContext;
pub use self::error::FlowError;
pub use self::flow_ref::FlowRef;
pub use self::policy::{OnNodeLost, Overlap, Remember};
pub use self::reaction::{Interrupt, Reaction};
pub use self::restart::{OnError, Restart};
pub use self::run::Run;
pub use self::schedule::ScheduleError;
pub use self::supervisor::Strategy;
pub use self::work_ref::WorkRef;

pub(crate) use self::children::{Node, Position, Visitor};
pub(crate) use self::context::Ending;
pub(crate) use self::flow_ref::{AnyFlow, FlowLink, FlowOptions};
pub(crate) use self::ledger::{Action, Moment, Outcomes, Requested, RunEntry};
pub(crate) use self::record::{Place, Record, SharedRecord, lock};
pub(crate) use self::restart::Restarts;
pub(crate) use self::scope::{Scope, enter, leave};
pub(crate) use self::supervisor::{Decision, Supervisor};

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
    note = "a Flow derives `Serialize` and `Children` and has `impl Flow for {Self}` with a `react`"
)]
pub trait Flow: Children + Serialize + 'static {
    /// Decides what runs, given how things stand. Called any number of times, so that it describes what should
    /// be rather than what to do next; quick, since all Flows of an App share a thread (over 100 ms is logged).
    ///
    /// What stands before a `?` that leaves it is done again by the next reaction. A change that it makes to the
    /// Flow's own fields is no reason to react again; [`FlowContext::wake_in`] is.
    ///
    /// # Errors
    /// [`Interrupt::Pending`] leaves it early and is no error; any other error, which `?` takes, is the failure
    /// of the Flow.
    fn react(&mut self, cx: &mut FlowContext) -> Reaction;

    /// Which children are restarted when one of them is.
    fn strategy(&self) -> Strategy {
        Strategy::one_for_one()
    }
}
