//! The output of a run.

use serde::Serialize;

use super::outbox::Report;
use super::steps::{KnownStep, MAX_OUTPUT_BYTES, StepValue};
use super::{OutputError, Work, WorkContext};

impl<W: Work> WorkContext<W> {
    /// Sets the output of the run, which its Flow reads by [`Run::output`](crate::Run::output): what a task returns in other
    /// systems. The last call counts.
    ///
    /// The value is serialised at once and kept with the run if the run succeeds, until its input is forgotten or runs once
    /// more; with a journal it is recorded. The App and the command line show outputs of up to 4 KiB with the runs. What
    /// others are to see while the run goes on belongs in a field of the Work.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// #[derive(Default, Serialize, Deserialize)]
    /// struct Evaluate;
    ///
    /// impl Work for Evaluate {
    ///     type Input = u32;
    ///
    ///     async fn run(&mut self, size: u32, cx: &mut WorkContext<Self>) -> Result<()> {
    ///         cx.output(&(1.0 / f64::from(size)))?;
    ///         Ok(())
    ///     }
    /// }
    ///
    /// #[derive(Serialize, Children)]
    /// struct Search {
    ///     evaluate: WorkRef<Evaluate>,
    /// }
    ///
    /// impl Flow for Search {
    ///     fn react(&mut self, cx: &mut FlowContext) -> Reaction {
    ///         for size in [2, 4] {
    ///             self.evaluate.run(size);
    ///         }
    ///         let loss: f64 = self.evaluate.run(4).output()?; // waits, and keeps what `run` has set
    ///         assert_eq!(loss, 0.25);
    ///         cx.stop("found");
    ///         Ok(())
    ///     }
    /// }
    /// # let root = || Search { evaluate: WorkRef::default() };
    /// # flowright::testing::TestApp::start(root).wait_for_exit().result.unwrap();
    /// ```
    ///
    /// # Errors
    /// [`OutputError::NoRun`] outside of a run, [`OutputError::Unserializable`], and [`OutputError::TooLarge`] for more than
    /// 64 KiB: put a [`Payload`](crate::Payload) into the output instead. The output that was set before stays then.
    pub fn output<T: Serialize>(&mut self, output: &T) -> Result<(), OutputError> {
        if self.current.is_none() {
            return Err(OutputError::NoRun);
        }
        let value = StepValue::encode(output).map_err(|error| OutputError::Unserializable { error })?;
        let (size, limit) = (value.bytes().len(), MAX_OUTPUT_BYTES);
        if size > limit {
            return Err(OutputError::TooLarge { size, limit });
        }
        self.steps().set_output(KnownStep::output(value));
        Ok(())
    }

    /// Reports the output of a run that has succeeded.
    pub(super) fn report_output(&self, run: u64) {
        if let Some(step) = self.take_output() {
            self.outbox().report(Report::Stepped { run, step });
        }
    }
}
