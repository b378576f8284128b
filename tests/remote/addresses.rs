//! Addresses of Works that are pending, move, restart, fail and share a node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{AskError, Messages, OnError, SendError, Stage};

use crate::support::{Process, joining, program, times, until};

crate::tests![
    waiting_works_reach_each_other_once_a_node_joins,
    addresses_follow_works_whose_node_is_replaced,
    an_orderly_restart_loses_and_reorders_no_message,
    local_messages_on_a_node_keep_the_mailbox_bound,
    a_failed_work_on_a_node_refuses_messages,
    thousands_of_short_lived_works_leave_no_channels,
    a_first_tell_to_a_stopped_work_comes_back,
];

const LIMIT: Duration = Duration::from_secs(180);

/// A Work that has the addresses of others.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Peer {
    known: Vec<WorkAddr<Peer>>,
    lives: u32,
    runs: u32,
    /// The numbers received from each sender, in order.
    received: BTreeMap<u32, Vec<u32>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Store these addresses, and serve.
    Know(Vec<WorkAddr<Peer>>),
    /// Tell the first stored address the numbers in this range, and go on.
    Tell(u32, u32),
    /// Panic.
    Fail,
}

impl Work for Peer {
    type Input = Order;

    async fn on_start(&mut self, _: &mut WorkContext<Self>) -> Result<()> {
        self.lives += 1;
        Ok(())
    }

    async fn run(&mut self, order: Order, cx: &mut WorkContext<Self>) -> Result<()> {
        self.runs += 1;
        match order {
            Order::Know(others) => {
                self.known = others;
                cx.publish(self);
                cx.serve_forever(self).await?;
            }
            Order::Tell(from, to) => {
                let other = self.known[0].clone();
                for number in from..to {
                    other.tell(Note(0, number)).await?;
                }
            }
            Order::Fail => panic!("as it was asked to"),
        }
        Ok(())
    }

    fn messages(messages: &mut Messages<Self>) {
        messages.accept::<Visit>().accept::<Hello>().accept::<Note>().accept::<Flood>().accept::<Block>();
        messages.accept::<Received>().accept::<Pass>();
    }
}

/// A question that is always answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Hello;

impl Handle<Hello> for Peer {
    type Reply = u32;

    async fn handle(&mut self, _: Hello, _: &mut WorkContext<Self>) -> u32 {
        self.lives
    }
}

/// Asks all stored addresses; answers with those that did not answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Visit;

impl Handle<Visit> for Peer {
    type Reply = Vec<String>;

    async fn handle(&mut self, _: Visit, _: &mut WorkContext<Self>) -> Vec<String> {
        let mut missed = Vec::new();
        for other in &self.known {
            if let Err(error) = other.ask(Hello).timeout(Duration::from_secs(20)).await {
                missed.push(error.to_string());
            }
        }
        missed
    }
}

/// A number from a sender.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Note(u32, u32);

impl Handle<Note> for Peer {
    type Reply = ();

    async fn handle(&mut self, Note(sender, number): Note, cx: &mut WorkContext<Self>) {
        self.received.entry(sender).or_default().push(number);
        cx.publish(self);
    }
}

/// A question for the received numbers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Received;

impl Handle<Received> for Peer {
    type Reply = BTreeMap<u32, Vec<u32>>;

    async fn handle(&mut self, _: Received, _: &mut WorkContext<Self>) -> Self::Reply {
        self.received.clone()
    }
}

/// Blocks the thread of the Work until a file exists.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Block(std::path::PathBuf);

impl Handle<Block> for Peer {
    type Reply = ();

    async fn handle(&mut self, Block(until_there): Block, _: &mut WorkContext<Self>) {
        until("the file", || until_there.exists());
    }
}

/// Calls `try_tell` this many times on the first stored address; answers with the number of accepted messages.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Flood(u32);

impl Handle<Flood> for Peer {
    type Reply = u32;

    async fn handle(&mut self, Flood(count): Flood, _: &mut WorkContext<Self>) -> u32 {
        let other = &self.known[0];
        let (taken, next) = (AtomicU32::new(0), AtomicU32::new(0));
        // On a thread without a runtime.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..count {
                    if other.try_tell(Note(1, next.load(Ordering::Relaxed))).is_ok() {
                        taken.fetch_add(1, Ordering::Relaxed);
                        next.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        });
        taken.into_inner()
    }
}

/// Tells the first stored address one number; answers with the result as text.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Pass(u32);

impl Handle<Pass> for Peer {
    type Reply = String;

