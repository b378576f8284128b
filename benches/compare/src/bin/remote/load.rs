//! Load test: a thousand Works on one node that each publish a hundred times a second, and a head that reacts to all
//! of it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use flowright::Selector;
use flowright::prelude::*;
use flowright::testing::TestApp;

use super::support::{Killed, Usage, figure, now_ns, percentile};

const WORKS: usize = 1_000;
const PERIOD: Duration = Duration::from_millis(10);
/// Duration of the run before counting begins; `WINDOW` is the duration of counting.
const WARM_UP: Duration = Duration::from_secs(2);
const WINDOW: Duration = Duration::from_secs(30);
/// Duration of a reaction in the overload case.
const SLOW: Duration = Duration::from_millis(100);

/// Set after counting, so that reactions need not be slow any more.
static OVER: AtomicBool = AtomicBool::new(false);

/// A Work that publishes at a steady rate until it is told to stop.
#[derive(Default, Serialize, Deserialize)]
struct Ticker {
    count: u64,
    stamp: u64,
    #[serde(skip)]
    ended: bool,
}

impl Work for Ticker {
    type Input = ();

    async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
        let mut next = Instant::now();
        while !self.ended {
            next += PERIOD;
            cx.sleep(self, next.saturating_duration_since(Instant::now())).await?;
            (self.count, self.stamp) = (self.count + 1, now_ns());
            cx.publish(self);
        }
        Ok(())
    }

    fn messages(messages: &mut flowright::Messages<Self>) {
        messages.accept::<Enough>();
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct Enough;

impl Handle<Enough> for Ticker {
    type Reply = u64;

    async fn handle(&mut self, _: Enough, _: &mut WorkContext<Self>) -> u64 {
        self.ended = true;
        self.count
    }
}

#[derive(Serialize, Children)]
struct Load {
    tickers: Vec<WorkRef<Ticker>>,
    /// Age in nanoseconds of one Work's state in each reaction that found a new state of that Work.
    #[serde(skip)]
    ages: Vec<u64>,
    /// The stamp of the state last seen, by Work.
    #[serde(skip)]
    looked: Vec<u64>,
    #[serde(skip)]
    turn: usize,
    /// Set once the Works have joined the App and their runs were requested; done only once, because it is not part
    /// of the measurement.
    asked: bool,
    age_p50: f64,
    age_p99: f64,
    is_slow: bool,
}

impl Load {
    fn new(is_slow: bool) -> Self {
        let ticker = || WorkRef::new(Ticker::default()).placed(Placement::Node(Selector::name("n").pool()));
        Self {
            tickers: (0..WORKS).map(|_| ticker()).collect(),
            ages: Vec::new(),
            looked: vec![0; WORKS],
            turn: 0,
            asked: false,
            age_p50: 0.0,
            age_p99: 0.0,
            is_slow,
        }
    }
}

impl Flow for Load {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        if !self.asked && self.tickers[0].path().is_some() {
            self.asked = true;
            self.tickers.iter().for_each(|ticker| drop(ticker.run(())));
        }
        self.turn = (self.turn + 1) % WORKS;
        let ticker = &self.tickers[self.turn];
        if ticker.stamp != self.looked[self.turn] {
            self.looked[self.turn] = ticker.stamp;
            self.ages.push(now_ns() - ticker.stamp);
        }
        if self.is_slow && !OVER.load(Ordering::Relaxed) {
            std::thread::sleep(SLOW);
        }
        // Percentiles of the most recent ages only, because sorting more would distort the measurement.
        if self.ages.len() >= 256 || self.is_slow && self.ages.len() >= 16 {
            self.ages.sort_unstable();
            (self.age_p50, self.age_p99) =
                (percentile(&self.ages, 0.5) as f64 / 1e6, percentile(&self.ages, 0.99) as f64 / 1e6);
            self.ages.clear();
        }
        Ok(())
    }
}

pub fn node() -> ExitCode {
    App::new(|| Load::new(false)).main()
}

/// Reads from the head's `/metrics` how many states have arrived, and how many of these were conflated before a
/// reaction.
fn arrived(address: SocketAddr) -> [f64; 2] {
    let mut stream = TcpStream::connect(address).expect("it listens");
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")
        .expect("it reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("it writes");
    ["flowright_work_publishes_total{", "flowright_work_conflations_total{"].map(|family| {
        let samples = text.lines().filter(|line| line.starts_with(family));
        samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    })
}

pub fn measure(case: &str) {
    let is_slow = case == "flowright-overload";
    let app = App::new(move || Load::new(is_slow)).listen("127.0.0.1:0").pool_threads(1);
    let free = TcpListener::bind("127.0.0.1:0").expect("there is one");
    let address = free.local_addr().expect("it has one");
    drop(free);
    let app = TestApp::start_app(app.serve(address)).limit(Duration::from_secs(60));
    let joining = app.status().listening.expect("it listens");
    let node = Killed::node("load", &joining, "n");
    app.wait_for_state("tickers", |tickers: &Vec<Ticker>| tickers.iter().all(|ticker| ticker.count > 0));
    std::thread::sleep(WARM_UP);

    let look = || {
        let published: u64 = app
            .state()
            .get("tickers")
            .and_then(|tickers| tickers.decode::<Vec<Ticker>>().ok())
            .expect("they are there")
            .iter()
            .map(|ticker| ticker.count)
            .sum();
        (
            Instant::now(),
            published as f64,
            app.reactions() as f64,
            arrived(address),
            Usage::here(),
            node.usage(),
        )
    };
    let (began, published, reactions, [here, unseen], head, far) = look();
    std::thread::sleep(WINDOW);
    let (ended, published_then, reactions_then, [here_then, unseen_then], head_then, far_then) = look();
    let seconds = (ended - began).as_secs_f64();
    figure("publishes", (published_then - published) / seconds);
    figure("arrived", (here_then - here) / seconds);
    figure("applied", (here_then - here - (unseen_then - unseen)) / seconds);
    figure("reactions", (reactions_then - reactions) / seconds);
    let age = |field| app.state().get(field).and_then(|age| age.decode::<f64>().ok()).expect("it is there");
    figure("state-age-p50", age("age_p50"));
    figure("state-age-p99", age("age_p99"));
    figure("head-cpu", (head_then.cpu_seconds - head.cpu_seconds) / seconds);
    figure("node-cpu", (far_then.cpu_seconds - far.cpu_seconds) / seconds);
    figure("head-rss-begin", head.resident_mib);
    figure("head-rss-end", head_then.resident_mib);
    figure("node-rss-begin", far.resident_mib);
    figure("node-rss-end", far_then.resident_mib);

    OVER.store(true, Ordering::Relaxed);
    // The last published state is never lost, however many states were conflated.
    let last = |number: usize| {
        let ticker = app.work::<Ticker>(&format!("tickers.{number}"));
        app.block_on(ticker.ask(Enough)).expect("it answers")
    };
    let counts: Vec<u64> = (0..WORKS).map(last).collect();
    app.wait_for_state("tickers", |tickers: &Vec<Ticker>| {
        tickers.iter().zip(&counts).all(|(ticker, count)| ticker.count >= *count)
    });
}
