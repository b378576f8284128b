//! says: the reply `Streamed<u32>` is a stream, which an `ask` does not read
//! says: read it by `stream` in place of `ask`

use flowright::Streamed;
use flowright::prelude::*;

#[derive(Serialize, Deserialize)]
struct Numbers;

#[derive(Default, Serialize, Deserialize)]
struct Server;

impl Work for Server {
    type Input = ();
}

impl Handle<Numbers> for Server {
    type Reply = Streamed<u32>;

    async fn handle(&mut self, _: Numbers, cx: &mut WorkContext<Self>) -> Streamed<u32> {
        cx.stream().0
    }
}

async fn ask(server: WorkAddr<Server>) {
    let _ = server.ask(Numbers).await;
}

fn main() {
    let _ = ask;
}
