//! A program that starts one short run after another beside one that never ends.

use flowright::prelude::*;

use crate::process::VARIABLE;
use crate::record::{What, note};

/// The name by which the program starts no short runs and takes its steps slowly, so that all that it shows is awaited.
pub(crate) const SLOW: &str = "slow_belt";

fn is_slow() -> bool {
    std::env::var(VARIABLE).is_ok_and(|program| program == SLOW)
}

/// A Work whose only run never ends, and takes a step now and then.
#[derive(Default, Serialize, Deserialize)]
struct Walker {
    steps: u64,
}

impl Work for Walker {
    type Input = ();

    async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
        note(cx.path().as_str(), What::Begin, self.steps, cx.attempt());
        let pause = Duration::from_millis(if is_slow() { 80 } else { 10 });
        loop {
            cx.sleep(self, pause).await?;
            self.steps += 1;
            cx.publish(self);
            note(cx.path().as_str(), What::Step, self.steps, cx.attempt());
        }
    }
}

#[derive(Default, Serialize, Deserialize)]
struct Link;

impl Work for Link {
    type Input = u64;

    async fn run(&mut self, link: u64, cx: &mut WorkContext<Self>) -> Result<()> {
        note(cx.path().as_str(), What::Begin, link, cx.attempt());
        cx.sleep(self, Duration::from_millis(3)).await?;
        Ok(())
    }
}

#[derive(Default, Serialize, Children)]
struct Belt {
    walker: WorkRef<Walker>,
    chain: WorkRef<Link>,
    link: u64,
}

impl Flow for Belt {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        self.walker.run(());
        while !is_slow() && self.chain.run(self.link + 1).finished().is_ok() {
            self.link += 1;
        }
        Ok(())
    }
}

pub(crate) fn main() -> ExitCode {
    App::new(Belt::default).main()
}
