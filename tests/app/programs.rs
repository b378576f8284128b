//! The programs that the tests of processes run.

use std::io::BufRead;

use flowright::prelude::*;
use flowright::{Deferred, HttpStatus, Streamed};

/// Environment variable with the name of the program that this binary runs.
pub(crate) const VARIABLE: &str = "FLOWRIGHT_TEST_PROGRAM";

pub(crate) fn run(program: &str) -> ExitCode {
    match program {
        "service" => App::new(Service::default).main(),
        "failing" => App::new(Failing::default).main(),
        "stuck" => App::new(Stuck::default).main(),
        "endless" => App::new(Endless::default).grace(Duration::from_secs(1)).main(),
        "unmade" => App::new(unmade).main(),
        "blocking" => App::new(Blocked::default).grace(Duration::from_secs(1)).main(),
        "desk" => {
            App::new(|| Desk { adder: WorkRef::new(Adder::default()).on_error(OnError::Capture) }).main()
        }
        "rude" => {
            App::new(|| Rudeness { rude: WorkRef::new(Rude::default()).on_error(OnError::Capture) }).main()
        }
        "finished" => App::of_work(Greeter::default).main(),
        "deployment" => App::new(crate::services::deployment).main(),
        "echo" => App::new(Echoing::default).main(),
        "actors" => crate::spawned::actors(),
        "trainer" => crate::own_args::trainer(),
        "large" => App::new(|| Large { work: WorkRef::default() }).max_state_bytes(16 << 20).main(),
        "printer" => App::new(Press::default).main(),
        "two_apps" => crate::together::two_apps(),
        "clerk" => App::new(Office::default).main(),
        "clerk_with_recorder" => {
            metrics::set_global_recorder(metrics::NoopRecorder).expect("the recorder is the first");
            App::new(Office::default).main()
        }
        other => crate::journal::run_program(other).unwrap_or_else(|| panic!("there is no program {other}")),
    }
}

/// A Work that logs that it serves, and serves until it is stopped.
#[derive(Default, Serialize, Deserialize)]
struct Server {
    greeting: Option<String>,
    thread: String,
}

impl Work for Server {
    type Input = ();

    async fn on_start(&mut self, _cx: &mut WorkContext<Self>) -> Result<()> {
        self.greeting = std::env::var("GREETING").ok();
        let thread = format!("{:?}", std::thread::current().id());
        self.thread = thread;
        Ok(())
    }

    async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
        println!("{} serves, greeting {:?}", cx.path(), self.greeting);
        log::debug!("a detail");
        log::warn!("a warning");
        cx.serve_forever(self).await?;
        Ok(())
    }

    async fn on_stop(&mut self, cx: &mut WorkContext<Self>) -> Result<()> {
        println!("{} stops", cx.path());
        Ok(())
    }
}

#[derive(Default, Serialize, Children)]
struct Service {
    first: WorkRef<Server>,
    second: WorkRef<Server>,
}

impl Flow for Service {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        self.first.run(());
        self.second.run(());
        Ok(())
    }
}

/// A Flow whose reaction does not return.
#[derive(Default, Serialize, Children)]
struct Loop {
    server: WorkRef<Server>,
}

impl Flow for Loop {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        self.server.run(());
        loop {
            std::thread::park();
        }
    }
}

#[derive(Default, Serialize, Children)]
struct Endless {
    team: FlowRef<Loop>,
}

impl Flow for Endless {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        Ok(())
    }
}

fn unmade() -> Service {
    println!("it is never made");
    loop {
        std::thread::park();
    }
}

/// A Work that blocks its thread without end.
#[derive(Default, Serialize, Deserialize)]
struct Blocking;

impl Work for Blocking {
    type Input = ();

    async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
        println!("{} blocks", cx.path());
        loop {
            std::thread::park();
        }
    }
}

#[derive(Default, Serialize, Children)]
struct Blocked {
    work: WorkRef<Blocking>,
}

impl Flow for Blocked {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        self.work.run(());
        Ok(())
    }
}

/// Control characters for a terminal, in both forms of escape sequences, and bidirectional marks.
pub(crate) const RUDE: &str = "clear\x1b[2J\u{9b}31mtitle\x1b]0;x\x07\u{202e}back\x7f\rover";

