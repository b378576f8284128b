//! A small program in several editions, which play the versions of one program over time.

use std::path::Path;
use std::process::Command;

use flowright::prelude::*;
use serde_json::Value as Json;

use crate::http::{Answer, Api};
use crate::process::{LIMIT, Process, VARIABLE};
use crate::record::{self, What, note};

/// A Work whose run ends only when the Work is stopped.
#[derive(Default, Serialize, Deserialize)]
struct Waiter {
    began: u64,
}

impl Work for Waiter {
    type Input = ();

    async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
        self.began += 1;
        note(cx.path().as_str(), What::Begin, self.began, cx.attempt());
        cx.publish(self);
        cx.serve_forever(self).await?;
        Ok(())
    }
}

/// Environment variable with the moves of an edition, such as `first~7=first`, separated by spaces.
const MOVES: &str = "FLOWRIGHT_TEST_MOVES";

/// Adds the moves of this process to an edition.
fn moved(app: App) -> App {
    let moves = std::env::var(MOVES).unwrap_or_default();
    let moves = moves.split_whitespace().map(|one| one.split_once('=').expect("a move has two paths"));
    moves.fold(app, |app, (from, to)| app.moved(from, to))
}

/// Defines the module of an edition: the further fields of the Work `Keeper` and of the root, and the names of the
/// keepers.
macro_rules! edition {
    ($name:ident, keeper { $($work:tt)* }, root { $($root:tt)* }, keepers $($keeper:ident)*) => {
        mod $name {
            use super::*;

            #[derive(Default, Serialize, Deserialize)]
            struct Keeper {
                total: u64,
                $($work)*
            }

            impl Work for Keeper {
                type Input = u64;

                async fn run(&mut self, number: u64, cx: &mut WorkContext<Self>) -> Result<()> {
                    note(cx.path().as_str(), What::Begin, number, cx.attempt());
                    self.total += number;
                    Ok(())
                }
            }

            #[derive(Default, Serialize, Children)]
            struct Shop {
                /// Runs that the Flow knows to have succeeded.
                counted: u64,
                $($root)*
                $($keeper: WorkRef<Keeper>,)*
                waiter: WorkRef<Waiter>,
            }

            impl Flow for Shop {
                fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
                    self.counted = 0;
                    $(for number in [1, 2] {
                        self.counted += u64::from(self.$keeper.run(number).finished().is_ok());
                    })*
                    self.waiter.run(());
                    Ok(())
                }
            }

            pub(super) fn main() -> ExitCode {
                moved(App::new(Shop::default)).main()
            }
        }
    };
}

