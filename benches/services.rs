//! Cost of a service beside a plain Work, of batches and streams, and of a rollout: each beside its measure in one run.
//!
//! `cargo bench --bench services` prints a table; `-- NAME` selects the measures whose name contains NAME.

use std::hint::black_box;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{Batch, HandleBatch, Selector, ServiceRef, Streamed};
use futures::future::join_all;

/// Environment variable that makes a process one of the App.
const PROCESS: &str = "FLOWRIGHT_BENCH_SERVICES";

/// Size of an item of a stream and of a message that is told, in bytes.
const ITEM: usize = 64;

#[derive(Default, Serialize, Deserialize)]
struct Server {
    version: u64,
    #[serde(skip)]
    told: u64,
}

impl Work for Server {
    type Input = u64;

    async fn run(&mut self, version: u64, cx: &mut WorkContext<Self>) -> Result<()> {
        self.version = version;
        cx.ready(self);
        cx.serve_forever(self).await?;
        Ok(())
    }

    fn messages(messages: &mut Messages<Self>) {
        messages.accept::<Ping>().accept::<Note>().accept::<Told>().accept::<Items>();
        messages.accept::<Alone>().accept::<Together>();
    }
}

/// A question for the version.
#[derive(Serialize, Deserialize)]
struct Ping;

impl Handle<Ping> for Server {
    type Reply = u64;

    async fn handle(&mut self, _: Ping, _: &mut WorkContext<Self>) -> u64 {
        self.version
    }
}

#[derive(Serialize, Deserialize)]
struct Note(Bytes);

impl Handle<Note> for Server {
    type Reply = ();

    async fn handle(&mut self, Note(bytes): Note, _: &mut WorkContext<Self>) {
        black_box(bytes);
        self.told += 1;
    }
}

/// A question for the number of notes.
#[derive(Serialize, Deserialize)]
struct Told;

impl Handle<Told> for Server {
    type Reply = u64;

    async fn handle(&mut self, _: Told, _: &mut WorkContext<Self>) -> u64 {
        self.told
    }
}

/// A question for this number of items.
#[derive(Serialize, Deserialize)]
struct Items(u64);

impl Handle<Items> for Server {
    type Reply = Streamed<Bytes>;

    async fn handle(&mut self, Items(items): Items, cx: &mut WorkContext<Self>) -> Streamed<Bytes> {
        cx.stream_of(futures::stream::iter((0..items).map(|_| Bytes::from_static(&[7; ITEM]))))
    }
}

/// The time of one call of a model, however many inputs it has.
fn call_of_a_model() {
    let began = Instant::now();
    while began.elapsed() < Duration::from_micros(100) {
        std::hint::spin_loop();
    }
}

#[derive(Serialize, Deserialize)]
struct Alone(u64);

impl Handle<Alone> for Server {
    type Reply = u64;

    async fn handle(&mut self, Alone(input): Alone, _: &mut WorkContext<Self>) -> u64 {
        call_of_a_model();
        input
    }
}

#[derive(Serialize, Deserialize)]
struct Together(u64);

impl HandleBatch<Together> for Server {
    type Reply = u64;

    fn batch(&self) -> Batch {
        Batch::of(32).within(Duration::from_millis(5))
    }

    async fn handle_batch(&mut self, batch: Vec<Together>, _: &mut WorkContext<Self>) -> Vec<u64> {
        call_of_a_model();
        batch.into_iter().map(|Together(input)| input).collect()
    }
}

/// A Work that measures: it lives on the thread of the connections, as a busy caller does.
#[derive(Default, Serialize, Deserialize)]
struct Caller;

impl Work for Caller {
    type Input = ();
}

/// Ask both in turn, this often, and answer with the medians in nanoseconds.
#[derive(Serialize, Deserialize)]
struct AskBoth(usize, WorkAddr<Server>, WorkAddr<Server>);

impl Handle<AskBoth> for Caller {
    type Reply = (u64, u64);

    async fn handle(&mut self, AskBoth(asks, one, other): AskBoth, _: &mut WorkContext<Self>) -> (u64, u64) {
        let mut times = [Vec::with_capacity(asks), Vec::with_capacity(asks)];
        // In turns, so that both see the same machine.
        for _ in 0..asks / 100 {
            for (addr, times) in [&one, &other].into_iter().zip(&mut times) {
                for _ in 0..100 {
                    let began = Instant::now();
                    addr.ask(Ping).await.expect("it answers");
                    times.push(u64::try_from(began.elapsed().as_nanos()).expect("a short time"));
                }
            }
        }
        let [one, other] = times.map(|mut times| {
            times.sort_unstable();
            times[times.len() / 2]
        });
        (one, other)
    }
}

/// Tell this many notes and answer with notes per second.
#[derive(Serialize, Deserialize)]
struct TellAll(u64, WorkAddr<Server>);

