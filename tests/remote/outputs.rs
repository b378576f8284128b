//! Outputs of runs from every place, and with a journal after the head was killed.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use flowright::prelude::*;
use flowright::testing::TestApp;

use crate::process::LIMIT;
use crate::support::{Process, joining, program as this_program, signal, times};

crate::tests![outputs_arrive_from_every_place, outputs_survive_the_kill_of_the_head,];

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Task {
    /// Set the square of a number as output.
    Square(u64),
    /// Set a payload with so many numbers as output.
    Numbers(u64),
    /// Set the sum of the numbers as output.
    Sum(Payload<Vec<u64>>),
    /// Kill the process of the Work, unless it was done before.
    Kill,
}

/// A Work that appends a line to a file for each run.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Clerk {
    file: Option<PathBuf>,
}

impl Work for Clerk {
    type Input = Task;

    async fn run(&mut self, task: Task, cx: &mut WorkContext<Self>) -> Result<()> {
        let before = self.file.as_deref().map(lines).unwrap_or_default();
        let line = match &task {
            Task::Square(number) => format!("square {number}"),
            Task::Numbers(count) => format!("numbers {count}"),
            Task::Sum(_) => "sum".to_owned(),
            Task::Kill => "kill".to_owned(),
        };
        if let Some(file) = &self.file {
            let mut file = OpenOptions::new().append(true).create(true).open(file)?;
            file.write_all(format!("{line}\n").as_bytes())?;
        }
        match task {
            Task::Square(number) => cx.output(&(number * number))?,
            Task::Numbers(count) => {
                let numbers = cx.payload((0..count).collect::<Vec<_>>())?;
                cx.output(&numbers)?;
            }
            Task::Sum(numbers) => cx.output(&numbers.value().await?.iter().sum::<u64>())?,
            Task::Kill if before.contains(&line) => {}
            Task::Kill => {
                signal(std::process::id(), "KILL");
                std::future::pending::<()>().await;
            }
        }
        Ok(())
    }
}

fn lines(file: &Path) -> Vec<String> {
    fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[derive(Serialize, Children)]
struct Office {
    clerk: WorkRef<Clerk>,
    other: WorkRef<Clerk>,
    squares: Vec<u64>,
    sum: u64,
    #[serde(skip)]
    is_killed: bool,
}

impl Flow for Office {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        self.squares = [3, 4]
            .map(|number| self.clerk.run(Task::Square(number)).output::<u64>())
            .into_iter()
            .collect::<Result<_>>()?;
        let numbers: Payload<Vec<u64>> = self.clerk.run(Task::Numbers(100_000)).output()?;
        if self.is_killed {
            self.clerk.run(Task::Kill).finished()?;
        }
        self.sum = self.other.run(Task::Sum(numbers)).output()?;
        log::warn!("squares {:?}, sum {}", self.squares, self.sum);
        cx.stop("all outputs are read");
        Ok(())
    }
}

/// The name of the variable with the file of a head.
const FILE: &str = "FLOWRIGHT_TEST_OUTPUTS_FILE";

/// The nodes and processes of these tests, or a head that is killed once.
pub(crate) fn program() -> ExitCode {
    let file = std::env::var_os(FILE).map(PathBuf::from);
    App::new(move || {
        let clerk = |file| WorkRef::from(Clerk { file });
        let is_killed = file.is_some();
        Office { clerk: clerk(file), other: clerk(None), squares: Vec::new(), sum: 0, is_killed }
    })
    .main()
}

/// A directory that is removed on drop.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("flowright-outputs-{}", std::process::id()));
        fs::create_dir_all(&path).expect("the directory can be made");
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const SUM: u64 = 100_000 * 99_999 / 2;

/// Outputs, also those with payloads, are read by the Flow and given to other Works wherever the Works are.
fn outputs_arrive_from_every_place() {
    for place in ["thread", "pool", "process", "n", "n/pool"] {
        let make = move || {
            let clerk = || WorkRef::from(Clerk::default()).placed(place.parse().expect("a placement"));
            Office { clerk: clerk(), other: clerk(), squares: Vec::new(), sum: 0, is_killed: false }
        };
        let app = App::new(make)
            .listen("127.0.0.1:0")
            .process(|| Ok(this_program("outputs")))
            .config(times(500, 30_000));
        let app = TestApp::start_app(app).limit(LIMIT);
        let _node = place.starts_with('n').then(|| Process::node_of("outputs", &joining(&app), "n", &[]));
        let exit = app.wait_for_exit();
        assert!(exit.result.is_ok(), "{place}: {:?}", exit.result);
        let squares = exit.state.get("squares").and_then(|squares| squares.decode::<Vec<u64>>().ok());
        assert_eq!(squares, Some(vec![9, 16]), "{place}");
        assert_eq!(exit.state.get("sum").and_then(|sum| sum.decode().ok()), Some(SUM), "{place}");
    }
}

/// With a journal, the outputs of runs that have succeeded are there after the head was killed, and no run is repeated.
fn outputs_survive_the_kill_of_the_head() {
    let directory = Directory::new();
    let file = directory.0.join("log");
    let head = || {
        let mut command = this_program("outputs");
        command.env(FILE, &file).args(["--open-ui=false", "--without-server", "--journal-payloads", "all"]);
        command.arg("--journal").arg(directory.0.join("journal"));
        Process::start(command)
    };
    let (code, said) = head().end();
    assert_eq!(code, None, "it is killed: {said:?}");
    let mut again = head();
    let result = again.expect("squares");
    let (code, said) = again.end();
    assert_eq!(code, Some(0), "{said:?}");
    assert!(result.contains(&format!("squares [9, 16], sum {SUM}")), "{result}");
    assert_eq!(lines(&file), ["square 3", "square 4", "numbers 100000", "kill", "kill"]);
}
