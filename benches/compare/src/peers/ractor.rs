//! ractor: each actor a tokio task behind an unbounded mailbox, the only kind it has.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

use crate::support::{
    CHUNK, Finish, Growth, Spawned, Tally, WARM_UP, current_thread, ns_each, on_other_thread, spawned,
    two_workers,
};

/// Number of messages after which a producer yields. This is faster here than `CHUNK`, on one thread and on two
/// workers alike.
const RUN: u64 = 100;

pub fn run(measure: &str, n: u64) -> Option<f64> {
    match measure {
        "tell-other-thread" => Some(spawned(&two_workers(), tell(n))),
        "tell-same-thread" => Some(spawned(&current_thread(), tell(n))),
        "ask-same-thread" => Some(spawned(&current_thread(), async move { ask(asked().await, n).await })),
        "ask-other-thread" => {
            // `spawn` uses the runtime in whose context it is called.
            let actor = on_other_thread(asked);
            Some(spawned(&current_thread(), ask(actor, n)))
        }
        "spawn" | "bytes-per-idle-actor" => spawned(&current_thread(), spawn(n)).figure(measure),
        _ => None,
    }
}

struct Tell(u64);

struct Sink;

struct SinkState {
    sum: u64,
    finish: Finish,
}

impl Actor for Sink {
    type Msg = Tell;
    type State = SinkState;
    type Arguments = Finish;

    async fn pre_start(&self, _: ActorRef<Tell>, finish: Finish) -> Result<SinkState, ActorProcessingErr> {
        Ok(SinkState { sum: 0, finish })
    }

    async fn handle(
        &self,
        _: ActorRef<Tell>,
        Tell(value): Tell,
        state: &mut SinkState,
    ) -> Result<(), ActorProcessingErr> {
        state.sum = black_box(state.sum.wrapping_add(value));
        state.finish.one();
        Ok(())
    }
}

/// The producer is the spawned task that runs this function. A send never waits, so it yields at intervals: on one
/// thread the actor would not run otherwise, and on two workers it could stay in the LIFO slot of the producer's
/// worker, from which the other worker does not steal.
async fn tell(n: u64) -> f64 {
    let (finish, done) = Finish::after(n);
    let (sink, _) = Actor::spawn(None, Sink, finish).await.expect("an actor");
    let start = Instant::now();
    for value in 0..n {
        sink.cast(Tell(value)).expect("the actor lives");
        if value % RUN == RUN - 1 {
            tokio::task::yield_now().await;
        }
    }
    ns_each(start, done.await.expect("the actor lives"), n)
}

struct Ask(u64, RpcReplyPort<u64>);

struct Asked;

impl Actor for Asked {
    type Msg = Ask;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Ask>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<Ask>,
        Ask(value, reply): Ask,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        reply.send(value + 1)?;
        Ok(())
    }
}

async fn asked() -> ActorRef<Ask> {
    Actor::spawn(None, Asked, ()).await.expect("an actor").0
}

async fn ask(actor: ActorRef<Ask>, n: u64) -> f64 {
    let mut start = Instant::now();
    for value in 0..WARM_UP + n {
        if value == WARM_UP {
            start = Instant::now();
        }
        let answer = actor.call(|reply| Ask(value, reply), None).await.expect("the actor lives");
        assert_eq!(answer.expect("an answer"), value + 1);
    }
    ns_each(start, Instant::now(), n)
}

struct One(Arc<Tally>);

impl Actor for One {
    type Msg = Tell;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Tell>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<Tell>,
        Tell(value): Tell,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        black_box(value);
        self.0.one();
        Ok(())
    }
}

async fn spawn(n: u64) -> Spawned {
    let (tally, done) = Tally::after(n);
    let mut actors = Vec::with_capacity(n as usize);
    let growth = Growth::start();
    let start = Instant::now();
    for value in 0..n {
        let (actor, _) = Actor::spawn(None, One(Arc::clone(&tally)), ()).await.expect("an actor");
        actor.cast(Tell(value)).expect("the actor lives");
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
