//! Cost of the control plane: the state over HTTP compared with a handler that returns the same bytes ready-made,
//! latency of events, and latency of publishing while pages are open.
//!
//! The cases alternate within one run, and medians of the rounds are printed. `cargo run --release --bin http
//! [ROUNDS]`; requires `taskset`. `… --bin http app WORKS` serves such an App until its standard input ends, for
//! inspection in a browser.

use std::cell::Cell;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use actix_web::{HttpServer, web};
use flowright::AppHandle;
use flowright::prelude::*;
use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::sync::Notify;

const WORKS: usize = 1000;
const PAGES: usize = 20;

/// Number of connections, each of which sends one request after the other.
const CLIENTS: usize = 8;
const ASK_FOR: Duration = Duration::from_secs(3);

/// Number of publishes at full speed, each as soon as the previous one was seen, and of publishes at intervals of
/// `APART`, where all threads sleep in between.
const FAST: u64 = 20_000;
const SLOW: u64 = 300;
const APART: Duration = Duration::from_millis(30);

// ---- the App ----

#[derive(Serialize, Deserialize)]
struct Worker {
    name: String,
    step: u64,
    loss: f64,
    checkpoint: Option<String>,
}

impl Work for Worker {
    type Input = ();

    async fn run(&mut self, (): (), _: &mut WorkContext<Self>) -> Result<()> {
        self.step += 1;
        Ok(())
    }
}

/// A Work on its own thread that publishes the time of each publish.
#[derive(Default, Serialize, Deserialize)]
struct Publisher {
    stamp: u64,
}

impl Work for Publisher {
    type Input = ();

    async fn run(&mut self, (): (), _: &mut WorkContext<Self>) -> Result<()> {
        Ok(())
    }
}

static SEEN: Notify = Notify::const_new();
static TIMES: Mutex<Vec<f64>> = Mutex::new(Vec::new());

fn now_ns() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// Pins each of the two threads of a publish to a core. The scheduler's placement makes a difference of 4
/// us against 20 us, which is not related to pages.
static PIN: AtomicBool = AtomicBool::new(false);

fn keep_to(core: usize) {
    thread_local!(static KEPT: Cell<bool> = const { Cell::new(false) });
    if PIN.load(Ordering::Acquire) && !KEPT.replace(true) {
        let mut cores = CpuSet::new();
        cores.set(core);
        sched_setaffinity(None, &cores).expect("there are two cores");
    }
}

/// Publishes `count` times, each time after the previous publish was seen. The reply is the median latency in
/// microseconds.
#[derive(Serialize, Deserialize)]
struct Publish {
    count: u64,
    apart: Duration,
}

impl Handle<Publish> for Publisher {
    type Reply = f64;

    async fn handle(&mut self, publish: Publish, cx: &mut WorkContext<Self>) -> f64 {
        TIMES.lock().expect("no panic").clear();
        keep_to(1);
        for _ in 0..publish.count {
            if publish.apart > Duration::ZERO {
                tokio::time::sleep(publish.apart).await;
            }
            self.stamp = now_ns();
            cx.publish(self);
            SEEN.notified().await;
        }
        median(&mut std::mem::take(&mut *TIMES.lock().expect("no panic")))
    }
}

#[derive(Serialize, Children)]
struct Crowd {
    publisher: WorkRef<Publisher>,
    workers: Vec<WorkRef<Worker>>,
    #[serde(skip)]
    seen: u64,
}

impl Flow for Crowd {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        keep_to(0);
        let stamp = self.publisher.stamp;
        if std::mem::replace(&mut self.seen, stamp) != stamp {
            TIMES.lock().expect("no panic").push((now_ns() - stamp) as f64 / 1e3);
            SEEN.notify_one();
        }
        for worker in &self.workers {
            worker.run(());
        }
        Ok(())
    }
}

