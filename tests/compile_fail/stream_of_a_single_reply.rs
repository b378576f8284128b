//! says: type mismatch resolving `<Predict as HandledBy<Server>>::Reply == Streamed<_>`

use flowright::prelude::*;

#[derive(Serialize, Deserialize)]
struct Predict;

#[derive(Default, Serialize, Deserialize)]
struct Server;

impl Work for Server {
    type Input = ();
}

impl Handle<Predict> for Server {
    type Reply = f64;

    async fn handle(&mut self, _: Predict, _cx: &mut WorkContext<Self>) -> f64 {
        1.0
    }
}

async fn read(server: WorkAddr<Server>) {
    let _ = server.stream(Predict).await;
}

fn main() {
    let _ = read;
}
