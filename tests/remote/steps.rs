//! Steps of runs in other processes: remembered when the process or the node of the Work is killed.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{FencingToken, InDoubt};

use crate::process::LIMIT;
use crate::support::{Process, joining, program as this_program, signal, times};

crate::tests![
    steps_and_commits_survive_the_kill_of_a_process,
    once_survives_the_kill_of_a_process,
    steps_and_commits_survive_the_kill_of_the_head,
    once_survives_the_kill_of_the_head,
    steps_larger_than_a_message_together_are_known,
    payload_of_a_step_outlives_its_process,
];

/// What the run of a [`Climber`] does; the path is that of a file to which actions append a line.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Task {
    /// Steps, and a commit after the second, behind which it kills its process if it has carried out that step.
    Steps(PathBuf),
    /// An action that kills its process the first time.
    Once(PathBuf, bool),
    /// Steps with this many values of almost 1 MiB, then an error in the first attempt.
    Large(PathBuf, u32),
    /// A payload in a step, then an error in the first attempt.
    Payload(PathBuf),
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Climber {
    committed: u32,
    found: u32,
    results: Vec<u64>,
    tokens: Vec<FencingToken>,
}

fn did(file: &Path, what: &str) {
    let mut file = OpenOptions::new().append(true).create(true).open(file).expect("the file can be written");
    file.write_all(format!("{what}\n").as_bytes()).expect("the file can be written");
}

fn lines(file: &Path) -> Vec<String> {
    fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn kill_this_process() -> ! {
    signal(std::process::id(), "KILL");
    loop {
        std::thread::park();
    }
}

impl Work for Climber {
    type Input = Task;

    async fn on_start(&mut self, cx: &mut WorkContext<Self>) -> Result<()> {
        self.tokens.push(cx.fencing_token());
        Ok(())
    }

    async fn run(&mut self, task: Task, cx: &mut WorkContext<Self>) -> Result<()> {
        let is_first = cx.attempt() == 1;
        match task {
            Task::Steps(file) => {
                self.found = self.committed;
                for number in 0..3_u64 {
                    let mut has_acted = false;
                    let step = cx.step("step", &number, async {
                        has_acted = true;
                        did(&file, &format!("step {number}"));
                        Ok(number * 10)
                    });
                    self.results.push(step.await?);
                    if number == 1 && has_acted {
                        self.committed = 7;
                        cx.commit(self).await?;
                        // Published, and perhaps not sent before the end.
                        self.committed = 8;
                        cx.publish(self);
                        kill_this_process();
                    }
                }
            }
            Task::Once(file, is_failing) => {
                let once = cx.once("charge", async |key| {
                    did(&file, &key);
                    if lines(&file).len() == 1 {
                        kill_this_process();
                    }
                    Ok(5)
                });
                let in_doubt = if is_failing { InDoubt::Fail } else { InDoubt::Repeat };
                self.results.push(once.in_doubt(in_doubt).await?);
            }
            Task::Large(file, count) => {
                let mut total = 0;
                for number in 0..count {
                    let step = cx.step("large", &number, async {
                        did(&file, &number.to_string());
                        Ok("x".repeat((1 << 20) - 16))
                    });
                    total += step.await?.len() as u64;
                }
                ensure!(!is_first, "the first attempt fails");
                self.results.push(total);
            }
            Task::Payload(file) => {
                let payload = cx.step("payload", &(), async {
                    did(&file, "made");
                    Ok(cx.payload(vec![3_u64; 100_000])?)
                });
                let payload = payload.await?;
                ensure!(!is_first, "the first attempt fails");
                self.results.push(payload.value().await?.iter().sum());
            }
        }
        Ok(())
    }
}

#[derive(Serialize, Children)]
struct Root {
    work: WorkRef<Climber>,
    #[serde(skip)]
    task: Option<Task>,
    /// True if the App ends with the run.
    #[serde(skip)]
    ends: bool,
}

impl Flow for Root {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        let Some(task) = self.task.clone() else { return Ok(()) };
        let run = self.work.run(task);
        if self.ends {
            let Climber { found, results, tokens, .. } = run.finished()?;
            let tokens: Vec<_> = tokens.iter().map(ToString::to_string).collect();
            log::warn!("found {found}, results {results:?}, tokens {tokens:?}");
            cx.stop("the run has succeeded");
        }
        Ok(())
    }
}

/// The name of the variable with the file of the task of a head, and that with the name of the task.
const FILE: &str = "FLOWRIGHT_TEST_STEPS_FILE";
const TASK: &str = "FLOWRIGHT_TEST_STEPS_TASK";

/// The nodes and processes of these tests, or a head that runs one task and ends.
pub(crate) fn program() -> ExitCode {
    let task = std::env::var(FILE).ok().map(|file| match std::env::var(TASK).as_deref() {
        Ok("steps") => Task::Steps(file.into()),
        _ => Task::Once(file.into(), false),
    });
    App::new(move || Root { work: WorkRef::from(Climber::default()), ends: task.is_some(), task }).main()
}

/// A file that is removed on drop, together with the journal beside it.
struct Log(PathBuf);

impl Log {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("flowright-steps-{}-{number}", std::process::id())))
    }

    fn lines(&self) -> Vec<String> {
        lines(&self.0)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
        let _ = fs::remove_dir_all(self.0.with_extension("journal"));
    }
}

/// An App whose Work runs a task, and the node on which it runs, if it does.
struct Climb {
    app: TestApp,
    node: Option<Process>,
}

