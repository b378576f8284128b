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
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};

use serde_json::Value as Json;

use crate::editions::{Directory, Shop, begun, line, start, start_limited};
use crate::follower::follow;
use crate::http::Answer;
use crate::process::{LIMIT, Process};
use crate::record::{self, Line, What};
use crate::{belt, hoard};

crate::tests![exit_code_waits_for_the_last_commit, runs_do_not_start_before_a_commit_that_fails,];

/// First argument of a process that conducts a test in its namespace; the name of the test and the directory follow.
pub(crate) const CONDUCT: &str = "conduct-full-disk";

/// The name of a test with a disk of its own, the size of the disk, and the test.
type OnADisk = (&'static str, &'static str, fn(&Stage));

/// The tests with a disk of their own. A log that is not full of values needs less.
const ON_A_DISK: [OnADisk; 2] = [
    ("full_disk_stops_what_leaves_and_nothing_else", "size=6m", Stage::states),
    ("full_disk_loses_no_durable_payload", "size=24m", Stage::payloads),
];

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

/// The tests, ignored where there can be no namespace for them.
pub(crate) fn trials() -> impl Iterator<Item = Trial> {
    let namespace = namespace();
    let is_ignored = namespace.is_none() && !cfg!(feature = "network-tests");
    ON_A_DISK.into_iter().map(move |(name, ..)| {
        let test = move || {
            let arguments = namespace.ok_or("`unshare --mount` fails, as root and with a user namespace")?;
            run(arguments, name)
        };
        Trial::test(format!("disks::{name}"), test).with_ignored_flag(is_ignored)
    })
}

fn run(namespace: &[&str], name: &str) -> Result<(), Failed> {
    let directory = Directory::new(name);
    let mut command = Command::new("unshare");
    command.args(namespace).arg(std::env::current_exe()?).args([CONDUCT, name]).arg(&*directory);
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned().into())
}

/// Conducts a test; a panic is its failure.
pub(crate) fn conduct(name: &str, directory: &Path) -> ExitCode {
    let disk = directory.join("journal");
    std::fs::create_dir(&disk).expect("the directory is new");
    let (_, size, test) =
        ON_A_DISK.into_iter().find(|(known, ..)| *known == name).expect("it is one of the tests");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", size, "tmpfs"]).arg(&disk).status();
    assert!(mounted.is_ok_and(|status| status.success()), "the namespace is for this");
    let stage = Stage { directory: directory.to_owned(), filler: disk.join("filler") };
    test(&stage);
    ExitCode::SUCCESS
}

struct Stage {
    directory: PathBuf,
    /// A file that fills the disk.
    filler: PathBuf,
}

impl Stage {
    fn states(&self) {
        self.app_goes_on_when_there_is_room();
        self.killed_app_goes_on();
        self.stopped_app_says_what_is_lost();
        self.restarted_app_goes_on();
    }

    /// The disk is full of the values that the Works make, and later of something else: the Work that waits for nothing goes
    /// on, no run with a value starts, no value is acknowledged, and the App says why. All goes on when there is room. After
    /// a kill, all values that were acknowledged are there, and so are those that the record refers to.
    fn payloads(&self) {
        let mut shop = Shop::open("hoard", &self.directory);
        shop.process.expect_again("no run or Work is started");
        self.nothing_is_released(&shop);
        self.enlarge_disk();
        shop.process.expect_again("the journal has room again");
        std::fs::write(self.directory.join(hoard::MODEST), "").expect("this disk has room");
        for _ in 0..2 {
            self.goes_on_with("reader", What::End, 10);
            self.goes_on_with("keeper", What::End, 10);
            let filling = self.keep_full();
            shop.process.expect_again("no run or Work is started");
            self.nothing_is_released(&shop);
            filling.end();
            shop.process.expect_again("the journal has room again");
        }
        self.goes_on_with("keeper", What::End, 10);
        let filling = self.keep_full();
        shop.process.expect_again("no run or Work is started");
        self.goes_on_with("maker", What::Step, 10);
        shop.kill();
        let before = self.lines();
        filling.end();
        let shop = Shop::open("hoard", &self.directory);
        self.goes_on_with("reader", What::End, 10);
        self.goes_on_with("keeper", What::End, 10);
        shop.close();
        check_values(&self.lines(), before.len());
    }

