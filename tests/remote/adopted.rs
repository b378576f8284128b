//! Nodes that outlive their head: a head that is killed and started again with its journal takes over what they host.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flowright::Messages;
use flowright::prelude::*;

use crate::support::{Process, free_address, program, times, until};

crate::tests![
    head_started_again_adopts_works_on_nodes,
    run_that_ended_without_a_head_is_recorded_once,
    node_killed_with_its_head_loses_its_works,
    head_that_returns_too_late_finds_no_works,
    second_head_of_a_journal_is_refused,
];

/// Environment variable with the directory of the test.
const DIRECTORY: &str = "FLOWRIGHT_TEST_HANDS";
/// Environment variable with the grace period of nodes, in milliseconds.
const GRACE: &str = "FLOWRIGHT_TEST_GRACE";
/// Environment variable with the placement of `c`.
const PLACE: &str = "FLOWRIGHT_TEST_PLACE";

/// A grace period that no test exceeds.
const LONG: &str = "120000";

fn directory() -> PathBuf {
    std::env::var_os(DIRECTORY).expect("the test has set it").into()
}

/// Appends a line to the log of the test.
fn note(line: std::fmt::Arguments<'_>) {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(directory().join("log"));
    let line = format!("{line}\n");
    log.and_then(|mut log| log.write_all(line.as_bytes())).expect("the log can be written");
}

/// A Work that notes what it does in the log of the test.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Hand {
    /// Number of publishes.
    steps: u64,
    received: Vec<u32>,
    answer: Option<Vec<u32>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Errand {
    /// Publish until the file `go-PATH-NUMBER` exists.
    Wait(u32),
    /// Tell another Work some numbers, and ask it for all of them.
    Ask(WorkAddr<Hand>),
}

impl Work for Hand {
    type Input = Errand;

    async fn on_start(&mut self, cx: &mut WorkContext<Self>) -> Result<()> {
        note(format_args!("start {}", cx.path()));
        Ok(())
    }

    async fn run(&mut self, errand: Errand, cx: &mut WorkContext<Self>) -> Result<()> {
        match errand {
            Errand::Wait(number) => {
                note(format_args!("run {} {number}", cx.path()));
                let go = directory().join(format!("go-{}-{number}", cx.path()));
                while !go.exists() {
                    self.steps += 1;
                    cx.publish(self);
                    cx.sleep(self, Duration::from_millis(2)).await?;
                }
                note(format_args!("done {} {number}", cx.path()));
            }
            Errand::Ask(other) => {
                note(format_args!("run {} asks", cx.path()));
                other.tell(Shut).await?;
                for number in 1..=5 {
                    other.tell(Number(number)).await?;
                }
                note(format_args!("told {}", cx.path()));
                self.answer = Some(other.ask(Numbers).timeout(crate::process::LIMIT).await?);
                note(format_args!("done {} asks {:?}", cx.path(), self.answer));
            }
        }
        Ok(())
    }

    fn messages(messages: &mut Messages<Self>) {
        messages.accept::<Shut>().accept::<Number>().accept::<Numbers>();
    }
}

/// A message whose handler waits until the file `open` exists.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Shut;

impl Handle<Shut> for Hand {
    type Reply = ();

