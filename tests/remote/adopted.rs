//! Nodes and processes that outlive their head: a head that is killed and started again with its journal takes over what
//! they host.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flowright::prelude::*;
use flowright::{Backlog, Messages};

use crate::support::{Process, free_address, has_ended, program, signal, times, until, until_gone};

crate::tests![
    head_started_again_adopts_works_on_nodes,
    launch_on_a_node_is_recorded_at_once,
    run_that_ended_without_a_head_is_recorded_once,
    subscriptions_outlive_their_head,
    node_killed_with_its_head_loses_its_works,
    head_that_returns_too_late_finds_no_works,
    second_head_of_a_journal_is_refused,
    head_started_again_adopts_works_in_processes,
    process_killed_without_a_head_is_started_again,
    process_that_does_not_return_is_killed_and_replaced,
    process_that_has_not_joined_is_replaced_without_an_error,
    process_ends_when_no_head_returns_in_time,
    orderly_end_of_a_recorded_head_leaves_no_process,
    output_without_a_head_neither_fails_nor_waits,
    journal_with_a_long_path_keeps_its_processes,
    new_build_of_a_version_adopts_processes,
    new_build_without_a_version_replaces_processes,
    head_with_an_older_journal_adopts_no_process,
];

/// Environment variable with the directory of the test.
const DIRECTORY: &str = "FLOWRIGHT_TEST_HANDS";
/// Environment variable with the grace period of nodes, in milliseconds.
const GRACE: &str = "FLOWRIGHT_TEST_GRACE";
/// Environment variable with the version of the program.
const VERSION: &str = "FLOWRIGHT_TEST_VERSION";
/// Environment variable with the placements of `a`, `b` and `c`.
const PLACES: &str = "FLOWRIGHT_TEST_PLACES";
/// Environment variable with the path of a file for which processes of Works wait before they begin.
const HELD: &str = "FLOWRIGHT_TEST_HELD";

/// Number of lines that are more than a process keeps without a head.
const FLOOD: u32 = 4_000;

/// The token of an App whose nodes join at another address than that of its head.
const TOKEN: &str = "a token that only the processes of a test know";

