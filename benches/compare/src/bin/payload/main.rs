//! Large values between two processes over loopback, compared with the floor, which sends the same bytes over plain
//! TCP, and with Ray and Dask where they are installed.
//!
//! Prints medians of the rounds of one run. `cargo run --release --bin payload [ROUNDS]`

mod floor;
mod peers;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{Messages, Placement, Selector};

pub const GIB: usize = 1 << 30;
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
            // Distinct first bytes give each value a hash of its own.
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
    /// The number makes each input distinct, so that it is a new run.
    Ask(WorkAddr<Maker>, u64),
    Pull(Payload<Bytes>),
    /// Reads values on the node that has them: a large one, and small ones.
    Near(Payload<Bytes>, Vec<Payload<Vec<u8>>>),
}

#[derive(Default, Serialize, Deserialize)]
struct Reader {
    large: f64,
    floats: f64,
    small_us: f64,
    peak_over_value: f64,
    /// The median and the 99th percentile of each series of asks, in microseconds.
    asks: Vec<[f64; 2]>,
    /// The time for the large value, and the median of the small ones, in microseconds.
    near: [f64; 2],
}

/// Returns a figure of this process in MiB, by its name in `/proc/self/status`.
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
            Errand::Near(large, small) => {
                let mut times = Vec::new();
                for payload in small {
                    let began = Instant::now();
                    assert_eq!(payload.value().await?.len(), 1024);
                    times.push(began.elapsed());
                }
                let began = Instant::now();
                assert_eq!(large.value().await?.len(), GIB);
                self.near = [began.elapsed().as_secs_f64() * 1e6, at(&mut times, 0.5)];
            }
        }
        Ok(())
    }
}

/// Returns this quantile in microseconds.
fn at(times: &mut [Duration], quantile: f64) -> f64 {
    times.sort();
    times[((times.len() - 1) as f64 * quantile) as usize].as_secs_f64() * 1e6
}

#[derive(Serialize, Children)]
struct Bench {
    maker: WorkRef<Maker>,
    reader: WorkRef<Reader>,
    puller: WorkRef<Reader>,
    neighbour: WorkRef<Reader>,
    done: Vec<[f64; 9]>,
    rounds: u64,
}

impl Bench {
    fn new(rounds: u64) -> Self {
        let on = |name| Placement::Node(Selector::name(name));
        Self {
            maker: WorkRef::from(Maker::default()).placed(on("m")),
            reader: WorkRef::from(Reader::default()).placed(on("n")),
            puller: WorkRef::from(Reader::default()).placed(on("n")),
            neighbour: WorkRef::from(Reader::default()).placed(on("m")),
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
        let near = Errand::Near(made.large[0].clone(), made.small.clone());
        let near = self.neighbour.run(near).finished()?.near;
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
        self.done.push([large, floats, small, peak, idle[0], idle[1], busy[1], near[0], near[1]]);
        cx.wake_in(Duration::ZERO);
        Ok(())
    }
}

pub fn this(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a program knows its file"));
    command.args(arguments);
    command
}

pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["node", ..] => return App::new(|| Bench::new(0)).main(),
        ["floor", path] => {
            floor::serve(path);
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let rounds: u64 = arguments.first().and_then(|rounds| rounds.parse().ok()).unwrap_or(5);
    let before = floor::measure(rounds);
    // The first round is discarded, because the system has to allocate and zero the memory then.
    let app = App::new(move || Bench::new(rounds + 1)).listen("127.0.0.1:0");
    let app = TestApp::start_app(app).limit(Duration::from_secs(600));
    let joining = app.status().listening.expect("it listens");
    let nodes = ["m", "n"].map(|name| {
        let mut command = this(&["node", "--join", &joining, "--name", name, "--log-level", "warn"]);
        Killed(command.stdout(Stdio::null()).spawn().expect("it starts"))
    });
    let state = app.wait_for_state("done", |done: &Vec<[f64; 9]>| done.len() as u64 == rounds + 1);
    app.wait_for_exit().result.expect("it ends well");
    drop(nodes);
    let after = floor::measure(rounds);
    let floor = |of: fn(&floor::Floor) -> f64| (of(&before) + of(&after)) / 2.0;
    let column = |n: usize| median(state[1..].iter().map(|round| round[n]).collect());
    let others = [("Ray", "ray", "ray_payload.py"), ("Dask", "distributed", "dask_payload.py")]
        .map(|(name, module, script)| (name, peers::measure(module, script, rounds)));
    show(floor, column, &others);
    ExitCode::SUCCESS
}

type Peer = (&'static str, Result<peers::Figures, String>);

fn show(floor: impl Fn(fn(&floor::Floor) -> f64) -> f64, column: impl Fn(usize) -> f64, others: &[Peer]) {
    let of_peers = |of: fn(&peers::Figures) -> f64| -> String {
        let figure =
            |peer: &Peer| peer.1.as_ref().map_or("-".to_owned(), |figures| format!("{:.2}", of(figures)));
        others.iter().map(figure).collect::<Vec<_>>().join(" | ")
    };
    let line = |what: &str, floor: f64, ours: f64, peers: String, reach: &str| {
        println!("| {what} | {floor:.2} | {ours:.2} | {:.2} | {reach} | {peers} |", ours / floor);
    };
    let (gib, hundred) = (floor(|f| f.large), floor(|f| f.hundred));
    let [large, floats, small, peak, ask, idle, busy, near, near_small] =
        [0, 1, 2, 3, 4, 5, 6, 7, 8].map(column);
    println!("| measure | floor | Flowright | ratio | reach | Ray | Dask |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    line("1 GiB of `Bytes`, GB/s", gib, large, of_peers(|f| f.large), "at least 0.6");
    line("100 MiB of `Vec<f32>`, GB/s", hundred, floats, of_peers(|f| f.floats), "at least 0.5");
    println!("| peak above 1 GiB, MiB | - | {peak:.0} | - | at most 64 | - | - |");
    line("1 KiB, p50, us (floor: `ask`)", ask, small, of_peers(|f| f.small_us), "at most 2");
    println!("| a question, p50, us | - | {ask:.1} | - | - | {} |", of_peers(|f| f.ask_us));
    line("`ask` p99 during a pull, us (floor: idle)", idle, busy, "- | -".to_owned(), "at most 5");
    let near_peers = of_peers(|f| f.near_us);
    line("1 GiB on the same node, us (floor: 1 KiB)", near_small, near, near_peers, "the same");
    for (name, figures) in others {
        if let Err(why) = figures {
            println!("\n{name}: skipped, {why}");
        }
    }
    println!("\n| 1 GiB between two processes, nothing of Flowright, verified | GB/s |\n| --- | --- |");
    println!("| TCP | {:.2} |", floor(|f| f.verified));
    println!("| a file in memory, passed and written meanwhile | {:.2} |", floor(|f| f.passed));
    println!("| a file in memory that was there, nothing copied | {:.2} |", floor(|f| f.shared));
}
