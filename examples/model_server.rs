//! A model server as a Work, queried with curl:
//!
//! ```console
//! $ cargo run --example model_server -- --open-ui=false
//! $ curl --json '{"x": [1.0, 2.0]}' http://127.0.0.1:7501/api/v1/works/server/messages/Predict
//! {"y":5.0,"served":1}
//! ```

use flowright::prelude::*;

#[derive(Serialize, Deserialize)]
struct Predict {
    x: Vec<f64>,
}

#[derive(Serialize, Deserialize)]
struct Prediction {
    y: f64,
    served: u64,
}

#[derive(Serialize, Deserialize)]
struct ModelServer {
    weights: Vec<f64>,
    served: u64,
}

impl Work for ModelServer {
    type Input = ();

    async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
        cx.serve_forever(self).await?;
        Ok(())
    }

    fn messages(messages: &mut Messages<Self>) {
        messages.accept::<Predict>();
    }
}

impl Handle<Predict> for ModelServer {
    type Reply = Prediction;

    async fn handle(&mut self, Predict { x }: Predict, cx: &mut WorkContext<Self>) -> Prediction {
        self.served += 1;
        cx.publish(self);
        let y = self.weights.iter().zip(&x).map(|(weight, x)| weight * x).sum();
        Prediction { y, served: self.served }
    }
}

#[derive(Serialize, Children)]
struct Serving {
    server: WorkRef<ModelServer>,
}

impl Flow for Serving {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        self.server.run(());
        Ok(())
    }
}

fn main() -> ExitCode {
    App::new(|| Serving { server: ModelServer { weights: vec![1.0, 2.0], served: 0 }.into() }).main()
}