impl Climb {
    fn start(place: &'static str, task: Task) -> Self {
        let make = move || {
            let restart = Restart::on_failure().max(1).backoff(Duration::ZERO..Duration::ZERO);
            let work = WorkRef::from(Climber::default()).placed(place.parse().expect("a placement"));
            Root { work: work.restart(restart).on_error(OnError::Capture), task: Some(task), ends: false }
        };
        let app = App::new(make)
            .listen("127.0.0.1:0")
            .process(|| Ok(this_program("steps")))
            .config(times(500, 30_000));
        let app = TestApp::start_app(app).limit(LIMIT);
        let mut climb = Self { app, node: None };
        if place.starts_with('n') {
            climb.start_node();
        }
        climb
    }

    fn start_node(&mut self) {
        self.node = Some(Process::node_of("steps", &joining(&self.app), "n", &[]));
    }

    /// Starts the node again once it was lost with the first attempt.
    fn replace_node(&mut self) {
        if self.node.is_some() {
            self.app.wait_for_work("work", |work| {
                work.status.stage == Stage::Pending
                    && work.status.reason.is_none()
                    && work.status.attempt == 1
            });
            self.start_node();
        }
    }

    fn succeeded(&self) -> Climber {
        self.app.wait_for_stage("work", Stage::Succeeded);
        self.app.wait_for_state("work", |work: &Climber| !work.results.is_empty())
    }
}

/// A step whose value was returned is not done again when the process or node of the Work is killed, and a state that was
/// committed is found by the next incarnation.
fn steps_and_commits_survive_the_kill_of_a_process() {
    for place in ["process", "n", "n/pool"] {
        let log = Log::new();
        let mut climb = Climb::start(place, Task::Steps(log.0.clone()));
        climb.replace_node();
        let work = climb.succeeded();
        assert_eq!(log.lines(), ["step 0", "step 1", "step 2"], "{place}");
        assert!(work.found == 7 || work.found == 8, "{place}: {work:?}");
        assert!(work.results.ends_with(&[0, 10, 20]), "{place}: {work:?}");
        assert!(work.tokens.len() == 2 && work.tokens[0] < work.tokens[1], "{place}: {work:?}");
    }
}

/// An action during which the process was killed is repeated with the same key, or fails in doubt.
fn once_survives_the_kill_of_a_process() {
    for place in ["process", "n"] {
        let log = Log::new();
        let mut climb = Climb::start(place, Task::Once(log.0.clone(), false));
        climb.replace_node();
        assert_eq!(climb.succeeded().results, [5]);
        let keys = log.lines();
        assert!(keys.len() == 2 && keys[0] == keys[1], "{place}: {keys:?}");
    }
    let log = Log::new();
    let climb = Climb::start("process", Task::Once(log.0.clone(), true));
    let is_in_doubt = |message: &str| message.contains("in doubt") && message.contains(&log.lines()[0]);
    climb.app.wait_for_work("work", |work| {
        work.status.stage == Stage::Failed && work.status.message.as_deref().is_some_and(is_in_doubt)
    });
    assert_eq!(log.lines().len(), 1);
}

/// Starts a head with a journal, which ends by a kill in the middle of its run, and starts it again. Returns what it says
/// when the run has succeeded.
fn killed_and_started_again(task: &str, log: &Log) -> String {
    let journal = log.0.with_extension("journal");
    let head = || {
        let mut command = this_program("steps");
        command.env(FILE, &log.0).env(TASK, task);
        command.args(["--open-ui=false", "--without-server", "--journal"]).arg(&journal);
        Process::start(command)
    };
    let (code, said) = head().end();
    assert_eq!(code, None, "it is killed: {said:?}");
    let mut again = head();
    let result = again.expect("results");
    let (code, said) = again.end();
    assert_eq!(code, Some(0), "{said:?}");
    result
}

/// With a journal, a step is not done again, and a committed state is found, after the head was killed with its Work; the
/// next life of the App has a greater epoch.
fn steps_and_commits_survive_the_kill_of_the_head() {
    let log = Log::new();
    let result = killed_and_started_again("steps", &log);
    assert_eq!(log.lines(), ["step 0", "step 1", "step 2"]);
    assert!(result.contains("found 7") || result.contains("found 8"), "{result}");
    assert!(result.contains("results [0, 10, 0, 10, 20]"), "{result}");
    assert!(result.contains(r#"tokens ["1-1", "2-1"]"#), "{result}");
}

/// With a journal, an action during which the head was killed is repeated with the same key.
fn once_survives_the_kill_of_the_head() {
    let log = Log::new();
    let result = killed_and_started_again("once", &log);
    assert!(result.contains("results [5]"), "{result}");
    let keys = log.lines();
    assert!(keys.len() == 2 && keys[0] == keys[1], "{keys:?}");
}

/// The steps of a run may be larger together than a message between processes.
fn steps_larger_than_a_message_together_are_known() {
    for place in ["process", "n"] {
        let log = Log::new();
        let climb = Climb::start(place, Task::Large(log.0.clone(), 20));
        assert_eq!(climb.succeeded().results, [20 * ((1 << 20) - 16)], "{place}");
        assert_eq!(log.lines().len(), 20, "{place}");
    }
}

/// A payload that only a step refers to outlives the process in which it was made, if that ends in good order.
fn payload_of_a_step_outlives_its_process() {
    for place in ["process", "n"] {
        let log = Log::new();
        let climb = Climb::start(place, Task::Payload(log.0.clone()));
        assert_eq!(climb.succeeded().results, [300_000], "{place}");
        assert_eq!(log.lines(), ["made"], "{place}");
    }
}
