//! A model that is deployed at each checkpoint, and asked throughout; a bad checkpoint is rolled back. `kill -9` a replica!

use flowright::prelude::*;
use flowright::{Rollout, ServiceRef};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Checkpoint {
    step: u32,
    slope: f64,
}

#[derive(Default, Serialize, Deserialize)]
struct Train {
    checkpoint: Option<Checkpoint>,
}

impl Work for Train {
    type Input = ();

    async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
        for step in (20..=600).step_by(20) {
            cx.sleep(self, Duration::from_secs(2)).await?;
            // The third one is damaged on its way to the disk.
            let slope = if step == 60 { f64::NAN } else { 3.0 - 1.0 / f64::from(step) };
            println!("TRAIN: checkpoint at step {step}");
            self.checkpoint = Some(Checkpoint { step, slope });
            cx.publish(self);
        }
        Ok(())
    }
}

#[derive(Default, Serialize, Deserialize)]
struct ModelServer {
    slope: f64,
}

impl Work for ModelServer {
    type Input = Checkpoint;

    async fn run(&mut self, checkpoint: Checkpoint, cx: &mut WorkContext<Self>) -> Result<()> {
        ensure!(checkpoint.slope.is_finite(), "the checkpoint at step {} is damaged", checkpoint.step);
        self.slope = checkpoint.slope;
        println!("SERVE: process {} has loaded step {}", std::process::id(), checkpoint.step);
        cx.ready(self); // from now on, messages come
        cx.serve_forever(self).await?;
        Ok(())
    }

    fn messages(messages: &mut Messages<Self>) {
        messages.accept::<Predict>();
    }
}

#[derive(Serialize, Deserialize)]
struct Predict(f64);

impl Handle<Predict> for ModelServer {
    type Reply = f64;

    async fn handle(&mut self, Predict(x): Predict, _cx: &mut WorkContext<Self>) -> f64 {
        self.slope * x
    }
}

#[derive(Serialize, Children)]
struct Deployment {
    train: WorkRef<Train>,
    server: ServiceRef<ModelServer>,
    printed: Option<Rollout>,
}

impl Flow for Deployment {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        self.train.run(());
        if let Some(checkpoint) = &self.train.checkpoint {
            self.server.deploy(checkpoint.clone()); // once for each distinct checkpoint
        }
        if let Some(rollout) = self.server.rollout().filter(|rollout| self.printed.as_ref() != Some(*rollout))
        {
            let why = rollout.message.as_ref().map_or_else(String::new, |why| format!(": {why}"));
            println!("FLOW: version {} is {:?}{why}", rollout.version, rollout.stage);
            self.printed = Some(rollout.clone());
        }
        Ok(())
    }
}

fn deployment() -> Deployment {
    let server = ServiceRef::new(ModelServer::default()).replicas(2).placed(Placement::Process);
    Deployment { train: WorkRef::default(), server, printed: None }
}

fn main() -> ExitCode {
    App::new(deployment).main()
}