/// A Work that publishes, logs and fails with control characters.
#[derive(Default, Serialize, Deserialize)]
struct Rude {
    said: std::collections::BTreeMap<String, String>,
}

impl Work for Rude {
    type Input = String;

    async fn run(&mut self, input: String, _cx: &mut WorkContext<Self>) -> Result<()> {
        self.said.insert(input.clone(), format!("{input}\n{input}"));
        log::warn!("{input}");
        flowright::bail!("{input}")
    }

    fn messages(messages: &mut Messages<Self>) {
        messages.accept::<Say>();
    }
}

#[derive(Serialize, Deserialize)]
struct Say(String);

impl Handle<Say> for Rude {
    type Reply = String;

    async fn handle(&mut self, Say(text): Say, _cx: &mut WorkContext<Self>) -> String {
        text
    }
}

#[derive(Default, Serialize, Children)]
struct Rudeness {
    rude: WorkRef<Rude>,
}

impl Flow for Rudeness {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        self.rude.run(RUDE.to_owned());
        Ok(())
    }
}

/// A Work with a large state, all of which changes from time to time.
#[derive(Default, Serialize, Deserialize)]
struct Changing {
    round: u32,
    text: String,
}

impl Work for Changing {
    type Input = ();

    async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
        loop {
            self.round += 1;
            self.text = format!("{:04}{}", self.round, "x".repeat(5 << 20));
            cx.publish(self);
            cx.sleep(self, std::time::Duration::from_millis(100)).await?;
        }
    }
}

#[derive(Serialize, Children)]
struct Large {
    work: WorkRef<Changing>,
}

impl Flow for Large {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        self.work.run(());
        Ok(())
    }
}

/// A Work that waits for a line on stdin before it stops.
#[derive(Default, Serialize, Deserialize)]
struct Slow;

impl Work for Slow {
    type Input = ();

    async fn run(&mut self, (): (), _cx: &mut WorkContext<Self>) -> Result<()> {
        println!("slow is ready");
        Ok(())
    }

    async fn on_stop(&mut self, _cx: &mut WorkContext<Self>) -> Result<()> {
        println!("slow is asked to stop");
        std::io::stdin().lock().read_line(&mut String::new())?;
        println!("slow has stopped");
        Ok(())
    }
}

/// A Work that fails with a chain of causes.
#[derive(Default, Serialize, Deserialize)]
struct Trainer;

impl Work for Trainer {
    type Input = ();

    async fn run(&mut self, (): (), _cx: &mut WorkContext<Self>) -> Result<()> {
        let cause = "many".parse::<u32>().unwrap_err();
        Err(Error::from(cause).context("layers").context("the model cannot be built"))
    }
}

#[derive(Default, Serialize, Children)]
struct Failing {
    team: FlowRef<FailingTeam>,
}

#[derive(Default, Serialize, Children)]
struct FailingTeam {
    trainer: WorkRef<Trainer>,
    slow: WorkRef<Slow>,
}

impl Flow for Failing {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        Ok(())
    }
}

impl Flow for FailingTeam {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        self.slow.run(()).finished()?;
        self.trainer.run(());
        Ok(())
    }
}

#[derive(Default, Serialize, Children)]
struct Stuck {
    slow: WorkRef<Slow>,
}

impl Flow for Stuck {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        self.slow.run(());
        Ok(())
    }
}

/// The root of an App of one Work, which ends with it.
#[derive(Default, Serialize, Deserialize)]
struct Greeter;

impl Work for Greeter {
    type Input = ();

    async fn run(&mut self, (): (), _cx: &mut WorkContext<Self>) -> Result<()> {
        println!("hello");
        Ok(())
    }
}

/// A Work that takes any input and any message, for clients that know no types.
#[derive(Default, Serialize, Deserialize)]
struct Echo {
    last: serde_json::Value,
}

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Predict(serde_json::Value);

impl Work for Echo {
    type Input = serde_json::Value;

    async fn run(&mut self, input: Self::Input, _cx: &mut WorkContext<Self>) -> Result<()> {
        log::info!("a run with an input of {} bytes", input.to_string().len());
        Ok(())
    }

