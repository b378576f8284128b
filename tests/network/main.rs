//! A head and a node with a network of their own between them, which loses packets, is cut, and is slow.
//!
//! The networks are namespaces that each test makes and removes: that takes root, `ip`, `tc` and `iptables`. A disk that is full takes
//! root as well. So these tests are run where `--features network-tests` asks for them.

#[path = "../remote/lab.rs"]
#[allow(dead_code, reason = "the other tests need more of it")]
mod lab;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{Config, DriveError, Selector};
use libtest_mimic::{Arguments, Trial};

use self::lab::{Lab, Suite, Task};

const VARIABLE: &str = "FLOWRIGHT_TEST_PROGRAM";
const LIMIT: Duration = Duration::from_secs(60);
const NUMBERS: u32 = 20_000;

/// `b`, which is on the head, sends numbers to `a` on the node.
fn program() -> ExitCode {
    let config = Config { heartbeat_ms: Some(200), node_grace_ms: Some(4000), ..Config::default() };
    let make = || {
        let a = WorkRef::from(Lab::default()).placed(Placement::Node(Selector::name("n")));
        let b = WorkRef::from(Lab::default()).restart(Restart::on_failure().max(1000));
        let mut said = String::new();
        Suite::new(a, b, move |suite, _| {
            suite.a.run(Task::Serve);
            if suite.a.is_running() {
                let now = format!("`a` serves, attempt {}", suite.a.status().attempt);
                if now != said {
                    println!("{now}");
                    said = now;
                }
                suite.b.run(Task::Send(suite.a.addr(), NUMBERS));
            }
            if let Some(sum) = suite.b.sum
                && suite.a.received.len() >= NUMBERS as usize
            {
                let in_order = suite.a.received.iter().copied().eq(0..NUMBERS);
                println!("the sum is {sum}, in order: {in_order}");
            }
            Ok(())
        })
    };
    App::new(make).config(config).main()
}

/// Two namespaces, joined by a wire; removed when dropped.
struct Network {
    head: String,
    node: String,
}

fn run(program: &str, arguments: &[&str]) {
    let done = Command::new(program).args(arguments).output();
    let done = done.unwrap_or_else(|error| panic!("{program} is needed for these tests, and root: {error}"));
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{program} {arguments:?} (these tests need root): {said}");
}

impl Network {
    fn new(name: &str) -> Self {
        let id = std::process::id();
        let (head, node) = (format!("fr-{name}-h-{id}"), format!("fr-{name}-n-{id}"));
        let network = Self { head, node };
        let Self { head, node } = &network;
        for namespace in [head, node] {
            run("ip", &["netns", "add", namespace]);
            run("ip", &["-n", namespace, "link", "set", "lo", "up"]);
        }
        run("ip", &["link", "add", "w", "netns", head, "type", "veth", "peer", "name", "w", "netns", node]);
        for (namespace, address) in [(head, "10.231.0.1/24"), (node, "10.231.0.2/24")] {
            run("ip", &["-n", namespace, "addr", "add", address, "dev", "w"]);
            run("ip", &["-n", namespace, "link", "set", "w", "up"]);
        }
        network
    }

    /// Has the node's side of the wire treat what arrives by this rule.
    fn rule(&self, what: &str, rule: &[&str]) {
        let arguments = [&["netns", "exec", &self.node, "iptables", what, "INPUT", "-i", "w"], rule].concat();
        run("ip", &arguments);
    }

    fn cut(&self) {
        self.rule("-A", &["-j", "DROP"]);
    }

    fn mend(&self) {
        self.rule("-D", &["-j", "DROP"]);
    }

