//! Two Works exchange messages directly; one replies while its own `run` is busy.
//!
//! ```text
//! CLIENT: 14 times 1 is 14
//! CLIENT: 14 times 3 is 42
//! FLOW: the client is done, the server is not
//! ```

use flowright::prelude::*;

#[derive(Serialize, Deserialize)]
struct SetFactor(i64);

#[derive(Serialize, Deserialize)]
struct Multiply(i64);

#[derive(Serialize, Deserialize)]
struct Server {
    factor: i64,
    rounds: u64,
}

impl Work for Server {
    type Input = ();

    async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
        loop {
            self.rounds += 1; // this run never ends by itself
            cx.publish(self);
            cx.sleep(self, Duration::from_millis(10)).await?; // handles messages, and returns when it is stopped
        }
    }
}

impl Handle<SetFactor> for Server {
    type Reply = ();

    async fn handle(&mut self, SetFactor(factor): SetFactor, _cx: &mut WorkContext<Self>) {
        self.factor = factor;
    }
}

impl Handle<Multiply> for Server {
    type Reply = i64;

    async fn handle(&mut self, Multiply(x): Multiply, _cx: &mut WorkContext<Self>) -> i64 {
        x * self.factor
    }
}

#[derive(Default, Serialize, Deserialize)]
struct Client;

impl Work for Client {
    type Input = WorkAddr<Server>;

    async fn run(&mut self, server: Self::Input, _cx: &mut WorkContext<Self>) -> Result<()> {
        println!("CLIENT: 14 times 1 is {}", server.ask(Multiply(14)).await?);
        server.tell(SetFactor(3)).await?; // does not wait for a reply; messages arrive in order
        println!("CLIENT: 14 times 3 is {}", server.ask(Multiply(14)).await?);
        Ok(())
    }
}

#[derive(Serialize, Children)]
struct Talk {
    server: WorkRef<Server>,
    client: WorkRef<Client>,
}

impl Flow for Talk {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        self.server.run(());
        if self.server.rounds > 0 {
            self.client.run(self.server.addr()).finished()?;
            println!("FLOW: the client is done, the server is not");
            cx.stop("all was said");
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    let server = Server { factor: 1, rounds: 0 };
    App::new(|| Talk { server: WorkRef::new(server), client: WorkRef::default() }).main()
}