    async fn handle(&mut self, _: Shut, cx: &mut WorkContext<Self>) {
        note(format_args!("shut {}", cx.path()));
        while !directory().join("open").exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Number(u32);

impl Handle<Number> for Hand {
    type Reply = ();

    async fn handle(&mut self, Number(number): Number, _: &mut WorkContext<Self>) {
        self.received.push(number);
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Numbers;

impl Handle<Numbers> for Hand {
    type Reply = Vec<u32>;

    async fn handle(&mut self, _: Numbers, _: &mut WorkContext<Self>) -> Vec<u32> {
        self.received.clone()
    }
}

/// `a` and `b` on the node `n`, `c` there or elsewhere; `c` asks `b`.
#[derive(Serialize, Children)]
pub(crate) struct Hands {
    a: WorkRef<Hand>,
    b: WorkRef<Hand>,
    c: WorkRef<Hand>,
}

impl Flow for Hands {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        let asked = self.c.run(Errand::Ask(self.b.addr()));
        let waits = [&mut self.a, &mut self.b].map(|hand| {
            hand.run(Errand::Wait(1)).finished()?;
            hand.run(Errand::Wait(2)).finished().map(drop)
        });
        for waits in waits {
            waits?;
        }
        let answer = asked.finished()?.answer.clone();
        note(format_args!("over {answer:?}"));
        cx.stop("everything is done");
        Ok(())
    }
}

pub(crate) fn hands() -> App {
    let placed =
        |place: &str| WorkRef::from(Hand::default()).placed(place.parse().expect("the placement is valid"));
    let grace = std::env::var(GRACE).ok().and_then(|grace| grace.parse().ok()).unwrap_or(60_000);
    App::new(move || Hands {
        a: placed("n"),
        b: placed("n/pool"),
        c: placed(&std::env::var(PLACE).unwrap_or_else(|_| "m".to_owned())),
    })
    .config(times(500, grace))
}

/// The processes of a test, and its directory.
struct Site {
    directory: PathBuf,
    address: String,
    grace: &'static str,
}

impl Site {
    fn new(grace: &'static str) -> Self {
        // Each test has a process of its own.
        let directory = std::env::temp_dir().join(format!("flowright-adopted-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("there is room for a directory");
        Self { directory, address: free_address(), grace }
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = program("hands");
        command.args(arguments).env(DIRECTORY, &self.directory).env(GRACE, self.grace);
        command
    }

    fn head(&self) -> Process {
        let journal = self.directory.join("journal");
        let mut command = self.command(&["--open-ui=false", "--without-server", "--listen", &self.address]);
        command.arg("--journal").arg(journal);
        Process::start(command)
    }

    fn node(&self, name: &str) -> Process {
        Process::start(self.command(&["node", "--join", &self.address, "--name", name]))
    }

    fn path(&self, file: &str) -> PathBuf {
        self.directory.join(file)
    }

    fn touch(&self, file: &str) {
        std::fs::write(self.path(file), "").expect("the file can be written");
    }

    fn log(&self) -> Vec<String> {
        read(&self.path("log")).lines().map(str::to_owned).collect()
    }

    /// Waits until the log has a line.
    #[track_caller]
    fn wait(&self, line: &str) {
        until(line, || self.log().iter().any(|noted| noted == line));
    }

    /// The number of times that the log has a line.
    fn count(&self, line: &str) -> usize {
        self.log().iter().filter(|noted| *noted == line).count()
    }

    /// Checks that each of these lines is in the log once.
    #[track_caller]
    fn once(&self, lines: &[&str]) {
        let mut wrong = String::new();
        for line in lines.iter().filter(|line| self.count(line) != 1) {
            let _ = writeln!(wrong, "{line}: {} times", self.count(line));
        }
        assert!(wrong.is_empty(), "{wrong}in {:#?}", self.log());
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // The directory is temporary anyway.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Starts a head and its nodes, and waits until all Works are busy and messages wait in the mailbox of `b`.
fn busy(site: &Site) -> (Process, Process, Process) {
    let (head, n) = (site.head(), site.node("n"));
    for line in ["run a 1", "run b 1"] {
        site.wait(line);
    }
    // Only now, since a Work that waits for a node refuses messages.
    let m = site.node("m");
    for line in ["told c", "shut b"] {
        site.wait(line);
    }
    (head, n, m)
}

const ALL_ONCE: &[&str] = &[
    "start a",
    "start b",
    "start c",
    "run a 1",
    "done a 1",
    "run a 2",
    "done a 2",
    "run b 1",
    "done b 1",
    "run b 2",
    "done b 2",
    "run c asks",
    "shut b",
    "done c asks Some([1, 2, 3, 4, 5])",
    "over Some([1, 2, 3, 4, 5])",
];

/// Lets all Works end, and checks that the App ends well.
fn finish(site: &Site, head: Process) {
    ["open", "go-a-1", "go-a-2", "go-b-1", "go-b-2"].into_iter().for_each(|file| site.touch(file));
    let (code, lines) = head.end();
    assert_eq!(code, Some(0), "{lines:#?}\n{:#?}", site.log());
}

/// A head that is killed again and again while its Works publish finds them running: none is started again, no run is
/// repeated, and the messages that wait in a mailbox are handled.
fn head_started_again_adopts_works_on_nodes() {
    let site = Site::new(LONG);
    let (mut head, mut n, mut m) = busy(&site);
    for number in 2..=4 {
        head.signal("KILL");
        n.expect_again("the Works here go on");
        m.expect_again("the Works here go on");
        head = site.head();
        head.expect("adopted 2 Works on node `n`");
        head.expect("adopted 1 Work on node `m`");
        n.expect_again(&format!("as number {number}"));
        m.expect_again(&format!("as number {number}"));
    }
    finish(&site, head);
    site.once(ALL_ONCE);
}

/// Runs that succeed while there is no head are recorded when it returns, once, and the next runs follow.
fn run_that_ended_without_a_head_is_recorded_once() {
    let site = Site::new(LONG);
    let (head, _n, _m) = busy(&site);
    head.signal("KILL");
    drop(head);
    for file in ["open", "go-a-1", "go-b-1"] {
        site.touch(file);
    }
    for line in ["done a 1", "done b 1", "done c asks Some([1, 2, 3, 4, 5])"] {
        site.wait(line);
    }
    let mut head = site.head();
    head.expect("adopted 2 Works on node `n`");
    site.wait("run a 2");
    finish(&site, head);
    site.once(ALL_ONCE);
}

/// Works on a node that is killed together with its head are launched again, those on another node are adopted.
fn node_killed_with_its_head_loses_its_works() {
    let site = Site::new(LONG);
    let (head, n, _m) = busy(&site);
    head.signal("KILL");
    n.signal("KILL");
    drop((head, n));
    let mut head = site.head();
    head.expect("adopted 1 Work on node `m`");
    let _n = site.node("n");
    head.expect("node `n` has returned without 2 Works");
    until("both start again", || site.count("run a 1") == 2 && site.count("run b 1") == 2);
    site.touch("open");
    for file in ["go-a-1", "go-a-2", "go-b-1", "go-b-2"] {
        site.touch(file);
    }
    site.wait("done a 2");
    site.wait("done b 2");
    site.once(&["start c", "run c asks", "done a 1", "run a 2", "run b 2", "done b 1"]);
    assert_eq!((site.count("start a"), site.count("start b")), (2, 2));
}

/// A node ends its Works when the head does not return within the grace period, and the head launches them again.
fn head_that_returns_too_late_finds_no_works() {
    let site = Site::new("10000");
    let (head, mut n, _m) = busy(&site);
    head.signal("KILL");
    drop(head);
    n.expect("its Works here have been ended");
    let mut head = site.head();
    head.expect("node `n` has returned without 2 Works");
    until("they start again", || site.count("start a") == 2 && site.count("start b") == 2);
    finish(&site, head);
    site.once(&["done a 1", "done b 1", "run a 2", "run b 2", "done a 2", "done b 2"]);
}

/// A head that hangs keeps its journal, so that another one is refused with its process number; the first one goes on.
fn second_head_of_a_journal_is_refused() {
    let site = Site::new(LONG);
    let (head, _n, _m) = busy(&site);
    head.signal("STOP");
    let (code, lines) = site.head().end();
    head.signal("CONT");
    let pid = head.id().to_string();
    assert!(code != Some(0) && lines.iter().any(|line| line.contains(&pid)), "{code:?} {lines:#?}");
    finish(&site, head);
    site.once(ALL_ONCE);
}
