//! The types that can be the root of an App.

use serde::Serialize;

use crate::flow::{AnyFlow, Children, Flow, FlowContext, FlowRef, Kinds, Reaction, WorkRef};
use crate::work::Work;

/// The root of an App: a [`Flow`], or a [`Work`] that is run once and whose success ends the App.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the root of an App",
    label = "neither a Flow nor a Work whose input has a default",
    note = "a Flow derives `Serialize` and `Children` and has `impl Flow`; a Work derives `Serialize` and `Deserialize` and has `impl Work`"
)]
pub trait Root<Kind> {
    #[doc(hidden)]
    fn into_root(self) -> RootFlow;

    #[doc(hidden)]
    fn kinds(kinds: &mut Kinds);
}

/// A type-erased root.
#[doc(hidden)]
pub struct RootFlow(pub(super) Box<dyn AnyFlow>);

/// Marker of roots that are Flows.
#[doc(hidden)]
pub struct FlowKind;

/// Marker of roots that are Works.
#[doc(hidden)]
pub struct WorkType;

impl<F: Flow> Root<FlowKind> for F {
    fn into_root(self) -> RootFlow {
        RootFlow(Box::new(FlowRef::new(self)))
    }

    fn kinds(kinds: &mut Kinds) {
        kinds.below::<F>();
    }
}

impl<W> Root<WorkType> for W
where
    W: Work,
    W::Input: Default,
{
    fn into_root(self) -> RootFlow {
        RootFlow(Box::new(FlowRef::new(OneWork { work: WorkRef::new(self) })))
    }

    fn kinds(kinds: &mut Kinds) {
        kinds.field::<WorkRef<W>>();
    }
}

/// The Flow around a Work that is the root.
#[derive(Serialize)]
struct OneWork<W: Work> {
    work: WorkRef<W>,
}

impl<W: Work> Children for OneWork<W> {
    fn kinds(kinds: &mut Kinds) {
        kinds.field::<WorkRef<W>>();
    }

    fn walk(&mut self, walk: &mut crate::flow::Walk<'_>) {
        walk.field("work", &mut self.work);
    }

    fn find(&mut self, route: crate::flow::Route<'_>) -> Option<crate::flow::Found<'_>> {
        crate::flow::ChildGroup::find(&mut self.work, route)
    }
}

impl<W> Flow for OneWork<W>
where
    W: Work,
    W::Input: Default,
{
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        self.work.run(W::Input::default()).finished()?;
        cx.stop("its Work has succeeded");
        Ok(())
    }
}