    fn start(&self, namespace: &str, arguments: &[&str]) -> Process {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]);
        command.arg(std::env::current_exe().expect("a test knows its file")).args(arguments);
        command.env(VARIABLE, "network").env("FLOWRIGHT_TOKEN", "a secret of some length");
        Process::start(command)
    }

    fn head(&self) -> Process {
        self.start(&self.head, &["--open-ui=false", "--without-server", "--listen", "10.231.0.1:7502"])
    }

    fn node(&self) -> Process {
        self.start(&self.node, &["node", "--join", "10.231.0.1:7502", "--name", "n"])
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in [&self.head, &self.node] {
            let _ = Command::new("ip").args(["netns", "del", namespace]).output();
        }
    }
}

struct Process {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Process {
    fn start(mut command: Command) -> Self {
        let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().expect("`ip` starts it");
        let (sender, lines) = channel();
        let out: Box<dyn std::io::Read + Send> = Box::new(child.stdout.take().expect("it is piped"));
        let err: Box<dyn std::io::Read + Send> = Box::new(child.stderr.take().expect("it is piped"));
        for stream in [out, err] {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let _ = sender.send(line);
                }
            });
        }
        Self { child, lines, seen: Vec::new() }
    }

    #[track_caller]
    fn expect(&mut self, part: &str) -> String {
        loop {
            if let Some(line) = self.seen.iter().find(|line| line.contains(part)) {
                return line.clone();
            }
            match self.lines.recv_timeout(LIMIT) {
                Ok(line) if self.seen.len() < 500 => self.seen.push(line),
                _ => panic!("{part:?} was not written; there was {:#?}", self.seen),
            }
        }
    }

    fn has_seen(&self, part: &str) -> bool {
        self.seen.iter().any(|line| line.contains(part))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn sum() -> u64 {
    (0..u64::from(NUMBERS)).sum()
}

fn all_arrive(head: &mut Process) {
    head.expect(&format!("the sum is {}, in order: true", sum()));
    assert!(!head.has_seen("attempt 2"), "nothing was started again: {:#?}", head.seen);
}

fn lost_packets_are_only_slow() {
    let network = Network::new("loss");
    network.rule("-A", &["-m", "statistic", "--mode", "random", "--probability", "0.05", "-j", "DROP"]);
    let mut head = network.head();
    let _node = network.node();
    all_arrive(&mut head);
}

fn a_slow_wire_is_only_slow() {
    let network = Network::new("slow");
    let rate =
        ["qdisc", "add", "dev", "w", "root", "tbf", "rate", "4mbit", "burst", "32kbit", "latency", "400ms"];
    run("ip", &[&["netns", "exec", &network.head, "tc"][..], &rate].concat());
    let mut head = network.head();
    let _node = network.node();
    all_arrive(&mut head);
}

fn a_short_cut_loses_nothing() {
    let network = Network::new("short");
    let mut head = network.head();
    let _node = network.node();
    head.expect("`a` serves, attempt 1");
    network.cut();
    head.expect("the connection to node `n` broke");
    network.mend();
    head.expect("node `n` is connected again; nothing was lost");
    all_arrive(&mut head);
}

fn a_long_cut_loses_the_node_and_it_comes_back() {
    let network = Network::new("long");
    let mut head = network.head();
    let mut node = network.node();
    head.expect("`a` serves, attempt 1");
    network.cut();
    head.expect("node `n` is lost (nothing was heard from it for the grace period): work `a` ran on it");
    node.expect("work `a` is ended");
    network.mend();
    head.expect("`a` serves, attempt 2");
}

/// A small disk of its own; unmounted when dropped.
struct Disk(PathBuf);

impl Disk {
    fn of_mib(size: u32) -> Self {
        let place = std::env::temp_dir().join(format!("flowright-disk-{}", std::process::id()));
        std::fs::create_dir(&place).expect("it is new");
        let disk = Self(place);
        let options = format!("size={size}m");
        run("mount", &["-t", "tmpfs", "-o", &options, "tmpfs", disk.0.to_str().expect("it is text")]);
        disk
    }

    /// How many files and directories there are.
    fn parts(&self) -> usize {
        let mut left = vec![self.0.clone()];
        let mut parts = 0;
        while let Some(directory) = left.pop() {
            for entry in std::fs::read_dir(directory).expect("it can be read").flatten() {
                parts += 1;
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    left.push(entry.path());
                }
            }
        }
        parts
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).output();
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Fills a disk of 8 MiB in each way there is.
#[derive(Default, Serialize, Deserialize)]
struct Filler;

impl Work for Filler {
    /// A directory on the small disk, and one on another.
    type Input = (PathBuf, PathBuf);

    async fn run(&mut self, (disk, large): Self::Input, cx: &mut WorkContext<Self>) -> Result<()> {
        const LENGTH: usize = 20 << 20;
        let told = |error: Error| format!("{error:#}");
        let drive = Drive::new("small");
        std::fs::write(large.join("it"), vec![1; LENGTH])?;

        let error = drive.put("it", large.join("it")).await.unwrap_err();
        let is_said = matches!(&error, DriveError::NoRoom { .. });
        assert!(is_said && error.to_string().contains("--drive-dir"), "{error:?}");
        assert!(drive.list("").await?.is_empty(), "nothing is seen of it");
        drive.put_bytes("small", vec![1; 1000]).await?;
        drive.delete("small").await?;

        let elsewhere = Drive::from_url(format!("file://{}", large.join("drive").display()))?;
        elsewhere.put("it", large.join("it")).await?;
        let error = told(elsewhere.get("it", disk.join("got")).await.unwrap_err().into());
        assert!(error.contains("got cannot be written") && error.contains("No space left"), "{error}");

        let error = told(cx.artifact(large.join("it")).unwrap_err().into());
        assert!(
            error.contains("there is no room for the artifact") && error.contains("--payload-dir"),
            "{error}"
        );
        std::fs::write(large.join("small"), vec![1; 5 << 20])?;
        let artifact = cx.artifact(large.join("small"))?;
        let error = told(artifact.fetch(disk.join("fetched")).await.unwrap_err().into());
        assert!(error.contains("fetched cannot be written") && error.contains("nothing is left"), "{error}");
        artifact.fetch(large.join("fetched")).await?;
        Ok(())
    }
}

#[derive(Serialize, Children)]
struct Filling {
    filler: WorkRef<Filler>,
    #[serde(skip)]
    places: (PathBuf, PathBuf),
}

impl Flow for Filling {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        self.filler.run(self.places.clone()).finished()?;
        cx.stop("it was full");
        Ok(())
    }
}

