//! Spans as a collector gets them from a head and a node: from a publish on the node, through the Flow, to the run that
//! it requested, and from there to the handler of a message on the node. Also spans as a `tracing` subscriber of the
//! program's own gets them, with and without the layer that exports them.
//!
//! The processes are this test binary, started again with [`PROGRAM`] set; so it has its own `main`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};

use flowright::Messages;
use flowright::prelude::*;
use libtest_mimic::{Arguments, Trial};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::Context as LayerContext;
use tracing_subscriber::prelude::*;
use tracing_subscriber::registry::LookupSpan;

/// Environment variable of the processes that take part in the App.
const PROGRAM: &str = "FLOWRIGHT_TEST_PROGRAM";

/// Time limit for every event that a test waits for.
const LIMIT: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    if let Ok(program) = std::env::var(PROGRAM) {
        let spans = Targets::new().with_target("flowright", Level::DEBUG);
        match program.as_str() {
            "own" => tracing_subscriber::registry()
                .with(Printer.with_filter(spans))
                .with(flowright::otlp_layer())
                .init(),
            "plain" => tracing_subscriber::registry().with(Printer.with_filter(spans)).init(),
            _ => {}
        }
        return App::new(Pipeline::default).main();
    }
    let tests: [(&str, fn()); 4] = [
        ("change_is_followed_through_flow_run_and_message", || change_is_followed("none")),
        ("own_subscriber_with_the_otlp_layer_exports_spans", || change_is_followed("own")),
        ("own_subscriber_sees_names_paths_and_parents", own_subscriber_sees_names_paths_and_parents),
        ("spans_without_a_subscriber_are_not_logged", spans_without_a_subscriber_are_not_logged),
    ];
    let tests = tests.map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), tests.into()).exit_code()
}

/// A layer that prints each span with its path and its parent.
struct Printer;

impl<S: Subscriber + for<'span> LookupSpan<'span>> Layer<S> for Printer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, cx: LayerContext<'_, S>) {
        let mut path = Path(String::new());
        attributes.record(&mut path);
        let span = cx.span(id).expect("the span is new");
        let parent = span.parent().map_or("none", |parent| parent.name());
        eprintln!("span {} {} below {parent}.", span.name(), path.0);
    }
}

/// The path of the Work or Flow that a span is of.
struct Path(String);

impl Visit for Path {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "flowright.path" {
            value.clone_into(&mut self.0);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
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

/// A Work whose run fails.
#[derive(Default, Serialize, Deserialize)]
struct Failing {}

impl Work for Failing {
    type Input = ();

    async fn run(&mut self, (): (), _cx: &mut WorkContext<Self>) -> Result<()> {
        tracing::warn!(free = 3, "little space is left");
        bail!("the disk is full")
    }
}

#[derive(Serialize, Children)]
struct Pipeline {
    first: WorkRef<Counter>,
    second: WorkRef<Counter>,
    failing: WorkRef<Failing>,
}

impl Default for Pipeline {
    fn default() -> Self {
        let failing = WorkRef::new(Failing::default()).on_error(OnError::Capture);
        Self { first: WorkRef::default(), second: WorkRef::default(), failing }
    }
}

impl Flow for Pipeline {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        self.first.run((7, None));
        if self.first.count > 0 {
            self.failing.run(());
            self.second.run((self.first.count, Some(self.first.addr())));
        }
        Ok(())
    }
}

/// A process that is killed on drop, with the lines of its log.
struct Process(Child, Receiver<String>);

impl Process {
    fn start(program: &str, service: &str, collector: &str, arguments: &[&str]) -> Self {
        let mut command =
            Command::new(std::env::current_exe().expect("the path of the test binary is known"));
        command.env(PROGRAM, program).env_remove("FLOWRIGHT_TOKEN");
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector).env("OTEL_SERVICE_NAME", service);
        command.env("OTEL_BSP_SCHEDULE_DELAY", "50").args(arguments).stderr(Stdio::piped());
        let mut child = command.stdout(Stdio::null()).spawn().expect("the test's own binary starts");
        let log = BufReader::new(child.stderr.take().expect("the stream is piped"));
        let (sender, lines) = channel();
        // Reads to the end in any case: the process must not block on a full pipe.
        std::thread::spawn(move || {
            log.lines().map_while(Result::ok).for_each(|line| drop(sender.send(line)));
        });
        Self(child, lines)
    }