impl Handle<TellAll> for Caller {
    type Reply = f64;

    async fn handle(&mut self, TellAll(notes, server): TellAll, _: &mut WorkContext<Self>) -> f64 {
        let before = server.ask(Told).await.expect("it answers");
        let began = Instant::now();
        for _ in 0..notes {
            server.tell(Note(Bytes::from_static(&[7; ITEM]))).await.expect("it is there");
        }
        let told = server.ask(Told).await.expect("it answers") - before;
        assert_eq!(told, notes);
        notes as f64 / began.elapsed().as_secs_f64()
    }
}

/// Read a stream of this many items and answer with items per second.
#[derive(Serialize, Deserialize)]
struct ReadAll(u64, WorkAddr<Server>);

impl Handle<ReadAll> for Caller {
    type Reply = f64;

    async fn handle(&mut self, ReadAll(items, server): ReadAll, _: &mut WorkContext<Self>) -> f64 {
        use futures::StreamExt;

        let began = Instant::now();
        let mut stream = server.stream(Items(items)).window(1024).await.expect("it is there");
        let mut read = 0;
        while let Some(item) = stream.next().await {
            black_box(item.expect("an item"));
            read += 1;
        }
        assert_eq!(read, items);
        items as f64 / began.elapsed().as_secs_f64()
    }
}

/// Deploy this version.
#[derive(Serialize, Deserialize)]
struct Deploy(u64);

#[derive(Default, Serialize, Deserialize)]
struct Dial {
    version: u64,
}

impl Work for Dial {
    type Input = ();
}

impl Handle<Deploy> for Dial {
    type Reply = ();

    async fn handle(&mut self, Deploy(version): Deploy, cx: &mut WorkContext<Self>) {
        self.version = version;
        cx.publish(self);
    }
}

/// The last deployment.
static DEPLOYED: Mutex<Option<Instant>> = Mutex::new(None);

#[derive(Serialize, Children)]
struct Root {
    straight: WorkRef<Server>,
    service: ServiceRef<Server>,
    caller: WorkRef<Caller>,
    dial: WorkRef<Dial>,
    deployed: u64,
}

impl Root {
    fn new(placement: Placement) -> Self {
        Self {
            straight: WorkRef::new(Server::default()).placed(placement),
            service: ServiceRef::new(Server::default()).placed(placement),
            caller: WorkRef::new(Caller).placed(Placement::Pool),
            dial: WorkRef::default(),
            deployed: 0,
        }
    }
}

impl Flow for Root {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        self.straight.run(1);
        let version = self.dial.version.max(1);
        if version != self.deployed {
            self.deployed = version;
            *DEPLOYED.lock().expect("no panic") = Some(Instant::now());
        }
        self.service.deploy(version);
        Ok(())
    }
}

/// Returns the answers per second that 32 callers get, each of which asks this often.
async fn asks_per_second(asks: u64, ask: impl AsyncFn(u64) -> u64) -> f64 {
    let ask = &ask;
    let began = Instant::now();
    let callers = (0..32).map(|caller| async move {
        for number in 0..asks {
            black_box(ask(caller * asks + number).await);
        }
    });
    join_all(callers).await;
    (32 * asks) as f64 / began.elapsed().as_secs_f64()
}

/// An App whose servers are at `placement`, and its node.
struct Case {
    app: TestApp,
    node: Option<Child>,
}

impl Case {
    fn new(placement: Placement) -> Self {
        let program = || {
            let mut command = Command::new(std::env::current_exe()?);
            command.env(PROCESS, "1");
            Ok(command)
        };
        let app = App::new(move || Root::new(placement)).listen("127.0.0.1:0").process(program);
        let app = TestApp::start_app(app.pool_threads(1));
        let node = matches!(placement, Placement::Node(_)).then(|| {
            let address = app.status().listening.expect("it listens");
            let mut command = program().expect("the path of this program is known");
            command.args(["node", "--name", "n", "--join", &address.to_string(), "--log-level", "off"]);
            command.stdout(Stdio::null()).spawn().expect("it starts")
        });
        app.wait_for_stage("straight", Stage::Running);
        let case = Self { app, node };
        // Answered once the first version serves.
        case.app.block_on(case.server("service").ask(Ping)).expect("it answers");
        case
    }

    fn server(&self, path: &str) -> WorkAddr<Server> {
        self.app.work(path)
    }

    fn caller(&self) -> WorkAddr<Caller> {
        self.app.work("caller")
    }

