//! The policies of a Work, set by builder methods of its `WorkRef`.

use std::sync::Arc;
use std::time::Duration;

use super::policy::{Journaled, OnNodeLost, Overlap, Remember};
use super::restart::{OnError, Restart};
use super::work_ref::WorkRef;
use crate::work::{Placement, Resources, Selector, Work};

impl<W: Work> WorkRef<W> {
    /// Sets the placement; by default the Work has a thread of its own. The command line and the configuration take
    /// precedence.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// # use flowright::Selector;
    /// # #[derive(Default, Serialize, Deserialize)]
    /// # struct Train;
    /// # impl Work for Train {
    /// #     type Input = ();
    /// #     async fn run(&mut self, (): (), _: &mut WorkContext<Self>) -> Result<()> { Ok(()) }
    /// # }
    /// let train = WorkRef::new(Train).placed(Placement::Node(Selector::label("zone", "west")));
    /// ```
    #[must_use]
    pub fn placed(mut self, placement: Placement) -> Self {
        self.placement = Some(placement);
        self
    }

    /// Sets the resources that the Work needs where it runs. A Work without a placement of its own ([`WorkRef::placed`])
    /// then runs on the least loaded node with enough free resources; the process of the App itself is not such a node.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// # #[derive(Default, Serialize, Deserialize)]
    /// # struct Train;
    /// # impl Work for Train {
    /// #     type Input = ();
    /// #     async fn run(&mut self, (): (), _: &mut WorkContext<Self>) -> Result<()> { Ok(()) }
    /// # }
    /// let on_any_node = WorkRef::new(Train).needs(Resources::gpus(1).and_memory(8 << 30));
    /// let at_the_head = WorkRef::new(Train).needs(Resources::gpus(1)).placed(Placement::Process);
    /// ```
    #[must_use]
    pub fn needs(mut self, needs: Resources) -> Self {
        self.needs = Some(needs);
        self
    }

    /// Sets the time for which the Work runs, at most. Where it is placed on nodes, those are left out whose allocation ends
    /// before it is done (`node --lifetime`), and the Work waits for another node. It is not ended when it runs longer.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// # use std::time::Duration;
    /// # #[derive(Default, Serialize, Deserialize)]
    /// # struct Train;
    /// # impl Work for Train {
    /// #     type Input = ();
    /// #     async fn run(&mut self, (): (), _: &mut WorkContext<Self>) -> Result<()> { Ok(()) }
    /// # }
    /// let hours = WorkRef::new(Train).needs(Resources::gpus(1)).runs_for(Duration::from_secs(3 * 3_600));
    /// ```
    #[must_use]
    pub fn runs_for(mut self, time: Duration) -> Self {
        self.runs_for = Some(time);
        self
    }

    /// Returns the placement by the Flow.
    pub(super) fn own_placement(&self) -> Placement {
        let by_needs = || self.needs.map(|_| Placement::Node(Selector::any()));
        self.placement.or_else(by_needs).unwrap_or_default()
    }

    /// Sets the policy for the loss of the Work's node; by default the Work waits for another node.
    #[must_use]
    pub fn on_node_lost(mut self, on_node_lost: OnNodeLost) -> Self {
        Arc::make_mut(&mut self.policy).on_node_lost = on_node_lost;
        self
    }

    /// Sets the restart policy; by default a failed Work is not restarted.
    #[must_use]
    pub fn restart(mut self, restart: Restart) -> Self {
        Arc::make_mut(&mut self.policy).restart = restart;
        self
    }

    /// Sets the handling of a failure after the last restart; by default it fails the App.
    #[must_use]
    pub fn on_error(mut self, on_error: OnError) -> Self {
        Arc::make_mut(&mut self.policy).on_error = on_error;
        self
    }

    /// Sets the policy for a new input that arrives while another runs; by default it waits in a queue.
    #[must_use]
    pub fn overlap(mut self, overlap: Overlap) -> Self {
        Arc::make_mut(&mut self.policy).overlap = overlap;
        self
    }

    /// With `false`, an input that succeeded runs again when it is requested while the Work is idle. Then
    /// [`Run::finished`](crate::Run::finished) returns the Work from the end of the run until the input is requested
    /// again, including in that reaction.
    #[must_use]
    pub fn cache_calls(mut self, cache_calls: bool) -> Self {
        Arc::make_mut(&mut self.policy).cache_calls = cache_calls;
        self
    }

