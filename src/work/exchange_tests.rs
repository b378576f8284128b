//! Random test of the exchanges with one Work, against a model: asks whose replies come at once, late, from elsewhere
//! or never, tells, watches and recipients, over the ends of incarnations.
//!
//! Futures are polled only when they were woken, so that a wake-up that is missing is found.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::CloseReason;
use super::{Mailbox, RoomQueue};
use crate::error::Result;
use crate::id::{ActorPath, AppId, WorkId};
use crate::payload::PayloadGuards;
use crate::runtime::Runtime;
use crate::state::Value;
use crate::work::abort::Abort;
use crate::work::actor::{IncarnationSpec, live};
use crate::work::deferred::{Deferred, ReplySender};
use crate::work::end::EndKind;
use crate::work::fencing_token::FencingToken;
use crate::work::gpus::Gpus;
use crate::work::message::{AskError, Handle};
use crate::work::outbox::{Outbox, ReadyQueue};
use crate::work::recipient::Recipient;
use crate::work::{Command, Work, WorkAddr, WorkContext};

#[cfg(test)]
thread_local! {
    static SCENE: RefCell<Scene> = RefCell::default();
    /// Number of live tokens.
    static TOKENS: Cell<i64> = const { Cell::new(0) };
}

/// Observations from outside of the Work.
#[derive(Default)]
struct Scene {
    /// Numbers of the messages whose handlers have begun.
    handled: Vec<u32>,
    /// Reply senders that handlers have moved elsewhere.
    elsewhere: VecDeque<(u32, ReplySender<Token>)>,
    /// Slow messages whose handlers may end.
    open: BTreeSet<u32>,
    waker: Option<Waker>,
}

fn scene<R>(with: impl FnOnce(&mut Scene) -> R) -> R {
    SCENE.with_borrow_mut(with)
}

/// A number that is counted while it lives.
#[derive(Serialize, Deserialize)]
#[serde(from = "u32", into = "u32")]
struct Token(u32);

impl From<u32> for Token {
    fn from(number: u32) -> Self {
        TOKENS.set(TOKENS.get() + 1);
        Self(number)
    }
}

impl From<Token> for u32 {
    fn from(token: Token) -> Self {
        token.0
    }
}

impl Clone for Token {
    fn clone(&self) -> Self {
        self.0.into()
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        TOKENS.set(TOKENS.get() - 1);
    }
}

/// A message whose handler replies at once.
#[derive(Serialize, Deserialize)]
struct Now(Token);

/// A message whose handler defers the reply.
#[derive(Serialize, Deserialize)]
struct Later(Token);

/// A message whose handler waits until it may end.
#[derive(Serialize, Deserialize)]
struct Slow(Token);

/// The action of the handler of a tell.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Deed {
    /// Sends the oldest reply that it keeps.
    Reply,
    /// Drops the sender of it.
    Drop,
    /// Moves the sender of it elsewhere.
    Move,
    Panic,
}

#[derive(Default, Serialize, Deserialize)]
struct Subject {
    #[serde(skip)]
    kept: VecDeque<(u32, ReplySender<Token>)>,
}

impl Work for Subject {
    type Input = ();
}

impl Handle<Now> for Subject {
    type Reply = Token;

    async fn handle(&mut self, Now(token): Now, _: &mut WorkContext<Self>) -> Token {
        scene(|scene| scene.handled.push(token.0));
        token
    }
}

impl Handle<Later> for Subject {
    type Reply = Deferred<Token>;

    async fn handle(&mut self, Later(token): Later, cx: &mut WorkContext<Self>) -> Deferred<Token> {
        scene(|scene| scene.handled.push(token.0));
        let (deferred, sender) = cx.defer();
        self.kept.push_back((token.0, sender));
        deferred
    }
}

impl Handle<Slow> for Subject {
    type Reply = Token;

