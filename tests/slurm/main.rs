//! Whole Apps whose nodes are jobs of Slurm, in the cluster that `tests/slurm/lab` starts on this machine: that takes
//! root and the packages slurm-wlm and munge, so that these tests need `--features slurm-tests`.

#[path = "../remote/lab.rs"]
#[allow(dead_code, reason = "the other tests need more of it")]
mod lab;
#[path = "../remote/process.rs"]
#[allow(dead_code, reason = "the other tests need more of it")]
mod process;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use flowright::prelude::*;
use flowright::{Placement, Selector};
use libtest_mimic::{Arguments, Trial};

use self::lab::{Lab, Suite, Task};
use self::process::{LIMIT, Process, VARIABLE};

/// A node that has had no head for so long ends.
const WITHOUT_HEAD: Duration = Duration::from_secs(3);

/// A cluster of three nodes with two processors each, which ends with the value.
struct Cluster {
    directory: PathBuf,
}

impl Cluster {
    fn start(name: &str) -> Self {
        let name = format!("fr-slurm-app-{name}-{}", std::process::id());
        let cluster = Self { directory: std::env::temp_dir().join(name) };
        cluster.run("start");
        let token = cluster.directory.join("token");
        fs::write(&token, "a secret of some length").expect("the directory is there");
        fs::set_permissions(token, fs::Permissions::from_mode(0o600)).expect("the file is there");
        cluster
    }

    fn run(&self, action: &str) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/slurm/lab");
        let done = Command::new(script).arg(action).arg(&self.directory).output().expect("python3 is there");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    /// Starts a program of this binary as a head, with one group of nodes.
    fn head(&self, program: &str, settings: &str) -> Process {
        self.head_at(program, settings, &["--listen", "0.0.0.0:0"])
    }

    fn head_at(&self, program: &str, settings: &str, arguments: &[&str]) -> Process {
        let directory = self.directory.display();
        let config = self.directory.join("app.toml");
        let text = format!(
            "[fleet.low]\nengine = \"slurm\"\npartition = \"low\"\ncommands = \"{directory}/commands\"\n\
             directory = \"{directory}/shared\"\nbrings = {{ cpus = 1, memory_mib = 256 }}\ntime = \"10m\"\ndrain = \"10s\"\n\
             {settings}\n"
        );
        fs::write(&config, text).expect("the directory is there");
        let mut command =
            Command::new(std::env::current_exe().expect("the path of the test binary is known"));
        command.env(VARIABLE, program).args(["--open-ui=false", "--port", "0"]).args(arguments);
        command.arg("--config").arg(config).arg("--token-file").arg(self.directory.join("token"));
        Process::start(command)
    }

    /// Returns the jobs that are in one of these states, each as `NUMBER STATE`.
    fn jobs(&self, states: &str) -> Vec<String> {
        let squeue = self.directory.join("commands/squeue");
        let listed = Command::new(squeue).args(["--noheader", "--format=%i %T", "--states", states]).output();
        let listed = listed.expect("the command is there");
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        String::from_utf8_lossy(&listed.stdout).lines().map(str::to_owned).collect()
    }

