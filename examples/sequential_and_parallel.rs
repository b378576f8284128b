//! Waiting for a run makes code sequential; not waiting makes it parallel.
//!
//! ```text
//! download begins
//! download ends
//! train begins
//! index begins
//! index ends
//! train ends
//! publish begins
//! publish ends
//! ```
//!
//! `train` and `index` run at the same time, so that their lines may be printed in either order.

use flowright::prelude::*;

#[derive(Default, Serialize, Deserialize)]
struct Step;

impl Work for Step {
    type Input = (String, u64);

    async fn run(&mut self, (name, milliseconds): Self::Input, cx: &mut WorkContext<Self>) -> Result<()> {
        println!("{name} begins");
        cx.sleep(self, Duration::from_millis(milliseconds)).await?;
        println!("{name} ends");
        Ok(())
    }
}

#[derive(Default, Serialize, Children)]
struct Pipeline {
    download: WorkRef<Step>,
    train: WorkRef<Step>,
    index: WorkRef<Step>,
    publish: WorkRef<Step>,
}

impl Flow for Pipeline {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        // One after the other.
        self.download.run(("download".to_string(), 50)).finished()?;

        // Both at the same time.
        let train = self.train.run(("train".to_string(), 300));
        let index = self.index.run(("index".to_string(), 100));
        train.finished()?;
        index.finished()?;

        self.publish.run(("publish".to_string(), 50)).finished()?;
        cx.stop("the pipeline is done");
        Ok(())
    }
}

fn main() -> ExitCode {
    App::new(Pipeline::default).main()
}
