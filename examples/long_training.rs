//! Training that takes months goes on where it was, whatever is killed: run it with `--journal DIR`, kill it with
//! `kill -9`, and run it again.

use flowright::prelude::*;

/// Prepares the dataset, which takes long, and returns its size.
async fn prepare() -> Result<u64> {
    println!("preparing the dataset, which is done once");
    tokio::time::sleep(Duration::from_secs(3)).await;
    Ok(1_000_000)
}

#[derive(Default, Serialize, Deserialize)]
struct Train {
    /// Progress is state: after any end the run starts again, and goes on from the epoch that was published last.
    epoch: u32,
    loss: f64,
    evaluated: Option<(u32, f64)>,
}

impl Train {
    async fn evaluate(&self) -> Result<f64> {
        println!("evaluating epoch {}", self.epoch);
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(1.0 - self.loss)
    }
}

impl Work for Train {
    /// The number of epochs.
    type Input = u32;

    async fn run(&mut self, epochs: u32, cx: &mut WorkContext<Self>) -> Result<()> {
        // A step that has succeeded is remembered until the run has: no attempt does it twice.
        let images = cx.step("prepare", &(), prepare()).await?;
        while self.epoch < epochs {
            cx.sleep(self, Duration::from_secs(1)).await?; // pretend to train
            self.epoch += 1;
            self.loss = 1.0 / f64::from(self.epoch);
            println!("epoch {} of {images} images: loss {:.4}", self.epoch, self.loss);
            if self.epoch.is_multiple_of(10) {
                let score = cx.step("evaluate", &self.epoch, self.evaluate()).await?;
                self.evaluated = Some((self.epoch, score));
            }
            cx.publish(self);
        }
        Ok(())
    }
}

#[derive(Default, Serialize, Deserialize)]
struct Report;

impl Work for Report {
    type Input = (u32, f64);

    async fn run(&mut self, (epoch, score): (u32, f64), _cx: &mut WorkContext<Self>) -> Result<()> {
        println!("REPORT: epoch {epoch} scores {score:.4}"); // once for each evaluation
        Ok(())
    }
}

#[derive(Serialize, Children)]
struct LongTraining {
    train: WorkRef<Train>,
    report: WorkRef<Report>,
}

impl Flow for LongTraining {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        let trained = self.train.run(1000);
        if let Some(evaluated) = self.train.evaluated {
            self.report.run(evaluated);
        }
        trained.finished()?;
        cx.stop("the training is over");
        Ok(())
    }
}

fn main() -> ExitCode {
    let train = || WorkRef::new(Train::default()).restart(Restart::on_failure());
    flowright::app!(move || LongTraining { train: train(), report: WorkRef::default() }).main()
}
