//! A full disk. The small disk is mounted in a namespace of the test's own, which takes root or user namespaces: where
//! neither is allowed the test is shown as ignored, and with the feature `network-tests` it fails.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};

use crate::editions::{Directory, line, start};
use crate::process::{LIMIT, Process};
use crate::record::{self, Line, What};

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

    fn count(&self, what: What) -> usize {
        self.lines().iter().filter(|line| line.what == what).count()
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
        self.until_more(What::Begin, 20);
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

    /// Works keep running while the disk is full, and nothing starts.
    fn app_goes_on_when_there_is_room(&self) {
        let mut app = self.start();
        for _ in 0..2 {
            self.fill(&mut app);
            // A run whose start had left before begins within this time.
            self.until_more(What::Step, 30);
            let begun = self.count(What::Begin);
            self.until_more(What::Step, 60);
            assert_eq!(self.count(What::Begin), begun, "a run has started that is not recorded");
            self.make_room();
            app.expect_again("the journal has room again");
            self.until_more(What::Begin, 20);
        }
        app.signal("TERM");
        let (code, lines) = app.end();
        assert_eq!(code, Some(0), "{lines:#?}");
        self.check();
    }

    fn killed_app_goes_on(&self) {
        let mut app = self.start();
        self.fill(&mut app);
        app.signal("KILL");
        app.end();
        // It cannot start either, and changes nothing.
        let begun = self.count(What::Begin);
        let (code, lines) = self.start().end();
        assert_eq!(code, Some(1), "{lines:#?}");
        line(&lines, "ERROR");
        assert_eq!(self.count(What::Begin), begun, "{lines:#?}");
        self.make_room();
        self.goes_on();
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
        line(&lines, "after an unclean end: 2 Works, 2 runs under way start again");
        self.check();
    }

    /// A link begins when the one before it has succeeded for good.
    #[track_caller]
    fn check(&self) {
        let begun = self.lines().into_iter().filter(|line| line.what == What::Begin).map(|line| line.input);
        let begun: Vec<_> = begun.collect();
        let follows = |pair: &[u64]| pair[1] == pair[0] || pair[1] == pair[0] + 1;
        assert!(begun.windows(2).all(follows), "{begun:?}");
    }
}