    /// Deploys versions one after the other, and returns the median time to the first answer of a new one.
    fn rollout(&self, rollouts: u64) -> Duration {
        let (server, dial) = (self.server("service"), self.app.work::<Dial>("dial"));
        let mut times = Vec::new();
        for version in 2..2 + rollouts {
            self.app.block_on(async {
                dial.ask(Deploy(version)).await.expect("it answers");
                while server.ask(Ping).await.expect("it answers") != version {}
            });
            times.push(DEPLOYED.lock().expect("no panic").expect("it was deployed").elapsed());
            // The old replica is gone before the next version comes.
            self.app.wait_for_state(
                "service.replicas",
                |replicas: &std::collections::BTreeMap<String, Server>| replicas.len() == 1,
            );
        }
        times.sort_unstable();
        times[times.len() / 2]
    }

    fn end(self) {
        self.app.stop().result.expect("it stops");
        if let Some(mut node) = self.node {
            node.wait().expect("it is a child");
        }
    }
}

fn show(measure: &str, of_service: String, beside: String, ratio: f64, reach: &str) {
    println!("| {measure:<66} | {of_service:>12} | {beside:>12} | {ratio:>6.2} | {reach:<6} |");
}

fn micros(nanos: u64) -> String {
    format!("{:.2} µs", nanos as f64 / 1e3)
}

fn measure(filter: &str) {
    let is_wanted = |name: &str| name.contains(filter);
    println!(
        "| {:<66} | {:>12} | {:>12} | {:>6} | {:<6} |",
        "measure", "Flowright", "beside", "ratio", "reach"
    );
    println!("| {:-<66} | {:->12} | {:->12} | {:->6} | {:-<6} |", "", "", "", "", "");
    let node = Placement::Node(Selector::name("n"));
    let pooled_node = "n/pool".parse().expect("a placement");
    if is_wanted("ask") {
        for (placement, asks, name) in [
            (Placement::Thread, 40_000, "ask of a service of one replica, thread (straight to a Work)"),
            (node, 20_000, "ask of a service of one replica, node (straight to a Work)"),
            (pooled_node, 20_000, "ask of a service of one replica, pool of a node (straight)"),
        ] {
            let case = Case::new(placement);
            let ask = AskBoth(asks, case.server("straight"), case.server("service"));
            let caller = case.caller();
            let ask = caller.ask(ask).timeout(Duration::from_secs(100));
            let (straight, service) = case.app.block_on(ask).expect("it answers");
            show(name, micros(service), micros(straight), service as f64 / straight as f64, "<= 1.1");
            case.end();
        }
    }
    if is_wanted("stream") {
        let case = Case::new(pooled_node);
        let (server, caller) = (case.server("straight"), case.caller());
        let mut rates = [Vec::new(), Vec::new()];
        for _ in 0..5 {
            let long = Duration::from_secs(100);
            let told = case.app.block_on(caller.ask(TellAll(1_000_000, server.clone())).timeout(long));
            let read = case.app.block_on(caller.ask(ReadAll(1_000_000, server.clone())).timeout(long));
            rates[0].push(read.expect("it answers"));
            rates[1].push(told.expect("it answers"));
        }
        let [read, told] = rates.map(|mut rates| {
            rates.sort_unstable_by(f64::total_cmp);
            rates[rates.len() / 2]
        });
        let rate = |rate: f64| format!("{:.2} M/s", rate / 1e6);
        let name = "streamed reply, items of 64 bytes from a node (pooled tell to it)";
        show(name, rate(read), rate(told), read / told, ">= 1");
        case.end();
    }
    if is_wanted("batch") {
        let case = Case::new(Placement::Thread);
        let server = case.server("straight");
        let alone = async |input| server.ask(Alone(input)).await.expect("it answers");
        let together = async |input| server.ask(Together(input)).await.expect("it answers");
        let unbatched = case.app.block_on(asks_per_second(20, alone));
        let batched = case.app.block_on(asks_per_second(200, together));
        let rate = |rate: f64| format!("{rate:.0}/s");
        let name = "32 callers, batched, 100 µs for each call of the handler (unbatched)";
        show(name, rate(batched), rate(unbatched), batched / unbatched, ">= 20");
        case.end();
    }
    if is_wanted("rollout") {
        for (placement, rollouts, limit, name) in [
            (Placement::Thread, 50, 5.0, "rollout on threads: deploy to the first answer (5 ms)"),
            (Placement::Process, 20, 50.0, "rollout in processes: deploy to the first answer (50 ms)"),
            (node, 50, 50.0, "rollout on a node: deploy to the first answer (50 ms)"),
        ] {
            let case = Case::new(placement);
            let millis = case.rollout(rollouts).as_secs_f64() * 1e3;
            show(name, format!("{millis:.2} ms"), format!("{limit:.0} ms"), millis / limit, "<= 1");
            case.end();
        }
    }
}

fn main() -> ExitCode {
    if std::env::var_os(PROCESS).is_some() {
        return App::new(|| Root::new(Placement::Thread)).main();
    }
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with("--")).unwrap_or_default();
    measure(&filter);
    ExitCode::SUCCESS
}
