//! The engine against a real Slurm: the laboratory `tests/slurm/lab`, one for each test.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use super::super::engine::{AllocationEnd, Engine, EngineError, Listed, ListedStage, NodeCommand, Request};
use super::super::key::Key;
use super::{Slurm, SlurmSettings};
use crate::work::Resources;

/// A limit that means that something hangs.
const LONG: Duration = Duration::from_secs(240);

/// A cluster of three nodes with two processors each, which ends with the value.
struct Lab {
    directory: PathBuf,
}

impl Lab {
    fn start(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("fr-slurm-{name}-{}", std::process::id()));
        let lab = Self { directory };
        lab.run("start", &[]);
        lab
    }

    /// Starts or stops all daemons, or those that are named.
    fn run(&self, action: &str, daemons: &[&str]) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/slurm/lab");
        let done = Command::new(script).arg(action).arg(&self.directory).args(daemons).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    /// Runs a command of Slurm.
    fn slurm(&self, command: &str, arguments: &[&str]) -> String {
        let done =
            Command::new(self.directory.join("commands").join(command)).args(arguments).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }

    fn engine(&self) -> Slurm {
        self.engine_in("low")
    }

    fn engine_in(&self, partition: &str) -> Slurm {
        let settings = SlurmSettings {
            partition: Some(partition.to_owned()),
            directory: Some(self.directory.join("shared")),
            commands: Some(self.directory.join("commands")),
            ..SlurmSettings::default()
        };
        Slurm::new(settings, "tag".to_owned(), None).unwrap()
    }

    /// Returns a request for a node with two processors that executes this script of `sh` in place of a program. Another
    /// process writes the file, since this one forks, and a file that is open for writing cannot be executed.
    fn request(&self, script: &str) -> Request {
        let program = self.directory.join(format!("program-{}", blake3::hash(script.as_bytes()).to_hex()));
        let mut shell = Command::new("sh")
            .args(["-c", "cat > \"$0\" && chmod +x \"$0\""])
            .arg(&program)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let text = format!("#!/bin/sh\nhere={}\n{script}\n", self.directory.display());
        shell.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(shell.wait().unwrap().success());
        Request {
            command: NodeCommand { program, arguments: vec!["node".to_owned()], environment: Vec::new() },
            brings: Resources::cpus(2),
            time: Some(Duration::from_secs(600)),
            drain: Duration::from_secs(30),
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.run("stop", &[]);
        match std::thread::panicking() {
            true => eprintln!("the logs are in {}", self.directory.display()),
            false => drop(fs::remove_dir_all(&self.directory)),
        }
    }
}

/// Ends when it is told, and says so.
const UNTIL_TOLD: &str = "trap 'echo told to leave; exit 0' TERM; echo ready; while :; do sleep 0.1; done";

fn keys(count: u64) -> Vec<Key> {
    (0..count).map(|random| Key::new("group", random)).collect()
}

async fn submit(engine: &Slurm, request: &Request, keys: &[Key]) {
    assert_eq!(engine.submit(request, keys).await, vec![Ok(()); keys.len()]);
}

