//! The report of a run that it is ready.

use super::outbox::Report;
use super::steps::KnownStep;
use super::{Work, WorkContext};

impl<W: Work> WorkContext<W> {
    /// Publishes the state and reports that this run is ready to serve: that of a replica, for its
    /// [`ServiceRef`](crate::ServiceRef), which has messages go to the replica then. It stays ready until the run or the
    /// incarnation ends. A run of another Work, and a call outside of a run, reports nothing that anybody waits for.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// #[derive(Default, Serialize, Deserialize)]
    /// struct Model {
    ///     weights: Vec<f32>,
    /// }
    ///
    /// impl Work for Model {
    ///     type Input = Payload<Vec<f32>>;
    ///
    ///     async fn run(&mut self, weights: Self::Input, cx: &mut WorkContext<Self>) -> Result<()> {
    ///         self.weights = weights.value().await?.to_vec();
    ///         cx.ready(self);
    ///         cx.serve_forever(self).await?;
    ///         Ok(())
    ///     }
    /// }
    /// ```
    pub fn ready(&mut self, work: &W) {
        self.publish(work);
        if let Some(run) = self.current {
            self.outbox().report(Report::Stepped { run, step: KnownStep::ready() });
        }
    }
}
