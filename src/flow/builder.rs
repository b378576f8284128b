//! What is said of a Work when it is made.

use std::sync::Arc;
use std::time::Duration;

use super::policy::{OnNodeLost, Overlap, Remember};
use super::restart::{OnError, Restart};
use super::work_ref::WorkRef;
use crate::work::{Placement, Resources, Selector, Work};

impl<W: Work> WorkRef<W> {
    /// Where it runs; a thread of its own by default. The command line and the configuration win over this.
    pub fn placed(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    /// What it needs of the node where it runs. With the default placement it then runs on any node that has room
    /// for it, on the one with the least load; the process of the App itself is no such node.
    pub fn needs(mut self, needs: Resources) -> Self {
        if self.placement == Placement::default() {
            self.placement = Placement::Node(Selector::any());
        }
        self.needs = needs;
        self
    }

    /// What becomes of it when the node where it runs is lost; by default it waits for another.
    pub fn on_node_lost(mut self, on_node_lost: OnNodeLost) -> Self {
        Arc::make_mut(&mut self.policy).on_node_lost = on_node_lost;
        self
    }

    /// How often it is restarted when it fails; never by default.
    pub fn restart(mut self, restart: Restart) -> Self {
        Arc::make_mut(&mut self.policy).restart = restart;
        self
    }

    /// What its failure comes to when no restart is left; the failure of the App by default.
    pub fn on_error(mut self, on_error: OnError) -> Self {
        Arc::make_mut(&mut self.policy).on_error = on_error;
        self
    }

    /// What a new input does while another runs; it waits in a queue by default.
    pub fn overlap(mut self, overlap: Overlap) -> Self {
        Arc::make_mut(&mut self.policy).overlap = overlap;
        self
    }

    /// With `false`, an input that succeeded runs again whenever it is asked for while the Work is idle.
    /// [`Run::finished`](crate::Run::finished) passes from its end until it is asked for again, that reaction included.
    pub fn cache_calls(mut self, cache_calls: bool) -> Self {
        Arc::make_mut(&mut self.policy).cache_calls = cache_calls;
        self
    }

    /// How long one run may take from its start. One that takes longer fails with
    /// [`Reason::Timeout`](crate::Reason::Timeout) and its incarnation is given up: at its next `await` it ends,
    /// and what it still publishes is not seen. A thread that blocks without end stays behind.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        Arc::make_mut(&mut self.policy).timeout = Some(timeout);
        self
    }

    /// How many messages wait before senders wait or are refused; [`DEFAULT_MAILBOX`](crate::DEFAULT_MAILBOX) by default.
    pub fn mailbox(mut self, capacity: usize) -> Self {
        self.mailbox = capacity;
        self
    }

    /// How many runs wait with [`Overlap::Queue`]; 1024 by default. One that finds the queue full is not accepted
    /// and asked for again by a later reaction.
    pub fn queue(mut self, runs: usize) -> Self {
        Arc::make_mut(&mut self.policy).queue = runs;
        self
    }

    /// How many outcomes of runs are remembered, or for how long; both may be said. By default all are, for as long as the Work is part of
    /// the App, in about 150 bytes for each distinct input; at a million a warning is logged.
    ///
    /// What is forgotten is the oldest outcome, never a run that waits or is under way. A forgotten input is new again: when the Flow asks
    /// for it once more it **runs once more**, also one that failed, and until then [`Run::finished`](crate::Run::finished) waits. So
    /// remember at least as many as one reaction asks for, or the Work goes round and round.
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
    pub fn remember(mut self, what: impl Into<Remember>) -> Self {
        let policy = Arc::make_mut(&mut self.policy);
        policy.remember = policy.remember.and(what.into());
        self
    }

    /// How long it may take to stop before it is ended by force; 10 s by default.
    pub fn grace(mut self, grace: Duration) -> Self {
        Arc::make_mut(&mut self.policy).grace = grace;
        self
    }

    /// Whether `/readyz` says that the App is not ready while this Work is pending. Without this a Work counts unless it waits for a
    /// node: say `true` for a service without which the App is of no use, and `false` for a batch job.
    pub fn counts_for_readiness(mut self, counts: bool) -> Self {
        Arc::make_mut(&mut self.policy).counts_for_readiness = Some(counts);
        self
    }
}