    async fn handle(&mut self, Slow(token): Slow, _: &mut WorkContext<Self>) -> Token {
        scene(|scene| scene.handled.push(token.0));
        poll_fn(|cx| {
            scene(|scene| {
                scene.waker = Some(cx.waker().clone());
                if scene.open.contains(&token.0) { Poll::Ready(()) } else { Poll::Pending }
            })
        })
        .await;
        token
    }
}

impl Handle<Deed> for Subject {
    type Reply = ();

    async fn handle(&mut self, deed: Deed, _: &mut WorkContext<Self>) {
        if deed == Deed::Panic {
            // Without the message of a panic that nobody expects.
            std::panic::resume_unwind(Box::new("as it was told"));
        }
        let Some((number, sender)) = self.kept.pop_front() else { return };
        match deed {
            Deed::Reply => sender.send(number.into()),
            Deed::Move => scene(|scene| scene.elsewhere.push_back((number, sender))),
            Deed::Drop | Deed::Panic => drop(sender),
        }
    }
}

/// The outcome of an ask or a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Reply(u32),
    NotHandled,
    /// The handler began and did not complete.
    Failed,
    /// The deferred reply was dropped.
    Dropped,
    End(EndKind),
}

fn outcome<M, R>(answer: Result<R, AskError<M>>, number: impl FnOnce(R) -> u32) -> Outcome {
    match answer {
        Ok(reply) => Outcome::Reply(number(reply)),
        Err(AskError::NotHandled(_)) => Outcome::NotHandled,
        Err(error @ AskError::Failed { .. }) if error.is_handled() => Outcome::Dropped,
        Err(AskError::Failed { .. }) => Outcome::Failed,
        Err(error) => panic!("unexpected {error}"),
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Now,
    Later,
    Slow,
}

/// The type of address that a message is sent to.
#[derive(Debug, Clone, Copy)]
enum Way {
    Address,
    Recipient,
    /// A recipient whose type says nothing of the reply.
    Unit,
}

#[derive(Debug, Clone, Copy)]
enum Op {
    Ask(Kind, Way),
    Tell(Kind, Way),
    Do(Deed),
    Watch,
    /// Drops the future of an ask or a watch.
    GiveUp(usize),
    /// Has the incarnation execute, if it was woken.
    Turn,
    /// Lets the handler of the slow message in progress end.
    Open,
    /// Sends the oldest reply that was moved elsewhere, or drops it.
    Elsewhere {
        sends: bool,
    },
    Stop,
    /// Ends the incarnation by force.
    Kill,
    /// Gives an incarnation up that does not react, and begins the next one.
    Replace,
    /// Has an incarnation that was given up react.
    OldTurn,
    Close,
    /// Begins an incarnation, if there is none.
    Start,
}

fn op() -> impl Strategy<Value = Op> {
    let kind = || prop::sample::select(vec![Kind::Now, Kind::Later, Kind::Later, Kind::Slow]);
    let way = || prop::sample::select(vec![Way::Address, Way::Recipient, Way::Unit]);
    let deed = prop_oneof![
        4 => Just(Deed::Reply),
        2 => Just(Deed::Drop),
        3 => Just(Deed::Move),
        1 => Just(Deed::Panic),
    ];
    prop_oneof![
        12 => (kind(), way()).prop_map(|(kind, way)| Op::Ask(kind, way)),
        4 => (kind(), way()).prop_map(|(kind, way)| Op::Tell(kind, way)),
        6 => deed.prop_map(Op::Do),
        5 => Just(Op::Watch),
        4 => any::<usize>().prop_map(Op::GiveUp),
        12 => Just(Op::Turn),
        4 => Just(Op::Open),
        4 => any::<bool>().prop_map(|sends| Op::Elsewhere { sends }),
        1 => Just(Op::Stop),
        1 => Just(Op::Kill),
        1 => Just(Op::Replace),
        2 => Just(Op::OldTurn),
        1 => Just(Op::Close),
        4 => Just(Op::Start),
    ]
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A future that is polled only when it was woken.
struct Task<T> {
    future: LocalBoxFuture<'static, T>,
    woken: Arc<Woken>,
}

impl<T> Task<T> {
    fn new(future: impl Future<Output = T> + 'static) -> Self {
        Self { future: future.boxed_local(), woken: Arc::new(Woken(AtomicBool::new(true))) }
    }

    fn poll(&mut self) -> Option<T> {
        while self.woken.0.swap(false, Ordering::SeqCst) {
            let waker = Waker::from(self.woken.clone());
            if let Poll::Ready(result) = Pin::new(&mut self.future).poll(&mut Context::from_waker(&waker)) {
                return Some(result);
            }
        }
        None
    }
}

/// An ask or a watch.
struct Client {
    /// `None` once it is answered or has given up.
    task: Option<Task<Outcome>>,
    seen: Option<Outcome>,
    /// The outcome according to the model.
    expected: Option<Outcome>,
}

/// A message or watch in the queue, according to the model.
#[derive(Debug, Clone, Copy)]
struct Item {
    client: Option<usize>,
    what: What,
}

#[derive(Debug, Clone, Copy)]
enum What {
    Message(Kind, u32),
    Do(Deed),
    Watch,
}

/// A deferred reply, or one that a handler is to give: the client, and the number.
type Owed = (Option<usize>, u32);

/// An incarnation, with what the model knows of it.
struct Incarnation {
    task: Task<()>,
    abort: Arc<Abort>,
    kept: VecDeque<Owed>,
    slow: Option<Owed>,
    is_told_to_stop: bool,
}

struct Checked {
    runtime: Arc<Runtime>,
    mailbox: Arc<Mailbox<Subject>>,
    clients: Vec<Client>,
    current: Option<Incarnation>,
    old: VecDeque<Incarnation>,
    next: u32,
    // The model.
    is_closed: bool,
    queue: VecDeque<Item>,
    watches: Vec<usize>,
    elsewhere: VecDeque<Owed>,
    handled: Vec<u32>,
    open: BTreeSet<u32>,
    /// Clients that have given up.
    gone: BTreeSet<usize>,
}

impl Checked {
    fn new() -> Self {
        scene(|scene| *scene = Scene::default());
        TOKENS.set(0);
        Self {
            runtime: Arc::new(Runtime::new(AppId::next())),
            mailbox: Arc::new(Mailbox::new(1_000)),
            clients: Vec::new(),
            current: None,
            old: VecDeque::new(),
            next: 0,
            is_closed: true,
            queue: VecDeque::new(),
            watches: Vec::new(),
            elsewhere: VecDeque::new(),
            handled: Vec::new(),
            open: BTreeSet::new(),
            gone: BTreeSet::new(),
        }
    }

    fn addr(&self) -> WorkAddr<Subject> {
        WorkAddr::new(self.runtime.app(), ActorPath::from("subject"), self.mailbox.clone())
    }

    fn start(&mut self) {
        let (abort, ready_queue) = (Arc::<Abort>::default(), Arc::<ReadyQueue>::default());
        let incarnation = self.mailbox.open();
        let spec = Box::new(IncarnationSpec {
            runtime: self.runtime.clone(),
            path: ActorPath::from("subject"),
            state: Value::of(&Subject::default()).unwrap(),
            holds: PayloadGuards::default(),
            max_state_bytes: usize::MAX,
            mailbox: self.mailbox.clone(),
            incarnation,
            outbox: Arc::new(Outbox::new(WorkId(1), ready_queue)),
            abort: abort.clone(),
            gpus: Gpus::default(),
            token: FencingToken::numbered(incarnation),
        });
        self.current = Some(Incarnation {
            task: Task::new(live(spec)),
            abort,
            kept: VecDeque::new(),
            slow: None,
            is_told_to_stop: false,
        });
        self.is_closed = false;
        // Watches that waited are on this incarnation.
        self.watches = self
            .queue
            .iter()
            .filter(|item| matches!(item.what, What::Watch))
            .filter_map(|item| item.client)
            .collect();
        self.queue.retain(|item| !matches!(item.what, What::Watch));
    }

    fn expect(&mut self, client: Option<usize>, outcome: Outcome) {
        let Some(client) = client.filter(|client| !self.gone.contains(client)) else { return };
        let before = self.clients[client].expected.replace(outcome);
        assert_eq!(before, None, "the model answers once");
    }

    /// Ends the watches of the current incarnation.
    fn ended(&mut self, kind: EndKind) {
        for watch in std::mem::take(&mut self.watches) {
            self.expect(Some(watch), Outcome::End(kind));
        }
    }

    /// The end of an incarnation, of which nothing is left.
    fn leave_nothing(&mut self, incarnation: Incarnation) {
        let Incarnation { task, kept, slow, .. } = incarnation;
        drop(task);
        slow.into_iter().for_each(|(client, _)| self.expect(client, Outcome::Failed));
        kept.into_iter().for_each(|(client, _)| self.expect(client, Outcome::Dropped));
    }

    fn ask(&mut self, kind: Kind, way: Way) {
        let (number, addr) = (self.next, self.addr());
        self.next += 1;
        let token = Token::from(number);
        let of_token = |token: Token| token.0;
        let future = async move {
            match (kind, way) {
                (Kind::Now, Way::Address) => outcome(addr.ask(Now(token)).await, of_token),
                (Kind::Now, Way::Recipient) => {
                    outcome(addr.recipient::<Now>().ask(Now(token)).await, of_token)
                }
                (Kind::Now, Way::Unit) => {
                    outcome(Recipient::<Now>::from(addr).ask(Now(token)).await, |()| number)
                }
                (Kind::Later, Way::Address) => outcome(addr.ask(Later(token)).await, of_token),
                (Kind::Later, Way::Recipient) => {
                    outcome(addr.recipient::<Later>().ask(Later(token)).await, of_token)
                }
                (Kind::Later, Way::Unit) => {
                    outcome(Recipient::<Later>::from(addr).ask(Later(token)).await, |()| number)
                }
                (Kind::Slow, Way::Address) => outcome(addr.ask(Slow(token)).await, of_token),
                (Kind::Slow, Way::Recipient) => {
                    outcome(addr.recipient::<Slow>().ask(Slow(token)).await, of_token)
                }
                (Kind::Slow, Way::Unit) => {
                    outcome(Recipient::<Slow>::from(addr).ask(Slow(token)).await, |()| number)
                }
            }
        };
        let client = self.client(future);
        if self.is_closed {
            return self.expect(Some(client), Outcome::NotHandled);
        }
        self.queue.push_back(Item { client: Some(client), what: What::Message(kind, number) });
    }

    fn client(&mut self, future: impl Future<Output = Outcome> + 'static) -> usize {
        self.clients.push(Client { task: Some(Task::new(future)), seen: None, expected: None });
        let client = self.clients.len() - 1;
        self.look(client);
        client
    }

    fn tell(&mut self, kind: Kind, way: Way) {
        let (number, addr) = (self.next, self.addr());
        self.next += 1;
        let token = Token::from(number);
        let is_sent = match (kind, way) {
            (Kind::Now, Way::Address) => addr.try_tell(Now(token)).is_ok(),
            (Kind::Now, _) => Recipient::<Now>::from(addr).try_tell(Now(token)).is_ok(),
            (Kind::Later, Way::Address) => addr.try_tell(Later(token)).is_ok(),
            (Kind::Later, _) => addr.recipient::<Later>().try_tell(Later(token)).is_ok(),
            (Kind::Slow, Way::Address) => addr.try_tell(Slow(token)).is_ok(),
            (Kind::Slow, _) => {
                addr.recipient::<Slow>().tell(Slow(token)).now_or_never().is_some_and(|sent| sent.is_ok())
            }
        };
        assert_eq!(is_sent, !self.is_closed);
        if is_sent {
            self.queue.push_back(Item { client: None, what: What::Message(kind, number) });
        }
    }

    fn deed(&mut self, deed: Deed) {
        let is_sent = self.addr().try_tell(deed).is_ok();
        assert_eq!(is_sent, !self.is_closed);
        if is_sent {
            self.queue.push_back(Item { client: None, what: What::Do(deed) });
        }
    }

    fn watch(&mut self) {
        let addr = self.addr();
        let client = self.client(async move { Outcome::End(addr.watch().await.kind) });
        if self.is_closed {
            self.expect(Some(client), Outcome::End(EndKind::NotRunning));
        } else if self.current.is_some() {
            self.watches.push(client);
        } else {
            self.queue.push_back(Item { client: Some(client), what: What::Watch });
        }
    }

    fn give_up(&mut self, which: usize) {
        let waiting: Vec<_> =
            (0..self.clients.len()).filter(|client| self.clients[*client].task.is_some()).collect();
        if waiting.is_empty() {
            return;
        }
        let client = waiting[which % waiting.len()];
        self.clients[client].task = None;
        self.gone.insert(client);
        self.queue.retain(|item| item.client != Some(client));
        self.watches.retain(|watch| *watch != client);
    }

    /// Executes the current incarnation, in the model and in truth.
    fn turn(&mut self) {
        let Some(mut current) = self.current.take() else { return };
        let is_over = current.task.poll().is_some();
        let end = loop {
            if let Some((client, number)) = current.slow {
                if !self.open.contains(&number) {
                    break None;
                }
                current.slow = None;
                self.expect(client, Outcome::Reply(number));
            }
            if current.is_told_to_stop {
                break Some(EndKind::Stopped);
            }
            let Some(Item { client, what }) = self.queue.pop_front() else { break None };
            match what {
                What::Message(kind, number) => {
                    self.handled.push(number);
                    match kind {
                        Kind::Now => self.expect(client, Outcome::Reply(number)),
                        Kind::Later => current.kept.push_back((client, number)),
                        Kind::Slow => current.slow = Some((client, number)),
                    }
                }
                What::Do(Deed::Panic) => break Some(EndKind::Panicked),
                What::Do(deed) => match (deed, current.kept.pop_front()) {
                    (Deed::Reply, Some((client, number))) => self.expect(client, Outcome::Reply(number)),
                    (Deed::Move, Some(owed)) => self.elsewhere.push_back(owed),
                    (_, Some((client, _))) => self.expect(client, Outcome::Dropped),
                    (_, None) => {}
                },
                What::Watch => unreachable!("it is on an incarnation"),
            }
        };
        assert_eq!(is_over, end.is_some(), "the incarnation ends when the model does");
        match end {
            Some(kind) => {
                self.ended(kind);
                self.leave_nothing(current);
            }
            None => self.current = Some(current),
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Ask(kind, way) => self.ask(kind, way),
            Op::Tell(kind, way) => self.tell(kind, way),
            Op::Do(deed) => self.deed(deed),
            Op::Watch => self.watch(),
            Op::GiveUp(which) => self.give_up(which),
            Op::Turn => self.turn(),
            Op::Open => {
                let slow = self.current.as_ref().and_then(|current| current.slow);
                let Some((_, number)) = slow else { return };
                self.open.insert(number);
                let waker = scene(|scene| {
                    scene.open.insert(number);
                    scene.waker.take()
                });
                waker.into_iter().for_each(Waker::wake);
            }
            Op::Elsewhere { sends } => {
                let Some((number, sender)) = scene(|scene| scene.elsewhere.pop_front()) else { return };
                let (client, owed) = self.elsewhere.pop_front().expect("the model has it as well");
                assert_eq!(number, owed);
                let is_gone = client.is_some_and(|client| self.gone.contains(&client));
                assert_eq!(sender.caller_waits(), !is_gone);
                if sends {
                    sender.send(number.into());
                    self.expect(client, Outcome::Reply(number));
                } else {
                    drop(sender);
                    self.expect(client, Outcome::Dropped);
                }
            }
            Op::Stop => {
                let Some(current) = &mut self.current else { return };
                current.is_told_to_stop = true;
                self.mailbox.command(Command::Stop);
            }
            Op::Kill => {
                let Some(mut current) = self.current.take() else { return };
                current.abort.raise();
                assert!(current.task.poll().is_some(), "an incarnation that is ended by force ends");
                // It may not have begun to receive.
                self.mailbox.given_up(None);
                self.ended(EndKind::Killed);
                self.leave_nothing(current);
            }
            Op::Replace => {
                let Some(current) = self.current.take() else { return };
                current.abort.raise();
                self.mailbox.given_up(None);
                self.ended(EndKind::Killed);
                self.old.push_back(current);
                self.start();
            }
            Op::OldTurn => {
                let Some(mut old) = self.old.pop_front() else { return };
                assert!(old.task.poll().is_some(), "an incarnation that was given up ends");
                self.leave_nothing(old);
            }
            Op::Close => {
                self.mailbox.close(CloseReason::Stopped);
                self.is_closed = true;
                for Item { client, what } in std::mem::take(&mut self.queue) {
                    let outcome = match what {
                        What::Watch => Outcome::End(EndKind::NotRunning),
                        What::Message(..) | What::Do(_) => Outcome::NotHandled,
                    };
                    self.expect(client, outcome);
                }
            }
            Op::Start => {
                if self.current.is_none() {
                    self.start();
                }
            }
        }
    }

    fn look(&mut self, client: usize) {
        let Some(task) = &mut self.clients[client].task else { return };
        if let Some(outcome) = task.poll() {
            (self.clients[client].task, self.clients[client].seen) = (None, Some(outcome));
        }
    }

    /// Compares the outcomes with those of the model.
    fn check(&mut self) {
        for number in 0..self.clients.len() {
            self.look(number);
            let Client { seen, expected, .. } = &self.clients[number];
            assert_eq!(seen, expected, "client {number}");
        }
        assert_eq!(scene(|scene| scene.handled.clone()), self.handled);
        assert!(self.mailbox.depth() >= self.queue.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    /// Each ask and each watch that is not given up is answered once, with the outcome of the model, also over the ends
    /// of incarnations. No message is handled twice, and one that was given up before its handler began never is. In the
    /// end nothing is left: no message, no reply, no watch.
    #[test]
    fn each_ask_and_watch_is_answered_once(ops in prop::collection::vec(op(), 1..80)) {
        // An ask that waits has a timer.
        let timers = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _entered = timers.enter();
        let mut checked = Checked::new();
        checked.start();
        for op in ops {
            checked.apply(op);
            checked.check();
        }
        for op in [Op::Kill, Op::Close] {
            checked.apply(op);
            checked.check();
        }
        while !checked.old.is_empty() {
            checked.apply(Op::OldTurn);
            checked.check();
        }
        while !checked.elsewhere.is_empty() {
            checked.apply(Op::Elsewhere { sends: false });
            checked.check();
        }
        prop_assert!(checked.clients.iter().all(|client| client.task.is_none()), "somebody waits for ever");
        prop_assert_eq!(checked.mailbox.depth(), 0);
        let inner = checked.mailbox.inner.lock();
        let is_idle = |senders: &RoomQueue| senders.waiting.is_empty() && senders.granted.is_empty();
        prop_assert!(inner.watches.is_none() && inner.senders.as_deref().is_none_or(is_idle));
        drop(inner);
        prop_assert_eq!(Arc::strong_count(&checked.mailbox), 1);
        prop_assert_eq!(TOKENS.get(), 0);
    }
}
