//! says: required for `Prediction` to implement `flowright::Message`

use flowright::prelude::*;

#[derive(Serialize, Deserialize)]
struct Predict;

struct Prediction;

#[derive(Default, Serialize, Deserialize)]
struct Server;

impl Work for Server {
    type Input = ();
}

impl Handle<Predict> for Server {
    type Reply = Prediction;

    async fn handle(&mut self, _: Predict, _cx: &mut WorkContext<Self>) -> Prediction {
        Prediction
    }
}

fn main() {}
