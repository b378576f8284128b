//! Runs by the clock: a cron expression, here with seconds. `cx.schedule_in("Europe/Berlin", "0 9 * * *")` uses the
//! time of a time zone, wherever the App runs.
//!
//! ```text
//! report 1
//! report 2
//! report 3
//! ```

use flowright::prelude::*;

#[derive(Default, Serialize, Deserialize)]
struct Report;

impl Work for Report {
    type Input = u32;

    async fn run(&mut self, number: u32, _cx: &mut WorkContext<Self>) -> Result<()> {
        println!("report {number}");
        Ok(())
    }
}

#[derive(Default, Serialize, Children)]
struct Clockwork {
    ticks: u32,
    report: WorkRef<Report>,
}

impl Flow for Clockwork {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        if cx.schedule("* * * * * *") {
            self.ticks += 1;
            self.report.run(self.ticks);
        }
        if self.report.successes() == 3 {
            cx.stop("three reports are enough");
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    App::new(Clockwork::default).main()
}