    async fn handle(&mut self, Pass(number): Pass, _: &mut WorkContext<Self>) -> String {
        match self.known[0].tell(Note(2, number)).await {
            Ok(()) => "told".to_owned(),
            Err(error) => error.to_string(),
        }
    }
}

type React = Box<dyn FnMut(&mut Crowd) -> Reaction + Send>;

#[derive(Serialize, Children)]
pub(crate) struct Crowd {
    peers: Vec<WorkRef<Peer>>,
    short: Vec<WorkRef<Peer>>,
    #[serde(skip)]
    react: Option<React>,
}

impl Flow for Crowd {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        let Some(mut react) = self.react.take() else { return Ok(()) };
        let reaction = react(self);
        self.react = Some(react);
        reaction
    }
}

/// The program of nodes and processes.
pub(crate) fn crowd() -> App {
    App::new(|| Crowd { peers: Vec::new(), short: Vec::new(), react: None })
}

fn start(peers: impl FnOnce() -> Vec<WorkRef<Peer>> + Send + 'static, react: React) -> TestApp {
    let make = move || Crowd { peers: peers(), short: Vec::new(), react: Some(react) };
    let app =
        App::new(make).listen("127.0.0.1:0").process(|| Ok(program("crowd"))).config(times(1000, 60_000));
    TestApp::start_app(app).limit(LIMIT)
}

fn node(address: &str, name: &str) -> Process {
    Process::node_of("crowd", address, name, &[])
}

fn peer(placement: &str) -> WorkRef<Peer> {
    WorkRef::new(Peer::default()).placed(placement.parse().expect("the placement is valid"))
}

/// Gives each Work the addresses of all others.
fn acquaint(crowd: &mut Crowd) -> Reaction {
    let all: Vec<_> = crowd.peers.iter().map(WorkRef::addr).collect();
    if crowd.peers.iter().all(|peer| peer.path().is_some()) {
        for (index, peer) in crowd.peers.iter().enumerate() {
            let others = all.iter().enumerate().filter(|(other, _)| *other != index);
            peer.run(Order::Know(others.map(|(_, addr)| addr.clone()).collect()));
        }
    }
    Ok(())
}

/// Asserts that every Work reaches every other, and is reached from the test.
#[track_caller]
fn all_reach_all(app: &TestApp, count: usize) {
    for index in 0..count {
        app.wait_for_state(&format!("peers.{index}.known"), |known: &Vec<serde_json::Value>| {
            known.len() == count - 1
        });
    }
    for index in 0..count {
        let missed = app.block_on(app.work::<Peer>(&format!("peers.{index}")).ask(Visit).timeout(LIMIT));
        assert_eq!(
            missed.expect("the Work can be reached from here"),
            Vec::<String>::new(),
            "seen from {index}"
        );
    }
}

/// Eight Works that hold each other's addresses wait for a node: once it joins each reaches all others, also after the
/// node was killed and restarted.
fn waiting_works_reach_each_other_once_a_node_joins() {
    let app = start(|| (0..8).map(|_| peer("n")).collect(), Box::new(acquaint));
    let address = joining(&app);
    for life in 1..=3_u32 {
        let node = node(&address, "n");
        for index in 0..8 {
            app.wait_for_state(&format!("peers.{index}.lives"), |lives: &u32| *lives == life);
        }
        all_reach_all(&app, 8);
        node.signal("KILL");
        until("the loss of the node", || app.status().nodes.is_empty());
    }
}

/// Works that may run on any node continue on another one, and Works on other nodes that have their addresses reach
/// them.
fn addresses_follow_works_whose_node_is_replaced() {
    let peers = || vec![peer("*"), peer("zone=east"), peer("fixed"), peer("fixed/pool"), peer("thread")];
    let app = start(peers, Box::new(acquaint));
    let address = joining(&app);
    let _fixed = node(&address, "fixed");
    let zone = ["--label", "zone=east"];
    let mut movable = Process::node_of("crowd", &address, "m0", &zone);
    all_reach_all(&app, 5);
    for life in 1..=3_u32 {
        let before: u32 = app.wait_for_state("peers.1.lives", |_: &u32| true);
        movable.signal("KILL");
        movable = Process::node_of("crowd", &address, &format!("m{life}"), &zone);
        app.wait_for_state("peers.1.lives", |lives: &u32| *lives > before);
        all_reach_all(&app, 5);
    }
}

