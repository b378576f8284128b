//! Processes of the test binary, and their output.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// Environment variable with the name of the program that the binary runs.
pub(crate) const VARIABLE: &str = "FLOWRIGHT_TEST_PROGRAM";

/// Time limit for every event that a test waits for, far above the time on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(180);

/// The number of lines that are read in search of one.
const MOST_LINES: usize = 5_000;

/// A process of the test binary. Killed on drop.
pub(crate) struct Process {
    child: Child,
    lines: Receiver<String>,
    pub(crate) seen: Vec<String>,
}

impl Process {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("what starts the test's own binary is there");
        let (sender, lines) = channel();
        let out: Box<dyn std::io::Read + Send> = Box::new(child.stdout.take().expect("the stream is piped"));
        let err: Box<dyn std::io::Read + Send> = Box::new(child.stderr.take().expect("the stream is piped"));
        for stream in [out, err] {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    // The receiver may be gone.
                    let _ = sender.send(line);
                }
            });
        }
        Self { child, lines, seen: Vec::new() }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Reads until a line contains `part`, and returns that line.
    #[track_caller]
    pub(crate) fn expect(&mut self, part: &str) -> String {
        loop {
            if let Some(line) = self.seen.iter().find(|line| line.contains(part)) {
                return line.clone();
            }
            match self.lines.recv_timeout(LIMIT) {
                // A process that logs without end does not keep the test from ending.
                Ok(line) if self.seen.len() < MOST_LINES => self.seen.push(line),
                _ => panic!("{part:?} was not written; there was {:#?}", self.seen),
            }
        }
    }

    /// As [`expect`](Self::expect), but only for lines that were not read before.
    #[track_caller]
    pub(crate) fn expect_again(&mut self, part: &str) -> String {
        self.seen.clear();
        self.expect(part)
    }

    /// Returns true once the process has ended.
    #[allow(dead_code, reason = "the chaos tests need it")]
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    /// Reads until the process ends; returns its exit code and all its lines.
    pub(crate) fn end(mut self) -> (Option<i32>, Vec<String>) {
        loop {
            match self.lines.recv_timeout(LIMIT) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it did not end; there was {:#?}", self.seen),
            }
        }
        let status = self.child.wait().expect("the process is a child of the test");
        (status.code(), std::mem::take(&mut self.seen))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The process may have ended before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn signal(process: u32, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &process.to_string()]).status();
    assert!(sent.expect("`kill` can be run").success());
}
