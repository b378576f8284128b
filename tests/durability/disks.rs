//! Disks that are full, and writes that fail.
//!
//! A small disk is mounted in a namespace of the test's own, which takes root or user namespaces: where neither is
//! allowed the test is shown as ignored, and with the feature `network-tests` it fails. Writes fail for good where a file
//! would be larger than the process may make one.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};

use serde_json::Value as Json;

use crate::belt;
use crate::editions::{Directory, Shop, begun, line, start, start_limited};
use crate::follower::follow;
use crate::http::Answer;
use crate::process::{LIMIT, Process};
use crate::record::{self, Line, What};

crate::tests![exit_code_waits_for_the_last_commit, runs_do_not_start_before_a_commit_that_fails,];

/// First argument of a process that conducts the test in its namespace; the directory follows.
pub(crate) const CONDUCT: &str = "conduct-full-disk";

/// Ways of getting a namespace for mounts.
const NAMESPACES: [&[&str]; 2] = [&["--mount"], &["--user", "--map-root-user", "--mount"]];

fn namespace() -> Option<&'static [&'static str]> {
    let can = |arguments: &&[&str]| {
        let script = ["sh", "-c", "mount -t tmpfs -o size=1m tmpfs /tmp"];
        let tried = Command::new("unshare").args(*arguments).args(script).output();
        tried.is_ok_and(|output| output.status.success())
    };
    NAMESPACES.into_iter().find(can)
}

/// The test, ignored where there can be no namespace for it.
pub(crate) fn trial() -> Trial {
    let namespace = namespace();
    let is_ignored = namespace.is_none() && !cfg!(feature = "network-tests");
    let test = move || {
        let arguments = namespace.ok_or("`unshare --mount` fails, as root and with a user namespace")?;
        run(arguments)
    };
    Trial::test("disks::full_disk_stops_what_leaves_and_nothing_else", test).with_ignored_flag(is_ignored)
}

fn run(namespace: &[&str]) -> Result<(), Failed> {
    let directory = Directory::new("disk");
    let mut command = Command::new("unshare");
    command.args(namespace).arg(std::env::current_exe()?).arg(CONDUCT).arg(&*directory);
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned().into())
}

/// Conducts the test; a panic is its failure.
pub(crate) fn conduct(directory: &Path) -> ExitCode {
    let disk = directory.join("journal");
    std::fs::create_dir(&disk).expect("the directory is new");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=6m", "tmpfs"]).arg(&disk).status();
    assert!(mounted.is_ok_and(|status| status.success()), "the namespace is for this");
    let stage = Stage { directory: directory.to_owned(), filler: disk.join("filler") };
    stage.app_goes_on_when_there_is_room();
    stage.killed_app_goes_on();
    stage.stopped_app_says_what_is_lost();
    ExitCode::SUCCESS
}

struct Stage {
    directory: PathBuf,
    /// A file that fills the disk.
    filler: PathBuf,
}

impl Stage {
    fn start(&self) -> Process {
        start("belt", &self.directory)
    }

    fn lines(&self) -> Vec<Line> {
        record::read(&self.directory.join("record"))
    }

    /// The number of lines of the Work whose runs follow each other, or of the steps of the other one.
    fn count(&self, what: What) -> usize {
        let path = if what == What::Step { "walker" } else { "chain" };
        self.lines().iter().filter(|line| line.what == what && line.path == path).count()
    }

