//! Spans as a collector gets them from a head and a node: from a publish on the node, through the Flow, to the run that
//! it requested, and from there to the handler of a message on the node.
//!
//! The processes are this test binary, started again with [`PROGRAM`] set; so it has its own `main`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use flowright::Messages;
use flowright::prelude::*;
use libtest_mimic::{Arguments, Trial};

/// Environment variable of the processes that take part in the App.
const PROGRAM: &str = "FLOWRIGHT_TEST_PROGRAM";

/// Time limit for every event that a test waits for.
const LIMIT: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    if std::env::var_os(PROGRAM).is_some() {
        return App::new(Pipeline::default).main();
    }
    let test = Trial::test(
        "a_change_is_followed_from_a_node_by_way_of_the_flow_to_a_run_and_back_by_a_message",
        || {
            a_change_is_followed_from_a_node_by_way_of_the_flow_to_a_run_and_back_by_a_message();
            Ok(())
        },
    );
    libtest_mimic::run(&Arguments::from_args(), vec![test]).exit_code()
}

#[derive(Default, Serialize, Deserialize)]
struct Counter {
    count: u32,
    added: u32,
}

impl Work for Counter {
    type Input = (u32, Option<WorkAddr<Counter>>);

    async fn run(&mut self, (count, other): Self::Input, cx: &mut WorkContext<Self>) -> Result<()> {
        self.count = count;
        cx.publish(self);
        if let Some(other) = other {
            other.tell(Add(count)).await?;
        }
        cx.serve_forever(self).await?;
        Ok(())
    }

    fn messages(messages: &mut Messages<Self>) {
        messages.accept::<Add>();
    }
}

#[derive(Serialize, Deserialize)]
struct Add(u32);

impl Handle<Add> for Counter {
    type Reply = ();

    async fn handle(&mut self, Add(more): Add, cx: &mut WorkContext<Self>) {
        self.added += more;
        cx.publish(self);
    }
}

#[derive(Default, Serialize, Children)]
struct Pipeline {
    first: WorkRef<Counter>,
    second: WorkRef<Counter>,
}

impl Flow for Pipeline {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        self.first.run((7, None));
        if self.first.count > 0 {
            self.second.run((self.first.count, Some(self.first.addr())));
        }
        Ok(())
    }
}

/// A process that is killed on drop.
struct Process(Child);

impl Process {
    fn start(service: &str, collector: &str, arguments: &[&str]) -> Self {
        let mut command =
            Command::new(std::env::current_exe().expect("the path of the test binary is known"));
        command.env(PROGRAM, "pipeline").env_remove("FLOWRIGHT_TOKEN");
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector).env("OTEL_SERVICE_NAME", service);
        command.env("OTEL_BSP_SCHEDULE_DELAY", "50").args(arguments).stderr(Stdio::piped());
        Self(command.stdout(Stdio::null()).spawn().expect("the test's own binary starts"))
    }

    /// Returns the text that follows `part` in its log.
    fn after(&mut self, part: &str) -> String {
        let log = BufReader::new(self.0.stderr.take().expect("the stream is piped"));
        let mut lines = log.lines().map_while(Result::ok);
        let found = lines.find_map(|line| Some(line.split_once(part)?.1.to_owned()));
        // The process must not block on a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        found.unwrap_or_else(|| panic!("it has not logged {part:?}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The process may have ended before.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[derive(Debug)]
struct Span {
    service: String,
    name: String,
    trace: Vec<u8>,
    id: Vec<u8>,
    parent: Vec<u8>,
}

/// The fields of a message of protobuf that have a length, with their numbers.
fn fields(mut bytes: &[u8]) -> Vec<(u64, &[u8])> {
    fn number(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for place in 0.. {
            let (first, rest) = bytes.split_first().expect("the message is whole");
            *bytes = rest;
            value |= u64::from(first & 0x7f) << (7 * place);
            if first & 0x80 == 0 {
                break;
            }
        }
        value
    }
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = number(&mut bytes);
        match key & 7 {
            0 => drop(number(&mut bytes)),
            1 => bytes = &bytes[8..],
            2 => {
                let length = usize::try_from(number(&mut bytes)).expect("it is here");
                found.push((key >> 3, &bytes[..length]));
                bytes = &bytes[length..];
            }
            5 => bytes = &bytes[4..],
            other => panic!("there is no wire type {other}"),
        }
    }
    found
}

