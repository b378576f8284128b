//! Messages between two processes over loopback, beside the floor: framed TCP with the same encoding and no actors.
//!
//! One run, the cases taking turns, medians of the rounds. `cargo run --release --bin remote [ROUNDS]`

use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{Messages, Placement, Selector};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const ASKS: u32 = 20_000;
const TELLS: u32 = 1_000_000;

#[derive(Clone, Serialize, Deserialize)]
struct Ping {
    number: u64,
    #[serde(with = "serde_bytes")]
    padding: Vec<u8>,
}

impl Ping {
    /// 64 bytes and a little when it is encoded.
    fn new(number: u64) -> Self {
        Self { number, padding: vec![7; 40] }
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct Count;

#[derive(Default, Serialize, Deserialize)]
struct Echo {
    #[serde(skip)]
    told: u64,
}

impl Work for Echo {
    type Input = ();

    async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
        cx.serve_forever(self).await?;
        Ok(())
    }

    fn messages(messages: &mut Messages<Self>) {
        messages.accept::<Ping>().accept::<Count>().accept::<Told>();
    }
}

impl Handle<Ping> for Echo {
    type Reply = Ping;

    async fn handle(&mut self, ping: Ping, _: &mut WorkContext<Self>) -> Ping {
        ping
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct Told(Ping);

impl Handle<Told> for Echo {
    type Reply = ();

    async fn handle(&mut self, _: Told, _: &mut WorkContext<Self>) {
        self.told += 1;
    }
}

impl Handle<Count> for Echo {
    type Reply = u64;

    async fn handle(&mut self, _: Count, _: &mut WorkContext<Self>) -> u64 {
        std::mem::take(&mut self.told)
    }
}

/// Measures from a pooled Work, which lives where the connection does.
#[derive(Default, Serialize, Deserialize)]
struct Caller {
    ask_p50_us: f64,
    tells_per_second: f64,
    done: u64,
}

impl Work for Caller {
    type Input = (WorkAddr<Echo>, u64);

    async fn run(&mut self, (echo, round): Self::Input, _: &mut WorkContext<Self>) -> Result<()> {
        for number in 0..ASKS / 10 {
            echo.ask(Ping::new(number.into())).await?;
        }
        let mut times = Vec::with_capacity(ASKS as usize);
        for number in 0..ASKS {
            let began = Instant::now();
            echo.ask(Ping::new(number.into())).await?;
            times.push(began.elapsed());
        }
        times.sort();
        self.ask_p50_us = times[times.len() / 2].as_secs_f64() * 1e6;
        let began = Instant::now();
        for number in 0..TELLS {
            echo.tell(Told(Ping::new(number.into()))).await?;
        }
        let told = echo.ask(Count).await?;
        assert_eq!(told, u64::from(TELLS));
        self.tells_per_second = f64::from(TELLS) / began.elapsed().as_secs_f64();
        self.done = round;
        Ok(())
    }
}

#[derive(Serialize, Children)]
struct Bench {
    echo: WorkRef<Echo>,
    caller: WorkRef<Caller>,
}

impl Bench {
    fn at(place: Placement) -> Self {
        Self {
            echo: WorkRef::from(Echo::default()).placed(place),
            caller: WorkRef::from(Caller::default()).placed(Placement::Pool),
        }
    }
}

impl Flow for Bench {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        self.echo.run(());
        if self.echo.is_running() {
            self.caller.run((self.echo.addr(), 1));
        }
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

fn flowright(place: Placement) -> (f64, f64) {
    let app = App::new(move || Bench::at(place)).listen("127.0.0.1:0").pool_threads(1);
    let app = TestApp::start_app(app.process(|| Ok(this(&[])))).limit(Duration::from_secs(120));
    let joining = app.status().listening.expect("it listens");
    let is_node = matches!(place, Placement::Node(_));
    let _node = is_node.then(|| {
        let mut command = this(&["node", "--join", &joining, "--name", "n", "--log-level", "error"]);
        Killed(command.stdout(Stdio::null()).spawn().expect("it starts"))
    });
    let caller = app.wait_for_state("caller", |caller: &Caller| caller.done == 1);
    (caller.ask_p50_us, caller.tells_per_second)
}

fn encode(ping: &Ping, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    rmp_serde::encode::write_named(out, ping).expect("it serialises");
    let length = u32::try_from(out.len() - start - 4).expect("it is small");
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// Takes the first whole frame.
fn decode(buffer: &mut bytes::BytesMut) -> Option<Ping> {
    let length = u32::from_be_bytes(*buffer.first_chunk::<4>()?) as usize;
    if buffer.len() < 4 + length {
        return None;
    }
    let frame = buffer.split_to(4 + length);
    Some(rmp_serde::from_slice(&frame[4..]).expect("it was encoded"))
}

/// Echoes what it reads until a ping of number MAX, which it answers after counting.
async fn floor_server(address: String) {
    let listener = TcpListener::bind(address).await.expect("it is free");
    println!("{}", listener.local_addr().expect("it has one"));
    std::io::stdout().flush().expect("somebody reads");
    let (mut stream, _) = listener.accept().await.expect("the parent dials");
    stream.set_nodelay(true).expect("it is TCP");
    let (mut buffer, mut out, mut echo) = (bytes::BytesMut::with_capacity(1 << 18), Vec::new(), true);
    loop {
        buffer.reserve(1 << 16);
        if stream.read_buf(&mut buffer).await.expect("it reads") == 0 {
            return;
        }
        while let Some(ping) = decode(&mut buffer) {
            echo &= ping.number != u64::MAX - 1;
            if echo || ping.number == u64::MAX {
                encode(&ping, &mut out);
            }
        }
        stream.write_all(&out).await.expect("it writes");
        out.clear();
    }
}

async fn exchange(stream: &mut TcpStream, ping: &Ping, out: &mut Vec<u8>, buffer: &mut bytes::BytesMut) {
    out.clear();
    encode(ping, out);
    stream.write_all(out).await.expect("it writes");
    while decode(buffer).is_none() {
        buffer.reserve(1 << 16);
        stream.read_buf(buffer).await.expect("it reads");
    }
}

async fn floor() -> (f64, f64, f64) {
    use std::io::BufRead;
    let mut child = Killed(this(&["floor"]).stdout(Stdio::piped()).spawn().expect("it starts"));
    let mut line = String::new();
    let out = child.0.stdout.take().expect("it is piped");
    std::io::BufReader::new(out).read_line(&mut line).expect("it says where");
    let mut stream = TcpStream::connect(line.trim()).await.expect("it listens");
    stream.set_nodelay(true).expect("it is TCP");
    let (mut out, mut buffer) = (Vec::new(), bytes::BytesMut::new());
    let mut times = Vec::new();
    for number in 0..ASKS {
        let began = Instant::now();
        exchange(&mut stream, &Ping::new(number.into()), &mut out, &mut buffer).await;
        times.push(began.elapsed());
    }
    times.sort();
    let mut rates = [0.0; 2];
    for (rate, batch) in rates.iter_mut().zip([1000, 1]) {
        out.clear();
        encode(&Ping::new(u64::MAX - 1), &mut out);
        stream.write_all(&out).await.expect("it writes");
        let began = Instant::now();
        out.clear();
        for number in 0..TELLS {
            encode(&Ping::new(number.into()), &mut out);
            if number % batch == 0 {
                stream.write_all(&out).await.expect("it writes");
                out.clear();
            }
        }
        stream.write_all(&out).await.expect("it writes");
        exchange(&mut stream, &Ping::new(u64::MAX), &mut out, &mut buffer).await;
        *rate = f64::from(TELLS) / began.elapsed().as_secs_f64();
    }
    (times[times.len() / 2].as_secs_f64() * 1e6, rates[0], rates[1])
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    match first.as_deref() {
        Some("node") => return App::new(|| Bench::at(Placement::Thread)).main(),
        Some("floor") => {
            runtime().block_on(floor_server("127.0.0.1:0".to_owned()));
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let rounds = first.and_then(|rounds| rounds.parse().ok()).unwrap_or(3);
    let places = [
        ("a node, pooled", Placement::Node(Selector::name("n").pooled())),
        ("a node, on its own thread", Placement::Node(Selector::name("n"))),
        ("a process, on its own thread", Placement::Process),
    ];
    let mut floors = [const { Vec::new() }; 3];
    let mut measured: Vec<(Vec<f64>, Vec<f64>)> = vec![(Vec::new(), Vec::new()); places.len()];
    for _ in 0..rounds {
        let (ask, batched, single) = runtime().block_on(floor());
        floors.iter_mut().zip([ask, batched, single]).for_each(|(values, value)| values.push(value));
        for ((_, place), (asks, tells)) in places.iter().zip(&mut measured) {
            let (ask, tell) = flowright(*place);
            asks.push(ask);
            tells.push(tell);
        }
    }
    let [ask, batched, single] = floors.map(|mut values| median(&mut values));
    println!(
        "floor: ask {ask:.1} us; one way, batched {:.2} M/s, a write each {:.2} M/s",
        batched / 1e6,
        single / 1e6
    );
    for ((name, _), (asks, tells)) in places.iter().zip(&mut measured) {
        let (a, t) = (median(asks), median(tells));
        println!(
            "{name}: ask {a:.1} us ({:.2} x), tell {:.2} M/s ({:.3} x batched)",
            a / ask,
            t / 1e6,
            t / batched
        );
    }
    ExitCode::SUCCESS
}
