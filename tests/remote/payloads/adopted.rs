//! Values whose references are in the states of Works that outlive their head.

use std::path::PathBuf;
use std::time::Duration;

use flowright::prelude::*;

use super::office::{Bytes, summary, value};
use crate::support::{Process, free_address, program, times, until};

crate::tests![references_of_adopted_works_resolve];

/// Environment variable with the directory of the test.
const DIRECTORY: &str = "FLOWRIGHT_TEST_SHELVES";

const LENGTH: usize = 300_000;

fn file(name: &str) -> PathBuf {
    PathBuf::from(std::env::var_os(DIRECTORY).expect("the test has set it")).join(name)
}

/// A Work that keeps references to values.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Shelf {
    made: Option<Bytes>,
    /// A value that another Work has made, which is not read here.
    kept: Option<Bytes>,
    read: Vec<(usize, u64)>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Chore {
    /// Make a value from this seed.
    Make(u8),
    Keep(Bytes),
    /// Drop all references.
    Clear,
    /// Announce by a file that nothing else is to be done, and wait until the file `go` exists.
    Wait,
    Read(Vec<Bytes>),
}

impl Work for Shelf {
    type Input = Chore;

    async fn run(&mut self, chore: Chore, cx: &mut WorkContext<Self>) -> Result<()> {
        match chore {
            Chore::Make(seed) => self.made = Some(cx.payload(value(LENGTH, seed))?),
            Chore::Keep(payload) => self.kept = Some(payload),
            Chore::Clear => *self = Self::default(),
            Chore::Wait => {
                std::fs::write(file("waits"), "")?;
                while !file("go").exists() {
                    cx.sleep(self, Duration::from_millis(5)).await?;
                }
            }
            Chore::Read(payloads) => {
                for payload in payloads {
                    self.read.push(summary(&payload.value().await?));
                }
            }
        }
        Ok(())
    }
}

/// `keeper` on the node `n` makes a value, and keeps another one that `maker` on the node `m` has made and dropped.
/// `near` reads both in the process of the head, and `far` on the node `m`.
#[derive(Serialize, Children)]
struct Shelves {
    maker: WorkRef<Shelf>,
    keeper: WorkRef<Shelf>,
    near: WorkRef<Shelf>,
    far: WorkRef<Shelf>,
}

impl Flow for Shelves {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        if let Some(made) = self.maker.run(Chore::Make(1)).finished()?.made.clone() {
            self.keeper.run(Chore::Keep(made)).finished()?;
        }
        self.keeper.run(Chore::Make(2)).finished()?;
        self.maker.run(Chore::Clear).finished()?;
        self.keeper.run(Chore::Wait).finished()?;
        let kept: Vec<_> = self.keeper.kept.iter().chain(&self.keeper.made).cloned().collect();
        self.near.run(Chore::Read(kept.clone()));
        self.far.run(Chore::Read(kept));
        if self.near.read.len() < 2 || self.far.read.len() < 2 {
            return Ok(());
        }
        let expected = [summary(&value(LENGTH, 1)), summary(&value(LENGTH, 2))];
        assert_eq!((&self.near.read[..], &self.far.read[..]), (&expected[..], &expected[..]));
        cx.stop("both have read both values");
        Ok(())
    }
}

pub(crate) fn shelves() -> App {
    let placed = |place: &str| WorkRef::from(Shelf::default()).placed(place.parse().expect("it is valid"));
    App::new(move || Shelves {
        maker: placed("m"),
        keeper: placed("n"),
        near: placed("thread"),
        far: placed("m"),
    })
    .config(times(500, 60_000))
}

/// References in the state of a Work on a node can be read after its head was killed and started again: to a value that
/// is on that node, and to one on another node that nothing else refers to.
fn references_of_adopted_works_resolve() {
    // Each test has a process of its own.
    let directory = std::env::temp_dir().join(format!("flowright-shelves-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("there is room for a directory");
    let address = free_address();
    let start = |arguments: &[&str]| {
        let mut command = program("shelves");
        command.args(arguments).env(DIRECTORY, &directory);
        Process::start(command)
    };
    let journal = directory.join("journal");
    let journal = journal.to_str().expect("the directory is named above");
    let head = || start(&["--open-ui=false", "--without-server", "--listen", &address, "--journal", journal]);
    let first = head();
    let (mut n, mut m) = (
        start(&["node", "--join", &address, "--name", "n"]),
        start(&["node", "--join", &address, "--name", "m"]),
    );
    until("the keeper waits", || directory.join("waits").exists());
    first.signal("KILL");
    drop(first);
    let mut second = head();
    second.expect("adopted 1 Work on node `n`");
    second.expect("adopted 2 Works on node `m`");
    for node in [&mut n, &mut m] {
        node.expect("as number 2");
    }
    std::fs::write(directory.join("go"), "").expect("the directory is there");
    let (code, lines) = second.end();
    assert_eq!(code, Some(0), "{lines:#?}");
    // The directory is temporary anyway.
    let _ = std::fs::remove_dir_all(&directory);
}
