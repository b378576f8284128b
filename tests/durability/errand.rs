//! A program that ends when its one run has succeeded.

use flowright::prelude::*;

use crate::record::{What, note};

#[derive(Default, Serialize, Deserialize)]
struct Errand {
    /// Attempts of this run that have failed, which the state remembers.
    failures: u32,
    /// The number of attempts that fail.
    to_fail: u32,
    /// True if the run never ends.
    waits: bool,
}

impl Work for Errand {
    type Input = u64;

    async fn run(&mut self, number: u64, cx: &mut WorkContext<Self>) -> Result<()> {
        note(cx.path().as_str(), What::Begin, number, cx.attempt());
        if self.failures < self.to_fail {
            self.failures += 1;
            cx.publish(self);
            bail!("there are {} failures", self.failures);
        }
        if self.waits {
            cx.serve_forever(self).await?;
        }
        Ok(())
    }
}

#[derive(Serialize, Children)]
struct Day {
    errand: WorkRef<Errand>,
}

impl Flow for Day {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        self.errand.run(1).finished()?;
        cx.stop("all is done");
        Ok(())
    }
}

/// Runs the program; the first `to_fail` attempts end it as failed, and with `waits` it never ends.
pub(crate) fn main(to_fail: u32, waits: bool) -> ExitCode {
    App::new(move || Day { errand: WorkRef::new(Errand { failures: 0, to_fail, waits }) }).main()
}