    /// Waits until there are so many jobs in one of these states.
    fn wait_for_jobs(&self, states: &str, count: usize) -> Vec<String> {
        let end = Instant::now() + LIMIT;
        loop {
            let jobs = self.jobs(states);
            if jobs.len() == count {
                return jobs;
            }
            assert!(Instant::now() < end, "{:?}", self.jobs("all"));
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.run("stop");
        match std::thread::panicking() {
            true => eprintln!("the logs are in {}", self.directory.display()),
            false => drop(fs::remove_dir_all(&self.directory)),
        }
    }
}

/// States of jobs that have not ended.
const LIVE: &str = "PENDING,CONFIGURING,RUNNING,COMPLETING";

/// An App whose `a` runs on any node: until it has counted with `count`, and without an end otherwise.
fn suite(program: &str) -> ExitCode {
    let counts = program == "count";
    let make = move || {
        let a =
            WorkRef::from(Lab::default()).placed(Placement::Node(Selector::any())).needs(Resources::cpus(1));
        let mut said = String::new();
        Suite::new(a, WorkRef::from(Lab::default()), move |suite, _| {
            if !counts {
                suite.a.run(Task::Chatter);
            } else if suite.a.run(Task::Count(3)).poll().is_some() {
                suite.a.stop();
            }
            let a = &suite.a;
            let now = match counts {
                true => format!("`a` has counted to {}", a.count),
                false => format!(
                    "`a` has life {}, after {} stops, attempt {}",
                    a.lives,
                    a.stopped,
                    a.status().attempt
                ),
            };
            if now != said {
                println!("{now}");
                said = now;
            }
            Ok(())
        })
    };
    App::new(make).main()
}

/// A job is requested when a Work waits, the Work runs there, and the job ends by itself once its node is idle.
fn work_that_waits_gets_a_job_that_ends_when_idle() {
    let cluster = Cluster::start("idle");
    let mut head = cluster.head("count", "nodes = \"0..2\"\nidle = \"1s\"");
    head.expect("`a` has counted to 3");
    let jobs = cluster.wait_for_jobs("COMPLETED", 1);
    assert_eq!(cluster.jobs("all"), jobs, "no other job was requested");
    head.signal("TERM");
    let (code, lines) = head.end();
    assert_eq!(code, Some(0), "{lines:#?}");
}

/// All jobs end soon after their head was killed, those that wait for a machine as well.
fn head_that_is_killed_leaves_no_job() {
    let cluster = Cluster::start("killed");
    let mut head = cluster.head("chatter", "nodes = \"2..2\"\nwithout_head = \"3s\"");
    cluster.wait_for_jobs("RUNNING", 2);
    head.expect("has joined");
    head.expect_again("has joined");
    head.signal("KILL");
    let killed = Instant::now();
    head.end();
    cluster.wait_for_jobs(LIVE, 0);
    assert!(killed.elapsed() <= WITHOUT_HEAD + Duration::from_secs(5), "{:?}", killed.elapsed());
}

/// A job that somebody cancels sends its Work away in good order: it continues in another job, in the same attempt.
fn cancelled_job_moves_its_work() {
    let cluster = Cluster::start("cancel");
    let mut head = cluster.head("chatter", "nodes = \"0..1\"");
    head.expect("`a` has life 1, after 0 stops, attempt 1");
    let job = cluster.wait_for_jobs("RUNNING", 1).remove(0);
    let number = job.split(' ').next().expect("a line has words");
    let cancelled = Command::new(cluster.directory.join("commands/scancel")).arg(number).status();
    assert!(cancelled.expect("the command is there").success());
    head.expect("`a` has life 2, after 1 stops, attempt 1");
    head.signal("TERM");
    let (code, lines) = head.end();
    assert_eq!(code, Some(0), "{lines:#?}");
    assert_eq!(cluster.jobs("RUNNING,PENDING"), Vec::<String>::new(), "the head has ended its jobs");
}

/// A head with a journal that is started again takes its job over, with the Work that goes on there, and requests no
/// other one, also if nodes leave soon when they are idle.
fn head_started_again_takes_its_job_over() {
    let cluster = Cluster::start("again");
    let listener = std::net::TcpListener::bind("0.0.0.0:0").expect("there is a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    drop(listener);
    let journal = cluster.directory.join("journal").display().to_string();
    let arguments = ["--listen", &address, "--journal", &journal];
    let settings = "nodes = \"0..1\"\nidle = \"1s\"\nwithout_head = \"60s\"";
    let mut head = cluster.head_at("chatter", settings, &arguments);
    head.expect("`a` has life 1, after 0 stops, attempt 1");
    let jobs = cluster.wait_for_jobs("RUNNING", 1);
    head.signal("KILL");
    head.end();
    let mut again = cluster.head_at("chatter", settings, &arguments);
    again.expect("has joined");
    // Several times as long as a node is idle before it leaves.
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(cluster.jobs("all"), jobs, "it runs, and no other was requested");
    again.signal("TERM");
    let (code, lines) = again.end();
    assert_eq!(code, Some(0), "{lines:#?}");
    let moved = |line: &&String| line.contains("`a` has life 2");
    assert_eq!(lines.iter().find(moved), None, "{lines:#?}");
}

fn main() -> ExitCode {
    // Nodes have no variable: Flowright's own are not handed on to jobs.
    if let Ok(program) = std::env::var(VARIABLE) {
        return suite(&program);
    }
    if std::env::args().nth(1).is_some_and(|word| word == "node") {
        return suite("node");
    }
    let tests: [(&str, fn()); 4] = [
        ("work_that_waits_gets_a_job_that_ends_when_idle", work_that_waits_gets_a_job_that_ends_when_idle),
        ("head_that_is_killed_leaves_no_job", head_that_is_killed_leaves_no_job),
        ("cancelled_job_moves_its_work", cancelled_job_moves_its_work),
        ("head_started_again_takes_its_job_over", head_started_again_takes_its_job_over),
    ];
    let trials = tests.map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit_code()
}
