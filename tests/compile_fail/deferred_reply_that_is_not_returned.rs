//! says: expected `Deferred<f64>`

use flowright::Deferred;
use flowright::prelude::*;

#[derive(Serialize, Deserialize)]
struct Predict;

#[derive(Default, Serialize, Deserialize)]
struct Server;

impl Work for Server {
    type Input = ();
}

impl Handle<Predict> for Server {
    type Reply = Deferred<f64>;

    async fn handle(&mut self, _: Predict, _cx: &mut WorkContext<Self>) -> Deferred<f64> {
        1.0
    }
}

fn main() {}
