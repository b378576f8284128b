//! Large values between processes and machines.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::process::ExitCode;
use std::task::Poll;

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{Config, PayloadUsage};

use crate::certificates::certs;
use crate::held::wait_for_the_end_of;
use crate::proxy::{Proxy, Trap, Weather};
use crate::support::{Process, joining, program as this_program, times};

crate::tests![
    values_are_what_was_made_wherever_they_are_read,
    values_come_over_tls_as_well,
    on_one_node_it_is_the_same_allocation,
    a_value_outlives_its_maker,
    what_nothing_refers_to_is_freed_everywhere,
    values_in_messages_and_answers_are_pulled_from_their_node,
    a_thousand_pulls_at_once,
    those_who_want_it_at_once_share_one_transfer,
    a_value_that_is_lost_says_where_it_was,
    a_copy_outlives_the_node_that_made_it,
    replicas_are_kept_and_made_anew,
    a_pull_that_breaks_is_resumed,
    a_wrong_byte_is_noticed,
    a_source_that_sends_a_wrong_byte_is_replaced,
    a_source_that_is_killed_on_the_way_is_an_error_that_names_it,
    a_source_that_is_killed_on_the_way_is_replaced,
    a_pull_that_is_given_up_leaves_nothing,
    a_puller_that_takes_nothing_holds_up_nobody,
    more_values_than_there_is_memory_for_wait_on_disk,
    without_room_the_error_says_what_to_do,
    a_value_is_pulled_by_dereferencing_it,
    a_thread_that_must_not_wait_does_not,
    another_type_is_refused_with_both,
    what_is_prefetched_is_there,
];

type Bytes = Payload<Vec<u8>>;
type Table = Payload<BTreeMap<u32, Vec<String>>>;

/// What a clerk is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Errand {
    /// Make so many values of so many bytes, the first of which are these.
    Make {
        count: usize,
        length: usize,
        seed: u8,
    },
    Replicate {
        length: usize,
        copies: usize,
    },
    Table(u32),
    Read(Vec<Bytes>),
    ReadTable(Table),
    ReadAs(Payload<Vec<f32>>),
    Deref(Bytes),
    /// Several at once.
    ReadTogether(Bytes, usize),
    Give(WorkAddr<Clerk>),
    Forget,
    Keep(Bytes),
    GiveUp(Bytes),
    Prefetch(Bytes),
    /// Publish how much has come.
    Watch(Bytes),
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Clerk {
    process: u32,
    made: Vec<Bytes>,
    table: Option<Table>,
    kept: Option<Bytes>,
    /// Of the values that were read: lengths, and sums of their bytes.
    read: Vec<(usize, u64)>,
    address: usize,
    received: u64,
}

fn value(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|at| (at as u8).wrapping_mul(31).wrapping_add((at >> 12) as u8) ^ seed).collect()
}