    /// Waits until a body has done this `more` times.
    #[track_caller]
    fn goes_on_with(&self, path: &str, what: What, more: usize) {
        let (before, deadline) = (self.count_of(path, what), Instant::now() + LIMIT);
        while self.count_of(path, what) < before + more {
            assert!(Instant::now() < deadline, "{path}: there is no further {what:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn count_of(&self, path: &str, what: What) -> usize {
        self.lines().iter().filter(|line| line.path == path && line.what == what).count()
    }

    /// Checks that nothing leaves an App whose disk is full, which goes on. One run and one acknowledgement may have left
    /// before: the next ones wait for the ends of these.
    #[track_caller]
    fn nothing_is_released(&self, shop: &Shop) {
        let released = || (self.count_of("reader", What::Begin), self.count_of("keeper", What::End));
        let before = released();
        for (path, answer) in [("state", shop.try_get("state")), ("stop", shop.post("works/reader/start"))] {
            let Answer::Status(503, body) = &answer else { panic!("{path}: {answer:?}") };
            assert!(body.contains("make room"), "{path}: {body}");
        }
        self.goes_on_with("maker", What::Step, 60);
        let after = released();
        assert!(after.0 <= before.0 + 1, "runs have started that are not recorded: {before:?} {after:?}");
        assert!(after.1 <= before.1 + 1, "values were acknowledged: {before:?} {after:?}");
    }

    /// Keeps the disk full, whatever leaves it meanwhile.
    fn keep_full(&self) -> Filling {
        let (filler, is_over) = (self.filler.clone(), Arc::new(AtomicBool::new(false)));
        let ends = is_over.clone();
        let thread = std::thread::spawn(move || {
            let mut file = OpenOptions::new()
                .create(true)
                .append(true)
                .open(filler)
                .expect("it is no file of the journal");
            while !ends.load(Ordering::Relaxed) {
                while file.write_all(&[0; 4096]).is_ok() {}
                while file.write_all(&[0]).is_ok() {}
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Filling { filler: self.filler.clone(), is_over, thread }
    }

    /// Makes room on the disk that the values of the App have filled.
    fn enlarge_disk(&self) {
        let disk = self.filler.parent().expect("it is a file on the disk");
        let mounted = Command::new("mount").args(["-o", "remount,size=64m"]).arg(disk).status();
        assert!(mounted.is_ok_and(|status| status.success()), "the namespace is for this");
    }

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

    /// An App that is killed while its disk is full, and started again and again before there is room, says each time that
    /// there is none, has lost nothing, and goes on when there is room. That is no crash loop.
    fn restarted_app_goes_on(&self) {
        let mut app = self.start();
        self.fill(&mut app);
        let mut refused = 0;
        for starts in 1.. {
            app.signal("KILL");
            app.end();
            let begun = self.count(What::Begin);
            app = self.start();
            // The first ones may find some room in the last pages of the log, and meet its end later.
            if app.expect("make room").contains("the App does not start") {
                assert_eq!(self.count(What::Begin), begun, "runs have started without a journal");
                refused += 1;
            }
            if starts > 3 && refused > 1 {
                break;
            }
            assert!(starts < 100, "there is room again and again");
        }
        self.make_room();
        app.expect_again("the journal has room again: the App starts");
        self.until_more(What::Begin, 20);
        app.signal("TERM");
        let (code, lines) = app.end();
        assert_eq!(code, Some(0), "{lines:#?}");
        assert!(!lines.iter().any(|line| line.contains("safe mode")), "{lines:#?}");
        self.check();
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

/// A thread that keeps the disk full.
struct Filling {
    filler: PathBuf,
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Filling {
    /// Ends the thread, and makes room.
    fn end(self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().expect("the thread does not panic");
        std::fs::remove_file(self.filler).expect("the disk was filled");
    }
}

/// Checks what the bodies of the program that hoards values have noted: in its first life, which was killed, and from the
/// line with this number on in its second one.
#[track_caller]
fn check_values(lines: &[Line], second: usize) {
    let wrong: Vec<_> = lines.iter().filter(|line| line.what == What::Fail).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let inputs = |lines: &[Line], path: &str, what: What| -> Vec<u64> {
        lines.iter().filter(|line| line.path == path && line.what == what).map(|line| line.input).collect()
    };
    let (before, after) = lines.split_at(second);
    let last = |path: &str, what: What| inputs(before, path, what).last().copied().expect("it has done this");
    let resumed = |path: &str| match inputs(after, path, What::Begin)[..] {
        [once] => once,
        ref other => panic!("{path} has begun at {other:?}"),
    };
    // A run begins with what is recorded, so that the maker goes on from there, and an acknowledged value is recorded.
    assert!(resumed("maker") >= last("reader", What::Begin), "a value was read that is not recorded");
    let kept = resumed("keeper");
    assert!(kept >= last("keeper", What::End), "an acknowledged value is lost");
    // It has read all that its state has.
    let read = inputs(after, "keeper", What::Step);
    assert_eq!(read, (kept - read.len() as u64 + 1..=kept).collect::<Vec<_>>());
    assert!(read.len() >= 10, "{read:?}");
    // Only the run that was in progress when the process was killed is repeated.
    let all = inputs(lines, "reader", What::Begin);
    assert!(all.is_sorted(), "{all:?}");
    let repeated = all.windows(2).filter(|pair| pair[0] == pair[1]).count();
    assert!(repeated <= 1, "{all:?}");
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
