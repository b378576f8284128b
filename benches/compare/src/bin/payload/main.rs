//! Large values between two processes over loopback, beside the floor: the same bytes through a TCP connection, and
//! nothing else.
//!
//! One run, the cases taking turns, medians of the rounds. `cargo run --release --bin payload [ROUNDS]`

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{Messages, Placement, Selector};

const GIB: usize = 1 << 30;
const FLOATS: usize = (100 << 20) / 4;
const SMALL: usize = 500;
const ASKS: usize = 4000;

#[derive(Default, Serialize, Deserialize)]
struct Maker {
    large: Vec<Payload<Bytes>>,
    floats: Option<Payload<Vec<f32>>>,
    small: Vec<Payload<Vec<u8>>>,
}

impl Work for Maker {
    type Input = u64;

    async fn run(&mut self, round: u64, cx: &mut WorkContext<Self>) -> Result<()> {
        self.large.clear();
        for n in 0..2 {
            // The first bytes make another value of it each time.
            let mut bytes = vec![7; GIB];
            bytes[..8].copy_from_slice(&(2 * round + n).to_le_bytes());
            self.large.push(cx.payload(Bytes::from(bytes))?);
        }
        self.floats = Some(cx.payload(vec![round as f32; FLOATS])?);
        let small = (0..SMALL as u64).map(|n| cx.payload((round * 10_000 + n).to_le_bytes().repeat(128)));
        self.small = small.collect::<Result<_, _>>()?;
        Ok(())
    }

