//! A program that aborts its process as long as a file exists: in a reaction, or in the body of a run.

use std::path::PathBuf;

use flowright::prelude::*;

use crate::process::VARIABLE;
use crate::record::{self, What, note};

/// The names by which the program aborts in its Flow, and in its Work.
pub(crate) const IN_FLOW: &str = "breaks_in_flow";
pub(crate) const IN_WORK: &str = "breaks_in_work";

/// The file beside the record.
pub(crate) const ARMED: &str = "armed";

fn breaks(program: &str) -> bool {
    let record = std::env::var_os(record::VARIABLE).map(PathBuf::from).unwrap_or_default();
    std::env::var(VARIABLE).is_ok_and(|this| this == program) && record.with_file_name(ARMED).exists()
}

/// The first two runs succeed, and the third never ends.
#[derive(Default, Serialize, Deserialize)]
struct Counter {
    total: u64,
}

impl Work for Counter {
    type Input = u64;

    async fn run(&mut self, number: u64, cx: &mut WorkContext<Self>) -> Result<()> {
        note(cx.path().as_str(), What::Begin, number, cx.attempt());
        if number == 3 {
            if breaks(IN_WORK) {
                std::process::abort();
            }
            cx.serve_forever(self).await?;
        }
        self.total += number;
        Ok(())
    }
}

#[derive(Default, Serialize, Children)]
struct Root {
    /// Changed by each reaction, also of those that end in a crash later.
    reactions: u64,
    counter: WorkRef<Counter>,
    /// Has nothing to do.
    idle: WorkRef<Counter>,
}

impl Flow for Root {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        self.reactions += 1;
        if self.counter.total == 3 && breaks(IN_FLOW) {
            std::process::abort();
        }
        for number in [1, 2] {
            self.counter.run(number).finished()?;
        }
        self.counter.run(3);
        Ok(())
    }
}

pub(crate) fn main() -> ExitCode {
    App::new(Root::default).main()
}
