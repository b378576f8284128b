//! says: `Server` has no handler for the message `Predict`
//! says: write `impl Handle<Predict> for Server
//! never says: `_`

use flowright::prelude::*;

#[derive(Serialize, Deserialize)]
struct Predict(f64);

#[derive(Default, Serialize, Deserialize)]
struct Server;

impl Work for Server {
    type Input = ();

    async fn run(&mut self, (): (), _cx: &mut WorkContext<Self>) -> Result<()> {
        Ok(())
    }
}

async fn ask(server: WorkAddr<Server>) {
    let _ = server.tell(Predict(f64::from(1_u8))).await;
}

fn main() {
    let _ = ask;
}
