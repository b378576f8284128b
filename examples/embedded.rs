//! An App embedded in another program, which starts, queries, observes and stops it through its handle.
//!
//! ```text
//! PROGRAM: the App runs
//! PROGRAM: the counter says 3
//! PROGRAM: the state is {"counter":{"count":3}}
//! PROGRAM: the App has ended well, with the count at 3
//! ```

use flowright::prelude::*;

#[derive(Default, Serialize, Deserialize)]
struct Counter {
    count: u32,
}

#[derive(Serialize, Deserialize)]
struct Add(u32);

impl Work for Counter {
    type Input = ();

    async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
        cx.serve_forever(self).await?;
        Ok(())
    }
}

impl Handle<Add> for Counter {
    type Reply = u32;

    async fn handle(&mut self, Add(n): Add, cx: &mut WorkContext<Self>) -> u32 {
        self.count += n;
        cx.publish(self);
        self.count
    }
}

#[derive(Default, Serialize, Children)]
struct Embedded {
    counter: WorkRef<Counter>,
}

impl Flow for Embedded {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        self.counter.run(());
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let app = App::new(Embedded::default).spawn().await?;
    println!("PROGRAM: the App runs");

    let counter = app.control().work::<Counter>("counter").await?;
    let counter = counter.ok_or_else(|| Error::msg("there is no counter"))?;
    println!("PROGRAM: the counter says {}", counter.ask(Add(3)).await?);

    // A published state arrives in the state of the App soon, but not at once.
    let mut changes = app.control().changes();
    let state = loop {
        let state = app.control().state().await?.to_json();
        if state["counter"]["count"] == 3 {
            break state;
        }
        changes.changed().await?;
    };
    println!("PROGRAM: the state is {state}");

    let exit = app.stop().await;
    exit.result?;
    println!(
        "PROGRAM: the App has ended well, with the count at {}",
        exit.state.to_json()["counter"]["count"]
    );
    Ok(())
}
