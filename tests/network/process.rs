//! Processes of this binary.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use crate::{LIMIT, VARIABLE};

/// This binary as the program that [`crate::program`] is.
pub(crate) fn program(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a test knows its file"));
    command.args(arguments).env(VARIABLE, name).env("FLOWRIGHT_TOKEN", "a secret of some length");
    command
}

pub(crate) struct Process {
    child: Child,
    lines: Receiver<String>,
    pub(crate) seen: Vec<String>,
}

impl Process {
    pub(crate) fn start(mut command: Command) -> Self {
        let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().expect("`ip` starts it");
        let (sender, lines) = channel();
        let out: Box<dyn std::io::Read + Send> = Box::new(child.stdout.take().expect("it is piped"));
        let err: Box<dyn std::io::Read + Send> = Box::new(child.stderr.take().expect("it is piped"));
        for stream in [out, err] {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let _ = sender.send(line);
                }
            });
        }
        Self { child, lines, seen: Vec::new() }
    }

    #[track_caller]
    pub(crate) fn expect(&mut self, part: &str) -> String {
        loop {
            if let Some(line) = self.seen.iter().find(|line| line.contains(part)) {
                return line.clone();
            }
            match self.lines.recv_timeout(LIMIT) {
                Ok(line) if self.seen.len() < 500 => self.seen.push(line),
                _ => panic!("{part:?} was not written; there was {:#?}", self.seen),
            }
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        crate::run("kill", &["-s", name, &self.child.id().to_string()]);
    }

    pub(crate) fn has_seen(&self, part: &str) -> bool {
        self.seen.iter().any(|line| line.contains(part))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