edition!(first, keeper { label: String, }, root { title: String, }, keepers first second);
edition!(
    with_defaults,
    keeper { label: String, #[serde(default)] weight: f64, },
    root { title: String, #[serde(default)] place: String, },
    keepers first second
);
edition!(work_field_added, keeper { label: String, weight: f64, }, root { title: String, }, keepers first second);
edition!(flow_field_added, keeper { label: String, }, root { title: String, place: u64, }, keepers first second);
edition!(fields_removed, keeper {}, root {}, keepers first second);
edition!(work_field_changed, keeper { label: u64, }, root { title: String, }, keepers first second);
edition!(flow_field_changed, keeper { label: String, }, root { title: u64, }, keepers first second);
edition!(work_field_renamed, keeper { name: String, }, root { title: String, }, keepers first second);
edition!(flow_field_renamed, keeper { label: String, }, root { heading: String, }, keepers first second);
edition!(work_removed, keeper { label: String, }, root { title: String, }, keepers first);
edition!(work_added, keeper { label: String, }, root { title: String, }, keepers first second third);

pub(crate) fn run(edition: &str) -> Option<ExitCode> {
    Some(match edition {
        "first" => first::main(),
        "with_defaults" => with_defaults::main(),
        "work_field_added" => work_field_added::main(),
        "flow_field_added" => flow_field_added::main(),
        "fields_removed" => fields_removed::main(),
        "work_field_changed" => work_field_changed::main(),
        "flow_field_changed" => flow_field_changed::main(),
        "work_field_renamed" => work_field_renamed::main(),
        "flow_field_renamed" => flow_field_renamed::main(),
        "work_removed" => work_removed::main(),
        "work_added" => work_added::main(),
        _ => return None,
    })
}

/// A running edition with its API.
pub(crate) struct Shop {
    pub(crate) process: Process,
    api: Api,
}

/// Starts an edition, or another program of this binary, with the journal and the record in a directory.
pub(crate) fn start(program: &str, directory: &Path) -> Process {
    start_as(Command::new(this()), program, directory)
}

/// As [`start`], with further arguments.
pub(crate) fn start_with(program: &str, directory: &Path, arguments: &[&str]) -> Process {
    let mut command = Command::new(this());
    command.args(arguments);
    start_as(command, program, directory)
}

/// As [`start`], of a program with these moves.
pub(crate) fn start_moved(edition: &str, directory: &Path, moves: &str) -> Process {
    let mut command = Command::new(this());
    command.env(MOVES, moves);
    start_as(command, edition, directory)
}

/// As [`start`], with a limit for the size of each file: a write beyond it fails.
pub(crate) fn start_limited(program: &str, directory: &Path, limit: u64) -> Process {
    let mut command = Command::new("sh");
    // The unit is 512 bytes. Without the trap the write would end the process.
    let script = format!("ulimit -f {}; trap '' XFSZ; exec \"$0\" \"$@\"", limit / 512);
    command.args(["-c", &script]).arg(this());
    start_as(command, program, directory)
}

/// Runs a command of an edition for the journal in a directory, and returns its exit code and what it wrote.
pub(crate) fn command(edition: &str, directory: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let (code, said) = command_apart(edition, directory, arguments);
    (code, said.concat())
}

/// As [`command`], with what it wrote to its two streams.
pub(crate) fn command_apart(
    edition: &str,
    directory: &Path,
    arguments: &[&str],
) -> (Option<i32>, [String; 2]) {
    let [name, options @ ..] = arguments else { panic!("there is no command") };
    let mut command = Command::new(this());
    command.env(VARIABLE, edition).env_remove("RUST_LOG").env(record::VARIABLE, directory.join("record"));
    command.args(["journal", name]).arg(directory.join("journal")).args(options);
    let done = command.output().expect("the test binary can be started");
    let said = [done.stdout, done.stderr].map(|said| String::from_utf8(said).expect("it writes UTF-8"));
    (done.status.code(), said)
}

fn this() -> std::path::PathBuf {
    std::env::current_exe().expect("the path of the test binary is known")
}

fn start_as(mut command: Command, program: &str, directory: &Path) -> Process {
    command.env(VARIABLE, program).env_remove("RUST_LOG");
    command.env(record::VARIABLE, directory.join("record"));
    command.args(["--open-ui=false", "--port", "0"]).args(crate::journal(&directory.join("journal")));
    Process::start(command)
}

impl Shop {
    /// Starts an edition, and waits until it is served.
    pub(crate) fn open(edition: &str, directory: &Path) -> Self {
        Self::open_with(edition, directory, &[])
    }

    /// As [`open`](Self::open), with further arguments.
    pub(crate) fn open_with(edition: &str, directory: &Path, arguments: &[&str]) -> Self {
        Self::of(start_with(edition, directory, arguments))
    }

    /// As [`open`](Self::open), with another file of this binary.
    pub(crate) fn open_build(build: &Path, edition: &str, directory: &Path) -> Self {
        Self::of(start_as(Command::new(build), edition, directory))
    }

    /// As [`open`](Self::open), of a program with these moves.
    pub(crate) fn open_moved(edition: &str, directory: &Path, moves: &str) -> Self {
        Self::of(start_moved(edition, directory, moves))
    }

    fn of(mut process: Process) -> Self {
        let line = process.expect("/view");
        let (_, url) = line.split_once("http://").expect("the line has a URL");
        let api = Api::new();
        api.set_address(Some(url.trim_end_matches("/view").to_owned()));
        Self { process, api }
    }

    /// Returns the answer to a GET request.
    pub(crate) fn get(&self, path: &str) -> Json {
        self.api.get(&format!("api/v1/{path}"), LIMIT).ok().unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// The address of the API.
    pub(crate) fn address(&self) -> String {
        self.api.address().expect("it was set")
    }

    pub(crate) fn try_get(&self, path: &str) -> Answer {
        self.api.get(&format!("api/v1/{path}"), LIMIT)
    }

    /// Returns the answer to a GET request beside the API.
    pub(crate) fn probe(&self, path: &str) -> Answer {
        self.api.get(path, LIMIT)
    }

    pub(crate) fn post(&self, path: &str) -> Answer {
        self.api.post(&format!("api/v1/{path}"), None, LIMIT)
    }

    /// Returns the state once `is_so` is true of it.
    pub(crate) fn state(&self, is_so: impl Fn(&Json) -> bool) -> Json {
        let mut found = None;
        let address = self.address();
        let until = |document: &Json| {
            if is_so(&document["state"]) {
                found = Some(document["state"].clone());
            }
            found.is_none()
        };
        crate::follower::follow_while(&address, until).expect("the App is served");
        found.expect("the App runs until the state is so")
    }

    /// Waits until so many runs of a Work have succeeded.
    pub(crate) fn until_succeeded(&self, work: &str, runs: u64) {
        let mut is_so = false;
        let until = |document: &Json| {
            is_so = document["works"][work]["runs"]["succeeded"].as_u64() >= Some(runs);
            !is_so
        };
        crate::follower::follow_while(&self.address(), until).expect("the App is served");
        assert!(is_so, "the App runs until the runs have succeeded");
    }

    /// Waits until all runs of `keepers` Works have succeeded, and that of the waiter has begun `began` times.
    pub(crate) fn until_open(&self, keepers: u64, began: u64) -> Json {
        self.state(|state| state["counted"] == 2 * keepers && state["waiter"]["began"] == began)
    }

    /// Ends it in good order, and returns its lines.
    pub(crate) fn close(self) -> Vec<String> {
        self.process.signal("TERM");
        let (code, lines) = self.process.end();
        assert_eq!(code, Some(0), "{lines:#?}");
        lines
    }

    /// Kills it, and returns its lines.
    pub(crate) fn kill(self) -> Vec<String> {
        self.process.signal("KILL");
        let (code, lines) = self.process.end();
        assert_eq!(code, None, "{lines:#?}");
        lines
    }
}

/// Returns the line that contains `part`.
#[track_caller]
pub(crate) fn line<'a>(lines: &'a [String], part: &str) -> &'a str {
    let found = lines.iter().find(|line| line.contains(part));
    found.unwrap_or_else(|| panic!("{part:?} is not in {lines:#?}"))
}

/// The paths and inputs of the runs that have begun, in their order.
pub(crate) fn begun(directory: &Path) -> Vec<(String, u64)> {
    let lines = record::read(&directory.join("record")).into_iter();
    lines.filter(|line| line.what == What::Begin).map(|line| (line.path, line.input)).collect()
}

/// A directory of a test, removed on drop.
pub(crate) struct Directory(std::path::PathBuf);

impl Directory {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("fw-durability-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the directory for temporary files can be written");
        Self(path)
    }
}

impl std::ops::Deref for Directory {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
