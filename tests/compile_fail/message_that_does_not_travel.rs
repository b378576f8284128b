//! says: required for `Predict` to implement `Message`

use flowright::prelude::*;

struct Predict;

#[derive(Default, Serialize, Deserialize)]
struct Server;

impl Work for Server {
    type Input = ();

    async fn run(&mut self, (): (), _cx: &mut WorkContext<Self>) -> Result<()> {
        Ok(())
    }
}

impl Handle<Predict> for Server {
    type Reply = ();

    async fn handle(&mut self, _: Predict, _cx: &mut WorkContext<Self>) {}
}

fn main() {}