    /// Waits until bodies have done this `more` times.
    fn until_more(&self, what: What, more: usize) {
        let (before, deadline) = (self.count(what), Instant::now() + LIMIT);
        while self.count(what) < before + more {
            assert!(Instant::now() < deadline, "there is no further {what:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Fills the disk, and waits until the App says so.
    fn fill(&self, app: &mut Process) {
        self.until_more(What::Step, 20);
        self.fill_disk();
        app.expect_again("no run or Work is started");
    }

    fn fill_disk(&self) {
        let mut filler =
            OpenOptions::new().create(true).append(true).open(&self.filler).expect("there is room");
        while filler.write_all(&[0; 4096]).is_ok() {}
        while filler.write_all(&[0]).is_ok() {}
    }

    fn make_room(&self) {
        std::fs::remove_file(&self.filler).expect("the disk was filled");
    }

    /// Works keep running while the disk is full; nothing starts, is answered or is shown.
    fn app_goes_on_when_there_is_room(&self) {
        let mut shop = Shop::open("belt", &self.directory);
        let shown = AtomicU64::new(0);
        std::thread::scope(|scope| {
            let (shown, address) = (&shown, shop.address());
            scope.spawn(move || {
                let steps =
                    |document: &Json| document["state"]["walker"]["steps"].as_u64().unwrap_or_default();
                // The connection ends with the App.
                follow(&address, |document| shown.store(steps(document), Ordering::Relaxed))
                    .expect("it is served");
            });
            for _ in 0..2 {
                self.fill(&mut shop.process);
                // What had left before begins and is shown within this time.
                self.until_more(What::Step, 30);
                let (begun, seen) = (self.count(What::Begin), shown.load(Ordering::Relaxed));
                for (path, answer) in
                    [("state", shop.try_get("state")), ("stop", shop.post("works/chain/stop"))]
                {
                    assert!(matches!(answer, Answer::Status(503, _)), "{path}: {answer:?}");
                }
                self.until_more(What::Step, 60);
                assert_eq!(self.count(What::Begin), begun, "a run has started that is not recorded");
                assert_eq!(shown.load(Ordering::Relaxed), seen, "steps are shown that are not recorded");
                self.make_room();
                shop.process.expect_again("the journal has room again");
                shop.post("works/chain/start").ok().expect("it is answered again");
                self.until_more(What::Begin, 20);
            }
            shop.close();
        });
        self.check();
    }

    /// What was shown was recorded, also what was shown last before the disk was full.
    fn killed_app_goes_on(&self) {
        for program in ["belt", belt::SLOW, belt::SLOW] {
            let mut shop = Shop::open(program, &self.directory);
            let shown = std::thread::scope(|scope| {
                let address = shop.address();
                let steps =
                    |document: &Json| document["state"]["walker"]["steps"].as_u64().unwrap_or_default();
                let following = scope.spawn(move || {
                    let mut shown = 0;
                    follow(&address, |document| shown = steps(document)).expect("it is served");
                    shown
                });
                self.fill(&mut shop.process);
                self.until_more(What::Step, 5);
                shop.kill();
                following.join().expect("the follower does not panic")
            });
            let before = self.lines().len();
            self.make_room();
            self.goes_on();
            let lines = self.lines();
            let begin =
                lines[before..].iter().find(|line| line.path == "walker").expect("its run starts again");
            assert_eq!(begin.what, What::Begin);
            assert!(begin.input >= shown, "{shown} steps were shown, and {} are recorded", begin.input);
        }
    }

    fn stopped_app_says_what_is_lost(&self) {
        let mut app = self.start();
        self.fill(&mut app);
        app.signal("TERM");
        let (code, lines) = app.end();
        assert_eq!(code, Some(1), "{lines:#?}");
        line(&lines, "while its journal could not be written");
        self.make_room();
        self.goes_on();
    }

    /// Starts the App, lets it work and ends it.
    #[track_caller]
    fn goes_on(&self) {
        let app = self.start();
        self.until_more(What::Begin, 20);
        app.signal("TERM");
        let (code, lines) = app.end();
        assert_eq!(code, Some(0), "{lines:#?}");
        line(&lines, "after an unclean end: 2 Works");
        self.check();
    }

    #[track_caller]
    fn check(&self) {
        assert_follow(&links(&self.directory));
    }
}

/// The size of a journal's log in bytes, without the zeros that are written ahead of it.
fn log_size(directory: &Path) -> u64 {
    const HEADER: usize = 32;
    const FRAME: usize = 24 + 1024;
    let log = std::fs::read(directory.join("journal/journal.db-wal")).expect("a log");
    let last = log.iter().rposition(|byte| *byte != 0).expect("it has a header");
    (HEADER + (last + 1 - HEADER).next_multiple_of(FRAME)) as u64
}

/// Waits until this many runs have begun.
fn until_begun(directory: &Path, runs: usize) {
    let deadline = Instant::now() + LIMIT;
    while begun(directory).len() < runs {
        assert!(Instant::now() < deadline, "the runs do not begin");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An App that ends with success has recorded what it ended for: started again, it does not do it again. A commit that
/// fails in between is not a success.
fn exit_code_waits_for_the_last_commit() {
    const STEP: u64 = 1024;
    let whole = Directory::new("exit");
    let app = start("errand_that_waits", &whole);
    until_begun(&whole, 1);
    let size = log_size(&whole);
    app.signal("KILL");
    app.end();

    let mut codes = BTreeSet::new();
    for limit in (size - 4 * STEP..size + 16 * STEP).step_by(STEP as usize) {
        let directory = Directory::new("exit-limited");
        let (code, lines) = start_limited("errand", &directory, limit).end();
        codes.insert(code);
        let before = begun(&directory).len();
        let (again, later) = start("errand", &directory).end();
        assert_eq!(again, Some(0), "{later:#?}");
        match code {
            Some(0) => assert_eq!(begun(&directory).len(), before, "{limit}: {lines:#?} {later:#?}"),
            Some(1) => drop(line(&lines, "ERROR")),
            _ => panic!("{limit}: {lines:#?}"),
        }
    }
    assert_eq!(codes, BTreeSet::from([Some(0), Some(1)]), "each of them is to happen");
}

/// A run that begins was recorded with all that it depends on, also when the next commit fails for good.
fn runs_do_not_start_before_a_commit_that_fails() {
    const LIVES: u64 = 8;
    let directory = Directory::new("failing");
    for life in 0..LIVES {
        let limit = 200_000 + 130_000 * life;
        let (code, lines) = start_limited("belt", &directory, limit).end();
        assert_eq!(code, Some(1), "{lines:#?}");
        line(&lines, "ERROR");
    }
    let links = links(&directory);
    assert!(links.len() as u64 > 3 * LIVES, "{links:?}");
    assert_follow(&links);
}

/// The links whose runs have begun, in their order.
fn links(directory: &Path) -> Vec<u64> {
    begun(directory).into_iter().filter(|(path, _)| path == "chain").map(|(_, link)| link).collect()
}

/// A link begins when the one before it has succeeded for good.
#[track_caller]
fn assert_follow(links: &[u64]) {
    let follows = |pair: &[u64]| pair[1] == pair[0] || pair[1] == pair[0] + 1;
    assert!(links.windows(2).all(follows), "{links:?}");
}
