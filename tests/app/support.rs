//! Processes of the test binary, and HTTP requests.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use serde_json::Value as Json;

use crate::json_patch::apply;
use crate::programs;

/// Time limit for every event that a test waits for.
pub(crate) const LIMIT: Duration = Duration::from_secs(180);

/// A running program of [`programs`]. Killed on drop.
pub(crate) struct Process {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Process {
    /// Starts a program without a browser.
    pub(crate) fn start(program: &str, arguments: &[&str]) -> Self {
        let mut command =
            Command::new(std::env::current_exe().expect("the path of the test binary is known"));
        command.env(programs::VARIABLE, program).env_remove("GREETING").env_remove("RUST_LOG");
        command.arg("--open-ui=false").args(arguments);
        Self::start_command(command)
    }

    /// Starts any command.
    pub(crate) fn start_command(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the test's own binary starts");
        let (sender, lines) = channel();
        let out: Box<dyn Read + Send> = Box::new(child.stdout.take().expect("the stream is piped"));
        let err: Box<dyn Read + Send> = Box::new(child.stderr.take().expect("the stream is piped"));
        for (name, stream) in [("out", out), ("err", err)] {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    // The receiver may be gone.
                    let _ = sender.send(format!("{name}| {line}"));
                }
            });
        }
        Self { child, lines, seen: Vec::new() }
    }

    /// Reads until a line contains `part`, and returns that line. Lines begin with `out| ` or `err| `.
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

    /// Reads until the App is served, and returns its address.
    pub(crate) fn address(&mut self) -> SocketAddr {
        let line = self.expect("/view");
        let (_, url) = line.split_once("http://").expect("the line has a URL");
        url.trim_end_matches("/view").parse().expect("the URL has an address")
    }

    /// The resident memory of the process, in bytes.
    pub(crate) fn memory(&self) -> usize {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id())).unwrap_or_default();
        let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok());
        pages.expect("the process is alive") * 4096
    }

    /// The number of its open files and connections.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("the process is alive").count()
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(sent.expect("`kill` can be run").success());
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

    /// Sends the line for which a Work waits on stdin.
    pub(crate) fn send_line(&mut self) {
        let stdin = self.child.stdin.as_mut().expect("the stream is piped");
        stdin.write_all(b"\n").expect("the program reads");
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
        let status: ExitStatus = self.child.wait().expect("the process is a child of the test");
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

/// Asserts that one of `lines` contains `part`.
#[track_caller]
pub(crate) fn assert_line(lines: &[String], part: &str) {
    assert!(lines.iter().any(|line| line.contains(part)), "{part:?} is not in {lines:#?}");
}

/// An HTTP response.
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

/// Connects with a time limit on every read.
pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the App is served");
    stream.set_read_timeout(Some(LIMIT)).expect("a socket can have a limit");
    stream
}

pub(crate) fn get(address: SocketAddr, path: &str) -> Answer {
    get_as(address, path, &address.to_string())
}

/// Sends a GET request with another host name.
pub(crate) fn get_as(address: SocketAddr, path: &str, host: &str) -> Answer {
    request(address, format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes())
}

/// Sends these bytes and reads until the server closes the connection.
pub(crate) fn request(address: SocketAddr, bytes: &[u8]) -> Answer {
    let mut stream = connect(address);
    stream.write_all(bytes).expect("the server listens");
    let mut text = Vec::new();
    // A server may reset the connection after an invalid request.
    let _ = stream.read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

/// Sends a POST request with a JSON body.
pub(crate) fn post(address: SocketAddr, path: &str, body: &str) -> Answer {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    request(address, format!("{head}{body}").as_bytes())
}

/// Sends a GET request with more headers, which end in line breaks.
pub(crate) fn get_with(address: SocketAddr, path: &str, headers: &str) -> Answer {
    let head = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n");
    request(address, head.as_bytes())
}

/// One server-sent event.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) data: Json,
}

/// The event stream of a server, and the document that its events add up to.
pub(crate) struct Events {
    stream: BufReader<TcpStream>,
    /// The document as a client knows it that has received all events.
    pub(crate) document: Json,
    pub(crate) last: u64,
    pub(crate) missed: u64,
}

impl Events {
    pub(crate) fn open(address: SocketAddr) -> Self {
        Self::open_with(address, "")
    }

    /// Opens the stream with more headers, which end in line breaks.
    pub(crate) fn open_with(address: SocketAddr, headers: &str) -> Self {
        let mut stream = connect(address);
        let head = format!("GET /api/v1/events HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).expect("the server listens");
        Self { stream: BufReader::new(stream), document: Json::Null, last: 0, missed: 0 }
    }

    /// Reads the next whole line.
    fn line(&mut self) -> String {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line).expect("something comes in time");
        assert!(read > 0, "the server has hung up");
        line
    }

    /// Returns the content of the next chunk of the body.
    fn chunk(&mut self) -> Vec<u8> {
        loop {
            let line = self.line();
            // The head of the response has no line that is only a number.
            if let Ok(length) = usize::from_str_radix(line.trim(), 16)
                && !line.trim().is_empty()
            {
                let mut chunk = vec![0; length + 2];
                self.stream.read_exact(&mut chunk).expect("the chunk comes whole");
                chunk.truncate(length);
                return chunk;
            }
        }
    }

    /// Reads whole events from as many chunks as they take.
    pub(crate) fn some(&mut self) -> Vec<Event> {
        let mut text = Vec::new();
        while !text.ends_with(b"\n\n") {
            text.extend(self.chunk());
        }
        let text = String::from_utf8(text).expect("events are text");
        let parse = |part: &str| {
            let field = |name: &str| part.lines().find_map(|line| line.strip_prefix(name));
            Some(Event {
                id: field("id: ")?.parse().expect("ids are numbers"),
                name: field("event: ")?.to_owned(),
                data: serde_json::from_str(field("data: ")?).expect("events are JSON"),
            })
        };
        let events: Vec<_> = text.split("\n\n").filter_map(parse).collect();
        for event in &events {
            self.take(event);
        }
        events
    }

    fn take(&mut self, event: &Event) {
        assert!(event.id >= self.last, "{event:?} after {}", self.last);
        self.last = event.id;
        match event.name.as_str() {
            "snapshot" => self.document = event.data.clone(),
            "patch" => {
                for operation in event.data["ops"].as_array().expect("an array") {
                    apply(&mut self.document, operation);
                }
                assert_eq!(self.document["version"], event.data["version"]);
            }
            "missed" => self.missed += event.data["events"].as_u64().expect("a number"),
            "log" => {}
            other => panic!("there is an event `{other}`"),
        }
    }

    /// Reads until `is_so` is true of the document.
    pub(crate) fn until(&mut self, is_so: impl Fn(&Json) -> bool) -> &Json {
        while !is_so(&self.document) {
            self.some();
        }
        &self.document
    }

    /// Reads until the server closes the connection.
    pub(crate) fn drain(mut self) {
        let mut rest = Vec::new();
        // Every way of closing is accepted; only a connection that stays open is an error.
        let end = self.stream.read_to_end(&mut rest).map_err(|error| error.kind());
        let hangs = matches!(end, Err(ErrorKind::WouldBlock | ErrorKind::TimedOut));
        assert!(!hangs, "the connection stays open");
    }
}
