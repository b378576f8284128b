//! Runs each test in a process of its own: leftovers of one test do not affect another, and a test that hangs is
//! killed.

use std::fs::File;
use std::io::Read;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use libtest_mimic::Failed;

use crate::held::{Held, children_of};
use crate::support::signal;

/// Environment variable with the test that this process runs.
pub(crate) const VARIABLE: &str = "FLOWRIGHT_TEST_APART";

/// Time limit for a test.
const LIMIT: Duration = Duration::from_secs(900);

/// Runs the test in another process.
pub(crate) fn start(name: &str) -> Result<(), Failed> {
    let said = std::env::temp_dir().join(format!(
        "flowright-test-{}-{}",
        std::process::id(),
        name.replace(':', "-")
    ));
    let out = File::create(&said)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.env(VARIABLE, name).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    let mut child = command.spawn()?;
    let process = child.id();
    let (send, ended) = channel();
    std::thread::spawn(move || send.send(child.wait()));
    let outcome = match ended.recv_timeout(LIMIT) {
        Ok(status) if status.as_ref().is_ok_and(|status| status.success()) => Ok(()),
        Ok(status) => Err(format!("it ended with {status:?}")),
        Err(_) => {
            end(process);
            Err(format!("it had not ended after {LIMIT:?}"))
        }
    };
    let mut text = Vec::new();
    File::open(&said)?.read_to_end(&mut text)?;
    std::fs::remove_file(&said)?;
    outcome.map_err(|why| format!("{why}; it said:\n{}", String::from_utf8_lossy(&text)).into())
}

/// Kills a process and all its descendants.
fn end(process: u32) {
    for child in children_of(process) {
        end(child);
    }
    signal(process, "KILL");
}

/// Runs the test in this process, and asserts that the process then holds no more resources than before.
pub(crate) fn run(test: fn()) -> ExitCode {
    // The first runtime allocates resources that the process keeps.
    drop(tokio::runtime::Builder::new_current_thread().enable_all().build());
    // Some tests have large values, and the backtrace of a panic takes memory.
    let before = Held::here().whatever_memory();
    test();
    before.is_back();
    let left = children_of(std::process::id());
    assert!(left.is_empty(), "processes were left behind: {left:?}");
    ExitCode::SUCCESS
}
