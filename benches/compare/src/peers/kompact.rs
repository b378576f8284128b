//! kompact: components on its own pool, here of one thread; mailboxes are unbounded.
//!
//! Sends go through strong references, as its documentation recommends for loops.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use kompact::config_keys::system::THREADS;
use kompact::prelude::*;
use tokio::sync::oneshot;

use crate::support::{CHUNK, Finish, Growth, Spawned, Tally, WARM_UP, ns_each};

pub fn run(measure: &str, n: u64) -> Option<f64> {
    match measure {
        "tell-other-thread" => Some(tell_other_thread(n)),
        "tell-same-thread" => Some(tell_same_thread(n)),
        "ask-same-thread" => {
            let system = system();
            let asked = system.create(Asked::new);
            Some(ask(&system, &asked, n))
        }
        "ask-other-thread" => {
            let system = system();
            let asked = system.create_dedicated(Asked::new);
            Some(ask(&system, &asked, n))
        }
        "spawn" | "bytes-per-idle-actor" => spawn(n).figure(measure),
        _ => None,
    }
}

fn system() -> KompactSystem {
    let mut config = KompactConfig::default();
    config.set_config_value(&THREADS, 1);
    config.build().wait().expect("a system")
}

fn started(system: &KompactSystem, component: &Arc<impl kompact::component::AbstractComponent + ?Sized>) {
    system.start_notify(component).wait();
}

#[derive(ComponentDefinition)]
struct Sink {
    ctx: ComponentContext<Self>,
    sum: u64,
    finish: Finish,
}

ignore_lifecycle!(Sink);

impl Sink {
    fn new(finish: Finish) -> Self {
        Sink { ctx: ComponentContext::uninitialised(), sum: 0, finish }
    }
}

impl Actor for Sink {
    type Message = u64;

    fn receive_local(&mut self, value: u64) -> HandlerResult {
        self.sum = black_box(self.sum.wrapping_add(value));
        self.finish.one();
        Handled::OK
    }
}

/// The producer is this thread; the actor runs on the thread of the pool.
fn tell_other_thread(n: u64) -> f64 {
    let system = system();
    let (finish, done) = Finish::after(n);
    let sink = system.create(|| Sink::new(finish));
    started(&system, &sink);
    let sink = sink.actor_ref().hold().expect("the actor lives");
    let start = Instant::now();
    for value in 0..n {
        sink.tell(value);
    }
    ns_each(start, done.blocking_recv().expect("the actor lives"), n)
}

#[derive(Debug)]
struct More;

/// A component that sends a part of its messages each time it is scheduled.
#[derive(ComponentDefinition)]
struct Producer {
    ctx: ComponentContext<Self>,
    sink: ActorRefStrong<u64>,
    next: u64,
    end: u64,
    started: Option<oneshot::Sender<Instant>>,
}

ignore_lifecycle!(Producer);

/// A component handles 25 messages before it yields (the default), so that with this part size the producer yields
/// every `CHUNK` messages, as in the other systems.
const PART: u64 = CHUNK / 25;

impl Actor for Producer {
    type Message = More;

    fn receive_local(&mut self, _: More) -> HandlerResult {
        if let Some(started) = self.started.take() {
            let _ = started.send(Instant::now());
        }
        let end = self.end.min(self.next + PART);
        for value in self.next..end {
            self.sink.tell(value);
        }
        self.next = end;
        if end < self.end {
            self.ctx.actor_ref().tell(More);
        }
        Handled::OK
    }
}

/// Both components run on the single thread of the pool.
fn tell_same_thread(n: u64) -> f64 {
    let system = system();
    let (finish, done) = Finish::after(n);
    let sink = system.create(|| Sink::new(finish));
    started(&system, &sink);
    let (began, start) = oneshot::channel();
    let producer = system.create(|| Producer {
        ctx: ComponentContext::uninitialised(),
        sink: sink.actor_ref().hold().expect("the actor lives"),
        next: 0,
        end: n,
        started: Some(began),
    });
    started(&system, &producer);
    producer.actor_ref().tell(More);
    let start = start.blocking_recv().expect("the producer lives");
    ns_each(start, done.blocking_recv().expect("the actor lives"), n)
}

#[derive(ComponentDefinition)]
struct Asked {
    ctx: ComponentContext<Self>,
}

ignore_lifecycle!(Asked);

impl Asked {
    fn new() -> Self {
        Asked { ctx: ComponentContext::uninitialised() }
    }
}

impl Actor for Asked {
    type Message = Ask<u64, u64>;

    fn receive_local(&mut self, ask: Ask<u64, u64>) -> HandlerResult {
        let _ = ask.complete(|value| value + 1);
        Handled::OK
    }
}

/// The caller is a future on the single thread of the pool.
fn ask(system: &KompactSystem, asked: &Arc<Component<Asked>>, n: u64) -> f64 {
    started(system, asked);
    let actor = asked.actor_ref().hold().expect("the actor lives");
    let (tx, rx) = oneshot::channel();
    drop(system.spawn(async move {
        let mut start = Instant::now();
        for value in 0..WARM_UP + n {
            if value == WARM_UP {
                start = Instant::now();
            }
            assert_eq!(actor.ask_with(Ask::of(value)).await.expect("an answer"), value + 1);
        }
        let _ = tx.send(ns_each(start, Instant::now(), n));
    }));
    rx.blocking_recv().expect("the caller lives")
}

#[derive(ComponentDefinition)]
struct One {
    ctx: ComponentContext<Self>,
    tally: Arc<Tally>,
}

ignore_lifecycle!(One);

impl Actor for One {
    type Message = u64;

    fn receive_local(&mut self, value: u64) -> HandlerResult {
        black_box(value);
        self.tally.one();
        Handled::OK
    }
}

/// This thread creates the actors and the pool's thread runs them: two threads share the work of this measure, where
/// the other systems use one. After every `CHUNK` actors the creator waits for the pool, so that no backlog remains
/// in the resident set.
fn spawn(n: u64) -> Spawned {
    let system = system();
    let (tally, done) = Tally::after(n);
    let mut actors = Vec::with_capacity(n as usize);
    let growth = Growth::start();
    let start = Instant::now();
    for value in 0..n {
        let actor =
            system.create(|| One { ctx: ComponentContext::uninitialised(), tally: Arc::clone(&tally) });
        system.start(&actor);
        actor.actor_ref().tell(value);
        actors.push(actor);
        if value % CHUNK == CHUNK - 1 {
            while tally.left() > n - value - 1 {
                std::thread::yield_now();
            }
        }
    }
    let ns = ns_each(start, done.blocking_recv().expect("the actors live"), n);
    let bytes = growth.bytes_each(n);
    drop(actors);
    Spawned { ns, bytes }
}
