//! says: `Server` has no handler for the message `Retrain`
//! says: write `impl Handle<Retrain> for Server
//! says: `Server` has no handler for the message `Predict`
//! says: write `impl Handle<Predict> for Server
//! never says: mismatched types

use flowright::prelude::*;

#[derive(Serialize, Deserialize)]
struct Predict(f64);

#[derive(Serialize, Deserialize)]
struct Retrain {
    from: f64,
}

/// The only message that `Server` handles. The compiler must not take the others for it.
#[derive(Serialize, Deserialize)]
struct Load(String);

#[derive(Default, Serialize, Deserialize)]
struct Server;

impl Work for Server {
    type Input = ();
}

impl Handle<Load> for Server {
    type Reply = ();

    async fn handle(&mut self, _: Load, _cx: &mut WorkContext<Self>) {}
}

fn tell(server: &WorkRef<Server>) {
    let _ = server.try_tell(Retrain { from: f64::from(1_u8) });
}

async fn ask(server: WorkAddr<Server>) {
    let _ = server.ask(Predict(f64::from(1_u8))).await;
}

fn main() {
    let _ = (tell, ask);
}