fn a_full_disk_is_said_and_nothing_is_left_there() {
    let disk = Disk::of_mib(8);
    let large = std::env::temp_dir().join(format!("flowright-large-{}", std::process::id()));
    std::fs::create_dir(&large).expect("it is new");
    let config = Config {
        payload_dir: Some(disk.0.join("payloads")),
        drive_dir: Some(disk.0.join("drives")),
        ..Config::default()
    };
    let places = (disk.0.clone(), large.clone());
    let flow = move || Filling { filler: WorkRef::default(), places };
    let exit = TestApp::start_app(App::new(flow).config(config)).limit(LIMIT).wait_for_exit();
    let _ = std::fs::remove_dir_all(&large);
    if let Err(error) = exit.result {
        panic!("{error}");
    }
    // The directories of payloads, of drives, and of the drive.
    assert_eq!(disk.parts(), 3, "nothing else is left");
}

fn main() -> ExitCode {
    if std::env::var_os(VARIABLE).is_some() {
        return program();
    }
    let tests: [(&str, fn()); 5] = [
        ("lost_packets_are_only_slow", lost_packets_are_only_slow),
        ("a_slow_wire_is_only_slow", a_slow_wire_is_only_slow),
        ("a_short_cut_loses_nothing", a_short_cut_loses_nothing),
        ("a_long_cut_loses_the_node_and_it_comes_back", a_long_cut_loses_the_node_and_it_comes_back),
        ("a_full_disk_is_said_and_nothing_is_left_there", a_full_disk_is_said_and_nothing_is_left_there),
    ];
    let trials = tests.map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit_code()
}
