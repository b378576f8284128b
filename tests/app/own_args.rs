//! Arguments of the program's own, beside those of Flowright.

use std::process::Command;

use flowright::prelude::*;
use flowright::testing::TestApp;
use serde_json::json;

use crate::elsewhere::spread;
use crate::programs::VARIABLE;
use crate::support::*;
use crate::tests;

tests![
    own_arguments_reach_the_root_and_works_everywhere,
    own_arguments_that_are_wrong_end_with_2,
    journal_is_checked_with_own_arguments,
    embedded_app_has_the_arguments_it_was_given,
    embedded_app_without_required_arguments_does_not_start,
];

/// Trains a model.
#[derive(Debug, Default, PartialEq, clap::Args, Serialize, Deserialize)]
struct TrainArgs {
    /// The number of epochs
    #[arg(long)]
    epochs: u32,

    /// The learning rate
    #[arg(long, default_value_t = 0.5)]
    rate: f64,

    /// The files with the data
    files: Vec<String>,
}

#[derive(Default, Serialize, Deserialize)]
struct Train {
    args: Option<TrainArgs>,
}

impl Work for Train {
    type Input = ();

    async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
        self.args = Some(cx.args()?);
        let error = cx.args::<String>().unwrap_err().to_string();
        ensure!(error.contains("TrainArgs`, not a `alloc::string::String`"), "{error}");
        Ok(())
    }
}

#[derive(Default, Serialize, Children)]
struct Trainer {
    epochs: u32,
    here: WorkRef<Train>,
    apart: WorkRef<Train>,
    far: WorkRef<Train>,
}

impl Trainer {
    fn new(args: &TrainArgs) -> Self {
        Self { epochs: args.epochs, ..Self::default() }
    }
}

impl Flow for Trainer {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        for train in [&self.here, &self.apart, &self.far] {
            train.run(());
        }
        Ok(())
    }
}

pub(crate) fn trainer() -> ExitCode {
    App::with_args(|args: TrainArgs| Trainer::new(&args)).main()
}

/// Starts a command, with these arguments alone.
fn command(program: &str, arguments: &[&str]) -> Process {
    let mut command = Command::new(std::env::current_exe().expect("the path of the test binary is known"));
    command.env(VARIABLE, program).args(arguments);
    Process::start_command(command)
}

/// The root is made from the arguments, and a Work reads them on a thread, in a process and on a node.
fn own_arguments_reach_the_root_and_works_everywhere() {
    let own = ["--place", "apart=process", "--epochs", "3", "a.csv", "--place", "far=n", "b.csv"];
    let app = spread("trainer", &own);
    let mut events = Events::open(app.address);
    let document = events.until(|document| {
        ["here", "apart", "far"].iter().all(|work| document["works"][*work]["stage"] == "succeeded")
    });
    let args = json!({ "epochs": 3, "rate": 0.5, "files": ["a.csv", "b.csv"] });
    let state = &document["state"];
    assert_eq!(state["epochs"], 3);
    for work in ["here", "apart", "far"] {
        assert_eq!(state[work]["args"], args, "{work}");
    }
    app.end();
}

fn own_arguments_that_are_wrong_end_with_2() {
    for (arguments, says) in [
        (&["--without-server"][..], &["--epochs"][..]),
        (&["run"], &["--epochs"]),
        (&["--epochs", "many"], &["--epochs", "many"]),
        (&["--epochs", "3", "--epoch", "3"], &["--epoch", "--epochs"]),
        (&["node", "--join", "127.0.0.1:1", "--epochs", "3"], &["--epochs"]),
        (&["journal", "check", "/nowhere"], &["--epochs"]),
        (&["journal", "rereact", "/nowhere", "--", "--epochs", "many"], &["--epochs", "many"]),
    ] {
        let (code, lines) = command("trainer", arguments).end();
        assert_eq!(code, Some(2), "{arguments:?}: {lines:#?}");
        let errors: String = lines.iter().filter(|line| line.starts_with("err| ")).cloned().collect();
        for part in says {
            assert!(errors.contains(part), "{part:?} is not said to {arguments:?}: {lines:#?}");
        }
    }
    let (code, lines) = Process::start("trainer", &["--help"]).end();
    assert_eq!(code, Some(0));
    for part in ["Options of this App:", "The learning rate", "--log-level", "The files with the data"] {
        assert_line(&lines, part);
    }
    let (code, lines) = command("service", &["journal", "check", "/nowhere", "--", "--epochs"]).end();
    assert_eq!(code, Some(2), "{lines:#?}");
    assert_line(&lines, "this App has no arguments of its own");
}

/// A root that depends on arguments is constructed from those behind the `--`.
fn journal_is_checked_with_own_arguments() {
    let directory = std::env::temp_dir().join(format!("flowright-own-args-{}", std::process::id()));
    let journal = directory.to_str().expect("the path is text");
    let mut app = Process::start("trainer", &["--port", "0", "--journal", journal, "--epochs", "3"]);
    let address = app.address();
    Events::open(address).until(|document| document["works"]["far"]["stage"] == "succeeded");
    app.signal("TERM");
    assert_eq!(app.end().0, Some(0));
    for name in ["check", "rereact"] {
        let (code, lines) = command("trainer", &["journal", name, journal, "--", "--epochs", "3"]).end();
        assert_eq!(code, Some(0), "{name}: {lines:#?}");
    }
    std::fs::remove_dir_all(&directory).expect("the journal is closed");
}

fn embedded_app_has_the_arguments_it_was_given() {
    let args = TrainArgs { epochs: 7, rate: 0.25, files: Vec::new() };
    let app = App::with_args(|args: TrainArgs| Trainer::new(&args)).args(&args).expect("they serialise");
    let app = TestApp::start_app(app);
    let seen = app.wait_for_state("here.args", |args: &Option<TrainArgs>| args.is_some());
    assert_eq!(seen, Some(args));
    assert_eq!(app.state().get("epochs").expect("a field").to_json(), json!(7));
    app.stop().result.expect("it stops");
}

fn embedded_app_without_required_arguments_does_not_start() {
    let start = |app: App| TestApp::try_start(app).err().expect("it does not start").to_string();
    let error = start(App::with_args(|args: TrainArgs| Trainer::new(&args)));
    assert!(error.contains("incomplete") && error.contains("--epochs"), "{error}");
    let app = App::with_args(|args: TrainArgs| Trainer::new(&args)).args(&3).expect("it serialises");
    let error = start(app);
    assert!(error.contains("are a `i32`, not a `"), "{error}");
}