/// A sender on one node tells a Work on another, which is restarted again and again: every message arrives once and in
/// order.
fn an_orderly_restart_loses_and_reorders_no_message() {
    const NUMBERS: u32 = 20_000;
    for place in ["m", "process"] {
        let restarts = Arc::new(AtomicU32::new(0));
        let wanted = restarts.clone();
        let mut done = 0;
        let react: React = Box::new(move |crowd| {
            acquaint(crowd)?;
            let [sender, receiver] = &crowd.peers[..] else { return Ok(()) };
            if sender.known.is_empty() || receiver.known.is_empty() {
                return Ok(());
            }
            let due = wanted.load(Ordering::SeqCst);
            if done < due {
                done = due;
                receiver.restart_now();
            }
            Ok(())
        });
        let app = start(move || vec![peer("n"), peer(place)], react);
        let address = joining(&app);
        let _nodes = ["m", "n"].map(|name| node(&address, name));
        all_reach_all(&app, 2);
        let sender = app.work::<Peer>("peers.0");
        let receiver = app.work::<Peer>("peers.1");
        app.block_on(async {
            for number in 0..NUMBERS {
                // The Work receives messages from the other Work and from the test.
                if number % 100 == 0 {
                    let told = sender.ask(Pass(number / 100)).timeout(LIMIT).await;
                    assert_eq!(told.expect("the Work answers"), "told");
                }
                receiver.tell(Note(0, number)).await.expect("the Work runs, or is about to");
                if number % (NUMBERS / 10) == 0 {
                    restarts.fetch_add(1, Ordering::SeqCst);
                    // Causes a reaction of the Flow.
                    sender.tell(Note(9, number)).await.expect("the Work runs");
                }
            }
        });
        let mut received = BTreeMap::new();
        until("all of it", || {
            received = app.block_on(receiver.ask(Received).timeout(LIMIT)).unwrap_or_default();
            received.get(&0).and_then(|all| all.last()) == Some(&(NUMBERS - 1))
        });
        let lives: u32 = app.wait_for_state("peers.1.lives", |_: &u32| true);
        assert!(lives > 1, "{place}: it was restarted");
        // An incarnation may receive numbers in its last instant that it does not publish, and the next does not know
        // them.
        let in_order = |sender| received[&sender].windows(2).all(|pair| pair[0] < pair[1]);
        assert!(in_order(0) && in_order(2), "{place}: each once and in order");
        let missing = (0..NUMBERS).filter(|number| received[&0].binary_search(number).is_err()).count();
        assert_eq!(missing, 0, "{place}: nothing is lost in {lives} lives");
    }
}

/// The address of a Work on the same node, which arrived there in a message, accepts as many messages as the mailbox
/// holds, also from a thread without a runtime, and in order.
fn local_messages_on_a_node_keep_the_mailbox_bound() {
    let directory = std::env::temp_dir().join(format!("flowright-bound-{}", std::process::id()));
    let go_on = directory.join("go-on");
    std::fs::create_dir_all(&directory).expect("the path belongs to the test");
    let peers =
        || vec![peer("n"), WorkRef::new(Peer::default()).mailbox(64).placed("n".parse().expect("a place"))];
    let app = start(peers, Box::new(acquaint));
    let _node = node(&joining(&app), "n");
    all_reach_all(&app, 2);
    let (sender, receiver) = (app.work::<Peer>("peers.0"), app.work::<Peer>("peers.1"));
    let taken = app.block_on(async {
        receiver.tell(Block(go_on.clone())).await.expect("the Work accepts the message");
        sender.ask(Flood(1000)).timeout(LIMIT).await.expect("the Work answers")
    });
    std::fs::write(&go_on, "").expect("the path belongs to the test");
    // The Work may have taken one message before the first that blocks began.
    assert!((1..=65).contains(&taken), "{taken} were taken");
    let received = app.block_on(receiver.ask(Received).timeout(LIMIT)).expect("the Work answers");
    let _ = std::fs::remove_dir_all(&directory);
    assert_eq!(received[&1], (0..taken).collect::<Vec<_>>());
}

