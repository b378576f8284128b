//! The Flow around a Work that is run as an App.

use flowright_macros::Children;
use serde::Serialize;

use crate::flow::{Flow, FlowContext, Reaction, WorkRef};
use crate::work::Work;

/// Runs its Work once and ends the App when that has succeeded.
#[derive(Serialize, Children)]
pub(super) struct OneWork<W: Work> {
    pub(super) work: WorkRef<W>,
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
