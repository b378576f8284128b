//! A model that is trained, deployed at each checkpoint, and asked throughout. A bad checkpoint is rolled back, and a
//! replica that is killed costs nobody an answer:
//!
//! ```console
//! $ cargo run --example model_service -- --open-ui=false
//! $ curl -i --json 3.0 http://127.0.0.1:7501/api/v1/works/server/messages/Predict
//! $ kill -9 PROCESS     # that of a replica, which it has printed
//! ```

use flowright::prelude::*;
use flowright::{Rollout, RolloutStage, ServiceRef};

/// What training saves, and the service loads.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Checkpoint {
    step: u32,
    slope: f64,
}

#[derive(Default, Serialize, Deserialize)]
struct Train {
    step: u32,
    loss: f64,
    checkpoint: Option<Checkpoint>,
}

impl Work for Train {
    type Input = ();

    /// Learns that `y` is three times `x`.
    async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
        let mut slope = 0.0;
        while self.step < 600 {
            cx.sleep(self, Duration::from_millis(100)).await?;
            self.step += 1;
            slope += 0.05 * (3.0 - slope);
            self.loss = (3.0 - slope) * (3.0 - slope);
            if self.step.is_multiple_of(20) {
                // The third one is damaged on its way to the disk.
                let saved = if self.step == 60 { f64::NAN } else { slope };
                println!("TRAIN: checkpoint at step {}, loss {:.4}", self.step, self.loss);
                self.checkpoint = Some(Checkpoint { step: self.step, slope: saved });
            }
            cx.publish(self);
        }
        Ok(())
    }
}

#[derive(Default, Serialize, Deserialize)]
struct ModelServer {
    step: u32,
    process: u32,
    served: u64,
    #[serde(skip)]
    slope: f64,
}

impl Work for ModelServer {
    type Input = Checkpoint;

    async fn run(&mut self, checkpoint: Checkpoint, cx: &mut WorkContext<Self>) -> Result<()> {
        ensure!(checkpoint.slope.is_finite(), "the checkpoint at step {} is damaged", checkpoint.step);
        (self.step, self.slope, self.process) = (checkpoint.step, checkpoint.slope, std::process::id());
        println!("SERVE: process {} has loaded step {}", self.process, self.step);
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

    async fn handle(&mut self, Predict(x): Predict, cx: &mut WorkContext<Self>) -> f64 {
        self.served += 1;
        cx.publish(self);
        self.slope * x
    }
}

/// Asks without pause, and counts what it gets.
#[derive(Default, Serialize, Deserialize)]
struct Client {
    answers: u64,
    errors: u64,
    last: f64,
}

impl Work for Client {
    type Input = WorkAddr<ModelServer>;

    async fn run(&mut self, server: WorkAddr<ModelServer>, cx: &mut WorkContext<Self>) -> Result<()> {
        loop {
            match server.ask(Predict(2.0)).await {
                Ok(y) => (self.answers, self.last) = (self.answers + 1, y),
                Err(error) => {
                    println!("CLIENT: {error}");
                    self.errors += 1;
                }
            }
            cx.publish(self);
            cx.sleep(self, Duration::from_millis(5)).await?;
        }
    }
}

#[derive(Serialize, Children)]
struct Deployment {
    train: WorkRef<Train>,
    server: ServiceRef<ModelServer>,
    client: WorkRef<Client>,
    /// The rollout that was printed last.
    printed: Option<Rollout>,
}

impl Flow for Deployment {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        self.train.run(());
        if let Some(checkpoint) = &self.train.checkpoint {
            self.server.deploy(checkpoint.clone()); // once for each distinct checkpoint
        }
        self.client.run(self.server.addr());
        let rollout = self.server.rollout();
        if rollout != self.printed.as_ref() {
            self.printed = rollout.cloned();
            let (answers, errors) = (self.client.answers, self.client.errors);
            match &self.printed {
                Some(Rollout { version, stage: RolloutStage::Serving, .. }) => {
                    println!("FLOW: version {version} serves; so far {answers} answers and {errors} errors");
                }
                Some(Rollout { version, stage: RolloutStage::RolledBack, message, .. }) => {
                    println!(
                        "FLOW: version {version} was rolled back: {}",
                        message.as_deref().unwrap_or_default()
                    );
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn deployment() -> Deployment {
    let server = ServiceRef::new(ModelServer::default()).replicas(2).placed(Placement::Process);
    Deployment { train: WorkRef::default(), server, client: WorkRef::default(), printed: None }
}

fn main() -> ExitCode {
    App::new(deployment).main()
}
