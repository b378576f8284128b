//! A scripted Work, and an App with two of them.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use flowright::prelude::*;
use flowright::{
    AskError, Backlog, Batch, Deferred, EndKind, HandleBatch, Messages, Payload, Recipient, ReplySender,
    StreamSendError, StreamSender, Streamed, Subscription, Topic,
};
use futures::TryStreamExt;

/// An order for a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Task {
    /// Count up to this number, and publish each.
    Count(u64),
    Fail,
    Panic,
    /// Serve until it is stopped.
    Serve,
    /// Publish without a pause, until it is stopped.
    Chatter,
    /// Tell another Work the numbers below this, and ask it for their sum.
    Send(WorkAddr<Lab>, u32),
    /// Tell another Work the numbers below this.
    Tell(WorkAddr<Lab>, u32),
    /// Tell another Work the numbers below 20, and those from 1000 to 1004 first. The flag is that of `GiveUp`.
    TellFirst(WorkAddr<Lab>, bool),
    Exit(i32),
    /// Ask another Work ten times and give up each question. Unless the flag says that the other Work is in this process,
    /// a refused question proves that the session has got that far.
    GiveUp(WorkAddr<Lab>, bool),
    /// Ask another Work, without a deadline.
    Ask(WorkAddr<Lab>),
    /// Tell a recipient the numbers from 1 to 3, and ask for their sum: of the second recipient, and of the one that the
    /// first recipient of `Relay` sends back.
    Address(Recipient<Add>, Recipient<Sum, u64>, Recipient<Relay, Recipient<Sum, u64>>),
    /// Block the thread until this file exists.
    Block(std::path::PathBuf),
    /// Watch another Work until an incarnation of it ends.
    Watch(WorkAddr<Lab>),
    /// Ask another Work for the doubles of the numbers below this, which it handles in batches.
    AskForDoubles(WorkAddr<Lab>, u32),
    /// Read a stream of another Work, with this window, and of a recipient that it has sent; add the items up.
    Read(WorkAddr<Lab>, Recipient<Stream, Streamed<u32>>, u32),
    /// Open a stream of another Work, and read it until it ends.
    ReadOn(WorkAddr<Lab>),
    /// Ask another Work, which answers later.
    AskForLater(WorkAddr<Lab>, u64),
    /// Ask another Work whose handler waits for its caller to go, and give up.
    AskAndLeave(WorkAddr<Lab>),
    /// Ask another Work whose handler waits for its caller to go, without a deadline.
    AskAndStay(WorkAddr<Lab>),
    Bytes(Vec<u8>),
    /// Keep the value in the state, and a payload of it.
    Keep(Probe),
    /// Keep the value of the payload.
    Open(Payload<Probe>),
}

/// A value that serde reads from a buffer, in each possible way, with parts that are text in human-readable formats.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub(crate) enum Probe {
    Ping {
        host: IpAddr,
        #[serde(flatten)]
        gate: Option<Gate>,
        targets: Vec<Target>,
        /// Nested options, which many formats do not tell apart.
        nested: Vec<Nested>,
        named: std::collections::HashMap<u16, Option<Option<String>>>,
    },
}

