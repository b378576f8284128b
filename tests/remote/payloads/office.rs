//! Three clerks in three places, which make values, pass them to each other and read them.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::process::ExitCode;
use std::task::Poll;

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{Config, PayloadUsage};

use crate::process::LIMIT;
use crate::support::{Process, joining, program as this_program, times};

pub(crate) type Bytes = Payload<Vec<u8>>;
pub(crate) type Table = Payload<BTreeMap<u32, Vec<String>>>;

/// An order for a clerk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Errand {
    /// Make this many values of this many bytes, of which these are the first.
    Make {
        count: usize,
        length: usize,
        seed: u8,
    },
    ReplicateOf(Bytes, usize),
    Replicate {
        length: usize,
        copies: usize,
    },
    Table(u32),
    /// Make this many values, each of which refers to the one before, and keep the last.
    Nest {
        depth: usize,
        length: usize,
    },
    /// Read a value and all values that it refers to.
    Unnest(Payload<Nested>),
    /// Have another clerk keep a new value in its pocket, and drop the own reference.
    Pass(WorkAddr<Clerk>),
    Read(Vec<Bytes>),
    ReadTable(Table),
    ReadAs(Payload<Vec<f32>>),
    Deref(Bytes),
    /// Read the value several times at once.
    ReadTogether(Bytes, usize),
    Give(WorkAddr<Clerk>),
    /// Have another clerk read the first value by message, and drop the own reference.
    Hand(WorkAddr<Clerk>),
    Forget,
    Keep(Bytes),
    GiveUp(Bytes),
    Prefetch(Bytes),
    /// Publish the number of bytes that have arrived.
    Watch(Bytes),
}

/// A value that refers to other values.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Nested {
    content: Bytes,
    next: Option<Payload<Nested>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Clerk {
    pub(crate) process: u32,
    pub(crate) made: Vec<Bytes>,
    pub(crate) table: Option<Table>,
    pub(crate) nested: Option<Payload<Nested>>,
    kept: Option<Bytes>,
    /// No part of the state, so that only this process refers to it.
    #[serde(skip)]
    pocket: Option<Bytes>,
    /// Lengths of the values that were read, and sums of their bytes.
    pub(crate) read: Vec<(usize, u64)>,
    pub(crate) address: usize,
    pub(crate) received: u64,
}

pub(crate) fn value(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|at| (at as u8).wrapping_mul(31).wrapping_add((at >> 12) as u8) ^ seed).collect()
}

pub(crate) fn summary(bytes: &[u8]) -> (usize, u64) {
    (bytes.len(), bytes.iter().zip(1_u64..).map(|(byte, at)| u64::from(*byte) * (at % 251)).sum())
}

async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

impl Work for Clerk {
    type Input = Errand;

    async fn on_start(&mut self, _: &mut WorkContext<Self>) -> Result<()> {
        self.process = std::process::id();
        Ok(())
    }

