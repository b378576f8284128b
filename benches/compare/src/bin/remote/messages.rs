//! Messages and state between two processes of a Flowright App.
//!
//! The client is a Work in the head's pool, which runs on the thread of the connections; the server is a Work placed
//! as the case says. One-way latencies are measured from the server to the head, with timestamps of the clock that
//! all processes share.

use std::time::Duration;

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{Messages, Selector};

use super::support::{Killed, figure, now_ns, p50_p99_us, this};

pub const ASKS: u64 = 20_000;
pub const TELLS: u64 = 1_000_000;
/// Number of messages, and of publishes, that are timed one way.
const STAMPS: u64 = 400;
/// Pause before each of them, so that no earlier work is in progress.
const PAUSE: Duration = Duration::from_millis(1);

/// A message of a little more than 64 bytes when encoded.
#[derive(Clone, Serialize, Deserialize)]
pub struct Ping {
    pub number: u64,
    #[serde(with = "serde_bytes")]
    pub padding: Vec<u8>,
}

impl Ping {
    pub fn new(number: u64) -> Self {
        Self { number, padding: vec![7; 40] }
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct Told(Ping);

/// Query for the number of messages received.
#[derive(Clone, Serialize, Deserialize)]
struct Count;

/// Echoes messages; its run sends timestamped messages to the catchers.
#[derive(Default, Serialize, Deserialize)]
struct Echo {
    number: u64,
    stamp: u64,
    #[serde(skip)]
    told: u64,
}

impl Work for Echo {
    type Input = Option<(WorkAddr<Catcher>, WorkAddr<Catcher>)>;

    async fn run(&mut self, catchers: Self::Input, cx: &mut WorkContext<Self>) -> Result<()> {
        let Some((pooled, on_thread)) = catchers else { return Ok(()) };
        for number in 1..=STAMPS {
            for catcher in [&pooled, &on_thread] {
                cx.sleep(self, PAUSE).await?;
                catcher.tell(Told(Ping::new(now_ns()))).await?;
            }
            cx.sleep(self, PAUSE).await?;
            (self.number, self.stamp) = (number, now_ns());
            cx.publish(self);
        }
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

/// Records the latency of messages.
#[derive(Default, Serialize, Deserialize)]
struct Catcher {
    #[serde(skip)]
    times: Vec<u64>,
    p50: f64,
}

impl Work for Catcher {
    type Input = ();

    async fn run(&mut self, (): (), _: &mut WorkContext<Self>) -> Result<()> {
        Ok(())
    }

    fn messages(messages: &mut Messages<Self>) {
        messages.accept::<Told>();
    }
}

impl Handle<Told> for Catcher {
    type Reply = ();

    async fn handle(&mut self, Told(ping): Told, cx: &mut WorkContext<Self>) {
        self.times.push(now_ns() - ping.number);
        if self.times.len() as u64 == STAMPS {
            self.p50 = p50_p99_us(std::mem::take(&mut self.times))[0];
            cx.publish(self);
        }
    }
}

#[derive(Default, Serialize, Deserialize)]
struct Caller {
    asks: [f64; 2],
    tells: f64,
}

impl Work for Caller {
    type Input = WorkAddr<Echo>;

    async fn run(&mut self, echo: Self::Input, _: &mut WorkContext<Self>) -> Result<()> {
        for number in 0..ASKS / 10 {
            echo.ask(Ping::new(number)).await?;
        }
        let mut times = Vec::with_capacity(ASKS as usize);
        for number in 0..ASKS {
            let began = now_ns();
            echo.ask(Ping::new(number)).await?;
            times.push(now_ns() - began);
        }
        self.asks = p50_p99_us(times);
        let began = now_ns();
        for number in 0..TELLS {
            echo.tell(Told(Ping::new(number))).await?;
        }
        let told = echo.ask(Count).await?;
        self.tells = TELLS as f64 / (now_ns() - began) as f64 * 1e3;
        assert_eq!(told, TELLS);
        Ok(())
    }
}

#[derive(Serialize, Children)]
struct Talk {
    echo: WorkRef<Echo>,
    caller: WorkRef<Caller>,
    pooled: WorkRef<Catcher>,
    on_thread: WorkRef<Catcher>,
    #[serde(skip)]
    times: Vec<u64>,
    seen: u64,
    publish_react: Option<f64>,
}

impl Talk {
    fn at(place: Placement) -> Self {
        Self {
            echo: WorkRef::new(Echo::default()).placed(place),
            caller: WorkRef::new(Caller::default()).placed(Placement::Pool),
            pooled: WorkRef::new(Catcher::default()).placed(Placement::Pool),
            on_thread: WorkRef::new(Catcher::default()),
            times: Vec::new(),
            seen: 0,
            publish_react: None,
        }
    }
}

impl Flow for Talk {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        let now = now_ns();
        if self.echo.number != self.seen {
            self.seen = self.echo.number;
            self.times.push(now - self.echo.stamp);
        }
        self.pooled.run(());
        self.on_thread.run(());
        self.echo.run(None).finished()?;
        self.caller.run(self.echo.addr()).finished()?;
        self.echo.run(Some((self.pooled.addr(), self.on_thread.addr()))).finished()?;
        let times = std::mem::take(&mut self.times);
        if self.publish_react.is_none() {
            self.publish_react = Some(p50_p99_us(times)[0]);
        }
        Ok(())
    }
}

pub fn node() -> ExitCode {
    App::new(|| Talk::at(Placement::Thread)).main()
}

pub fn measure(case: &str) {
    let place = match case {
        "flowright-pool" => Placement::Node(Selector::name("n").pool()),
        "flowright-thread" => Placement::Node(Selector::name("n")),
        _ => Placement::Process,
    };
    let app = App::new(move || Talk::at(place)).listen("127.0.0.1:0").pool_threads(1);
    let app = TestApp::start_app(app.process(|| Ok(this("talk", &[])))).limit(Duration::from_secs(60));
    let joining = app.status().listening.expect("it listens");
    let _node = matches!(place, Placement::Node(_)).then(|| Killed::node("talk", &joining, "n"));
    let caller = app.wait_for_state("caller", |caller: &Caller| caller.tells > 0.0);
    figure("ask-p50", caller.asks[0]);
    figure("ask-p99", caller.asks[1]);
    figure("tell", caller.tells);
    let p50 = |path| app.wait_for_state(path, |catcher: &Catcher| catcher.p50 > 0.0).p50;
    figure("one-way-pool", p50("pooled"));
    figure("one-way-thread", p50("on_thread"));
    figure(
        "publish-react",
        app.wait_for_state("publish_react", |time: &Option<f64>| time.is_some()).unwrap(),
    );
}
