//! Supervision: one Work is restarted until it succeeds, and the failure of another is handled by its Flow.
//!
//! ```text
//! FLAKY: attempt 1 fails
//! FLAKY: attempt 2 fails
//! FLAKY: attempt 3 succeeds
//! HOPELESS: fails
//! FLOW: hopeless failed (error): the disk is full
//! FALLBACK: does it in memory
//! ```

use flowright::prelude::*;

#[derive(Default, Serialize, Deserialize)]
struct Flaky;

impl Work for Flaky {
    type Input = ();

    async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
        let attempt = cx.attempt();
        if attempt < 3 {
            println!("FLAKY: attempt {attempt} fails");
            bail!("the network is down");
        }
        println!("FLAKY: attempt {attempt} succeeds");
        Ok(())
    }
}

#[derive(Default, Serialize, Deserialize)]
struct Hopeless;

impl Work for Hopeless {
    type Input = ();

    async fn run(&mut self, (): (), _cx: &mut WorkContext<Self>) -> Result<()> {
        println!("HOPELESS: fails");
        bail!("the disk is full")
    }
}

#[derive(Default, Serialize, Deserialize)]
struct Fallback;

impl Work for Fallback {
    type Input = ();

    async fn run(&mut self, (): (), _cx: &mut WorkContext<Self>) -> Result<()> {
        println!("FALLBACK: does it in memory");
        Ok(())
    }
}

#[derive(Serialize, Children)]
struct Supervision {
    flaky: WorkRef<Flaky>,
    hopeless: WorkRef<Hopeless>,
    fallback: WorkRef<Fallback>,
    told: bool,
}

impl Flow for Supervision {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        self.flaky.run(()).finished()?;

        let status = self.hopeless.run(()).status();
        if let (Stage::Failed, Some(reason), Some(message)) = (status.stage, status.reason, &status.message) {
            if !self.told {
                println!("FLOW: hopeless failed ({reason}): {message}");
                self.told = true;
            }
            self.fallback.run(()).finished()?;
            cx.stop("done, one way or the other");
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    let backoff = Duration::from_millis(100)..Duration::from_secs(1);
    App::new(|| Supervision {
        flaky: WorkRef::new(Flaky).restart(Restart::on_failure().max(5).backoff(backoff)),
        hopeless: WorkRef::new(Hopeless).on_error(OnError::Capture),
        fallback: WorkRef::default(),
        told: false,
    })
    .main()
}