    async fn run(&mut self, errand: Errand, cx: &mut WorkContext<Self>) -> Result<()> {
        match errand {
            Errand::Make { count, length, seed } => {
                for n in 0..count {
                    let payload = cx.payload(value(length, seed.wrapping_add(n as u8)))?;
                    self.address = payload.value().await?.as_ptr() as usize;
                    self.made.push(payload);
                }
            }
            Errand::Replicate { length, copies } => {
                self.made.push(cx.payload(value(length, 3))?.replicate(copies));
            }
            Errand::ReplicateOf(payload, copies) => drop(payload.replicate(copies)),
            Errand::Table(rows) => {
                let table = (0..rows).map(|row| (row, vec![row.to_string(); (row % 5) as usize])).collect();
                self.table = Some(cx.payload(table)?);
            }
            Errand::Nest { depth, length } => {
                let mut next = None;
                for n in 0..depth {
                    let content = cx.payload(value(length, n as u8))?;
                    next = Some(cx.payload(Nested { content, next })?);
                }
                self.nested = next;
            }
            Errand::Unnest(first) => {
                let mut next = Some(first);
                while let Some(payload) = next {
                    let nested = payload.value().await?;
                    self.read.push(summary(&nested.content.value().await?));
                    next = nested.next.clone();
                }
            }
            Errand::Pass(other) => {
                let payload = cx.payload(value(300_000, 9))?;
                other.ask(Pocket(payload)).await?;
            }
            Errand::Read(payloads) => {
                for payload in payloads {
                    let value = payload.value().await?;
                    self.address = value.as_ptr() as usize;
                    self.read.push(summary(&value));
                    let progress = payload.progress();
                    assert_eq!(progress.received, progress.total);
                }
            }
            Errand::ReadTable(table) => {
                let table = table.value().await?;
                self.read.push((table.len(), table.values().map(|texts| texts.len() as u64).sum()));
            }
            Errand::ReadAs(payload) => self.read.push((payload.value().await?.len(), 0)),
            Errand::Deref(payload) => self.read.push(summary(&payload)),
            Errand::ReadTogether(payload, many) => {
                let copies: Vec<_> = (0..many).map(|_| payload.clone()).collect();
                let values = futures::future::try_join_all(copies.iter().map(Payload::value)).await?;
                assert!(values.windows(2).all(|two| std::sync::Arc::ptr_eq(&two[0], &two[1])));
                self.read.push(summary(&values[0]));
            }
            Errand::Give(other) => {
                let payload = cx.payload(value(300_000, 9))?;
                other.tell(Take(payload)).await?;
                let back = other.ask(Return).await?.expect("the clerk kept the value");
                self.read.push(summary(&back.value().await?));
            }
            Errand::Hand(other) => {
                other.ask(Take(self.made[0].clone())).await?;
                drop(other.ask(Return).await?.expect("the clerk kept the value"));
            }
            Errand::Forget => {
                self.made.clear();
                self.table = None;
                self.nested = None;
                self.kept = None;
            }
            Errand::GiveUp(payload) => {
                let mut pull = std::pin::pin!(payload.value());
                assert!(poll_once(pull.as_mut()).await.is_pending());
            }
            Errand::Prefetch(payload) => {
                payload.prefetch();
                while payload.progress().received < payload.progress().total {
                    cx.turn(self).await?;
                }
                self.read.push(summary(&payload.value().await?));
            }
            Errand::Watch(payload) => {
                let mut value = std::pin::pin!(payload.value());
                let value = loop {
                    if let Poll::Ready(value) = poll_once(value.as_mut()).await {
                        break value?;
                    }
                    self.received = payload.progress().received;
                    cx.publish(self);
                    cx.turn(self).await?;
                };
                self.read.push((value.len(), 0));
            }
            Errand::Keep(payload) => {
                payload.value().await?;
                self.kept = Some(payload);
            }
        }
        Ok(())
    }