/// A grace period that no test exceeds.
pub(crate) const LONG: &str = "120000";

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
        note(format_args!("{} is {}", cx.path(), std::process::id()));
        while directory().join("hold").exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    async fn run(&mut self, errand: Errand, cx: &mut WorkContext<Self>) -> Result<()> {
        match errand {
            Errand::Wait(number) => {
                note(format_args!("run {} {number}", cx.path()));
                let go = directory().join(format!("go-{}-{number}", cx.path()));
                let mut said = String::new();
                let mut published = String::new();
                let gossip = match directory().join("gossip").exists() {
                    true => Some(cx.topic("gossip").await?),
                    false => None,
                };
                if let Some(gossip) = &gossip {
                    cx.subscribe(gossip, Backlog::of(1000)).await?;
                    note(format_args!("subscribed {}", cx.path()));
                }
                while !go.exists() {
                    let number = read(&directory().join(format!("publish-{}", cx.path())));
                    if number != published
                        && let (Some(gossip), Ok(number)) = (&gossip, number.parse())
                    {
                        gossip.publish(Gossip(number))?;
                        published = number.to_string();
                    }
                    let words = read(&directory().join("say"));
                    if words != said {
                        speak(cx.path().as_str(), &words);
                        said = words;
                    }
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

/// Prints words, or very much if they are `flood`.
fn speak(path: &str, words: &str) {
    if words == "flood" {
        for number in 0..FLOOD {
            println!("{path} says {number:01000}");
        }
    }
    println!("{path} says {words}");
    note(format_args!("{path} has said {words}"));
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

/// A message of a topic, which is noted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Gossip(u32);

impl Handle<Gossip> for Hand {
    type Reply = ();

    async fn handle(&mut self, Gossip(number): Gossip, cx: &mut WorkContext<Self>) {
        note(format_args!("{} has heard {number}", cx.path()));
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

/// `a` and `b` on the node `n`, `c` on `m`, or all elsewhere; `c` asks `b`.
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
    let places = std::env::var(PLACES).unwrap_or_else(|_| "n n/pool m".to_owned());
    let app = App::new(move || {
        let mut places = places.split(' ').map(placed);
        let mut next = || places.next().expect("there are three places");
        Hands { a: next(), b: next(), c: next() }
    });
    let app = match std::env::var(VERSION) {
        Ok(version) => app.version(version),
        Err(_) => app,
    };
    let app = if std::env::var_os(HELD).is_some() { app.process(held) } else { app };
    app.config(times(500, grace))
}

/// A command that runs this binary once a file exists.
fn held() -> std::io::Result<std::process::Command> {
    let file = std::env::var_os(HELD).unwrap_or_default();
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "while [ ! -e \"$0\" ]; do sleep 0.01; done; exec \"$@\""]).arg(file);
    command.arg(std::env::current_exe()?);
    Ok(command)
}

/// The processes of a test, and its directory.
pub(crate) struct Site {
    directory: PathBuf,
    /// The address of the head.
    pub(crate) address: String,
    /// The address at which nodes join.
    pub(crate) joining: String,
    grace: &'static str,
    places: &'static str,
    journal: PathBuf,
    /// The version of the program; without one, builds are compared.
    version: Option<&'static str>,
    /// Another build of the program, which is started from now on.
    build: Option<PathBuf>,
    /// True if the processes of Works wait for the file `go`.
    is_held: bool,
}

impl Site {
    /// A site whose `a` and `b` have processes of their own, and whose `c` is in the head.
    fn with_processes(grace: &'static str) -> Self {
        let mut site = Self::new(grace);
        site.places = "process process thread";
        site
    }

    pub(crate) fn new(grace: &'static str) -> Self {
        // Each test has a process of its own.
        let directory = std::env::temp_dir().join(format!("flowright-adopted-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("there is room for a directory");
        let (journal, address) = (directory.join("journal"), free_address());
        let joining = address.clone();
        let (places, version, build, is_held) = ("n n/pool m", None, None, false);
        Self { directory, address, joining, grace, places, journal, version, build, is_held }
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = program("hands");
        if let Some(build) = &self.build {
            command = std::process::Command::new(build);
            command.env(crate::support::VARIABLE, "hands").env_remove("FLOWRIGHT_TOKEN");
        }
        command.envs(self.version.map(|version| (VERSION, version)));
        command.envs(self.is_held.then(|| (HELD, self.path("go"))));
        command.args(arguments).env(DIRECTORY, &self.directory).env(GRACE, self.grace);
        command.env(PLACES, self.places);
        // The token of a head is found by its address, and nodes may join at another one.
        if self.joining != self.address {
            command.env("FLOWRIGHT_TOKEN", TOKEN);
        }
        command
    }

    pub(crate) fn head(&self) -> Process {
        self.head_at(&self.address, &self.journal)
    }

    /// Starts a head at this address, with the journal in this directory.
    pub(crate) fn head_at(&self, address: &str, journal: &Path) -> Process {
        let mut command = self.command(&["--open-ui=false", "--port", "0", "--listen", address]);
        command.arg("--journal").arg(journal);
        Process::start(command)
    }

    /// Makes another build of the program: bytes behind its end do not change what it does.
    fn rebuild(&mut self) {
        let build = self.path("build");
        let this = std::env::current_exe().expect("the path of the test binary is known");
        std::fs::copy(this, &build).expect("there is room for another build");
        let mut file =
            std::fs::OpenOptions::new().append(true).open(&build).expect("the copy can be written");
        file.write_all(b"another build").expect("there is room for another build");
        self.build = Some(build);
    }

    fn node(&self, name: &str) -> Process {
        Process::start(self.command(&["node", "--join", &self.joining, "--name", name]))
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
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

    /// Waits until the log has a line this many times.
    #[track_caller]
    fn wait_for(&self, number: usize, line: &str) {
        until(line, || self.count(line) == number);
    }

    /// The process of the last incarnation of a Work.
    fn process_of(&self, path: &str) -> u32 {
        let begin = format!("{path} is ");
        let log = self.log();
        let mut ids = log.iter().filter_map(|line| line.strip_prefix(&begin)?.parse().ok());
        ids.next_back().expect("the Work has started")
    }

    /// Has `a` and `b` print words, and waits until they have.
    #[track_caller]
    fn say(&self, words: &str) {
        // Renamed, so that no part is read.
        std::fs::write(self.path("next"), words).expect("the file can be written");
        std::fs::rename(self.path("next"), self.path("say")).expect("the file can be renamed");
        self.wait(&format!("a has said {words}"));
    }

    /// Checks that each of these lines is in the log once.
    #[track_caller]
    pub(crate) fn once(&self, lines: &[&str]) {
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

/// Starts a head whose `a` and `b` have processes of their own, and waits until all Works are busy and messages wait in the
/// mailbox of `b`.
fn busy_processes(site: &Site) -> Process {
    let mut head = site.head();
    for line in ["run a 1", "run b 1", "told c", "shut b"] {
        site.wait(line);
    }
    // What was sent before has been written by then.
    site.say("the first words");
    head.expect("a says the first words");
    head
}

/// Checks that the processes of `a` and `b` have ended, and that no files of theirs are left.
#[track_caller]
fn nothing_is_left(site: &Site) {
    for path in ["a", "b"] {
        until_gone(site.process_of(path));
    }
    assert!(!site.journal.join("processes").exists());
}

/// Starts a head and its nodes, and waits until all Works are busy and messages wait in the mailbox of `b`.
pub(crate) fn busy(site: &Site) -> (Process, Process, Process) {
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

pub(crate) const ALL_ONCE: &[&str] = &[
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

/// Lets all Works end, and checks that the App ends well. Returns what the head has said.
pub(crate) fn finish(site: &Site, head: Process) -> Vec<String> {
    ["open", "go-a-1", "go-a-2", "go-b-1", "go-b-2"].into_iter().for_each(|file| site.touch(file));
    let (code, lines) = head.end();
    assert_eq!(code, Some(0), "{lines:#?}\n{:#?}", site.log());
    lines
}

/// Returns the answer of a head to a GET request, with its headers.
fn answer(head: &mut Process, path: &str) -> String {
    let line = head.expect("View it in your browser: http://");
    let address =
        line.split("http://").nth(1).and_then(|url| url.split('/').next()).expect("it has an address");
    let mut stream = TcpStream::connect(address).expect("the head serves its API");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("the head reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the head answers");
    answer
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
    let metrics = answer(&mut head, "/metrics");
    let value = |name: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|value| value.trim().parse::<f64>().ok()).unwrap_or_else(|| panic!("{name}: {metrics}"))
    };
    assert_eq!(value("flowright_adopted_works_total "), 3.0);
    assert!(value("flowright_adoption_seconds ") > 0.0);
    finish(&site, head);
    site.once(ALL_ONCE);
}

/// A Work that a node has begun to start is found there by the next head, also if nothing was recorded after its launch.
fn launch_on_a_node_is_recorded_at_once() {
    let mut site = Site::new(LONG);
    // Those on the head report nothing either. A node that joins has no other Work that waits for one.
    site.places = "n thread thread";
    site.touch("hold");
    let mut head = site.head();
    // It is recorded that `a` waits for its node, and nothing else is to be.
    let mut recorded = 0_u64;
    until("a head that waits for a node", || {
        let status = answer(&mut head, "/api/v1/status");
        let (_, journal) = status.split_once("\"journal\":{\"position\":").expect("it has a journal");
        let journal = journal.split('}').next().unwrap_or_default();
        recorded = journal.split(',').next().and_then(|number| number.parse().ok()).expect("a number");
        status.contains("waits for node `n`") && journal.contains("\"waiting\":0,")
    });
    let mut n = site.node("n");
    site.wait("start a");
    // The decision to launch it, and its node: it reports nothing while it starts.
    let noted = || {
        let note = read(&site.journal.join("journal.lock"));
        note.split_ascii_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
    };
    until("the record of the launch", || noted() >= recorded + 2);
    head.signal("KILL");
    drop(head);
    n.expect_again("the Works here go on");
    let mut head = site.head();
    head.expect("adopted 1 Work on node `n`");
    std::fs::remove_file(site.path("hold")).expect("it is there");
    site.wait("run a 1");
    site.once(&["start a", "run a 1"]);
}

/// Nodes tell a head that is started again of their subscriptions: what one of them publishes reaches the other as before.
fn subscriptions_outlive_their_head() {
    let mut site = Site::new(LONG);
    site.places = "n m k";
    ["gossip", "open"].iter().for_each(|file| site.touch(file));
    let mut head = site.head();
    let (mut n, mut m) = (site.node("n"), site.node("m"));
    ["subscribed a", "subscribed b"].iter().for_each(|line| site.wait(line));
    // It asks `b`, which runs now.
    let _k = site.node("k");
    site.wait("done c asks Some([1, 2, 3, 4, 5])");
    let mut number = 0;
    for life in 2..=3 {
        let before = number;
        until("a message of the other node", || {
            // Those that were published before a node had told the head of its subscription are not owed.
            number += 1;
            std::fs::write(site.path("publish-new"), number.to_string()).expect("the file can be written");
            std::fs::rename(site.path("publish-new"), site.path("publish-a")).expect("it is there");
            std::thread::sleep(Duration::from_millis(20));
            (before + 1..=number).any(|number| site.count(&format!("b has heard {number}")) > 0)
        });
        head.signal("KILL");
        n.expect_again("the Works here go on");
        m.expect_again("the Works here go on");
        head = site.head();
        head.expect("adopted 1 Work on node `n`");
        head.expect("adopted 1 Work on node `m`");
        n.expect_again(&format!("as number {life}"));
        m.expect_again(&format!("as number {life}"));
    }
    for number in 1..=number {
        for hand in ["a", "b"] {
            assert!(site.count(&format!("{hand} has heard {number}")) <= 1, "{:?}", site.log());
        }
    }
    for file in ["go-a-1", "go-b-1", "go-a-2", "go-b-2"] {
        site.touch(file);
    }
    until("the end of the App", || site.log().iter().any(|line| line.starts_with("over ")));
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

/// What is in the log once where only `c`, which is in the head, starts again.
const KEPT_ONCE: &[&str] = &[
    "start a", "start b", "run a 1", "done a 1", "run a 2", "done a 2", "run b 1", "done b 1", "run b 2",
    "done b 2", "shut b",
];

/// A head that is killed again and again finds the processes of its Works: none is started again, no run is repeated, the
/// messages that wait in a mailbox are handled, and nothing that is printed is lost, with a head or without one.
fn head_started_again_adopts_works_in_processes() {
    let site = Site::with_processes(LONG);
    let mut head = busy_processes(&site);
    for number in 2..=4 {
        // Waited for, since the other threads of a process hold its files after the first has ended.
        drop(head);
        site.say(&format!("alone {number}"));
        head = site.head();
        head.expect("adopted work `a` in its own process");
        head.expect("adopted work `b` in its own process");
        head.expect(&format!("a says alone {number}"));
        site.wait_for(number, "told c");
        site.say(&format!("together {number}"));
        head.expect(&format!("a says together {number}"));
    }
    finish(&site, head);
    let (once, shut) = KEPT_ONCE.split_at(KEPT_ONCE.len() - 1);
    site.once(once);
    // Each run of `c` sends the messages again.
    assert_eq!(site.count(shut[0]), 4);
    let all = (0..4).flat_map(|_| 1..=5).collect::<Vec<_>>();
    site.once(&[&format!("done c asks Some({all:?})")]);
    nothing_is_left(&site);
}

/// A Work whose process is killed while no head is there starts again, and the other is adopted.
fn process_killed_without_a_head_is_started_again() {
    let site = Site::with_processes(LONG);
    let head = busy_processes(&site);
    drop(head);
    let process = site.process_of("a");
    signal(process, "KILL");
    until_gone(process);
    let mut head = site.head();
    head.expect("adopted work `b` in its own process");
    site.wait_for(2, "run a 1");
    finish(&site, head);
    site.once(&["start b", "run b 1", "done a 1", "run a 2", "done b 2"]);
    assert_eq!(site.count("start a"), 2);
    nothing_is_left(&site);
}

/// A process that is suspended does not return, and is killed before its Work starts again.
fn process_that_does_not_return_is_killed_and_replaced() {
    let site = Site::with_processes("8000");
    let head = busy_processes(&site);
    drop(head);
    // Only now: a stopped process would continue when its parent ends.
    let process = site.process_of("a");
    signal(process, "STOP");
    let mut head = site.head();
    head.expect("adopted work `b` in its own process");
    head.expect("the process of work `a` has not returned");
    until_gone(process);
    site.wait_for(2, "run a 1");
    finish(&site, head);
    site.once(&["start b", "run b 1", "done a 1", "run a 2", "done b 2"]);
    nothing_is_left(&site);
}

/// A process whose head is killed before it has joined has no Work: it ends when it comes to the next head, which starts
/// the Work in another one. Nothing is wrong with that, and nobody is told that it is.
fn process_that_has_not_joined_is_replaced_without_an_error() {
    let mut site = Site::with_processes(LONG);
    site.is_held = true;
    let head = site.head();
    let records = || {
        let files = std::fs::read_dir(site.journal.join("processes")).into_iter().flatten().flatten();
        files.filter(|file| file.path().extension().is_some_and(|extension| extension == "json")).count()
    };
    until("both processes are recorded", || records() == 2);
    drop(head);
    site.is_held = false;
    let mut head = site.head();
    head.expect("View it in your browser");
    site.touch("go");
    for line in ["run a 1", "run b 1"] {
        site.wait(line);
    }
    let lines = finish(&site, head);
    let alarms: Vec<_> =
        lines.iter().filter(|line| line.contains("ERROR") || line.contains("refused")).collect();
    assert!(alarms.is_empty(), "{alarms:#?} in {lines:#?}");
    site.once(&["start a", "start b", "run a 1", "done a 1", "run b 1", "done b 1"]);
    nothing_is_left(&site);
}

/// Processes end when no head returns within the grace period, and the next one starts their Works again.
fn process_ends_when_no_head_returns_in_time() {
    let site = Site::with_processes("4000");
    let head = busy_processes(&site);
    head.signal("KILL");
    drop(head);
    for path in ["a", "b"] {
        until_gone(site.process_of(path));
    }
    let head = site.head();
    for line in ["start a", "start b", "run a 1", "run b 1"] {
        site.wait_for(2, line);
    }
    finish(&site, head);
    site.once(&["done a 1", "done b 1", "run a 2", "run b 2"]);
    nothing_is_left(&site);
}

/// A head with a journal that is asked to end takes the processes of its Works with it.
fn orderly_end_of_a_recorded_head_leaves_no_process() {
    let site = Site::with_processes(LONG);
    let head = busy_processes(&site);
    site.touch("open");
    head.signal("TERM");
    let (code, lines) = head.end();
    assert_eq!(code, Some(0), "{lines:#?}");
    nothing_is_left(&site);
}

/// A Work that prints more without a head than is kept goes on, and the next head has the end of it.
fn output_without_a_head_neither_fails_nor_waits() {
    let site = Site::with_processes(LONG);
    let head = busy_processes(&site);
    drop(head);
    site.say("flood");
    site.say("more");
    let mut head = site.head();
    head.expect("adopted work `a` in its own process");
    head.expect("a says more");
    head.expect("bytes that were printed without a head were dropped");
    finish(&site, head);
    site.once(&KEPT_ONCE[..KEPT_ONCE.len() - 1]);
    nothing_is_left(&site);
}

/// The sockets of a journal with a long path are elsewhere, at a path that the next head finds.
fn journal_with_a_long_path_keeps_its_processes() {
    let mut site = Site::with_processes(LONG);
    let long = "a-directory-whose-path-leaves-no-room-for-the-name-of-a-socket-in-it-wherever-it-may-be";
    std::fs::create_dir(site.directory.join(long)).expect("the directory is new");
    site.journal = site.directory.join(long).join("journal");
    let head = busy_processes(&site);
    let sockets =
        std::fs::read_link(site.journal.join("processes/sockets")).expect("the sockets are elsewhere");
    drop(head);
    let mut head = site.head();
    head.expect("adopted work `a` in its own process");
    head.expect("adopted work `b` in its own process");
    assert!(sockets.join("head.sock").exists());
    finish(&site, head);
    site.once(&KEPT_ONCE[..KEPT_ONCE.len() - 1]);
    nothing_is_left(&site);
    assert!(!sockets.exists());
}

/// A head of another build with the same version takes over the processes that the build before has started.
fn new_build_of_a_version_adopts_processes() {
    let mut site = Site::with_processes(LONG);
    site.version = Some("1.0.0");
    let head = busy_processes(&site);
    drop(head);
    site.rebuild();
    let mut head = site.head();
    head.expect("adopted work `a` in its own process");
    head.expect("adopted work `b` in its own process");
    site.say("the words for a new build");
    head.expect("a says the words for a new build");
    finish(&site, head);
    site.once(&KEPT_ONCE[..KEPT_ONCE.len() - 1]);
    nothing_is_left(&site);
}

/// Checks that the processes of `a` and `b`, which the head refuses, end before their Works start again.
#[track_caller]
fn replaced(site: &Site, head: Process, before: [u32; 2]) {
    for (path, process) in ["a", "b"].into_iter().zip(before) {
        site.wait_for(2, &format!("start {path}"));
        assert!(has_ended(process), "two processes have work `{path}`");
        site.wait_for(2, &format!("run {path} 1"));
    }
    finish(site, head);
    site.once(&["done a 1", "done b 1", "run a 2", "run b 2", "done a 2", "done b 2"]);
    nothing_is_left(site);
}

/// A head of another build cannot know that it understands the processes that were started before: it waits for them in
/// vain, and starts their Works again from their last durable states.
fn new_build_without_a_version_replaces_processes() {
    let mut site = Site::with_processes("8000");
    let head = busy_processes(&site);
    let before = ["a", "b"].map(|path| site.process_of(path));
    drop(head);
    site.rebuild();
    let mut head = site.head();
    head.expect("the process of work `a` has not returned");
    head.expect("the process of work `b` has not returned");
    replaced(&site, head, before);
}

/// A head with a journal that was brought back from before other heads is an older one for the processes that know
/// these: it adopts none of them, and none of them goes on beside it.
fn head_with_an_older_journal_adopts_no_process() {
    const FILES: [&str; 3] = ["journal.db", "journal.db-wal", "journal.lock"];
    let site = Site::with_processes("12000");
    let head = busy_processes(&site);
    drop(head);
    std::fs::create_dir(site.path("older")).expect("nothing has that name");
    let copy = |from: &Path, to: &Path| {
        for file in FILES {
            let _ = std::fs::remove_file(to.join(file));
            if from.join(file).exists() {
                std::fs::copy(from.join(file), to.join(file)).expect("the disk has room");
            }
        }
    };
    copy(&site.journal, &site.path("older"));
    for _ in 2..=3 {
        let mut head = site.head();
        head.expect("adopted work `a` in its own process");
        head.expect("adopted work `b` in its own process");
        drop(head);
    }
    let before = ["a", "b"].map(|path| site.process_of(path));
    copy(&site.path("older"), &site.journal);
    let mut head = site.head();
    head.expect("the process of work `a` has not returned");
    head.expect("the process of work `b` has not returned");
    assert!(head.seen.iter().all(|line| !line.contains("adopted work")), "{:#?}", head.seen);
    replaced(&site, head, before);
}