async fn crowd(works: usize) -> AppHandle {
    let worker = |number| Worker {
        name: format!("worker number {number}"),
        step: number,
        loss: 0.25,
        checkpoint: Some(format!("/some/path/step={number}")),
    };
    let make = move || Crowd {
        publisher: WorkRef::from(Publisher::default()),
        workers: (0..works as u64).map(|n| WorkRef::new(worker(n)).placed(Placement::Pool)).collect(),
        seen: 0,
    };
    let app = App::new(make).serve(SocketAddr::from(([127, 0, 0, 1], 0))).spawn().await.expect("it starts");
    loop {
        let status = app.control().status().await.expect("it runs");
        if status.works.values().filter(|work| work.successes == 1).count() == works {
            return app;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

// ---- programs that this one starts ----

/// A child process, killed on drop.
struct Program(Child);

impl Program {
    /// Starts this program as a child process, pinned to a core if one is given.
    fn start(core: Option<&str>, arguments: &[&str]) -> Self {
        let this = std::env::current_exe().expect("a program knows its file");
        let mut command = match core {
            None => Command::new(this),
            Some(core) => {
                let mut command = Command::new("taskset");
                command.args(["-c", core]).arg(this);
                command
            }
        };
        let command = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        Self(command.spawn().expect("it starts; it takes `taskset`"))
    }

    /// Returns the next line that the child prints.
    fn line(&mut self) -> String {
        let mut line = String::new();
        let out = self.0.stdout.as_mut().expect("it is piped");
        BufReader::with_capacity(1, out).read_line(&mut line).expect("it prints");
        line.trim().to_owned()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Prints a line for the parent, and waits until the parent closes standard input.
fn say_and_wait(what: impl std::fmt::Display) {
    println!("{what}");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

/// Serves a handler that returns the given bytes: the lower bound for an HTTP response.
async fn floor(bytes: Vec<u8>) {
    let bytes = bytes::Bytes::from(bytes);
    let handler = move || {
        let bytes = bytes.clone();
        async move { actix_web::HttpResponse::Ok().content_type("application/json").body(bytes) }
    };
    let server =
        HttpServer::new(move || actix_web::App::new().route("/api/v1/state", web::get().to(handler.clone())));
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    println!("{}", listener.local_addr().expect("it has one"));
    server.workers(1).listen(listener).expect("it listens").run().await.expect("it serves");
}

fn request(path: &str, address: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n")
}

/// Reads one response with a `Content-Length` into `buffer`, and returns the offset of its body.
fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> usize {
    buffer.clear();
    let mut whole = None;
    let mut piece = vec![0; 1 << 16];
    while whole.is_none_or(|(_, end)| buffer.len() < end) {
        let read = stream.read(&mut piece).expect("it answers");
        assert!(read > 0, "the server has hung up");
        buffer.extend_from_slice(&piece[..read]);
        if whole.is_none()
            && let Some(head) = buffer.windows(4).position(|four| four == b"\r\n\r\n")
        {
            let text = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
            assert!(text.starts_with("http/1.1 200"), "{text}");
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.and_then(|length| length.parse().ok()).expect("it has a length");
            whole = Some((head + 4, head + 4 + length));
        }
    }
    whole.expect("it was found").0
}

/// Returns the number of responses per second under load.
fn load(address: &str) -> f64 {
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (address, request) = (address.to_owned(), request("/api/v1/state", address));
            std::thread::spawn(move || {
                let mut stream = TcpStream::connect(address).expect("it listens");
                let (mut buffer, mut count) = (Vec::new(), 0_u32);
                let end = Instant::now() + ASK_FOR;
                while Instant::now() < end {
                    stream.write_all(request.as_bytes()).expect("it reads");
                    answer(&mut stream, &mut buffer);
                    count += 1;
                }
                count
            })
        })
        .collect();
    let count: u32 = clients.into_iter().map(|client| client.join().expect("no panic")).sum();
    f64::from(count) / ASK_FOR.as_secs_f64()
}

/// Opens event streams as pages do, and reads the events.
fn pages(address: &str) {
    for _ in 0..PAGES {
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.write_all(request("/api/v1/events", address).as_bytes()).expect("it reads");
        let mut buffer = vec![0; 1 << 16];
        assert!(stream.read(&mut buffer).expect("it answers") > 0);
        std::thread::spawn(move || while stream.read(&mut buffer).is_ok_and(|read| read > 0) {});
    }
    say_and_wait("open");
}

// ---- the cases ----

/// Measures responses per second: of an App with this many Works, and of a handler that returns the same bytes.
fn state_over_http(works: usize) -> (f64, f64, usize) {
    let mut app = Program::start(Some("0"), &["app", &works.to_string()]);
    let address = app.line();
    let mut stream = TcpStream::connect(&address).expect("it listens");
    stream.write_all(request("/api/v1/state", &address).as_bytes()).expect("it reads");
    let mut buffer = Vec::new();
    let body = answer(&mut stream, &mut buffer);
    let body = buffer.split_off(body);
    let rate = |address: &str| {
        let mut clients = Program::start(Some("1"), &["load", address]);
        clients.line().parse::<f64>().expect("it prints a number")
    };
    let ours = rate(&address);
    drop(app);
    let mut floor = Program::start(Some("0"), &["floor"]);
    let mut stdin = floor.0.stdin.take().expect("it is piped");
    stdin.write_all(&body).expect("it reads");
    drop(stdin);
    let address = floor.line();
    (ours, rate(&address), body.len())
}

/// Measures the one-way latency of loopback TCP for small messages far apart: half the median round trip, in
/// microseconds.
fn loopback() -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let address = listener.local_addr().expect("it has one");
    let echo = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("it is dialed");
        stream.set_nodelay(true).expect("it is TCP");
        let mut bytes = [0; 64];
        while stream.read_exact(&mut bytes).is_ok() {
            stream.write_all(&bytes).expect("it reads");
        }
    });
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_nodelay(true).expect("it is TCP");
    let mut times = Vec::new();
    for _ in 0..SLOW {
        std::thread::sleep(APART);
        let began = Instant::now();
        let mut bytes = [7; 64];
        stream.write_all(&bytes).expect("it reads");
        stream.read_exact(&mut bytes).expect("it answers");
        times.push(began.elapsed().as_nanos() as f64 / 2e3);
    }
    drop(stream);
    echo.join().expect("no panic");
    median(&mut times)
}

async fn publish(app: &AppHandle, count: u64, apart: Duration) -> f64 {
    let publisher =
        app.control().work::<Publisher>("publisher").await.expect("it runs").expect("it is there");
    publisher.ask(Publish { count, apart }).await.expect("it answers")
}

/// Measures the latency from a publish to the reaction, and to a client of the event stream, for the same publishes:
/// medians in microseconds.
async fn events(app: &AppHandle) -> (f64, f64) {
    static DONE: AtomicBool = AtomicBool::new(false);
    DONE.store(false, Ordering::Release);
    let address = app.address().expect("it is served").to_string();
    let mut stream = TcpStream::connect(&address).expect("it listens");
    stream.write_all(request("/api/v1/events", &address).as_bytes()).expect("it reads");
    stream.set_read_timeout(Some(Duration::from_millis(200))).expect("a socket can have a limit");
    let client = std::thread::spawn(move || {
        let (mut times, mut buffer, mut last) = (Vec::new(), vec![0; 1 << 20], 0);
        let mark = b"/state/publisher/stamp\",\"value\":";
        while !DONE.load(Ordering::Acquire) {
            let Ok(read @ 1..) = stream.read(&mut buffer) else { continue };
            let now = now_ns();
            let bytes = &buffer[..read];
            let Some(at) = bytes.windows(mark.len()).position(|part| part == mark) else { continue };
            let digits = bytes[at + mark.len()..].iter().take_while(|byte| byte.is_ascii_digit());
            let stamp = digits.fold(0, |stamp, digit| stamp * 10 + u64::from(digit - b'0'));
            if std::mem::replace(&mut last, stamp) != stamp {
                times.push((now - stamp) as f64 / 1e3);
            }
        }
        assert!(times.len() as u64 > SLOW / 2, "{} of {SLOW} publishes were seen", times.len());
        median(&mut times)
    });
    let react = publish(app, SLOW, APART).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    DONE.store(true, Ordering::Release);
    (react, client.join().expect("no panic"))
}

/// Measures the latency from a publish to the reaction, without open pages and with some: medians in microseconds.
async fn with_pages(app: &AppHandle) -> (f64, f64) {
    PIN.store(true, Ordering::Release);
    let without = publish(app, FAST, Duration::ZERO).await;
    let address = app.address().expect("it is served").to_string();
    let mut pages = Program::start(None, &["pages", &address]);
    assert_eq!(pages.line(), "open");
    let with = publish(app, FAST, Duration::ZERO).await;
    PIN.store(false, Ordering::Release);
    (without, with)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["app", works] => {
            let works = works.parse().expect("it is a number");
            return runtime().block_on(async {
                let app = crowd(works).await;
                say_and_wait(app.address().expect("it is served"));
            });
        }
        ["floor"] => {
            let mut bytes = Vec::new();
            std::io::stdin().read_to_end(&mut bytes).expect("it can be read");
            return actix_web::rt::System::new().block_on(floor(bytes));
        }
        ["load", address] => return println!("{}", load(address)),
        ["pages", address] => return pages(address),
        _ => {}
    }
    let rounds = arguments.first().and_then(|rounds| rounds.parse().ok()).unwrap_or(3);
    let mut figures: Vec<(String, Vec<f64>)> = Vec::new();
    let mut note = |name: String, value: f64| match figures.iter_mut().find(|(known, _)| *known == name) {
        Some((_, values)) => values.push(value),
        None => figures.push((name, vec![value])),
    };
    for _ in 0..rounds {
        let (ours, floor, length) = state_over_http(WORKS);
        note(format!("state of {WORKS} Works, {length} bytes: answers a second"), ours);
        note("the same bytes ready-made: answers a second".to_owned(), floor);
        note("ratio".to_owned(), ours / floor);
        note("loopback, one way: us".to_owned(), loopback());
        for works in [1, WORKS] {
            let (react, event, without, with) = runtime().block_on(async {
                let app = crowd(works).await;
                let (react, event) = events(&app).await;
                let (without, with) = with_pages(&app).await;
                assert!(app.stop().await.result.is_ok());
                (react, event, without, with)
            });
            note(format!("{works} Works: publish to reaction, far apart: us"), react);
            note(format!("{works} Works: publish to event, far apart: us"), event);
            note(format!("{works} Works: publish to reaction, no page: us"), without);
            note(format!("{works} Works: publish to reaction, {PAGES} pages: us"), with);
            note(format!("{works} Works: ratio"), with / without);
        }
    }
    for (name, values) in &mut figures {
        println!("{name} {:.2}", median(values));
    }
}
