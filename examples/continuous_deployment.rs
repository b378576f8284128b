//! One Work reacts to another: each new checkpoint of the training is deployed.

use flowright::prelude::*;

#[derive(Default, Serialize, Deserialize)]
struct Train {
    last_checkpoint: Option<String>,
}

impl Work for Train {
    type Input = ();

    async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
        // pretend to train, and save a checkpoint every 10 steps
        for step in 0..1000 {
            cx.sleep(self, Duration::from_secs(1)).await?;
            let fake_loss = (1.0 / (f64::from(step) + 0.00001) * 10_000.0).round() / 10_000.0;
            println!("step={step}: fake_loss={fake_loss:?}");
            if step % 10 == 0 {
                let path = format!("/some/path/step={step}_fake_loss={fake_loss:?}");
                println!("TRAIN COMPONENT: saved new checkpoint: {path}");
                self.last_checkpoint = Some(path);
                cx.publish(self);
            }
        }
        Ok(())
    }
}

#[derive(Default, Serialize, Deserialize)]
struct ModelDeployment;

impl Work for ModelDeployment {
    type Input = String;

    async fn run(&mut self, checkpoint: String, _cx: &mut WorkContext<Self>) -> Result<()> {
        println!("DEPLOY COMPONENT: load new model from checkpoint: {checkpoint}");
        Ok(())
    }
}

#[derive(Default, Serialize, Children)]
struct ContinuousDeployment {
    train: WorkRef<Train>,
    model_deployment: WorkRef<ModelDeployment>,
}

impl Flow for ContinuousDeployment {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        self.train.run(()); // starts once, in parallel
        if let Some(checkpoint) = &self.train.last_checkpoint {
            self.model_deployment.run(checkpoint.clone()); // runs once per distinct checkpoint
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    App::new(ContinuousDeployment::default).main()
}