    fn messages(messages: &mut Messages<Self>) {
        messages.accept::<Ping>();
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct Ping([u64; 8]);

impl Handle<Ping> for Maker {
    type Reply = Ping;

    async fn handle(&mut self, ping: Ping, _: &mut WorkContext<Self>) -> Ping {
        ping
    }
}

#[derive(Serialize, Deserialize)]
enum Errand {
    Read(Payload<Bytes>, Payload<Vec<f32>>, Vec<Payload<Vec<u8>>>),
    /// Another number each time.
    Ask(WorkAddr<Maker>, u64),
    Pull(Payload<Bytes>),
}

#[derive(Default, Serialize, Deserialize)]
struct Reader {
    large: f64,
    floats: f64,
    small_us: f64,
    peak_over_value: f64,
    /// The median and the 99th percentile of each series of questions, in microseconds.
    asks: Vec<[f64; 2]>,
}

/// A figure of this process in MiB, by its name in `/proc/self/status`.
fn memory(name: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("it is in it");
    let kib = line.trim_start_matches(':').trim().trim_end_matches("kB").trim();
    kib.parse::<f64>().expect("a number") / 1024.0
}

impl Work for Reader {
    type Input = Errand;

    async fn run(&mut self, errand: Errand, _: &mut WorkContext<Self>) -> Result<()> {
        match errand {
            Errand::Read(large, floats, small) => {
                std::fs::write("/proc/self/clear_refs", "5")?;
                let before = memory("VmRSS");
                let began = Instant::now();
                let value = large.value().await?;
                self.large = GIB as f64 / began.elapsed().as_secs_f64() / 1e9;
                assert_eq!(value.len(), GIB);
                self.peak_over_value = memory("VmHWM") - before - (GIB >> 20) as f64;
                let began = Instant::now();
                let value = floats.value().await?;
                self.floats = (4 * FLOATS) as f64 / began.elapsed().as_secs_f64() / 1e9;
                assert_eq!(value.len(), FLOATS);
                let mut times = Vec::new();
                for payload in small {
                    let began = Instant::now();
                    assert_eq!(payload.value().await?.len(), 1024);
                    times.push(began.elapsed());
                }
                self.small_us = at(&mut times, 0.5);
            }
            Errand::Ask(maker, _) => {
                let mut times = Vec::new();
                for n in 0..ASKS {
                    let began = Instant::now();
                    maker.ask(Ping([n as u64; 8])).await?;
                    times.push(began.elapsed());
                }
                self.asks.push([at(&mut times, 0.5), at(&mut times, 0.99)]);
            }
            Errand::Pull(large) => {
                large.value().await?;
            }
        }
        Ok(())
    }
}

/// This quantile in microseconds.
fn at(times: &mut [Duration], quantile: f64) -> f64 {
    times.sort();
    times[((times.len() - 1) as f64 * quantile) as usize].as_secs_f64() * 1e6
}

#[derive(Serialize, Children)]
struct Bench {
    maker: WorkRef<Maker>,
    reader: WorkRef<Reader>,
    puller: WorkRef<Reader>,
    done: Vec<[f64; 7]>,
    rounds: u64,
}

impl Bench {
    fn new(rounds: u64) -> Self {
        let on = |name| Placement::Node(Selector::name(name));
        Self {
            maker: WorkRef::from(Maker::default()).placed(on("m")),
            reader: WorkRef::from(Reader::default()).placed(on("n")),
            puller: WorkRef::from(Reader::default()).placed(on("n")),
            done: Vec::new(),
            rounds,
        }
    }
}

impl Flow for Bench {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        let round = self.done.len() as u64;
        if round == self.rounds {
            cx.stop("all rounds are done");
            return Ok(());
        }
        let made = self.maker.run(round).finished()?;
        let (large, floats) = (made.large.clone(), made.floats.clone().expect("it was made"));
        let read = Errand::Read(large[0].clone(), floats, made.small.clone());
        let read = self.reader.run(read).finished()?;
        let figures = [read.large, read.floats, read.small_us, read.peak_over_value];
        self.reader.run(Errand::Ask(self.maker.addr(), 2 * round)).finished()?;
        let pull = self.puller.run(Errand::Pull(large[1].clone())).status();
        if pull.stage == Stage::Pending {
            return Ok(());
        }
        let asks = &self.reader.run(Errand::Ask(self.maker.addr(), 2 * round + 1)).finished()?.asks;
        let [.., idle, busy] = asks[..] else { return Ok(()) };
        self.puller.run(Errand::Pull(large[1].clone())).finished()?;
        let [large, floats, small, peak] = figures;
        self.done.push([large, floats, small, peak, idle[0], idle[1], busy[1]]);
        cx.wake_in(Duration::ZERO);
        Ok(())
    }
}

fn this(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a program knows its file"));
    command.args(arguments);
    command
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The bytes of one GiB, written to whoever connects, in pieces of one MiB.
fn floor_server() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
    println!("{}", listener.local_addr().expect("it has one"));
    let bytes = vec![7; GIB];
    println!("ready");
    std::io::stdout().flush().expect("somebody reads");
    for stream in listener.incoming() {
        let mut stream = stream.expect("the parent dials");
        // Whoever wants less closes the connection.
        let _ = bytes.chunks(1 << 20).try_for_each(|chunk| stream.write_all(chunk));
    }
}

/// GB/s of so many bytes into one buffer of 1 MiB, again and again.
fn floor(address: &str, length: usize) -> f64 {
    let mut stream = TcpStream::connect(address).expect("it listens");
    let mut buffer = vec![0; 1 << 20];
    let began = Instant::now();
    for _ in 0..length >> 20 {
        stream.read_exact(&mut buffer).expect("it comes");
    }
    length as f64 / began.elapsed().as_secs_f64() / 1e9
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> ExitCode {
    let first = std::env::args().nth(1);
    match first.as_deref() {
        Some("node") => return App::new(|| Bench::new(0)).main(),
        Some("floor") => {
            floor_server();
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let rounds: u64 = first.and_then(|rounds| rounds.parse().ok()).unwrap_or(5);
    let floors = || {
        use std::io::BufRead;
        let mut child = Killed(this(&["floor"]).stdout(Stdio::piped()).spawn().expect("it starts"));
        let mut lines = std::io::BufReader::new(child.0.stdout.take().expect("it is piped")).lines();
        let address = lines.next().expect("it says where").expect("text");
        lines.next();
        let large = median((0..rounds).map(|_| floor(&address, GIB)).collect());
        (large, median((0..rounds).map(|_| floor(&address, 4 * FLOATS)).collect()))
    };
    let before = floors();
    // The first round is not counted: memory that the machine gives for the first time takes its time.
    let app = App::new(move || Bench::new(rounds + 1)).listen("127.0.0.1:0");
    let app = TestApp::start_app(app).limit(Duration::from_secs(600));
    let joining = app.status().listening.expect("it listens");
    let nodes = ["m", "n"].map(|name| {
        let mut command = this(&["node", "--join", &joining, "--name", name, "--log-level", "warn"]);
        Killed(command.stdout(Stdio::null()).spawn().expect("it starts"))
    });
    let state = app.wait_for_state("done", |done: &Vec<[f64; 7]>| done.len() as u64 == rounds + 1);
    app.wait_for_exit().result.expect("it ends well");
    drop(nodes);
    let after = floors();
    let (gib, hundred) = (median(vec![before.0, after.0]), median(vec![before.1, after.1]));
    let column = |n: usize| median(state[1..].iter().map(|round| round[n]).collect());
    let [large, floats, small, peak, ask, idle, busy] = [0, 1, 2, 3, 4, 5, 6].map(column);
    println!("| measure | floor | Flowright | ratio | reach |");
    println!("| --- | --- | --- | --- | --- |");
    println!("| 1 GiB of `Bytes` | {gib:.2} GB/s | {large:.2} GB/s | {:.2} | at least 0.6 |", large / gib);
    println!(
        "| 100 MiB of `Vec<f32>` | {hundred:.2} GB/s | {floats:.2} GB/s | {:.2} | at least 0.5 |",
        floats / hundred
    );
    println!("| reader's peak above the value, MiB | - | {peak:.0} | - | at most 64 |");
    println!("| 1 KiB, p50, us (floor: `ask`) | {ask:.1} | {small:.1} | {:.2} | at most 2 |", small / ask);
    println!("| `ask` p99 during a pull, us (floor: idle) | {idle:.1} | {busy:.1} | {:.2} | at most 5 |", busy / idle);
    ExitCode::SUCCESS
}