fn summary(bytes: &[u8]) -> (usize, u64) {
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
            Errand::Table(rows) => {
                let table = (0..rows).map(|row| (row, vec![row.to_string(); (row % 5) as usize])).collect();
                self.table = Some(cx.payload(table)?);
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
                let back = other.ask(Return).await?.expect("it was taken");
                self.read.push(summary(&back.value().await?));
            }
            Errand::Forget => {
                self.made.clear();
                self.table = None;
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
        messages.accept::<Take>().accept::<Return>().accept::<Look>();
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
struct Return;

impl Handle<Return> for Clerk {
    type Reply = Option<Bytes>;

    async fn handle(&mut self, _: Return, cx: &mut WorkContext<Self>) -> Option<Bytes> {
        let kept = self.kept.take();
        cx.publish(self);
        kept
    }
}

/// Has a clerk say how much the payloads of its process take.
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
struct Office {
    a: WorkRef<Clerk>,
    b: WorkRef<Clerk>,
    c: WorkRef<Clerk>,
    #[serde(skip)]
    react: Option<React>,
}

impl Flow for Office {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        let mut react = self.react.take().expect("it reacts one at a time");
        let reaction = react(self, cx);
        self.react = Some(react);
        reaction
    }
}

pub(crate) fn program() -> ExitCode {
    App::new(|| office(["thread"; 3], |_, _| Ok(()))).main()
}

fn office(
    places: [&str; 3],
    react: impl FnMut(&mut Office, &mut FlowContext) -> Reaction + 'static,
) -> Office {
    let [a, b, c] =
        places.map(|place| WorkRef::from(Clerk::default()).placed(place.parse().expect("it is a placement")));
    Office { a, b, c, react: Some(Box::new(react)) }
}

struct Open {
    app: TestApp,
    address: String,
    nodes: BTreeMap<String, Process>,
}

fn open(
    places: [&'static str; 3],
    arguments: &[&str],
    react: impl FnMut(&mut Office, &mut FlowContext) -> Reaction + Send + 'static,
) -> Open {
    let config = times(250, 5000);
    open_with(config, places, arguments, react)
}

fn open_with(
    config: Config,
    places: [&'static str; 3],
    arguments: &[&str],
    react: impl FnMut(&mut Office, &mut FlowContext) -> Reaction + Send + 'static,
) -> Open {
    let app = App::new(move || office(places, react))
        .listen("127.0.0.1:0")
        .process(|| Ok(this_program("payloads")))
        .config(config);
    let app = TestApp::start_app(app).limit(std::time::Duration::from_secs(60));
    let address = joining(&app);
    let places: std::collections::BTreeSet<_> = places.into();
    let names = places.iter().map(|place| place.trim_end_matches("/pool"));
    let names = names.filter(|name| !["thread", "pool", "process"].contains(name) && !name.contains('='));
    let nodes = names.map(|name| (name.to_owned(), Process::node_of("payloads", &address, name, arguments)));
    let nodes = nodes.collect();
    Open { app, nodes, address }
}

impl Open {
    fn usage(&self, clerk: &str) -> PayloadUsage {
        self.app.block_on(self.app.work::<Clerk>(clerk).ask(Look)).expect("it answers")
    }

    /// Waits until these nodes have the one payload that there is.
    fn until_held(&self, done: impl Fn(&[String]) -> bool) {
        let began = std::time::Instant::now();
        loop {
            let payloads = self.app.block_on(self.app.control().payloads()).expect("it runs");
            if let [payload] = &payloads[..]
                && done(&payload.nodes)
            {
                return;
            }
            assert!(began.elapsed().as_secs() < 60, "{payloads:?}");
            std::thread::park_timeout(std::time::Duration::from_millis(5));
        }
    }

    /// Waits until the payloads of a clerk's process take so much.
    fn until(&self, clerk: &str, done: impl Fn(PayloadUsage) -> bool) {
        let began = std::time::Instant::now();
        loop {
            let usage = self.usage(clerk);
            if done(usage) {
                return;
            }
            assert!(began.elapsed().as_secs() < 60, "{clerk}: {usage:?}");
            std::thread::park_timeout(std::time::Duration::from_millis(5));
        }
    }
}

fn values_are_what_was_made_wherever_they_are_read() {
    for places in [["thread", "process", "n"], ["m", "n/pool", "process"], ["process", "thread", "m/pool"]] {
        let open = open(places, &[], |office, cx| {
            let made =
                office.a.run(Errand::Make { count: 1, length: 3_000_000, seed: 1 }).finished()?.made.clone();
            let few =
                office.a.run(Errand::Make { count: 1, length: 1_000, seed: 2 }).finished()?.made[1].clone();
            let none =
                office.a.run(Errand::Make { count: 1, length: 0, seed: 2 }).finished()?.made[2].clone();
            let table = office.a.run(Errand::Table(50_000)).finished()?.table.clone().expect("made");
            let all = vec![made[0].clone(), few, none];
            for reader in [&office.b, &office.c] {
                reader.run(Errand::Read(all.clone())).finished()?;
                let read = &reader.run(Errand::ReadTable(table.clone())).finished()?.read;
                let expected =
                    [summary(&value(3_000_000, 1)), summary(&value(1_000, 2)), (0, 0), (50_000, 100_000)];
                assert_eq!(read[..], expected);
            }
            cx.stop("all were read");
            Ok(())
        });
        open.app.wait_for_exit().result.unwrap();
    }
}

fn values_come_over_tls_as_well() {
    const LENGTH: usize = 10_000_000;
    let certs = certs("payloads");
    // Nodes listen at an address where they would not without certificates.
    let flags = [certs.flags("good"), vec!["--listen".to_owned(), "0.0.0.0:0".to_owned()]].concat();
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let open = open_with(certs.config("good"), ["process", "n", "thread"], &flags, |office, cx| {
        let made = office.a.run(Errand::Make { count: 1, length: LENGTH, seed: 1 }).finished()?.made.clone();
        for reader in [&office.b, &office.c] {
            let read = &reader.run(Errand::Read(made.clone())).finished()?.read;
            assert_eq!(read[..], [summary(&value(LENGTH, 1))]);
        }
        cx.stop("both have read it");
        Ok(())
    });
    open.app.wait_for_exit().result.unwrap();
}

fn on_one_node_it_is_the_same_allocation() {
    let open = open(["n", "n/pool", "thread"], &[], |office, cx| {
        let a = office.a.run(Errand::Make { count: 1, length: 500_000, seed: 1 }).finished()?;
        let b = office.b.run(Errand::Read(a.made.clone())).finished()?;
        assert_eq!((a.process, a.address), (b.process, b.address));
        cx.stop("it was");
        Ok(())
    });
    open.app.wait_for_exit().result.unwrap();
}

fn a_value_outlives_its_maker() {
    let open = open(["m", "n", "thread"], &[], |office, cx| {
        let made = office.a.run(Errand::Make { count: 1, length: 500_000, seed: 1 }).finished()?.made.clone();
        if !office.a.has_stopped() {
            office.a.stop();
            return Ok(());
        }
        let read = &office.b.run(Errand::Read(made)).finished()?.read;
        assert_eq!(read[..], [summary(&value(500_000, 1))]);
        cx.stop("it was read");
        Ok(())
    });
    open.app.wait_for_exit().result.unwrap();
}

fn what_nothing_refers_to_is_freed_everywhere() {
    let open = open(["m", "n", "process"], &[], |office, _| {
        let made = office.a.run(Errand::Make { count: 3, length: 400_000, seed: 1 }).finished()?.made.clone();
        if !made.is_empty() {
            office.b.run(Errand::Read(made.clone())).finished()?;
            office.c.run(Errand::Keep(made[0].clone())).finished()?;
            office.a.run(Errand::Forget);
        }
        Ok(())
    });
    open.app.wait_for_work("c", |work| work.successes == 1);
    open.app.wait_for_work("a", |work| work.successes == 2);
    // Their makers have forgotten them, and so have their readers; one has kept one.
    open.until("a", |usage| usage.memory == 400_000);
    open.until("b", |usage| usage.memory == 400_000);
    open.until("c", |usage| usage.memory == 400_000);
    let kept = open.app.block_on(open.app.work::<Clerk>("c").ask(Return)).unwrap();
    assert_eq!(kept.map(|kept| kept.encoded_len()), Some(400_000));
    for clerk in ["a", "b", "c"] {
        open.until(clerk, |usage| usage.memory == 0 && usage.disk == 0);
    }
    open.app.stop().result.unwrap();
}

fn values_in_messages_and_answers_are_pulled_from_their_node() {
    for places in
        [["m", "n", "thread"], ["thread", "n", "m"], ["process", "m", "thread"], ["m", "process", "n"]]
    {
        let open = open(places, &[], |office, _| {
            // An address leads somewhere once its Work is there.
            if office.b.run(Errand::Forget).finished().is_ok() {
                office.a.run(Errand::Give(office.b.addr()));
            }
            Ok(())
        });
        let a: Clerk = open.app.wait_for_state("a", |clerk: &Clerk| clerk.read.len() == 1);
        assert_eq!(a.read, [summary(&value(300_000, 9))]);
        for clerk in ["a", "b"] {
            open.until(clerk, |usage| usage.memory == 0);
        }
        open.app.stop().result.unwrap();
    }
}

fn a_thousand_pulls_at_once() {
    let open = open(["m", "n/pool", "thread"], &[], |office, cx| {
        office.a.run(Errand::Make { count: 1_000, length: 2_000, seed: 1 }).finished()?;
        let made =
            office.a.run(Errand::Make { count: 20, length: 200_000, seed: 1 }).finished()?.made.clone();
        let read = &office.b.run(Errand::Read(made)).finished()?.read;
        assert_eq!(read.len(), 1_020);
        cx.stop("all were read");
        Ok(())
    });
    open.app.wait_for_exit().result.unwrap();
}

fn those_who_want_it_at_once_share_one_transfer() {
    let open = open(["m", "n", "n/pool"], &[], |office, cx| {
        let made =
            office.a.run(Errand::Make { count: 2, length: 5_000_000, seed: 1 }).finished()?.made.clone();
        office.c.run(Errand::ReadTogether(made[0].clone(), 500));
        office.b.run(Errand::ReadTogether(made[0].clone(), 500)).finished()?;
        office.c.run(Errand::ReadTogether(made[0].clone(), 500)).finished()?;
        assert_eq!(office.b.read, office.c.read);
        cx.stop("they did");
        Ok(())
    });
    open.app.wait_for_exit().result.unwrap();
}

fn a_value_that_is_lost_says_where_it_was() {
    let mut open = open(["m", "n", "thread"], &[], |office, _| {
        let made = office.a.run(Errand::Make { count: 1, length: 500_000, seed: 1 }).finished()?.made.clone();
        if office.c.run(Errand::Forget).finished().is_ok() && office.a.status().stage == Stage::Pending {
            office.b.run(Errand::Read(made));
        }
        Ok(())
    });
    open.app.wait_for_work("c", |work| work.successes == 1);
    open.nodes.remove("m");
    let exit = open.app.wait_for_exit();
    let error = exit.result.unwrap_err().to_string();
    for part in [
        "payload lost",
        "Vec<u8>, 500000 bytes, made by work `a`",
        "node `m` had it, and was lost at",
        "replicate",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

fn a_copy_outlives_the_node_that_made_it() {
    let mut open = open(["m", "n", "thread"], &[], |office, _| {
        let made = office.a.run(Errand::Make { count: 1, length: 500_000, seed: 1 }).finished()?.made.clone();
        office.b.run(Errand::Read(made.clone())).finished()?;
        if office.a.status().stage == Stage::Pending {
            office.c.run(Errand::Read(made));
        }
        Ok(())
    });
    open.app.wait_for_work("b", |work| work.successes == 1);
    open.nodes.remove("m");
    let c: Clerk = open.app.wait_for_state("c", |clerk: &Clerk| clerk.read.len() == 1);
    assert_eq!(c.read, [summary(&value(500_000, 1))]);
    open.app.stop().result.unwrap();
}

fn replicas_are_kept_and_made_anew() {
    let mut open = open(["m", "n", "o"], &[], |office, _| {
        office.b.run(Errand::Forget).finished()?;
        office.c.run(Errand::Forget).finished()?;
        office.a.run(Errand::Replicate { length: 500_000, copies: 2 });
        Ok(())
    });
    open.app.wait_for_work("a", |work| work.successes == 1);
    open.until_held(|nodes| nodes.len() == 2 && nodes[0] == "m");
    open.nodes.remove("m");
    open.until_held(|nodes| nodes.len() == 2 && !nodes.contains(&"m".to_owned()));
    for clerk in ["b", "c"] {
        assert_eq!(open.usage(clerk).memory, 500_000);
    }
    open.app.stop().result.unwrap();
}

/// A Work on a node that reaches the head through a proxy: so do its pulls of the head's values.
fn behind_a_proxy(
    places: [&'static str; 3],
    react: impl FnMut(&mut Office, &mut FlowContext) -> Reaction + Send + 'static,
) -> (Open, Proxy, Process) {
    let open = open(places, &[], react);
    let proxy = Proxy::to(&open.address);
    let node = Process::node_of("payloads", proxy.address(), "p", &["--label", "behind=proxy"]);
    (open, proxy, node)
}

fn a_pull_that_breaks_is_resumed() {
    let (open, proxy, _node) = behind_a_proxy(["thread", "behind=proxy", "thread"], |office, _| {
        let made =
            office.a.run(Errand::Make { count: 1, length: 9_000_000, seed: 1 }).finished()?.made.clone();
        office.b.run(Errand::Read(made));
        Ok(())
    });
    proxy.trap(2_500_000, Trap::Close, 3);
    let b: Clerk = open.app.wait_for_state("b", |clerk: &Clerk| clerk.read.len() == 1);
    assert_eq!(b.read, [summary(&value(9_000_000, 1))]);
    assert_eq!(proxy.traps_left(), 0, "it broke three times");
    open.app.stop().result.unwrap();
}

fn a_wrong_byte_is_noticed() {
    let (open, proxy, _node) = behind_a_proxy(["thread", "behind=proxy", "thread"], |office, _| {
        let made =
            office.a.run(Errand::Make { count: 1, length: 9_000_000, seed: 1 }).finished()?.made.clone();
        office.b.run(Errand::Read(made));
        Ok(())
    });
    proxy.trap(2_500_000, Trap::Flip, u32::MAX);
    let error = open.app.wait_for_exit().result.unwrap_err().to_string();
    for part in ["payload lost", "made by work `a`", "`head` has sent other bytes than were put in"] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

fn a_source_that_sends_a_wrong_byte_is_replaced() {
    let (open, proxy, _node) = behind_a_proxy(["thread", "behind=proxy", "m"], |office, _| {
        let made =
            office.a.run(Errand::Make { count: 1, length: 9_000_000, seed: 1 }).finished()?.made.clone();
        office.c.run(Errand::Keep(made[0].clone())).finished()?;
        office.b.run(Errand::Read(made));
        Ok(())
    });
    proxy.trap(2_500_000, Trap::Flip, u32::MAX);
    let b: Clerk = open.app.wait_for_state("b", |clerk: &Clerk| clerk.read.len() == 1);
    assert_eq!(b.read, [summary(&value(9_000_000, 1))]);
    assert!(proxy.traps_left() < u32::MAX, "it was tried");
    open.app.stop().result.unwrap();
}

/// So large that it is still under way when it is seen to have begun.
const LARGE: usize = 512 << 20;

fn killed_on_the_way(with_a_copy: bool) -> Open {
    let mut open = open(["m", "n", "o"], &[], move |office, _| {
        let Some(made) = office.a.made.first().cloned() else {
            office.a.run(Errand::Make { count: 1, length: LARGE, seed: 1 });
            return Ok(());
        };
        if !with_a_copy || office.c.run(Errand::Keep(made.clone())).finished().is_ok() {
            office.b.run(Errand::Watch(made));
        }
        Ok(())
    });
    open.app.wait_for_state("b.received", |received: &u64| *received > 0);
    open.nodes.remove("m");
    open
}

fn a_source_that_is_killed_on_the_way_is_an_error_that_names_it() {
    let error = killed_on_the_way(false).app.wait_for_exit().result.unwrap_err().to_string();
    for part in ["payload lost", "536870912 bytes, made by work `a`", "node `m` had it, and was lost at"] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

fn a_source_that_is_killed_on_the_way_is_replaced() {
    let open = killed_on_the_way(true);
    let b: Clerk = open.app.wait_for_state("b", |clerk: &Clerk| clerk.read.len() == 1);
    assert_eq!(b.read, [(LARGE, 0)]);
    open.app.stop().result.unwrap();
}

fn a_pull_that_is_given_up_leaves_nothing() {
    let open = open(["m", "n", "thread"], &[], |office, _| {
        let Some(made) =
            office.a.run(Errand::Make { count: 1, length: 50_000_000, seed: 1 }).finished()?.made.first()
        else {
            return Ok(());
        };
        office.b.run(Errand::GiveUp(made.clone())).finished()?;
        office.a.run(Errand::Forget);
        Ok(())
    });
    open.app.wait_for_work("a", |work| work.successes == 2);
    for clerk in ["a", "b"] {
        open.until(clerk, |usage| usage.memory == 0);
    }
    open.app.stop().result.unwrap();
}

fn a_puller_that_takes_nothing_holds_up_nobody() {
    let (open, proxy, _node) = behind_a_proxy(["thread", "behind=proxy", "thread"], |office, _| {
        let made =
            office.a.run(Errand::Make { count: 1, length: 200_000_000, seed: 1 }).finished()?.made[0].clone();
        office.b.run(Errand::Watch(made));
        Ok(())
    });
    proxy.set(Weather::Slow(5_000_000));
    open.app.wait_for_state("b", |clerk: &Clerk| clerk.received > 0);
    proxy.set(Weather::Hold);
    // The thread that gives the value away waits for room now; it ends with the App, also while nothing closes its connection.
    open.app.stop().result.unwrap();
    wait_for_the_end_of("tokio-rt-worker");
    drop(proxy);
}

/// A directory that is removed in the end.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("flowright-test-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn argument(&self) -> String {
        self.0.display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn more_values_than_there_is_memory_for_wait_on_disk() {
    let scratch = Scratch::new("spill");
    let directory = scratch.argument();
    let arguments = ["--payload-memory", "10", "--payload-dir", &directory];
    let open = open(["m", "n", "thread"], &arguments, |office, _| {
        let made =
            office.a.run(Errand::Make { count: 100, length: 1_000_000, seed: 1 }).finished()?.made.clone();
        if !made.is_empty() {
            let read = &office.b.run(Errand::Read(made)).finished()?.read;
            let expected = (0..100).map(|n| summary(&value(1_000_000, 1 + n)));
            assert!(read.iter().copied().eq(expected));
            office.c.run(Errand::Forget).finished()?;
            office.a.run(Errand::Forget);
        }
        Ok(())
    });
    open.app.wait_for_work("c", |work| work.successes == 1);
    open.app.wait_for_work("a", |work| work.successes == 2);
    for clerk in ["a", "b"] {
        open.until(clerk, |usage| usage.memory == 0 && usage.disk == 0);
    }
    assert_eq!(std::fs::read_dir(&scratch.0).unwrap().count(), 0, "no file is left");
    open.app.stop().result.unwrap();
}

fn without_room_the_error_says_what_to_do() {
    let limits = ["--payload-memory", "2", "--payload-disk", "1"];
    let open = open(["m", "thread", "thread"], &limits, |office, _| {
        office.a.run(Errand::Make { count: 5, length: 1_000_000, seed: 1 });
        Ok(())
    });
    let error = open.app.wait_for_exit().result.unwrap_err().to_string();
    for part in ["no room", "1000000 bytes, made by work `a`", "--payload-memory", "--payload-disk"] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

fn a_value_is_pulled_by_dereferencing_it() {
    let open = open(["m", "n", "process"], &[], |office, cx| {
        let made = office.a.run(Errand::Make { count: 2, length: 500_000, seed: 1 }).finished()?.made.clone();
        let b = office.b.run(Errand::Deref(made[0].clone())).finished()?;
        let c = office.c.run(Errand::Deref(made[1].clone())).finished()?;
        assert_eq!(b.read, [summary(&value(500_000, 1))]);
        assert_eq!(c.read, [summary(&value(500_000, 2))]);
        cx.stop("they were read");
        Ok(())
    });
    open.app.wait_for_exit().result.unwrap();
}

fn a_thread_that_must_not_wait_does_not() {
    let open = open(["m", "n/pool", "thread"], &[], |office, _| {
        let made = office.a.run(Errand::Make { count: 1, length: 500_000, seed: 1 }).finished()?.made.clone();
        office.b.run(Errand::Deref(made[0].clone()));
        Ok(())
    });
    let error = open.app.wait_for_exit().result.unwrap_err().to_string();
    assert!(error.contains("must not wait") && error.contains(".value().await"), "{error}");
}

fn another_type_is_refused_with_both() {
    let open = open(["m", "n", "thread"], &[], |office, _| {
        let made =
            office.a.run(Errand::Make { count: 1, length: 500_000, seed: 1 }).finished()?.made[0].clone();
        let json = serde_json::to_string(&made).expect("it is small");
        let forged = serde_json::from_str(&json.replace("Vec<u8>", "Vec<f32>")).expect("it is like one");
        office.b.run(Errand::ReadAs(forged));
        Ok(())
    });
    let error = open.app.wait_for_exit().result.unwrap_err().to_string();
    assert!(error.contains("`alloc::vec::Vec<u8>`") && error.contains("`alloc::vec::Vec<f32>`"), "{error}");
}

fn what_is_prefetched_is_there() {
    let open = open(["m", "n", "thread"], &[], |office, cx| {
        let made =
            office.a.run(Errand::Make { count: 1, length: 5_000_000, seed: 1 }).finished()?.made.clone();
        let b = office.b.run(Errand::Prefetch(made[0].clone())).finished()?;
        assert_eq!(b.read, [summary(&value(5_000_000, 1))]);
        cx.stop("it was");
        Ok(())
    });
    open.app.wait_for_exit().result.unwrap();
}