/// Messages to a Work that has failed on a node are refused at once, from everywhere, and the next incarnation gets
/// none of them.
fn a_failed_work_on_a_node_refuses_messages() {
    let fail = Arc::new(AtomicU32::new(0));
    let wanted = fail.clone();
    let mut is_stopped = false;
    let react: React = Box::new(move |crowd| {
        match wanted.load(Ordering::SeqCst) {
            0 => acquaint(crowd)?,
            1 => {
                if !std::mem::replace(&mut is_stopped, true) {
                    crowd.peers[1].stop();
                }
                crowd.peers[1].run(Order::Fail);
            }
            2 => crowd.peers[1].start(),
            _ => {}
        }
        Ok(())
    });
    let failing =
        || WorkRef::new(Peer::default()).on_error(OnError::Capture).placed("n".parse().expect("a place"));
    let app = start(move || vec![peer("m"), failing()], react);
    let app = app.expect_panic("as it was asked to");
    let address = joining(&app);
    let _nodes = ["m", "n"].map(|name| node(&address, name));
    all_reach_all(&app, 2);
    let (other, broken) = (app.work::<Peer>("peers.0"), app.work::<Peer>("peers.1"));
    let poke = |number| app.block_on(other.tell(Note(9, number))).expect("the Work runs");
    fail.store(1, Ordering::SeqCst);
    poke(1);
    app.wait_for_work("peers.1", |peer| peer.status.stage == Stage::Failed && !peer.is_up);
    let refused = app.block_on(broken.ask(Hello).timeout(LIMIT)).expect_err("the Work has failed");
    assert!(matches!(refused, AskError::NotHandled(SendError::Stopped { .. })), "{refused}");
    until("the word of it at the other node", || {
        let said = app.block_on(other.ask(Pass(7)).timeout(LIMIT)).expect("the Work answers");
        said.contains("has failed")
    });
    fail.store(2, Ordering::SeqCst);
    poke(2);
    app.wait_for_work("peers.1", |peer| peer.is_up);
    let received = app.block_on(broken.ask(Received).timeout(LIMIT)).expect("the Work runs again");
    assert!(
        !received.contains_key(&2) || !received[&2].contains(&7),
        "nothing of what was refused: {received:?}"
    );
}

/// Short-lived Works with unique names run on a node, each reached from another node: nothing is left of them there.
fn thousands_of_short_lived_works_leave_no_channels() {
    const ROUNDS: u32 = 40;
    const EACH: usize = 25;
    let round = Arc::new(AtomicU32::new(0));
    let wanted = round.clone();
    let mut made = 0;
    let react: React = Box::new(move |crowd| {
        let due = wanted.load(Ordering::SeqCst);
        if made < due {
            made = due;
            crowd.short = (0..EACH).map(|_| peer("n/pool")).collect();
        }
        if crowd.short.iter().all(|peer| peer.path().is_some()) {
            let known = crowd.short.iter().map(WorkRef::addr).collect();
            crowd.peers[0].run(Order::Know(known));
        }
        Ok(())
    });
    let latest = || {
        let mut one = peer("m");
        one = one.overlap(flowright::Overlap::Restart);
        vec![one, peer("thread")]
    };
    let app = start(latest, react);
    let address = joining(&app);
    let [_n, m] = ["n", "m"].map(|name| node(&address, name));
    let visitor = app.work::<Peer>("peers.0");
    let memory = |process: &Process| {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", process.id())).expect("the process runs");
        let line =
            status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the status has the memory");
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number")
    };
    let mut warm = 0;
    for number in 1..=ROUNDS {
        round.store(number, Ordering::SeqCst);
        let _ = app.block_on(visitor.tell(Note(9, number)));
        app.wait_for_state("peers.0.runs", |runs: &u32| *runs >= number);
        until(
            "all of them",
            || matches!(app.block_on(visitor.ask(Visit).timeout(LIMIT)), Ok(missed) if missed.is_empty()),
        );
        if number == ROUNDS / 2 {
            warm = memory(&m);
        }
    }
    let grown = memory(&m).saturating_sub(warm);
    assert!(grown < 4096, "{grown} KiB more for {} Works that have gone", EACH as u32 * ROUNDS / 2);
}

/// The first message from a node to a Work that is not running is refused, and not accepted and lost.
fn a_first_tell_to_a_stopped_work_comes_back() {
    let stopped = || WorkRef::new(Peer::default()).placed(Placement::Thread);
    let react: React = Box::new(|crowd| {
        if crowd.peers[1].path().is_some() {
            crowd.peers[1].stop();
            let addr = crowd.peers[1].addr();
            crowd.peers[0].run(Order::Know(vec![addr]));
        }
        Ok(())
    });
    let app = start(move || vec![peer("n"), stopped()], react);
    let _node = node(&joining(&app), "n");
    app.wait_for_state("peers.0.known", |known: &Vec<serde_json::Value>| known.len() == 1);
    app.wait_for_work("peers.1", |peer| !peer.is_up);
    let said =
        app.block_on(app.work::<Peer>("peers.0").ask(Pass(1)).timeout(LIMIT)).expect("the Work answers");
    assert!(said.contains("was stopped") || said.contains("has not started"), "{said}");
}