    fn messages(messages: &mut Messages<Self>) {
        messages.accept::<Predict>().accept::<Repeat>().accept::<Check>().accept::<CheckLater>();
        messages.accept::<Items>();
        messages.accept_with_status::<Refuse>();
    }
}

/// A message whose answer is a text of this many bytes, or empty if the value is no number.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Repeat(serde_json::Value);

impl Handle<Repeat> for Echo {
    type Reply = String;

    async fn handle(&mut self, Repeat(length): Repeat, _cx: &mut WorkContext<Self>) -> String {
        const MOST: u64 = 20 << 20;
        let length = length.as_u64().unwrap_or(0).min(MOST);
        "x".repeat(usize::try_from(length).unwrap_or(0))
    }
}

/// A message whose answer is the value, as an error if it has a member `refused`.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Check(serde_json::Value);

impl Handle<Check> for Echo {
    type Reply = Result<serde_json::Value, serde_json::Value>;

    async fn handle(&mut self, Check(value): Check, _cx: &mut WorkContext<Self>) -> Self::Reply {
        if value.get("refused").is_some() { Err(value) } else { Ok(value) }
    }
}

/// As [`Check`], and the answer is sent by another task. A member `dropped` has it dropped.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct CheckLater(serde_json::Value);

impl Handle<CheckLater> for Echo {
    type Reply = Deferred<Result<serde_json::Value, serde_json::Value>>;

    async fn handle(&mut self, CheckLater(value): CheckLater, cx: &mut WorkContext<Self>) -> Self::Reply {
        let (deferred, reply) = cx.defer();
        tokio::task::spawn_local(async move {
            if value.get("dropped").is_none() {
                reply.send(if value.get("refused").is_some() { Err(value) } else { Ok(value) });
            }
        });
        deferred
    }
}

/// A message that is answered with a stream of these items, which is complete behind them unless it says otherwise. Any value
/// is one.
#[derive(Serialize, Deserialize)]
#[serde(from = "serde_json::Value")]
struct Items {
    items: Vec<serde_json::Value>,
    then: Then,
}

impl From<serde_json::Value> for Items {
    fn from(value: serde_json::Value) -> Self {
        let items = value["items"].as_array().cloned().unwrap_or_default();
        let then = Then::deserialize(&value["then"]).unwrap_or(Then::Finish);
        Self { items, then }
    }
}

/// The end of a stream.
#[derive(Serialize, Deserialize)]
enum Then {
    Finish,
    Fail,
    /// It ends when nobody reads it any more.
    Wait,
}

impl Handle<Items> for Echo {
    type Reply = Streamed<serde_json::Value>;

    async fn handle(&mut self, m: Items, cx: &mut WorkContext<Self>) -> Streamed<serde_json::Value> {
        let (streamed, mut sender) = cx.stream();
        tokio::task::spawn_local(async move {
            for item in m.items {
                if sender.send(item).await.is_err() {
                    return;
                }
            }
            match m.then {
                Then::Finish => sender.finish(),
                Then::Fail => sender.fail("there are no more"),
                Then::Wait => sender.closed().await,
            }
        });
        streamed
    }
}

/// A message that is answered with an error that says this status, or with null if it is 200.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Refuse(u16);

#[derive(Serialize, Deserialize)]
struct Refused {
    says: u16,
}

impl HttpStatus for Refused {
    fn http_status(&self) -> u16 {
        assert_ne!(self.says, 0, "a status that panics");
        self.says
    }
}

impl Handle<Refuse> for Echo {
    type Reply = Deferred<Result<(), Refused>>;

    async fn handle(&mut self, Refuse(says): Refuse, cx: &mut WorkContext<Self>) -> Self::Reply {
        let (deferred, reply) = cx.defer();
        reply.send(if says == 200 { Ok(()) } else { Err(Refused { says }) });
        deferred
    }
}

impl Handle<Predict> for Echo {
    type Reply = serde_json::Value;

    async fn handle(&mut self, Predict(value): Predict, _cx: &mut WorkContext<Self>) -> serde_json::Value {
        value
    }
}

