//! kameo: each actor a tokio task behind a bounded mailbox of 64, its default.

use std::convert::Infallible;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use kameo::prelude::{Actor, ActorRef, Context, Message, Spawn};

use crate::support::{
    CHUNK, Finish, Growth, Spawned, Tally, WARM_UP, current_thread, ns_each, on_other_thread, spawned,
    two_workers,
};

pub fn run(measure: &str, n: u64) -> Option<f64> {
    match measure {
        "tell-other-thread" => Some(spawned(&two_workers(), tell(n))),
        "tell-same-thread" => Some(spawned(&current_thread(), tell(n))),
        "ask-same-thread" => {
            Some(spawned(&current_thread(), async move { ask(Asked::spawn(Asked), n).await }))
        }
        "ask-other-thread" => {
            // `spawn` uses the runtime in whose context it is called.
            let actor = on_other_thread(|| async { Asked::spawn(Asked) });
            Some(spawned(&current_thread(), ask(actor, n)))
        }
        "spawn" | "bytes-per-idle-actor" => spawned(&current_thread(), spawn(n)).figure(measure),
        _ => None,
    }
}

struct Tell(u64);

struct Sink {
    sum: u64,
    finish: Finish,
}

impl Actor for Sink {
    type Args = Self;
    type Error = Infallible;

    async fn on_start(args: Self, _: ActorRef<Self>) -> Result<Self, Infallible> {
        Ok(args)
    }
}

impl Message<Tell> for Sink {
    type Reply = ();

    async fn handle(&mut self, Tell(value): Tell, _: &mut Context<Self, ()>) {
        self.sum = black_box(self.sum.wrapping_add(value));
        self.finish.one();
    }
}

/// The producer is the spawned task that runs this function; it waits while the mailbox is full.
async fn tell(n: u64) -> f64 {
    let (finish, done) = Finish::after(n);
    let sink = Sink::spawn(Sink { sum: 0, finish });
    let start = Instant::now();
    for value in 0..n {
        sink.tell(Tell(value)).send().await.expect("the actor lives");
    }
    ns_each(start, done.await.expect("the actor lives"), n)
}

struct Ask(u64);

struct Asked;

impl Actor for Asked {
    type Args = Self;
    type Error = Infallible;

    async fn on_start(args: Self, _: ActorRef<Self>) -> Result<Self, Infallible> {
        Ok(args)
    }
}

impl Message<Ask> for Asked {
    type Reply = u64;

    async fn handle(&mut self, Ask(value): Ask, _: &mut Context<Self, u64>) -> u64 {
        value + 1
    }
}

async fn ask(actor: ActorRef<Asked>, n: u64) -> f64 {
    let mut start = Instant::now();
    for value in 0..WARM_UP + n {
        if value == WARM_UP {
            start = Instant::now();
        }
        assert_eq!(actor.ask(Ask(value)).send().await.expect("an answer"), value + 1);
    }
    ns_each(start, Instant::now(), n)
}

struct One(Arc<Tally>);

impl Actor for One {
    type Args = Self;
    type Error = Infallible;

    async fn on_start(args: Self, _: ActorRef<Self>) -> Result<Self, Infallible> {
        Ok(args)
    }
}

impl Message<Tell> for One {
    type Reply = ();

    async fn handle(&mut self, Tell(value): Tell, _: &mut Context<Self, ()>) {
        black_box(value);
        self.0.one();
    }
}

async fn spawn(n: u64) -> Spawned {
    let (tally, done) = Tally::after(n);
    let mut actors = Vec::with_capacity(n as usize);
    let growth = Growth::start();
    let start = Instant::now();
    for value in 0..n {
        let actor = One::spawn(One(Arc::clone(&tally)));
        actor.tell(Tell(value)).send().await.expect("the actor lives");
        actors.push(actor);
        if value % CHUNK == CHUNK - 1 {
            tokio::task::yield_now().await;
        }
    }
    let ns = ns_each(start, done.await.expect("the actors live"), n);
    let bytes = growth.bytes_each(n);
    drop(actors);
    Spawned { ns, bytes }
}