    fn messages(messages: &mut Messages<Self>) {
        messages
            .accept::<Take>()
            .accept::<Return>()
            .accept::<Look>()
            .accept::<Pocket>()
            .accept::<Empty>()
            .accept::<Poke>();
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Take(Bytes);

impl Handle<Take> for Clerk {
    type Reply = ();

    async fn handle(&mut self, Take(payload): Take, _: &mut WorkContext<Self>) {
        self.read.push(summary(&payload.value().await.expect("its sender has it")));
        self.kept = Some(payload);
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Return;

impl Handle<Return> for Clerk {
    type Reply = Option<Bytes>;

    async fn handle(&mut self, _: Return, cx: &mut WorkContext<Self>) -> Option<Bytes> {
        let kept = self.kept.take();
        cx.publish(self);
        kept
    }
}

/// A message that has a clerk keep a value without reading it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Pocket(Bytes);

impl Handle<Pocket> for Clerk {
    type Reply = ();

    async fn handle(&mut self, Pocket(payload): Pocket, _: &mut WorkContext<Self>) {
        self.pocket = Some(payload);
    }
}

/// A message that has a clerk read the value in its pocket.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Empty;

impl Handle<Empty> for Clerk {
    type Reply = std::result::Result<(usize, u64), String>;

    async fn handle(&mut self, _: Empty, _: &mut WorkContext<Self>) -> Self::Reply {
        let payload = self.pocket.take().ok_or("there is nothing in it")?;
        let value = payload.value().await.map_err(|error| error.to_string())?;
        Ok(summary(&value))
    }
}

/// A message that has a clerk change its state, so that its Flow reacts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Poke;

impl Handle<Poke> for Clerk {
    type Reply = ();

    async fn handle(&mut self, _: Poke, cx: &mut WorkContext<Self>) {
        self.received += 1;
        cx.publish(self);
    }
}

/// A question for the memory and disk of the payloads of a clerk's process.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Look;

impl Handle<Look> for Clerk {
    type Reply = PayloadUsage;

    async fn handle(&mut self, _: Look, _: &mut WorkContext<Self>) -> PayloadUsage {
        PayloadUsage::here()
    }
}

type React = Box<dyn FnMut(&mut Office, &mut FlowContext) -> Reaction>;

#[derive(Serialize, Children)]
pub(crate) struct Office {
    pub(crate) a: WorkRef<Clerk>,
    pub(crate) b: WorkRef<Clerk>,
    pub(crate) c: WorkRef<Clerk>,
    #[serde(skip)]
    react: Option<React>,
}

impl Flow for Office {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        let mut react = self.react.take().expect("reactions do not overlap");
        let reaction = react(self, cx);
        self.react = Some(react);
        reaction
    }
}

pub(crate) fn program() -> ExitCode {
    App::new(|| office(["thread"; 3], |_, _| Ok(()))).main()
}

pub(crate) fn office(
    places: [&str; 3],
    react: impl FnMut(&mut Office, &mut FlowContext) -> Reaction + 'static,
) -> Office {
    let [a, b, c] = places
        .map(|place| WorkRef::from(Clerk::default()).placed(place.parse().expect("the placement is valid")));
    Office { a, b, c, react: Some(Box::new(react)) }
}

pub(crate) struct Open {
    pub(crate) app: TestApp,
    pub(crate) address: String,
    pub(crate) nodes: BTreeMap<String, Process>,
}

pub(crate) fn open(
    places: [&'static str; 3],
    arguments: &[&str],
    react: impl FnMut(&mut Office, &mut FlowContext) -> Reaction + Send + 'static,
) -> Open {
    let config = times(250, 12_000);
    open_with("127.0.0.1:0", config, places, arguments, react)
}

/// Starts an App that listens at this address, and its nodes.
pub(crate) fn open_with(
    listen: &str,
    config: Config,
    places: [&'static str; 3],
    arguments: &[&str],
    react: impl FnMut(&mut Office, &mut FlowContext) -> Reaction + Send + 'static,
) -> Open {
    let app = App::new(move || office(places, react))
        .listen(listen)
        .process(|| Ok(this_program("payloads")))
        .config(config);
    let app = TestApp::start_app(app).limit(LIMIT);
    let address = joining(&app);
    let places: std::collections::BTreeSet<_> = places.into();
    let names = places.iter().map(|place| place.trim_end_matches("/pool"));
    let names = names.filter(|name| !["thread", "pool", "process"].contains(name) && !name.contains('='));
    let nodes = names.map(|name| (name.to_owned(), Process::node_of("payloads", &address, name, arguments)));
    let nodes = nodes.collect();
    Open { app, nodes, address }
}

impl Open {
    pub(crate) fn usage(&self, clerk: &str) -> PayloadUsage {
        self.app.block_on(self.app.work::<Clerk>(clerk).ask(Look)).expect("the Work answers")
    }

    /// Waits until `done` is true of the nodes that have the only payload.
    pub(crate) fn until_held(&self, done: impl Fn(&[String]) -> bool) {
        let began = std::time::Instant::now();
        loop {
            let payloads = self.app.block_on(self.app.control().payloads()).expect("the App runs");
            if let [payload] = &payloads[..]
                && done(&payload.nodes)
            {
                return;
            }
            assert!(began.elapsed() < LIMIT, "{payloads:?}");
            std::thread::park_timeout(std::time::Duration::from_millis(5));
        }
    }

    /// Causes one more reaction of the Flow; `c` is in the head's process.
    pub(crate) fn poke(&self) {
        self.app.block_on(self.app.work::<Clerk>("c").ask(Poke)).expect("the Work answers");
    }

    /// Waits until `done` is true of the memory and disk of the payloads of a clerk's process.
    pub(crate) fn until(&self, clerk: &str, done: impl Fn(PayloadUsage) -> bool) {
        let began = std::time::Instant::now();
        loop {
            let usage = self.usage(clerk);
            if done(usage) {
                return;
            }
            assert!(began.elapsed() < LIMIT, "{clerk}: {usage:?}");
            std::thread::park_timeout(std::time::Duration::from_millis(5));
        }
    }
}