fn all(bytes: &[u8], number: u64) -> Vec<&[u8]> {
    fields(bytes).into_iter().filter(|(field, _)| *field == number).map(|(_, value)| value).collect()
}

fn first(bytes: &[u8], number: u64) -> &[u8] {
    all(bytes, number).first().copied().unwrap_or_default()
}

/// The spans of an `ExportTraceServiceRequest`.
fn spans(request: &[u8]) -> Vec<Span> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("valid UTF-8");
    let mut found = Vec::new();
    for resource in all(request, 1) {
        let attributes = all(first(resource, 1), 1);
        let service = attributes.into_iter().find(|attribute| first(attribute, 1) == b"service.name");
        let service = text(first(first(service.expect("it has a name"), 2), 1));
        for scope in all(resource, 2) {
            found.extend(all(scope, 2).into_iter().map(|span| Span {
                service: service.clone(),
                name: text(first(span, 5)),
                trace: first(span, 1).to_vec(),
                id: first(span, 2).to_vec(),
                parent: first(span, 4).to_vec(),
            }));
        }
    }
    found
}

/// Receives the exports of one connection.
fn collect(stream: TcpStream, sender: &Sender<Span>) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut length = 0;
        let mut line = String::new();
        loop {
            line.clear();
            if reader.read_line(&mut line).is_ok_and(|read| read == 0) {
                return;
            }
            let lower = line.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().expect("it is a number");
            }
            if line.starts_with("POST ") {
                assert!(line.starts_with("POST /v1/traces "), "{line}");
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).expect("the body comes whole");
        spans(&body).into_iter().for_each(|span| drop(sender.send(span)));
        let answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n";
        if reader.get_mut().write_all(answer).is_err() {
            return;
        }
    }
}

fn collector() -> (String, Receiver<Span>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let address = listener.local_addr().expect("the socket has an address");
    let (sender, spans) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let sender = sender.clone();
            std::thread::spawn(move || collect(stream, &sender));
        }
    });
    (format!("http://{address}"), spans)
}

/// The ancestors of a span, the nearest first, as `service: name`, while they are of its trace.
fn ancestors(of: &Span, all: &[Span]) -> Vec<String> {
    let mut chain = Vec::new();
    let mut parent = &of.parent;
    while let Some(span) = all.iter().find(|span| span.id == *parent && span.trace == of.trace) {
        chain.push(format!("{}: {}", span.service, span.name));
        parent = &span.parent;
    }
    chain
}

fn a_change_is_followed_from_a_node_by_way_of_the_flow_to_a_run_and_back_by_a_message() {
    let (url, incoming) = collector();
    let head = ["--open-ui=false", "--port", "0", "--listen", "127.0.0.1:0", "--place", "first=n"];
    let mut head = Process::start("head", &url, &head);
    let joining = head.after("nodes join at ");
    let mut node = Process::start("node", &url, &["node", "--join", joining.trim(), "--name", "n"]);
    node.after("joined the App");
    let until = Instant::now() + LIMIT;
    let mut spans: Vec<Span> = Vec::new();
    let next = |spans: &mut Vec<Span>| {
        let left = until.saturating_duration_since(Instant::now());
        spans.push(incoming.recv_timeout(left).unwrap_or_else(|_| panic!("only these came: {spans:#?}")));
    };
    // Both runs go on until they are stopped, and a span is exported when it is over.
    while !spans.iter().any(|span| span.name == "handle first") {
        next(&mut spans);
    }
    let stopped = Command::new("kill").args(["-s", "TERM", &head.0.id().to_string()]).status();
    assert!(stopped.expect("`kill` can be run").success());
    let leads_to = |name: &str, wanted: &[&str], spans: &[Span]| {
        spans.iter().filter(|span| span.name == name).any(|span| ancestors(span, spans) == wanted)
    };
    let to_run = ["head: react root", "node: publish first", "node: run first", "head: react root"];
    let to_publish = [&["node: handle first", "head: run second"], &to_run[..]].concat();
    while !leads_to("run second", &to_run, &spans) || !leads_to("publish first", &to_publish, &spans) {
        next(&mut spans);
    }
}