/// A message that is answered with a stream of the numbers below this; a negative number is an error.
#[derive(Serialize, Deserialize)]
struct Count(i64);

impl Handle<Count> for Adder {
    type Reply = Streamed<i64>;

    async fn handle(&mut self, Count(below): Count, cx: &mut WorkContext<Self>) -> Streamed<i64> {
        if below < 0 {
            let (streamed, mut sender) = cx.stream();
            // The window is open.
            let _ = sender.try_send(0);
            sender.fail(format!("{below} is less than nothing"));
            return streamed;
        }
        cx.stream_of(futures::stream::iter(0..below))
    }
}

#[derive(Default, Serialize, Children)]
struct Echoing {
    server: WorkRef<Echo>,
    train: WorkRef<Echo>,
}

impl Flow for Echoing {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        self.server.run(serde_json::Value::Null);
        self.train.run(serde_json::Value::Null);
        Ok(())
    }
}

/// A Work that adds the numbers of its runs and messages; a negative total is an error.
#[derive(Default, Serialize, Deserialize)]
struct Adder {
    total: i64,
}

impl Work for Adder {
    type Input = i64;

    async fn run(&mut self, number: i64, cx: &mut WorkContext<Self>) -> Result<()> {
        if self.total + number < 0 {
            bail!("{} and {number} is less than nothing", self.total);
        }
        self.total += number;
        log::info!("the total is {}", self.total);
        cx.output(&Total { total: self.total })?;
        Ok(())
    }

    fn messages(messages: &mut Messages<Self>) {
        messages.accept::<Add>().accept::<Count>();
    }
}

/// The output of a run of an [`Adder`].
#[derive(Serialize)]
struct Total {
    total: i64,
}

#[derive(Serialize, Deserialize)]
struct Add(i64);

impl Handle<Add> for Adder {
    type Reply = Result<i64, String>;

    async fn handle(&mut self, Add(number): Add, cx: &mut WorkContext<Self>) -> Self::Reply {
        if self.total + number < 0 {
            return Err(format!("{} and {number} is less than nothing", self.total));
        }
        self.total += number;
        cx.publish(self);
        Ok(self.total)
    }
}

/// A Flow with an adder, to which it gives one number.
#[derive(Serialize, Children)]
struct Desk {
    adder: WorkRef<Adder>,
}

impl Flow for Desk {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        self.adder.run(7);
        Ok(())
    }
}

/// A Work that records metrics.
#[derive(Default, Serialize, Deserialize)]
struct Clerk;

impl Work for Clerk {
    type Input = ();

    async fn run(&mut self, (): (), _cx: &mut WorkContext<Self>) -> Result<()> {
        metrics::describe_counter!("pages_read", "Pages that were read.");
        metrics::counter!("pages_read", "format" => "pdf").increment(3);
        metrics::counter!("pages_read", "format" => "the \"best\"").increment(1);
        metrics::gauge!("queue.length").set(2.5);
        for seconds in [0.06, 2.0, 1e6] {
            metrics::histogram!("page_seconds").record(seconds);
        }
        metrics::gauge!("page_seconds").set(99.0);
        metrics::gauge!("flowright_works").set(99.0);
        Ok(())
    }
}

#[derive(Default, Serialize, Children)]
struct Office {
    clerk: WorkRef<Clerk>,
}

impl Flow for Office {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        self.clerk.run(());
        Ok(())
    }
}

/// A Work that prints its input.
#[derive(Default, Serialize, Deserialize)]
struct Printer;

impl Work for Printer {
    type Input = u32;

    async fn on_start(&mut self, _cx: &mut WorkContext<Self>) -> Result<()> {
        println!("before all");
        Ok(())
    }

    async fn run(&mut self, number: u32, _cx: &mut WorkContext<Self>) -> Result<()> {
        println!("page {number}");
        eprintln!("ink {number}");
        // The other lines have no line break.
        let end = if number == 20 { "\n" } else { "" };
        print!("last of {number}{end}");
        Ok(())
    }
}

#[derive(Default, Serialize, Children)]
struct Press {
    printer: WorkRef<Printer>,
}

impl Flow for Press {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        for number in 1..=20 {
            self.printer.run(number);
        }
        Ok(())
    }
}