/// Waits until the list has an allocation of which the condition holds.
async fn listed(engine: &Slurm, key: &Key, holds: impl Fn(&ListedStage) -> bool) -> Listed {
    let end = Instant::now() + LONG;
    let mut last = None;
    loop {
        if let Ok(jobs) = engine.list().await {
            last = jobs.into_iter().find(|job| job.key == *key);
        }
        match last {
            Some(last) if holds(&last.stage) => return last,
            _ => assert!(Instant::now() < end, "{key}: {last:?}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn running(engine: &Slurm, key: &Key) -> Listed {
    listed(engine, key, |stage| matches!(stage, ListedStage::Running { .. })).await
}

async fn ended(engine: &Slurm, key: &Key) -> (AllocationEnd, String) {
    match listed(engine, key, |stage| matches!(stage, ListedStage::Ended { .. })).await.stage {
        ListedStage::Ended { end, words } => (end, words),
        stage => panic!("{stage:?}"),
    }
}

/// Waits until the output of a job has this text.
async fn printed(engine: &Slurm, key: &Key, text: &str) -> String {
    let end = Instant::now() + LONG;
    loop {
        let output = engine.output(key, 100).await.unwrap();
        if output.contains(text) {
            return output;
        }
        assert!(Instant::now() < end, "{output}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A job runs on a machine of the cluster until its program ends; it gets the name and the resources of its node.
#[tokio::test]
async fn job_runs_until_its_program_ends() {
    let lab = Lab::start("runs");
    let engine = lab.engine();
    let mut request = lab.request(
        "echo \"$@\"; echo gpus=$CUDA_VISIBLE_DEVICES; while [ ! -e $here/go ]; do sleep 0.05; done; exit $(cat $here/go)",
    );
    request.brings = Resources::cpus(1).and_gpus(1).and_memory(256 << 20);
    let keys = keys(2);
    submit(&engine, &request, &keys).await;
    let before = SystemTime::now();
    for key in &keys {
        let job = running(&engine, key).await;
        let ends_in = job.ends_at.unwrap().duration_since(before).unwrap();
        assert!((540..660).contains(&ends_in.as_secs()), "{ends_in:?}");
        assert!(matches!(&job.stage, ListedStage::Running { at } if at.starts_with('n')), "{job:?}");
        let output = printed(&engine, key, "gpus=").await;
        assert!(output.contains(&format!("node --name {key} --cpus 1 --gpus 1 --memory 256")), "{output}");
    }
    fs::write(lab.directory.join("go.new"), "3").unwrap();
    fs::rename(lab.directory.join("go.new"), lab.directory.join("go")).unwrap();
    for key in &keys {
        assert_eq!(ended(&engine, key).await, (AllocationEnd::Failed, "FAILED (NonZeroExitCode)".to_owned()));
    }
    let request = lab.request("exit 0");
    let more = [Key::new("group", 7)];
    submit(&engine, &request, &more).await;
    assert_eq!(ended(&engine, &more[0]).await.0, AllocationEnd::Completed);
}

/// A node is told before its job is cancelled, whether it runs or waits; a full queue says why a job waits.
#[tokio::test]
async fn ended_jobs_are_told_first() {
    let lab = Lab::start("ended");
    let engine = lab.engine();
    let request = lab.request(UNTIL_TOLD);
    let keys = keys(4);
    submit(&engine, &request, &keys[..3]).await;
    for key in &keys[..3] {
        running(&engine, key).await;
        printed(&engine, key, "ready").await;
    }
    submit(&engine, &request, &keys[3..]).await;
    let waits = |stage: &ListedStage| matches!(stage, ListedStage::Queued { why } if ["Resources", "Priority"].contains(&why.as_str()));
    let waiting = listed(&engine, &keys[3], waits).await;
    assert_eq!(waiting.ends_at, None);
    engine.end(&keys).await.unwrap();
    for key in &keys {
        assert_eq!(ended(&engine, key).await.0, AllocationEnd::Cancelled);
    }
    for key in &keys[..3] {
        printed(&engine, key, "told to leave").await;
    }
    engine.end(&keys).await.unwrap();
}

/// A node is told before the time limit, and a job that goes on is ended by it. The test takes longest, and is the first
/// by its name.
#[tokio::test]
async fn before_time_limit_node_is_told() {
    let lab = Lab::start("limit");
    let engine = lab.engine();
    let mut request = lab.request("trap 'echo told to leave' TERM; echo ready; while :; do sleep 0.1; done");
    // Slurm sends the signal up to a minute earlier, at which the program must have been started.
    request.time = Some(Duration::from_secs(120));
    request.drain = Duration::from_secs(30);
    let keys = keys(1);
    submit(&engine, &request, &keys).await;
    running(&engine, &keys[0]).await;
    printed(&engine, &keys[0], "told to leave").await;
    assert!(matches!(engine.list().await.unwrap()[0].stage, ListedStage::Running { .. }));
    assert_eq!(ended(&engine, &keys[0]).await.0, AllocationEnd::TimeLimit);
}

/// A job of a partition with a higher priority preempts one, whose node is told and whose end says so.
#[tokio::test]
async fn preempted_job_is_listed_as_such() {
    let lab = Lab::start("preempt");
    let low = lab.engine();
    let keys = keys(4);
    submit(&low, &lab.request(UNTIL_TOLD), &keys[..3]).await;
    for key in &keys[..3] {
        running(&low, key).await;
        printed(&low, key, "ready").await;
    }
    let fast = lab.engine_in("fast");
    submit(&fast, &lab.request(UNTIL_TOLD), &keys[3..]).await;
    running(&fast, &keys[3]).await;
    let jobs = low.list().await.unwrap();
    let preempted: Vec<_> = jobs
        .iter()
        .filter(|job| matches!(job.stage, ListedStage::Ended { end: AllocationEnd::Preempted, .. }))
        .collect();
    assert_eq!(preempted.len(), 1, "{jobs:?}");
    printed(&low, &preempted[0].key, "told to leave").await;
}

/// Requests and lists are unreachable while the controller is down, and nothing is lost when it is back.
#[tokio::test]
async fn restarted_controller_loses_nothing() {
    let lab = Lab::start("restart");
    let engine = lab.engine();
    let request = lab.request(UNTIL_TOLD);
    let keys = keys(3);
    submit(&engine, &request, &keys[..2]).await;
    running(&engine, &keys[0]).await;
    running(&engine, &keys[1]).await;
    lab.run("stop", &["slurmctld"]);
    let unreachable = |error: EngineError| assert!(matches!(error, EngineError::Unreachable(_)), "{error}");
    unreachable(engine.list().await.unwrap_err());
    unreachable(engine.submit(&request, &keys[2..]).await.remove(0).unwrap_err());
    unreachable(engine.end(&keys[..1]).await.unwrap_err());
    unreachable(engine.check(&request).await.unwrap_err());
    lab.run("start", &["slurmctld"]);
    for key in &keys[..2] {
        running(&engine, key).await;
    }
    assert_eq!(engine.list().await.unwrap().len(), 2);
    engine.end(&keys[..1]).await.unwrap();
    assert_eq!(ended(&engine, &keys[0]).await.0, AllocationEnd::Cancelled);
}

/// A job whose machine is lost has failed. Jobs wait while machines are drained.
#[tokio::test]
async fn lost_and_drained_machines_are_listed() {
    let lab = Lab::start("lost");
    let engine = lab.engine();
    let keys = keys(2);
    submit(&engine, &lab.request(UNTIL_TOLD), &keys[..1]).await;
    let ListedStage::Running { at } = running(&engine, &keys[0]).await.stage else { unreachable!() };
    lab.slurm("scontrol", &["update", "NodeName=n[1-3]", "State=DRAIN", "Reason=test"]);
    submit(&engine, &lab.request(UNTIL_TOLD), &keys[1..]).await;
    let waits = |stage: &ListedStage| matches!(stage, ListedStage::Queued { why } if why != "PENDING");
    let waiting = listed(&engine, &keys[1], waits).await;
    lab.run("stop", &[&at]);
    let (end, words) = ended(&engine, &keys[0]).await;
    assert_eq!((end, words.as_str()), (AllocationEnd::Failed, "NODE_FAIL (NodeDown)"), "{waiting:?}");
    let others = ["n1", "n2", "n3"].into_iter().filter(|node| *node != at);
    for node in others {
        lab.slurm("scontrol", &["update", &format!("NodeName={node}"), "State=RESUME"]);
    }
    running(&engine, &keys[1]).await;
}

/// Wrong requests are refused with Slurm's words, and a check gives its verdict without starting anything.
#[tokio::test]
async fn wrong_requests_are_refused() {
    let lab = Lab::start("refused");
    let request = lab.request(UNTIL_TOLD);
    let keys = keys(2);
    let nowhere = lab.engine_in("nowhere");
    let outcomes = nowhere.submit(&request, &keys).await;
    for outcome in outcomes {
        let words = "invalid partition specified: nowhere; Invalid partition name specified".to_owned();
        assert_eq!(outcome, Err(EngineError::Refused(words)));
    }
    let checked = nowhere.check(&request).await.unwrap();
    assert!(
        matches!(checked.verdict, Some(Err(why)) if why.contains("invalid partition specified: nowhere"))
    );
    let engine = lab.engine();
    let mut large = request.clone();
    large.brings = Resources::gpus(3);
    let outcome = engine.submit(&large, &keys[..1]).await.remove(0);
    let words = "Requested node configuration is not available".to_owned();
    assert_eq!(outcome, Err(EngineError::Refused(words)));
    let checked = engine.check(&request).await.unwrap();
    assert!(
        matches!(checked.verdict, Some(Ok(words)) if words.contains("to start at")),
        "{}",
        checked.script
    );
    let jobs = engine.list().await.unwrap();
    let is_live = |job: &Listed| !matches!(job.stage, ListedStage::Ended { .. });
    assert!(!jobs.iter().any(is_live), "{jobs:?}");
}

/// A job whose copy of the program has been replaced does not execute it.
#[tokio::test]
async fn replaced_program_is_not_executed() {
    let lab = Lab::start("replaced");
    let engine = lab.engine();
    lab.slurm("scontrol", &["update", "NodeName=n[1-3]", "State=DRAIN", "Reason=test"]);
    let keys = keys(1);
    submit(&engine, &lab.request("echo executed"), &keys).await;
    for copy in fs::read_dir(lab.directory.join("shared/programs")).unwrap() {
        fs::write(copy.unwrap().path(), "#!/bin/sh\necho replaced\n").unwrap();
    }
    lab.slurm("scontrol", &["update", "NodeName=n[1-3]", "State=RESUME"]);
    assert_eq!(ended(&engine, &keys[0]).await.0, AllocationEnd::Failed);
    let output = engine.output(&keys[0], 100).await.unwrap();
    assert!(output.contains("is not the program of the head"), "{output}");
    assert!(!output.contains("executed") && !output.contains("replaced\n"), "{output}");
}
