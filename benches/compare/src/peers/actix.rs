//! actix: actors on arbiters, each arbiter a thread with a current-thread runtime.
//!
//! `do_send` never waits, whatever the capacity of the mailbox.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use actix::{Actor, Addr, Arbiter, Context, Handler, Message, System};

use crate::support::{CHUNK, Finish, Growth, Spawned, Tally, WARM_UP, ns_each};

pub fn run(measure: &str, n: u64) -> Option<f64> {
    match measure {
        "tell-other-thread" => Some(system(async move {
            let other = Arbiter::new();
            let (finish, done) = Finish::after(n);
            let sink = Sink::start_in_arbiter(&other.handle(), |_| Sink { sum: 0, finish });
            let start = Instant::now();
            // Sending needs no yield, because the actor runs on its own thread.
            for value in 0..n {
                sink.do_send(Tell(value));
            }
            ns_each(start, done.await.expect("the actor lives"), n)
        })),
        "tell-same-thread" => Some(system(async move {
            let (finish, done) = Finish::after(n);
            let sink = Sink { sum: 0, finish }.start();
            let start = Instant::now();
            for value in 0..n {
                sink.do_send(Tell(value));
                if value % CHUNK == CHUNK - 1 {
                    tokio::task::yield_now().await;
                }
            }
            ns_each(start, done.await.expect("the actor lives"), n)
        })),
        "ask-same-thread" => Some(system(async move { ask(Asked.start(), n).await })),
        "ask-other-thread" => Some(system(async move {
            let other = Arbiter::new();
            ask(Asked::start_in_arbiter(&other.handle(), |_| Asked), n).await
        })),
        "spawn" | "bytes-per-idle-actor" => system(spawn(n)).figure(measure),
        _ => None,
    }
}

/// Runs `main` as a spawned task on the system's own arbiter.
fn system<F>(main: F) -> F::Output
where
    F: Future + 'static,
{
    System::new().block_on(async { actix::spawn(main).await.expect("the task") })
}

struct Tell(u64);

impl Message for Tell {
    type Result = ();
}

struct Sink {
    sum: u64,
    finish: Finish,
}

impl Actor for Sink {
    type Context = Context<Self>;
}

impl Handler<Tell> for Sink {
    type Result = ();

    fn handle(&mut self, Tell(value): Tell, _: &mut Self::Context) {
        self.sum = black_box(self.sum.wrapping_add(value));
        self.finish.one();
    }
}

struct Ask(u64);

impl Message for Ask {
    type Result = u64;
}

struct Asked;

impl Actor for Asked {
    type Context = Context<Self>;
}

impl Handler<Ask> for Asked {
    type Result = u64;

    fn handle(&mut self, Ask(value): Ask, _: &mut Self::Context) -> u64 {
        value + 1
    }
}

async fn ask(actor: Addr<Asked>, n: u64) -> f64 {
    let mut start = Instant::now();
    for value in 0..WARM_UP + n {
        if value == WARM_UP {
            start = Instant::now();
        }
        assert_eq!(actor.send(Ask(value)).await.expect("an answer"), value + 1);
    }
    ns_each(start, Instant::now(), n)
}

struct One(Arc<Tally>);

impl Actor for One {
    type Context = Context<Self>;
}

impl Handler<Tell> for One {
    type Result = ();

    fn handle(&mut self, Tell(value): Tell, _: &mut Self::Context) {
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
        let actor = One(Arc::clone(&tally)).start();
        actor.do_send(Tell(value));
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
