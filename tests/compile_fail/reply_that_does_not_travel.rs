//! says: `Prediction` cannot be the reply of a handler
//! says: a reply is a message, which derives `Serialize` and `Deserialize`

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