    /// Waits for a line of its log that contains `part`, and returns the text after it.
    fn after(&self, part: &str) -> String {
        let until = Instant::now() + LIMIT;
        let mut log = Vec::new();
        loop {
            let line = self.1.recv_timeout(until.saturating_duration_since(Instant::now()));
            let line = line.unwrap_or_else(|_| panic!("it has not logged {part:?}: {log:#?}"));
            if let Some((_, text)) = line.split_once(part) {
                return text.to_owned();
            }
            log.push(line);
        }
    }

    /// Sends SIGTERM.
    fn terminate(&self) {
        let ended = Command::new("kill").args(["-s", "TERM", &self.0.id().to_string()]).status();
        assert!(ended.expect("`kill` can be run").success());
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
    /// The message of its status.
    status: String,
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
                let length = usize::try_from(number(&mut bytes)).expect("the length fits");
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
        let service = text(first(first(service.expect("the service has a name"), 2), 1));
        for scope in all(resource, 2) {
            found.extend(all(scope, 2).into_iter().map(|span| Span {
                service: service.clone(),
                name: text(first(span, 5)),
                trace: first(span, 1).to_vec(),
                id: first(span, 2).to_vec(),
                parent: first(span, 4).to_vec(),
                status: text(first(first(span, 15), 2)),
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
                length = value.trim().parse().expect("the length is a number");
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

/// Starts a head and a node on which the first Work runs.
fn head_and_node(program: &str, collector: &str) -> (Process, Process) {
    let head = ["--open-ui=false", "--port", "0", "--listen", "127.0.0.1:0", "--place", "first=n"];
    let head = Process::start(program, "head", collector, &head);
    let joining = head.after("nodes join at ");
    let node = ["node", "--join", joining.trim(), "--name", "n"];
    let node = Process::start(program, "node", collector, &node);
    (head, node)
}

/// A change is followed from a node by way of the Flow to a run, and back by a message.
fn change_is_followed(program: &str) {
    let (url, incoming) = collector();
    let (head, _node) = head_and_node(program, &url);
    let until = Instant::now() + LIMIT;
    let mut spans: Vec<Span> = Vec::new();
    let next = |spans: &mut Vec<Span>| {
        let left = until.saturating_duration_since(Instant::now());
        spans.push(incoming.recv_timeout(left).unwrap_or_else(|_| panic!("only these came: {spans:#?}")));
    };
    if program == "none" {
        // The subscriber that the runtime installs does not swallow events.
        head.after("WARN: little space is left free=3");
    }
    // Both runs go on until they are stopped, and a span is exported when it is over.
    while !spans.iter().any(|span| span.name == "handle first") {
        next(&mut spans);
    }
    head.terminate();
    let leads_to = |name: &str, wanted: &[&str], spans: &[Span]| {
        spans.iter().filter(|span| span.name == name).any(|span| ancestors(span, spans) == wanted)
    };
    let to_run = ["head: react root", "node: publish first", "node: run first", "head: react root"];
    let to_publish = [&["node: handle first", "head: run second"], &to_run[..]].concat();
    let has_failed = |span: &Span| span.name == "run failing" && span.status == "the disk is full";
    while !leads_to("run second", &to_run, &spans)
        || !leads_to("publish first", &to_publish, &spans)
        || !spans.iter().any(has_failed)
    {
        next(&mut spans);
    }
}

/// A `tracing` subscriber of the program's own sees the spans of both processes. Without an OpenTelemetry layer no cause
/// is known: the parent of a span is the one that it was made in, messages are handled all the same, and nothing is
/// exported.
fn own_subscriber_sees_names_paths_and_parents() {
    let (url, incoming) = collector();
    let (head, node) = head_and_node("plain", &url);
    head.after("span react root below none.");
    head.after("span run second below none.");
    node.after("span run first below none.");
    node.after("span publish first below run.");
    node.after("span handle first below run.");
    node.after("span publish first below handle.");
    head.terminate();
    for mut process in [head, node] {
        assert!(process.0.wait().expect("the process is a child of the test").success());
    }
    assert!(matches!(incoming.try_recv(), Err(TryRecvError::Empty)), "spans were exported");
}

/// With neither a subscriber nor a collector there are no spans, and none is written to the log instead.
fn spans_without_a_subscriber_are_not_logged() {
    let head = ["--open-ui=false", "--port", "0", "--place", "first=pool", "--log-level", "trace"];
    let mut head = Process::start("none", "head", "", &head);
    head.after("little space is left");
    head.terminate();
    assert!(head.0.wait().expect("the head is a child of the test").success());
    let spans: Vec<String> = head.1.iter().filter(|line| line.contains("flowright.path")).collect();
    assert!(spans.is_empty(), "{spans:#?}");
}
