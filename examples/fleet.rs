//! A search for the best learning rate whose trials need more processors than this process gives them. Nodes are started
//! when trials wait for them, and leave when nobody needs them any more:
//!
//! ```console
//! cargo run --example fleet -- --fleet process --fleet-set nodes=0..3 --fleet-set brings.cpus=2 --fleet-set idle=5s
//! ```
//!
//! With `--fleet slurm --listen 0.0.0.0:7502` the nodes are jobs of a cluster instead of processes on this machine.

use flowright::prelude::*;

/// Trains with one learning rate.
#[derive(Default, Serialize, Deserialize)]
struct Trial {
    step: u32,
    loss: f64,
}

impl Work for Trial {
    /// The learning rate.
    type Input = f64;

    async fn run(&mut self, rate: f64, cx: &mut WorkContext<Self>) -> Result<()> {
        // State survives: a trial whose node leaves goes on elsewhere from the step that was published last.
        while self.step < 10 {
            cx.sleep(self, Duration::from_millis(500)).await?; // pretend to train
            self.step += 1;
            self.loss = (rate - 0.03).abs() + 1.0 / f64::from(self.step);
            cx.publish(self);
        }
        Ok(())
    }
}

#[derive(Serialize, Children)]
struct Search {
    trials: Vec<WorkRef<Trial>>,
}

impl Flow for Search {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        let mut losses = Vec::new();
        for (number, trial) in self.trials.iter().enumerate() {
            if let Some(done) = trial.run(0.01 * (number as f64 + 1.0)).poll() {
                losses.push(done.map_or(f64::INFINITY, |trial| trial.loss));
                trial.stop(); // a Work holds what it needs until it is stopped
            }
        }
        if losses.len() < self.trials.len() {
            return Ok(());
        }
        let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
        println!("the best of {} trials has loss {best:.4}", losses.len());
        cx.stop("the search is over");
        Ok(())
    }
}

fn main() -> ExitCode {
    // A trial does not say where it runs, only what it needs.
    let trial = || WorkRef::new(Trial::default()).needs(Resources::cpus(1));
    flowright::app!(move || Search { trials: (0..12).map(|_| trial()).collect() }).main()
}
