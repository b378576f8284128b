//! The last state of a run is recorded with its end, also if the head is killed between the two: by the run itself, whose
//! process goes on and tells the next head.

use flowright::prelude::*;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;

use crate::editions::{Directory, Shop, begun, command, start};
use crate::record::{self, What, note};

crate::tests![last_state_of_a_run_is_recorded_with_its_end];

/// Number of runs.
const LAPS: u64 = 5;

/// Runs that kill the head in their last step. The second one has an output, which is sent as a message of its own.
const FATAL: [u64; 2] = [2, 4];

/// The file with the id of the head's process.
fn file_of_head() -> std::path::PathBuf {
    let record = std::env::var_os(record::VARIABLE).expect("the test sets it");
    std::path::PathBuf::from(record).with_extension("head")
}

#[derive(Default, Serialize, Deserialize)]
struct Runner {
    /// Runs that have ended: changed only by the last step of a run, and published with its end.
    done: u64,
}

impl Work for Runner {
    type Input = u64;

    async fn run(&mut self, lap: u64, cx: &mut WorkContext<Self>) -> Result<()> {
        note(cx.path().as_str(), What::Begin, lap, cx.attempt());
        self.done += 1;
        if FATAL.contains(&lap) {
            let head: i32 = std::fs::read_to_string(file_of_head())?.parse()?;
            kill_process(Pid::from_raw(head).expect("it is no 0"), Signal::KILL)?;
        }
        if lap > FATAL[0] {
            cx.output(&lap)?;
        }
        Ok(())
    }
}

#[derive(Serialize, Children)]
struct Track {
    runner: WorkRef<Runner>,
}

impl Flow for Track {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        for lap in 1..=LAPS {
            self.runner.run(lap).finished()?;
        }
        Ok(())
    }
}

pub(crate) fn run(program: &str) -> Option<ExitCode> {
    let track = || {
        std::fs::write(file_of_head(), std::process::id().to_string()).expect("the directory can be written");
        Track { runner: WorkRef::new(Runner::default()).placed(Placement::Process) }
    };
    (program == "laps").then(|| App::new(track).main())
}

/// The run that has killed the head is not repeated, and its last state is recorded at the position of its end.
fn last_state_of_a_run_is_recorded_with_its_end() {
    let directory = Directory::new("laps");
    for lap in FATAL {
        let (code, lines) = start("laps", &directory).end();
        assert_eq!(code, None, "the head was not killed in run {lap}: {lines:#?}");
    }
    let shop = Shop::open("laps", &directory);
    shop.until_succeeded("runner", LAPS);
    shop.close();
    let all: Vec<_> = (1..=LAPS).map(|lap| ("runner".to_owned(), lap)).collect();
    assert_eq!(begun(&directory), all);
    let (code, said) = command("laps", &directory, &["history", "runner", "--limit", "0", "--json"]);
    assert_eq!(code, Some(0), "{said}");
    let document: Json = serde_json::from_str(&said).expect("it is JSON");
    let events = document["items"].as_array().expect("it has events");
    let positions = |text: &str| -> Vec<u64> {
        let text_of = |event: &Json| event["text"].as_str().unwrap_or_default().to_owned();
        let found = events.iter().filter(|event| text_of(event).starts_with(text));
        found.filter_map(|event| event["position"].as_u64()).collect()
    };
    for lap in 1..=LAPS {
        let (ended, state) =
            (positions(&format!("run {lap} succeeded")), positions(&format!("state: done = {lap}")));
        assert_eq!(ended.len(), 1, "{said}");
        assert_eq!(state, ended, "the last state of run {lap} and its end: {said}");
    }
}
