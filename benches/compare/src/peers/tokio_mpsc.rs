//! Tasks over tokio's channels: a bounded mpsc as the mailbox, a oneshot as the reply.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use crate::support::{
    CHUNK, Finish, Growth, Spawned, Tally, WARM_UP, current_thread, ns_each, on_other_thread, spawned,
    two_workers,
};

const CAPACITY: usize = 1024;

pub fn run(measure: &str, n: u64) -> Option<f64> {
    match measure {
        "tell-other-thread" => Some(spawned(&two_workers(), tell(n))),
        "tell-same-thread" => Some(spawned(&current_thread(), tell(n))),
        "ask-same-thread" => Some(spawned(&current_thread(), async move { ask(asked(), n).await })),
        "ask-other-thread" => {
            let actor = on_other_thread(|| async { asked() });
            Some(spawned(&current_thread(), ask(actor, n)))
        }
        "spawn" | "bytes-per-idle-actor" => spawned(&current_thread(), spawn(n)).figure(measure),
        _ => None,
    }
}

/// The producer is the spawned task that runs this function; the actor is another task.
async fn tell(n: u64) -> f64 {
    let (mut finish, done) = Finish::after(n);
    let (tx, mut rx) = mpsc::channel::<u64>(CAPACITY);
    tokio::spawn(async move {
        let mut sum = 0u64;
        while let Some(value) = rx.recv().await {
            sum = black_box(sum.wrapping_add(value));
            finish.one();
        }
    });
    let start = Instant::now();
    for value in 0..n {
        tx.send(value).await.expect("the actor lives");
    }
    ns_each(start, done.await.expect("the actor lives"), n)
}

struct Ask {
    value: u64,
    reply: oneshot::Sender<u64>,
}

fn asked() -> mpsc::Sender<Ask> {
    let (tx, mut rx) = mpsc::channel::<Ask>(CAPACITY);
    tokio::spawn(async move {
        while let Some(Ask { value, reply }) = rx.recv().await {
            let _ = reply.send(value + 1);
        }
    });
    tx
}

async fn ask(actor: mpsc::Sender<Ask>, n: u64) -> f64 {
    let mut start = Instant::now();
    for value in 0..WARM_UP + n {
        if value == WARM_UP {
            start = Instant::now();
        }
        let (reply, answer) = oneshot::channel();
        actor.send(Ask { value, reply }).await.expect("the actor lives");
        assert_eq!(answer.await.expect("an answer"), value + 1);
    }
    ns_each(start, Instant::now(), n)
}

async fn spawn(n: u64) -> Spawned {
    let (tally, done) = Tally::after(n);
    let mut actors = Vec::with_capacity(n as usize);
    let growth = Growth::start();
    let start = Instant::now();
    for value in 0..n {
        let (tx, mut rx) = mpsc::channel::<u64>(CAPACITY);
        let tally = Arc::clone(&tally);
        tokio::spawn(async move {
            while let Some(value) = rx.recv().await {
                black_box(value);
                tally.one();
            }
        });
        tx.send(value).await.expect("the actor lives");
        actors.push(tx);
        if value % CHUNK == CHUNK - 1 {
            tokio::task::yield_now().await;
        }
    }
    let ns = ns_each(start, done.await.expect("the actors live"), n);
    let bytes = growth.bytes_each(n);
    drop(actors);
    Spawned { ns, bytes }
}