    /// Sets the longest duration of one run, from its start; there is none by default. A run that takes longer fails
    /// with [`Reason::Timeout`](crate::Reason::Timeout), and its incarnation is ended at its next `await`; states that
    /// it still publishes are ignored. The thread of an incarnation that blocks forever is leaked.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        Arc::make_mut(&mut self.policy).timeout = Some(timeout);
        self
    }

    /// Sets the capacity of the mailbox, in messages; [`DEFAULT_MAILBOX`](crate::DEFAULT_MAILBOX) by default. Senders
    /// to a full mailbox wait or get their message back.
    #[must_use]
    pub fn mailbox(mut self, capacity: usize) -> Self {
        self.mailbox = capacity;
        self
    }

    /// Sets the largest number of runs that wait with [`Overlap::Queue`]; 1024 by default. An input that finds the
    /// queue full is not accepted, and the next reaction asks for it again.
    #[must_use]
    pub fn queue(mut self, runs: usize) -> Self {
        Arc::make_mut(&mut self.policy).queue = runs;
        self
    }

    /// Limits the number or the age of the outcomes of runs that are remembered; both limits can be set. By default all
    /// outcomes are remembered for as long as the Work is part of the App, in 95 to 150 bytes for each distinct input;
    /// a warning is logged at a million.
    ///
    /// The oldest outcomes are forgotten first, never a run that waits or is in progress. A forgotten input is new
    /// again: when the Flow requests it once more it **runs once more**, also if it had failed, and until then
    /// [`Run::finished`](crate::Run::finished) is pending. Remember at least as many outcomes as one reaction requests,
    /// or the Work repeats its runs endlessly.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// # use std::time::Duration;
    /// # #[derive(Default, Serialize, Deserialize)]
    /// # struct Fetch;
    /// # impl Work for Fetch {
    /// #     type Input = String;
    /// #     async fn run(&mut self, _: String, _: &mut WorkContext<Self>) -> Result<()> { Ok(()) }
    /// # }
    /// let fetch = WorkRef::new(Fetch).remember(10_000).remember(Duration::from_secs(24 * 3600));
    /// ```
    #[must_use]
    pub fn remember(mut self, what: impl Into<Remember>) -> Self {
        let policy = Arc::make_mut(&mut self.policy);
        policy.remember = policy.remember.and(what.into());
        self
    }

    /// Sets the part of the Work that an App with a journal records; [`Journaled::All`] by default.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// # use flowright::Journaled;
    /// # #[derive(Default, Serialize, Deserialize)]
    /// # struct Preview { pixels: Vec<u8> }
    /// # impl Work for Preview {
    /// #     type Input = u64;
    /// #     async fn run(&mut self, _: u64, _: &mut WorkContext<Self>) -> Result<()> { Ok(()) }
    /// # }
    /// // Published many times a second, and of no use in the next life of the App.
    /// let preview = WorkRef::new(Preview::default()).journal(Journaled::RunsOnly);
    /// ```
    #[must_use]
    pub fn journal(mut self, what: Journaled) -> Self {
        Arc::make_mut(&mut self.policy).journaled = what;
        self
    }

    /// Sets the longest time for a graceful stop, before the Work is ended by force; 10 s by default.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        Arc::make_mut(&mut self.policy).grace = grace;
        self
    }

    /// With `true`, `/readyz` reports the App as not ready while this Work is pending. By default a Work counts unless
    /// it waits for a node: set `true` for a service without which the App is of no use, and `false` for a batch job.
    #[must_use]
    pub fn count_for_readiness(mut self, counts: bool) -> Self {
        Arc::make_mut(&mut self.policy).counts_for_readiness = Some(counts);
        self
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::error::Result;
    use crate::work::WorkContext;

    #[derive(Default, Serialize, Deserialize)]
    struct Idle;

    impl Work for Idle {
        type Input = ();

        async fn run(&mut self, (): (), _: &mut WorkContext<Self>) -> Result<()> {
            Ok(())
        }
    }

    /// The order of `placed` and `needs` has no effect, and an explicit placement wins.
    #[test]
    fn placement_and_needs_compose_in_any_order() {
        let (work, gpu) = (|| WorkRef::new(Idle), Resources::gpus(1));
        assert_eq!(work().own_placement(), Placement::Thread);
        assert_eq!(work().needs(gpu).own_placement(), Placement::Node(Selector::any()));
        for placement in [Placement::Thread, Placement::Process, Placement::Node(Selector::name("n"))] {
            assert_eq!(work().placed(placement).needs(gpu).own_placement(), placement);
            assert_eq!(work().needs(gpu).placed(placement).own_placement(), placement);
        }
    }
}