type Nested = (Option<Option<u8>>, Option<Option<Option<()>>>);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Gate {
    pub(crate) gate: SocketAddr,
    pub(crate) since: std::time::SystemTime,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Target {
    Address(SocketAddr),
    Host(IpAddr),
    Name(String),
    Number(u64),
}

impl Probe {
    pub(crate) fn new() -> Self {
        let gate = SocketAddr::V6(SocketAddrV6::new("fe80::1".parse().expect("an address"), 443, 0, 7));
        Self::Ping {
            host: IpAddr::from([192, 0, 2, 1]),
            gate: Some(Gate { gate, since: std::time::UNIX_EPOCH }),
            targets: vec![
                Target::Address(gate),
                Target::Address(SocketAddr::from(([192, 0, 2, 2], 80))),
                Target::Host(IpAddr::from([192, 0, 2, 3])),
                Target::Host("2001:db8::1".parse().expect("an address")),
                Target::Name("name".to_owned()),
                Target::Number(5),
            ],
            nested: vec![
                (None, None),
                (Some(None), Some(None)),
                (Some(Some(0)), Some(Some(None))),
                (Some(Some(1)), Some(Some(Some(())))),
            ],
            named: [(1, None), (2, Some(None)), (3, Some(Some(String::new())))].into(),
        }
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Lab {
    pub(crate) count: u64,
    pub(crate) lives: u32,
    pub(crate) runs: u32,
    pub(crate) received: Vec<u32>,
    pub(crate) sum: Option<u64>,
    pub(crate) process: u32,
    pub(crate) stopped: u32,
    /// The wall clock of its machine, in seconds.
    pub(crate) clock: u64,
    pub(crate) kept: Option<Probe>,
    pub(crate) payload: Option<Payload<Probe>>,
    /// True while `Until` is being handled.
    pub(crate) is_held: bool,
    #[serde(skip)]
    pub(crate) private: u32,
    /// The address of the Work that it has told numbers.
    #[serde(skip)]
    pub(crate) told: Option<WorkAddr<Lab>>,
    /// Deferred replies.
    #[serde(skip)]
    pub(crate) later: Vec<(u64, ReplySender<u64>)>,
    /// Streams that are sent by [`Push`].
    #[serde(skip)]
    pub(crate) streams: Vec<StreamSender<String>>,
    /// Its subscriptions to topics.
    #[serde(skip)]
    pub(crate) subscriptions: Vec<Subscription>,
    /// The number of deferred replies.
    pub(crate) deferred: usize,
    /// The end of the Work that it has watched.
    pub(crate) seen: Option<EndKind>,
    /// Sizes of the batches that it has handled.
    pub(crate) batches: Vec<usize>,
}

impl Work for Lab {
    type Input = Task;

    async fn on_start(&mut self, _cx: &mut WorkContext<Self>) -> Result<()> {
        assert_eq!(self.private, 0, "private fields begin anew");
        self.private = 1;
        self.lives += 1;
        self.process = std::process::id();
        self.clock = clock();
        Ok(())
    }

    async fn on_stop(&mut self, _cx: &mut WorkContext<Self>) -> Result<()> {
        self.stopped += 1;
        Ok(())
    }

    async fn run(&mut self, task: Task, cx: &mut WorkContext<Self>) -> Result<()> {
        self.runs += 1;
        cx.publish(self);
        match task {
            Task::Count(to) => {
                while self.count < to {
                    self.count += 1;
                    cx.publish(self);
                    cx.turn(self).await?;
                }
            }
            Task::Fail => {
                let cause = "many".parse::<u32>().expect_err("that is no number");
                return Err(Error::from(cause).context("the port"));
            }
            Task::Panic => panic!("it panics"),
            Task::Serve => {
                log::warn!(target: "lab", "it serves");
                cx.serve_forever(self).await?;
            }
            Task::Chatter => loop {
                self.count += 1;
                cx.publish(self);
                cx.turn(self).await?;
            },
            Task::Send(other, numbers) => {
                for number in 0..numbers {
                    other.tell(Add(number)).await?;
                }
                self.sum = Some(other.ask(Sum).await?);
            }
            Task::Tell(other, numbers) => {
                for number in 0..numbers {
                    other.tell(Add(number)).await?;
                }
                self.told = Some(other);
            }
            Task::TellFirst(other, is_beside) => {
                for number in 0..20 {
                    other.tell(Add(number)).await?;
                }
                for number in 1000..1005 {
                    other.tell_first(Add(number)).await?;
                }
                if !is_beside {
                    let refused = other.ask(Unreadable).await.expect_err("the message cannot be read");
                    assert!(matches!(refused, flowright::AskError::NotHandled(_)), "{refused}");
                }
            }
            Task::GiveUp(other, is_beside) => {
                give_up(&other, 100, is_beside).await;
                self.count = 10;
            }
            Task::Ask(other) => {
                cx.publish(self);
                other.ask(Add(7)).timeout(Duration::from_secs(3600)).await?;
            }
            Task::Address(add, sum, relay) => {
                for number in 1..=3 {
                    add.tell(Add(number)).await?;
                }
                add.ask(Add(4)).await?;
                let back = relay.ask(Relay(sum.clone())).await?;
                assert_eq!((&back, back.path(), back.ask(Sum).await?), (&sum, sum.path(), 10));
                self.sum = Some(sum.ask(Sum).await?);
            }
            Task::Block(file) => {
                while !file.exists() {
                    std::thread::park_timeout(Duration::from_millis(5));
                }
            }
            Task::Watch(other) => self.seen = Some(other.watch().await.kind),
            Task::AskForDoubles(other, below) => self.sum = Some(doubles(&other, below).await?),
            Task::Read(other, recipient, window) => {
                let stream = other.stream(Stream(1000)).window(window).await?;
                let numbers = stream.try_collect::<Vec<u32>>().await?;
                let more = recipient.stream(Stream(10)).await?.try_collect::<Vec<u32>>().await?;
                assert!(numbers.iter().copied().eq(0..1000) && more.iter().copied().eq(0..10));
                self.sum = Some(numbers.into_iter().chain(more).map(u64::from).sum());
            }
            Task::ReadOn(other) => {
                let stream = other.stream(Hold).await?;
                self.is_held = true;
                cx.publish(self);
                stream.try_collect::<Vec<String>>().await?;
            }
            Task::AskForLater(other, number) => self.sum = Some(other.ask(Later(number)).await?),
            Task::AskAndLeave(other) => leave(&other, 2).await?,
            Task::AskAndStay(other) => {
                other.ask(Watch).timeout(Duration::from_secs(3600)).await?;
            }
            Task::Exit(code) => std::process::exit(code),
            Task::Bytes(bytes) => self.count = bytes.len() as u64,
            Task::Keep(probe) => {
                self.payload = Some(cx.payload(probe.clone())?);
                self.kept = Some(probe);
            }
            Task::Open(payload) => self.kept = Some((*payload.value().await?).clone()),
        }
        Ok(())
    }

    fn messages(messages: &mut Messages<Self>) {
        messages
            .accept::<Add>()
            .accept::<Sum>()
            .accept::<Find>()
            .accept::<Round>()
            .accept::<Load>()
            .accept::<Break>()
            .accept::<Die>()
            .accept::<Never>()
            .accept::<Until>()
            .accept::<Rest>()
            .accept::<Unreadable>()
            .accept::<Gone>()
            .accept::<Relay>()
            .accept::<Double>()
            .accept::<Later>()
            .accept::<Stream>()
            .accept::<Hold>()
            .accept::<Push>()
            .accept::<Early>()
            .accept::<Flush>()
            .accept::<Waits>()
            .accept::<Watch>()
            .accept::<Reply>()
            .accept::<Mirror>()
            .accept::<OnTopic>();
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Add(pub(crate) u32);

impl Handle<Add> for Lab {
    type Reply = ();

    async fn handle(&mut self, Add(number): Add, _: &mut WorkContext<Self>) {
        self.received.push(number);
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Sum;

impl Handle<Sum> for Lab {
    type Reply = u64;

    async fn handle(&mut self, _: Sum, cx: &mut WorkContext<Self>) -> u64 {
        self.clock = clock();
        cx.publish(self);
        self.received.iter().map(|number| u64::from(*number)).sum()
    }
}

/// A question whose handler finds the Lab at this path and asks it for its sum, or returns the text of the error.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Find(pub(crate) String);

impl Handle<Find> for Lab {
    type Reply = std::result::Result<u64, String>;

    async fn handle(&mut self, Find(path): Find, cx: &mut WorkContext<Self>) -> Self::Reply {
        let found = cx.find::<Self>(&path).await.map_err(|error| error.to_string())?;
        found.ask(Sum).await.map_err(|error| error.to_string())
    }
}

/// A question whose handler asks the first Work of the route to ask the rest of it. Answered by the names of a cycle.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Round(pub(crate) Vec<WorkAddr<Lab>>);

impl Handle<Round> for Lab {
    type Reply = std::result::Result<(), Vec<String>>;

    async fn handle(&mut self, Round(mut route): Round, _: &mut WorkContext<Self>) -> Self::Reply {
        if route.is_empty() {
            return Ok(());
        }
        let next = route.remove(0);
        match next.ask(Round(route)).await {
            Ok(told) => told,
            Err(AskError::Deadlock { cycle, .. }) => Err(cycle),
            Err(error) => Err(vec![error.to_string()]),
        }
    }
}

/// A question whose handler uses a topic, or returns the text of the error.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum OnTopic {
    /// Subscribe to the topic of this name, with this bound, for [`Add`].
    Subscribe(String, usize),
    /// Subscribe to this topic.
    SubscribeTo(Topic<Add>),
    /// Publish the numbers of this range.
    Publish(String, u32, u32),
    /// Open the topic for messages of another type.
    OpenOther(String),
    /// Cancel all subscriptions.
    Cancel,
}

impl Handle<OnTopic> for Lab {
    type Reply = std::result::Result<(), String>;

    async fn handle(&mut self, what: OnTopic, cx: &mut WorkContext<Self>) -> Self::Reply {
        let text = |error: flowright::TopicError| error.to_string();
        match what {
            OnTopic::Subscribe(name, bound) => {
                let topic = cx.topic::<Add>(&name).await.map_err(text)?;
                self.subscriptions.push(cx.subscribe(&topic, Backlog::of(bound)).await.map_err(text)?);
            }
            OnTopic::SubscribeTo(topic) => {
                self.subscriptions.push(cx.subscribe(&topic, Backlog::of(1000)).await.map_err(text)?);
            }
            OnTopic::Publish(name, from, to) => {
                let topic = cx.topic::<Add>(&name).await.map_err(text)?;
                (from..to).try_for_each(|number| topic.publish(Add(number))).map_err(text)?;
            }
            OnTopic::OpenOther(name) => drop(cx.topic::<Load>(&name).await.map_err(text)?),
            OnTopic::Cancel => {
                self.subscriptions.drain(..).for_each(|subscription| subscription.cancel());
            }
        }
        Ok(())
    }
}

/// A Work of another type than [`Lab`].
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Other;

impl Work for Other {
    type Input = ();
}

/// The wall clock of this machine, in seconds.
pub(crate) fn clock() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// A large message.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Load(pub(crate) String);

impl Handle<Load> for Lab {
    type Reply = usize;

    async fn handle(&mut self, Load(text): Load, _: &mut WorkContext<Self>) -> usize {
        text.len()
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Break;

impl Handle<Break> for Lab {
    type Reply = ();

    async fn handle(&mut self, _: Break, _: &mut WorkContext<Self>) {
        panic!("the handler panics");
    }
}

/// A message that ends the process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Die {
    Abort,
    Exit(i32),
    /// Allocate memory until there is none.
    Eat,
}

impl Handle<Die> for Lab {
    type Reply = ();

    async fn handle(&mut self, how: Die, _: &mut WorkContext<Self>) {
        match how {
            Die::Abort => std::process::abort(),
            Die::Exit(code) => std::process::exit(code),
            Die::Eat => {
                let mut eaten: Vec<Vec<u8>> = Vec::new();
                loop {
                    eaten.push(std::hint::black_box(vec![1; 16 << 20]));
                }
            }
        }
    }
}

/// A question that is never answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Never;

impl Handle<Never> for Lab {
    type Reply = ();

    async fn handle(&mut self, _: Never, _: &mut WorkContext<Self>) {
        std::future::pending().await
    }
}

/// A message whose handler waits until this file exists.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Until(pub(crate) std::path::PathBuf);

impl Handle<Until> for Lab {
    type Reply = ();

    async fn handle(&mut self, Until(file): Until, cx: &mut WorkContext<Self>) {
        self.is_held = true;
        cx.publish(self);
        while !file.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.is_held = false;
    }
}

/// A message whose handler goes on until the Work is asked to stop.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Rest;

impl Handle<Rest> for Lab {
    type Reply = ();

    async fn handle(&mut self, _: Rest, cx: &mut WorkContext<Self>) {
        self.is_held = true;
        cx.publish(self);
        let _ = cx.sleep(self, Duration::from_secs(3600)).await;
        self.is_held = false;
    }
}

/// A message that is handled in batches of three. That with the number 1 fails.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Double(pub(crate) u32);

impl HandleBatch<Double> for Lab {
    type Reply = std::result::Result<u64, String>;

    fn batch(&self) -> Batch {
        Batch::of(3).within(Duration::from_secs(3600))
    }

    async fn handle_batch(&mut self, batch: Vec<Double>, cx: &mut WorkContext<Self>) -> Vec<Self::Reply> {
        self.batches.push(batch.len());
        cx.publish(self);
        let double =
            |Double(number)| if number == 1 { Err("1 fails".to_owned()) } else { Ok(2 * u64::from(number)) };
        batch.into_iter().map(double).collect()
    }
}

/// Asks for the doubles of the numbers below this at the same time, and returns their sum. Exactly that of 1 fails.
pub(crate) async fn doubles(other: &WorkAddr<Lab>, below: u32) -> Result<u64> {
    let replies = futures::future::join_all((0..below).map(|number| other.ask(Double(number)))).await;
    let mut sum = 0;
    for (reply, number) in replies.into_iter().zip(0..) {
        let double = reply?;
        assert_eq!(double, if number == 1 { Err("1 fails".to_owned()) } else { Ok(2 * number) });
        sum += double.unwrap_or_default();
    }
    Ok(sum)
}

/// A message that the receiving process refuses, without its Work.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Unreadable;

impl<'de> Deserialize<'de> for Unreadable {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> std::result::Result<Self, D::Error> {
        Err(serde::de::Error::custom("it is not read"))
    }
}

impl Handle<Unreadable> for Lab {
    type Reply = ();

    async fn handle(&mut self, _: Unreadable, _: &mut WorkContext<Self>) {}
}

/// Asks ten times and gives up each question: after a moment, or by dropping it. On return the process of the other
/// Work has received all of that, unless it is this process.
pub(crate) async fn give_up(other: &WorkAddr<Lab>, first: u32, is_beside: bool) {
    let moment = Duration::from_millis(10);
    for number in first..first + 5 {
        let late = other.ask(Add(number)).timeout(moment).await;
        assert!(matches!(late, Err(flowright::AskError::Timeout { .. })), "{late:?}");
        let dropped = tokio::time::timeout(moment, other.ask(Add(number))).await;
        assert!(dropped.is_err(), "{dropped:?}");
    }
    if !is_beside {
        let refused = other.ask(Unreadable).await.expect_err("the message cannot be read");
        assert!(matches!(refused, flowright::AskError::NotHandled(_)), "{refused}");
    }
}

/// A question whose handler waits until its caller has gone, and counts that.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Watch;

impl Handle<Watch> for Lab {
    type Reply = ();

    async fn handle(&mut self, _: Watch, cx: &mut WorkContext<Self>) {
        if cx.caller_waits() {
            self.is_held = true;
            cx.publish(self);
            cx.caller_gone().await;
            self.is_held = false;
        }
        self.count += u64::from(!cx.caller_waits());
        cx.publish(self);
    }
}

/// A message that is counted if it seems to have a caller that waits.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Waits;

impl Handle<Waits> for Lab {
    type Reply = ();

    async fn handle(&mut self, _: Waits, cx: &mut WorkContext<Self>) {
        self.count += u64::from(cx.caller_waits());
        cx.publish(self);
    }
}

/// A question for the number of callers that have gone.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Gone;

impl Handle<Gone> for Lab {
    type Reply = u64;

    async fn handle(&mut self, _: Gone, _: &mut WorkContext<Self>) -> u64 {
        self.count
    }
}

/// Asks and gives up, after a moment or by dropping the question, until handlers have seen both that often.
pub(crate) async fn leave(other: &WorkAddr<Lab>, often: u64) -> Result<()> {
    let moment = Duration::from_millis(20);
    let before = other.ask(Gone).await?;
    while other.ask(Gone).await? < before + often {
        let late = other.ask(Watch).timeout(moment).await;
        assert!(matches!(late, Err(flowright::AskError::Timeout { .. })), "{late:?}");
    }
    while other.ask(Gone).await? < before + 2 * often {
        let dropped = tokio::time::timeout(moment, other.ask(Watch)).await;
        assert!(dropped.is_err(), "{dropped:?}");
    }
    Ok(())
}

/// A question that is answered with twice the number, once a [`Flush`] arrives.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Later(pub(crate) u64);

impl Handle<Later> for Lab {
    type Reply = Deferred<u64>;

    async fn handle(&mut self, Later(number): Later, cx: &mut WorkContext<Self>) -> Deferred<u64> {
        let (deferred, reply) = cx.defer();
        self.later.push((number, reply));
        self.deferred = self.later.len();
        cx.publish(self);
        deferred
    }
}

/// A question for a stream of the numbers below this.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Stream(pub(crate) u32);

impl Handle<Stream> for Lab {
    type Reply = Streamed<u32>;

    async fn handle(&mut self, Stream(below): Stream, cx: &mut WorkContext<Self>) -> Streamed<u32> {
        cx.stream_of(futures::stream::iter(0..below))
    }
}

/// A question for a stream that is sent by [`Push`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Hold;

impl Handle<Hold> for Lab {
    type Reply = Streamed<String>;

    async fn handle(&mut self, _: Hold, cx: &mut WorkContext<Self>) -> Streamed<String> {
        let (streamed, sender) = cx.stream();
        self.streams.push(sender);
        streamed
    }
}

/// An action with the oldest stream that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) enum Push {
    /// Send items as long as there is room, but no more than this. The answer is how many were sent.
    Items(usize),
    /// Send a text of this many bytes. The answer is 1 if it cannot be sent to the process of the reader.
    Large(usize),
    Finish,
    Fail,
    Drop,
    /// The answer is the number of streams that nobody reads.
    Closed,
}

impl Handle<Push> for Lab {
    type Reply = usize;

    async fn handle(&mut self, push: Push, _: &mut WorkContext<Self>) -> usize {
        match push {
            Push::Items(most) => {
                let stream = &mut self.streams[0];
                return (0..most).take_while(|n| stream.try_send(n.to_string()).is_ok()).count();
            }
            Push::Large(length) => {
                let sent = self.streams[0].send("x".repeat(length)).await;
                return usize::from(matches!(sent, Err(StreamSendError::NotSent { .. })));
            }
            Push::Finish => self.streams.remove(0).finish(),
            Push::Fail => self.streams.remove(0).fail("as it was told"),
            Push::Drop => drop(self.streams.remove(0)),
            Push::Closed => return self.streams.iter().filter(|stream| stream.is_closed()).count(),
        }
        0
    }
}

/// A question that is answered at once, by a handler that goes on until this file exists.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Early(pub(crate) std::path::PathBuf);

impl Handle<Early> for Lab {
    type Reply = Deferred<u64>;

    async fn handle(&mut self, Early(file): Early, cx: &mut WorkContext<Self>) -> Deferred<u64> {
        let (deferred, reply) = cx.defer();
        reply.send(7);
        self.handle(Until(file), cx).await;
        cx.publish(self);
        deferred
    }
}

/// Disposal of the deferred replies. The answer is the number of those that are left.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum Flush {
    /// Send them in this handler.
    Here,
    /// Send them from a task of the Work's thread.
    Task,
    /// Send them from another thread.
    Thread,
    /// Drop them.
    Drop,
    /// Keep those whose callers wait.
    Waiting,
}

impl Handle<Flush> for Lab {
    type Reply = usize;

    async fn handle(&mut self, flush: Flush, cx: &mut WorkContext<Self>) -> usize {
        if let Flush::Waiting = flush {
            self.later.retain(|(_, reply)| reply.caller_waits());
        } else {
            let later = std::mem::take(&mut self.later);
            let send = move || later.into_iter().for_each(|(number, reply)| reply.send(2 * number));
            match flush {
                Flush::Here => send(),
                Flush::Task => drop(tokio::task::spawn_local(async move { send() })),
                Flush::Thread => drop(std::thread::spawn(send)),
                Flush::Drop | Flush::Waiting => drop(send),
            }
        }
        self.deferred = self.later.len();
        cx.publish(self);
        self.deferred
    }
}

/// A question that is answered with the same recipient.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Relay(pub(crate) Recipient<Sum, u64>);

impl Handle<Relay> for Lab {
    type Reply = Recipient<Sum, u64>;

    async fn handle(&mut self, Relay(recipient): Relay, _: &mut WorkContext<Self>) -> Recipient<Sum, u64> {
        recipient
    }
}

/// A question that is answered with the same value.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Mirror(pub(crate) Probe);

impl Handle<Mirror> for Lab {
    type Reply = Probe;

    async fn handle(&mut self, Mirror(probe): Mirror, _: &mut WorkContext<Self>) -> Probe {
        probe
    }
}

/// A question that is counted in `count`, and answered with this value.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// A text of this many bytes.
    Large(usize),
    /// A value that does not serialise.
    Broken,
}

/// A value that may refuse to serialise.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Replied {
    pub(crate) text: String,
    #[serde(serialize_with = "unless_broken")]
    broken: bool,
}

fn unless_broken<S: serde::Serializer>(broken: &bool, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    match broken {
        true => Err(serde::ser::Error::custom("it is broken")),
        false => serializer.serialize_bool(false),
    }
}

impl Handle<Reply> for Lab {
    type Reply = Replied;

    async fn handle(&mut self, reply: Reply, cx: &mut WorkContext<Self>) -> Replied {
        self.count += 1;
        cx.publish(self);
        match reply {
            Reply::Large(length) => Replied { text: "x".repeat(length), broken: false },
            Reply::Broken => Replied { text: String::new(), broken: true },
        }
    }
}

/// A message that is not in the list of those that the Work accepts from other processes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Unnamed;

impl Handle<Unnamed> for Lab {
    type Reply = ();

    async fn handle(&mut self, _: Unnamed, _: &mut WorkContext<Self>) {}
}

type React = Box<dyn FnMut(&mut Suite, &mut FlowContext) -> Reaction>;

/// Two Works, and a Flow with the reaction of the test.
#[derive(Serialize, Children)]
pub(crate) struct Suite {
    pub(crate) a: WorkRef<Lab>,
    pub(crate) b: WorkRef<Lab>,
    #[serde(skip)]
    react: Option<React>,
}

impl Suite {
    pub(crate) fn new(
        a: WorkRef<Lab>,
        b: WorkRef<Lab>,
        react: impl FnMut(&mut Self, &mut FlowContext) -> Reaction + 'static,
    ) -> Self {
        Self { a, b, react: Some(Box::new(react)) }
    }
}

impl Flow for Suite {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        let mut react = self.react.take().expect("reactions do not overlap");
        let reaction = react(self, cx);
        self.react = Some(react);
        reaction
    }
}

/// The root of another program.
#[derive(Default, Serialize, Children)]
pub(crate) struct Stranger {
    work: WorkRef<Lab>,
}

impl Flow for Stranger {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        Ok(())
    }
}
