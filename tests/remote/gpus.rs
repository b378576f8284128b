//! Graphics processors, assigned to Works by index. The machine needs none.

use std::collections::BTreeSet;
use std::process::Command;

use flowright::Messages;
use flowright::prelude::*;
use flowright::testing::TestApp;

use crate::process::LIMIT;
use crate::support::{Process, joining, program, signal, times};

crate::tests![
    processes_on_one_head_see_different_devices,
    devices_of_a_killed_process_go_to_the_next,
    threads_on_one_head_have_different_devices,
    works_on_one_node_have_different_devices,
    devices_of_a_lost_node_are_had_again_on_another,
    devices_are_those_that_the_head_sees,
];

/// A Work that publishes its devices.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Trainer {
    gpus: Vec<u32>,
    cuda: Option<String>,
    rocr: Option<String>,
    oneapi: Option<String>,
    process: u32,
}

impl Work for Trainer {
    type Input = ();

    async fn on_start(&mut self, cx: &mut WorkContext<Self>) -> Result<()> {
        self.gpus = cx.gpus().to_vec();
        self.cuda = std::env::var("CUDA_VISIBLE_DEVICES").ok();
        self.rocr = std::env::var("ROCR_VISIBLE_DEVICES").ok();
        self.oneapi = std::env::var("ONEAPI_DEVICE_SELECTOR").ok();
        self.process = std::process::id();
        if let Some(cuda) = &self.cuda {
            println!("a process sees {cuda}");
        }
        Ok(())
    }

    async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
        cx.serve_forever(self).await?;
        Ok(())
    }

    fn messages(_: &mut Messages<Self>) {}
}

#[derive(Default, Serialize, Children)]
pub(crate) struct Trainers {
    trainers: Vec<WorkRef<Trainer>>,
}

impl Flow for Trainers {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        for trainer in &mut self.trainers {
            trainer.run(());
        }
        Ok(())
    }
}

/// A Flow with `count` Works, each of which needs `gpus` devices.
fn trainers(count: usize, gpus: u32, placement: Placement) -> Trainers {
    let trainer = || {
        let trainer = WorkRef::from(Trainer::default()).on_error(OnError::Capture);
        trainer.placed(placement).needs(Resources::gpus(gpus))
    };
    Trainers { trainers: (0..count).map(|_| trainer()).collect() }
}

/// Starts a head with this many devices, and its nodes.
fn start(gpus: Option<u32>, make: impl FnOnce() -> Trainers + Send + 'static) -> TestApp {
    let mut config = times(250, 20_000);
    if let Some(gpus) = gpus {
        config = config.gpus(gpus);
    }
    let app = App::new(make).listen("127.0.0.1:0").process(|| Ok(program("gpus"))).config(config);
    TestApp::start_app(app).limit(LIMIT)
}

/// Returns the state of a Work once it runs.
fn running(app: &TestApp, number: usize) -> Trainer {
    app.wait_for_stage(&format!("trainers.{number}"), Stage::Running);
    app.wait_for_state(&format!("trainers.{number}"), |trainer: &Trainer| trainer.process != 0)
}

#[track_caller]
fn waits(app: &TestApp, number: usize, part: &str) {
    app.wait_for_work(&format!("trainers.{number}"), |work| {
        let message = work.status.message.as_deref().unwrap_or_default();
        work.status.stage == Stage::Pending && message.contains(part)
    });
}

fn processes_on_one_head_see_different_devices() {
    let app = start(Some(3), || trainers(2, 1, Placement::Process));
    let [first, second] = [0, 1].map(|number| running(&app, number));
    // Each Work sees one device, with index 0.
    assert_eq!((&first.gpus, &second.gpus), (&vec![0], &vec![0]));
    let seen: BTreeSet<_> = [&first, &second].iter().filter_map(|trainer| trainer.cuda.clone()).collect();
    assert_eq!(seen, ["0", "1"].map(str::to_owned).into());
    for trainer in [first, second] {
        assert_eq!(trainer.rocr, trainer.cuda);
        assert_eq!(trainer.oneapi, trainer.cuda.map(|device| format!("level_zero:{device}")));
    }
}

fn devices_of_a_killed_process_go_to_the_next() {
    let app = start(Some(1), || trainers(2, 1, Placement::Process));
    let first = running(&app, 0);
    assert_eq!(first.cuda.as_deref(), Some("0"));
    waits(&app, 1, "waits for 1 gpus of the head: 0 of its 1 are free");
    signal(first.process, "KILL");
    app.wait_for_stage("trainers.0", Stage::Failed);
    assert_eq!(running(&app, 1).cuda.as_deref(), Some("0"));
}

fn threads_on_one_head_have_different_devices() {
    let app = start(Some(4), || trainers(3, 2, Placement::Thread));
    let lists = [0, 1].map(|number| running(&app, number).gpus);
    assert_eq!(lists, [vec![0, 1], vec![2, 3]]);
    waits(&app, 2, "0 of its 4 are free");
}

fn works_on_one_node_have_different_devices() {
    let app = start(None, || trainers(3, 2, Placement::Node(flowright::Selector::any())));
    let _node = Process::node_of("gpus", &joining(&app), "n", &["--gpus", "5"]);
    let lists = [0, 1].map(|number| running(&app, number).gpus);
    let all: BTreeSet<_> = lists.iter().flatten().copied().collect();
    assert!(all.len() == 4 && all.iter().all(|device| *device < 5), "{lists:?}");
    waits(&app, 2, "2 gpus");
}

fn devices_of_a_lost_node_are_had_again_on_another() {
    let app = start(None, || trainers(2, 1, Placement::Node(flowright::Selector::any())));
    let address = joining(&app);
    let first = Process::node_of("gpus", &address, "n", &["--gpus", "2"]);
    let before = [0, 1].map(|number| running(&app, number));
    first.signal("KILL");
    let _second = Process::node_of("gpus", &address, "m", &["--gpus", "2"]);
    let after = [0, 1].map(|number| {
        let is_other = |trainer: &Trainer| trainer.process != before[number].process && trainer.process != 0;
        app.wait_for_state(&format!("trainers.{number}"), is_other).gpus
    });
    let all: BTreeSet<_> = after.iter().flatten().copied().collect();
    assert_eq!(all, [0, 1].into(), "{after:?}");
}

/// A head whose environment restricts the visible devices assigns those to its processes.
fn devices_are_those_that_the_head_sees() {
    let mut command: Command = program("gpus");
    command.args(["--open-ui=false", "--without-server", "--gpus", "4"]);
    command.env("CUDA_VISIBLE_DEVICES", "5,7").env_remove("ROCR_VISIBLE_DEVICES");
    let mut head = Process::start(command);
    head.expect("of 4 gpus this process sees 2");
    head.expect("a process sees 5");
    head.expect("a process sees 7");
}

pub(crate) fn program_with_two() -> ExitCode {
    App::new(|| trainers(2, 1, Placement::Process)).main()
}
