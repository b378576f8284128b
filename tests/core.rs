//! The actor core: the parts that exist without any feature of Flowright. Also run with `--no-default-features`.
//!
//! Programs are this test binary, started again with [`PROGRAM`] set; so it has its own `main`.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use flowright::prelude::*;
use flowright::testing::TestApp;
use libtest_mimic::{Arguments, Trial};

/// Environment variable that names the program to run instead of the tests.
const PROGRAM: &str = "FLOWRIGHT_TEST_PROGRAM";

fn main() -> ExitCode {
    match std::env::var(PROGRAM).as_deref() {
        Ok("serving") => return App::new(Serving::default).main(),
        Ok("failing") => return App::new(|| Failing).main(),
        _ => {}
    }
    let tests: &[(&str, fn())] = &[
        ("core_app_runs_to_its_end", core_app_runs_to_its_end),
        #[cfg(not(feature = "remote"))]
        ("placement_without_its_feature_names_the_feature", placement_without_its_feature_names_the_feature),
        ("program_ends_in_good_order_at_sigterm", program_ends_in_good_order_at_sigterm),
        ("program_with_a_failing_flow_exits_with_1", program_with_a_failing_flow_exits_with_1),
        ("program_refuses_an_unknown_argument", program_refuses_an_unknown_argument),
    ];
    let tests = tests.iter().map(|(name, test)| {
        Trial::test(*name, move || {
            test();
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), tests.collect()).exit_code()
}

/// A Work that keeps a sum, fails once, and answers messages.
#[derive(Default, Serialize, Deserialize)]
struct Adder {
    sum: u64,
    kept: Option<Payload<Vec<u64>>>,
}

impl Work for Adder {
    type Input = u64;

    async fn run(&mut self, amount: u64, cx: &mut WorkContext<Self>) -> Result<()> {
        if amount == 13 && self.kept.is_none() {
            self.kept = Some(cx.payload(vec![amount])?);
            cx.publish(self);
            bail!("13 fails at the first attempt");
        }
        self.sum += amount;
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct Sum;

impl Handle<Sum> for Adder {
    type Reply = u64;

    async fn handle(&mut self, _: Sum, _cx: &mut WorkContext<Self>) -> u64 {
        self.sum
    }
}

/// A Work that asks another Work, and reads its payload.
#[derive(Default, Serialize, Deserialize)]
struct Reader {
    seen: u64,
}

impl Work for Reader {
    type Input = (WorkAddr<Adder>, Payload<Vec<u64>>);

    async fn run(&mut self, (adder, payload): Self::Input, _cx: &mut WorkContext<Self>) -> Result<()> {
        self.seen = adder.ask(Sum).await? + payload.value().await?[0];
        Ok(())
    }
}

#[derive(Serialize, Children)]
struct Root {
    adder: WorkRef<Adder>,
    reader: WorkRef<Reader>,
}

impl Default for Root {
    fn default() -> Self {
        let adder = WorkRef::new(Adder::default()).restart(Restart::on_failure().max(1));
        Self { adder, reader: WorkRef::new(Reader::default()).placed(Placement::Pool) }
    }
}

impl Flow for Root {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        self.adder.run(13).finished()?;
        let Some(kept) = self.adder.run(29).finished()?.kept.clone() else { return Ok(()) };
        let reader = self.reader.run((self.adder.addr(), kept)).finished()?;
        assert_eq!(
            reader.seen,
            13 + 29 + 13,
            "the sum in the adder's state, and the first number of its payload"
        );
        cx.stop("all was read");
        Ok(())
    }
}

/// Works on threads and in the pool run, fail, restart, answer, and pass payloads to each other.
fn core_app_runs_to_its_end() {
    TestApp::start(Root::default).wait_for_exit().result.unwrap();
}

#[cfg(not(feature = "remote"))]
#[derive(Serialize, Children)]
struct Elsewhere {
    adder: WorkRef<Adder>,
}

#[cfg(not(feature = "remote"))]
impl Flow for Elsewhere {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        self.adder.run(1);
        Ok(())
    }
}

/// A placement that needs a feature which is off names that feature.
#[cfg(not(feature = "remote"))]
fn placement_without_its_feature_names_the_feature() {
    for placement in [Placement::Process, "gpu-1".parse().unwrap()] {
        let make = move || Elsewhere { adder: WorkRef::new(Adder::default()).placed(placement) };
        let error = TestApp::start(make).wait_for_exit().result.unwrap_err().to_string();
        assert!(error.contains("feature `remote`"), "{placement}: {error}");
    }
}

/// A Work that runs until it is asked to stop, and says both.
#[derive(Default, Serialize, Deserialize)]
struct Server {}

impl Work for Server {
    type Input = ();

    async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
        println!("the Work runs");
        cx.serve_forever(self).await?;
        Ok(())
    }

    async fn on_stop(&mut self, _cx: &mut WorkContext<Self>) -> Result<()> {
        println!("the Work stops");
        Ok(())
    }
}

#[derive(Default, Serialize, Children)]
struct Serving {
    server: WorkRef<Server>,
}

impl Flow for Serving {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        self.server.run(());
        Ok(())
    }
}

