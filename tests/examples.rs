//! Runs every program in `examples/` as a real process, and checks its output and its exit code.
//!
//! Only the guaranteed order is asserted: [`Program::expect`] finds a line anywhere after the one that was found
//! `after` it; other lines may come in between.

mod built;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Limit on the time of a program. Far more than any needs, so that a busy machine fails no test.
const LIMIT: Duration = Duration::from_secs(300);

const STARTING: &str = "Your Flowright App is starting. This won't take long.";
const STARTED: &str = "INFO: Your app has started. View it in your browser: http://127.0.0.1:";
const STOPPING: &str = "Your Flowright App is being stopped. This won't take long.";
const STOPPED: &str = "Your Flowright App has been stopped successfully!";

/// A running example. Killed on drop, so that a failed test leaves no process behind.
struct Program {
    name: &'static str,
    child: Child,
    lines: Receiver<(Stream, String)>,
    end_by: Instant,
    out: Vec<String>,
    err: Vec<String>,
}

#[derive(Clone, Copy)]
enum Stream {
    Out,
    Err,
}

impl Program {
    fn start(name: &'static str) -> Self {
        Self::start_with(name, &["--open-ui=false", "--port", "0"])
    }

    fn start_with(name: &'static str, arguments: &[&str]) -> Self {
        let mut child = Command::new(path_of(name))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("`{name}` does not start: {error}"));
        let (sender, lines) = channel();
        let streams: [(Stream, Box<dyn Read + Send>); 2] = [
            (Stream::Out, Box::new(child.stdout.take().expect("the stream is piped"))),
            (Stream::Err, Box::new(child.stderr.take().expect("the stream is piped"))),
        ];
        for (stream, pipe) in streams {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    if sender.send((stream, line)).is_err() {
                        break;
                    }
                }
            });
        }
        Self { name, child, lines, end_by: Instant::now() + LIMIT, out: Vec::new(), err: Vec::new() }
    }

    /// Reads until `found` returns a value for the output so far. Panics at the end of both streams.
    fn read_until<T>(&mut self, what: &str, found: impl Fn(&Self) -> Option<T>) -> T {
        loop {
            if let Some(found) = found(self) {
                return found;
            }
            if !self.read() {
                panic!("`{}` ended without {what}\n{}", self.name, self.transcript());
            }
        }
    }

    /// Reads one more line; `false` at the end of both streams.
    fn read(&mut self) -> bool {
        match self.lines.recv_timeout(self.end_by.saturating_duration_since(Instant::now())) {
            Ok((Stream::Out, line)) => self.out.push(line),
            Ok((Stream::Err, line)) => self.err.push(line),
            Err(RecvTimeoutError::Disconnected) => return false,
            Err(RecvTimeoutError::Timeout) => {
                let _ = self.child.kill();
                panic!("`{}` took longer than {LIMIT:?}\n{}", self.name, self.transcript());
            }
        }
        true
    }

    /// Waits for these lines on stdout, in this order; other lines may come in between.
    fn expect(&mut self, lines: &[&str]) {
        let what = format!("these lines in this order: {lines:#?}");
        self.read_until(&what, |program| contains_in_order(&program.out, lines).then_some(()));
    }

    /// The port at which the App announces that it is served.
    fn port(&mut self) -> u16 {
        self.read_until("saying where it serves", |program| {
            let line = program.err.iter().find_map(|line| line.strip_prefix(STARTED))?;
            Some(line.strip_suffix("/view").expect("the page").parse().expect("a port"))
        })
    }

    fn interrupt(&self) {
        let sent = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        assert!(sent.expect("there is a `kill`").success(), "`{}` is gone", self.name);
    }

    /// Reads the rest of both streams and waits for the end.
    fn end(&mut self) -> ExitStatus {
        while self.read() {}
        // Both streams are closed, so that the process has exited or is about to.
        self.child.wait().expect("a child can be waited for")
    }

    fn ends_well(&mut self) {
        let status = self.end();
        assert_eq!(status.code(), Some(0), "`{}`: {status}\n{}", self.name, self.transcript());
    }

    fn ends_well_on_interrupt(&mut self) {
        self.interrupt();
        self.ends_well();
        self.expect(&[STOPPING, STOPPED]);
    }

    fn transcript(&self) -> String {
        format!("stdout:\n{}\nstderr:\n{}", self.out.join("\n"), self.err.join("\n"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn path_of(name: &str) -> PathBuf {
    built::example(name, true)
}

fn examples() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples")
}

fn contains_in_order(lines: &[String], wanted: &[&str]) -> bool {
    let mut lines = lines.iter();
    wanted.iter().all(|wanted| lines.any(|line| line == wanted))
}

fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the App serves");
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n")
        .expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

/// Asserts that the program ends by itself and prints exactly this on stdout.
fn tells(name: &'static str, story: &[&str]) {
    let mut program = Program::start(name);
    program.ends_well();
    let told: Vec<_> = program.out.iter().map(String::as_str).collect();
    let all = [&[STARTING], story, &[STOPPED]].concat();
    assert_eq!(told, all, "{}", program.transcript());
}

#[test]
fn every_example_is_run_here() {
    let tests = include_str!("examples.rs");
    for entry in std::fs::read_dir(examples()).expect("there are examples") {
        let path = entry.expect("an example").path();
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a name");
        assert!(tests.contains(&format!("fn {name}() {{")), "no test runs the example `{name}`");
        let text = std::fs::read_to_string(&path).expect("a program");
        assert!(text.starts_with("//! "), "the example `{name}` does not say its idea");
        assert!(text.lines().count() < 100, "the example `{name}` is too long to be read at a glance");
    }
}

#[test]
fn continuous_deployment() {
    let mut program = Program::start("continuous_deployment");
    let saved = "TRAIN COMPONENT: saved new checkpoint: /some/path/step=0_fake_loss=100000.0";
    let deployed = "DEPLOY COMPONENT: load new model from checkpoint: /some/path/step=0_fake_loss=100000.0";
    program.expect(&[STARTING, "step=0: fake_loss=100000.0", saved, deployed]);
    let port = program.port();
    let state = get(port, "/api/v1/state");
    assert!(state.starts_with("HTTP/1.1 200"), "{state}");
    let checkpoint = r#""train":{"last_checkpoint":"/some/path/step=0_fake_loss=100000.0"}"#;
    assert!(state.contains(checkpoint), "{state}");
    program.expect(&[saved, "step=1: fake_loss=1.0"]);
    assert_eq!(program.out[..3], [STARTING, "step=0: fake_loss=100000.0", saved]);
    program.ends_well_on_interrupt();
}

#[test]
fn share_variable() {
    let mut program = Program::start("share_variable");
    let story = [
        "MACHINE 1: this string came from machine 0: \"hello from machine 0\"",
        "MACHINE 1: this string is on machine 1",
    ];
    program.expect(&story);
    program.ends_well_on_interrupt();
    assert_eq!(program.out, [&[STARTING], &story[..], &[STOPPING, STOPPED]].concat());
}

#[test]
fn payload() {
    let mut program = Program::start("payload");
    let last = "serving embeddings sent from EmbeddingProcessor: [[1, 2, 3], [2, 3, 4]]";
    program.expect(&["PROCESSOR: Generating embeddings...", last]);
    program.ends_well_on_interrupt();
    assert!(
        program.out[2].starts_with("SERVER: Using embeddings from processor "),
        "{}",
        program.transcript()
    );
    assert_eq!(program.out.len(), 6, "{}", program.transcript());
}

#[test]
fn embeddings() {
    let arguments = ["--open-ui=false", "--port", "0", "--env", "EMBEDDINGS_MIB=16"];
    let mut program = Program::start_with("embeddings", &arguments);
    program.ends_well();
    let [first, second, ..] = &program.out[1..] else { panic!("{}", program.transcript()) };
    for (line, begins) in [(first, "SEARCH 1: found vector 12: "), (second, "SEARCH 2: found vector 34: ")] {
        let figures = line.strip_prefix(begins).and_then(|rest| rest.strip_prefix("16 MiB in "));
        let figures = figures.unwrap_or_else(|| panic!("{}", program.transcript()));
        let numbers = figures.replace(" s, ", " ").replace(" GB/s; peak memory ", " ").replace(" MiB", "");
        let numbers: Vec<f64> = numbers.split(' ').map(|number| number.parse().expect("a number")).collect();
        let [_seconds, rate, peak] = numbers[..] else { panic!("{figures}") };
        assert!(rate > 0.0 && peak >= 16.0, "{figures}");
    }
}

#[test]
fn share_files() {
    let drives = std::env::temp_dir().join(format!("flowright-example-{}", std::process::id()));
    let directory = drives.to_str().expect("valid UTF-8");
    let mut program =
        Program::start_with("share_files", &["--open-ui=false", "--port", "0", "--drive-dir", directory]);
    program.ends_well();
    let story = [
        STARTING,
        "TRAIN: the checkpoint is written",
        "DEPLOY: serves {\"layers\": 2} with 1000000 bytes in the last layer",
        "REPORT: deploy.txt: deployed 1 checkpoint",
        "REPORT: train.txt: trained 2 layers",
        STOPPED,
    ];
    assert_eq!(program.out, story, "{}", program.transcript());
    assert_eq!(std::fs::read_dir(drives.join("reports")).expect("the directory exists").count(), 0);
    std::fs::remove_dir_all(drives).expect("the directory belongs to the test");
}

#[test]
fn dynamic_works() {
    tells(
        "dynamic_works",
        &[
            "wave 1: workers [1]",
            "wave 1: built [1]",
            "wave 2: workers [1, 2, 3]",
            "wave 2: built [2, 1, 1]",
            "wave 3: workers [1, 2]",
            "wave 3: built [3, 2]",
        ],
    );
}

#[test]
fn sequential_and_parallel() {
    let mut program = Program::start("sequential_and_parallel");
    program.ends_well();
    for between in ["train", "index"] {
        let [begins, ends] = [format!("{between} begins"), format!("{between} ends")];
        let [first, last] = [["download begins", "download ends"], ["publish begins", "publish ends"]];
        program.expect(&[&first[..], &[&begins, &ends], &last].concat());
    }
    let mut times = HashMap::new();
    for line in &program.out {
        *times.entry(line.as_str()).or_insert(0) += 1;
    }
    assert!(times.values().all(|times| *times == 1) && times.len() == 10, "{}", program.transcript());
}

#[test]
fn schedule() {
    tells("schedule", &["report 1", "report 2", "report 3"]);
}

/// An unknown `TZ` is not treated as UTC: a schedule in local time fails, and the error names the remedy.
#[test]
fn schedule_with_an_unknown_tz_fails() {
    let output = Command::new(path_of("schedule"))
        .args(["--open-ui=false", "--port", "0"])
        .env("TZ", "Europe/Berln")
        .output()
        .expect("the example runs");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    for part in
        ["`TZ` is `Europe/Berln`, which is not a time zone", "did you mean `Europe/Berlin`?", "unset it"]
    {
        assert!(err.contains(part), "{part:?} is not in {err}");
    }
}

#[test]
fn supervision() {
    tells(
        "supervision",
        &[
            "FLAKY: attempt 1 fails",
            "FLAKY: attempt 2 fails",
            "FLAKY: attempt 3 succeeds",
            "HOPELESS: fails",
            "FLOW: hopeless failed (error): the disk is full",
            "FALLBACK: does it in memory",
        ],
    );
}

#[test]
fn ask_tell() {
    tells(
        "ask_tell",
        &[
            "CLIENT: 14 times 1 is 14",
            "CLIENT: 14 times 3 is 42",
            "FLOW: the client is done, the server is not",
        ],
    );
}

#[test]
fn nested_flows() {
    tells("nested_flows", &["wheels: made 4", "cars: made 1", "COMPANY: 1 car on 4 wheels"]);
}

/// The journal of a program, removed on drop.
struct Journal(PathBuf);

impl Journal {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("flowright-example-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }

    fn start(&self, name: &'static str) -> Program {
        let journal = self.0.to_str().expect("a path in UTF-8");
        Program::start_with(name, &["--open-ui=false", "--port", "0", "--journal", journal])
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Returns the number of lines that begin with `prefix`.
fn count(lines: &[String], prefix: &str) -> usize {
    lines.iter().filter(|line| line.starts_with(prefix)).count()
}

/// Killed and started again with its journal, the App deploys no checkpoint twice.
#[test]
fn continuous_deployment_with_a_journal() {
    let journal = Journal::new("deployment");
    let mut program = journal.start("continuous_deployment");
    program
        .expect(&["DEPLOY COMPONENT: load new model from checkpoint: /some/path/step=0_fake_loss=100000.0"]);
    let port = program.port();
    // What the API shows is durable.
    while !get(port, "/api/v1/works/model_deployment").contains(r#""succeeded":1"#) {}
    drop(program);
    let mut program = journal.start("continuous_deployment");
    program.expect(&["step=0: fake_loss=100000.0", "step=1: fake_loss=1.0"]);
    let resumed = program.err.iter().find(|line| line.starts_with("INFO: resumed at position")).cloned();
    let resumed = resumed.unwrap_or_else(|| panic!("{}", program.transcript()));
    assert!(resumed.ends_with("after an unclean end: 2 Works, 1 run under way starts again"), "{resumed}");
    program.ends_well_on_interrupt();
    assert_eq!(count(&program.out, "DEPLOY COMPONENT"), 0, "{}", program.transcript());
}

/// Killed and started again with its journal, the training goes on, and the dataset is prepared once.
#[test]
fn long_training() {
    let journal = Journal::new("training");
    let mut program = journal.start("long_training");
    program.expect(&["preparing the dataset, which is done once", "epoch 1 of 1000000 images: loss 1.0000"]);
    let port = program.port();
    while !get(port, "/api/v1/state").contains(r#""epoch":2"#) {}
    drop(program);
    let mut program = journal.start("long_training");
    program.expect(&["epoch 4 of 1000000 images: loss 0.2500"]);
    program.ends_well_on_interrupt();
    for done in ["preparing", "epoch 1 ", "epoch 2 "] {
        assert_eq!(count(&program.out, done), 0, "{done}: {}", program.transcript());
    }
}

/// Nodes are started for the trials, and all have ended with the App.
#[test]
fn fleet() {
    let group = ["--fleet", "process", "--fleet-set", "nodes=0..3", "--fleet-set", "brings.cpus=2"];
    let arguments = [&["--open-ui=false", "--port", "0"][..], &group].concat();
    let mut program = Program::start_with("fleet", &arguments);
    program.expect(&["the best of 12 trials has loss 0.1000"]);
    program.ends_well();
    let joined: Vec<_> = program.err.iter().filter(|line| line.contains("has joined, with 2 cpus")).collect();
    assert!((1..=3).contains(&joined.len()), "{}", program.transcript());
}

/// Asks the model of a server, and returns the response.
fn predict(port: u16, body: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the App is served");
    write!(
        stream,
        "POST /api/v1/works/server/messages/Predict HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("the server reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the server answers");
    answer
}

#[test]
fn model_server() {
    let mut program = Program::start("model_server");
    let port = program.port();
    while !get(port, "/readyz").contains("200 OK") {}
    let answer = predict(port, r#"{"x":[1.0,2.0]}"#);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(r#"{"y":5.0,"served":1}"#), "{answer}");
    program.ends_well_on_interrupt();
}

/// A replica is killed, a checkpoint is bad, and the service answers throughout.
#[test]
fn model_service() {
    let mut program = Program::start("model_service");
    let port = program.port();
    program.expect(&["TRAIN: checkpoint at step 20", "FLOW: version 1 is Serving"]);
    let asks = |version: u32| {
        let answer = predict(port, "3.0");
        let header = answer.lines().find_map(|line| line.strip_prefix("flowright-version: "));
        let answered = header.and_then(|header| header.trim().parse::<u32>().ok());
        assert!(answer.starts_with("HTTP/1.1 200") && answered >= Some(version), "{answer}");
    };
    asks(1);
    let replica = program.read_until("a replica", |program| {
        let line = program.out.iter().find(|line| line.starts_with("SERVE: process "))?;
        line.split(' ').nth(2).map(str::to_owned)
    });
    let killed = Command::new("kill").args(["-9", &replica]).status().expect("there is a command `kill`");
    assert!(killed.success());
    asks(1);
    program.expect(&["FLOW: version 3 is RolledBack: the checkpoint at step 60 is damaged"]);
    asks(2);
    program.expect(&["FLOW: version 4 is Serving"]);
    asks(4);
    program.ends_well_on_interrupt();
}

#[test]
fn embedded() {
    let mut program = Program::start_with("embedded", &[]);
    program.ends_well();
    let story = [
        "PROGRAM: the App runs",
        "PROGRAM: the counter says 3",
        "PROGRAM: the state is {\"counter\":{\"count\":3}}",
        "PROGRAM: the App has ended well, with the count at 3",
    ];
    assert_eq!(program.out, story);
}
