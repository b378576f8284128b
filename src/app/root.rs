//! The Flow around a Work that is run as an App.

use serde::Serialize;

use crate::flow::{Children, Flow, FlowContext, Kinds, Reaction, WorkRef};
use crate::work::Work;

/// Runs its Work once and ends the App when that has succeeded.
#[derive(Serialize)]
pub(super) struct OneWork<W: Work> {
    pub(super) work: WorkRef<W>,
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

    fn restore(&mut self, fields: &mut crate::flow::OwnFields<'_>) {
        fields.child("work");
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