/// A Flow that fails.
#[derive(Serialize, Children)]
struct Failing;

impl Flow for Failing {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        Err(anyhow!("the plan cannot be read"))
    }
}

/// Starts a program, which is ended with the test.
fn start(program: &str, arguments: &[&str]) -> Program {
    let mut command = Command::new(std::env::current_exe().expect("a test has a path"));
    command.env(PROGRAM, program).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    Program(command.spawn().expect("the test's own binary starts"))
}

/// A process that is killed on drop.
struct Program(Child);

impl Program {
    /// Waits until the program has ended. Returns its exit code and what it has written to stdout and stderr.
    fn end(mut self) -> (Option<i32>, String, String) {
        let (mut out, mut err) = (String::new(), String::new());
        // The programs write less than a pipe holds.
        self.0.stdout.take().expect("piped").read_to_string(&mut out).expect("valid UTF-8");
        self.0.stderr.take().expect("piped").read_to_string(&mut err).expect("valid UTF-8");
        (self.0.wait().expect("the program is a child of this process").code(), out, err)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // The process may have ended before.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `App::main` stops the Works at SIGTERM, and ends with exit code 0.
fn program_ends_in_good_order_at_sigterm() {
    let mut program = start("serving", &[]);
    let mut out = BufReader::new(program.0.stdout.take().expect("piped"));
    let mut line = String::new();
    while line != "the Work runs\n" {
        line.clear();
        assert_ne!(out.read_line(&mut line).expect("valid UTF-8"), 0, "the program has ended");
    }
    let ended = Command::new("kill").args(["-s", "TERM", &program.0.id().to_string()]).status();
    assert!(ended.expect("`kill` can be run").success());
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("valid UTF-8");
    let end = "Your Flowright App is being stopped. This won't take long.\n\
               the Work stops\n\
               Your Flowright App has been stopped successfully!\n";
    assert_eq!(rest, end);
    assert_eq!(program.0.wait().expect("the program is a child of this process").code(), Some(0));
}

/// `App::main` prints the failure of a Flow with its cause, and ends with exit code 1.
fn program_with_a_failing_flow_exits_with_1() {
    let (code, out, err) = start("failing", &[]).end();
    assert_eq!(code, Some(1), "{out}{err}");
    assert!(err.contains("ERROR: ") && err.contains("the plan cannot be read"), "{err}");
    assert!(!out.contains("successfully"), "{out}");
}

/// An argument that the program does not have is wrong usage; without the feature `cli`, all are, and it is named.
fn program_refuses_an_unknown_argument() {
    let (code, out, err) = start("serving", &["--unknown"]).end();
    assert_eq!((code, out.as_str()), (Some(2), ""), "{err}");
    assert!(err.contains("--unknown"), "{err}");
    assert_eq!(err.contains("feature `cli`"), cfg!(not(feature = "cli")), "{err}");
}
