//! Processes and requests.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use serde_json::Value as Json;

use crate::programs;

/// How long anything that must come may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// A program of [`programs`] that runs. Dropping it kills it.
pub(crate) struct Process {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Process {
    /// Starts a program without a browser.
    pub(crate) fn start(program: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("a test knows its file"));
        command.env(programs::VARIABLE, program).env_remove("GREETING").env_remove("RUST_LOG");
        command.arg("--open-ui=false").args(arguments);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the test's own binary starts");
        let (sender, lines) = channel();
        let out: Box<dyn Read + Send> = Box::new(child.stdout.take().expect("it is piped"));
        let err: Box<dyn Read + Send> = Box::new(child.stderr.take().expect("it is piped"));
        for (name, stream) in [("out", out), ("err", err)] {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    // Nobody may be interested any more.
                    let _ = sender.send(format!("{name}| {line}"));
                }
            });
        }
        Self { child, lines, seen: Vec::new() }
    }

    /// Reads until a line contains `part`, and gives it. Lines begin with `out| ` or `err| `.
    pub(crate) fn expect(&mut self, part: &str) -> String {
        loop {
            if let Some(line) = self.seen.iter().find(|line| line.contains(part)) {
                return line.clone();
            }
            match self.lines.recv_timeout(LIMIT) {
                Ok(line) => self.seen.push(line),
                Err(_) => panic!("{part:?} was not written; there was {:#?}", self.seen),
            }
        }
    }

    /// Reads until it is served, and gives where.
    pub(crate) fn address(&mut self) -> SocketAddr {
        let line = self.expect("/view");
        let (_, url) = line.split_once("http://").expect("it has a URL");
        url.trim_end_matches("/view").parse().expect("the URL has an address")
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(sent.expect("there is a kill").success());
    }

    /// Repeats a signal until a line contains `part`.
    pub(crate) fn signal_until(&mut self, name: &str, part: &str) {
        while !self.seen.iter().any(|line| line.contains(part)) {
            self.signal(name);
            match self.lines.recv_timeout(Duration::from_millis(50)) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => panic!("{part:?} was not written: {:#?}", self.seen),
            }
        }
    }

    /// Lets go a Work that waits for a line on stdin.
    pub(crate) fn send_line(&mut self) {
        let stdin = self.child.stdin.as_mut().expect("it is piped");
        stdin.write_all(b"\n").expect("it reads");
    }

    /// Reads until it ends; its exit code and all its lines.
    pub(crate) fn end(mut self) -> (Option<i32>, Vec<String>) {
        loop {
            match self.lines.recv_timeout(LIMIT) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it did not end; there was {:#?}", self.seen),
            }
        }
        let status: ExitStatus = self.child.wait().expect("it can be waited for");
        (status.code(), std::mem::take(&mut self.seen))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Some of `lines` contains `part`.
#[track_caller]
pub(crate) fn assert_line(lines: &[String], part: &str) {
    assert!(lines.iter().any(|line| line.contains(part)), "{part:?} is not in {lines:#?}");
}

/// An answer of a server.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Json {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

/// Connects with a limit on every read.
pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("it is served");
    stream.set_read_timeout(Some(LIMIT)).expect("a socket can have a limit");
    stream
}

pub(crate) fn get(address: SocketAddr, path: &str) -> Answer {
    get_as(address, path, &address.to_string())
}

/// Asks under another name.
pub(crate) fn get_as(address: SocketAddr, path: &str, host: &str) -> Answer {
    request(address, format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes())
}

/// Sends these bytes and reads what comes until the server hangs up.
pub(crate) fn request(address: SocketAddr, bytes: &[u8]) -> Answer {
    let mut stream = connect(address);
    stream.write_all(bytes).expect("it listens");
    let mut text = Vec::new();
    // A server that was told nonsense may reset the connection.
    let _ = stream.read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

/// The events of a server, as they come.
pub(crate) struct Events(BufReader<TcpStream>);

impl Events {
    pub(crate) fn open(address: SocketAddr) -> Self {
        let mut stream = connect(address);
        write!(stream, "GET /api/v1/events HTTP/1.1\r\nHost: {address}\r\n\r\n").expect("it listens");
        Self(BufReader::new(stream))
    }

    /// The next line that is there, whole.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        let read = self.0.read_line(&mut line).expect("something comes in time");
        assert!(read > 0, "the server has hung up");
        line
    }

    /// The data of the next event.
    pub(crate) fn next(&mut self) -> Json {
        loop {
            // The sizes of the chunks are on lines of their own.
            if let Some(data) = self.line().strip_prefix("data: ") {
                return serde_json::from_str(data.trim_end()).expect("events are JSON");
            }
        }
    }

    /// Reads until the server hangs up.
    pub(crate) fn drain(mut self) {
        let mut rest = Vec::new();
        // How it hangs up is no matter; only a server that does not is one.
        let end = self.0.read_to_end(&mut rest).map_err(|error| error.kind());
        let hangs = matches!(end, Err(ErrorKind::WouldBlock | ErrorKind::TimedOut));
        assert!(!hangs, "the connection stays open");
    }
}
