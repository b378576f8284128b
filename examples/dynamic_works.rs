//! A map of Works grows and shrinks at run time: the Works in the map are those of the App.
//!
//! ```text
//! wave 1: workers [1]
//! wave 1: built [1]
//! wave 2: workers [1, 2, 3]
//! wave 2: built [2, 1, 1]
//! wave 3: workers [1, 2]
//! wave 3: built [3, 2]
//! ```

use std::collections::BTreeMap;

use flowright::prelude::*;

#[derive(Default, Serialize, Deserialize)]
struct Worker {
    built: u32,
}

impl Work for Worker {
    type Input = usize;

    async fn run(&mut self, _wave: usize, _cx: &mut WorkContext<Self>) -> Result<()> {
        self.built += 1; // a Work keeps its state from run to run
        Ok(())
    }
}

/// Number of workers in each wave.
const WAVES: [u32; 3] = [1, 3, 2];

#[derive(Default, Serialize, Children)]
struct Elastic {
    wave: usize,
    workers: BTreeMap<u32, WorkRef<Worker>>,
}

impl Flow for Elastic {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        while let Some(&needed) = WAVES.get(self.wave) {
            let wave = self.wave + 1;
            if self.workers.len() != needed as usize {
                self.workers.retain(|number, _| *number <= needed); // the others are stopped and leave the App
                for number in 1..=needed {
                    self.workers.entry(number).or_default(); // new ones join it
                }
                println!("wave {wave}: workers {:?}", self.workers.keys().collect::<Vec<_>>());
            }
            // Start all runs at once, then wait for all of them.
            let runs: Vec<_> = self.workers.values().map(|worker| worker.run(wave)).collect();
            for run in runs {
                run.finished()?;
            }
            let built: Vec<_> = self.workers.values().map(|worker| worker.built).collect();
            println!("wave {wave}: built {built:?}");
            self.wave += 1;
        }
        cx.stop("all waves are done");
        Ok(())
    }
}

fn main() -> ExitCode {
    App::new(Elastic::default).main()
}
